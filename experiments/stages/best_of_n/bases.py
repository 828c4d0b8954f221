# SPDX-License-Identifier: Apache-2.0
"""Base policies that several parts share."""

import jax
import jax.numpy as jnp
import numpy as np

# An example with ties, and how many draws of it are enumerated.
TIED_P = (0.3, 0.2, 0.1, 0.25, 0.15)
TIED_R = (1.0, 2.0, 2.0, 0.0, 2.0)
DRAWN_N = 4

BATCH = 500  # random bases at once


def tied_scores(ties: str) -> np.ndarray:
  """Scores `[V]` that rank the example: in a total order none are equal."""
  if ties == "uniform":
    return np.array(TIED_R)
  return np.argsort(np.argsort(TIED_R, kind="stable")).astype(float)


def uniform(key: jax.Array, shape: tuple[int, ...]) -> np.ndarray:
  """Uniform over the middles of 2^32 cells of (0, 1): neither 0 nor 1."""
  bits = jax.random.bits(key, shape, jnp.uint32)
  return (np.asarray(bits) + 0.5) / 2**32


def random_bases(key: jax.Array, vocab: int) -> tuple[np.ndarray, np.ndarray]:
  """Log-probabilities and rewards `[BATCH, V]`; every second base has ties."""
  logits, rewards = 6 * uniform(key, (2, BATCH, vocab)) - 3
  tied = np.arange(BATCH)[:, None] % 2 == 1
  mass = np.exp(logits)
  return (
    np.log(mass / mass.sum(1, keepdims=True)),
    np.where(tied, np.round(rewards), rewards),
  )
