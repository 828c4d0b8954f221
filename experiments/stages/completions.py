# SPDX-License-Identifier: Apache-2.0
"""Random policies over completions of at most two tokens out of three.

Seven completions, 343 groups of three: every expectation is a sum.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.exact import completions, sequences

V, T, G = 3, 2, 3
ALL = completions.enumerate_completions(V, T)
WHERE = ALL.where
EXACT = 1e-13  # sums of some hundred terms in float64


class Worlds(NamedTuple):
  """One world for each seed.

  Attributes:
    logits: `[S, 4, 3]`, of the policy.
    ref_logits: `[S, 4, 3]`, of another.
    rewards: `[S, 7]`, of completions.
  """

  logits: jax.Array
  ref_logits: jax.Array
  rewards: jax.Array


def worlds(seeds: range) -> Worlds:
  """Normal logits and rewards."""
  draws = [np.random.default_rng(seed) for seed in seeds]
  rows = sequences.num_prefixes(V, T)
  shapes = ((rows, V), (rows, V), (len(WHERE),))
  each = [[draw.standard_normal(shape) for shape in shapes] for draw in draws]
  return Worlds(*(jnp.stack(x) for x in zip(*each, strict=True)))


def token_log_probs(logits: jax.Array) -> jax.Array:
  """`[7, 2]`, nats; 0 after the end."""
  return completions.completion_log_probs(logits, ALL)


def sequence_log_probs(logits: jax.Array) -> jax.Array:
  """`[7]`, nats."""
  return jnp.sum(token_log_probs(logits), -1)


def value(logits: jax.Array, rewards: jax.Array) -> jax.Array:
  """J, the expected reward."""
  return jnp.exp(sequence_log_probs(logits)) @ rewards


def expected_gradient(loss, logits, *, num_generations=G, sampler=None):
  """Of a loss of groups; see `exact.expected_group_gradient`."""
  return completions.expected_group_gradient(
    loss,
    logits,
    ALL,
    num_generations=num_generations,
    sampler_logits=sampler,
  )


def compare(found, exact) -> tuple[np.ndarray, np.ndarray]:
  """Cosines and ratios of norms of gradients `[S, ..., 4, 3]`."""
  found, exact = np.asarray(found), np.asarray(exact)
  exact = exact.reshape(len(exact), *(1,) * (found.ndim - 3), 4, 3)
  norms = np.linalg.norm(found, axis=(-2, -1))
  size = np.linalg.norm(exact, axis=(-2, -1))
  inner = np.sum(found * exact, (-2, -1))
  return inner / np.where(norms > 0, norms * size, 1), norms / size
