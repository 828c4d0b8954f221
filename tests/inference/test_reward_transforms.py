# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from jaxalign.inference import reward_transforms
from tests import helpers

P = np.array([0.2, 0.5, 0.3])
REWARDS = np.array([[1.0, -0.5, 3.0], [0.3, 2.0, -4.0]])
R_REF = np.array([0.4, -1.0])


def test_transform():
  r = np.array([-800.0, -3.0, 0.0, 0.7, 800.0])
  r_ref = np.array([1.0, 1.0, 0.5, 0.7, 0.0])
  value = reward_transforms.lsc_transform(r, r_ref)
  helpers.assert_close(value, scipy.special.log_expit(r - r_ref))
  assert np.all(value <= 0)
  slope = jax.grad(lambda r: reward_transforms.lsc_transform(r, r_ref).sum())(r)
  helpers.assert_close(slope, scipy.special.expit(r_ref - r))
  helpers.assert_gradient(
    lambda a, b: reward_transforms.lsc_transform(a, b).sum(),
    jnp.array(r[1:4]),
    jnp.array(r_ref[1:4]),
  )


def test_transform_limits():
  r = jnp.array([1.3, 1.3, 1.3])
  with jax.debug_nans(True):
    value = reward_transforms.lsc_transform(
      r, jnp.array([-jnp.inf, -60.0, 1e4])
    )
  assert value[0] == 0 and abs(value[1]) < 1e-26
  # Far below the reference it is the centred reward, the usual objective.
  helpers.assert_close(value[2], 1.3 - 1e4, rtol=0, atol=1e-12)


def test_combination_sums_over_properties():
  r_ref = np.repeat(R_REF[:, None], 3, 1)
  value = reward_transforms.lsc_combine(REWARDS, r_ref, axis=0)
  helpers.assert_close(
    value, np.log(scipy.special.expit(REWARDS - r_ref)).sum(0)
  )
  last = reward_transforms.lsc_combine(REWARDS.T, r_ref.T)
  helpers.assert_close(last, value)
  helpers.assert_gradient(
    lambda a, b: reward_transforms.lsc_combine(a, b, axis=0) @ P,
    jnp.asarray(REWARDS),
    jnp.asarray(r_ref),
  )


def test_conjunction_is_the_base_given_that_all_is_good():
  log_pi = reward_transforms.conjunction_log_policy(np.log(P), REWARDS, R_REF)
  # Bayes: each property is good with probability sigmoid, independently.
  good = scipy.special.expit(REWARDS - R_REF[:, None])
  joint = P * good[0] * good[1]
  helpers.assert_close(np.exp(log_pi), joint / joint.sum())


@pytest.mark.parametrize("gamma", [0.3, 1.0, 4.0])
def test_conjunction_is_the_regularised_optimum(gamma):
  log_pi = reward_transforms.conjunction_log_policy(
    np.log(P), REWARDS, R_REF, gamma=gamma
  )
  good = scipy.special.expit(REWARDS - R_REF[:, None]).prod(0)
  expected = P * good ** (1 / gamma)
  helpers.assert_close(np.exp(log_pi), expected / expected.sum())

  def loss(logits):
    pi = scipy.special.softmax(logits)
    return -(pi @ np.log(good) - gamma * scipy.special.rel_entr(pi, P).sum())

  found = scipy.optimize.minimize(loss, np.zeros(3), tol=1e-12)
  # A flat optimum: the oracle's objective has 1e-16, its argument 1e-7.
  np.testing.assert_allclose(
    np.exp(log_pi), scipy.special.softmax(found.x), atol=1e-6
  )
  assert loss(np.asarray(log_pi)) <= found.fun + 1e-12


def test_transformed_sum_raises_the_worse_reward():
  # One outcome is excellent and bad, one is good twice, one is neither.
  rewards = np.array([[10.0, 2.0, 0.0], [-5.0, 2.0, 0.0]])
  log_p = np.log(np.ones(3) / 3)

  def tilt(utility, s):
    return scipy.special.softmax(log_p + s * utility)

  def at_kl(utility, kl):
    s = scipy.optimize.brentq(
      lambda s: scipy.special.rel_entr(tilt(utility, s), 1 / 3).sum() - kl,
      1e-9,
      1e3,
    )
    return tilt(utility, s)

  u = reward_transforms.lsc_combine(rewards, np.zeros_like(rewards), axis=0)
  for kl in (0.05, 0.3, 0.8):
    worse_raw = (rewards @ at_kl(rewards.sum(0), kl)).min()
    worse_lsc = (rewards @ at_kl(np.asarray(u), kl)).min()
    base = (rewards @ np.exp(log_p)).min()
    assert worse_raw < base < worse_lsc


def test_conjunction_gradient_and_zeros():
  weights = jnp.array([0.3, -1.0, 0.7])

  @jax.jit
  def total(log_p, rewards, r_ref, gamma):
    log_pi = reward_transforms.conjunction_log_policy(
      log_p, rewards, r_ref, gamma=gamma
    )
    return weights @ jnp.exp(log_pi)

  arguments = jnp.asarray(REWARDS), jnp.asarray(R_REF), jnp.array(1.3)
  helpers.assert_gradient(total, jnp.log(jnp.asarray(P)), *arguments)
  with jax.debug_nans(True):
    gradient = jax.grad(total)(jnp.array([-jnp.inf, -1.0, -0.5]), *arguments)
  assert gradient[0] == 0 and np.all(np.isfinite(gradient))


def test_permutation_and_transforms():
  def everything(log_p, rewards, r_ref):
    broad = jnp.broadcast_to(r_ref[:, None], rewards.shape)
    return (
      reward_transforms.lsc_transform(rewards, broad),
      reward_transforms.lsc_combine(rewards, broad, axis=-2),
      reward_transforms.conjunction_log_policy(log_p, rewards, r_ref),
    )

  log_p = jnp.log(jnp.stack([P, P[::-1]]))
  rewards, r_ref = jnp.stack([REWARDS, 2 * REWARDS]), jnp.stack([R_REF, -R_REF])
  helpers.assert_transforms(everything, log_p, rewards, r_ref)
  batched = reward_transforms.conjunction_log_policy(log_p, rewards, r_ref)
  shuffle = np.array([2, 0, 1])
  permuted = reward_transforms.conjunction_log_policy(
    log_p[1, shuffle], rewards[1, ::-1, shuffle].T, r_ref[1, ::-1]
  )
  helpers.assert_close(permuted, batched[1, shuffle])


def test_arguments_are_checked():
  with pytest.raises(AssertionError, match="rewards .3,., r_ref .2,."):
    reward_transforms.lsc_transform(np.zeros(3), np.zeros(2))
  with pytest.raises(AssertionError, match="need floats: rewards int"):
    reward_transforms.lsc_transform(np.zeros(3, int), np.zeros(3))
  with pytest.raises(AssertionError, match="rewards .2, 3., r_ref .2,."):
    reward_transforms.lsc_combine(REWARDS, R_REF)
  with pytest.raises(AssertionError, match="log_p .2,., rewards_of_one .3,."):
    reward_transforms.conjunction_log_policy(np.log(P[:2]), REWARDS, R_REF)
  with pytest.raises(AssertionError, match="r_ref .1,., rewards_of_one .2,."):
    reward_transforms.conjunction_log_policy(np.log(P), REWARDS, R_REF[:1])
  with pytest.raises(ValueError, match="gamma must be above 0, was 0"):
    reward_transforms.conjunction_log_policy(
      np.log(P), REWARDS, R_REF, gamma=0.0
    )
