# SPDX-License-Identifier: Apache-2.0
"""Worlds with continuous actions, as pure functions.

A torque-limited pendulum, a mass in the plane whose best value is known, and
whatever gymnax has. Episodes have one length; who acts may see the time.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.stages.diffusion_control import gymnax_adapter
from jaxalign.exact import linear_quadratic

POINT_MASS, PENDULUM, GYMNAX = "point_mass", "pendulum", "gymnax:"
NAMES = (POINT_MASS, PENDULUM, f"{GYMNAX}NAME")


class Environment(NamedTuple):
  """What a policy acts in.

  Attributes:
    reset: key to a state.
    observe: state to observation `[N]`.
    step: key, state and action `[M]` to the next state and the reward.
    observation_size: N.
    action_size: M.
    horizon: T, steps of an episode.
    regret: observations `[..., T, N]` and actions `[..., T, M]` to what each
      action costs against the best one `[..., T]`; NaN where none knows.
  """

  reset: Callable[[jax.Array], Any]
  observe: Callable[[Any], jax.Array]
  step: Callable[[jax.Array, Any, jax.Array], tuple[Any, jax.Array]]
  observation_size: int
  action_size: int
  horizon: int
  regret: Callable[[jax.Array, jax.Array], jax.Array]


def _unknown(observations: jax.Array, actions: jax.Array) -> jax.Array:
  del actions
  return jnp.full(observations.shape[:-1], jnp.nan)


def point_mass(horizon: int = 50) -> Environment:
  """A mass in the plane, at rest somewhere, to be brought to rest at 0."""
  world = linear_quadratic.point_mass()
  best = linear_quadratic.optimal_linear_policy(world, horizon=horizon)
  root = jnp.sqrt(world.noise)  # which is diagonal

  def step(key, x, u):
    cost = x @ world.state_cost @ x + u @ world.action_cost @ u
    noise = root @ jax.random.normal(key, x.shape)
    return world.dynamics @ x + world.control @ u + noise, -cost

  return Environment(
    reset=lambda key: jax.random.normal(key, (4,)).at[2:].set(0),
    observe=lambda x: x,
    step=step,
    observation_size=4,
    action_size=2,
    horizon=horizon,
    regret=lambda x, u: linear_quadratic.action_regret(*best, x, u),
  )


def pendulum(horizon: int = 100) -> Environment:
  """A rod that hangs on a motor too weak to lift it at once.

  Gym's Pendulum-v1: g = 10, mass and length 1, dt = .05, torque within 2 (here
  twice the action), speed within 8; reward
  `-(angle^2 + .1 speed^2 + .001 torque^2)`, the angle from upright.
  """
  dt, gravity, most_torque, most_speed = 0.05, 10.0, 2.0, 8.0

  def reset(key):
    most = jnp.array([jnp.pi, 1.0])
    return jax.random.uniform(key, (2,), minval=-most, maxval=most)

  def step(key, state, action):
    del key  # nothing is random
    angle, speed = state
    torque = jnp.clip(most_torque * action[0], -most_torque, most_torque)
    upright = (angle + jnp.pi) % (2 * jnp.pi) - jnp.pi
    reward = -(upright**2 + 0.1 * speed**2 + 0.001 * torque**2)
    speed += dt * (1.5 * gravity * jnp.sin(angle) + 3 * torque)
    speed = jnp.clip(speed, -most_speed, most_speed)
    return jnp.stack([angle + dt * speed, speed]), reward

  return Environment(
    reset=reset,
    observe=lambda s: jnp.stack([jnp.cos(s[0]), jnp.sin(s[0]), s[1]]),
    step=step,
    observation_size=3,
    action_size=1,
    horizon=horizon,
    regret=_unknown,
  )


def check_name(name: str) -> None:
  """Raises unless `make` knows the name."""
  known = name in (POINT_MASS, PENDULUM)
  if not known and not (name.startswith(GYMNAX) and name != GYMNAX):
    raise ValueError(
      f"unknown environment {name!r}: choose one of {', '.join(NAMES)}"
    )


@functools.cache
def make(name: str) -> Environment:
  """The environment of a name.

  Args:
    name: `"point_mass"`, `"pendulum"`, or `"gymnax:"` and gymnax's name.

  Raises:
    ValueError: an unknown name.
    InputError: gymnax is not installed, or has no such environment with
      continuous actions.
  """
  check_name(name)
  if name == POINT_MASS:
    return point_mass()
  if name == PENDULUM:
    return pendulum()
  found = gymnax_adapter.adapt(*gymnax_adapter.load(name[len(GYMNAX) :]))
  return Environment(**found._asdict(), regret=_unknown)
