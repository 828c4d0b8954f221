# SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import divergences
from jaxalign.evaluation.pass_at_k import success_at_k
from jaxalign.exact import bandit
from tests import helpers

PI = np.array([0.4, 0.25, 0.15, 0.08, 0.05, 0.04, 0.02, 0.01])
REWARDS = np.array([1.0, 0, 1, 0, 1, 0, 1, 1])
LOGITS = np.array([[0.3, -1.2, 0.8], [2.0, 0.1, -0.4]])
REAL = np.array([[0.1, 0.5, 1.0], [-2.0, 0.7, 0.0]])


def rounds_to(values, printed):
  """Half a unit of the last of four digits."""
  np.testing.assert_allclose(values, printed, rtol=0, atol=0.50001e-4)


def test_value_and_gradient():
  pi = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
  value = (pi * REAL).sum(-1)
  helpers.assert_close(bandit.bandit_value(LOGITS, REAL), value)
  advantages = bandit.bandit_advantages(LOGITS, REAL)
  helpers.assert_close(advantages, REAL - value[:, None])
  exact = jax.grad(lambda x: bandit.bandit_value(x, REAL).sum())(LOGITS)
  helpers.assert_close(bandit.bandit_gradient(LOGITS, REAL), exact)
  helpers.assert_gradient(
    lambda x, r: bandit.bandit_value(x, r), LOGITS[0], REAL[0]
  )


def test_change_of_log_probabilities_is_that_of_a_step():
  gradient = bandit.bandit_gradient(LOGITS, REAL)
  _, slope = jax.jvp(jax.nn.log_softmax, (LOGITS,), (gradient,))
  change = bandit.log_prob_change(LOGITS, REAL)
  helpers.assert_close(change, slope)
  # The step itself, to second order in its rate.
  rate = 1e-5
  after = jax.nn.log_softmax(LOGITS + rate * gradient)
  step = (after - jax.nn.log_softmax(LOGITS)) / rate
  np.testing.assert_allclose(step, change, atol=rate)


def test_rank_bias_has_the_printed_values():
  change = np.asarray(bandit.log_prob_change(np.log(PI), REWARDS))
  rounds_to(change[[4, 6, 7]], [-0.0057, -0.0168, -0.0205])
  correct = REWARDS == 1
  assert np.all((change < 0)[correct] == (PI < 0.06)[correct])
  # The condition as it is stated.
  value = PI @ REWARDS
  pull = np.sum(PI**2 * (REWARDS - value))
  np.testing.assert_array_equal(
    (change < 0)[correct], (PI * (1 - value) < pull)[correct]
  )
  # The natural gradient raises every success.
  natural = bandit.bandit_advantages(np.log(PI), REWARDS)
  assert np.all((natural > 0) == correct)


def test_natural_gradient_changes_log_probabilities_by_the_advantage():
  (logits,), (rewards,) = LOGITS[:1], REAL[:1]
  pi = jax.nn.softmax(logits)
  fisher = jnp.diag(pi) - jnp.outer(pi, pi)
  step = jnp.linalg.pinv(fisher) @ bandit.bandit_gradient(logits, rewards)
  _, slope = jax.jvp(jax.nn.log_softmax, (logits,), (step,))
  helpers.assert_close(slope, bandit.bandit_advantages(logits, rewards))


def test_regularised_optimum_has_the_value_of_its_partition_function():
  ref, beta = LOGITS[1], 0.3
  log_pi = divergences.regularized_maximizer(
    divergences.f_divergence("kl"), REAL[0], ref, beta
  )
  value = bandit.bandit_value(log_pi, REAL[0])
  penalty = divergences.kl(log_pi, ref)
  log_ref = jax.nn.log_softmax(ref)
  partition = jax.nn.logsumexp(log_ref + REAL[0] / beta)
  helpers.assert_close(value - beta * penalty, beta * partition)


def test_actions_that_are_never_taken():
  logits = jnp.array([0.3, -jnp.inf, 0.8])
  kept = np.array([0, 2])
  with jax.debug_nans(True):
    whole = bandit.log_prob_change(logits, REAL[0])[kept]
    part = bandit.log_prob_change(logits[kept], REAL[0][kept])
    helpers.assert_close(whole, part)
    slope = jax.grad(bandit.bandit_value)(logits, jnp.asarray(REAL[0]))
  assert slope[1] == 0


def test_shared_strategies_have_the_printed_success():
  world = bandit.shared_strategies(0)
  base = world.base_log_probs
  helpers.assert_close(base[0] - base[9], np.log(10))
  helpers.assert_close(jnp.sum(jnp.exp(base)), 1.0)

  @jax.jit
  def reported(correct):
    rates = bandit.solve_rates(base, correct)
    ks = (1, 4, 16, 64, 256)
    return [jnp.mean(success_at_k(rates, k=k)) for k in ks]

  train, held_out = reported(world.train), reported(world.held_out)
  printed = {0: 0.399, 1: 0.826, 2: 0.993}
  for i, value in printed.items():
    np.testing.assert_allclose(train[i], value, rtol=0, atol=0.5e-3)
  np.testing.assert_allclose(held_out[3:], [0.649, 0.952], rtol=0, atol=0.5e-3)
  other = bandit.shared_strategies(1)
  assert np.any(other.train != world.train)
  assert np.any(other.held_out != world.held_out)
  assert np.all(np.sum(other.held_out, -1) == 2)


def test_success_rates_are_those_of_all_tuples_of_samples():
  correct = np.array([[True, False, True], [False, False, True]])
  pi = np.array([0.5, 0.3, 0.2])
  expected = np.zeros(2)
  for draws in itertools.product(range(3), repeat=3):
    expected += np.prod(pi[list(draws)]) * correct[:, draws].any(-1)
  rates = bandit.solve_rates(np.log(pi), correct)
  helpers.assert_close(rates, correct @ pi)
  helpers.assert_close(success_at_k(rates, k=3), expected)
  everything = bandit.solve_rates(LOGITS, np.ones((2, 1, 3), bool))
  assert np.all(everything <= 1)


def test_transforms():
  correct = np.array([[[True, False, True]], [[False, True, True]]])

  def everything(logits, rewards, correct):
    return (
      bandit.bandit_value(logits, rewards),
      bandit.log_prob_change(logits, rewards),
      bandit.solve_rates(logits, correct),
    )

  helpers.assert_transforms(everything, LOGITS, REAL, correct)


def test_bad_input():
  with pytest.raises(AssertionError, match="logits"):
    bandit.bandit_value(np.zeros(3), np.zeros(2))
  with pytest.raises(AssertionError, match="floats"):
    bandit.bandit_value(np.zeros(3, int), np.zeros(3, int))
  with pytest.raises(AssertionError, match="correct_of_one"):
    bandit.solve_rates(np.zeros(3), np.ones((2, 4), bool))
