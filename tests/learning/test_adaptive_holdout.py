# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.learning import adaptive_holdout
from tests import helpers

TRAIN = np.array([0.5, 0.9, 0.1, 0.4, 0.3])
HOLDOUT = np.array([0.45, 0.2, 0.1, 0.9, 0.9])
ask = jax.jit(
  functools.partial(adaptive_holdout.thresholdout, threshold=0.2),
  static_argnames="budget",
)


def test_without_noise_it_is_a_threshold(key):
  found = ask(key, TRAIN, HOLDOUT, scale=0.0, budget=5)
  np.testing.assert_array_equal(found.answers, [0.5, 0.2, 0.1, 0.9, 0.9])
  np.testing.assert_array_equal(found.from_holdout, [0, 1, 0, 1, 1])
  np.testing.assert_array_equal(found.budget, [5, 4, 4, 3, 2])


def test_nothing_is_answered_once_the_budget_is_spent(key):
  found = ask(key, TRAIN, HOLDOUT, scale=0.0, budget=1)
  expected = [0.5, 0.2, np.nan, np.nan, np.nan]
  np.testing.assert_array_equal(found.answers, expected)
  np.testing.assert_array_equal(found.budget, [1, 0, 0, 0, 0])


def test_a_loop_over_steps_gives_the_same_with_the_same_keys(key):
  start, rest = jax.random.split(key)
  state = adaptive_holdout.thresholdout_init(start, scale=0.1, budget=3)
  step = jax.jit(adaptive_holdout.thresholdout_step)
  found = []
  for k, a, b in zip(jax.random.split(rest, 5), TRAIN, HOLDOUT, strict=True):
    state, result = step(state, k, a, b, threshold=0.2, scale=0.1)
    found.append(result)
  looped = jax.tree.map(lambda *x: np.stack(x), *found)
  scanned = ask(key, TRAIN, HOLDOUT, scale=0.1, budget=3)
  helpers.assert_close(looped.budget, scanned.budget)
  np.testing.assert_allclose(looped.answers, scanned.answers, rtol=1e-12)


def test_noise_has_its_scale(key):
  """Far apart, every answer is of the holdout, with noise of scale s."""
  number, scale = 20000, 0.1
  found = ask(
    key, jnp.full(number, 100.0), jnp.zeros(number), scale=scale, budget=number
  )
  assert np.all(found.from_holdout)
  size = np.abs(np.asarray(found.answers))
  # |Lap(s)| is exponential of mean s and standard deviation s.
  np.testing.assert_allclose(
    size.mean(), scale, rtol=0, atol=5 * scale / np.sqrt(number)
  )


def test_how_often_the_holdout_is_used_near_the_threshold(key):
  """One query for each of many keys: `P(Lap(2 s) + Lap(4 s) < excess)`."""
  number = 4000
  one = jax.vmap(
    lambda k, gap: adaptive_holdout.thresholdout(
      k, gap[None], jnp.zeros(1), threshold=0.2, scale=0.1, budget=1
    ).from_holdout[0],
    (0, None),
  )
  used = np.asarray(jax.jit(one)(jax.random.split(key, number), jnp.array(0.2)))
  np.testing.assert_allclose(used.mean(), 0.5, atol=2.5 / np.sqrt(number))
  used = np.asarray(jax.jit(one)(jax.random.split(key, number), jnp.array(0.5)))
  a, b, x = 0.2, 0.4, 0.3
  tail = (b**2 * np.exp(-x / b) - a**2 * np.exp(-x / a)) / (2 * (b**2 - a**2))
  np.testing.assert_allclose(used.mean(), 1 - tail, atol=2.5 / np.sqrt(number))


def test_signs_of_what_agrees():
  train = np.array([0.3, -0.5, 0.2, 0.4, 0.1, -0.6])
  answers = np.array([0.2, -0.3, -0.2, 0.05, 0.3, np.nan])
  for number, expected in (
    (1, [0, -1, 0, 0, 0, 0]),
    (2, [1, -1, 0, 0, 0, 0]),
    (6, [1, -1, 0, 0, 0, 0]),
  ):
    found = adaptive_holdout.agreeing_signs(
      train, answers, bound=0.1, num_features=number
    )
    np.testing.assert_array_equal(found, expected)


def test_transforms(key):
  keys = jax.random.split(key, 2)
  rows = np.stack([TRAIN, HOLDOUT])

  def answers(key, train, holdout):
    found = adaptive_holdout.thresholdout(
      key, train, holdout, threshold=0.2, scale=0.1, budget=5
    )
    signs = adaptive_holdout.agreeing_signs(
      train, found.answers, bound=0.1, num_features=2
    )
    return found, signs

  helpers.assert_transforms(answers, keys, rows, rows[::-1])


def test_bad_input(key):
  with pytest.raises(ValueError, match="budget must be above 0, was 0"):
    ask(key, TRAIN, HOLDOUT, scale=0.1, budget=0)
  with pytest.raises(AssertionError, match=r"holdout \(2,\)"):
    ask(key, TRAIN, HOLDOUT[:2], scale=0.1, budget=1)
  with pytest.raises(ValueError, match=r"num_features must be in \[1, 5\]"):
    adaptive_holdout.agreeing_signs(TRAIN, HOLDOUT, bound=0.1, num_features=6)
