# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

from jaxalign.divergences import categorical
from jaxalign.inference import asymptotics
from tests import helpers

P = np.array([0.1, 0.4, 0.2, 0.3])
R = np.array([2.0, 0.0, 1.0, -1.0])
LOG_P = np.log(P)
BERNOULLI = np.log([0.7, 0.3])
BITS = np.array([0.0, 1.0])

solve = jax.jit(asymptotics.kl_constrained_policy)
rate = jax.jit(asymptotics.large_deviation_rate)


def kl(p, q):
  return np.sum(scipy.special.rel_entr(p, q), -1)


# --- the optimum in a KL ball ------------------------------------------------


def test_optimum_equals_a_root_finder():
  def tilt(s):
    return scipy.special.softmax(LOG_P + s * R)

  for max_kl in (1e-6, 0.1, 1.0, 2.3):
    s = scipy.optimize.brentq(
      lambda s, max_kl=max_kl: kl(tilt(s), P) - max_kl, 1e-9, 100, xtol=1e-14
    )
    value = solve(LOG_P, R, max_kl)
    # At 1e-6 the oracle's own KL has lost half of its digits.
    tolerance = 1e-9 if max_kl > 1e-3 else 1e-6
    helpers.assert_close(value.inv_temperature, s, rtol=tolerance)
    helpers.assert_close(np.exp(value.log_policy), tilt(s), rtol=tolerance)
    achieved = categorical.kl(value.log_policy, LOG_P)
    helpers.assert_close(achieved, max_kl)
    assert achieved <= max_kl * (1 + 1e-12)


def test_bernoulli_optimum():
  value = np.exp(solve(BERNOULLI, BITS, 0.1).log_policy[1])
  np.testing.assert_allclose(value, 0.5146291, rtol=0, atol=5e-8)


@pytest.mark.parametrize("max_kl", [-np.log(0.1) + 1e-9, 50.0])
def test_wide_balls_hold_the_restriction(max_kl):
  value = solve(LOG_P, R, max_kl)
  np.testing.assert_array_equal(value.log_policy, [0, *[-np.inf] * 3])
  assert value.inv_temperature == np.inf
  tied = solve(LOG_P, np.array([2.0, 0.0, 2.0, -1.0]), 2.0)
  helpers.assert_close(np.exp(tied.log_policy), [1 / 3, 0, 2 / 3, 0])
  level = solve(LOG_P, np.ones(4), 0.3)
  helpers.assert_close(level.log_policy, LOG_P)


def test_just_inside_the_limit():
  slack = 1e-10
  value = solve(LOG_P, R, -np.log(0.1) - slack)
  assert np.isfinite(value.inv_temperature)
  # KL(phi||p) = -log p_top - (1 - phi_top) s gap + ..., with gap 1.
  helpers.assert_close(
    categorical.kl(value.log_policy, LOG_P), -np.log(0.1) - slack
  )


def test_policies_near_the_optimum_are_close_to_it():
  rng = np.random.default_rng(0)
  max_kl = 0.5
  log_phi, s = solve(LOG_P, R, max_kl)
  phi = np.exp(log_phi)
  policies = scipy.special.softmax(3 * rng.normal(size=(5000, 4)), -1)
  # The identity, for any policy at all.
  left = kl(policies, P)
  right = kl(policies, phi) + s * (policies @ R - phi @ R) + kl(phi, P)
  helpers.assert_close(left, right)
  # Mixed with the base until they are inside the ball.
  for _ in range(20):
    outside = kl(policies, P) > max_kl
    policies[outside] = (policies[outside] + P) / 2
  assert np.all(kl(policies, P) <= max_kl)
  eps = phi @ R - policies @ R
  assert np.all(eps >= 0)
  assert np.all(kl(policies, phi) <= s * eps + 1e-12)


def test_optimum_is_invariant():
  value = solve(LOG_P, R, 0.5)
  shuffle = np.array([2, 0, 3, 1])
  permuted = solve(LOG_P[shuffle], R[shuffle], 0.5)
  helpers.assert_close(permuted.log_policy, value.log_policy[shuffle])
  scaled = solve(LOG_P, 1e8 * R - 7, 0.5)
  helpers.assert_close(scaled.log_policy, value.log_policy, rtol=1e-7)
  helpers.assert_close(
    1e8 * scaled.inv_temperature, value.inv_temperature, rtol=1e-7
  )


