# SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxalign.evaluation import diversity
from tests import helpers

PI = np.array([[0.6, 0.25, 0.15], [0.98, 0.01, 0.01]])
REF = np.array([[0.3, 0.3, 0.4], [0.5, 0.02, 0.48]])
CORRECT = np.array([[True, False, True], [True, True, False]])


def test_effective_number():
  expected = np.exp([scipy.stats.entropy(row) for row in PI])
  helpers.assert_close(diversity.effective_number(np.log(PI)), expected)
  with jax.debug_nans(True):
    certain = jnp.array([0.0, -jnp.inf])
    helpers.assert_close(diversity.effective_number(certain), 1.0)
    slope = jax.grad(diversity.effective_number)(certain)
  assert slope[1] == 0
  helpers.assert_gradient(
    lambda x: diversity.effective_number(jax.nn.log_softmax(x)), np.log(PI[0])
  )


def test_smallest_ratio():
  found = diversity.smallest_ratio(np.log(PI), np.log(REF))
  helpers.assert_close(found, np.array([0.15 / 0.4, 0.01 / 0.48]))
  # What the reference cannot give is not lost; what it can, may be all lost.
  log_pi = jnp.log(jnp.array([0.0, 0.5, 0.5]))
  log_ref = jnp.log(jnp.array([0.0, 0.6, 0.4]))
  helpers.assert_close(diversity.smallest_ratio(log_pi, log_ref), 0.5 / 0.6)
  assert diversity.smallest_ratio(log_pi, jnp.log(jnp.ones(3) / 3)) == 0
  helpers.assert_gradient(
    lambda x, y: diversity.smallest_ratio(x, y), np.log(PI[0]), np.log(REF[0])
  )


def test_kept_answers():
  kept, total = diversity.kept_answers(np.log(PI), np.log(REF), CORRECT)
  np.testing.assert_array_equal(total, [2, 2])
  np.testing.assert_array_equal(kept, [1, 2])  # .15/.4 is below, .01/.02 at it
  strict = diversity.kept_answers(
    np.log(PI), np.log(REF), CORRECT, threshold=0.6
  )
  np.testing.assert_array_equal(strict.kept, [1, 1])
  never = jnp.log(jnp.array([0.0, 0.6, 0.4]))
  assert diversity.kept_answers(never, never, jnp.array([1, 1, 0], bool)) == (
    1,
    1,
  )


def test_distinct_correct_counts_a_set(key):
  samples = np.asarray(jax.random.randint(key, (20, 7), 0, 4))
  for solved in ({0, 2}, set(), {0, 1, 2, 3}):
    correct = np.isin(samples, list(solved))
    expected = [len(set(row) & solved) for row in samples.tolist()]
    found = diversity.distinct_correct(samples, correct)
    np.testing.assert_array_equal(found, expected)


def test_expected_distinct_correct_is_that_of_all_samples():
  pi, correct = PI[0], CORRECT[0]
  draws = np.array(list(itertools.product(range(3), repeat=4)))
  counts = diversity.distinct_correct(draws, correct[draws])
  expected = pi[draws].prod(-1) @ np.asarray(counts)
  found = diversity.expected_distinct_correct(
    np.log(pi), correct, num_samples=4
  )
  helpers.assert_close(found, expected)
  helpers.assert_gradient(
    lambda x: diversity.expected_distinct_correct(x, correct, num_samples=4),
    np.log(pi),
  )


def test_uplift_rate(key):
  first, second, third = jax.random.split(key, 3)
  old = np.asarray(jax.random.normal(first, (6, 4)))
  new = old + np.asarray(jax.random.normal(second, (6, 4)))
  correct = np.asarray(jax.random.bernoulli(third, 0.6, (6, 4)))
  risen, count = np.zeros(4), np.zeros(4, int)
  for group in range(6):
    for rank, i in enumerate(sorted(range(4), key=lambda i: old[group, i])):
      count[rank] += correct[group, i]
      risen[rank] += correct[group, i] and new[group, i] > old[group, i]
  found = diversity.uplift_rate(correct, old, new)
  np.testing.assert_array_equal(found.count, count)
  helpers.assert_close(found.rate, risen / count)
  # Monotone transformations of the scores change nothing.
  other = diversity.uplift_rate(correct, np.exp(old), np.exp(new))
  helpers.assert_close(other.rate, found.rate)
  nothing = diversity.uplift_rate(np.zeros_like(correct), old, new)
  np.testing.assert_array_equal(nothing.rate, np.zeros(4))


def test_transforms():
  def everything(log_pi, log_ref, correct):
    return (
      diversity.effective_number(log_pi),
      diversity.smallest_ratio(log_pi, log_ref),
      diversity.kept_answers(log_pi, log_ref, correct),
      diversity.distinct_correct(jnp.array([1, 0, 1]), correct),
      diversity.expected_distinct_correct(log_pi, correct, num_samples=3),
      diversity.uplift_rate(correct[None], log_ref[None], log_pi[None]),
    )

  helpers.assert_transforms(everything, np.log(PI), np.log(REF), CORRECT)


def test_bad_input():
  log_pi = np.log(PI)
  with pytest.raises(AssertionError, match="ref_log_probs"):
    diversity.smallest_ratio(log_pi, log_pi[:1])
  with pytest.raises(AssertionError, match="correct"):
    diversity.kept_answers(log_pi, log_pi, CORRECT[0])
  with pytest.raises(ValueError, match="threshold must be above 0"):
    diversity.kept_answers(log_pi, log_pi, CORRECT, threshold=0.0)
  with pytest.raises(AssertionError, match="samples"):
    diversity.distinct_correct(np.zeros(3, int), CORRECT)
  with pytest.raises(ValueError, match="k must be at least 1"):
    diversity.expected_distinct_correct(log_pi, CORRECT, num_samples=0)
  with pytest.raises(AssertionError, match="new_scores"):
    diversity.uplift_rate(CORRECT, log_pi, log_pi[:1])
