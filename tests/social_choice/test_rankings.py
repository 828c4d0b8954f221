# SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.social_choice import rankings
from tests import helpers

ORDERS = np.array([[0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]])
COUNTS = np.array([5.0, 2.0, 3.0])


def test_win_matrix_counts_voters_one_by_one():
  expected = np.full((4, 4), 0.5)
  for x, y in itertools.permutations(range(4), 2):
    wins = [
      count
      for order, count in zip(ORDERS.tolist(), COUNTS, strict=True)
      if order.index(x) < order.index(y)
    ]
    expected[x, y] = sum(wins) / COUNTS.sum()
  win = rankings.ranking_win_matrix(ORDERS, COUNTS)
  helpers.assert_close(win, expected)
  helpers.assert_close(win + win.T, np.ones((4, 4)))


def test_linear_utilities_by_alternative():
  expected = [
    [1 - order.index(x) / 3 for x in range(4)] for order in ORDERS.tolist()
  ]
  helpers.assert_close(rankings.linear_utilities(ORDERS), np.array(expected))


def test_borda_is_the_average_linear_utility():
  # Against a uniform other alternative, the chance of a win is the utility.
  win = rankings.ranking_win_matrix(ORDERS, COUNTS)
  average = COUNTS @ rankings.linear_utilities(ORDERS) / COUNTS.sum()
  helpers.assert_close((win.sum(1) - 0.5) / 3, average)


def test_gradients_in_the_counts():
  helpers.assert_gradient(
    lambda c: rankings.ranking_win_matrix(ORDERS, c)[0, 3], COUNTS
  )


def test_transforms_and_relabelling():
  helpers.assert_transforms(
    rankings.ranking_win_matrix,
    np.stack([ORDERS, ORDERS[::-1]]),
    np.stack([COUNTS, COUNTS]),
  )
  # Integers in: the result has the default type, so only values are compared.
  stacked = jnp.stack([ORDERS, ORDERS[::-1]])
  eager = rankings.linear_utilities(stacked)
  for variant in (jax.jit, jax.vmap, jax.pmap):
    utilities = variant(rankings.linear_utilities)(stacked)
    helpers.assert_close(utilities, eager)
  relabel = jax.random.permutation(jax.random.key(0), 4)
  win = rankings.ranking_win_matrix(ORDERS, COUNTS)
  moved = rankings.ranking_win_matrix(relabel[ORDERS], COUNTS)
  helpers.assert_close(moved[jnp.ix_(relabel, relabel)], win)


def test_wrong_arguments():
  with pytest.raises(AssertionError, match=r"first_places \(3,\), counts"):
    rankings.ranking_win_matrix(ORDERS, COUNTS[:2])
  with pytest.raises(AssertionError, match="need integers: orders"):
    rankings.linear_utilities(COUNTS)
