# SPDX-License-Identifier: Apache-2.0
"""The numerical floor: masked reductions, safe elementary forms, bisection.

Masks select: what stands under a false mask may be NaN or infinite without any
effect on value or gradient. Zeros are mathematics: 0 log 0 is 0 in value,
gradient and tangent.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

__all__ = (
  "as_float",
  "bisect",
  "exp_diff",
  "gradient_only",
  "log1mexp",
  "log_ratio",
  "masked_log_softmax",
  "masked_logsumexp",
  "masked_mean",
  "masked_sum",
  "masked_var",
  "plogp",
  "wright_omega",
  "xlogy",
)

Axis = int | tuple[int, ...] | None


def as_float(x: jax.typing.ArrayLike) -> jax.Array:
  """Converts to float32, or keeps the caller's type where that is wider.

  Args:
    x: `[...]`, any numeric type.

  Returns:
    `[...]` of type float32 or float64.

  >>> as_float(jnp.zeros(2, jnp.bfloat16)).dtype
  dtype('float32')
  """
  x = jnp.asarray(x)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


# --- masked reductions -------------------------------------------------------


def masked_sum(x: jax.Array, mask: jax.Array, axis: Axis = None) -> jax.Array:
  """Sums the entries that the mask selects; 0 where it selects none.

  Args:
    x: `[...]`, anything at all (also NaN) where `mask` is false.
    mask: bool, the shape of `x`.
    axis: the axes to reduce; all by default.

  Returns:
    The sum, of `x`'s shape without `axis`.

  >>> float(masked_sum(jnp.array([1., jnp.nan]), jnp.array([True, False])))
  1.0
  """
  return jnp.sum(jnp.where(mask, x, 0), axis)


def masked_mean(x: jax.Array, mask: jax.Array, axis: Axis = None) -> jax.Array:
  """Averages the entries that the mask selects; 0 where it selects none.

  Args:
    x: `[...]`, anything at all (also NaN) where `mask` is false.
    mask: bool, the shape of `x`.
    axis: the axes to reduce; all by default.

  Returns:
    The mean, of `x`'s shape without `axis`.

  >>> x, mask = jnp.array([1., 3., jnp.nan]), jnp.array([True, True, False])
  >>> float(masked_mean(x, mask))
  2.0
  """
  count = jnp.sum(mask, axis)
  return masked_sum(x, mask, axis) / jnp.maximum(count, 1).astype(x.dtype)


def masked_var(
  x: jax.Array, mask: jax.Array, axis: Axis = None, *, ddof: int = 0
) -> jax.Array:
  """Variance of the selected entries, in two passes.

  `sum (x - mean)^2 / (n - ddof)`; 0 where `n <= ddof`, so that a group of one
  has variance 0 and no group gives NaN.

  Args:
    x: `[...]`, anything at all (also NaN) where `mask` is false.
    mask: bool, the shape of `x`.
    axis: the axes to reduce; all by default.
    ddof: 0 for the population's variance, 1 for the unbiased sample variance.

  Returns:
    The variance, of `x`'s shape without `axis`.

  >>> x, mask = jnp.array([1., 3., jnp.nan]), jnp.array([True, True, False])
  >>> float(masked_var(x, mask)), float(masked_var(x, mask, ddof=1))
  (1.0, 2.0)
  """
  count = jnp.sum(mask, axis, keepdims=True)
  total = jnp.sum(jnp.where(mask, x, 0), axis, keepdims=True)
  mean = total / jnp.maximum(count, 1).astype(x.dtype)
  # Masked entries become the mean before squaring: their deviation is 0.
  deviation = jnp.where(mask, x, mean) - mean
  degrees = jnp.maximum(jnp.sum(mask, axis) - ddof, 1).astype(x.dtype)
  return jnp.sum(deviation**2, axis) / degrees


def masked_logsumexp(
  x: jax.Array, mask: jax.Array, axis: Axis = None
) -> jax.Array:
  """`log sum exp` over selected entries; -inf, with gradient 0, for none.

  Args:
    x: `[...]`, anything at all (also NaN) where `mask` is false; -inf allowed.
    mask: bool, the shape of `x`.
    axis: the axes to reduce; all by default.

  Returns:
    The log-sum-exp, of `x`'s shape without `axis`.

  >>> x, mask = jnp.array([0., 0., jnp.nan]), jnp.array([True, True, False])
  >>> print(f"{masked_logsumexp(x, mask):.4f}")
  0.6931
  """
  live = mask & (x > -jnp.inf)
  some = jnp.any(live, axis, keepdims=True)
  # A row without live entries is computed on zeros and overwritten, so that
  # neither -inf - (-inf) nor log 0 is ever formed.
  safe = jnp.where(live, x, jnp.where(some, -jnp.inf, 0))
  total = jax.nn.logsumexp(safe, axis)
  return jnp.where(jnp.any(live, axis), total, -jnp.inf)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _log_softmax(logits: jax.Array, axis: int) -> jax.Array:
  return jax.nn.log_softmax(logits, axis)


@_log_softmax.defjvp
def _log_softmax_jvp(axis, primals, tangents):
  # From the result rather than from what led to it: one array less is kept, and
  # its exponentials are those that losses need as well.
  (logits,), (tangent,) = primals, tangents
  log_probs = jax.nn.log_softmax(logits, axis)
  mean = jnp.sum(jnp.exp(log_probs) * tangent, axis, keepdims=True)
  return log_probs, tangent - mean


def masked_log_softmax(
  logits: jax.Array, mask: jax.Array | None = None, axis: int = -1
) -> jax.Array:
  """Log-probabilities after removal of the outcomes that the mask drops.

  Args:
    logits: `[..., V]`; -inf is an outcome of probability 0.
    mask: bool, the shape of `logits`; `None` keeps every outcome.
    axis: the event axis.

  Returns:
    `[..., V]`: log-probabilities, -inf where masked. A row without outcomes is
    all -inf.

  >>> masked_log_softmax(jnp.zeros(2), jnp.array([True, False]))
  Array([  0., -inf], dtype=float32)
  """
  logits = as_float(logits)
  if mask is None:
    return _log_softmax(logits, axis)
  some = jnp.any(mask, axis, keepdims=True)
  safe = jnp.where(mask, logits, jnp.where(some, -jnp.inf, 0))
  return jnp.where(mask, _log_softmax(safe, axis), -jnp.inf)


# --- safe elementary forms ---------------------------------------------------


def xlogy(x: jax.Array, y: jax.Array) -> jax.Array:
  """`x log y` that is 0 at `x = 0`, with both gradients 0 there.

  Args:
    x: `[...]`, at least 0.
    y: `[...]`, at least 0, the shape of `x`.

  Returns:
    `[...]`; -inf where `y = 0 < x`.

  >>> jax.grad(xlogy, argnums=(0, 1))(0., 0.)
  (Array(0., dtype=float32...), Array(0., dtype=float32...))
  """
  x, y = as_float(x), as_float(y)
  live = x != 0
  return jnp.where(live, x * jnp.log(jnp.where(live, y, 1)), 0)


def plogp(log_p: jax.Array) -> jax.Array:
  """`p log p` from `log p`: 0, with gradient 0, at `log p = -inf`.

  Args:
    log_p: `[...]`, log-probabilities.

  Returns:
    `[...]`, nats; minus its sum over outcomes is the entropy.

  >>> plogp(jnp.array([-jnp.inf, 0.]))
  Array([0., 0.], dtype=float32)
  """
  log_p = as_float(log_p)
  live = log_p > -jnp.inf
  safe = jnp.where(live, log_p, 0)
  return jnp.where(live, jnp.exp(safe) * safe, 0)


@jax.custom_jvp
def log1mexp(x: jax.Array) -> jax.Array:
  """`log(1 - e^x)` for `x <= 0`, accurate at both ends.

  Args:
    x: `[...]`, at most 0; -inf allowed.

  Returns:
    `[...]`: -inf at 0, 0 at -inf, NaN above 0.

  >>> print(f"{log1mexp(jnp.float32(-1e-10)):.4f}")
  -23.0259
  """
  x = as_float(x)
  near = x > -math.log(2)
  return jnp.where(
    near,
    jnp.log(-jnp.expm1(jnp.where(near, x, -1))),
    jnp.log1p(-jnp.exp(jnp.where(near, -1, x))),
  )


@log1mexp.defjvp
def _log1mexp_jvp(primals, tangents):
  (x,), (dx,) = primals, tangents
  # d log(1 - e^x) = -e^x / (1 - e^x) = -1 / (e^-x - 1): 0 at -inf, -inf at 0.
  return log1mexp(x), -dx / jnp.expm1(-x)


def exp_diff(x: jax.Array, y: jax.Array) -> jax.Array:
  """`e^x - e^y` without cancellation where x is close to y.

  `(e^x + e^y) tanh((x - y) / 2)`: no branch, and no overflow that the result
  does not have.

  Args:
    x: `[...]`, finite.
    y: `[...]`, finite.

  Returns:
    `[...]`.

  >>> print(f"{exp_diff(jnp.float32(1e-6), jnp.float32(0.)):.6e}")
  1.000000e-06
  """
  return (jnp.exp(x) + jnp.exp(y)) * jnp.tanh((x - y) / 2)


def log_ratio(x: jax.Array, y: jax.Array) -> jax.Array:
  """`log(x / y)` without cancellation where x is close to y.

  `log1p((x - y) / y)` within half of y, `log x - log y` beyond, which neither
  overflows nor underflows.

  Args:
    x: `[...]`, above 0.
    y: `[...]`, above 0.

  Returns:
    `[...]`.

  >>> print(f"{log_ratio(jnp.float32(1 + 2**-20), jnp.float32(1.)):.6e}")
  9.536739e-07
  """
  near = jnp.abs(x - y) <= y / 2
  excess = jnp.where(near, x - y, 0) / y
  return jnp.where(near, jnp.log1p(excess), jnp.log(x) - jnp.log(y))


def gradient_only(x: jax.Array) -> jax.Array:
  """0 with the gradient of x: what a surrogate adds without being seen.

  Args:
    x: `[...]`, finite.

  Returns:
    `[...]`.

  >>> jax.value_and_grad(gradient_only)(2.)
  (Array(0., dtype=float32...), Array(1., dtype=float32...))
  """
  return x - jax.lax.stop_gradient(x)


@jax.custom_jvp
def wright_omega(x: jax.Array) -> jax.Array:
  """The solution w of `w + log w = x`; in terms of Lambert's W, `W(e^x)`.

  Args:
    x: `[...]`, any real: the exponential is never formed.

  Returns:
    `[...]`, above 0; derivative `w / (1 + w)`.

  >>> print(f"{wright_omega(jnp.float32(1.)):.4f}")
  1.0000
  """
  x = as_float(x)
  # Newton on y = log w, i.e. e^y + y = x, is globally convergent from the left
  # of its convex root function's upper bound y = log(1 + e^x).
  y = jnp.minimum(x, jnp.log(jnp.logaddexp(x, 0.0)))

  def newton(_, y):
    w = jnp.exp(y)
    return y - (w + y - x) / (w + 1)

  return jnp.exp(jax.lax.fori_loop(0, 8, newton, y))


@wright_omega.defjvp
def _wright_omega_jvp(primals, tangents):
  (x,), (dx,) = primals, tangents
  w = wright_omega(x)
  return w, w / (1 + w) * dx


# --- root finding ------------------------------------------------------------


def bisect(
  fn: Callable[[jax.Array], jax.Array],
  lower: jax.Array,
  upper: jax.Array,
  *,
  num_steps: int = 100,
) -> jax.Array:
  """Root of an elementwise non-decreasing function, by bisection.

  Differentiable with respect to what `fn` closes over, by the implicit function
  theorem: `dx = -dfn / fn'(x)`, and 0 where `fn'` is 0.

  Args:
    fn: maps `[...]` to `[...]`, entry by entry, and does not decrease.
    lower: `[...]` with `fn(lower) <= 0`.
    upper: `[...]`, the shape of `lower`, with `fn(upper) >= 0`.
    num_steps: halvings of the bracket.

  Returns:
    `[...]`: the lower end of the last bracket, so that `fn(x) <= 0` there.

  >>> root = lambda a: bisect(lambda x: x**2 - a, jnp.zeros(()), jnp.ones(()))
  >>> print(f"{root(.25):.4f} {jax.grad(root)(.25):.4f}")
  0.5000 1.0000
  """
  lower, upper = jax.lax.stop_gradient((as_float(lower), as_float(upper)))

  def solve(fn, _):
    def halve(_, bracket):
      low, high = bracket
      middle = low + (high - low) / 2
      right = fn(middle) <= 0
      return jnp.where(right, middle, low), jnp.where(right, high, middle)

    return jax.lax.fori_loop(0, num_steps, halve, (lower, upper))[0]

  def tangent_solve(linear, y):
    slope = linear(jnp.ones_like(y))
    return jnp.where(slope == 0, 0, y / jnp.where(slope == 0, 1, slope))

  return jax.lax.custom_root(fn, lower, solve, tangent_solve)
