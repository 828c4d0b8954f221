# SPDX-License-Identifier: Apache-2.0
"""Rotary positions: attention by the distance of tokens.

Queries and keys of position t are rotated by angles that grow with t, so that
their products depend on differences of positions alone. The entries of a pair
stand in the two halves of a head, as in Hugging Face checkpoints.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import numerics

__all__ = ("RopeScaling", "rotate", "rotation")


class RopeScaling(NamedTuple):
  """Slower rotations for a longer context, as Llama 3.1 has them.

  Attributes:
    factor: by which frequencies of less than `low` turns are divided.
    low: turns over the original context, up to which all of the factor counts.
    high: turns from which on nothing is changed; between them linear in turns.
    original_positions: length of the original context.
  """

  factor: float
  low: float
  high: float
  original_positions: int


def rotation(
  positions: jax.Array,
  *,
  head_dim: int,
  theta: float,
  scaling: RopeScaling | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Cosines and sines of the angles at given positions.

  Pair i turns by `theta^(-2 i / head_dim)` radians per position.

  Args:
    positions: integers `[..., T]`.
    head_dim: even.
    theta: base of the frequencies, above 1.
    scaling: `RopeScaling`, or `None`.

  Returns:
    Two arrays `[..., T, head_dim / 2]` in float32.

  >>> cos, sin = rotation(jnp.arange(2), head_dim=4, theta=100.)
  >>> print(sin.round(4))
  [[0.     0.    ]
   [0.8415 0.0998]]

  Reference:
    RoFormer (2104.09864), section 3.2; The Llama 3 herd of models (2407.21783).
  """
  half = head_dim // 2
  frequencies = theta ** -(np.arange(half) / half)
  if scaling is not None:
    turns = scaling.original_positions * frequencies / (2 * np.pi)
    kept = (turns - scaling.low) / (scaling.high - scaling.low)
    kept = np.clip(kept, 0, 1)
    frequencies = kept * frequencies + (1 - kept) * frequencies / scaling.factor
  angles = positions[..., None] * frequencies.astype(np.float32)
  angles = angles.astype(jnp.float32)
  return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Rotates queries or keys: `(a cos - b sin, b cos + a sin)` for halves a, b.

  Args:
    x: `[..., T, heads, head_dim]`.
    cos: `[..., T, head_dim / 2]`.
    sin: the shape of `cos`.

  Returns:
    The shape and type of `x`; computed in float32 at least.

  >>> cos, sin = jnp.zeros((1, 1)), jnp.ones((1, 1))
  >>> print(rotate(jnp.array([[[1., 0.]]]), cos, sin))
  [[[0. 1.]]]

  Reference:
    RoFormer (2104.09864), equation 34.
  """
  cos, sin = cos[..., None, :], sin[..., None, :]
  a, b = jnp.split(numerics.as_float(x), 2, -1)
  turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
  return turned.astype(x.dtype)
