# SPDX-License-Identifier: Apache-2.0
"""A denoising diffusion over the real line in which everything is Gaussian.

The policy draws `x_T ~ N(0, 1)` and `x_{t-1} ~ N(a_t x_t + b_t, s_t^2)` down to
the action `x_0`. Its marginal, its ELBO at every action and the chain whose
ELBO is tight are closed forms, so that the drift of ELBO-based policy gradients
is seen without any noise. Steps t = 1 to T stand at indices 0 to T - 1;
`alpha_bar [T + 1]` is the share of signal left after t noising steps, from 1
down to 0 (exactly 0: then a tight chain exists).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics

__all__ = (
  "GaussianChain",
  "chain_elbo",
  "chain_log_prob",
  "chain_marginal",
  "cosine_alpha_bar",
  "tight_chain",
)


class GaussianChain(NamedTuple):
  """The denoising steps of a policy.

  Attributes:
    slope: `[..., T]`, a.
    shift: `[..., T]`, b.
    std: `[..., T]`, s, above 0.
  """

  slope: jax.Array
  shift: jax.Array
  std: jax.Array


def cosine_alpha_bar(num_steps: int) -> np.ndarray:
  """The cosine schedule, from 1 down to exactly 0.

  `cos^2(pi t / (2 T))`.

  Args:
    num_steps: T, at least 1.

  Returns:
    float64 `[T + 1]`.

  Raises:
    ValueError: T below 1.

  >>> cosine_alpha_bar(2).round(4).tolist()
  [1.0, 0.5, 0.0]

  Reference:
    Improved DDPM (2102.09672), equation 17, without its offset.
  """
  if num_steps < 1:
    raise ValueError(f"num_steps must be at least 1, was {num_steps}")
  alpha_bar = np.cos(np.pi * np.arange(num_steps + 1) / (2 * num_steps)) ** 2
  alpha_bar[-1] = 0.0  # which the cosine misses by a rounding
  return alpha_bar


def chain_marginal(chain: GaussianChain) -> tuple[jax.Array, jax.Array]:
  """Mean and variance of the action.

  `m <- a m + b`, `v <- a^2 v + s^2` from (0, 1), for t = T to 1.

  Args:
    chain: the policy's steps.

  Returns:
    Mean `[...]` and variance `[...]`.

  Raises:
    AssertionError: slope, shift and std differ in shape.

  >>> chain = GaussianChain(*(jnp.full(2, x) for x in (.5, 1., .5)))
  >>> print(*chain_marginal(chain))
  1.5 0.375

  Reference:
    Sums of independent Gaussians.
  """
  checks.check_same_shape(**chain._asdict())
  steps = [jnp.moveaxis(numerics.as_float(x), -1, 0)[::-1] for x in chain]
  start = jnp.zeros_like(steps[0][0]), jnp.ones_like(steps[0][0])

  def step(carry, step):
    (mean, var), (a, b, s) = carry, step
    return (a * mean + b, a**2 * var + s**2), None

  return jax.lax.scan(step, start, steps)[0]


def chain_log_prob(chain: GaussianChain, x: jax.Array) -> jax.Array:
  """The log-density of actions.

  Args:
    chain: the policy's steps, `[..., T]`.
    x: `[..., N]`, actions, with the chain's batch in front.

  Returns:
    `[..., N]`, nats.

  Raises:
    AssertionError: slope, shift and std differ in shape.

  >>> chain = GaussianChain(*(jnp.full(1, x) for x in (0., 0., 1.)))
  >>> print(chain_log_prob(chain, jnp.zeros(1)))
  [-0.9189385]

  Reference:
    `chain_marginal`.
  """
  mean, var = (y[..., None] for y in chain_marginal(chain))
  return -0.5 * ((x - mean) ** 2 / var + jnp.log(2 * jnp.pi * var))


def _check_schedule(alpha_bar: jax.Array, steps: int, dtype) -> jax.Array:
  if np.shape(alpha_bar) != (steps + 1,):
    raise ValueError(
      f"alpha_bar must be [T + 1] for the chain's T = {steps}, was"
      f" {np.shape(alpha_bar)}"
    )
  return jnp.asarray(alpha_bar, dtype)


def chain_elbo(
  chain: GaussianChain, x: jax.Array, alpha_bar: jax.Array
) -> jax.Array:
  """The variational bound on the log-density of actions, in closed form.

  `E_q[log p(x_0..x_T) - log q(x_1..x_T | x_0)]` for the noising process
  `q(x_t | x_{t-1}) = N(sqrt(alpha_t) x_{t-1}, 1 - alpha_t)`: a quadratic in x.

  Args:
    chain: the policy's steps, `[..., T]`.
    x: `[..., N]`, actions, with the chain's batch in front.
    alpha_bar: `[T + 1]`, from 1 down to 0.

  Returns:
    `[..., N]`, nats; at most `chain_log_prob`.

  Raises:
    AssertionError: slope, shift and std differ in shape.
    ValueError: alpha_bar is not `[T + 1]`.

  >>> chain = tight_chain(jnp.float32(1.), jnp.float32(.5), cosine_alpha_bar(4))
  >>> gap = chain_log_prob(chain, jnp.ones(1)) - chain_elbo(
  ...   chain, jnp.ones(1), cosine_alpha_bar(4))
  >>> bool(jnp.abs(gap[0]) < 1e-5)
  True

  Reference:
    DDPM (2006.11239), equation 3; DiPOD (2606.13795), for the gap.
  """
  checks.check_same_shape(**chain._asdict())
  a, b, s = (numerics.as_float(y)[..., None, :] for y in chain)
  x = numerics.as_float(x)[..., None]
  bar = _check_schedule(alpha_bar, a.shape[-1], a.dtype)
  before, after = bar[:-1], bar[1:]
  alpha = after / before
  signal = jnp.sqrt(before) - a * jnp.sqrt(after)
  error = (signal * x - b) ** 2 + (
    (1 - before) * (1 - 2 * a * jnp.sqrt(alpha)) + a**2 * (1 - after)
  )
  log_p = -0.5 * (error / s**2 + jnp.log(2 * jnp.pi * s**2))
  entropy = 0.5 * (1 + jnp.log(2 * jnp.pi * (1 - alpha)))
  # What is left of x_T ~ N(0, 1): the noise ends there exactly.
  return jnp.sum(log_p + entropy, -1) - 0.5 * (1 + jnp.log(2 * jnp.pi))


def tight_chain(
  mean: jax.Array, var: jax.Array, alpha_bar: jax.Array
) -> GaussianChain:
  """The chain with a given marginal whose ELBO is its log-density.

  The reversal of the noising process from `N(m, v)`: with
  `V_t = abar_t v + 1 - abar_t`, `a_t = sqrt(alpha_t) V_{t-1} / V_t`,
  `b_t = (sqrt(abar_{t-1}) - a_t sqrt(abar_t)) m`,
  `s_t^2 = V_{t-1} - a_t^2 V_t`.
  Applied to a chain's own marginal it is one exact step of self-distillation.

  Args:
    mean: `[...]`, m.
    var: `[...]`, v, above 0.
    alpha_bar: `[T + 1]`, from 1 down to 0.

  Returns:
    `GaussianChain` of `[..., T]`.

  Raises:
    AssertionError: mean and var differ in shape.

  >>> chain = tight_chain(jnp.array(2.), jnp.array(.25), cosine_alpha_bar(8))
  >>> print(*(f"{y:.4f}" for y in chain_marginal(chain)))
  2.0000 0.2500

  Reference:
    DiPOD (2606.13795), self-distillation, in a linear-Gaussian world.
  """
  checks.check_same_shape(mean=mean, var=var)
  mean, var = (numerics.as_float(y)[..., None] for y in (mean, var))
  bar = jnp.asarray(alpha_bar, jnp.result_type(mean, var))
  before, after = bar[:-1], bar[1:]
  var_before = before * var + 1 - before
  var_after = after * var + 1 - after
  alpha = after / before
  slope = jnp.sqrt(alpha) * var_before / var_after
  shift = (jnp.sqrt(before) - slope * jnp.sqrt(after)) * mean
  # V_{t-1} - a^2 V_t without the difference, which cancels at small steps.
  std = jnp.sqrt((1 - alpha) * var_before / var_after)
  return GaussianChain(slope, shift, std)
