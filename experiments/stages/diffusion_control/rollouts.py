# SPDX-License-Identifier: Apache-2.0
"""Episodes of a policy, their advantages, and how well it does."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.stages.diffusion_control import policies
from experiments.stages.diffusion_control.environments import Environment

DISCOUNT, TRACE = 0.995, 0.95  # of generalised advantage estimation


class Episodes(NamedTuple):
  """What happened in E episodes of T steps.

  Attributes:
    seen: `[E, T, N + 1]`, observations and the share of time gone.
    paths: `[E, T, STEPS + 1, M]`, from noise to actions.
    rewards: `[E, T]`.
  """

  seen: jax.Array
  paths: jax.Array
  rewards: jax.Array

  @property
  def actions(self) -> jax.Array:
    """`[E, T, M]`."""
    return self.paths[..., -1, :]


def rollout(
  env: Environment,
  velocity: policies.Velocity,
  key: jax.Array,
  *,
  episodes: int,
  chain,
) -> Episodes:
  """Whole episodes of a policy.

  Args:
    env: what it acts in.
    velocity: of the policy.
    key: consumed.
    episodes: E.
    chain: bool, the denoising chain and not the flow.
  """
  key_start, key_act, key_move = jax.random.split(key, 3)
  starts = jax.vmap(env.reset)(jax.random.split(key_start, episodes))

  shape = (env.horizon, policies.STEPS + 1, episodes, env.action_size)
  noise = jax.random.normal(key_act, shape)
  moves = jax.random.split(key_move, (env.horizon, episodes))

  def step(states, now):
    time, noise, moves = now
    observation = jax.vmap(env.observe)(states)
    gone = jnp.full((episodes, 1), time / env.horizon, observation.dtype)
    seen = jnp.concatenate([observation, gone], -1)
    path = policies.sample(velocity, noise, seen, chain)
    states, rewards = jax.vmap(env.step)(moves, states, path[-1])
    return states, (seen, path, rewards)

  times = jnp.arange(env.horizon)
  _, (seen, paths, rewards) = jax.lax.scan(step, starts, (times, noise, moves))
  return Episodes(
    jnp.swapaxes(seen, 0, 1),
    jnp.moveaxis(paths, 2, 0),
    jnp.swapaxes(rewards, 0, 1),
  )


def advantages(rewards: jax.Array, values: jax.Array) -> jax.Array:
  """Generalised advantage estimates `[E, T]`; nothing is left after T.

  Args:
    rewards: `[E, T]`.
    values: `[E, T]`, what the critic expects from each step on; with 0 and a
      trace of 1 the estimates are the discounted returns.
  """
  return _accumulate(rewards, values, DISCOUNT * TRACE)


def discounted_returns(rewards: jax.Array) -> jax.Array:
  """Discounted rewards from each step on, `[E, T]`."""
  return _accumulate(rewards, jnp.zeros_like(rewards), DISCOUNT)


def _accumulate(rewards, values, decay):
  later = jnp.concatenate([values[:, 1:], jnp.zeros_like(values[:, :1])], 1)
  surprises = rewards + DISCOUNT * later - values

  def step(total, surprise):
    total = surprise + decay * total
    return total, total

  _, found = jax.lax.scan(
    step, jnp.zeros_like(rewards[:, 0]), surprises.T, reverse=True
  )
  return found.T


class Score(NamedTuple):
  """How well a policy does, means over episodes.

  Attributes:
    returns: the sum of rewards, not discounted.
    regret: by how much it is below the best value, `Environment.regret`'s sum.
  """

  returns: jax.Array
  regret: jax.Array


def score(env: Environment, episodes: Episodes) -> Score:
  """The scores `[]` of a policy in its own episodes."""
  lost = env.regret(episodes.seen[..., :-1], episodes.actions)
  return Score(
    jnp.mean(jnp.sum(episodes.rewards, -1)), jnp.mean(jnp.sum(lost, -1))
  )
