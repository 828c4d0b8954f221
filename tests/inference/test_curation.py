# SPDX-License-Identifier: Apache-2.0
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxalign.divergences import categorical
from jaxalign.inference import curation
from tests import helpers

P = np.array([0.1, 0.4, 0.2, 0.3])
R = np.array([2.0, 0.0, 1.0, -1.0])
LOG_P = np.log(P)

step = jax.jit(
  lambda log_p, rewards, log_k: curation.curation_step(
    log_p, rewards, log_k=log_k
  )
)
mixed_step = jax.jit(
  lambda log_p, rewards, log_k, log_ref, lam: curation.curation_step(
    log_p, rewards, log_k=log_k, log_ref=log_ref, lam=lam
  )
)


@functools.partial(jax.jit, static_argnames="rounds")
def trajectory(log_p, rewards, log_k, rounds):
  def body(log_p, _):
    log_p = curation.curation_step(log_p, rewards, log_k=log_k)
    return log_p, log_p

  return jax.lax.scan(body, log_p, None, rounds)[1]


@functools.partial(jax.jit, static_argnames="rounds")
def mixed_trajectory(log_ref, rewards, log_k, lam, rounds):
  def body(log_p, _):
    log_p = curation.curation_step(
      log_p, rewards, log_k=log_k, log_ref=log_ref, lam=lam
    )
    return log_p, log_p

  return jax.lax.scan(body, log_ref, None, rounds)[1]


def mean_exp(log_p, rewards):
  return np.sum(np.exp(log_p) * np.exp(rewards), -1)


def variance_exp(log_p, rewards):
  second = np.sum(np.exp(log_p) * np.exp(2 * np.asarray(rewards)), -1)
  return second - mean_exp(log_p, rewards) ** 2


def random_cases(rng, rows):
  log_p = scipy.special.log_softmax(2 * rng.normal(size=(rows, 5)), -1)
  return log_p, rng.normal(size=(rows, 5)) * rng.choice([0.3, 1, 3], (rows, 1))


# --- one round ---------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 4])
def test_step_equals_enumeration(k):
  law = np.zeros(4)
  for draws in itertools.product(range(4), repeat=k):
    draws = list(draws)
    chance = np.prod(P[draws]) * scipy.special.softmax(R[draws])
    np.add.at(law, draws, chance)
  helpers.assert_close(np.exp(step(LOG_P, R, np.log(k))), law, rtol=1e-11)
  ratio = law / P
  assert np.all((ratio > 0) & (ratio <= k))
  ref = np.array([0.4, 0.1, 0.0, 0.5])
  with np.errstate(divide="ignore"):
    mixed = mixed_step(LOG_P, R, np.log(k), np.log(ref), 2.5)
  helpers.assert_close(np.exp(mixed), (ref + 2.5 * law) / 3.5, rtol=1e-11)


def test_gain_of_the_first_round():
  start = mean_exp(LOG_P, R)
  np.testing.assert_allclose(start, 1.79293, rtol=0, atol=5e-6)
  gain = mean_exp(step(LOG_P, R, np.log(4)), R) - start
  np.testing.assert_allclose(gain, 1.25818, rtol=0, atol=5e-6)
  bound = curation.curation_gain_bound(LOG_P, R, 4)
  np.testing.assert_allclose(bound, 0.42262, rtol=0, atol=5e-6)
  expected = 0.75 * variance_exp(LOG_P, R) / np.exp(2)
  helpers.assert_close(bound, expected)


def test_collapse_onto_the_best():
  path = trajectory(LOG_P, R, np.log(4), 30)
  # KL(p_inf||p_t) = -log p_t(best).
  rest = -path[:, 0]
  np.testing.assert_allclose(rest[-1], 7.5e-11, rtol=0, atol=0.05e-11)
  assert np.all(np.diff(rest) < 0)
  variance = variance_exp(path, R)
  assert variance[-1] < 1e-8 * variance_exp(LOG_P, R)


def test_infinite_samples_tilt_the_start():
  path = trajectory(LOG_P, R, 200.0, 4)
  for t, log_p in enumerate(path, 1):
    helpers.assert_close(log_p, scipy.special.log_softmax(LOG_P + t * R))


