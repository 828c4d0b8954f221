# SPDX-License-Identifier: Apache-2.0
"""Success of at least one of k attempts.

`1 - (1 - p)^k` for a problem solved with probability p. It is nonlinear in p:
put the mean of n attempts in the place of p and it is biased low. The unbiased
estimate is the chance that k of the n attempts, drawn without replacement,
hold a success.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics

__all__ = ("pass_at_k", "pass_at_k_slope", "success_at_k")


def _check_attempts(k: int) -> None:
  if k < 1:
    raise ValueError(f"k must be at least 1, was {k}")


def success_at_k(rates: jax.Array, *, k: int) -> jax.Array:
  """The probability that one of k independent attempts succeeds.

  `1 - (1 - p)^k`, computed as `-expm1(k log1p(-p))`.

  Args:
    rates: `[...]`, p in [0, 1].
    k: how many attempts, at least 1.

  Returns:
    `[...]`, in [0, 1]; gradient `k (1 - p)^(k-1)`.

  Raises:
    AssertionError: the rates are not floating point.
    ValueError: k below 1.

  >>> print(success_at_k(jnp.array([0., .5, 1.]), k=2))
  [0.   0.75 1.  ]

  Reference:
    Evaluating Large Language Models Trained on Code (2107.03374), section 2.1.
  """
  checks.check_float(rates=rates)
  _check_attempts(k)
  rates = numerics.as_float(rates)
  if k == 1:
    return rates
  unsure = rates < 1
  failures = k * jnp.log1p(-jnp.where(unsure, rates, 0))
  return jnp.where(unsure, -jnp.expm1(failures), 1)


def pass_at_k(n: jax.Array | int, c: jax.Array, k: int) -> jax.Array:
  """Unbiased estimate of `1 - (1 - p)^k` from c successes in n attempts.

  `1 - C(n - c, k) / C(n, k) = 1 - prod_{j<k} (1 - c / (n - j))`, 1 where fewer
  than k attempts failed. Summed in log space: binomials of a large n overflow,
  and the difference of their logarithms cancels.

  Args:
    n: attempts, a number or `[...]`, the shape of `c`.
    c: successes `[...]`, in [0, n]; integers give float32.
    k: at most n.

  Returns:
    `[...]`, in [0, 1]; NaN where n is below k and is not a Python number.

  Raises:
    AssertionError: n is an array of another shape than c.
    ValueError: k below 1, or above n where n is a Python number.

  >>> print(pass_at_k(4, jnp.array([1, 3, 4]), 2))
  [0.5 1.  1. ]

  Reference:
    Evaluating Large Language Models Trained on Code (2107.03374), equation 1.
  """
  _check_attempts(k)
  if isinstance(n, int):
    if n < k:
      raise ValueError(f"k must be at most n, was {k} of {n} attempts")
  elif np.ndim(n):
    checks.check_same_shape(n=n, c=c)
  c = numerics.as_float(c)
  n = jnp.broadcast_to(jnp.asarray(n, c.dtype), c.shape)
  certain = n - c < k
  # Of no successes where the product has no meaning: it is overwritten.
  shares = jnp.where(certain, 0, c)[..., None] / (
    jnp.maximum(n, k)[..., None] - jnp.arange(k, dtype=c.dtype)
  )
  missed = jnp.sum(jnp.log1p(-shares), -1)
  estimate = jnp.where(certain, 1, -jnp.expm1(missed))
  return jnp.where(n < k, jnp.nan, estimate)


def pass_at_k_slope(rates: jax.Array, ks: jax.Array) -> jax.Array:
  """How steeply pass@k rises in log k: the least-squares slope.

  `sum (log k - mean) pass@k / sum (log k - mean)^2`. A policy that has
  collapsed onto what it does best has a slope of 0: more attempts are of no
  use to it.

  Args:
    rates: `[..., K]`, pass@k.
    ks: `[K]`, the numbers of attempts, above 0, not all equal.

  Returns:
    `[...]`, per nat of k.

  Raises:
    AssertionError: the rates are not floating point, or not one for each k.

  >>> rates, ks = jnp.array([.1, .2, .3]), jnp.array([1, 2, 4])
  >>> slope = pass_at_k_slope(rates, ks)
  >>> print(f"{slope * jnp.log(2):.4f}")  # for twice the attempts
  0.1000

  Reference:
    Large Language Monkeys (2407.21787), for coverage against log k.
  """
  checks.check_float(rates=rates)
  checks.check_same_shape(rates_of_one=rates[(0,) * (rates.ndim - 1)], ks=ks)
  rates = numerics.as_float(rates)
  x = jnp.log(jnp.asarray(ks, rates.dtype))
  x = x - jnp.mean(x)
  return jnp.sum(x * rates, -1) / jnp.sum(x**2)
