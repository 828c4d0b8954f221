# SPDX-License-Identifier: Apache-2.0
"""Preimages under residual blocks, by following a path that must end at one.

A pre-norm block is `x + f(x)` with f bounded: `f = g(LN(x))` for a continuous g
and `|LN(x)| <= sqrt d`. Then `x + t f(x) = y` has the one root y at t = 0, and
for generic y its path leads to a root at t = 1, with `|x - y| <= sup |f|`. The
path may turn back in t (a fold), hence is followed by its length. Meant for
float64.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.learning import newton

__all__ = (
  "ArclengthResult",
  "ContinuationOptions",
  "arclength_inverse",
)

Map = Callable[[jax.Array], jax.Array]

_GROWTH, _SHRINK = 1.5, 0.5
# Of consecutive tangents: a sharper turn is followed in smaller steps.
_LEAST_COSINE = 0.9


class ContinuationOptions(NamedTuple):
  """How a path is followed; static under `jit`.

  Attributes:
    tolerance: largest entry of the error that counts as none. What computes
      less precisely than in float64 needs a larger one.
    max_steps: at most so many, rejected ones included.
    first_step: length of the first.
    largest_step: no step is longer.
    smallest_step: the path is given up where shorter ones are needed.
    num_newton: corrections of a step at most.
  """

  tolerance: float = 1e-9
  max_steps: int = 2000
  first_step: float = 0.1
  largest_step: float = 2.0
  smallest_step: float = 1e-6
  num_newton: int = 5


_DEFAULTS = ContinuationOptions()


class ArclengthResult(NamedTuple):
  """A preimage, or how the search for one ended.

  Attributes:
    x: the shape of `y`; NaN where none was found, never a wrong one.
    steps: int32 `[]`, steps along the path, the last one onto t = 1 included
      and rejected ones left out.
    folds: int32 `[]`, how often the path turned in t.
    ok: bool `[]`, whether x is a preimage to the tolerance.
    residual: `[]`, largest entry of `|x + f(x) - y|`, of the path's last point
      where none was found.
  """

  x: jax.Array
  steps: jax.Array
  folds: jax.Array
  ok: jax.Array
  residual: jax.Array


class _Path(NamedTuple):
  """Where a path is; z = (x, t), and `tried` counts rejected steps too."""

  z: jax.Array
  tangent: jax.Array
  step: jax.Array
  steps: jax.Array
  tried: jax.Array
  folds: jax.Array
  found: newton.NewtonResult


class _Linear(NamedTuple):
  """The homotopy at a point: value `[n]` and QR of the transposed slope."""

  value: jax.Array
  q: jax.Array
  r: jax.Array

  def step(self) -> jax.Array:
    """The shortest Newton step onto the path."""
    inner = jax.scipy.linalg.solve_triangular(
      self.r, self.value, trans="T", lower=False
    )
    return -self.q[:, :-1] @ inner

  def tangent(self) -> jax.Array:
    """The unit tangent `[n + 1]` along which the path leaves (y, 0) upwards.

    The determinant of the slope with the tangent below it keeps its sign along
    a path; there it is positive. The direction of the last step is no guide:
    a step across a hairpin would turn back.
    """
    signs = jnp.prod(jnp.sign(jnp.diagonal(self.r)))
    return jnp.sign(jnp.linalg.det(self.q)) * signs * self.q[:, -1]


def _linearise(homotopy: Map, z: jax.Array) -> _Linear:
  slope, value = jax.jacfwd(lambda z: (homotopy(z),) * 2, has_aux=True)(z)
  q, r = jnp.linalg.qr(slope.T, mode="complete")
  return _Linear(value, q, r[:-1])


def _is_near(value: jax.Array, tolerance: float) -> jax.Array:
  return jnp.max(jnp.abs(value)) <= tolerance  # NaN is not


def _correct(
  homotopy: Map, z: jax.Array, options: ContinuationOptions
) -> tuple[jax.Array, _Linear]:
  """Newton's method onto the path, from a predicted point."""

  def body(state):
    z, _, i = state
    linear = _linearise(homotopy, z)
    far = ~_is_near(linear.value, options.tolerance)
    more = far & (i < options.num_newton)
    z = jnp.where(more, z + linear.step(), z)
    return z, linear, jnp.where(more, i + 1, -1)

  nothing = jax.tree.map(
    lambda a: jnp.zeros(a.shape, a.dtype),
    jax.eval_shape(functools.partial(_linearise, homotopy), z),
  )
  z, linear, _ = jax.lax.while_loop(
    lambda state: state[-1] >= 0, body, (z, nothing, jnp.int32(0))
  )
  return z, linear


