# SPDX-License-Identifier: Apache-2.0
"""Environments of gymnax, an optional extra, under this experiment's protocol.

Actions of the policy in [-1, 1] become those of the environment's box. Episodes
have the environment's longest length: one that ends before stays where it is,
with reward 0.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks


class Adapted(NamedTuple):
  """The fields of `environments.Environment` that every environment has."""

  reset: Callable[[jax.Array], Any]
  observe: Callable[[Any], jax.Array]
  step: Callable[[jax.Array, Any, jax.Array], tuple[Any, jax.Array]]
  observation_size: int
  action_size: int
  horizon: int


class _State(NamedTuple):
  """gymnax's own state, what was seen of it, and whether it has ended."""

  inner: Any
  observation: jax.Array
  ended: jax.Array


def load(name: str) -> tuple[Any, Any]:
  """An environment of gymnax and its parameters.

  Raises:
    InputError: gymnax is not installed, or has no such environment.
  """
  try:
    import gymnax
  except ImportError:
    raise checks.InputError(
      f"gymnax:{name} needs gymnax: pip install 'jaxalign[control]'"
    ) from None
  try:
    return gymnax.make(name)
  except ValueError as error:
    raise checks.InputError(f"gymnax:{name}: {error}") from None


def adapt(env: Any, params: Any) -> Adapted:
  """An environment with gymnax's interface, with episodes of one length.

  Args:
    env: has `reset`, `step_env`, `action_space` and `observation_space`.
    params: its parameters, with `max_steps_in_episode`.

  Raises:
    InputError: its actions or observations are not arrays of real numbers.
  """
  actions, seen = env.action_space(params), env.observation_space(params)
  for what, space in (("actions", actions), ("observations", seen)):
    if not hasattr(space, "low") or not hasattr(space, "shape"):
      raise checks.InputError(
        f"{type(env).__name__} has {what} that are no box of real numbers"
      )
  low, high = (
    jnp.broadcast_to(jnp.asarray(x, jnp.float32), actions.shape)
    for x in (actions.low, actions.high)
  )

  def reset(key):
    observation, inner = env.reset(key, params)
    return _State(inner, observation, jnp.zeros((), bool))

  def step(key, state, action):
    action = jnp.clip(action, -1, 1).reshape(actions.shape)
    action = low + (action + 1) / 2 * (high - low)
    ended_before = state.ended
    # Not `step`, which starts a new episode at the end of one.
    observation, inner, reward, ended, _ = env.step_env(
      key, state.inner, action, params
    )
    new = _State(inner, observation, ended_before | ended)
    state = jax.tree.map(
      lambda old, new: jnp.where(ended_before, old, new), state, new
    )
    return state, jnp.where(ended_before, 0, reward)

  return Adapted(
    reset=reset,
    observe=lambda state: jnp.ravel(state.observation).astype(jnp.float32),
    step=step,
    observation_size=math.prod(seen.shape),
    action_size=math.prod(actions.shape),
    horizon=int(params.max_steps_in_episode),
  )