def test_optimum_gradient():
  @jax.jit
  def reward(log_p, rewards, max_kl):
    solved = asymptotics.kl_constrained_policy(log_p, rewards, max_kl)
    return jnp.exp(solved.log_policy) @ jnp.asarray(R)

  arguments = (jnp.asarray(LOG_P), jnp.asarray(R), jnp.array(0.5))
  helpers.assert_gradient(reward, *arguments)
  # The multiplier: dE r / dDelta = 1/s.
  slope = jax.grad(reward, 2)(*arguments)
  helpers.assert_close(slope, 1 / solve(LOG_P, R, 0.5).inv_temperature)


def test_optimum_with_zeros():
  log_p = jnp.array([-jnp.inf, *LOG_P, -jnp.inf])
  rewards = jnp.array([9.0, *R, -jnp.inf])

  def reward(x):
    solved = asymptotics.kl_constrained_policy(x, rewards, 0.5)
    return jnp.exp(solved.log_policy[1:5]) @ jnp.asarray(R), solved

  with jax.debug_nans(True):
    gradient, solved = jax.jit(jax.grad(reward, has_aux=True))(log_p)
  helpers.assert_close(solved.log_policy[1:5], solve(LOG_P, R, 0.5).log_policy)
  assert np.all(solved.log_policy[jnp.array([0, 5])] == -np.inf)
  assert gradient[0] == 0 and gradient[5] == 0
  assert np.all(np.isfinite(gradient))


# --- large deviations --------------------------------------------------------


def test_rate_is_the_kl_of_a_tilt():
  for s in (-3.0, -0.2, 0.0, 0.7, 20.0):
    tilt = scipy.special.softmax(LOG_P + s * R)
    expected = kl(tilt, P)
    helpers.assert_close(rate(LOG_P, R, tilt @ R), expected, atol=1e-14)
    # Its slope is s; at 20 the level is 1e-8 from the edge, of 16 digits.
    slope = jax.grad(lambda x: rate(LOG_P, R, x))(tilt @ R)
    helpers.assert_close(slope, s, rtol=1e-6, atol=1e-9)


def test_rate_edges():
  helpers.assert_close(rate(LOG_P, R, 2.0), -np.log(0.1))
  helpers.assert_close(rate(LOG_P, R, -1.0), -np.log(0.3))
  assert rate(LOG_P, R, 2.0001) == np.inf and rate(LOG_P, R, -1.1) == np.inf
  with jax.debug_nans(True):
    log_p = jnp.array([-jnp.inf, *LOG_P])
    rewards = jnp.array([9.0, *R])
    value, gradient = jax.value_and_grad(rate)(log_p, rewards, jnp.array(1.0))
  helpers.assert_close(value, rate(LOG_P, R, 1.0))
  assert gradient[0] == 0
  helpers.assert_gradient(
    rate, jnp.asarray(LOG_P), jnp.asarray(R), jnp.array(1.1)
  )


def test_rate_of_bernoulli_tokens():
  x_star = 0.5146291
  log_phi = np.log([1 - x_star, x_star])
  value = rate(log_phi, BITS, 0.6)
  helpers.assert_close(value, kl(np.array([0.4, 0.6]), np.exp(log_phi)))
  np.testing.assert_allclose(value, 0.014710, rtol=0, atol=5e-7)


@pytest.mark.parametrize(
  ("num_tokens", "expected"),
  [(100, 0.02928), (1000, 0.01717), (10000, 0.01507)],
)
def test_tails_approach_the_rate(num_tokens, expected):
  x_star = np.exp(solve(BERNOULLI, BITS, 0.1).log_policy[1])
  log_pmf = np.asarray(asymptotics.binomial_log_pmf(x_star, num_tokens))
  counts = np.arange(num_tokens + 1)
  tail = scipy.special.logsumexp(log_pmf[10 * counts >= 6 * num_tokens])
  np.testing.assert_allclose(-tail / num_tokens, expected, rtol=0, atol=5e-6)
  limit = rate(np.log([1 - x_star, x_star]), BITS, 0.6)
  # Bahadur and Rao: the excess is of order log(m) / m.
  assert 0 < -tail / num_tokens - limit < np.log(num_tokens) / num_tokens


# --- tokens ------------------------------------------------------------------


def test_binomial_equals_scipy():
  for p in (1e-8, 0.3, 0.9):
    value = asymptotics.binomial_log_pmf(p, 100)
    expected = scipy.stats.binom.logpmf(np.arange(101), 100, p)
    helpers.assert_close(value, expected, rtol=1e-11, atol=1e-11)
  with jax.debug_nans(True):
    edges = np.exp(asymptotics.binomial_log_pmf(jnp.array([0.0, 1.0]), 3))
  helpers.assert_close(edges, np.array([[1.0, 0, 0, 0], [0, 0, 0, 1]]))
  far = asymptotics.binomial_log_pmf(0.3, 100_000)
  # Twice the sum of m log m units in the last place.
  assert np.all(np.isfinite(far))
  helpers.assert_close(scipy.special.logsumexp(far), 0.0, atol=1e-9)


