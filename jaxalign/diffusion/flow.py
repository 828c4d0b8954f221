# SPDX-License-Identifier: Apache-2.0
"""Flow matching: the loss with the weight of a bound, and exact likelihoods.

`x_t = (1 - t) x + t eps`: t = 0 is data, t = 1 noise. A velocity is a function
`(z, t) -> u` of arrays `[..., D]` and `[...]`, and its target `eps - x`. The
law of a flow is that of its ordinary differential equation, started from noise;
the bound that `weight="elbo"` trains is on the diffusion of the same velocity.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = (
  "WEIGHTS",
  "affine_velocity",
  "flow_matching_loss",
  "ode_log_prob",
)

WEIGHTS = ("elbo", "uniform")

Velocity = Callable[[jax.Array, jax.Array], jax.Array]


def _evaluate(velocity: Velocity, z: jax.Array, t: jax.Array) -> jax.Array:
  found = velocity(z, t)
  checks.check_same_shape(velocity=found, x=z)
  checks.check_float(velocity=found)
  return numerics.as_float(found)


def flow_matching_loss(
  velocity: Velocity,
  x: jax.Array,
  t: jax.Array,
  eps: jax.Array,
  *,
  weight: str = "uniform",
) -> jax.Array:
  """The squared error of a velocity.

  `w(t) ||u(x_t, t) - (eps - x)||^2`, a sum over the event. With
  `w = (1 - t)/t` (`"elbo"`) the mean over t is the diffusion loss of the bound:
  `vdm_loss` at `gamma = 2 log(t/(1 - t))`. With `w = 1` it is the bound of data
  with noise of several strengths added, weighted by `exp(-lambda/2)` in
  `lambda = log SNR`. For data with a density the integral of the former
  diverges at t = 0: draw t from `(min_time, 1]`.

  Args:
    velocity: `(z [..., D], t [...]) -> u [..., D]`.
    x: `[..., D]`, data.
    t: `[...]`, times in [0, 1].
    eps: `[..., D]`, standard normal noise.
    weight: `"uniform"` or `"elbo"`.

  Returns:
    `[...]`, one per example, for `"elbo"` in nats; there +inf, with gradient 0,
    at t = 0 unless the error is 0.

  Raises:
    AssertionError: shapes do not fit, or an array is not floating point.
    ValueError: unknown weight, or x is a scalar.

  >>> x, t, eps = jnp.zeros((1, 2)), jnp.array([.25]), jnp.array([[1., 2.]])
  >>> still = lambda z, t: jnp.zeros_like(z)
  >>> print(flow_matching_loss(still, x, t, eps))
  [5.]
  >>> print(flow_matching_loss(still, x, t, eps, weight="elbo"))
  [15.]

  Reference:
    Flow Matching (2210.02747), equation 9; Understanding Diffusion Objectives
    as the ELBO with Simple Data Augmentation (2303.00848), for the weights.
  """
  checks.check_choice("weight", weight, WEIGHTS)
  checks.check_same_shape(x=x, eps=eps)
  checks.check_float(x=x, eps=eps, t=t)
  if jnp.ndim(x) < 1:
    raise ValueError("x must be [..., D], was a scalar")
  checks.check_same_shape(**{"t": t, "x[..., 0]": x[..., 0]})
  x, t, eps = (numerics.as_float(a) for a in (x, t, eps))
  z = (1 - t[..., None]) * x + t[..., None] * eps
  error = _evaluate(velocity, z, t) - (eps - x)
  square = jnp.sum(error**2, -1)
  if weight == "uniform":
    return square
  live = t > 0
  inside = jnp.where(live, (1 - t) / jnp.where(live, t, 1), 0) * square
  return jnp.where(live, inside, jnp.where(square > 0, jnp.inf, 0))


def affine_velocity(mean: jax.Array, variance: jax.Array) -> Velocity:
  """The velocity of Gaussian data, exactly.

  For independent `N(m, v)`, `E[eps - x | x_t] = A(t) x_t + B(t)` with
  `A = (t - (1-t) v) / ((1-t)^2 v + t^2)` and `B = -m - A (1-t) m`.

  Args:
    mean: `[D]`, m.
    variance: `[D]`, v, above 0.

  Returns:
    A function of `z [..., D]` and `t [...]` to `[..., D]`.

  Raises:
    AssertionError: shapes differ, not of rank 1, or not floating point.

  >>> velocity = affine_velocity(jnp.ones(1), jnp.full(1, 4.))
  >>> print(velocity(jnp.zeros(1), jnp.zeros(())))  # E eps - x at x = 0
  [0.]

  Reference:
    Flow Matching (2210.02747), for its target; the conditional expectation of
    jointly Gaussian variables.
  """
  checks.check_rank(1, mean=mean, variance=variance)
  checks.check_same_shape(mean=mean, variance=variance)
  checks.check_float(mean=mean, variance=variance)
  mean, variance = numerics.as_float(mean), numerics.as_float(variance)

  def velocity(z: jax.Array, t: jax.Array) -> jax.Array:
    t = t[..., None]
    slope = (t - (1 - t) * variance) / ((1 - t) ** 2 * variance + t**2)
    return slope * (z - (1 - t) * mean) - mean

  return velocity


def ode_log_prob(
  velocity: Velocity,
  x: jax.Array,
  *,
  num_steps: int,
  probes: jax.Array | None = None,
) -> jax.Array:
  """The likelihood of data under the flow.

  `log N(x_1; 0, 1) + int_0^1 div u(x_t, t) dt` along `dx_t/dt = u(x_t, t)` from
  `x_0 = x`, by Runge and Kutta's fourth-order method for both. The velocity is
  evaluated at t = 0 and t = 1 too. The divergence is the sum of D directional
  derivatives, exact and meant for small D; `probes` replace it by the mean of
  `e' (du/dx) e`, which is unbiased where `E e e'` is the identity.

  Args:
    velocity: `(z [..., D], t [...]) -> u [..., D]`, each example by itself.
    x: `[..., D]`, data.
    num_steps: steps of equal length from 0 to 1, at least 1.
    probes: `[K, ..., D]`, directions for each example, held over all times,
      such as `jax.random.rademacher(key, (K, *x.shape), x.dtype)`.

  Returns:
    `[...]`, nats, one per example.

  Raises:
    AssertionError: shapes do not fit, or an array is not floating point.
    ValueError: num_steps is below 1, or x is a scalar.

  >>> velocity = affine_velocity(jnp.zeros(1), jnp.full(1, 4.))
  >>> print(f"{ode_log_prob(velocity, jnp.zeros(1), num_steps=20):.4f}")
  -1.6121

  Reference:
    Score-Based Generative Modeling through Stochastic Differential Equations
    (2011.13456), appendix D.2; FFJORD (1810.01367), for the probes.
  """
  if num_steps < 1:
    raise ValueError(f"num_steps must be at least 1, was {num_steps}")
  if jnp.ndim(x) < 1:
    raise ValueError("x must be [..., D], was a scalar")
  checks.check_float(x=x)
  x = numerics.as_float(x)
  if probes is None:
    # sqrt(D) times the unit vectors: their mean is the exact trace.
    size = x.shape[-1]
    units = math.sqrt(size) * jnp.eye(size, dtype=x.dtype)
    units = jnp.expand_dims(units, tuple(range(1, x.ndim)))
    probes = jnp.broadcast_to(units, (size, *x.shape))
  else:
    checks.check_same_shape(**{"probes[0]": probes[0], "x": x})
    checks.check_float(probes=probes)
    probes = numerics.as_float(probes)

  def slope(z, time):
    t = jnp.full(z.shape[:-1], time, z.dtype)
    u, push = jax.linearize(lambda y: _evaluate(velocity, y, t), z)
    traces = jnp.sum(probes * jax.vmap(push)(probes), -1)
    return u, jnp.mean(traces, 0)

  h = 1 / num_steps

  def advance(state, k):
    z, log_det = state
    t = (k * h).astype(z.dtype)
    u1, d1 = slope(z, t)
    u2, d2 = slope(z + h / 2 * u1, t + h / 2)
    u3, d3 = slope(z + h / 2 * u2, t + h / 2)
    u4, d4 = slope(z + h * u3, t + h)
    z += h / 6 * (u1 + 2 * u2 + 2 * u3 + u4)
    return (z, log_det + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)), None

  start = x, jnp.zeros(x.shape[:-1], x.dtype)
  (z, log_det), _ = jax.lax.scan(advance, start, jnp.arange(num_steps))
  log_noise = -(z**2 + math.log(2 * math.pi)) / 2
  return jnp.sum(log_noise, -1) + log_det
