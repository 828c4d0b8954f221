# SPDX-License-Identifier: Apache-2.0
"""Newton's method with shorter steps, for maps `x + f(x)`: local, no guarantee.

That it fails is no evidence that there is no preimage; `arclength_inverse` is
the method that must succeed.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics

__all__ = ("NewtonResult", "newton_inverse")

Map = Callable[[jax.Array], jax.Array]

# Shares of a Newton step that are tried together.
_SHARES = 0.5 ** np.arange(8)


class NewtonResult(NamedTuple):
  """Where Newton's method has come to.

  Attributes:
    x: the shape of `y`, the point of the smallest error.
    ok: bool `[]`, whether the error is within the tolerance.
    residual: `[]`, largest entry of `|x + f(x) - y|`.
  """

  x: jax.Array
  ok: jax.Array
  residual: jax.Array


class _Iterate(NamedTuple):
  x: jax.Array
  error: jax.Array
  num_steps: jax.Array
  improved: jax.Array


def newton_inverse(
  f: Map,
  y: jax.Array,
  start: jax.Array,
  *,
  num_steps: int = 50,
  tolerance: float = 1e-9,
) -> NewtonResult:
  """Looks for x with `x + f(x) = y` near a starting point.

  Of the Newton step `-(1 + J_f)^(-1) (x + f(x) - y)` the best of the shares 1,
  1/2, ..., 1/128 is taken, by the length of the error, until none is better
  than standing still.

  Args:
    f: maps arrays of the shape of `y` to such; y as a whole is one event.
    y: `[...]`, the target.
    start: the shape of `y`.
    num_steps: at most so many, at least 1.
    tolerance: of `ok`, above 0.

  Returns:
    `NewtonResult`.

  Raises:
    AssertionError: shapes differ, or no floats.
    ValueError: an option is out of its range.

  >>> found = newton_inverse(lambda x: x**3, jnp.array([2.]), jnp.zeros(1))
  >>> print(f"{found.x[0]:.4f}")  # 1 + 1^3 = 2
  1.0000

  Reference:
    Dennis and Schnabel, Numerical Methods for Unconstrained Optimization and
    Nonlinear Equations (1983).
  """
  checks.check_same_shape(y=y, start=start)
  checks.check_float(y=y, start=start)
  checks.check_positive(num_steps=num_steps, tolerance=tolerance)
  y, start = numerics.as_float(y), numerics.as_float(start)

  def error_of(x):
    full = x.reshape(y.shape)
    return jnp.ravel(full + f(full) - y)

  def body(at):
    slope = jax.jacfwd(error_of)(at.x)
    step = -jnp.linalg.solve(slope, at.error)
    tried = at.x + _SHARES.astype(y.dtype)[:, None] * step
    errors = jax.vmap(error_of)(tried)
    lengths = jnp.sum(errors**2, -1)
    # Overflows and singular slopes count as no improvement.
    best = jnp.argmin(jnp.where(jnp.isnan(lengths), jnp.inf, lengths))
    better = lengths[best] < jnp.sum(at.error**2)
    return _Iterate(
      jnp.where(better, tried[best], at.x),
      jnp.where(better, errors[best], at.error),
      at.num_steps + 1,
      better,
    )

  x = jnp.ravel(start)
  first = _Iterate(x, error_of(x), jnp.int32(0), jnp.array(True))
  last = jax.lax.while_loop(
    lambda at: at.improved & (at.num_steps < num_steps), body, first
  )
  residual = jnp.max(jnp.abs(last.error))
  return NewtonResult(last.x.reshape(y.shape), residual <= tolerance, residual)
