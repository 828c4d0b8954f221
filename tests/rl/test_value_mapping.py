# SPDX-License-Identifier: Apache-2.0
"""Mapped action values against plain ones, and against loops in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.exact import mdp as tables
from jaxalign.rl import value_mapping as vm
from tests import helpers

S, A, G = 6, 4, 0.9
PLAIN = vm.ValueMap(lambda x: x, lambda y: y)
ONE = lambda value_map: (vm.Channel(lambda r: r, 1.0, value_map),)

iterate = jax.jit(
  vm.mapped_q_iteration, static_argnames=("channels", "num_iterations")
)


@pytest.fixture(scope="module")
def mdp():
  """Gains and losses: the printed instance with rewards around 0."""
  rs = np.random.RandomState(0)
  transitions = rs.dirichlet(0.3 * np.ones(S), (S, A))
  return tables.TabularMDP(transitions, rs.rand(S, A) - 0.5, G)


def optimal_action_values(mdp):
  return np.asarray(tables.action_values(mdp, tables.optimal_values(mdp)))


@pytest.mark.parametrize("make", [vm.log_map, vm.log_linear_map])
def test_maps(make):
  value_map = make(scale=0.5, floor=0.02)
  x = np.array([0.02, 0.3, 1.0, 1.7, 40.0])
  y = value_map.forward(x)
  helpers.assert_close(value_map.inverse(y), x)
  assert np.all(np.diff(y) > 0)
  helpers.assert_close(value_map.inverse(value_map.forward(-3.0)), 0.02)
  below = x <= 1
  helpers.assert_close(y[below], 0.5 * np.log(x[below]))
  beyond = 0.5 * (x - 1) if make is vm.log_linear_map else 0.5 * np.log(x)
  helpers.assert_close(y[~below], beyond[~below])
  # Gaps between powers are c log(1/g) all the way down to the floor.
  gaps = -np.diff(value_map.forward(0.96 ** np.arange(60)))
  helpers.assert_close(gaps, np.full(59, 0.5 * np.log(1 / 0.96)), rtol=1e-9)
  # One slope on both sides of 1.
  slopes = jax.vmap(jax.grad(value_map.forward))(np.array([0.999999, 1.000001]))
  np.testing.assert_allclose(slopes, 0.5, rtol=2e-6)
  assert jax.grad(value_map.forward)(0.001) == 0  # below the floor
  assert make() is make() and make() is not make(scale=1.0)


def test_the_published_floor_is_a_hundred_steps():
  floor = float(vm.log_map().inverse(vm.log_map().forward(0.0)))
  np.testing.assert_allclose(floor, 0.96**100, rtol=5e-4)  # four digits


def test_polar_channels_put_the_reward_together():
  channels = vm.polar_channels(vm.log_map())
  r = np.array([-2.0, 0.0, 0.7])
  parts = [c.weight * c.reward(r) for c in channels]
  helpers.assert_close(sum(parts), r)
  assert all(np.all(c.reward(r) >= 0) for c in channels)
  assert vm.polar_channels(vm.log_map()) is channels


@pytest.mark.parametrize("rates", [(1.0, 1.0), (0.5, 0.8)])
def test_polar_logarithms_converge_to_the_optimum(mdp, rates):
  """Where no channel's value is below the floor, to 1e-8 and better."""
  channels = vm.polar_channels(vm.log_map())
  value_rate, mapped_rate = rates
  mapped = iterate(
    mdp, channels, num_iterations=800, value_rate=value_rate,
    mapped_rate=mapped_rate,
  )  # fmt: skip
  best = optimal_action_values(mdp)
  found = vm.orchestrated_values(mapped, channels)
  np.testing.assert_allclose(found, best, rtol=0, atol=1e-10)
  # Each channel has the values of its part under the optimal policy.
  policy = tables.greedy_policy(best)
  for channel, row in zip(channels, mapped, strict=True):
    part = mdp._replace(rewards=channel.reward(mdp.rewards))
    values = tables.policy_values(part, policy)
    expected = tables.action_values(part, values)
    assert expected.min() > 0.01687  # the floor does not act
    helpers.assert_close(channel.value_map.inverse(row), expected, rtol=1e-9)


