# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

from jaxalign.social_choice import rules
from tests import helpers

fit = rules.bradley_terry_mle


def random_wins(seed, size, scale=2.0, batch=()):
  odds = scale * np.random.default_rng(seed).normal(size=(*batch, size, size))
  odds = np.triu(odds, 1)
  return scipy.special.expit(odds - odds.swapaxes(-1, -2))


def random_law(seed, size, batch=()):
  return np.random.default_rng(seed).dirichlet(np.ones(size), batch or None)


# --- Borda, margins, Condorcet -----------------------------------------------


def test_borda_by_hand():
  wins, mu = random_wins(0, 4), random_law(1, 4)
  expected = [sum(mu[y] * wins[x, y] for y in range(4)) for x in range(4)]
  helpers.assert_close(rules.borda_scores(wins, mu), np.array(expected))
  # The diagonal is 1/2 by definition, whatever an estimate holds there.
  empty = wins - np.diag(np.diag(wins))
  helpers.assert_close(rules.borda_scores(empty, mu), np.array(expected))
  # Against a random member of the same population the mean is 1/2.
  helpers.assert_close(mu @ rules.borda_scores(wins, mu), 0.5)
  helpers.assert_gradient(
    lambda p, m: rules.borda_scores(p, m) @ np.arange(4.0), wins, mu
  )


def test_empirical_borda_converges_to_borda():
  wins, mu = random_wins(2, 5), random_law(3, 5)
  frequencies = 2 * np.outer(mu, mu) * wins
  frequencies[np.diag_indices(5)] = mu**2
  value = rules.empirical_borda(frequencies)
  helpers.assert_close(value, rules.borda_scores(wins, mu))
  # One win of one comparison for a self-pair gives another score.
  others = wins @ mu - mu / 2
  wrong = (2 * others + mu) / (2 - mu)
  row = frequencies.sum(1)
  column = frequencies.sum(0) - mu**2
  helpers.assert_close(row / (row + column), wrong)
  assert np.max(np.abs(wrong - value)) > 0.01
  # Nobody saw the last alternative; the others do not change.
  padded = np.pad(frequencies, ((0, 1), (0, 1)))
  with jax.debug_nans(True):
    padded_value = rules.empirical_borda(padded)
    gradient = jax.grad(lambda c: rules.empirical_borda(c).sum())(padded)
  assert padded_value[5] == 0 and np.all(np.isfinite(gradient))
  helpers.assert_close(padded_value[:5], value)
  helpers.assert_gradient(
    lambda c: rules.empirical_borda(c) @ np.arange(5.0), frequencies
  )


def test_margins_of_counts():
  counts = np.array([[7, 3, 0], [1, 0, 5], [0, 5, 2]])
  margins = rules.pairwise_margins(counts)
  expected = np.array([[0, 0.25, 0], [-0.25, 0, 0], [0, 0, 0]])
  assert np.all(margins == expected)
  wins, pairs = random_wins(4, 4), np.outer(random_law(5, 4), random_law(5, 4))
  helpers.assert_close(rules.pairwise_margins(pairs * wins), wins - 0.5)
  with jax.debug_nans(True):
    gradient = jax.grad(lambda c: rules.pairwise_margins(c)[0, 2])(
      counts.astype(float)
    )
  assert np.all(gradient == 0)
  helpers.assert_gradient(
    lambda c: jnp.sum(rules.pairwise_margins(c) * wins), pairs * wins
  )


def test_condorcet_by_enumeration():
  wins = random_wins(6, 3, batch=(200,))
  marked = np.asarray(rules.condorcet_winner(wins))
  for matrix, mark in zip(wins, marked, strict=True):
    winners = [
      x for x in range(3) if all(matrix[x, y] > 0.5 for y in range(3) if y != x)
    ]
    assert list(np.flatnonzero(mark)) == winners
  # A quarter of random tournaments on three is a cycle.
  assert 0 < np.sum(~marked.any(-1)) < 100
  tie = np.array([[0.5, 0.5], [0.5, 0.5]])
  assert not np.any(rules.condorcet_winner(tie))
  counts = np.array([[0, 3], [2, 0]])
  assert list(rules.condorcet_winner(counts)) == [True, False]


# --- Bradley-Terry -----------------------------------------------------------


