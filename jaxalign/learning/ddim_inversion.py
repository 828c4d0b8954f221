# SPDX-License-Identifier: Apache-2.0
"""Noise from which deterministic samplers of diffusion produce given data.

Every step of a deterministic solver is `x -> S(x)`, close to a multiple c of x,
and is inverted by itself: `x <- x + (target - S(x)) / c` where that contracts,
or by Newton's method. The usual "DDIM inversion" is the first of these
iterations alone, and does not invert.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.diffusion import predictions
from jaxalign.learning import newton

__all__ = (
  "INVERSION_METHODS",
  "SamplerInverse",
  "ddim_inverse",
  "ddim_sample",
  "flow_inverse",
  "flow_sample",
)

INVERSION_METHODS = ("explicit", "fixed_point", "newton")

Field = Callable[[jax.Array, jax.Array], jax.Array]
# What an index, from 1 to the number of steps, makes of a state, and its c.
Step = Callable[[jax.Array, jax.Array], jax.Array]
Factor = Callable[[jax.Array], jax.Array]
Map = Callable[[jax.Array], jax.Array]

_FIXED_POINT_STEPS = 1000


class SamplerInverse(NamedTuple):
  """Noise that a sampler turns into given data.

  Attributes:
    x: `[..., D]`, the noise; NaN where an exact method found none.
    ok: bool `[...]`, whether every step was inverted to the tolerance.
    residual: `[...]`, largest error of a step, entry by entry.
  """

  x: jax.Array
  ok: jax.Array
  residual: jax.Array


# --- any sampler -------------------------------------------------------------


def _sample(step: Step, x: jax.Array, num_steps: int) -> jax.Array:
  return jax.lax.scan(
    lambda x, k: (step(k, x), None), x, jnp.arange(num_steps, 0, -1)
  )[0]


def _fixed_point(
  step: Map, factor: jax.Array, target: jax.Array, tolerance: float
) -> tuple[jax.Array, jax.Array]:
  def error_of(x):
    return target - step(x)

  def body(state):
    x, error, i = state
    x = x + error / factor
    return x, error_of(x), i + 1

  def goes_on(state):
    _, error, i = state
    return (jnp.max(jnp.abs(error)) > tolerance) & (i < _FIXED_POINT_STEPS)

  start = target, error_of(target), jnp.int32(0)
  x, error, _ = jax.lax.while_loop(goes_on, body, start)
  return x, jnp.max(jnp.abs(error))


def _invert_step(
  step: Map,
  factor: jax.Array,
  target: jax.Array,
  *,
  method: str,
  tolerance: float,
) -> tuple[jax.Array, jax.Array]:
  """Solves `step(x) = target` for x `[D]`; also the error that is left."""
  start = target + (target - step(target)) / factor
  if method == "newton":
    found = newton.newton_inverse(
      lambda x: step(x) - x, target, start, tolerance=tolerance
    )
    return found.x, found.residual
  if method == "fixed_point":
    return _fixed_point(step, factor, target, tolerance)
  return start, jnp.max(jnp.abs(step(start) - target))


def _invert(
  step: Step,
  factor: Factor,
  x: jax.Array,
  num_steps: int,
  *,
  method: str,
  tolerance: float,
) -> SamplerInverse:
  checks.check_choice("method", method, INVERSION_METHODS)
  checks.check_positive(tolerance=tolerance)
  solve = functools.partial(_invert_step, method=method, tolerance=tolerance)

  def back(x, k):
    return solve(functools.partial(step, k), factor(k), x)

  def run(x):
    x, errors = jax.lax.scan(back, x, jnp.arange(1, num_steps + 1))
    return x, jnp.max(errors)

  found, residual = jax.vmap(run)(x.reshape(-1, x.shape[-1]))
  found = found.reshape(x.shape)
  residual = residual.reshape(x.shape[:-1])
  ok = residual <= tolerance
  if method != "explicit":
    found = jnp.where(ok[..., None], found, jnp.nan)
  return SamplerInverse(found, ok, residual)


def _check_data(x: jax.Array) -> jax.Array:
  checks.check_float(x=x)
  predictions.per_example(x)
  return numerics.as_float(x)


# --- DDIM --------------------------------------------------------------------


def _ddim(eps_fn: Field, gammas: jax.Array) -> tuple[Step, Factor, int]:
  """One step, its factor c and the number of steps."""
  checks.check_rank(1, gammas=gammas)
  checks.check_float(gammas=gammas)
  if gammas.shape[0] < 2:
    raise ValueError(f"gammas must have two levels or more, was {gammas.shape}")
  if not isinstance(gammas, jax.core.Tracer) and gammas[-1] == jnp.inf:
    raise ValueError("gammas must end below inf: pure noise has no direction")
  num_steps = gammas.shape[0] - 1
  alpha, sigma = predictions.alpha_sigma(gammas)

  def factor(k):
    return alpha[k - 1] / alpha[k]

  def step(k, x):
    t = jnp.full(x.shape[:-1], k / num_steps, x.dtype)
    noise = numerics.as_float(eps_fn(x, t))
    c = factor(k).astype(x.dtype)
    share = (sigma[k - 1] - c * sigma[k]).astype(x.dtype)
    return c * x + share * noise

  return step, factor, num_steps


def ddim_sample(
  eps_fn: Field, noise: jax.Array, gammas: jax.Array
) -> jax.Array:
  """Data from noise by DDIM without randomness.

  `x_(t-1) = c x_t + k eps(x_t, t)` with `c = alpha_(t-1) / alpha_t` and
  `k = sigma_(t-1) - c sigma_t`.

  Args:
    eps_fn: `(z [..., D], t [...]) -> eps [..., D]`, each example by itself; t
      is step / T.
    noise: `[..., D]`.
    gammas: `[T + 1]`, `-log SNR` at times `0, 1/T, ..., 1`, rising; -inf
      allowed at 0, where the data are clean.

  Returns:
    `[..., D]`.

  Raises:
    AssertionError: wrong rank, or no floats.
    ValueError: fewer than two levels, or the last is +inf.

  >>> gammas = jnp.array([-jnp.inf, 0., jnp.log(3.)])  # alpha 1, .71 and .5
  >>> print(ddim_sample(lambda z, t: 0 * z, jnp.ones(2), gammas).round(4))
  [2. 2.]

  Reference:
    Denoising Diffusion Implicit Models (2010.02502), equation 12 with sigma 0.
  """
  noise = _check_data(noise)
  step, _, num_steps = _ddim(eps_fn, gammas)
  return _sample(step, noise, num_steps)


def ddim_inverse(
  eps_fn: Field,
  x0: jax.Array,
  gammas: jax.Array,
  *,
  method: str = "newton",
  tolerance: float = 1e-10,
) -> SamplerInverse:
  """The noise that `ddim_sample` turns into given data.

  Args:
    eps_fn: as in `ddim_sample`.
    x0: `[..., D]`, the data.
    gammas: as in `ddim_sample`.
    method: `"newton"`; `"fixed_point"`, which needs `|k| Lip(eps) < c`; or
      `"explicit"`, the usual DDIM inversion, which evaluates eps at the step's
      result and is no inverse.
    tolerance: of `ok`, above 0.

  Returns:
    `SamplerInverse`.

  Raises:
    AssertionError: wrong rank, or no floats.
    ValueError: unknown method, or levels as in `ddim_sample`.

  >>> gammas = jnp.array([-2., 0., 2.])
  >>> eps, x0 = lambda z, t: jnp.tanh(z), jnp.array([[.5, -1.]])
  >>> found = ddim_inverse(eps, x0, gammas, tolerance=1e-5)
  >>> print(found.ok, jnp.allclose(ddim_sample(eps, found.x, gammas), x0))
  [ True] True

  Reference:
    On Surjectivity of Neural Networks (2508.19445), deterministic diffusion;
    Denoising Diffusion Implicit Models (2010.02502), equation 12, for the
    explicit one.
  """
  x0 = _check_data(x0)
  step, factor, num_steps = _ddim(eps_fn, gammas)
  return _invert(
    step, factor, x0, num_steps, method=method, tolerance=tolerance
  )


# --- probability flow --------------------------------------------------------


def _flow(velocity: Field, num_steps: int) -> Step:
  """A step of Runge and Kutta's method from time k/n to (k-1)/n."""
  if num_steps < 1:
    raise ValueError(f"num_steps must be at least 1, was {num_steps}")
  h = 1 / num_steps

  def step(k, x):
    def slope(z, time):
      t = jnp.full(x.shape[:-1], time, x.dtype)
      return numerics.as_float(velocity(z, t))

    t = (k * h).astype(x.dtype)
    u1 = slope(x, t)
    u2 = slope(x - h / 2 * u1, t - h / 2)
    u3 = slope(x - h / 2 * u2, t - h / 2)
    u4 = slope(x - h * u3, t - h)
    return x - h / 6 * (u1 + 2 * u2 + 2 * u3 + u4)

  return step


