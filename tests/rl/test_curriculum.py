# SPDX-License-Identifier: Apache-2.0
import collections
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.rl import advantages, curriculum
from tests import helpers
from tests.experiments import conventions

D, W, B = 3, 4, 7


def batches(seed, number):
  """Advantages and distributions; some batches hold more than W of one."""
  rng = np.random.default_rng(seed)
  where = rng.choice(D, size=(number, B), p=(0.8, 0.15, 0.05))
  return rng.normal(size=(number, B)), where


def test_windows_are_queues():
  advantages, where = batches(0, 6)
  assert max(np.bincount(row).max() for row in where) > W

  def body(state, batch):
    state = curriculum.learnability_step(state, *batch)
    return state, (state, curriculum.learnability(state))

  start = curriculum.learnability_init(D, window_size=W)
  data = (jnp.asarray(advantages), jnp.asarray(where))
  states, means = jax.jit(lambda data: jax.lax.scan(body, start, data)[1])(data)
  queues = [collections.deque(maxlen=W) for _ in range(D)]
  counts = np.zeros(D, int)
  for t, (row, sources) in enumerate(zip(advantages, where, strict=True)):
    for a, d in zip(row, sources, strict=True):
      queues[d].append(abs(a))
      counts[d] += 1
    np.testing.assert_array_equal(states.counts[t], counts)
    for d in range(D):
      kept = states.window[t, d, : counts[d]]
      np.testing.assert_array_equal(np.sort(kept), np.sort(queues[d]))
      expected = np.mean(queues[d]) if queues[d] else 0
      np.testing.assert_allclose(means[t, d], expected, atol=1e-15)


def test_a_ring_lets_the_oldest_go():
  state = curriculum.learnability_init(1, window_size=2)
  step = jax.jit(curriculum.learnability_step)
  for a in (1.0, -2.0, 3.0):
    state = step(state, jnp.array([a]), jnp.array([0]))
  np.testing.assert_array_equal(state.window, [[3, 2]])
  assert curriculum.learnability(state) == 2.5


def test_steps_transform():
  advantages, where = batches(1, 2)
  window = np.abs(batches(2, 2)[0])[:, None, :W] * np.ones((1, D, 1))
  counts = np.array([[5, 2, 0], [0, 9, 1]], np.int32)

  def step(window, *args):
    state = curriculum.LearnabilityState(window, args[0])
    state = curriculum.learnability_step(state, *args[1:])
    return state, curriculum.learnability(state)

  arrays = (window, counts, advantages, where)
  helpers.assert_transforms(step, *map(jnp.asarray, arrays))


def test_no_gradient_passes():
  start = curriculum.learnability_init(2, window_size=3)

  def mean(a):
    state = curriculum.learnability_step(start, a, jnp.array([0, 1]))
    return jnp.sum(curriculum.learnability(state))

  np.testing.assert_array_equal(jax.grad(mean)(jnp.array([1.0, -2.0])), 0)


def test_weights_are_the_formula():
  rng = np.random.default_rng(3)
  mu, n = rng.random((2, 5)), rng.integers(0, 200, (2, 5))
  score = mu + np.sqrt(2 * np.log(n.sum(-1, keepdims=True) + 1) / (n + 1))
  expected = np.exp(score / 0.1)
  expected /= expected.sum(-1, keepdims=True)
  found = curriculum.ucb_weights(jnp.asarray(mu), jnp.asarray(n))
  np.testing.assert_allclose(found, expected, rtol=1e-12)
  helpers.assert_transforms(
    curriculum.ucb_weights, jnp.asarray(mu), jnp.asarray(n)
  )


def test_weights_are_uniform_where_nothing_differs():
  for n in (0, 7):
    found = curriculum.ucb_weights(jnp.full(4, 0.3), jnp.full(4, n))
    np.testing.assert_allclose(found, 0.25, rtol=1e-15)


def test_weights_rise_with_learnability_and_as_counts_fall():
  weights = jax.jit(curriculum.ucb_weights)
  mu, n = jnp.full(3, 0.5), jnp.array([50, 50, 50])
  last = [weights(mu, n.at[2].set(k))[2] for k in (5, 20, 50, 100)]
  assert np.all(np.diff(last) < 0)
  last = [weights(mu.at[2].set(m), n)[2] for m in (0.1, 0.5, 0.9)]
  assert np.all(np.diff(last) > 0)


