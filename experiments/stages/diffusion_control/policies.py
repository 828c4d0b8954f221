# SPDX-License-Identifier: Apache-2.0
"""One velocity network, two policies: a flow and a denoising chain.

`x_t = (1 - t) x + t eps`, from noise at t = 1 to the action at t = 0 in ten
steps. The flow follows `dx/dt = u` by Euler's method; the chain draws each step
from the posterior of `x_s` given `x_t` and the action that u predicts (DDPM's
ancestral step, of this path), with a floor under its standard deviation.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.diffusion import flow

STEPS = 10
LEAST_STD = 0.1  # DPPO's
# Where the samplers evaluate the network: 1, .9, ..., .1.
TIMES = np.arange(STEPS, 0, -1, dtype=np.float32) / STEPS

Velocity = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class VelocityNetwork(nn.Module):
  """`u(x_t, t, observation)`, a small perceptron.

  Attributes:
    action_size: M.
    width: of two hidden layers.
  """

  action_size: int
  width: int

  @nn.compact
  def __call__(
    self, x: jax.Array, t: jax.Array, observation: jax.Array
  ) -> jax.Array:
    """Velocities `[..., M]` at `x [..., M]`, `t [...]`, `[..., N]`."""
    angle = t[..., None] * 2.0 ** np.arange(4, dtype=np.float32)
    inputs = [x, jnp.cos(angle), jnp.sin(angle), observation]
    h = jnp.concatenate(inputs, -1)
    for _ in range(2):
      h = nn.relu(nn.Dense(self.width)(h))
    last = nn.initializers.variance_scaling(0.01, "fan_in", "normal")
    return nn.Dense(self.action_size, kernel_init=last)(h)


def step_law(
  velocity: Velocity, x: jax.Array, observation: jax.Array, t: jax.Array, chain
) -> tuple[jax.Array, jax.Array]:
  """Mean `[..., M]` and standard deviation `[...]` of a step from time t.

  Args:
    velocity: of `x [..., M]`, `t [...]` and `observation [..., N]`.
    x: `[..., M]`, at time t.
    observation: `[..., N]`.
    t: `[...]`, of `TIMES`.
    chain: bool, the chain's step; that of the flow has no noise.
  """
  s = jnp.maximum(t - 1 / STEPS, 0)
  u = velocity(x, t, observation)
  # q(x_s | x_t, x) of x_t | x_s ~ N(keep x_s, t^2 - keep^2 s^2).
  keep = (1 - t) / (1 - s)
  added = t**2 - keep**2 * s**2
  share, of_action = keep * s**2 / t**2, (1 - s) * added / t**2
  action = x - t[..., None] * u
  ancestral = share[..., None] * x + of_action[..., None] * action
  std = jnp.maximum(jnp.sqrt(added) * s / t, LEAST_STD)
  euler = x - u / STEPS
  return jnp.where(chain, ancestral, euler), jnp.where(chain, std, 0)


def sample(
  velocity: Velocity, noise: jax.Array, observation: jax.Array, chain
) -> jax.Array:
  """All points on the way to an action, `[STEPS + 1, ..., M]`, noise first.

  Args:
    velocity: as in `step_law`.
    noise: `[STEPS + 1, ..., M]`, standard normal; the flow takes the first.
    observation: `[..., N]`.
    chain: bool, by the chain and not by the flow.
  """

  def step(x, now):
    time, noise = now
    t = jnp.full(x.shape[:-1], time)
    mean, std = step_law(velocity, x, observation, t, chain)
    x = mean + std[..., None] * noise
    return x, x

  _, path = jax.lax.scan(step, noise[0], (jnp.asarray(TIMES), noise[1:]))
  return jnp.concatenate([noise[:1], path])


def step_log_probs(
  velocity: Velocity, path: jax.Array, observation: jax.Array
) -> jax.Array:
  """Log-densities of the chain's steps, nats.

  Args:
    velocity: as in `step_law`.
    path: `[..., STEPS + 1, M]`.
    observation: `[..., N]`.

  Returns:
    `[..., STEPS]`.
  """
  before, after = path[..., :-1, :], path[..., 1:, :]
  t = jnp.broadcast_to(jnp.asarray(TIMES), before.shape[:-1])
  mean, std = step_law(velocity, before, _beside(observation, t), t, True)
  z = (after - mean) / std[..., None]
  log_std = jnp.log(std) + math.log(2 * math.pi) / 2
  return -jnp.sum(z**2, -1) / 2 - path.shape[-1] * log_std


def matching_loss(
  velocity: Velocity,
  actions: jax.Array,
  observation: jax.Array,
  t: jax.Array,
  eps: jax.Array,
) -> jax.Array:
  """The conditional flow matching loss of actions, for each draw.

  `||u(x_t, t) - (eps - x)||^2`, a sum over dimensions. Minus this stands in for
  the ELBO. FPO's released code takes the error of the noise that u predicts,
  `(1 - t)^2` times as much, which leaves u free at t = 1, where the sampler's
  first step needs it.

  Args:
    velocity: as in `step_law`.
    actions: `[..., M]`.
    observation: `[..., N]`.
    t: `[..., m]`, times.
    eps: `[..., m, M]`, noise.

  Returns:
    `[..., m]`.
  """
  seen = _beside(observation, t)
  return flow.flow_matching_loss(
    lambda z, t: velocity(z, t, seen),
    jnp.broadcast_to(actions[..., None, :], eps.shape),
    t,
    eps,
  )


def draw_times(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Times at which the sampler evaluates the network."""
  return jnp.asarray(TIMES)[jax.random.randint(key, shape, 0, STEPS)]


def _beside(observation: jax.Array, t: jax.Array) -> jax.Array:
  """The observation `[..., N]` for each of the times `[..., m]`."""
  shape = (*t.shape, observation.shape[-1])
  return jnp.broadcast_to(observation[..., None, :], shape)


def bind(network: nn.Module, params: Any) -> Velocity:
  """The velocity of parameters."""
  return lambda x, t, observation: network.apply(params, x, t, observation)