def flow_sample(
  velocity: Field, noise: jax.Array, *, num_steps: int
) -> jax.Array:
  """Data from noise along a probability flow.

  `dx/dt = u(x, t)` from t = 1 to t = 0, by Runge and Kutta's fourth-order
  method. Times are those of `diffusion.flow`: t = 0 is data.

  Args:
    velocity: `(z [..., D], t [...]) -> u [..., D]`, each example by itself.
    noise: `[..., D]`.
    num_steps: steps of equal length, at least 1.

  Returns:
    `[..., D]`.

  Raises:
    AssertionError: noise is not floating point.
    ValueError: num_steps is below 1.

  >>> x = flow_sample(lambda z, t: z, jnp.ones(1), num_steps=20)
  >>> print(f"{x[0]:.4f}")  # exp(-1)
  0.3679

  Reference:
    Score-Based Generative Modeling through Stochastic Differential Equations
    (2011.13456).
  """
  noise = _check_data(noise)
  return _sample(_flow(velocity, num_steps), noise, num_steps)


def flow_inverse(
  velocity: Field,
  x0: jax.Array,
  *,
  num_steps: int,
  method: str = "newton",
  tolerance: float = 1e-10,
) -> SamplerInverse:
  """The noise that `flow_sample` turns into given data.

  Of the solver, not of the equation it solves: running the solver backwards in
  time comes back only up to its error.

  Args:
    velocity: as in `flow_sample`.
    x0: `[..., D]`, the data.
    num_steps: as in `flow_sample`.
    method: as in `ddim_inverse`.
    tolerance: of `ok`, above 0.

  Returns:
    `SamplerInverse`.

  Raises:
    AssertionError: x0 is not floating point.
    ValueError: unknown method, or num_steps is below 1.

  >>> u, x0 = lambda z, t: jnp.tanh(z), jnp.array([.5])
  >>> found = flow_inverse(u, x0, num_steps=4, tolerance=1e-5)
  >>> print(jnp.allclose(flow_sample(u, found.x, num_steps=4), x0))
  True

  Reference:
    On Surjectivity of Neural Networks (2508.19445), deterministic diffusion.
  """
  x0 = _check_data(x0)
  step = _flow(velocity, num_steps)
  return _invert(
    step,
    lambda k: jnp.ones((), x0.dtype),
    x0,
    num_steps,
    method=method,
    tolerance=tolerance,
  )
