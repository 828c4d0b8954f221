# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxalign.social_choice import populations
from tests import helpers

WEIGHTS = np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])
UTILITIES = np.random.default_rng(0).uniform(size=(2, 3, 4))
BETA = 3.0


def instance(weights, utilities, mu):
  size = utilities.shape[1]
  return populations.Instance(
    jnp.asarray(weights),
    jnp.asarray(utilities),
    jnp.outer(mu, mu),
    jnp.full(size, -np.log(size)),
    jnp.asarray(jnp.inf),
  )


def test_matrices_against_loops():
  wins = np.zeros((2, 4, 4))
  for i in range(2):
    for g in range(3):
      for x in range(4):
        for y in range(4):
          gap = UTILITIES[i, g, x] - UTILITIES[i, g, y]
          wins[i, x, y] += WEIGHTS[i, g] * scipy.special.expit(BETA * gap)
  value = populations.win_matrix(WEIGHTS, UTILITIES, BETA)
  helpers.assert_close(value, wins, rtol=1e-14)
  helpers.assert_close(value + value.swapaxes(1, 2), np.ones((2, 4, 4)))
  margins = populations.margin_matrix(WEIGHTS, UTILITIES, BETA)
  helpers.assert_close(margins, wins - 0.5)
  # Exactly skew: the solvers of the game rely on it.
  assert np.all(margins == -margins.swapaxes(1, 2))
  helpers.assert_close(
    populations.average_utility(WEIGHTS, UTILITIES),
    np.einsum("ig,igx->ix", WEIGHTS, UTILITIES),
  )


def test_narrow_margins_keep_their_digits():
  # Two types that nearly cancel would leave no digits in P - 1/2.
  weights = np.array([0.5 + 1e-12, 0.5 - 1e-12])
  utilities = np.array([[1.0, 0.0], [0.0, 1.0]])
  margin = populations.margin_matrix(weights, utilities, 1.0)[0, 1]
  exact = (weights[0] - weights[1]) * np.tanh(0.5) / 2
  np.testing.assert_allclose(margin, exact, rtol=1e-3)
  tiny = populations.margin_matrix(
    np.ones(1, np.float32), np.array([[1e-10, 0]], np.float32), 1.0
  )
  np.testing.assert_allclose(tiny[0, 1], 2.5e-11, rtol=1e-6)


def test_linearisation_lemma():
  """Margins lie between the linear bounds, on 2e4 random profiles."""
  rng = np.random.default_rng(2)
  shape = (20_000, 3, 2)
  kind = rng.uniform(size=shape)
  utilities = np.where(
    kind < 0.3, 0, np.where(kind > 0.8, 1, rng.beta(0.2, 0.2, shape))
  )
  weights = rng.dirichlet(np.ones(3), shape[0])
  for beta in (0.1, 1.0, 5.0, 20.0):
    margin = populations.margin_matrix(weights, utilities, beta)[:, 0, 1]
    a = populations.average_utility(weights, utilities)
    ell = np.tanh(beta / 2) / (2 * beta)
    slack = jnp.minimum(
      margin - beta * (ell * a[:, 0] - a[:, 1] / 4),
      beta * (a[:, 0] / 4 - ell * a[:, 1]) - margin,
    )
    assert jnp.min(slack) >= -1e-12
    # It is a bound with content: some profile all but attains it.
    assert jnp.min(slack) <= 1e-3


def test_gradients():
  cotangent = np.random.default_rng(1).normal(size=(4, 4))
  for fn in (populations.win_matrix, populations.margin_matrix):
    helpers.assert_gradient(
      lambda w, u, b, fn=fn: jnp.sum(cotangent * fn(w, u, b)),
      WEIGHTS[0],
      UTILITIES[0],
      np.array(BETA),
    )
  helpers.assert_gradient(
    lambda w, u: jnp.sum(cotangent[0] * populations.average_utility(w, u)),
    WEIGHTS[0],
    UTILITIES[0],
  )


def test_transforms():
  helpers.assert_transforms(
    lambda w, u: (
      populations.win_matrix(w, u, BETA),
      populations.margin_matrix(w, u, BETA),
      populations.average_utility(w, u),
    ),
    jnp.asarray(WEIGHTS),
    jnp.asarray(UTILITIES),
  )
  order = np.array([2, 0, 3, 1])
  permuted = populations.win_matrix(WEIGHTS, UTILITIES[:, :, order], BETA)
  value = populations.win_matrix(WEIGHTS, UTILITIES, BETA)
  helpers.assert_close(permuted, value[:, order][:, :, order])


