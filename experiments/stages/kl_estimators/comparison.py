# SPDX-License-Identifier: Apache-2.0
"""How expected gradients, which are enumerated, are compared with theory."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness

# Sums of up to a few thousand terms of order 1 in float64, over gradients that
# may be a thousand times smaller.
EXACT = 1e-12
_TINY = 1e-12  # gives a gradient that is 0 but for rounding the cosine 0


def relative_error(gradient, expected, scale) -> jax.Array:
  """`|gradient - expected| / |scale|`, in the Euclidean norm of all entries."""
  difference = jnp.linalg.norm(jnp.ravel(gradient - expected))
  return difference / jnp.linalg.norm(jnp.ravel(scale))


def cosine(a: jax.Array, b: jax.Array) -> jax.Array:
  """Of the angle between two gradients."""
  a, b = jnp.ravel(a), jnp.ravel(b)
  return a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b) + _TINY)


def exact_claim(
  name: str, statement: str, errors: Iterable[np.ndarray]
) -> harness.Claim:
  """Claims that relative errors are 0 but for rounding."""
  return harness.all_agree(
    name, f"{statement}: largest relative error", errors, tolerance=EXACT
  )
