# SPDX-License-Identifier: Apache-2.0
"""A flow policy over the real line whose velocity is affine at every step.

`u(x, t_k) = a_k x + b_k` at the K times `t_k = 1, 1 - 1/K, ..., 1/K` of a
sampler that starts at `x_1 ~ N(0, 1)`; t = 1 is noise and t = 0 the action.
Two samplers use one velocity: Euler steps of the ordinary differential
equation, and the ancestral steps of the stochastic process that flow matching
with the weight (1-t)/t bounds. Either gives a Gaussian, and the loss of flow
matching at an action is a closed form, so that what a policy gradient through
that loss does to either sampler is seen without noise.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.diffusion import flow
from jaxalign.exact import gaussian_chain

__all__ = (
  "AffineFlow",
  "ancestral_marginal",
  "euler_marginal",
  "flow_excess",
  "flow_losses",
  "flow_times",
  "tight_flow",
)


class AffineFlow(NamedTuple):
  """The velocity at each step, from noise to the action.

  Attributes:
    slope: `[..., K]`, a.
    shift: `[..., K]`, b.
  """

  slope: jax.Array
  shift: jax.Array


def flow_times(num_steps: int) -> jax.Array:
  """Where a sampler of K steps evaluates its velocity.

  `t_k = 1 - k/K`.

  Args:
    num_steps: K, at least 1.

  Returns:
    `[K]`, from 1 down to 1/K.

  Raises:
    ValueError: K below 1.

  >>> print(flow_times(4))
  [1.   0.75 0.5  0.25]

  Reference:
    Flow Matching (2210.02747), section 5, for Euler's method.
  """
  if num_steps < 1:
    raise ValueError(f"num_steps must be at least 1, was {num_steps}")
  return 1 - jnp.arange(num_steps) / num_steps


def _prepare(policy: AffineFlow) -> tuple[jax.Array, jax.Array, jax.Array]:
  checks.check_same_shape(**policy._asdict())
  slope, shift = (numerics.as_float(x) for x in policy)
  return slope, shift, flow_times(slope.shape[-1]).astype(slope.dtype)


def _marginal(gain, push, std):
  """Of `x <- gain x + push + N(0, std^2)`; chains count from the action."""
  chain = gaussian_chain.GaussianChain(
    *(x[..., ::-1] for x in (gain, push, std))
  )
  return gaussian_chain.chain_marginal(chain)


def euler_marginal(policy: AffineFlow) -> tuple[jax.Array, jax.Array]:
  """Mean and variance of the action under Euler's method.

  `x <- x - u(x, t_k) / K`. It is biased at few steps: the exact velocity of
  N(0, 1) gives a standard deviation of .879 at K = 10, and whoever distils that
  again and again ends at 0.

  Args:
    policy: the velocities.

  Returns:
    Mean `[...]` and variance `[...]`.

  Raises:
    AssertionError: slope and shift differ in shape.

  >>> policy = tight_flow(jnp.zeros(()), jnp.ones(()), num_steps=10)
  >>> print(f"{euler_marginal(policy)[1] ** .5:.3f}")
  0.879

  Reference:
    Flow Matching Policy Gradients (2507.21053), for the sampler.
  """
  slope, shift, _ = _prepare(policy)
  step = 1 / slope.shape[-1]
  return _marginal(1 - step * slope, -step * shift, jnp.zeros_like(slope))


def ancestral_marginal(policy: AffineFlow) -> tuple[jax.Array, jax.Array]:
  """Mean and variance of the action under ancestral sampling.

  From t to s = t - 1/K by `q(x_s | x_t, x)`, the noising process reversed, at
  the predicted action `x = x_t - t u(x_t, t)`.

  Args:
    policy: the velocities.

  Returns:
    Mean `[...]` and variance `[...]`.

  Raises:
    AssertionError: slope and shift differ in shape.

  >>> policy = tight_flow(jnp.zeros(()), jnp.ones(()), num_steps=1000)
  >>> print(f"{ancestral_marginal(policy)[1] ** .5:.3f}")
  0.997

  Reference:
    Variational Diffusion Models (2107.00630), appendix A.
  """
  slope, shift, t = _prepare(policy)
  s = jnp.append(t[1:], jnp.zeros(1, t.dtype))
  kept = (1 - t) / (1 - s)  # q(x_t | x_s) = N(kept x_s, added)
  added = t**2 - (kept * s) ** 2
  of_noisy = kept * s**2 / t**2
  of_action = (1 - s) * added / t**2
  gain = of_noisy + of_action * (1 - t * slope)
  std = jnp.broadcast_to(s * jnp.sqrt(added) / t, slope.shape)
  return _marginal(gain, -of_action * t * shift, std)


def flow_losses(policy: AffineFlow, x: jax.Array, *, weight: str) -> jax.Array:
  """The expected loss of flow matching at actions, over the sampler's times.

  `(1/K) sum_k w(t_k) E_eps (u(x_t, t_k) - (eps - x))^2`, with `w = 1` or
  `(1 - t)/t`; minus this stands for the log-likelihood in FPO.

  Args:
    policy: the velocities, `[..., K]`.
    x: `[..., N]`, actions, with the policy's batch in front.
    weight: `"uniform"` or `"elbo"`.

  Returns:
    `[..., N]`.

  Raises:
    AssertionError: slope and shift differ in shape.
    ValueError: unknown weight.

  >>> still = AffineFlow(jnp.zeros(4), jnp.zeros(4))
  >>> print(flow_losses(still, jnp.array([0., 2.]), weight="uniform"))
  [1. 5.]

  Reference:
    Flow Matching Policy Gradients (2507.21053), equation 9.
  """
  checks.check_choice("weight", weight, flow.WEIGHTS)
  slope, shift, t = (y[..., None, :] for y in _prepare(policy))
  x = numerics.as_float(x)[..., None]
  mean = slope * (1 - t) * x + shift + x
  square = mean**2 + (slope * t - 1) ** 2
  scale = (1 - t) / t if weight == "elbo" else jnp.ones_like(t)
  return jnp.mean(scale * square, -1)


def tight_flow(
  mean: jax.Array, var: jax.Array, *, num_steps: int
) -> AffineFlow:
  """The minimiser of flow matching on N(mean, var).

  Applied to a policy's own marginal it is one exact step of self-distillation.

  Args:
    mean: `[...]`.
    var: `[...]`, above 0.
    num_steps: K.

  Returns:
    `AffineFlow` of `[..., K]`.

  Raises:
    AssertionError: mean and var differ in shape.
    ValueError: K below 1.

  >>> print(tight_flow(jnp.ones(()), jnp.ones(()), num_steps=2).shift)
  [-1. -1.]

  Reference:
    `diffusion.affine_velocity`.
  """
  checks.check_same_shape(mean=mean, var=var)
  mean, var = (numerics.as_float(x)[..., None] for x in (mean, var))
  times = flow_times(num_steps).astype(mean.dtype)
  slope = (times - (1 - times) * var) / ((1 - times) ** 2 * var + times**2)
  return AffineFlow(slope, -mean - slope * (1 - times) * mean)


def flow_excess(
  policy: AffineFlow, mean: jax.Array, var: jax.Array
) -> jax.Array:
  """By how much the loss of flow matching exceeds its minimum on N(mean, var).

  `(1/K) sum_k E (u(x_t, t_k) - u*(x_t, t_k))^2`, u* the velocity of that law.
  With the policy's own marginal this is the gap of an ODE policy, whose
  log-likelihood its loss does not bound.

  Args:
    policy: the velocities, `[..., K]`.
    mean: `[...]`.
    var: `[...]`, above 0.

  Returns:
    `[...]`, at least 0.

  Raises:
    AssertionError: shapes differ.

  >>> policy = tight_flow(jnp.ones(()), jnp.ones(()), num_steps=4)
  >>> print(flow_excess(policy, jnp.ones(()), jnp.ones(())))
  0.0

  Reference:
    DiPOD (2606.13795), control workload.
  """
  slope, shift, t = _prepare(policy)
  best = tight_flow(mean, var, num_steps=slope.shape[-1])
  mean, var = (numerics.as_float(x)[..., None] for x in (mean, var))
  tilt = slope - best.slope
  of_mean = tilt * (1 - t) * mean + shift - best.shift
  spread = (1 - t) ** 2 * var + t**2
  return jnp.mean(of_mean**2 + tilt**2 * spread, -1)