def test_always_right_or_wrong_teaches_nothing():
  rewards = jnp.array([1.0] * 4 + [0.0] * 4 + [1.0, 0.0, 0.0, 0.0])
  found = advantages.group_advantages(rewards, num_generations=4)
  start = curriculum.learnability_init(3, window_size=4)
  where = jnp.repeat(jnp.arange(3), 4)
  mean = curriculum.learnability(
    curriculum.learnability_step(start, found, where)
  )
  np.testing.assert_array_equal(mean[:2], 0)
  assert mean[2] > 0.5


def test_expected_advantage_has_the_printed_values():
  for p, printed in ((0.05, ".2349"), (0.25, ".7598"), (0.5, ".9278")):
    found = curriculum.expected_abs_advantage(
      jnp.array(p), num_generations=8, ddof=0
    )
    conventions.assert_printed(float(found), printed)


@pytest.mark.parametrize("ddof", [0, 1])
def test_expected_advantage_is_that_of_all_groups(ddof):
  size, p = 4, np.array([0.0, 0.03, 0.5, 0.8, 1.0])
  groups = np.array(list(itertools.product((0.0, 1.0), repeat=size)))
  each = advantages.group_advantages(
    jnp.asarray(groups), num_generations=size, ddof=ddof, eps=0.0
  )
  mean = np.abs(each).mean(1)
  right = groups.sum(1)
  probs = p[:, None] ** right * (1 - p[:, None]) ** (size - right)
  found = curriculum.expected_abs_advantage(
    jnp.asarray(p), num_generations=size, ddof=ddof
  )
  np.testing.assert_allclose(found, probs @ mean, atol=1e-15)


def test_expected_advantage_of_a_group_of_one_and_of_very_many():
  one = curriculum.expected_abs_advantage(jnp.array(0.3), num_generations=1)
  assert one == 0
  # 2 sqrt(p (1 - p)) in the limit; the binomial coefficients overflow.
  many = curriculum.expected_abs_advantage(
    jnp.float32(0.3), num_generations=2000
  )
  assert many.dtype == jnp.float32
  np.testing.assert_allclose(many, 2 * math.sqrt(0.21), rtol=1e-3)


def test_expected_advantage_has_its_gradient_also_at_the_ends():
  def fn(p):
    return curriculum.expected_abs_advantage(p, num_generations=5)

  helpers.assert_gradient(fn, jnp.array(0.3))
  # Of K = 1 alone: G times its value.
  value = 2 * math.sqrt(1 / 5 * 4 / 5 * 4 / 5)
  np.testing.assert_allclose(jax.grad(fn)(0.0), 5 * value, rtol=1e-12)
  np.testing.assert_allclose(jax.grad(fn)(1.0), -5 * value, rtol=1e-12)
  helpers.assert_transforms(fn, jnp.array([[0.1, 0.2], [0.3, 1.0]]))


def test_bad_input():
  start = curriculum.learnability_init(2)
  with pytest.raises(ValueError, match="window_size must be above 0, was 0"):
    curriculum.learnability_init(2, window_size=0)
  with pytest.raises(AssertionError, match=r"advantages \(2,\)"):
    curriculum.learnability_step(start, jnp.zeros(2), jnp.zeros(3, int))
  with pytest.raises(AssertionError):
    curriculum.learnability_step(start, jnp.zeros(2), jnp.zeros(2))
  with pytest.raises(AssertionError, match=r"counts \(3,\)"):
    curriculum.ucb_weights(jnp.zeros(2), jnp.zeros(3))
  with pytest.raises(ValueError, match="temperature must be above 0"):
    curriculum.ucb_weights(jnp.zeros(2), jnp.zeros(2), temperature=0.0)
  with pytest.raises(ValueError, match="ddof must be 0 or 1"):
    curriculum.expected_abs_advantage(jnp.zeros(()), num_generations=2, ddof=2)