def _advance(homotopy: Map, path: _Path, options: ContinuationOptions) -> _Path:
  """One step along the path, or a shorter one next time."""
  predicted = path.z + path.step * path.tangent
  z, linear = _correct(homotopy, predicted, options)
  tangent = linear.tangent()
  good = _is_near(linear.value, options.tolerance)
  good &= tangent @ path.tangent >= _LEAST_COSINE
  good &= jnp.linalg.norm(z - predicted) <= path.step
  longer = jnp.minimum(_GROWTH * path.step, options.largest_step)
  turned = good & (tangent[-1] * path.tangent[-1] < 0)
  return path._replace(
    z=jnp.where(good, z, path.z),
    tangent=jnp.where(good, tangent, path.tangent),
    step=jnp.where(good, longer, _SHRINK * path.step),
    steps=path.steps + good,
    tried=path.tried + 1,
    folds=path.folds + turned,
  )


def _meets_end(path: _Path) -> jax.Array:
  return path.z[-1] + path.step * path.tangent[-1] >= 1


def _land(
  f: Map, y: jax.Array, path: _Path, options: ContinuationOptions
) -> _Path:
  """From where the tangent meets t = 1 to a root there, if Newton finds it."""
  share = (1 - path.z[-1]) / path.tangent[-1]
  start = (path.z + share * path.tangent)[:-1]
  found = newton.newton_inverse(f, y, start, tolerance=options.tolerance)
  # A path that was given up has not come so far.
  found = found._replace(ok=found.ok & _meets_end(path))
  return path._replace(
    step=_SHRINK * path.step,
    steps=path.steps + found.ok,
    tried=path.tried + 1,
    found=found,
  )


def _follow(f: Map, y: jax.Array, options: ContinuationOptions) -> _Path:
  """The path from (y, 0) to t = 1, for y `[n]`."""

  def homotopy(z):
    return z[:-1] + z[-1] * f(z[:-1]) - y

  def lives(path):
    return (
      ~path.found.ok
      & (path.tried < options.max_steps)
      & (path.step >= options.smallest_step)
    )

  def round_trip(path):
    path = jax.lax.while_loop(
      lambda p: lives(p) & ~_meets_end(p),
      lambda p: _advance(homotopy, p, options),
      path,
    )
    return _land(f, y, path, options)

  zero = jnp.int32(0)
  error = jnp.full((), jnp.inf, y.dtype)
  nothing = newton.NewtonResult(y, jnp.array(False), error)
  step = jnp.asarray(options.first_step, y.dtype)
  # At t = 0, where the slope is (1, f): it starts upwards.
  tangent = jnp.append(-f(y), 1)
  tangent /= jnp.linalg.norm(tangent)
  z = jnp.append(y, 0)
  start = _Path(z, tangent, step, zero, zero, zero, nothing)
  return jax.lax.while_loop(lives, round_trip, start)


def arclength_inverse(
  f: Map,
  y: jax.Array,
  options: ContinuationOptions = _DEFAULTS,
) -> ArclengthResult:
  """Finds x with `x + f(x) = y` for a bounded f, wherever y is.

  Follows the roots of `x + t f(x) - y` from (y, 0) to t = 1 by
  pseudo-arclength: a step along the tangent, oriented by the sign of a
  determinant; Newton's method by least squares back onto the path; longer steps
  after success and shorter ones after failure, along a sharp turn or after a
  long correction. Where a step would cross t = 1, Newton's method at t = 1
  finishes. A path that is too long or too sharp for the options gives
  `ok = False`, and so does one with a bifurcation, which only a y without
  measure has, such as 0 for an odd f: a slightly different y will do.

  Args:
    f: continuously differentiable, maps arrays of the shape of `y` to such; y
      as a whole is one event. Bounded, or there need be no preimage.
    y: `[...]`, the target. `vmap` takes many.
    options: `ContinuationOptions`.

  Returns:
    `ArclengthResult`.

  Raises:
    AssertionError: y is not floating point.
    ValueError: an option is not above 0.

  >>> options = ContinuationOptions(tolerance=1e-5)  # of float32
  >>> f = lambda x: -3 * jnp.tanh(x)
  >>> found = arclength_inverse(f, jnp.array([.5]), options)
  >>> print(bool(found.ok), bool(jnp.abs(found.x + f(found.x) - .5)[0] < 1e-5))
  True True

  Reference:
    On Surjectivity of Neural Networks (2508.19445), for the claim; Allgower and
    Georg, Numerical Continuation Methods (1990).
  """
  checks.check_float(y=y)
  checks.check_positive(**options._asdict())
  y = numerics.as_float(y)

  def flat(x):
    return jnp.ravel(f(x.reshape(y.shape)))

  path = _follow(flat, jnp.ravel(y), options)
  ok = path.found.ok
  x = path.z[:-1]
  error = jnp.max(jnp.abs(x + flat(x) - jnp.ravel(y)))
  return ArclengthResult(
    jnp.where(ok, path.found.x, jnp.nan).reshape(y.shape),
    path.steps,
    path.folds,
    ok,
    jnp.where(ok, path.found.residual, error),
  )
