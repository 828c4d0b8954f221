# SPDX-License-Identifier: Apache-2.0
"""The tilt of a reference that maximises a score in a KL ball around it.

What preference fine-tuning, Nash learning and best-of-n all converge to; their
modules say so in their own terms.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics
from jaxalign.divergences import categorical

__all__ = ()  # for the modules above

Scalar = float | jax.Array

# Scores closer than this many roundings of the largest are ties.
_TIE = 16


def per_row(
  name: str, value: Scalar, shape: tuple[int, ...], dtype
) -> jax.Array:
  """A number for every row: of the batch shape, or one that serves all."""
  if not isinstance(value, jax.core.Tracer) and not np.all(
    np.asarray(value) >= 0
  ):
    raise ValueError(f"{name} must be at least 0, was {value}")
  value = jnp.asarray(value, dtype)
  if value.ndim and value.shape != shape:
    raise ValueError(f"{name} must be a scalar or {shape}, was {value.shape}")
  return jnp.broadcast_to(value, shape)


def log_bracket(dtype) -> float:
  """Size of a logarithm whose exponential is safely finite, both ways."""
  return 0.9 * float(np.log(jnp.finfo(dtype).max))


def num_halvings(dtype) -> int:
  """Halvings that reduce such a bracket to one rounding."""
  return int(jnp.finfo(dtype).nmant) + 12


class Tilt(NamedTuple):
  """`softmax(log_ref + strength * shape)`, or a face of the simplex."""

  log_ref: jax.Array
  shape: jax.Array  # scores, affinely mapped to [-1, 0].
  spread: jax.Array  # what one unit of `shape` is in scores.
  top: jax.Array  # the largest score.
  strength: jax.Array
  face: jax.Array  # marks the maximisers.
  on_face: jax.Array  # whether the ball holds the reference on the face.

  def log_policy(self) -> jax.Array:
    """`[..., M]`."""
    tilted = self.log_ref + self.strength[..., None] * self.shape
    return jnp.where(
      self.on_face[..., None],
      numerics.masked_log_softmax(self.log_ref, self.face),
      numerics.masked_log_softmax(tilted),
    )


def tilt(log_ref: jax.Array, scores: jax.Array, tau: Scalar) -> Tilt:
  """The policy of highest expected score in the KL ball.

  Scores within 16 roundings of the largest tie with it. Differentiable in all
  arguments by the implicit function theorem where the ball binds; there the KL
  does not exceed tau.

  Args:
    log_ref: `[..., M]`, log-probabilities of the reference; -inf for no mass.
    scores: `[..., M]`, finite where there is mass.
    tau: radius of the ball in nats, at least 0.

  Returns:
    A `Tilt`.

  Raises:
    ValueError: tau below 0, or neither a scalar nor of the batch shape.
  """
  checks.check_same_shape(log_ref=log_ref, scores=scores)
  checks.check_float(log_ref=log_ref, scores=scores)
  dtype = jnp.promote_types(jnp.result_type(log_ref, scores), jnp.float32)
  log_ref = numerics.masked_log_softmax(jnp.asarray(log_ref, dtype))
  scores = jnp.asarray(scores, dtype)
  return _solve_tilt(
    log_ref, scores, per_row("tau", tau, scores.shape[:-1], dtype)
  )


@jax.jit
def _solve_tilt(log_ref: jax.Array, scores: jax.Array, tau: jax.Array) -> Tilt:
  dtype = scores.dtype
  live = log_ref > -jnp.inf
  top = jnp.max(jnp.where(live, scores, -jnp.inf), -1)
  low = jnp.min(jnp.where(live, scores, jnp.inf), -1)
  spread = jnp.where(top > low, top - low, 1)
  below = jnp.where(live, scores - top[..., None], 0)
  size = jnp.maximum(jnp.abs(top), jnp.abs(low))
  slack = _TIE * jnp.finfo(dtype).eps * size
  face = live & (below >= -slack[..., None])
  on_face = -numerics.masked_logsumexp(log_ref, face, -1) <= tau
  on_face &= jnp.any(face, -1)  # NaN scores have no maximiser, and stay NaN.
  # Rows on the face are solved on constants: neither value nor gradient of
  # theirs depends on the tilt.
  shape = jnp.where(on_face[..., None], 0, below / spread[..., None])
  target = jnp.where(on_face, 0, tau)

  def excess(log_strength):
    tilted = log_ref + jnp.exp(log_strength)[..., None] * shape
    return categorical.kl(tilted, log_ref) - target

  bracket = jnp.full_like(top, log_bracket(dtype))
  log_strength = numerics.bisect(
    excess, -bracket, bracket, num_steps=num_halvings(dtype)
  )
  strength = jnp.exp(log_strength)
  return Tilt(log_ref, shape, spread, top, strength, face, on_face)