def test_binomial_gradient():
  p = jnp.array(0.3)
  jacobian = jax.jacobian(lambda p: asymptotics.binomial_log_pmf(p, 5))(p)
  counts = np.arange(6)
  helpers.assert_close(jacobian, counts / 0.3 - (5 - counts) / 0.7)
  with pytest.raises(ValueError, match="num_tokens must be at least 1, was 0"):
    asymptotics.binomial_log_pmf(0.3, 0)


@pytest.mark.parametrize(
  ("num_tokens", "reward", "to_optimum", "to_base"),
  [
    (10, 0.41256, 0.027429, 0.03497),
    (100, 0.49289, 0.009178, 0.08948),
    (1000, 0.51126, 0.001989, 0.09894),
    (10_000, 0.51417, 0.000313, 0.09989),
    (100_000, 0.51457, 0.000043, 0.09999),
  ],
)
def test_best_of_n_reaches_the_optimum(num_tokens, reward, to_optimum, to_base):
  run = jax.jit(asymptotics.bernoulli_best_of_n, static_argnums=2)
  value = run(0.3, 0.1, num_tokens)
  expected = (reward, to_optimum, to_base)
  for x, e, digits in zip(value, expected, (5, 6, 5), strict=True):
    np.testing.assert_allclose(x, e, rtol=0, atol=0.5 * 10**-digits)


def test_best_of_n_over_counts_equals_that_over_sequences():
  # m = 3, n = 8 = e^{3 log 2}: all 8 sequences, ties in the number of ones.
  bits = (np.arange(8)[:, None] >> np.arange(3)) & 1
  base = np.prod(np.where(bits, 0.3, 0.7), -1)
  ones = bits.sum(-1)
  upto = np.array([base[ones <= k].sum() for k in ones])
  below = np.array([base[ones < k].sum() for k in ones])
  law = base / (upto - below) * (upto**8 - below**8)
  value = asymptotics.bernoulli_best_of_n(0.3, np.log(2), 3)
  phi = np.exp(solve(BERNOULLI, BITS, np.log(2)).log_policy)
  optimum = np.prod(phi[bits], -1)
  helpers.assert_close(
    tuple(value), (law @ ones / 3, kl(law, optimum) / 3, kl(law, base) / 3)
  )


def test_best_of_n_gradient():
  def total(p):
    value = asymptotics.bernoulli_best_of_n(p, 0.1, 5)
    return value.reward + 2 * value.kl_to_optimum + 3 * value.kl_to_base

  helpers.assert_gradient(jax.jit(total), jnp.array(0.3))


def test_transforms():
  log_p, rewards = jnp.stack([LOG_P, LOG_P[::-1]]), jnp.stack([R, R])
  level = jnp.array([0.9, 1.2])

  @jax.jit
  def everything(log_p, rewards, level):
    return (
      asymptotics.kl_constrained_policy(log_p, rewards, 0.5),
      asymptotics.large_deviation_rate(log_p, rewards, level),
      asymptotics.binomial_log_pmf(level / 2, 5),
      asymptotics.bernoulli_best_of_n(level / 2, 0.1, 5),
    )

  helpers.assert_transforms(
    lambda *args: everything(*args), log_p, rewards, level
  )
  batched = everything(log_p, rewards, level)
  assert isinstance(batched[0], asymptotics.KLConstrained)
  assert isinstance(batched[3], asymptotics.BernoulliBestOfN)
  single = everything(log_p[1], rewards[1], level[1])
  helpers.assert_close(jax.tree.map(lambda x: x[1], batched), single)
  eager = (
    asymptotics.kl_constrained_policy(log_p[1], rewards[1], 0.5),
    asymptotics.large_deviation_rate(log_p[1], rewards[1], level[1]),
  )
  helpers.assert_close(eager, single[:2])


def test_arguments_are_checked():
  with pytest.raises(ValueError, match="max_kl must be above 0, was 0"):
    asymptotics.kl_constrained_policy(LOG_P, R, 0.0)
  with pytest.raises(AssertionError, match="log_p .4,., rewards .2,."):
    asymptotics.kl_constrained_policy(LOG_P, BITS, 0.1)
  with pytest.raises(AssertionError, match="level .3,."):
    asymptotics.large_deviation_rate(LOG_P, R, np.zeros(3))
  with pytest.raises(ValueError, match="max_kl must be above 0"):
    asymptotics.bernoulli_best_of_n(0.3, -0.1, 5)
