# SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxalign import checks
from jaxalign.exact import games
from tests import helpers


def game_value(margins):
  """The largest guaranteed margin, by linear programming."""
  size = len(margins)
  result = scipy.optimize.linprog(
    np.append(np.zeros(size), -1.0),
    A_ub=np.hstack([-margins.T, np.ones((size, 1))]),
    b_ub=np.zeros(size),
    A_eq=np.append(np.ones(size), 0.0)[None],
    b_eq=[1.0],
    bounds=[(0, None)] * size + [(None, None)],
  )
  return result.x[:size], -result.fun


@pytest.mark.parametrize("num_actions", [3, 5, 7])
def test_cyclic_game(num_actions):
  pref = games.cyclic_game(num_actions, 0.8)
  half = (num_actions - 1) // 2
  for i, k in itertools.product(range(num_actions), range(num_actions)):
    expected = 0.5 if k == 0 else 0.8 if k <= half else 0.2
    np.testing.assert_allclose(pref[i, (i + k) % num_actions], expected)
  lotteries = games.enumerate_maximal_lotteries(pref)
  helpers.assert_close(lotteries, np.full((1, num_actions), 1 / num_actions))


def test_cyclic_game_is_the_known_example():
  expected = np.array([[0.5, 0.8, 0.2], [0.2, 0.5, 0.8], [0.8, 0.2, 0.5]])
  helpers.assert_close(games.cyclic_game(3, 0.8), expected)
  helpers.assert_close(games.rock_paper_scissors(np.full(3, 0.8)), expected)


def test_rock_paper_scissors():
  wins = np.array([0.9, 0.7, 0.55])
  pref = games.rock_paper_scissors(wins)
  helpers.assert_close(pref + pref.T, np.ones((3, 3)))
  helpers.assert_close(
    np.array([pref[0, 1], pref[1, 2], pref[2, 0], pref[0, 0]]),
    np.append(wins, 0.5),
  )
  # The closed form: each action has the margin of the two others' meeting.
  expected = np.array([wins[1], wins[2], wins[0]]) - 0.5
  helpers.assert_close(
    games.enumerate_maximal_lotteries(pref), expected[None] / expected.sum()
  )


def test_games_are_differentiable_and_transform(key):
  def all_games(key, win_prob, win_probs, scale):
    return (
      games.cyclic_game(3, win_prob),
      games.rock_paper_scissors(win_probs),
      games.random_preferences(key, 3, scale),
    )

  arguments = (
    np.array([0.6, 0.9]),
    np.array([[0.9, 0.7, 0.6], [0.6, 0.8, 0.7]]),
    np.array([0.5, 2.0]),
  )
  helpers.assert_transforms(all_games, jax.random.split(key), *arguments)
  weights = jnp.arange(9.0).reshape(3, 3)

  @jax.jit
  def scalar(*args):
    return sum(jnp.sum(weights * pref**2) for pref in all_games(key, *args))

  helpers.assert_gradient(scalar, *(x[0] for x in arguments))


def test_random_preferences(key):
  draw = jax.jit(jax.vmap(lambda k: games.random_preferences(k, 5, 2.0)))
  pref = np.asarray(draw(jax.random.split(key, 4000)))
  margins = pref - 0.5
  helpers.assert_close(margins, -margins.swapaxes(1, 2), rtol=0, atol=1e-16)
  assert np.all((pref > 0) & (pref < 1))
  odds = np.log(pref / (1 - pref))[:, *np.triu_indices(5, 1)]
  # 4e4 log-odds N(0, 4): five standard errors of mean, deviation, correlation.
  assert abs(odds.mean()) < 5 * 2 / 200
  assert abs(odds.std() - 2) < 5 * 2 / 200 / np.sqrt(2)
  correlations = np.corrcoef(odds.T)[np.triu_indices(10, 1)]
  assert np.abs(correlations).max() < 5 / np.sqrt(4000)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 8])
def test_lotteries_of_random_games_against_linear_programming(size):
  for seed in range(6 if size < 8 else 2):
    pref = np.asarray(games.random_preferences(jax.random.key(seed), size, 1.0))
    lotteries = games.enumerate_maximal_lotteries(pref)
    # Without ties the maximal lottery is unique and its support odd.
    assert lotteries.shape == (1, size)
    assert np.sum(lotteries > 0) % 2 == 1
    helpers.assert_close(lotteries.sum(), 1.0)
    expected, value = game_value(pref - 0.5)
    # The solver's own feasibility tolerance is 1e-7; it is at a vertex.
    np.testing.assert_allclose(lotteries[0], expected, atol=1e-7)
    assert abs(value) < 1e-9
    order = np.random.default_rng(seed).permutation(size)
    moved = games.enumerate_maximal_lotteries(pref[order][:, order])
    helpers.assert_close(moved, lotteries[:, order])


def test_a_condorcet_winner_is_the_lottery():
  rewards = np.array([0.3, 1.0, -0.5, 0.6])
  pref = 1 / (1 + np.exp(rewards - rewards[:, None]))
  helpers.assert_close(games.enumerate_maximal_lotteries(pref), np.eye(4)[[1]])


def test_ties_and_clones_give_every_extreme_lottery():
  tied = games.enumerate_maximal_lotteries(np.full((4, 4), 0.5))
  helpers.assert_close(tied, np.eye(4)[::-1])
  # A clone of rock: either of the two may stand for both.
  pref = np.asarray(games.rock_paper_scissors(np.array([0.9, 0.7, 0.6])))
  cloned = pref[[0, 0, 1, 2]][:, [0, 0, 1, 2]]
  (lottery,) = games.enumerate_maximal_lotteries(pref)
  expected = np.insert(np.stack([lottery] * 2), [1], [[0.0]], axis=1)
  expected[1] = expected[1][[1, 0, 2, 3]]
  helpers.assert_close(
    games.enumerate_maximal_lotteries(cloned), expected[::-1]
  )
  # A tight row outside the support: 0 and 1 tie, 2 beats 0 and loses to 1 by
  # as much, 3 the other way round. Only the even lottery of 0 and 1 holds both
  # at bay; 2 and 3 tie and are held at bay by nothing else.
  margins = np.zeros((4, 4))
  margins[2, 0], margins[2, 1] = 0.25, -0.25
  margins[3, 0], margins[3, 1] = -0.25, 0.25
  lotteries = games.enumerate_maximal_lotteries(0.5 + margins - margins.T)
  helpers.assert_close(
    lotteries, np.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 0, 0]])
  )


def test_wrong_games_raise():
  for size in (1, 2, 4):
    with pytest.raises(ValueError, match=f"odd and at least 3, was {size}"):
      games.cyclic_game(size, 0.8)
  with pytest.raises(AssertionError, match="need rank 0: win_prob"):
    games.cyclic_game(3, np.array([0.8]))
  with pytest.raises(AssertionError, match="win_probs .4,."):
    games.rock_paper_scissors(np.full(4, 0.8))
  with pytest.raises(AssertionError, match="need floats"):
    games.rock_paper_scissors(np.ones(3, int))
  with pytest.raises(AssertionError, match="need rank 0: scale"):
    games.random_preferences(jax.random.key(0), 3, np.ones(2))
  with pytest.raises(checks.InputError, match="square, was .2, 3."):
    games.enumerate_maximal_lotteries(np.full((2, 3), 0.5))
  with pytest.raises(checks.InputError, match="at most 8 actions, had 9"):
    games.enumerate_maximal_lotteries(np.full((9, 9), 0.5))
  with pytest.raises(checks.InputError, match="must be 1 everywhere"):
    games.enumerate_maximal_lotteries(np.full((2, 2), 0.4))
