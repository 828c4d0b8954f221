# SPDX-License-Identifier: Apache-2.0
"""A chain learned from samples, as a table and through overlapping tiles.

Values are linear in tiles of five states, so that an update in one state moves
its neighbours as well. Where the discount is low, plain action gaps far from
the goal are smaller than what the neighbours bring in; mapped gaps are not. A
table has no neighbours, and plain values need no help there.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from experiments.stages.value_mapping import maps

STATES, TILES, CHECKPOINTS = maps.STATES, 5, 24


class Learner(NamedTuple):
  """A map and its two steps.

  Attributes:
    is_log: whether it learns through the logarithm of its discount.
    before: b_reg.
    after: b_f.
  """

  is_log: bool
  before: float
  after: float


LEARNERS = {
  "linear": Learner(False, 0.1, 1.0),
  "log": Learner(True, 1.0, 0.1),
  "log, step before the map": Learner(True, 0.1, 1.0),
}
DISCOUNTS, WIDTHS = maps.DISCOUNTS, (1, TILES)
ARMS = tuple(itertools.product(LEARNERS, DISCOUNTS, WIDTHS))


def features(width: int) -> np.ndarray:
  """`[STATES, STATES + TILES - 1]`: each state is in `width` tiles."""
  tiles = np.arange(STATES + TILES - 1) - np.arange(STATES)[:, None]
  return ((tiles >= 0) & (tiles < width)) / width


def _learn(
  learner: Learner,
  discount: jax.Array,
  phi: jax.Array,
  draws: tuple[jax.Array, jax.Array],
) -> jax.Array:
  """The share of states that go right, at each checkpoint."""
  low, high = maps.LOGS
  is_low = discount == DISCOUNTS[0]

  def forward(x):
    mapped = jnp.where(is_low, low.forward(x), high.forward(x))
    return jnp.where(learner.is_log, mapped, x)

  def inverse(y):
    # Both have one inverse: only their floors differ.
    return jnp.where(learner.is_log, low.inverse(y), y)

  def update(weights, draw):
    state, action = draw
    after = jnp.maximum(state + 2 * action - 1, 0)
    ended = after == STATES
    ahead = inverse(weights @ phi[jnp.minimum(after, STATES - 1)])
    target = jnp.where(ended, 1, discount * jnp.max(ahead))
    mapped = weights[action] @ phi[state]
    value = inverse(mapped)
    regularized = value + learner.before * (target - value)
    step = learner.after * (forward(regularized) - mapped)
    # The features' scale makes the entry itself move by the step.
    moved = step * phi[state] / (phi[state] @ phi[state])
    return weights.at[action].add(moved), None

  def until_checkpoint(weights, draws):
    weights, _ = jax.lax.scan(update, weights, draws)
    left, right = weights @ phi.T
    return weights, jnp.mean(right > left, dtype=float)

  start = jnp.full((2, phi.shape[-1]), forward(0.0))
  return jax.lax.scan(until_checkpoint, start, draws)[1]


@jax.jit
def run(draws: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Shares `[arms, seeds, CHECKPOINTS]` in the order of `ARMS`.

  Args:
    draws: states and actions `[seeds, CHECKPOINTS, n]`, which all arms see.
  """
  over_seeds = jax.vmap(_learn, (None, None, None, 0))
  learners, discounts, phi = zip(
    *((LEARNERS[name], g, features(width)) for name, g, width in ARMS),
    strict=True,
  )
  return jax.vmap(over_seeds, (0, 0, 0, None))(
    Learner(*(jnp.array(x) for x in zip(*learners, strict=True))),
    jnp.array(discounts),
    np.array(phi),
    draws,
  )


def chain(*, seeds: range, updates: int) -> harness.Part:
  """Claims on who finds the way.

  Args:
    seeds: of independent runs.
    updates: of each run.
  """
  rng = np.random.default_rng(seeds.start)
  shape = len(seeds), CHECKPOINTS, updates // CHECKPOINTS
  draws = rng.integers(STATES, size=shape), rng.integers(2, size=shape)
  shares = np.asarray(run(draws))
  late = shares[:, :, 3 * CHECKPOINTS // 4 :].mean(-1)
  found = dict(zip(ARMS, late, strict=True))
  low, high = DISCOUNTS

  def right(name, statement, arm):
    return harness.Claim(
      name=f"chain_{name}",
      statement=f"share of states that go right, {statement}",
      theory=1.0,
      measured=found[arm].mean(),
      tolerance=0.05,  # a state or two of 30 for a while
      relation=">=",
    )

  claims = [
    right("log", "tiles, g = .6, logarithm", ("log", low, TILES)),
    harness.Claim(
      name="chain_linear",
      statement="share of states that go right, tiles, g = .6: plain values'"
      " best seed over the logarithm's worst",
      theory=1.0,
      measured=found["linear", low, TILES].max()
      / found["log", low, TILES].min(),
      tolerance=0.0,
      relation="<=",
    ),
    right("high", "tiles, g = .96, plain values", ("linear", high, TILES)),
    right("table", "table, g = .6, plain values", ("linear", low, 1)),
  ]
  rows = [
    {"values": name, "g": g, "states in a tile": width}
    | {"going right": float(x.mean()), "worst seed": float(x.min())}
    for (name, g, width), x in found.items()
  ]
  ends = np.arange(1, CHECKPOINTS + 1) * (updates // CHECKPOINTS)
  tiled = [i for i, arm in enumerate(ARMS) if arm[2] == TILES]
  curves = {
    "chain/arms": np.array(
      [f"{ARMS[i][0]}, g = {ARMS[i][1]:g}" for i in tiled]
    ),
    "chain/updates": ends,
    "chain/shares": shares[tiled],
  }
  title = "chain: share of states that go right, last quarter of the updates"
  return harness.Part(claims, curves, {title: rows})


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """Shares over the updates, through tiles."""
  figure, (axes,) = plotting.figure(width=5.4)
  for i, name in enumerate(curves["chain/arms"]):
    style = {"color": f"C{i // 2}", "linestyle": ("-", "--")[i % 2]}
    plotting.band(
      axes, curves["chain/updates"], curves["chain/shares"][i], name, **style
    )
  axes.set(
    xlabel="update", ylabel="share of states that go right",
    title="chain through tiles of five states", ylim=(0, 1.05),
  )  # fmt: skip
  axes.legend()
  return figure
