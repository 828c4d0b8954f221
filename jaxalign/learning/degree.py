# SPDX-License-Identifier: Apache-2.0
"""Counting preimages with their signs.

Of a map `x + f(x)` with bounded f, the preimages of a regular value, each
counted with the sign of `det(1 + J_f)`, sum to +1: the map has degree 1. A map
of degree 0, such as |x|, need not be onto.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.learning import newton

__all__ = ("SignedPreimages", "signed_preimages")

Map = Callable[[jax.Array], jax.Array]


# Length of the shortest starts, in radii.
_SMALLEST = 1e-4


class SignedPreimages(NamedTuple):
  """The preimages that were found.

  Attributes:
    x: `[N, D]`, where each start led.
    sign: int32 `[N]`, of `det(1 + J_f)` there; 0 where no preimage is.
    where: bool `[N]`, one entry for each preimage.
    count: int32 `[]`, how many there are.
    degree: int32 `[]`, the sum of their signs.
  """

  x: jax.Array
  sign: jax.Array
  where: jax.Array
  count: jax.Array
  degree: jax.Array


def _starts(
  key: jax.Array, y: jax.Array, radius: float | jax.Array, number: int
) -> jax.Array:
  """Half of them from the ball round y, half of all sizes round 0."""
  direction_key, length_key = jax.random.split(key)
  direction = jax.random.normal(direction_key, (number, len(y)), y.dtype)
  direction /= jnp.linalg.norm(direction, axis=-1, keepdims=True)
  u = jax.random.uniform(length_key, (number, 1), y.dtype)
  near = radius * _SMALLEST**u * direction
  wide = y + radius * u ** (1 / len(y)) * direction
  return jnp.where(jnp.arange(number)[:, None] % 2 == 0, wide, near)


def signed_preimages(
  key: jax.Array,
  f: Map,
  y: jax.Array,
  *,
  radius: float | jax.Array,
  num_starts: int = 512,
) -> SignedPreimages:
  """Looks for all x with `x + f(x) = y` and sums the signs of their slopes.

  Newton's method from many points. Half are drawn uniformly from the ball of
  the given radius round y, which holds all preimages if the radius is at least
  `sup |f|`; half round 0, with lengths of all orders of magnitude, since
  normalised inputs change fastest there. In few dimensions they find all; that
  one was missed shows where the sum is not the degree.

  Args:
    key: a typed key.
    f: maps `[D]` to `[D]`.
    y: `[D]`, the target.
    radius: above 0.
    num_starts: N, at least 1.

  Returns:
    `SignedPreimages`.

  Raises:
    AssertionError: y is not floating point or not of rank 1.
    ValueError: radius or num_starts is not above 0.

  >>> f = lambda x: jnp.abs(x) - x  # so the map is |x|
  >>> found = signed_preimages(jax.random.key(0), f, jnp.ones(1), radius=3.)
  >>> print(found.count, found.degree)
  2 0

  Reference:
    On Surjectivity of Neural Networks (2508.19445), proof by degree; the search
    by multiple starts is ours.
  """
  checks.check_rank(1, y=y)
  checks.check_float(y=y)
  checks.check_positive(radius=radius, num_starts=num_starts)
  y = numerics.as_float(y)
  # Rounding of errors; roots that are closer than `same` radii are one.
  eps = float(jnp.finfo(y.dtype).eps)
  tolerance, same = eps**0.5, eps**0.375
  found = jax.vmap(
    lambda start: newton.newton_inverse(f, y, start, tolerance=tolerance)
  )(_starts(key, y, radius, num_starts))
  gap = jnp.linalg.norm(found.x[:, None] - found.x, axis=-1)
  again = (gap <= same * radius) & found.ok
  earlier = jnp.any(jnp.tril(again, -1), -1)
  where = found.ok & ~earlier
  slope = jax.vmap(jax.jacfwd(lambda x: x + f(x)))(found.x)
  sign = jnp.where(found.ok, jnp.sign(jnp.linalg.det(slope)), 0)
  sign = sign.astype(jnp.int32)
  return SignedPreimages(
    found.x,
    sign,
    where,
    jnp.sum(where, dtype=jnp.int32),
    jnp.sum(jnp.where(where, sign, 0), dtype=jnp.int32),
  )