def log_likelihood(scores, wins, pairs):
  gaps = scores[:, None] - scores
  terms = pairs * wins * scipy.special.log_expit(gaps)
  return np.sum(terms[~np.eye(len(scores), dtype=bool)])


def test_fit_of_two_and_of_a_tree():
  two = fit(np.array([[0.5, 0.9], [0.1, 0.5]]), np.full((2, 2), 0.25))
  helpers.assert_close(two.scores, np.array([1, -1]) * np.log(9) / 2)
  assert two.valid and two.grad_norm < 1e-15
  # On a tree every pair is fitted exactly.
  wins = random_wins(7, 6)
  pairs = np.zeros((6, 6))
  edges = [(0, 1), (1, 2), (1, 3), (3, 4), (4, 5)]
  for x, y in edges:
    pairs[x, y] = pairs[y, x] = 0.1
  scores = fit(wins, pairs).scores
  for x, y in edges:
    helpers.assert_close(scores[x] - scores[y], scipy.special.logit(wins[x, y]))
  helpers.assert_close(np.mean(scores), 0.0)


def test_fit_against_scipy():
  wins = random_wins(8, 4)
  pairs = np.random.default_rng(9).uniform(size=(4, 4))
  found = scipy.optimize.minimize(
    lambda r: -log_likelihood(r, wins, pairs), np.zeros(4), tol=1e-12
  ).x
  value = fit(wins, pairs)
  # Quasi-Newton on finite differences is no better than this.
  np.testing.assert_allclose(
    value.scores, found - found.mean(), rtol=0, atol=1e-5
  )
  assert value.grad_norm < 1e-14
  # The likelihood of counts is the same function.
  counts = np.round(1000 * pairs * wins)
  ones = np.ones((4, 4))
  helpers.assert_close(
    fit(counts, ones).scores, fit(counts / 7, 7 * ones).scores
  )


def test_fit_orders_as_borda():
  """For pairs from mu mu^T the fitted win rates are Borda's scores."""
  wins = random_wins(10, 5, scale=3.0, batch=(100,))
  mu = random_law(11, 5, (100,))
  result = fit(wins, mu[:, :, None] * mu[:, None, :])
  gaps = result.scores[:, :, None] - result.scores[:, None, :]
  fitted = np.sum(mu[:, None, :] * scipy.special.expit(gaps), -1)
  borda = rules.borda_scores(wins, mu)
  assert np.max(np.abs(fitted - borda)) < 1e-13
  assert np.all(np.argsort(result.scores) == np.argsort(borda))
  assert np.all(result.valid)


def test_fit_far_from_zero_and_of_graded_weights():
  # A chain of lopsided pairs: scores 80 apart, curvature down to e^-20.
  odds = np.array([20.0, -20.0, 20.0, 20.0])
  wins, pairs = np.full((5, 5), 0.5), np.zeros((5, 5))
  for x, o in enumerate(odds):
    wins[x, x + 1], wins[x + 1, x] = scipy.special.expit([o, -o])
    pairs[x, x + 1] = pairs[x + 1, x] = 10.0 ** (-3 * x)
  scores = fit(wins, pairs).scores
  # logit(1 - p) of a p known to 1e-16 is known to e^20 1e-16.
  np.testing.assert_allclose(-np.diff(scores), odds, rtol=1e-6)
  # Weights across 250 orders of magnitude.
  mu = np.array([0.5, 0.5, 1e-250])
  wins = random_wins(12, 3)
  rare = fit(wins, np.outer(mu, mu))
  gap = scipy.special.logit(wins[0, 1])
  helpers.assert_close(rare.scores[0] - rare.scores[1], gap, rtol=1e-12)
  fitted = scipy.special.expit(rare.scores[2] - rare.scores[:2])
  helpers.assert_close(fitted.mean(), wins[2, :2].mean())
  assert rare.valid


def test_fit_gradients():
  cotangent = np.array([0.3, -1.0, 2.0, 0.4])
  wins, pairs = random_wins(13, 4), np.outer(random_law(14, 4), np.ones(4))

  @jax.jit
  def scalar(p, nu):
    return rules.bradley_terry_mle(p, nu).scores @ cotangent

  helpers.assert_gradient(scalar, wins, pairs)
  # Scores depend on ratios of the weights only: forward mode says so.
  forward = jax.jit(lambda p, nu: jax.jvp(scalar, (p, nu), (0 * p, nu))[1])
  helpers.assert_close(forward(wins, pairs), 0.0)