def test_a_floor_that_acts_is_a_bias(mdp):
  """Of at most the floor: values that are 0 are learned as the floor."""
  losses_only = mdp._replace(rewards=mdp.rewards - 0.5)
  channels = vm.polar_channels(vm.log_map())
  mapped = iterate(losses_only, channels, num_iterations=300)
  found = vm.orchestrated_values(mapped, channels)
  helpers.assert_close(
    found, optimal_action_values(losses_only) + 0.01687, rtol=1e-8
  )


def test_the_identity_is_q_iteration(mdp):
  values = np.zeros((S, A))
  for _ in range(5):
    target = mdp.rewards + G * mdp.transitions @ values.max(-1)
    values += 0.4 * (target - values)
  mapped = iterate(
    mdp, ONE(PLAIN), num_iterations=5, value_rate=0.8, mapped_rate=0.5
  )
  helpers.assert_close(mapped[0], values)


def one_by_one(mdp, mapped, channels, value_rate, mapped_rate):
  """The update in loops over states, actions and next states."""
  inverse = [c.value_map.inverse for c in channels]
  forward = [c.value_map.forward for c in channels]
  new = np.array(mapped)
  for s in range(S):
    for a in range(A):
      for j, c in enumerate(channels):
        target = float(c.reward(mdp.rewards[s, a]))
        for after in range(S):
          q = sum(
            k.weight * np.asarray(f(mapped[i, after]))
            for i, (k, f) in enumerate(zip(channels, inverse, strict=True))
          )
          ahead = float(inverse[j](mapped[j, after, np.argmax(q)]))
          target += G * mdp.transitions[s, a, after] * ahead
        value = float(inverse[j](mapped[j, s, a]))
        regularized = value + value_rate * (target - value)
        step = float(forward[j](regularized)) - mapped[j, s, a]
        new[j, s, a] = mapped[j, s, a] + mapped_rate * step
  return new


NUMPY_CHANNELS = (
  vm.Channel(
    lambda r: np.maximum(r, 0),
    1.0,
    vm.ValueMap(
      lambda x: 0.5 * np.log(np.maximum(x, 0.1)), lambda y: np.exp(y / 0.5)
    ),
  ),
  vm.Channel(
    lambda r: np.maximum(-r, 0), -1.0, vm.ValueMap(lambda x: x, lambda y: y)
  ),
)


def test_one_update_against_loops(mdp):
  """Channels of different maps; all pairs at once, and one from a sample."""
  gain, loss = vm.polar_channels(vm.log_map(scale=0.5, floor=0.1))
  channels = (gain, loss._replace(value_map=PLAIN))
  rng = np.random.default_rng(0)
  mapped = rng.normal(size=(2, S, A)) * np.array([0.5, 1.0])[:, None, None]
  rates = {"value_rate": 0.6, "mapped_rate": 0.7}
  expected = one_by_one(mdp, mapped, NUMPY_CHANNELS, 0.6, 0.7)
  found = jax.jit(lambda m: vm.mapped_q_step(mdp, m, channels, **rates))(mapped)
  helpers.assert_close(found, expected)

  # What was seen is the process that always does it.
  s, a, reward, after = 4, 2, -0.3, 1
  seen = tables.TabularMDP(
    np.broadcast_to(np.eye(S)[after], (S, A, S)), np.full((S, A), reward), G
  )
  expected = one_by_one(seen, mapped, NUMPY_CHANNELS, 0.6, 0.7)
  step = jax.jit(
    lambda m, *seen: vm.mapped_q_learning_step(
      m, channels, *seen, discount=G, **rates
    )
  )
  found = step(mapped, s, a, reward, after)
  helpers.assert_close(found[:, s, a], expected[:, s, a])
  kept = np.ones((S, A), bool)
  kept[s, a] = False
  helpers.assert_close(found[:, kept], mapped[:, kept], atol=0)


@pytest.mark.parametrize(
  ("value_rate", "mapped_rate", "limit"),
  [(0.002, 1.0, 1.0), (1.0, 0.002, np.sqrt(0.1 * 1.9))],
)
def test_where_targets_are_averaged(value_rate, mapped_rate, limit):
  """Rewards .1 and 1.9: 1 before the map, the geometric mean .436 after it."""
  channels = ONE(vm.log_map())
  draws = jax.random.bernoulli(jax.random.key(0), shape=(20_000,))
  rewards = jnp.where(draws, 0.1, 1.9)

  def learn(mapped, reward):
    mapped = vm.mapped_q_learning_step(
      mapped, channels, 0, 0, reward, 0, discount=0.0,
      value_rate=value_rate, mapped_rate=mapped_rate,
    )  # fmt: skip
    return mapped, mapped

  run = jax.jit(lambda m: jax.lax.scan(learn, m, rewards)[1])
  late = run(jnp.zeros((1, 1, 1)))[5000:]
  if mapped_rate < 1:
    # The mean of logarithms is what converges.
    found = np.exp(np.mean(late) / 0.5)
  else:
    found = np.mean(np.exp(late / 0.5))
  # 15000 draws of spread .9 (in logs 1.5, times .44): five standard errors.
  assert abs(found - limit) < 5 * 0.9 / np.sqrt(15_000)


