# SPDX-License-Identifier: Apache-2.0
"""What regularised optima keep of the base, at equal success in training.

The reward of a strategy is the share of the training problems that it solves.
Each divergence's weight is chosen so that the optimum solves a given share of
them with one sample; held-out problems tell what has been kept.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness, plotting
from experiments.stages.diversity import penalties
from jaxalign import divergences, evaluation
from jaxalign.exact import bandit

TARGET, SAMPLES = 0.5, 256
KS = (1, 4, 16, 64, 256, 1024)
WEIGHTS = (1e-3, 10.0)  # a bracket, in units of the reward
STRENGTHS = np.geomspace(0.02, 2.0, 25)  # weights times f''(1)


class Optimum(NamedTuple):
  """What optima are like.

  Attributes:
    eta: `[...]`, weight of the divergence as it stands in the library.
    train: `[...]`, pass@1 of the problems trained on.
    held_out: `[..., len(KS)]`, pass@k of the others.
    ratio: `[...]`, the smallest share that a strategy keeps of its probability.
    kept: `[...]`, share of held-out solutions that keep half of it.
    number: `[...]`, effective number of strategies.
    distinct: `[...]`, expected number of distinct solutions of a held-out
      problem in 256 samples.
  """

  eta: jax.Array
  train: jax.Array
  held_out: jax.Array
  ratio: jax.Array
  kept: jax.Array
  number: jax.Array
  distinct: jax.Array


def _rewards(world: bandit.SharedBandit) -> jax.Array:
  return jnp.mean(world.train.astype(world.base_log_probs.dtype), 0)


def _describe(world, eta, log_pi) -> Optimum:
  base = world.base_log_probs

  def of_problem(correct):
    kept = evaluation.kept_answers(log_pi, base, correct)
    number = evaluation.expected_distinct_correct(
      log_pi, correct, num_samples=SAMPLES
    )
    return kept.kept / kept.total, number

  kept, distinct = jax.vmap(of_problem)(world.held_out)
  rates = bandit.solve_rates(log_pi, world.held_out)
  held_out = [jnp.mean(evaluation.success_at_k(rates, k=k)) for k in KS]
  return Optimum(
    eta,
    jnp.mean(bandit.solve_rates(log_pi, world.train)),
    jnp.stack(held_out),
    evaluation.smallest_ratio(log_pi, base),
    jnp.mean(kept),
    evaluation.effective_number(log_pi),
    jnp.mean(distinct),
  )


@jax.jit
def policies(worlds: bandit.SharedBandit, etas: jax.Array) -> jax.Array:
  """Optima `[P, L, V]` of all penalties in L worlds at weights `[P, L]`."""

  def optimum(div, world, eta):
    return divergences.regularized_maximizer(
      div, _rewards(world), world.base_log_probs, eta, num_steps=60
    )

  found = [
    jax.vmap(functools.partial(optimum, div))(worlds, row)
    for div, row in zip(penalties.PENALTIES.values(), etas, strict=True)
  ]
  return jnp.stack(found)


@jax.jit
def describe(worlds, etas: jax.Array, log_pis: jax.Array) -> Optimum:
  """What the optima `[P, L]` are like."""
  return jax.vmap(jax.vmap(_describe), (None, 0, 0))(worlds, etas, log_pis)


def matching_weights(
  worlds: bandit.SharedBandit, targets: np.ndarray, given: np.ndarray
) -> np.ndarray:
  """Weights `[P, L]` at which optima solve the targets `[L]`, by bisection.

  Where the target is NaN the weight is the given one `[P, L]`. Not in one
  program: compiling the loop would take longer than running it.
  """
  rewards = worlds.train.mean(1)
  low, high = (np.where(np.isnan(targets), given, x) for x in WEIGHTS)
  for _ in range(60):
    middle = np.sqrt(low * high)
    solved = np.sum(np.exp(policies(worlds, middle)) * rewards, -1)
    low = np.where(solved > targets, middle, low)
    high = np.where(solved <= targets, middle, high)
  return np.sqrt(low * high)


def halfway(world: bandit.SharedBandit) -> float:
  """Between the base's success and that of the best strategy alone."""
  rewards = np.asarray(world.train).mean(0)
  base = np.exp(np.asarray(world.base_log_probs)) @ rewards
  return (base + rewards.max()) / 2


