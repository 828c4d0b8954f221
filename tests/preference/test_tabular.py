# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import preference
from tests import helpers

RNG = np.random.default_rng(0)
REWARDS, LOG_REF = RNG.normal(size=6), np.log(RNG.dirichlet(np.ones(6)))
SAMPLING = RNG.dirichlet(np.ones(6))


def test_pair_weights_of_a_loop():
  weights = preference.pair_weights(REWARDS, SAMPLING)
  for i, j in np.ndindex(6, 6):
    win = 1 / (1 + np.exp(REWARDS[j] - REWARDS[i]))
    expected = 0 if i == j else SAMPLING[i] * SAMPLING[j] * win
    np.testing.assert_allclose(weights[i, j], expected, rtol=1e-14)


def test_population_loss_is_the_sum_over_pairs():
  weights = np.array([[0.0, 0.3], [0.0, 0.0]])
  log_policy, log_ref = np.log([0.7, 0.3]), np.log([0.5, 0.5])
  loss = preference.population_loss(
    functools.partial(preference.dpo_loss, beta=2.0),
    log_policy,
    log_ref,
    weights,
  )
  expected = 0.3 * np.log1p(np.exp(-2 * np.log(0.7 / 0.3)))
  np.testing.assert_allclose(loss, expected, rtol=1e-14)


def test_pairs_of_weight_zero_may_be_infinite():
  weights = np.array([[0.0, 0.3], [0.0, 0.0]])

  def loss(log_policy):
    return preference.population_loss(
      preference.dpo_loss, log_policy, np.zeros(2), weights
    )

  value, gradient = jax.value_and_grad(loss)(np.array([0.0, -np.inf]))
  assert value == 0 and not np.any(np.isnan(gradient))


def test_dpo_learns_the_regularised_optimum_from_any_sampling():
  beta = 0.4
  loss = functools.partial(preference.dpo_loss, beta=beta)
  weights = preference.pair_weights(REWARDS, SAMPLING)

  def population(logits):
    log_policy = jax.nn.log_softmax(logits)
    return preference.population_loss(loss, log_policy, LOG_REF, weights)

  found = preference.minimize_population(population, np.zeros(6))
  expected = jax.nn.softmax(LOG_REF + REWARDS / beta)
  helpers.assert_close(jax.nn.softmax(found.x), expected, atol=1e-14)
  assert found.gradient < 1e-15


def test_minimize_leaves_a_saddle_and_keeps_flat_directions():
  # Minima at x = +-1; a saddle at 0, beside which it starts; y - z is flat.
  def loss(x):
    return (x[0] ** 2 - 1) ** 2 + jnp.cosh(x[1] + x[2])

  found = preference.minimize_population(loss, np.array([1e-3, 2.0, 1.0]))
  np.testing.assert_allclose(found.x, [1, 0.5, -0.5], atol=1e-12)


def test_minimize_stays_inside_the_domain():
  found = preference.minimize_population(
    lambda x: jnp.sum(jnp.where(x > 0, x - jnp.log(jnp.abs(x)), jnp.inf)),
    np.array([10.0, 1e-3]),
  )
  np.testing.assert_allclose(found.x, 1, atol=1e-14)


def test_transforms_and_gradient():
  two = np.stack([REWARDS, REWARDS[::-1]])
  sampling = np.stack([SAMPLING, SAMPLING])
  helpers.assert_transforms(preference.pair_weights, two, sampling)

  def loss(log_policy, log_ref, weights):
    return preference.population_loss(
      preference.dpo_loss, log_policy, log_ref, weights
    )

  weights = np.asarray(preference.pair_weights(two, sampling))
  helpers.assert_transforms(loss, two, two / 2, weights)
  helpers.assert_gradient(lambda x: loss(x, LOG_REF, weights[0]), REWARDS)


def test_refuses_weights_of_another_shape():
  with pytest.raises(AssertionError, match=r"weights \(3, 3\)"):
    preference.population_loss(
      preference.dpo_loss, np.zeros(2), np.zeros(2), np.ones((3, 3))
    )
