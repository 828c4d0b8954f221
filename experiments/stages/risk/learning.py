# SPDX-License-Identifier: Apache-2.0
"""Learning certainty equivalents from samples: one loss against the other.

A chain on two islands, one with rewards around 1 and one around -1, which it
seldom leaves; values at every time and state are learned by stochastic gradient
descent on targets that bootstrap, undiscounted. The values are far apart, and
so are the scales of the exponential squared error's gradients: no rate serves
all of them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness, plotting
from experiments.stages.risk import worlds
from jaxalign.exact import mdp as processes
from jaxalign.rl import risk

LEVEL, HORIZON, NUM_SAMPLES = 0.7, 5, 8
RATES = tuple(10.0 ** (-k / 2) for k in range(9))
FAST, SHIFTED_RATE = 2, 4  # the rates .1 and .01
SHIFT = 2.0
LOSSES = ("Itakura-Saito", "exponential squared")
EVERY = 10


def _losses(values: jax.Array, targets: jax.Array) -> tuple:
  return (
    risk.itakura_saito_loss(values, targets, level=LEVEL),
    risk.exponential_mse_loss(values, targets, level=LEVEL),
  )


def exact_values(mdps: processes.TabularMDP) -> np.ndarray:
  """Certainty equivalents `[seeds, H, S]`, from the last reward back."""
  moves, rewards = mdps.transitions[:, :, 0], np.asarray(mdps.rewards[..., 0])
  values, after = [], np.zeros_like(rewards)
  for _ in range(HORIZON):
    utilities = np.einsum("nij,nj->ni", moves, np.exp(-LEVEL * after))
    after = rewards - np.log(utilities) / LEVEL
    values.append(after)
  return np.stack(values[::-1], 1)


def draws(seeds: range, num_updates: int) -> np.ndarray:
  """Uniform numbers `[seeds, updates, samples, H, S]`, of the next states."""
  shape = (num_updates, NUM_SAMPLES, HORIZON, 2 * worlds.ISLAND)
  return np.stack([np.random.default_rng(s).random(shape) for s in seeds])


def arms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Which loss, which rate, which shift: every rate, and one shifted."""
  rates = [*RATES, RATES[SHIFTED_RATE]]
  shifts = [0.0] * len(RATES) + [SHIFT]
  pairs = [
    (i, r, c) for i in (0, 1) for r, c in zip(rates, shifts, strict=True)
  ]
  kinds, rates, shifts = zip(*pairs, strict=True)
  return np.array(kinds), np.array(rates), np.array(shifts)


def _learn(kind, rate, shift, mdp, exact, numbers) -> jax.Array:
  """Errors `[updates]` of values that start at the shift.

  The return is raised by the shift, at its end; hence so are all values.
  """
  exact = exact + shift
  cumulative = jnp.cumsum(mdp.transitions[:, 0], -1)

  def update(values, uniform):
    after = jnp.concatenate([values[1:], jnp.full_like(values[:1], shift)])
    drawn = jnp.sum(uniform[..., None] > cumulative[:, :-1], -1)
    times = jnp.arange(HORIZON)[:, None]
    targets = mdp.rewards[:, 0] + after[times, drawn]

    def mean_losses(values):
      predicted = jnp.broadcast_to(values, targets.shape)
      return [jnp.mean(loss, 0).sum() for loss in _losses(predicted, targets)]

    # Row i of the Jacobian is the gradient of loss i.
    ours, other = jax.jacrev(mean_losses)(values)
    new = values - rate * jnp.where(kind == 0, ours, other)
    return new, jnp.sqrt(jnp.mean((new - exact) ** 2))

  return jax.lax.scan(update, jnp.full_like(exact, shift), numbers)[1]


@jax.jit
def run(
  mdps: processes.TabularMDP, exact: jax.Array, numbers: jax.Array
) -> jax.Array:
  """Root mean squared errors `[arms, seeds, updates]`."""
  by_seed = jax.vmap(_learn, (None, None, None, 0, 0, 0))
  by_arm = jax.vmap(by_seed, (0, 0, 0, None, None, None))
  return by_arm(*map(jnp.asarray, arms()), mdps, exact, numbers)


@jax.jit
def curvatures(mdps: processes.TabularMDP, exact: jax.Array) -> list:
  """Both expected losses' second derivatives at the values `[seeds, H, S]`."""
  after = jnp.concatenate([exact[:, 1:], jnp.zeros_like(exact[:, :1])], 1)
  # [seeds, H, S, next state]
  targets = mdps.rewards[:, None] + after[:, :, None, :]
  values = jnp.broadcast_to(exact[..., None], targets.shape)
  ones = jnp.ones_like(values)

  def slope(values):
    return jax.jvp(lambda v: _losses(v, targets), (values,), (ones,))[1]

  each = jax.jvp(slope, (values,), (ones,))[1]
  probs = mdps.transitions[:, None, :, 0]
  return [jnp.sum(probs * bend, -1) for bend in each]


