# SPDX-License-Identifier: Apache-2.0
"""Value iteration with a generative model: what averaging does to noise."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from experiments.stages.mirror_descent import worlds
from jaxalign.exact import mdp as tables
from jaxalign.rl import mirror_descent

ALPHAS = (0.0, 0.9, 1.0)


def _errors(
  key: jax.Array,
  mdp: tables.TabularMDP,
  alpha: jax.Array,
  best: jax.Array,
  *,
  num_samples: int | None,
  iterations: int,
) -> jax.Array:
  """`max_s |w_K / A_K - V*|` for K = 1 to `iterations`."""

  def iterate(state, step):
    state = mirror_descent.mdvi_step(
      jax.random.fold_in(key, step),
      mdp,
      state,
      num_samples=num_samples,
      alpha=alpha,
    )
    return state, jnp.max(jnp.abs(state.best / state.weight - best))

  start = mirror_descent.mdvi_init(mdp)
  return jax.lax.scan(iterate, start, jnp.arange(iterations))[1]


@functools.partial(jax.jit, static_argnames=("num_samples", "iterations"))
def run(
  keys: jax.Array,
  mdp: tables.TabularMDP,
  best: jax.Array,
  *,
  num_samples: int | None,
  iterations: int,
) -> jax.Array:
  """Errors `[ALPHAS, keys, iterations]`; all alphas see the same draws."""

  def errors(alpha, key):
    return _errors(
      key, mdp, alpha, best, num_samples=num_samples, iterations=iterations
    )

  over_keys = jax.vmap(errors, (None, 0))
  return jax.vmap(over_keys, (0, None))(jnp.array(ALPHAS), keys)


def constant() -> float:
  """The limit of K times the error with exact transitions and alpha = 1.

  The scores add up to `s_K = K r + g P w_{K-1}`; so `w_K = K V* - C` with
  `C = g P* (V* + C)`, P* being the optimal policy's transitions: C is the value
  of that policy for the rewards `g P V*`.
  """
  mdp, best = worlds.draw(0), worlds.optimum()
  policy = np.eye(worlds.ACTIONS)[best.greedy]
  ahead = mdp.discount * mdp.transitions @ best.values
  return worlds.value_of(mdp._replace(rewards=ahead), policy).max()


def shown(iterations: int) -> list[int]:
  """The K of the tables: 200, 800, ..., a factor of 4 apart."""
  count = int(math.log(iterations / 200, 4) + 1e-9)
  return [200 * 4**i for i in range(count + 1)]


def slope(errors: np.ndarray) -> float:
  """Log-log slope from K = 200 to the end, of means over `(3K/4, K]`."""
  first, last = 200, errors.shape[-1]
  ends = [errors[:, 3 * k // 4 : k].mean() for k in (first, last)]
  return math.log(ends[1] / ends[0]) / math.log(last / first)


def mdvi(*, key: jax.Array, num_runs: int, iterations: int) -> harness.Part:
  """Claims on rates.

  Args:
    key: of the samples.
    num_runs: independent runs.
    iterations: K of the last, at least 800.
  """
  world = worlds.draw(0), worlds.optimum().values
  keys = jax.random.split(key, num_runs)
  errors = np.asarray(run(keys, *world, num_samples=1, iterations=iterations))
  exact = run(
    keys[:1], *world, num_samples=None, iterations=max(iterations, 3200)
  )
  exact = np.asarray(exact)[-1, 0]
  at = np.array((200, 800, 3200))
  forgets, remembers, averages = errors
  claims = [
    harness.all_agree(
      "mdvi_exact_rate",
      "exact transitions, alpha = 1: K times the error at K = 200, 800 and 3200"
      " less its limit, over the limit",
      [at * exact[at - 1] / constant() - 1],
      # At K = 200 the start still shows: .9^200 is 7e-10.
      tolerance=1e-8,
    ),
    harness.Claim(
      name="mdvi_sampled_rate",
      statement="one sample a pair, alpha = 1: the error's log-log slope in K",
      theory=-0.7,
      measured=slope(averages),
      tolerance=0.0,
      relation="<=",
    ),
    harness.Claim(
      name="mdvi_without_memory",
      statement="one sample a pair, alpha = 0: the error's log-log slope in K",
      theory=0.0,
      measured=slope(forgets),
      # The 5 standard errors of few runs, whose errors last some iterations.
      tolerance=0.1,
    ),
    harness.Claim(
      name="mdvi_some_memory",
      statement="one sample a pair, alpha = .9: the error at the end over that"
      " of alpha = 0",
      theory=1.0,
      measured=_late(remembers) / _late(forgets),
      tolerance=0.0,
      relation="<=",
    ),
    harness.Claim(
      name="mdvi_floor",
      statement="one sample a pair, alpha = .9: the error's log-log slope in K",
      theory=0.0,
      measured=slope(remembers),
      tolerance=0.1,
    ),
  ]
  names = [*(f"sampled, alpha = {a:g}" for a in ALPHAS), "exact, alpha = 1"]
  rows = [{"transitions": name} for name in names]
  for k in shown(iterations):
    found = [*errors[:, :, k - 1].mean(1), exact[k - 1]]
    for row, error in zip(rows, found, strict=True):
      row[f"K = {k}"] = float(error)
  kept = np.unique(np.geomspace(1, iterations, 120).astype(int))
  curves = {
    "mdvi/iterations": kept,
    "mdvi/errors": errors[:, :, kept - 1],
    "mdvi/exact": exact[kept - 1],
    "mdvi/constant": np.array(constant()),
  }
  return harness.Part(claims, curves, {"MDVI, error of w_K / A_K": rows})


def _late(errors: np.ndarray) -> float:
  """The mean over the last quarter."""
  return errors[:, 3 * errors.shape[-1] // 4 :].mean()


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """The errors over the iterations."""
  figure, (axes,) = plotting.figure(width=5.4)
  for i, (alpha, errors) in enumerate(
    zip(ALPHAS, curves["mdvi/errors"], strict=True)
  ):
    label = f"one sample a pair, alpha = {alpha:g}"
    plotting.band(axes, curves["mdvi/iterations"], errors, label, color=f"C{i}")
  k = curves["mdvi/iterations"]
  axes.plot(k, curves["mdvi/exact"], "C3", label="exact, alpha = 1")
  limit = curves["mdvi/constant"] / k
  axes.plot(k, limit, "k:", label=f"{curves['mdvi/constant']:.1f} / K")
  plotting.log_scale(axes, "x", "y")
  axes.set(
    xlabel="iterations K",
    ylabel="largest error of the values",
    title="MDVI: averaging removes the noise",
    ylim=(3e-3, 30),
  )
  axes.legend()
  return figure
