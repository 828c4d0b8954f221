# SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.exact import mdp as mdps
from jaxalign.rl import offline_to_online
from tests import helpers

# --- the warm start ----------------------------------------------------------


def run(num_steps, capacity, **options):
  """Steps whose transition is their number; states and plans stacked."""
  start = offline_to_online.warm_start_init(
    {"reward": jnp.zeros(()), "seen": jnp.zeros(2, jnp.int32)},
    capacity=capacity,
  )

  def step(state, i):
    transition = {"reward": i + 0.5, "seen": jnp.stack([i, -i])}
    state, plan = offline_to_online.warm_start_step(
      state, transition, **options
    )
    return state, (state.collected, plan)

  return jax.lax.scan(step, start, jnp.arange(num_steps, dtype=jnp.int32))


def test_updates_begin_after_the_warm_up():
  state, (collected, plan) = run(7, 10, warmup_steps=4, updates_per_step=3)
  assert collected.tolist() == list(range(1, 8))
  assert plan.frozen.tolist() == [True] * 4 + [False] * 3
  assert plan.num_updates.tolist() == [0] * 4 + [3] * 3
  # By default 5000 steps, then four updates each.
  _, (_, plan) = run(5002, 1)
  assert plan.num_updates.sum() == 8 and plan.frozen.sum() == 5000
  assert state.buffer["reward"].tolist() == [
    0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 0, 0, 0
  ]  # fmt: skip
  assert state.buffer["seen"].dtype == jnp.int32


def test_no_warm_up_updates_at_once():
  _, (_, plan) = run(2, 2, warmup_steps=0)
  assert plan.num_updates.tolist() == [4, 4]


def test_a_full_buffer_forgets_the_oldest():
  state, _ = run(7, 3, warmup_steps=1)
  assert sorted(state.buffer["reward"].tolist()) == [4.5, 5.5, 6.5]
  assert (state.buffer["seen"][:, 0] + 0.5 == state.buffer["reward"]).all()


def test_batches_are_of_what_was_collected_only(key):
  """Never of the empty part of the buffer; each transition is drawn."""
  draw = jax.jit(
    lambda key, state: offline_to_online.warm_start_batch(
      key, state, batch_size=200
    )
  )
  for steps, expected in (
    (3, {0.5, 1.5, 2.5}),
    (7, {2.5, 3.5, 4.5, 5.5, 6.5}),
  ):
    state, _ = run(steps, 5, warmup_steps=1)
    batch = draw(key, state)
    assert set(batch["reward"].tolist()) == expected
    assert batch["seen"].shape == (200, 2)
    # Rows stay together.
    np.testing.assert_array_equal(batch["seen"][:, 0] + 0.5, batch["reward"])


# --- interventions -----------------------------------------------------------


def test_rewards_of_every_pattern_of_interventions():
  """All 32 patterns of five steps, against the definition in words."""
  patterns = np.array(list(itertools.product([False, True], repeat=5)))
  found = offline_to_online.intervention_rewards(jnp.asarray(patterns))
  for pattern, rewards in zip(patterns, np.asarray(found), strict=True):
    for t in range(5):
      takeover = t < 4 and not pattern[t] and pattern[t + 1]
      assert rewards[t] == (-1 if takeover else 0)
  assert found.dtype == jnp.float32


def test_steps_that_did_not_happen_have_no_reward():
  intervened = jnp.array([[False, True, True], [False, False, True]])
  where = jnp.array([[True, False, False], [True, True, True]])
  rewards = offline_to_online.intervention_rewards(intervened, where=where)
  np.testing.assert_array_equal(rewards, [[0, 0, 0], [0, -1, 0]])


def expert_of(world, key):
  """A deterministic expert and its values, equal to the last digit."""
  expert = mdps.greedy_policy(jax.random.normal(key, world.rewards.shape))
  q = mdps.action_values(world, mdps.policy_values(world, expert))
  # From the same Q, so that the expert's own actions are never below V.
  return expert, q, jnp.sum(expert * q, -1)


@pytest.mark.parametrize("delta", [0.0, 0.1, 0.4])
def test_a_policy_without_interventions_is_nearly_the_experts_equal(key, delta):
  """All 81 deterministic policies of random processes, and mixtures."""
  tables = jnp.array(list(itertools.product(range(3), repeat=4)))
  policies = jax.nn.one_hot(tables, 3, dtype=jnp.float64)
  evaluate = jax.jit(jax.vmap(mdps.policy_values, in_axes=(None, 0)))
  free_ones, violations = 0, 0
  for seed in range(4):
    first, second, third = jax.random.split(jax.random.key(seed), 3)
    world = mdps.random_mdp(first, 4, 3, discount=0.75)
    expert, q, v = expert_of(world, second)
    taken_over = offline_to_online.intervention_mask(q, v, delta=delta)
    bound = offline_to_online.intervention_value_bound(
      v, delta=delta, discount=0.75
    )
    free = ~jnp.any((policies > 0) & taken_over, (1, 2))
    values = evaluate(world, policies)
    # 1e-12: roundings of a linear solve.
    assert np.all(values[free] >= bound - 1e-12)
    violations += int(jnp.sum(jnp.any(values < bound - 1e-12, 1)))
    free_ones += int(free.sum())
    own = jnp.all(policies == expert, (1, 2))
    assert free[own].all()  # the expert never interrupts itself
    # A mixture of what is allowed everywhere.
    mixed = jax.random.uniform(third, (4, 3)) * ~taken_over
    mixed /= mixed.sum(-1, keepdims=True)
    assert np.all(mdps.policy_values(world, mixed) >= bound - 1e-12)
  # Neither side is empty: some are free, and some policies break the bound.
  assert free_ones > 4
  assert violations > 0 or delta == 0.4


