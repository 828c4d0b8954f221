# SPDX-License-Identifier: Apache-2.0
"""What a denoiser predicts of `z = alpha x + sigma eps`, in five terms."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = (
  "PREDICTIONS",
  "NoiseLevel",
  "alpha_sigma",
  "convert_prediction",
)

PREDICTIONS = ("eps", "score", "u", "v", "x")


class NoiseLevel(NamedTuple):
  """The two factors of `z = alpha x + sigma eps`.

  Attributes:
    alpha: `[...]`, of the data.
    sigma: `[...]`, of the noise.
  """

  alpha: jax.Array
  sigma: jax.Array


def per_example(x: jax.Array, **arrays: jax.Array) -> None:
  """Raises unless each array is `[...]` for events x `[..., D]`."""
  if jnp.ndim(x) < 1:
    raise ValueError("x must be [..., D], was a scalar")
  checks.check_same_shape(**arrays, **{"x[..., 0]": x[..., 0]})


def alpha_sigma(gamma: jax.Array) -> NoiseLevel:
  """The variance-preserving factors at a noise level.

  `alpha^2 = sigmoid(-gamma)`, `sigma^2 = sigmoid(gamma)`.

  Args:
    gamma: `[...]`, `-log SNR`; infinite values allowed.

  Returns:
    `NoiseLevel`.

  Raises:
    AssertionError: not floating point.

  >>> alpha, sigma = alpha_sigma(jnp.log(4.))
  >>> print(f"{alpha**2:.2f} {sigma**2:.2f}")
  0.20 0.80

  Reference:
    Variational Diffusion Models (2107.00630), the noise schedule.
  """
  checks.check_float(gamma=gamma)
  gamma = numerics.as_float(gamma)
  return NoiseLevel(
    jnp.sqrt(jax.nn.sigmoid(-gamma)), jnp.sqrt(jax.nn.sigmoid(gamma))
  )


def _to_x(pred, z, alpha, sigma, src):
  if src == "x":
    return pred
  if src == "eps":
    return (z - sigma * pred) / alpha
  if src == "score":
    return (z + sigma**2 * pred) / alpha
  if src == "v":
    return (alpha * z - sigma * pred) / (alpha**2 + sigma**2)
  return (z - sigma * pred) / (alpha + sigma)


def _to_eps(pred, z, alpha, sigma, src):
  if src == "x":
    return (z - alpha * pred) / sigma
  if src == "eps":
    return pred
  if src == "score":
    return -sigma * pred
  if src == "v":
    return (sigma * z + alpha * pred) / (alpha**2 + sigma**2)
  return (z + alpha * pred) / (alpha + sigma)


def convert_prediction(
  pred: jax.Array,
  z: jax.Array,
  alpha: jax.Array,
  sigma: jax.Array,
  *,
  src: str,
  dst: str,
) -> jax.Array:
  """The same prediction in other terms.

  Given z, one of these determines the others: the data x, the noise eps, the
  score `-eps / sigma` of the noised law, `v = alpha eps - sigma x`, and
  `u = eps - x`, the velocity of a flow (where alpha = 1 - t and sigma = t).
  alpha and sigma need not be variance preserving. v and u give x and eps at all
  times; x does not tell eps where sigma = 0, nor eps or the score x where
  alpha = 0, and the score is infinite where sigma = 0: such results are
  infinite or NaN.

  Args:
    pred: `[..., D]`, what is predicted.
    z: `[..., D]`, `alpha x + sigma eps`.
    alpha: `[...]`, at least 0, one per example.
    sigma: `[...]`, at least 0, not 0 together with alpha.
    src: what `pred` is: `"x"`, `"eps"`, `"score"`, `"v"` or `"u"`.
    dst: what to return, of the same names.

  Returns:
    `[..., D]`.

  Raises:
    AssertionError: shapes do not fit, or an array is not floating point.
    ValueError: unknown name.

  >>> x, eps, alpha, sigma = (jnp.full(1, c) for c in (3., 1., .8, .6))
  >>> z = alpha * x + sigma * eps
  >>> v = convert_prediction(x, z, alpha[0], sigma[0], src="x", dst="v")
  >>> print(f"{v[0]:.4f}")  # .8 * 1 - .6 * 3
  -1.0000

  Reference:
    Progressive Distillation (2202.00512), section 4, for v; Flow Matching
    (2210.02747), for u; Denoising Diffusion Probabilistic Models (2006.11239).
  """
  checks.check_choice("src", src, PREDICTIONS)
  checks.check_choice("dst", dst, PREDICTIONS)
  checks.check_same_shape(pred=pred, z=z)
  checks.check_float(pred=pred, z=z, alpha=alpha, sigma=sigma)
  per_example(z, alpha=alpha, sigma=sigma)
  pred, z = numerics.as_float(pred), numerics.as_float(z)
  alpha, sigma = (numerics.as_float(a)[..., None] for a in (alpha, sigma))
  given = pred, z, alpha, sigma, src
  if src == dst:
    return pred
  if dst == "x":
    return _to_x(*given)
  if dst == "eps":
    return _to_eps(*given)
  if dst == "score":
    return -_to_eps(*given) / sigma
  if dst == "v":
    return alpha * _to_eps(*given) - sigma * _to_x(*given)
  return _to_eps(*given) - _to_x(*given)
