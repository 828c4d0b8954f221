# SPDX-License-Identifier: Apache-2.0
"""Regularisers of few-step samplers whose steps are Gaussians.

A reward is differentiated through a sampler's steps, and each step's kernel is
kept close to the reference's by an f-divergence. Kernels of one covariance
`s^2 I` have divergences that are functions of `m = |mu - mu_ref|^2 / s^2`
alone; gradients pass through the means, without scores.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxalign import checks, divergences, numerics

__all__ = ("ROCM_REGULARIZERS", "rocm_regularizer")

Regularizer = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

_HALF_WIDTH, _NODES = 9.0, 257  # the trapezoidal rule's


def _kl(mean: jax.Array, ref_mean: jax.Array, scale: jax.Array) -> jax.Array:
  return divergences.gaussian_kl_diag(mean, scale, ref_mean, scale)


def _jeffreys(mean, ref_mean, scale):
  return 2 * _kl(mean, ref_mean, scale)


def _renyi(mean, ref_mean, scale, *, alpha: float = 0.5):
  return divergences.gaussian_renyi_diag(
    mean, scale, ref_mean, scale, alpha=alpha
  )


def _squared_hellinger(mean, ref_mean, scale):
  return divergences.gaussian_squared_hellinger_diag(
    mean, scale, ref_mean, scale
  )


def _pearson_chi2(mean, ref_mean, scale):
  return divergences.gaussian_pearson_chi2_diag(mean, scale, ref_mean, scale)


def _total_variation(mean, ref_mean, scale):
  return divergences.gaussian_total_variation_diag(mean, ref_mean, scale)


def _fisher(mean, ref_mean, scale):
  """`E |grad log p - grad log q|^2 = m / s^2`."""
  return jnp.sum(((mean - ref_mean) / scale**2) ** 2, -1)


def _jensen_shannon(mean, ref_mean, scale):
  return _jensen_shannon_of(jnp.sum(((mean - ref_mean) / scale) ** 2, -1))


def _line(m: jax.Array) -> tuple[jax.Array, ...]:
  """Both log-densities along the line between the means, and the spacing.

  Beyond 40 deviations the divergence is log 2 to more digits than any type has.
  """
  half = jnp.minimum(jnp.sqrt(m), 40)[..., None] / 2
  edge = _HALF_WIDTH + half
  x = edge * jnp.linspace(-1, 1, _NODES, dtype=m.dtype)
  constant = math.log(2 * math.pi) / 2
  log_p, log_q = (-((x - mu) ** 2) / 2 - constant for mu in (half, -half))
  return log_p, log_q, 2 * edge[..., 0] / (_NODES - 1)


@jax.custom_jvp
def _jensen_shannon_of(m: jax.Array) -> jax.Array:
  """By the trapezoidal rule, which is exact to rounding for these densities."""
  log_p, log_q, spacing = _line(m)
  term = divergences.f_divergence("jensen_shannon").term
  return spacing * jnp.sum(term(log_p, log_q), -1)


@_jensen_shannon_of.defjvp
def _jensen_shannon_jvp(primals, tangents):
  # Under P log(p/q) is N(m/2, m), so that d/dm E g = E (g' + g'') / 2: here
  # E (q / (p + q))^2 / 2, which needs no root of m.
  (m,), (dm,) = primals, tangents
  log_p, log_q, spacing = _line(m)
  share = jax.nn.sigmoid(log_q - log_p)
  slope = spacing * jnp.sum(jnp.exp(log_p) * share**2, -1) / 2
  return _jensen_shannon_of(m), slope * dm


ROCM_REGULARIZERS: Mapping[str, Callable[..., jax.Array]] = {
  "fisher": _fisher,
  "jeffreys": _jeffreys,
  "jensen_shannon": _jensen_shannon,
  "kl": _kl,
  "neyman_chi2": _pearson_chi2,  # equal covariances make it symmetric
  "pearson_chi2": _pearson_chi2,
  "renyi": _renyi,
  "reverse_kl": _kl,
  "squared_hellinger": _squared_hellinger,
  "total_variation": _total_variation,
}


def rocm_regularizer(name: str, **options: Any) -> Regularizer:
  """A divergence between two Gaussians of one covariance `s^2 I`.

  With `m = |mu - mu_ref|^2 / s^2`: KL in either direction `m/2`, Renyi of order
  alpha `alpha m/2`, Jeffreys m, squared Hellinger `1 - e^(-m/8)`, chi-squared
  `e^m - 1`, total variation `erf(sqrt(m/8))`, Fisher `m/s^2`, and
  Jensen-Shannon by quadrature. The published choice among them is not
  confirmed; these are the ones with a closed form, and Jensen-Shannon.

  Args:
    name: one of `ROCM_REGULARIZERS`.
    **options: `alpha` of "renyi", in [0, inf), by default .5.

  Returns:
    A function of means `[..., D]`, the reference's means `[..., D]` (constants)
    and standard deviations `[...]`, above 0, that gives `[...]`, nats. Sum it
    over a sampler's steps.

  Raises:
    ValueError: an unknown divergence, or an option that it does not take.

  >>> zero, one = jnp.zeros(3), jnp.ones(3)
  >>> print(rocm_regularizer("kl")(one, zero, jnp.array(.5)))
  6.0

  Reference:
    ROCM: RLHF on Consistency Models (2503.06171).
  """
  checks.check_choice("divergence", name, ROCM_REGULARIZERS)
  checks.check_options(name, ROCM_REGULARIZERS[name], options)
  divergence = functools.partial(ROCM_REGULARIZERS[name], **options)

  def regularizer(mean, ref_mean, scale):
    checks.check_same_shape(mean=mean, ref_mean=ref_mean)
    checks.check_same_shape(**{"mean[..., 0]": mean[..., 0], "scale": scale})
    checks.check_float(mean=mean, ref_mean=ref_mean, scale=scale)
    mean, ref_mean, scale = map(numerics.as_float, (mean, ref_mean, scale))
    scale = jnp.broadcast_to(scale[..., None], mean.shape)
    return divergence(mean, jax.lax.stop_gradient(ref_mean), scale)

  return regularizer
