# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxalign.learning import in_context
from tests import helpers

N, D = 6, 3
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(2, N, D)), RNG.normal(size=(2, N))
QUERY = RNG.normal(size=(2, D))
T2, A0, B0 = 0.5, 2.5, 1.5
learned = functools.partial(
  in_context.inverse_gamma_predictive, shape=A0, scale=B0, prior_variance=T2
)
known = functools.partial(
  in_context.known_noise_predictive, noise_variance=0.7, prior_variance=T2
)


def test_gaussian_nll_is_that_of_scipy():
  mean, variance, y = 0.3, 2.0, np.array([1.0, -2.0])
  found = in_context.gaussian_nll(np.full(2, mean), np.full(2, variance), y)
  expected = -scipy.stats.norm.logpdf(y, mean, variance**0.5)
  np.testing.assert_allclose(found + np.log(2 * np.pi) / 2, expected)


def test_gaussian_nll_is_least_at_the_moments():
  y = RNG.normal(size=50)

  def loss(moments):
    return jnp.mean(in_context.gaussian_nll(*jnp.broadcast_arrays(*moments, y)))

  at = (jnp.asarray(y.mean()), jnp.asarray(y.var()))
  np.testing.assert_allclose(jax.grad(loss)(at), 0, atol=1e-14)
  helpers.assert_gradient(
    lambda m, v: loss((m, v)), jnp.array(0.2), jnp.array(0.8)
  )


def test_rule_of_succession_is_the_mean_of_a_beta_posterior():
  n = np.arange(25.0)
  for h in (0, 3, 24):
    trials = n[n >= h]
    found = in_context.rule_of_succession(
      np.full(trials.shape, float(h)), trials
    )
    expected = scipy.stats.beta.mean(h + 1, trials - h + 1)
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_known_noise_is_the_conditional_of_a_joint_gaussian():
  """From the covariance of all targets, without the weights."""
  x, y, query = X[0], Y[0], QUERY[0]
  every = np.vstack([x, query])
  joint = 0.7 * (T2 * every @ every.T + np.eye(N + 1))
  gain = np.linalg.solve(joint[:N, :N], joint[:N, N])
  found = known(x, y, query)
  np.testing.assert_allclose(found.mean, gain @ y, rtol=1e-12)
  variance = joint[N, N] - gain @ joint[:N, N]
  np.testing.assert_allclose(found.variance, variance, rtol=1e-12)


def test_learned_noise_agrees_with_importance_sampling():
  """Weights of s2 by the likelihood of the context, the rest in closed form."""
  x, y, query = X[0], Y[0], QUERY[0]
  # Quantiles of the prior in the place of draws: less noise.
  draws = scipy.stats.invgamma.ppf((np.arange(20_000) + 0.5) / 20_000, A0)
  draws = B0 * draws
  covariance = T2 * x @ x.T + np.eye(N)
  energy = y @ np.linalg.solve(covariance, y)
  log_weights = -N / 2 * np.log(draws) - energy / (2 * draws)
  weights = np.exp(log_weights - log_weights.max())
  weights /= weights.sum()
  one = in_context.known_noise_predictive(
    x, y, query, noise_variance=draws, prior_variance=T2
  )
  found = learned(x, y, query)
  np.testing.assert_allclose(found.mean, one.mean, rtol=1e-12)
  np.testing.assert_allclose(found.variance, weights @ one.variance, rtol=1e-3)


def test_learned_noise_is_known_when_the_prior_is_sure():
  sure = in_context.inverse_gamma_predictive(
    X[0], Y[0], QUERY[0], shape=1e9, scale=0.7e9, prior_variance=T2
  )
  np.testing.assert_allclose(sure, known(X[0], Y[0], QUERY[0]), rtol=1e-7)


def test_no_context_is_the_prior():
  nothing = np.zeros(N, bool)
  found = learned(X[0], Y[0], QUERY[0], where=nothing)
  square = QUERY[0] @ QUERY[0]
  expected = B0 / (A0 - 1) * (1 + T2 * square)
  np.testing.assert_allclose(found, [0, expected], rtol=1e-13)
  flat = in_context.inverse_gamma_predictive(
    X[0], Y[0], QUERY[0], shape=0.5, scale=1.0, prior_variance=T2, where=nothing
  )
  assert flat.variance == np.inf


@pytest.mark.parametrize("predictive", [known, learned])
def test_what_is_masked_does_not_count(predictive):
  where = np.arange(N) < 4
  x, y = X[0].copy(), Y[0].copy()
  x[4:], y[4:] = np.nan, np.inf
  found = predictive(x, y, QUERY[0], where=where)
  expected = predictive(X[0, :4], Y[0, :4], QUERY[0])
  np.testing.assert_allclose(found, expected, rtol=1e-12)
  slope = jax.grad(lambda x: predictive(x, y, QUERY[0], where=where).mean)(x)
  assert np.all(np.isfinite(slope)) and np.all(slope[4:] == 0)


def test_transforms_and_gradients():
  def both(x, y, query):
    return known(x, y, query), learned(x, y, query)

  helpers.assert_transforms(both, X, Y, QUERY)
  np.testing.assert_allclose(
    learned(X, Y, QUERY).variance[1], learned(X[1], Y[1], QUERY[1]).variance
  )
  helpers.assert_gradient(
    lambda x, y: learned(x, y, QUERY[0, :2]).variance, X[0, :3, :2], Y[0, :3]
  )


def test_bad_input():
  with pytest.raises(AssertionError, match="columns"):
    known(X[0], Y[0], np.zeros(2))
  with pytest.raises(AssertionError, match="rows"):
    learned(X[0], Y[0, :2], QUERY[0])
  with pytest.raises(ValueError, match="shape must be above 0"):
    in_context.inverse_gamma_predictive(
      X[0], Y[0], QUERY[0], shape=0.0, scale=1.0, prior_variance=1.0
    )
  with pytest.raises(ValueError, match="prior_variance must be above 0"):
    in_context.known_noise_predictive(
      X[0], Y[0], QUERY[0], noise_variance=1.0, prior_variance=0.0
    )
  with pytest.raises(AssertionError, match=r"trials \(3,\)"):
    in_context.rule_of_succession(jnp.zeros(2), jnp.zeros(3))
  with pytest.raises(AssertionError, match=r"targets \(3,\)"):
    in_context.gaussian_nll(jnp.zeros(2), jnp.ones(2), jnp.zeros(3))
