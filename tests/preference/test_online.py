# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import preference
from tests import helpers
from tests.preference import golden

RNG = np.random.default_rng(0)
N, BETA = 5, 0.6
# No outcome is so rare that optimism about it is worth more than its pairs.
REWARDS, LOG_REF = RNG.normal(size=N), np.log(RNG.dirichlet(np.full(N, 50.0)))
SOFT = LOG_REF + REWARDS / BETA
SOFT -= np.log(np.sum(np.exp(SOFT)))


def test_the_better_sample_is_chosen_and_the_first_of_equals():
  scores = np.array([[1.0, 2.0], [3.0, 2.0], [2.0, 2.0], [-np.inf, -np.inf]])
  logps, ref = RNG.normal(size=(2, 4, 2))
  lengths = np.arange(8).reshape(4, 2)
  found = preference.order_pairs(scores, logps, ref, lengths)
  chosen = [1, 0, 0, 0]
  for x, better, worse in (
    (logps, found.policy_chosen, found.policy_rejected),
    (ref, found.ref_chosen, found.ref_rejected),
    (lengths, found.chosen_length, found.rejected_length),
  ):
    rows = np.arange(4)
    np.testing.assert_array_equal(better, x[rows, chosen])
    np.testing.assert_array_equal(worse, x[rows, 1 - np.array(chosen)])
  bare = preference.order_pairs(scores, logps)
  assert bare.ref_chosen is None and bare.chosen_length is None


def expected_online(log_policy, log_drawn, alpha=0.0):
  """Dpo of pairs of independent draws, over both labels of each."""
  i, j = np.divmod(np.arange(N * N), N)
  drawn = jax.lax.stop_gradient(jnp.exp(log_drawn[i] + log_drawn[j]))
  policy = jnp.stack([log_policy[i], log_policy[j]], -1)
  ref = jnp.stack([LOG_REF[i], LOG_REF[j]], -1)
  total = 0.0
  for first in (1.0, 0.0):
    label = jnp.full((N * N,), first)
    sign = 2 * first - 1
    often = jax.nn.sigmoid(sign * (REWARDS[i] - REWARDS[j]))
    pairs = preference.order_pairs(
      jnp.stack([label, 1 - label], -1), policy, ref
    )
    found = preference.xpo_loss(pairs, policy[:, 0], beta=BETA, alpha=alpha)
    total += (drawn * often) @ found.loss
  return total


def test_online_dpo_rests_at_the_regularised_optimum():
  @jax.jit
  def slope(logits):
    def loss(x):
      log_policy = jax.nn.log_softmax(x)
      return expected_online(log_policy, log_policy)

    return jax.grad(loss)(logits)

  np.testing.assert_allclose(slope(SOFT), 0, atol=1e-15)
  assert np.abs(slope(SOFT + RNG.normal(size=N))).max() > 1e-2


def test_xpo_draws_the_policy_from_the_reference():
  weights = preference.pair_weights(REWARDS, np.exp(LOG_REF))

  def population(alpha, logits):
    log_policy = jax.nn.log_softmax(logits)
    each = jnp.broadcast_to(log_policy, (N, N))
    total = 0.0
    # The reference's sample is independent of the pair.
    for y in range(N):
      loss = functools.partial(
        preference.xpo_loss,
        ref_sample_logps=each[:, y : y + 1] * jnp.ones((N, N)),
        beta=BETA,
        alpha=alpha,
      )
      found = preference.population_loss(loss, log_policy, LOG_REF, weights)
      total += np.exp(LOG_REF[y]) * found
    return total

  optima = [
    preference.minimize_population(
      functools.partial(population, alpha), np.zeros(N), num_steps=40
    )
    for alpha in (0.0, 0.01, 0.05)
  ]
  assert max(found.gradient for found in optima) < 1e-12
  policies = [jax.nn.log_softmax(found.x) for found in optima]
  np.testing.assert_allclose(policies[0], SOFT, rtol=0, atol=1e-12)
  likely = [np.exp(LOG_REF) @ x for x in policies]
  assert likely[0] - 0.01 > likely[1] and likely[1] - 0.01 > likely[2]


def test_xpo_is_dpo_and_a_bonus():
  ref_sample = np.array([-3.0, -np.inf])
  found = preference.xpo_loss(golden.PAIRS, ref_sample, alpha=0.5)
  golden.assert_golden(found.loss[0], 0.562915 - 1.5)
  assert found.loss[1] == -np.inf
  found = preference.xpo_loss(golden.PAIRS, ref_sample, alpha=0.0)
  golden.assert_golden(found.loss, [0.562915, 0.895163])


def test_transforms_and_gradient():
  logps, ref = RNG.normal(size=(2, 2, 3, 2))
  scores = RNG.normal(size=(2, 3, 2))

  def online(scores, logps, ref):
    pairs = preference.order_pairs(scores, logps, ref)
    return preference.xpo_loss(pairs, logps[..., 1], alpha=0.1)

  helpers.assert_transforms(online, scores, logps, ref)
  helpers.assert_gradient(
    lambda x: jnp.sum(online(scores[0], x, ref[0]).loss), logps[0]
  )


def test_wrong_arguments_raise():
  with pytest.raises(ValueError, match=r"two samples on the last axis, were"):
    preference.order_pairs(np.zeros((2, 3)), np.zeros((2, 3)))
  with pytest.raises(AssertionError, match=r"lengths \(2, 2\)"):
    preference.order_pairs(np.zeros(2), np.zeros(2), lengths=np.zeros((2, 2)))
  with pytest.raises(ValueError, match="alpha must be at least 0, was -1"):
    preference.xpo_loss(golden.PAIRS, np.zeros(2), alpha=-1)
  with pytest.raises(AssertionError, match=r"ref_sample_logps \(3,\)"):
    preference.xpo_loss(golden.PAIRS, np.zeros(3))