def test_fit_without_a_maximum():
  wins, pairs = random_wins(15, 4), np.full((4, 4), 1 / 16)
  lost = wins.copy()
  lost[0, 1:], lost[1:, 0] = 0, 1
  apart = pairs.copy()
  apart[:2, 2:] = apart[2:, :2] = 0
  cases = ((lost, pairs), (wins, apart), (np.zeros((4, 4)), pairs))
  slope = jax.jit(jax.grad(lambda p, nu: fit(p, nu).scores[0]))
  with jax.debug_nans(True):
    for case in cases:
      result = fit(*case)
      assert not result.valid and np.all(result.scores == 0)
      gradient = slope(*case)
      assert np.all(np.isfinite(gradient))
      with pytest.raises(ValueError, match="no chain of wins leads from"):
        rules.check_connected(*case)
  rules.check_connected(wins, pairs)
  # Wins may go round: every alternative loses only to its successor.
  ring = np.roll(np.eye(9), 1, 0)
  rules.check_connected(ring, np.ones((9, 9)))
  assert fit(ring, np.ones((9, 9))).valid
  with pytest.raises(ValueError, match="from alternative 0 to alternative 1"):
    rules.check_connected(np.array([[0.5, 0], [1, 0.5]]), np.ones((2, 2)))


def test_reachability_against_scipy():
  from scipy.sparse import csgraph

  rng = np.random.default_rng(16)
  links = rng.uniform(size=(60, 6, 6)) < 0.3
  valid = fit(links.astype(float), np.ones_like(links, float)).valid
  for matrix, flag in zip(links, np.asarray(valid), strict=True):
    matrix = matrix & ~np.eye(6, dtype=bool)
    number, _ = csgraph.connected_components(matrix, connection="strong")
    assert flag == (number == 1)
  assert 0 < valid.sum() < 60


def test_number_of_steps_counts():
  wins, pairs = random_wins(17, 4, scale=4.0), np.full((4, 4), 1 / 16)
  norms = [float(fit(wins, pairs, num_iters=n).grad_norm) for n in (1, 3, 100)]
  assert norms[0] > 2 * norms[1] > 1e10 * norms[2]


def test_invariance():
  wins = random_wins(18, 4, batch=(2,))
  mu = random_law(19, 4, (2,))
  pairs = mu[:, :, None] * mu[:, None, :]
  helpers.assert_transforms(
    lambda p, m, nu: (
      rules.borda_scores(p, m),
      rules.empirical_borda(p),
      rules.pairwise_margins(p),
      rules.condorcet_winner(p),
    ),
    jnp.asarray(wins),
    jnp.asarray(mu),
    jnp.asarray(pairs),
  )
  helpers.assert_transforms(
    rules.bradley_terry_mle,
    jnp.asarray(wins),
    jnp.asarray(pairs),
    atol=1e-11,  # grad_norm is itself rounding
  )
  order = np.array([3, 1, 0, 2])
  permuted = fit(wins[:, order][:, :, order], pairs[:, order][:, :, order])
  helpers.assert_close(permuted.scores, fit(wins, pairs).scores[:, order])
  single = fit(wins.astype(np.float32), pairs.astype(np.float32))
  np.testing.assert_allclose(
    single.scores, fit(wins, pairs).scores, rtol=0, atol=1e-5
  )


def test_errors():
  with pytest.raises(ValueError, match=r"counts must be \[..., M, M\]"):
    rules.empirical_borda(np.ones((2, 3)))
  with pytest.raises(AssertionError, match="wins_of_one"):
    rules.borda_scores(np.ones((3, 3)), np.ones(2))
  with pytest.raises(AssertionError, match="pair_weights"):
    rules.bradley_terry_mle(np.ones((3, 3)), np.ones((2, 2)))
  with pytest.raises(ValueError, match="num_iters must be above 0"):
    rules.bradley_terry_mle(np.ones((3, 3)), np.ones((3, 3)), num_iters=0)
  with pytest.raises(AssertionError, match="need floats"):
    rules.bradley_terry_mle(np.ones((3, 3), int), np.ones((3, 3)))
  with pytest.raises(ValueError, match="win must be"):
    rules.condorcet_winner(np.ones(3))
  assert set(rules.BTFit._fields) == {"scores", "grad_norm", "valid"}