def final_errors(errors: np.ndarray) -> np.ndarray:
  """Mean error of the last fifth of updates `[...]`; inf where it is not."""
  tail = errors[..., -(errors.shape[-1] // 5) :].mean(-1)
  return np.where(np.isfinite(tail), tail, np.inf)


def _claims(
  errors: np.ndarray, values: np.ndarray, bends: list
) -> list[harness.Claim]:
  ours, other = np.split(errors, 2)
  last_ours, last_other = (final_errors(x[:-1]) for x in (ours, other))
  bend_ours, bend_other = bends
  start = np.sqrt(np.mean(values**2, (1, 2)))  # all values start at 0
  return [
    harness.all_agree(
      "curvature",
      "curvature of the expected loss at the certainty equivalents, relative"
      " to 1 (Itakura-Saito) and to exp(-2 a V) (exponential squared)",
      [bend_ours - 1, bend_other * np.exp(2 * LEVEL * values) - 1],
      tolerance=1e-9,
    ),
    harness.Claim(
      name="learning_best",
      statement="sampled Bellman problem, each loss at the best of nine rates:"
      " Itakura-Saito's final error over the other's, largest of all problems",
      theory=1.0,
      measured=harness.largest(last_ours.min(0) / last_other.min(0)),
      tolerance=0.0,
      relation="<=",
    ),
    harness.Claim(
      name="learning_stable",
      statement="at the rate .1 Itakura-Saito ends nearer than it started:"
      " final over initial error, largest of all problems",
      theory=1.0,
      measured=harness.largest(last_ours[FAST] / start),
      tolerance=0.0,
      relation="<=",
    ),
    harness.Claim(
      name="learning_limit",
      statement="the rate .1 exceeds 2 exp(2 a V), up to which descent on the"
      " exponential squared error is stable, at the lowest values: largest"
      " limit of all problems",
      theory=RATES[FAST],
      measured=harness.largest(2 / bend_other.max((1, 2))),
      tolerance=0.0,
      relation="<=",
    ),
    harness.Claim(
      name="learning_unstable",
      statement="at the rate .1 the exponential squared error ends further away"
      " than it started: final over initial error, smallest of all problems",
      theory=1.0,
      measured=np.min(last_other[FAST] / start),
      tolerance=0.0,
      relation=">=",
    ),
    harness.all_agree(
      "learning_shift",
      "Itakura-Saito's errors on the way do not change when all values are"
      " raised by 2",
      [ours[-1] - ours[SHIFTED_RATE]],
      # Roundings of values and targets, over all updates.
      tolerance=1e-8,
    ),
  ]


def learning(*, seeds: range, num_updates: int) -> harness.Part:
  """Claims on which loss learns.

  Args:
    seeds: of chains and samples.
    num_updates: of each run.
  """
  mdps = worlds.island_chains(seeds)
  exact = exact_values(mdps)
  bends = [np.asarray(bend) for bend in curvatures(mdps, exact)]
  errors = np.asarray(run(mdps, exact, draws(seeds, num_updates)))
  curves = {"learning/rates": np.array(RATES)}
  for name, found in zip(LOSSES, np.split(errors, 2), strict=True):
    curves[f"learning/{name}"] = found[:-1, :, ::EVERY]
    curves[f"learning/final {name}"] = final_errors(found[:-1])
  table = harness.rows(
    rate=RATES,
    **{n: np.mean(curves[f"learning/final {n}"], -1) for n in LOSSES},
  )
  title = "sampled Bellman problem: error at the end by learning rate"
  return harness.Part(_claims(errors, exact, bends), curves, {title: table})


def plot_rates(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Final errors against the rate."""
  for name in LOSSES:
    final = curves[f"learning/final {name}"]
    mean = np.where(np.isfinite(final), final, np.nan).mean(-1)
    axes.plot(curves["learning/rates"], mean, "o-", label=name)
  plotting.log_scale(axes, "x", "y")
  axes.set(xlabel="learning rate", ylabel="error at the end", ylim=(1e-2, 1e3))
  axes.legend()


def plot_paths(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Errors on the way at each loss's best rate."""
  for name in LOSSES:
    best = int(np.argmin(curves[f"learning/final {name}"].mean(-1)))
    paths = curves[f"learning/{name}"][best]
    steps = EVERY * np.arange(paths.shape[-1])
    label = f"{name}, rate {curves['learning/rates'][best]:.2g}"
    plotting.band(axes, steps, paths, label)
  axes.set(xlabel="update", ylabel="error", title="Each at its best rate")
  axes.set_yscale("log")
  axes.legend()