def test_the_bound_is_reached():
  """One state, an expert of reward 1, an agent who loses delta each step."""
  world = mdps.TabularMDP(jnp.ones((1, 2, 1)), jnp.array([[1.0, 0.75]]), 0.5)
  v = mdps.policy_values(world, jnp.array([[1.0, 0.0]]))
  q = mdps.action_values(world, v)
  agent = jnp.array([[0.0, 1.0]])
  mask = offline_to_online.intervention_mask(q, v, delta=0.25)
  assert not mask.any()  # equality is no reason to take over
  assert offline_to_online.intervention_mask(q, v, delta=0.24)[0, 1]
  bound = offline_to_online.intervention_value_bound(
    v, delta=0.25, discount=0.5
  )
  np.testing.assert_array_equal(mdps.policy_values(world, agent), bound)


def test_no_return_of_interventions_means_no_interventions(key):
  """The rewards of all paths sum to 0 exactly for free policies."""
  world = mdps.random_mdp(key, 3, 2, discount=0.9)
  _, q, v = expert_of(world, jax.random.key(3))
  taken_over = offline_to_online.intervention_mask(q, v, delta=0.05)
  start = jnp.ones(3) / 3

  @jax.jit
  def expected_return(policy):
    paths = mdps.enumerate_trajectories(world, policy, start, 3)
    # The expert acts wherever the agent's own choice would be refused.
    refused = taken_over[paths.states[:, :-1], paths.actions]
    rewards = offline_to_online.intervention_rewards(refused)
    first = refused[:, 0]
    return paths.probs @ rewards.sum(-1), paths.probs @ first

  for table in itertools.product(range(2), repeat=3):
    policy = jax.nn.one_hot(jnp.array(table), 2, dtype=jnp.float64)
    interrupted = bool(jnp.any((policy > 0) & taken_over))
    total, at_once = expected_return(policy)
    assert (total < 0 or at_once > 0) == interrupted


# --- transforms, refusals ----------------------------------------------------


def test_transforms(key):
  q = jax.random.normal(key, (2, 4, 3))
  intervened = q[..., 0] > 0

  def everything(q, intervened):
    v = q.max(-1)
    return (
      offline_to_online.intervention_rewards(intervened, where=intervened),
      offline_to_online.intervention_mask(q, v, delta=0.5),
      offline_to_online.intervention_value_bound(v, delta=0.5, discount=0.5),
    )

  helpers.assert_transforms(everything, q, intervened)

  def warm(reward):
    state = offline_to_online.warm_start_init(reward[0], capacity=2)
    for r in reward:
      state, plan = offline_to_online.warm_start_step(state, r, warmup_steps=2)
    key = jax.random.key(1)
    return (
      offline_to_online.warm_start_batch(key, state, batch_size=3),
      plan.num_updates,
    )

  helpers.assert_transforms(warm, q[..., 0])


def test_bad_input_is_refused(key):
  empty = offline_to_online.warm_start_init(jnp.zeros(2), capacity=1)
  step = offline_to_online.warm_start_step
  with pytest.raises(ValueError, match="capacity"):
    offline_to_online.warm_start_init(jnp.zeros(2), capacity=0)
  with pytest.raises(ValueError, match="warmup_steps"):
    step(empty, jnp.zeros(2), warmup_steps=-1)
  with pytest.raises(ValueError, match="updates_per_step"):
    step(empty, jnp.zeros(2), updates_per_step=0)
  with pytest.raises(ValueError, match=r"shape \(2,\)"):
    step(empty, jnp.zeros(3))
  with pytest.raises(ValueError, match="batch_size"):
    offline_to_online.warm_start_batch(key, empty, batch_size=0)
  for wrong in (jnp.ones(3), jnp.array(True)):
    with pytest.raises(ValueError, match="must be bool"):
      offline_to_online.intervention_rewards(wrong)
  with pytest.raises(AssertionError, match="where"):
    offline_to_online.intervention_rewards(
      jnp.ones(3, bool), where=jnp.ones(2, bool)
    )
  q, v = jnp.ones((2, 3)), jnp.ones(2)
  with pytest.raises(ValueError, match="delta"):
    offline_to_online.intervention_mask(q, v, delta=-1.0)
  with pytest.raises(AssertionError, match="values"):
    offline_to_online.intervention_mask(q, v[:1], delta=0.0)
  with pytest.raises(ValueError, match="delta"):
    offline_to_online.intervention_value_bound(v, delta=-1.0, discount=0.5)
  with pytest.raises(ValueError, match="discount must be in"):
    offline_to_online.intervention_value_bound(v, delta=0.0, discount=1.0)
