# SPDX-License-Identifier: Apache-2.0
"""Worlds of six outcomes, and how far a loss's minimum is from a formula."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from jaxalign import preference

OUTCOMES = 6
BATCH = 30
BETA = 0.5
BOUND = 1e-6


class World(NamedTuple):
  """What losses learn from.

  Attributes:
    rewards: `[n]`.
    log_ref: `[n]`.
    sampling: `[n]`, probabilities by which outcomes are drawn into pairs.
    good: `[n]`, the law of good completions, multiples of 1 / BATCH.
    bad: `[n]`, of bad ones.
    good_batch: int `[BATCH]`, outcomes in the proportions of `good`: a batch
      whose mean is the expectation.
    bad_batch: int `[BATCH]`, likewise.
    weights: `[n]`, above 0: what else multiplies a loss.
  """

  rewards: jax.Array
  log_ref: jax.Array
  sampling: jax.Array
  good: jax.Array
  bad: jax.Array
  good_batch: jax.Array
  bad_batch: jax.Array
  weights: jax.Array


def draw(seed: int, num_worlds: int) -> World:
  """Random worlds, arrays `[num_worlds, ...]`."""
  rng = np.random.default_rng(seed)
  shape = (num_worlds, OUTCOMES)

  def laws():  # no outcome so rare that a formula loses digits
    raw = rng.uniform(0.2, 1, shape)
    return raw / raw.sum(-1, keepdims=True)

  def batch():  # every outcome at least twice
    rest = rng.integers(0, OUTCOMES, (num_worlds, BATCH - 2 * OUTCOMES))
    twice = np.tile(np.arange(OUTCOMES), (num_worlds, 2))
    return np.concatenate([twice, rest], -1)

  batches = batch(), batch()
  good, bad = ((b[..., None] == np.arange(OUTCOMES)).mean(1) for b in batches)
  return World(
    rng.normal(size=shape),
    np.log(laws()),
    laws(),
    good,
    bad,
    *batches,
    rng.uniform(0.5, 2, shape),
  )


class Row(NamedTuple):
  """A loss and its minimiser in closed form.

  Attributes:
    name: of the claim.
    statement: what is compared.
    loss: of parameters `[m]` and a world, the expectation that is minimised.
    found: what the parameters mean, `[k]`.
    closed: of a world, the formula for it, `[k]`.
    size: m.
  """

  name: str
  statement: str
  loss: Callable[[jax.Array, World], jax.Array]
  found: Callable[[jax.Array, World], jax.Array]
  closed: Callable[[World], jax.Array]
  size: int = OUTCOMES


def policy(logits: jax.Array, world: World) -> jax.Array:
  """Probabilities of the first n parameters, which are logits."""
  del world
  return jax.nn.softmax(logits[:OUTCOMES])


def log_ratio(logits: jax.Array, world: World) -> jax.Array:
  """`log(pi/ref)` of the first n parameters, `[n]`."""
  return jax.nn.log_softmax(logits[:OUTCOMES]) - world.log_ref


def largest_gap(row: Row, worlds: World) -> float:
  """The largest difference over worlds and entries."""

  @jax.jit
  @jax.vmap
  def difference(world):
    found = preference.minimize_population(
      lambda x: row.loss(x, world), jnp.zeros(row.size), num_steps=60
    )
    return jnp.max(jnp.abs(row.found(found.x, world) - row.closed(world)))

  return harness.largest(np.asarray(difference(worlds)))


def zero_claim(name: str, statement: str, measured: float) -> harness.Claim:
  """A claim that a difference is 0, to a millionth."""
  return harness.Claim(name, statement, 0.0, measured, BOUND)


def part(title: str, rows: Sequence[Row], worlds: World) -> harness.Part:
  """A claim for each row: its gap is at most a millionth."""
  gaps = [largest_gap(row, worlds) for row in rows]
  claims = [
    zero_claim(row.name, row.statement, measured)
    for row, measured in zip(rows, gaps, strict=True)
  ]
  table = harness.rows(
    loss=[row.name for row in rows],
    minimum=[row.statement for row in rows],
    gap=gaps,
  )
  curves = {
    f"gap {row.name}": np.array(g) for row, g in zip(rows, gaps, strict=True)
  }
  return harness.Part(claims, curves, {title: table})