def test_gradients(mdp):
  rng = np.random.default_rng(1)
  mapped, weights = rng.normal(size=(2, 2, 2, 3)) * 0.5
  small = tables.random_mdp(jax.random.key(0), 2, 3, discount=G)
  channels = vm.polar_channels(vm.log_linear_map())

  def scalar(mapped, rewards):
    mdp = small._replace(rewards=rewards)
    step = vm.mapped_q_step(
      mdp, mapped, channels, value_rate=0.5, mapped_rate=0.5
    )
    seen = vm.mapped_q_learning_step(
      mapped, channels, 0, 1, rewards[0, 1], 1, discount=G, value_rate=0.5,
      mapped_rate=0.5,
    )  # fmt: skip
    q = vm.orchestrated_values(step, channels)
    return jnp.sum(weights * (step + seen**2)) + jnp.sum(q**2)

  helpers.assert_gradient(scalar, mapped, np.asarray(small.rewards) - 0.45)


def test_transforms(key):
  channels = vm.polar_channels(vm.log_map())

  def all_of_it(transitions, rewards, state):
    mdp = tables.TabularMDP(transitions, rewards, G)
    mapped = vm.mapped_q_iteration(mdp, channels, num_iterations=2)
    seen = vm.mapped_q_learning_step(
      mapped, channels, state, 1, rewards[0, 0], state, discount=G,
      value_rate=0.5, mapped_rate=0.5,
    )  # fmt: skip
    return mapped, seen, vm.orchestrated_values(seen, channels)

  worlds = [
    tables.random_mdp(k, 3, 2, discount=G) for k in jax.random.split(key)
  ]
  helpers.assert_transforms(
    all_of_it,
    np.stack([w.transitions for w in worlds]),
    np.stack([w.rewards for w in worlds]) - 0.5,
    np.array([0, 2]),
  )


def test_the_start_is_zero(mdp):
  channels = (*ONE(PLAIN), *vm.polar_channels(vm.log_map(floor=1.0)))
  start = vm.mapped_q_init(mdp, channels)
  assert start.shape == (3, S, A) and not np.any(start)


def test_bad_input(mdp):
  for make in (vm.log_map, vm.log_linear_map):
    with pytest.raises(ValueError, match="scale must be above 0"):
      make(scale=0.0)
    with pytest.raises(ValueError, match="floor must be above 0"):
      make(floor=0.0)
  with pytest.raises(ValueError, match="floor must be at most 1, was 2"):
    vm.log_linear_map(floor=2.0)
  channels, mapped = vm.polar_channels(vm.log_map()), np.zeros((2, S, A))
  for rates in ({"value_rate": 0.0}, {"mapped_rate": 1.5}):
    with pytest.raises(ValueError, match=r"_rate must be in \(0, 1\]"):
      vm.mapped_q_step(mdp, mapped, channels, **rates)
  with pytest.raises(ValueError, match="one row for each of 2 channels"):
    vm.orchestrated_values(mapped[:1], channels)
  with pytest.raises(ValueError, match="channels is empty"):
    vm.orchestrated_values(mapped, ())
  with pytest.raises(AssertionError, match="need rank 3: mapped"):
    vm.mapped_q_step(mdp, mapped[:, 0], channels)
  with pytest.raises(ValueError, match="num_iterations must be at least 1"):
    vm.mapped_q_iteration(mdp, channels, num_iterations=0)
  learn = functools.partial(
    vm.mapped_q_learning_step, mapped, channels, discount=G, value_rate=0.5,
    mapped_rate=0.5,
  )  # fmt: skip
  with pytest.raises(AssertionError, match="need rank 0: state"):
    learn(np.zeros(1, int), 0, 0.0, 0)