def test_gain_bound_holds():
  rng = np.random.default_rng(0)
  log_p, rewards = random_cases(rng, 300)
  log_k = np.log(rng.integers(2, 50, 300))
  after = jax.vmap(step)(log_p, rewards, jnp.asarray(log_k))
  gain = mean_exp(after, rewards) - mean_exp(log_p, rewards)
  bound = jax.vmap(lambda p, r, k: curation.curation_gain_bound(p, r, log_k=k))(
    log_p, rewards, jnp.asarray(log_k)
  )
  assert np.all(bound >= 0)
  assert np.all(gain >= bound - 1e-12 * np.exp(rewards.max(-1)))


# --- with real data ----------------------------------------------------------


def test_fixed_point_with_real_data():
  path = mixed_trajectory(LOG_P, R, np.log(2), 2.0, 300)
  last = path[-1]
  helpers.assert_close(mixed_step(last, R, np.log(2), LOG_P, 2.0), last)
  np.testing.assert_allclose(mean_exp(last, R), 4.06550, rtol=0, atol=5e-6)
  drift = categorical.kl(last, LOG_P)
  np.testing.assert_allclose(drift, 0.41367, rtol=0, atol=5e-6)
  # Diversity stays, where without real data it goes.
  assert variance_exp(last, R) > variance_exp(LOG_P, R)
  pure = trajectory(LOG_P, R, np.log(2), 300)
  assert variance_exp(pure[-1], R) < 1e-8


def test_drift_and_gain_over_real_data():
  rng = np.random.default_rng(1)
  log_ref, rewards = random_cases(rng, 60)
  k = rng.integers(2, 6, 60)
  lam = rng.uniform(0.05, 0.999, 60) / (k - 1)
  run = jax.vmap(lambda *args: mixed_trajectory(*args, 12))
  path = run(log_ref, rewards, jnp.asarray(np.log(k)), jnp.asarray(lam))
  drift = categorical.kl(path, jnp.broadcast_to(log_ref[:, None], path.shape))
  bound = curation.curation_kl_bound(jnp.asarray(k), lam=jnp.asarray(lam))
  helpers.assert_close(bound, -np.log(1 - lam * (k - 1)))
  assert np.all(drift <= bound[:, None] + 1e-12)

  # The gain over real data holds for every lam.
  lam = np.exp(rng.uniform(-3, 3, 60))
  path = run(log_ref, rewards, jnp.asarray(np.log(k)), jnp.asarray(lam))
  start = mean_exp(log_ref, rewards)
  gain = mean_exp(path, rewards[:, None]) - start[:, None]
  least = jax.vmap(
    lambda p, r, k, lam: curation.curation_ref_gain_bound(
      p, r, log_k=k, lam=lam
    )
  )(log_ref, rewards, jnp.asarray(np.log(k)), jnp.asarray(lam))
  expected = (
    lam
    / (1 + lam) ** 3
    * (k - 1)
    / k
    * variance_exp(log_ref, rewards)
    / np.exp(rewards.max(-1))
  )
  # A difference of two second moments, of the size of e^(2 max r).
  helpers.assert_close(least, expected, rtol=1e-7, atol=1e-12)
  scale = np.exp(rewards.max(-1))[:, None]
  assert np.all(gain >= least[:, None] - 1e-12 * scale)


def test_rare_and_excellent_outcomes_reach_the_drift_bound():
  # H_k is k there, and the bound is on every log-ratio.
  log_ref = np.log([1e-12, 0.6, 0.4 - 1e-12])
  rewards = np.array([40.0, 0.0, 1.0])
  path = mixed_trajectory(log_ref, rewards, np.log(3), 0.3, 60)
  bound = curation.curation_kl_bound(3, lam=0.3)
  # 0.9 of the distance is left out 60 times, and k - H_k is about 1e-12.
  np.testing.assert_allclose(path[-1, 0] - log_ref[0], bound, rtol=1e-8)
  assert np.all(path - log_ref <= bound + 1e-12)


def test_kl_bound_domain():
  assert curation.curation_kl_bound(3, lam=0.5) == np.inf
  assert curation.curation_kl_bound(log_k=1e3, lam=1e-9) == np.inf
  helpers.assert_close(curation.curation_kl_bound(1, lam=7.0), 0.0)
  helpers.assert_close(curation.curation_kl_bound(3, lam=0.25), np.log(2))
  with jax.debug_nans(True):
    slope = jax.grad(lambda lam: curation.curation_kl_bound(3, lam=lam))
    helpers.assert_close(slope(0.25), 2 / (1 - 0.5))
    assert slope(0.9) == 0


# --- gradients, transforms, arguments ----------------------------------------


