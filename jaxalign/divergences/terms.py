# SPDX-License-Identifier: Apache-2.0
"""Shares of one outcome in an f-divergence, free of cancellation and overflow.

A term is `(log p, log q) -> q f(p/q) - f'(1) (p - q)` for finite arguments; it
is at least 0. Terms of powers and of Jensen-Shannon have analytic tangents.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxalign import numerics

__all__ = ()  # for the generators


def with_slopes(term: Callable, slopes: Callable) -> Callable:
  """Gives a term its analytic tangent.

  `slopes` maps `(log p, log q)` to the derivatives in log p and in log q.
  Without this rule autodiff differentiates both sides of every select. A slope
  whose argument is constant is not formed: it may overflow, and 0 * inf is NaN.
  """
  term = jax.custom_jvp(term)

  def _jvp(primals, tangents):
    value = term(*primals)
    moves = [
      slope * tangent
      for slope, tangent in zip(slopes(*primals), tangents, strict=True)
      if not isinstance(tangent, jax.custom_derivatives.SymbolicZero)
    ]
    return value, sum(moves, jnp.zeros_like(value))

  term.defjvp(_jvp, symbolic_zeros=True)
  return term


def slope_in_p(term: Callable, log_p: jax.Array, log_q: jax.Array) -> jax.Array:
  """`p (f'(p/q) - f'(1))`, `[...]`: a term's derivative in log p.

  At log p = 0 it is the derivative of f at a ratio that is known by its
  logarithm, which is never exponentiated where the term does not.
  """
  one = jnp.ones_like(log_p)
  return jax.jvp(lambda x: term(x, log_q), (log_p,), (one,))[1]


def _power_growth(
  log_p: jax.Array, log_q: jax.Array, order: float
) -> jax.Array:
  """`p (u^(al-1) - 1) / (al - 1)`: p log u at order 1, p - q at order 0.

  Free of cancellation where u or the order is close to 1, and of overflow that
  the product with p does not have.
  """
  if order == 0:
    return numerics.exp_diff(log_p, log_q)
  log_u = log_p - log_q
  if order == 1:
    return jnp.exp(log_p) * log_u
  excess = order - 1
  sides = jnp.exp(log_p + excess * log_u) + jnp.exp(log_p)
  return sides * jnp.tanh(excess / 2 * log_u) / excess


def _horner(
  x: jax.Array, coefficients: Sequence[float | jax.Array]
) -> jax.Array:
  """`sum_k c_k x^k`."""
  value = jnp.zeros_like(x)
  for c in reversed(coefficients):
    value = value * x + c
  return value


def _power_series(log_u: jax.Array, order: float, bound: float) -> jax.Array:
  """`(u^al - al u - (1 - al)) / (al (al - 1))` for `|log u| < bound`.

  Its series in `l = log u`, `sum_k l^k/k! (1 + al + ... + al^(k-2))`, has no
  poles in the order and, for `al bound <= 1/2`, no cancellation.
  """
  sums = [0.0, 0.0, 1.0]
  # Until what is left is below the type's precision, relative to l^2/2.
  precision = float(jnp.finfo(log_u.dtype).eps) / 8
  while sums[-1] * bound ** (len(sums) - 3) > precision * math.factorial(
    len(sums) - 1
  ):
    sums.append(1 + order * sums[-1])
  coefficients = [sums[k] / math.factorial(k) for k in range(2, len(sums))]
  return _horner(log_u, coefficients) * log_u**2


def _power_term(order: float) -> Callable:
  """Share of one outcome in the Cressie-Read divergence of a given order.

  One formula for every order: KL is 1, reverse KL 0, Pearson twice order 2,
  Neyman twice order -1.
  """
  if order < 0.5:
    other = _power_term(1 - order)
    return lambda log_p, log_q: other(log_q, log_p)
  bound = 0.5 / max(1.0, order)

  def term(log_p, log_q):
    log_u = log_p - log_q
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    near = jnp.abs(log_u) < bound
    series = q * _power_series(jnp.clip(log_u, -bound, bound), order, bound)
    far = (_power_growth(log_p, log_q, order) - p + q) / order
    return jnp.where(near, series, far)

  return term


def smooth_power_term(order: float, scale: float = 1.0) -> Callable:
  """A multiple of the Cressie-Read term, with its tangent."""
  term = _power_term(order)

  def slopes(log_p, log_q):
    # Exchanging P and Q turns the order al into 1 - al.
    in_p = _power_growth(log_p, log_q, order)
    in_q = _power_growth(log_q, log_p, 1 - order)
    return scale * in_p, scale * in_q

  return with_slopes(lambda log_p, log_q: scale * term(log_p, log_q), slopes)


def jensen_shannon_near(
  gap: jax.Array, rest: jax.Array | float, bound: float
) -> jax.Array:
  """Jensen-Shannon over the larger mass, for `gap = |log u| < bound`.

  With `x = 1 - e^-gap` and `rest` the weight of the smaller mass it is `sum_k
  (rest - rest^k) / (k (k-1)) x^k` from k = 2 on, of positive terms only.
  """
  digits = -math.log(float(jnp.finfo(gap.dtype).eps))
  last = 3 + math.ceil(digits / -math.log(-math.expm1(-bound)))
  inverse_factorials = [(-1) ** k / math.factorial(k + 1) for k in range(last)]
  x = gap * _horner(gap, inverse_factorials)
  powers = [(rest - rest**k) / (k * (k - 1)) for k in range(2, last)]
  return x**2 * _horner(x, powers)
