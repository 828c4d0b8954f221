# SPDX-License-Identifier: Apache-2.0
"""From offline training to the world: a warm start, and an expert's takeovers.

A warm start collects some steps with the frozen policy before the first update
and keeps no offline data. With an expert who takes over, the takeover itself is
the reward: it says that what the agent had just done was bad.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = (
  "WarmStart",
  "WarmStartPlan",
  "intervention_mask",
  "intervention_rewards",
  "intervention_value_bound",
  "warm_start_batch",
  "warm_start_init",
  "warm_start_step",
)


class WarmStart(NamedTuple):
  """What has been seen online; nothing of the offline data.

  Attributes:
    buffer: a tree of `[C, ...]`, transitions, the oldest overwritten first.
    collected: int32 scalar, online steps so far.
  """

  buffer: Any
  collected: jax.Array


class WarmStartPlan(NamedTuple):
  """What to do after an online step.

  Attributes:
    frozen: bool scalar, the offline policy acts unchanged so far.
    num_updates: int32 scalar, updates to make now.
  """

  frozen: jax.Array
  num_updates: jax.Array


def warm_start_init(transition: Any, *, capacity: int) -> WarmStart:
  """An empty buffer.

  Args:
    transition: a tree of arrays, one transition, for shapes and types.
    capacity: C, transitions to keep, at least 1.

  Returns:
    `WarmStart` before the first online step.

  Raises:
    ValueError: capacity below 1.

  >>> warm_start_init({"reward": jnp.zeros(())}, capacity=2).buffer
  {'reward': Array([0., 0.], dtype=float32)}

  Reference:
    WSRL: Efficient Online RL Fine-Tuning Need Not Retain Offline Data
    (2412.07762).
  """
  if capacity < 1:
    raise ValueError(f"capacity must be at least 1, was {capacity}")

  def empty(x):
    x = jnp.asarray(x)
    return jnp.zeros((capacity, *x.shape), x.dtype)

  return WarmStart(jax.tree.map(empty, transition), jnp.zeros((), jnp.int32))


def warm_start_step(
  state: WarmStart,
  transition: Any,
  *,
  warmup_steps: int = 5000,
  updates_per_step: int = 4,
) -> tuple[WarmStart, WarmStartPlan]:
  """Stores an online transition and says how many updates follow.

  None during the first `warmup_steps` steps, which the frozen policy takes;
  `updates_per_step` after each later one.

  Args:
    state: as of `warm_start_init` or the step before.
    transition: a tree of arrays, of the buffer's shapes without the first axis.
    warmup_steps: online steps without updates, at least 0.
    updates_per_step: after each step from then on, at least 1.

  Returns:
    The next `WarmStart` and its `WarmStartPlan`.

  Raises:
    ValueError: a count is too small, or the transition does not fit.

  >>> state = warm_start_init(jnp.zeros(()), capacity=9)
  >>> for _ in range(3):
  ...   state, plan = warm_start_step(state, jnp.ones(()), warmup_steps=2)
  ...   print(plan.frozen, plan.num_updates)
  True 0
  True 0
  False 4

  Reference:
    WSRL: Efficient Online RL Fine-Tuning Need Not Retain Offline Data
    (2412.07762).
  """
  if warmup_steps < 0:
    raise ValueError(f"warmup_steps must be at least 0, was {warmup_steps}")
  if updates_per_step < 1:
    raise ValueError(
      f"updates_per_step must be at least 1, was {updates_per_step}"
    )

  def store(kept, new):
    if jnp.shape(new) != kept.shape[1:]:
      raise ValueError(
        f"need a transition of shape {kept.shape[1:]}, was {jnp.shape(new)}"
      )
    return kept.at[state.collected % kept.shape[0]].set(new)

  buffer = jax.tree.map(store, state.buffer, transition)
  collected = state.collected + 1
  frozen = collected <= warmup_steps
  num_updates = jnp.where(frozen, 0, updates_per_step).astype(jnp.int32)
  return WarmStart(buffer, collected), WarmStartPlan(frozen, num_updates)


def warm_start_batch(
  key: jax.Array, state: WarmStart, *, batch_size: int
) -> Any:
  """Draws stored transitions, uniformly and with replacement.

  Args:
    key: a typed key.
    state: with at least one step collected.
    batch_size: B, at least 1.

  Returns:
    A tree of `[B, ...]`: the buffer's zeros if nothing is collected yet.

  Raises:
    ValueError: batch_size below 1.

  >>> state = warm_start_init(jnp.zeros(()), capacity=9)
  >>> state, _ = warm_start_step(state, jnp.ones(()))
  >>> print(warm_start_batch(jax.random.key(0), state, batch_size=3))
  [1. 1. 1.]

  Reference:
    WSRL: Efficient Online RL Fine-Tuning Need Not Retain Offline Data
    (2412.07762).
  """
  if batch_size < 1:
    raise ValueError(f"batch_size must be at least 1, was {batch_size}")
  capacity = jax.tree.leaves(state.buffer)[0].shape[0]
  size = jnp.clip(state.collected, 1, capacity)
  rows = jax.random.randint(key, (batch_size,), 0, size)
  return jax.tree.map(lambda x: x[rows], state.buffer)


def intervention_rewards(
  intervened: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """Minus one for what made the expert take over.

  `r_t = -1[agent acts at t, expert at t + 1]`, else 0: the agent's transition
  just before the takeover, not the expert's first, as in the authors' code. An
  expert who acts from the first step on punishes nobody.

  Args:
    intervened: bool `[..., T]`, the expert chose the action.
    where: bool `[..., T]`, steps that took place; all by default.

  Returns:
    float32 `[..., T]`, 0 where masked.

  Raises:
    AssertionError: shapes differ.
    ValueError: intervened is a scalar or not bool.

  >>> print(intervention_rewards(jnp.array([False, False, True, True, False])))
  [ 0. -1.  0.  0.  0.]

  Reference:
    RLIF: Interactive Imitation Learning as Reinforcement Learning
    (2311.12996).
  """
  if jnp.ndim(intervened) < 1 or intervened.dtype != bool:
    raise ValueError(
      "intervened must be bool [..., T], was"
      f" {intervened.dtype} {intervened.shape}"
    )
  if where is None:
    where = jnp.ones(intervened.shape, bool)
  checks.check_same_shape(intervened=intervened, where=where)
  taken = intervened & where
  following = jnp.concatenate(
    [taken[..., 1:], jnp.zeros_like(taken[..., :1])], -1
  )
  return jnp.where(where & ~intervened & following, -1, 0).astype(jnp.float32)


def intervention_mask(
  action_values: jax.Array, values: jax.Array, *, delta: float
) -> jax.Array:
  """Where an expert who knows the values takes over.

  `Q^e(s, a) < V^e(s) - delta`. With delta = 0 rounding decides about the
  expert's own actions, unless V^e is computed from the same Q^e.

  Args:
    action_values: `[..., A]`, Q of the expert.
    values: `[...]`, V of the expert.
    delta: tolerance, at least 0.

  Returns:
    bool `[..., A]`.

  Raises:
    AssertionError: shapes do not fit, or an array is not floating point.
    ValueError: delta is negative.

  >>> q, v = jnp.array([1., .8, .2]), jnp.array(1.)
  >>> print(intervention_mask(q, v, delta=.5))
  [False False  True]

  Reference:
    RLIF: Interactive Imitation Learning as Reinforcement Learning
    (2311.12996).
  """
  if delta < 0:
    raise ValueError(f"delta must be at least 0, was {delta}")
  checks.check_float(action_values=action_values, values=values)
  checks.check_same_shape(
    **{"action_values[..., 0]": action_values[..., 0]}, values=values
  )
  q, v = numerics.as_float(action_values), numerics.as_float(values)
  return q < v[..., None] - delta


def intervention_value_bound(
  values: jax.Array, *, delta: float, discount: float
) -> jax.Array:
  """What a policy that is never interrupted is worth at least.

  `V^pi >= V^e - delta/(1 - g)` in every state, if `Q^e(s, a) >= V^e(s) - delta`
  for all that pi does: each step loses at most delta. With delta = 0 the policy
  is at least the expert's equal.

  Args:
    values: `[...]`, V of the expert.
    delta: of `intervention_mask`, at least 0.
    discount: g, in `[0, 1)`.

  Returns:
    `[...]`.

  Raises:
    AssertionError: values are not floating point.
    ValueError: delta is negative, or the discount outside `[0, 1)`.

  >>> print(intervention_value_bound(jnp.array([2.]), delta=.5, discount=.75))
  [0.]

  Reference:
    RLIF: Interactive Imitation Learning as Reinforcement Learning
    (2311.12996); the performance difference lemma.
  """
  if delta < 0:
    raise ValueError(f"delta must be at least 0, was {delta}")
  if not 0 <= discount < 1:
    raise ValueError(f"discount must be in [0, 1), was {discount}")
  checks.check_float(values=values)
  return numerics.as_float(values) - delta / (1 - discount)
