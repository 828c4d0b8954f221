# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.learning import marginal_matching
from tests import helpers

N, C, V = 50, 3, 2
RNG = np.random.default_rng(0)
REAL = RNG.integers(V, size=(N, 1)) ^ (RNG.random((N, C)) < 0.1)
marginals = functools.partial(
  marginal_matching.pairwise_marginals, num_values=V
)


def counted(codes):
  table = np.zeros((C, V, C, V))
  for row in codes:
    for i in range(C):
      for j in range(C):
        table[i, row[i], j, row[j]] += 1 / len(codes)
  return table


@pytest.fixture(scope="module")
def path():
  """300 steps from independent columns."""
  start = marginal_matching.marginal_matching_init(
    RNG.integers(V, size=(N, C)), num_values=V
  )
  target = marginals(REAL)

  def step(state, key):
    return marginal_matching.marginal_matching_step(key, state, target)

  keys = jax.random.split(jax.random.key(0), 300)
  end, gaps = jax.jit(lambda s, k: jax.lax.scan(step, s, k))(start, keys)
  return start, end, np.asarray(gaps), target


def test_marginals_are_counts():
  # Integers give float32.
  np.testing.assert_allclose(marginals(REAL), counted(REAL), rtol=1e-7)


def test_gap_is_the_mean_distance_of_pairs():
  one, two = RNG.integers(V, size=(2, N, C))
  p, q = counted(one), counted(two)
  pairs = [
    np.abs(p[i, :, j] - q[i, :, j]).sum() / 2
    for i in range(C)
    for j in range(i)
  ]
  found = marginal_matching.pairwise_gap(marginals(one), marginals(two))
  np.testing.assert_allclose(found, np.mean(pairs), rtol=1e-6)


def test_the_gap_falls_to_what_whole_records_allow(path):
  start, _, gaps, target = path
  first = marginal_matching.pairwise_gap(marginals(start.codes), target)
  assert first > 0.2
  assert np.all(np.diff(np.append(first, gaps)) <= 0)
  assert gaps[-1] <= 2 / N  # of one or two records


def test_the_state_keeps_the_counts_of_its_records(path):
  _, end, gaps, target = path
  codes = np.asarray(end.codes)
  np.testing.assert_array_equal(end.counts, np.round(N * counted(codes)))
  gap = marginal_matching.pairwise_gap(marginals(codes), target)
  assert gaps[-1] == gap


def test_nothing_changes_where_nothing_is_missing(key):
  state = marginal_matching.marginal_matching_init(REAL, num_values=V)
  after, gap = marginal_matching.marginal_matching_step(
    key, state, marginals(REAL)
  )
  assert gap == 0
  np.testing.assert_array_equal(after.codes, state.codes)


def test_transforms(key):
  codes = RNG.integers(V, size=(2, 6, C))
  target = marginals(REAL)

  def step(key, codes):
    state = marginal_matching.marginal_matching_init(codes, num_values=V)
    return marginal_matching.marginal_matching_step(key, state, target)

  helpers.assert_transforms(step, jax.random.split(key, 2), codes)


def test_bad_input():
  with pytest.raises(ValueError, match="num_values must be above 0"):
    marginal_matching.pairwise_marginals(REAL, num_values=0)
  with pytest.raises(AssertionError):
    marginals(np.zeros((2, 2)))
  with pytest.raises(AssertionError, match="target"):
    marginal_matching.pairwise_gap(marginals(REAL), jnp.zeros((2, 2, 2, 2)))