def optima(*, seed: int, num_worlds: int) -> harness.Part:
  """Claims on the order of the divergences.

  Args:
    seed: of the first of the other worlds, less one.
    num_worlds: how many other worlds.
  """
  first = 1 + seed * num_worlds
  others = [
    bandit.shared_strategies(s) for s in range(first, first + num_worlds)
  ]
  own = bandit.shared_strategies(0)
  worlds = [own, *others]
  size = len(worlds)
  targets = np.array([TARGET, *map(halfway, others)])
  # First a matched optimum in each world, then all weights in the first.
  lanes = jax.tree.map(lambda *x: np.stack(x), *worlds, *[own] * len(STRENGTHS))
  curvatures = np.array(list(penalties.curvatures().values()))
  given = STRENGTHS / curvatures[:, None]
  etas = matching_weights(
    lanes,
    np.append(targets, np.full(len(STRENGTHS), np.nan)),
    np.pad(given, ((0, 0), (size, 0)), constant_values=np.nan),
  )
  found = describe(lanes, etas, policies(lanes, etas))
  found = jax.tree.map(np.asarray, found)
  many = found.held_out[..., KS.index(256)]
  curves = {
    "names": np.array(list(penalties.PENALTIES)),
    "ks": np.array(KS),
    "held_out": found.held_out[:, 0],
    "frontier/train": found.train[:, size:],
    "frontier/held_out": many[:, size:],
  }
  return harness.Part(
    _claims(found, targets),
    {f"optima/{name}": x for name, x in curves.items()},
    {
      f"optima, each with train pass@1 of {TARGET}": _rows(found),
      "optima, share of other worlds and mean held-out pass@256": _other_worlds(
        found, size
      ),
    },
  )


def _claims(found: Optimum, targets: np.ndarray) -> list[harness.Claim]:
  size = targets.size
  many = found.held_out[..., KS.index(256)]
  here, others = many[:, 0], many[:, 1:size]
  ratios = found.ratio[:, 0]
  return [
    harness.all_agree(
      "optima_matched",
      "each optimum: train pass@1 less what it was to be",
      [found.train[:, :size] - targets],
      tolerance=1e-9,
    ),
    harness.Claim(
      name="optima_order",
      statement="held-out pass@256 rises from reverse KL over alpha = .2, .5"
      " and JS to forward KL: smallest step",
      theory=0.0,
      measured=np.diff(here).min(),
      tolerance=0.0,
      relation=">=",
    ),
    harness.Claim(
      name="optima_ratio",
      statement="what is left of the strategy that lost most: forward KL less"
      " the largest of the others",
      theory=0.0,
      measured=ratios[-1] - ratios[:-1].max(),
      tolerance=0.0,
      relation=">=",
    ),
    harness.Claim(
      name="optima_worlds",
      statement="other worlds, success halfway to the most: held-out pass@256"
      " of forward KL less that of reverse KL, mean",
      theory=0.0,
      measured=np.mean(others[-1] - others[0]),
      tolerance=0.0,
      relation=">=",
      interval=harness.confidence_interval(others[-1] - others[0]),
    ),
  ]


def _other_worlds(found: Optimum, size: int) -> list[dict]:
  """How often each divergence keeps the most, and the least, elsewhere."""
  many = found.held_out[:, 1:size, KS.index(256)]
  places = np.arange(len(many))[:, None]
  return harness.rows(
    divergence=list(penalties.PENALTIES),
    keeps_the_most=np.mean(places == many.argmax(0), -1),
    keeps_the_least=np.mean(places == many.argmin(0), -1),
    mean=np.mean(many, -1).round(4),
  )


def _rows(found: Optimum) -> list[dict]:
  names = list(penalties.PENALTIES)
  first = jax.tree.map(lambda x: x[:, 0], found)
  slopes = jax.jit(evaluation.pass_at_k_slope)(first.held_out, np.array(KS))
  columns = {
    "eta": first.eta / [penalties.TIMES[name] for name in names],
    "@64": first.held_out[:, KS.index(64)],
    "@256": first.held_out[:, KS.index(256)],
    "slope": np.asarray(slopes),
    "min pi/ref": first.ratio,
    "kept half": first.kept,
    "number": first.number,
    "distinct": first.distinct,
  }
  columns = {key: np.round(x, 4) for key, x in columns.items()}
  return harness.rows(divergence=names, **columns)


def plot(left: Axes, right: Axes, curves: dict[str, np.ndarray]) -> None:
  """Pass@k of the optima, and all weights' optima."""
  for i, name in enumerate(curves["optima/names"]):
    style = plotting.line_style(i)
    left.plot(
      curves["optima/ks"], curves["optima/held_out"][i], label=name, **style
    )
    right.plot(
      curves["optima/frontier/train"][i],
      curves["optima/frontier/held_out"][i],
      **style,
    )
  plotting.log_scale(left, "x")
  left.set(
    xlabel="k",
    ylabel="held-out pass@k",
    title=f"Optima of train pass@1 = {TARGET}",
  )
  left.legend()
  right.axvline(TARGET, color="k", linestyle=":", linewidth=1)
  right.set(
    xlabel="train pass@1",
    ylabel="held-out pass@256",
    title="Optima of all weights",
  )
