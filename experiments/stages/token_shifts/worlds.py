# SPDX-License-Identifier: Apache-2.0
"""Six tokens out of three, of which two decide about the reward.

Reward 1 if the third token is the sum of the first two, modulo 3, and the last
one repeats the fourth. The base policy is a random table, the fine-tuned one
its optimum under a KL penalty.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.exact import sequences

V, T, BETA = 3, 6, 0.1
DECISIVE = (2, 5)  # positions whose tokens the reward asks for
TOKENS = np.stack(np.unravel_index(np.arange(V**T), (V,) * T), -1)


def rewards() -> jax.Array:
  """Of all sequences, `[V**T]`."""
  total = (TOKENS[:, 0] + TOKENS[:, 1]) % V
  right = (TOKENS[:, 2] == total) & (TOKENS[:, 5] == TOKENS[:, 3])
  return jnp.asarray(right, float)


def bases(seeds: range) -> jax.Array:
  """Base policies `[S, rows, V]`, in float64 from the keys 1, 2, ..."""
  keys = jax.vmap(jax.random.key)(jnp.array(seeds) + 1)
  return 0.7 * jax.vmap(lambda key: sequences.random_table(key, V, T))(keys)


def tuned(base: jax.Array) -> jax.Array:
  """The optimum of `E r - BETA KL(pi || base)`, a table."""
  return sequences.regularized_table(base, rewards(), BETA)


def mean_reward(table: jax.Array) -> jax.Array:
  """J of a policy."""
  return sequences.expectation(table, rewards())


def at_visits(table: jax.Array, values: jax.Array) -> jax.Array:
  """Means `[T]` by position, under a policy, of `values [rows]` of prefixes."""
  rows = sequences.prefix_index(jnp.asarray(TOKENS), V)
  return sequences.expectation(table, values[rows])
