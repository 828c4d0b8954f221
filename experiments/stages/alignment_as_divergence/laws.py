# SPDX-License-Identifier: Apache-2.0
"""Laws of good and bad completions, and examples that have them exactly.

Probabilities are multiples of 1/20: the means over twenty good and twenty bad
examples are expectations, without any sampling.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import preference

SIZE, EACH = 4, 20  # outcomes; good examples, and as many bad ones
FIRST = np.array([10, 6, 3, 1])  # how often good; as often bad, in reverse


class Laws(NamedTuple):
  """`[L]` laws; the first is given, the others are random.

  Attributes:
    good: `[L, 4]`, p.
    bad: `[L, 4]`, q.
    ref: `[L, 4]`, the reference.
    examples: int `[L, 40]`, outcomes, the good ones first.
  """

  good: np.ndarray
  bad: np.ndarray
  ref: np.ndarray
  examples: np.ndarray


LABELS = np.arange(2 * EACH) < EACH


def laws(seeds: range) -> Laws:
  """The given law and one for each seed."""
  counts, ref = [(FIRST, FIRST[::-1])], [[0.1, 0.2, 0.3, 0.4]]
  for seed in seeds:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(SIZE), 2)
    counts.append(
      tuple(1 + rng.multinomial(EACH - SIZE, share) for share in shares)
    )
    ref.append(rng.dirichlet(2 * np.ones(SIZE)))
  counts = np.array(counts)
  examples = [
    np.concatenate([np.repeat(np.arange(SIZE), side) for side in sides])
    for sides in counts
  ]
  good, bad = np.moveaxis(counts / EACH, 1, 0)
  return Laws(good, bad, np.array(ref), np.array(examples))


def sum_of_means(losses: jax.Array) -> jax.Array:
  """The mean over good plus the mean over bad examples, of losses `[40]`."""
  return jnp.sum(losses) / EACH


def dpo_of_pairs(law: Laws, h: jax.Array, *, beta: float) -> jax.Array:
  """DPO's expectation over independent pairs, of log-ratios `[4]`."""
  return preference.population_loss(
    functools.partial(preference.dpo_loss, beta=beta),
    h,
    jnp.zeros_like(h),
    law.good[:, None] * law.bad,
  )
