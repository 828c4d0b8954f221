# SPDX-License-Identifier: Apache-2.0
"""Completions that are too long: a soft penalty, or no part in the loss.

Lengths are in tokens.
"""

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = ("drop_truncated", "overlong_reward")


def overlong_reward(
  lengths: jax.Array, *, max_length: int, buffer: int
) -> jax.Array:
  """A reward that falls from 0 to -1 over the last tokens that are allowed.

  0 up to `max_length - buffer`, `(max_length - buffer - l) / buffer` up to
  `max_length`, -1 beyond. The paper takes 20480 and 4096.

  Args:
    lengths: l, `[...]`, tokens.
    max_length: tokens.
    buffer: tokens, above 0 and at most `max_length`.

  Returns:
    `[...]`, in [-1, 0], to be added to rewards.

  Raises:
    ValueError: the buffer is outside its range.

  >>> print(overlong_reward(jnp.array([80, 90, 120]), max_length=100,
  ...   buffer=20))
  [ 0.  -0.5 -1. ]

  Reference:
    DAPO (2503.14476), equation 13.
  """
  if not 0 < buffer <= max_length:
    raise ValueError(
      f"buffer must be in (0, max_length], was {buffer} of {max_length}"
    )
  excess = numerics.as_float(lengths) - (max_length - buffer)
  return 0 - jnp.clip(excess / buffer, 0, 1)


def drop_truncated(where: jax.Array, finished: jax.Array) -> jax.Array:
  """Takes completions that were cut off out of the loss.

  `m_it 1[i finished]`: what a truncated completion would have been worth is not
  known.

  Args:
    where: bool `[..., T]`, tokens of completions.
    finished: bool `[...]`, whether they ended by themselves.

  Returns:
    bool `[..., T]`.

  Raises:
    AssertionError: shapes differ.

  >>> print(drop_truncated(jnp.ones((2, 2), bool), jnp.array([True, False])))
  [[ True  True]
   [False False]]

  Reference:
    DAPO (2503.14476), section 3.4.
  """
  checks.check_same_shape(
    **{"finished": finished, "where[..., 0]": where[..., 0]}
  )
  return where & finished[..., None]