def test_zeros_are_mathematics():
  with jax.debug_nans(True):
    gradient = jax.grad(
      lambda w, u: populations.win_matrix(w, u, 1e3)[0, 1], (0, 1)
    )(jnp.array([0.0, 1.0]), jnp.array([[1.0, 0.0], [0.0, 0.0]]))
  # The idle type's vote is 1; decided users have no slope.
  helpers.assert_close(gradient[0], np.array([0.5, 0.0]))
  helpers.assert_close(gradient[1][0], np.zeros(2))


def test_simulated_counts_follow_the_law(key):
  mu = np.array([0.1, 0.2, 0.3, 0.4])
  world = instance(WEIGHTS[0], UTILITIES[0], mu)
  simulate = jax.jit(
    populations.simulate_comparisons,
    static_argnames=("num_users", "pairs_per_user"),
  )
  draws = {
    d: np.asarray(
      simulate(key, world, BETA, num_users=100_000, pairs_per_user=d)
    )
    for d in (1, 3)
  }
  wins = populations.win_matrix(WEIGHTS[0], UTILITIES[0], BETA)
  law = np.outer(mu, mu) * 2 * np.asarray(wins)
  law[np.diag_indices(4)] = mu**2
  helpers.assert_close(law.sum(), 1.0)
  assert draws[1].sum() == 100_000 and draws[3].sum() == 300_000
  # One answer a user: independent draws from the law.
  expected = 100_000 * law
  statistic = np.sum((draws[1] - expected) ** 2 / expected)
  assert statistic < scipy.stats.chi2.isf(1e-6, 15)
  # Several answers of a user are correlated but have the same marginals: three
  # times the variance of independent draws bounds theirs.
  error = np.sqrt(3 * law * (1 - law) / 300_000)
  assert np.all(np.abs(draws[3] / 300_000 - law) < 5 * error)


def test_answers_of_a_user_agree_on_the_type(key):
  """Two opposed types of decided users: nobody contradicts himself."""
  world = instance(np.array([0.5, 0.5]), np.eye(2), np.full(2, 0.5))

  @jax.jit
  def ask(key, beta):
    return populations.simulate_comparisons(
      key, world, beta, num_users=1, pairs_per_user=8
    )

  keys = jax.random.split(key, 500)
  decided = jax.vmap(lambda k: ask(k, 1e4))(keys)
  assert np.all(decided[:, 0, 1] * decided[:, 1, 0] == 0)
  share = np.mean(decided[:, 0, 1] > 0)
  assert abs(share - 0.5) < 5 * 0.5 / 500**0.5
  wavering = jax.vmap(lambda k: ask(k, 1e-3))(keys)
  assert np.mean(wavering[:, 0, 1] * wavering[:, 1, 0] > 0) > 0.5
  jitted = jax.jit(ask)(keys[3], 1e4)
  assert np.all(jitted == decided[3])


def test_pairs_that_are_not_asked_are_not_counted(key):
  pairs = jnp.array([[0.0, 0.5, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]])
  world = instance(WEIGHTS[0], UTILITIES[0][:, :3], np.ones(3) / 3)
  counts = populations.simulate_comparisons(
    key, world._replace(pair_weights=pairs), BETA, num_users=50
  )
  assert counts[0, 1] + counts[1, 0] == 50 == counts.sum()


def test_errors(key):
  with pytest.raises(AssertionError, match="utilities_of_one_alternative"):
    populations.win_matrix(WEIGHTS[0], UTILITIES, BETA)
  with pytest.raises(AssertionError, match="need floats"):
    populations.average_utility(np.ones(2, int), np.ones((2, 2)))
  for fn in (populations.win_matrix, populations.margin_matrix):
    with pytest.raises(ValueError, match="beta must be above 0, was -1"):
      fn(WEIGHTS, UTILITIES, -1.0)
  world = instance(WEIGHTS[0], UTILITIES[0], np.full(4, 0.25))
  with pytest.raises(ValueError, match="num_users must be above 0"):
    populations.simulate_comparisons(key, world, BETA, num_users=0)
  with pytest.raises(ValueError, match="pairs_per_user must be above 0"):
    populations.simulate_comparisons(
      key, world, BETA, num_users=1, pairs_per_user=0
    )
  batch = jax.tree.map(lambda x: jnp.stack([x, x]), world)
  with pytest.raises(AssertionError, match="need rank 1: weights"):
    populations.simulate_comparisons(key, batch, BETA, num_users=1)
