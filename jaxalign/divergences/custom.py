# SPDX-License-Identifier: Apache-2.0
"""An `FDivergence` from the generator f alone.

Derivatives come from autodiff, the inverse derivative from bisection with an
implicit derivative, the conjugate from the inverse, the limits at 0 and
infinity from float64 evaluations far out.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxalign import numerics
from jaxalign.divergences import generators, terms

__all__ = ("custom_f_divergence",)

# Where limits are read, in float64: u^2 is finite there.
_FAR = (1e100, 1e150)


def _limit(name: str, fn: Callable, points: Sequence[float]) -> float:
  """The limit along two points: the last value if they settle, else +-inf."""
  first, last = [float(fn(jnp.asarray(u, jnp.float64))) for u in points]
  if math.isnan(last):
    raise ValueError(f"{name} evaluates to NaN, at u = {points[1]:g}")
  if math.isinf(last) or abs(last - first) <= 1e-6 * (1 + abs(last)):
    return last
  return math.copysign(math.inf, last - first)


def _reach(dtype: jax.typing.DTypeLike) -> float:
  """How far log u may go on either side before u leaves the type."""
  return math.log(float(jnp.finfo(dtype).max)) - 1


def _share(coefficient: float, p: jax.Array) -> jax.Array:
  """Mass times a coefficient that may be infinite; inf times no mass is 0."""
  return (
    jnp.where(p > 0, jnp.inf, 0) if math.isinf(coefficient) else coefficient * p
  )


def _elementwise(fn: Callable) -> generators.Elementwise:
  """Applies a derivative of a scalar function to every entry."""

  def mapped(u):
    u = numerics.as_float(u)
    return jax.vmap(fn)(u.reshape(-1)).reshape(u.shape)

  return mapped


def custom_f_divergence(
  f: Callable[[jax.Array], jax.Array],
  *,
  name: str = "custom",
  f_zero: float | None = None,
  f_prime_inf: float | None = None,
) -> generators.FDivergence:
  """Completes a convex generator f with `f(1) = 0` to an `FDivergence`.

  `f'` and `f''` are autodiff's; `(f')^{-1}` is bisected in `log u` with the
  implicit derivative `1/f''`; `f*(t) = t u - f(u)` at `u = (f')^{-1}(t)`, which
  is `-f(0)` below `f'(0)` and +inf from `f'(inf)` on. A categorical divergence
  of the result is exact up to the cancellation in f near 1 and to overflow
  where f is infinite in the limit, which the generators of the table do not
  have.

  Args:
    f: acts entry by entry on `[...]`, traceable, convex on `u > 0`, `f(1) = 0`;
      not called at 0.
    name: what messages and plots call it.
    f_zero: `f(0)`; where not given, read off at u = 1e-150, which tells
      divergence from limits that are approached at least as fast as `u^0.1`.
    f_prime_inf: `lim f'(u)`; likewise read off at u = 1e150.

  Returns:
    An `FDivergence` whose activation is the identity where `f'(inf)` is
    infinite and `f'(inf) - softplus(-v)` elsewhere.

  Raises:
    ValueError: `f(1)` is not 0, or a limit evaluates to NaN.

  >>> kl = custom_f_divergence(lambda u: u * jnp.log(u), f_zero=0.)
  >>> print(f"{kl.conjugate(jnp.float32(.5)):.4f}")  # exp(-1/2)
  0.6065

  Reference:
    Rockafellar, Convex Analysis (1970), theorem 23.5, for the conjugate.
  """
  slope = jax.grad(lambda u: f(u).astype(u.dtype))
  curvature = jax.grad(slope)
  with jax.enable_x64(True), jax.ensure_compile_time_eval():
    one = jnp.ones((), jnp.float64)
    near = [1 / u for u in _FAR]
    if not abs(at_one := float(f(one))) < 1e-6:
      raise ValueError(
        f"a generator needs f(1) = 0, {name} has f(1) = {at_one}"
      )
    f_prime_one = float(slope(one))
    f_prime_zero = _limit("f'(0)", slope, near)
    if f_zero is None:
      f_zero = _limit("f(0)", f, near)
    if f_prime_inf is None:
      f_prime_inf = _limit("f'(inf)", slope, _FAR)

  f_prime = _elementwise(slope)
  inverse = _inverse(f_prime, f_prime_zero, f_prime_inf)

  def conjugate(t):
    t = numerics.as_float(t)
    inside = (t > f_prime_zero) & (t < f_prime_inf)
    # Where the supremum is at an end, f is evaluated at 1 and dropped.
    u = inverse(jnp.where(inside, t, f_prime_one))
    value = jnp.where(inside, t, f_prime_one) * u - f(u)
    ends = jnp.where(t <= f_prime_zero, -f_zero, jnp.inf)
    return jnp.where(inside, value, ends.astype(value.dtype))

  def activation(v):
    if math.isinf(f_prime_inf):
      return v
    return f_prime_inf - jax.nn.softplus(-v)

  def f_or_limit(u):
    u = numerics.as_float(u)
    live = u > 0
    return jnp.where(live, f(jnp.where(live, u, 1)), f_zero)

  def term(log_p, log_q):
    log_u = log_p - log_q
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    # The larger mass is factored out: where it underflows, the term is 0.
    larger = jnp.maximum(p, q)
    inside = (larger > 0) & (jnp.abs(log_u) < _reach(log_u.dtype))
    u = jnp.exp(jnp.where(inside, log_u, 0))
    value = larger * (f(u) - f_prime_one * (u - 1)) / jnp.maximum(u, 1)
    # Where u leaves the type, f is at its limits, as it is at p = 0 or q = 0.
    ends = jnp.where(
      log_u < 0,
      _share(f_zero + f_prime_one, q),
      _share(f_prime_inf - f_prime_one, p),
    )
    return jnp.where(inside, value, ends)

  def slopes(log_p, log_q):
    log_u, p, q = log_p - log_q, jnp.exp(log_p), jnp.exp(log_q)
    inside = jnp.abs(log_u) < _reach(log_u.dtype)
    u = jnp.exp(jnp.where(inside & ((p > 0) | (q > 0)), log_u, 0))
    in_p = p * (f_prime(u) - f_prime_one)
    above = p * (f(u) / u - f_prime(u)) + q * f_prime_one
    below = q * (f(u) - u * f_prime(u) + f_prime_one)
    # Where u leaves the type, f and f' are at their limits; infinite ones have
    # no slope.
    low, high, at_zero = (
      x if math.isfinite(x) else 0.0
      for x in (
        f_prime_zero - f_prime_one,
        f_prime_inf - f_prime_one,
        f_zero + f_prime_one,
      )
    )
    far_in_p = p * jnp.where(log_u < 0, low, high)
    far_in_q = q * jnp.where(log_u < 0, at_zero, 0)
    return (
      jnp.where(inside, in_p, far_in_p),
      jnp.where(inside, jnp.where(u > 1, above, below), far_in_q),
    )

  return generators.FDivergence(
    name=name,
    f=f_or_limit,
    f_prime=f_prime,
    f_second=_elementwise(curvature),
    f_prime_inverse=inverse,
    conjugate=conjugate,
    activation=activation,
    term=terms.with_slopes(term, slopes),
    f_zero=f_zero,
    f_prime_one=f_prime_one,
    f_prime_inf=f_prime_inf,
    conjugate_sup=f_prime_inf,
  )


def _inverse(
  f_prime: generators.Elementwise, low: float, high: float
) -> generators.Elementwise:
  """Inverse of an increasing f' with limits `low` at 0 and `high` at inf."""

  def f_prime_inverse(v):
    v = numerics.as_float(v)
    inside = (v > low) & (v < high)
    target = jnp.where(
      inside, v, jax.lax.stop_gradient(f_prime(jnp.ones_like(v)))
    )
    # The logarithm of u stays where exp neither overflows nor underflows.
    reach = 80.0 if v.dtype == jnp.float32 else 300.0
    log_u = numerics.bisect(
      lambda x: f_prime(jnp.exp(x)) - target,
      jnp.full_like(v, -reach),
      jnp.full_like(v, reach),
    )
    ends = jnp.where(v <= low, 0, jnp.inf)
    return jnp.where(inside, jnp.exp(log_u), ends.astype(v.dtype))

  return f_prime_inverse