def test_gradients():
  weights = jnp.array([0.3, -1.0, 0.7, 2.0])

  @jax.jit
  def total(log_p, rewards, log_ref, lam):
    log_next = curation.curation_step(
      log_p, rewards, 3, log_ref=log_ref, lam=lam
    )
    gain = curation.curation_gain_bound(log_p, rewards, 3)
    floor = curation.curation_ref_gain_bound(log_ref, rewards, 3, lam=lam)
    return weights @ log_next + gain + 2 * floor

  helpers.assert_gradient(
    total,
    jnp.asarray(LOG_P),
    jnp.asarray(R),
    jnp.array([-1.0, -0.5, -2.0, -3.0]),
    jnp.array(1.3),
  )


def test_zeros():
  log_p = jnp.array([-jnp.inf, -1.0, -0.5])
  log_ref = jnp.array([-jnp.inf, -jnp.inf, 0.0])
  rewards = jnp.array([50.0, 1.0, 0.0])

  def total(log_p, log_ref):
    log_next = curation.curation_step(
      log_p, rewards, 3, log_ref=log_ref, lam=1.5
    )
    gain = curation.curation_gain_bound(log_p, rewards, 3)
    return jnp.sum(jnp.exp(log_next) * rewards) + gain, log_next

  with jax.debug_nans(True):
    gradients, log_next = jax.jit(jax.grad(total, (0, 1), has_aux=True))(
      log_p, log_ref
    )
  assert log_next[0] == -np.inf and np.all(log_next[1:] > -np.inf)
  assert all(np.all(np.isfinite(g)) and g[0] == 0 for g in gradients)
  with jax.debug_nans(True):
    # No curated data at all: the real data again.
    same = curation.curation_step(
      log_p, rewards, 3, log_ref=jnp.log(jnp.array([0.2, 0.3, 0.5])), lam=0.0
    )
  helpers.assert_close(np.exp(same), np.array([0.2, 0.3, 0.5]))


def test_permutation_and_transforms():
  @jax.jit
  def everything(log_p, rewards, log_ref, lam):
    return (
      curation.curation_step(log_p, rewards, 3),
      curation.curation_step(log_p, rewards, 3, log_ref=log_ref, lam=lam),
      curation.curation_gain_bound(log_p, rewards, 3),
      curation.curation_ref_gain_bound(log_ref, rewards, 3, lam=lam),
      curation.curation_kl_bound(1 + lam, lam=lam),
    )

  log_p, r = jnp.stack([LOG_P, LOG_P[::-1]]), jnp.stack([R, R])
  lam = jnp.array([0.5, 2.0])
  helpers.assert_transforms(
    lambda *args: everything(*args), log_p, r, log_p[::-1], lam
  )
  shuffle = np.array([2, 0, 3, 1])
  helpers.assert_close(
    step(LOG_P[shuffle], R[shuffle], np.log(4)),
    step(LOG_P, R, np.log(4))[shuffle],
  )


def test_arguments_are_checked():
  with pytest.raises(ValueError, match="go together: no log_ref, lam=2.0"):
    curation.curation_step(LOG_P, R, 4, lam=2.0)
  with pytest.raises(ValueError, match="go together: a log_ref, lam=inf"):
    curation.curation_step(LOG_P, R, 4, log_ref=LOG_P)
  with pytest.raises(ValueError, match="lam must be at least 0, was -1"):
    curation.curation_step(LOG_P, R, 4, log_ref=LOG_P, lam=-1.0)
  with pytest.raises(ValueError, match="k must be at least 1"):
    curation.curation_step(LOG_P, R, 0)
  with pytest.raises(ValueError, match="give one of k and log_k"):
    curation.curation_gain_bound(LOG_P, R)
  with pytest.raises(ValueError, match="lam must be above 0"):
    curation.curation_ref_gain_bound(LOG_P, R, 4, lam=0.0)
  with pytest.raises(ValueError, match="k must be at least 1"):
    curation.curation_kl_bound(0.5, lam=1.0)
  with pytest.raises(AssertionError, match="log_p .4,., log_ref .3,."):
    curation.curation_step(LOG_P, R, 4, log_ref=LOG_P[:3], lam=1.0)
  with pytest.raises(AssertionError, match="log_p .4,., rewards .3,."):
    curation.curation_step(LOG_P, R[:3], 4)
  assert math.isinf(float(curation.curation_kl_bound(2, lam=1.0)))
