# SPDX-License-Identifier: Apache-2.0
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxalign.divergences import categorical
from jaxalign.inference import best_of_n, soft_best_of_n
from tests import helpers

P = np.array([0.1, 0.4, 0.2, 0.3])
R = np.array([2.0, 0.0, 1.0, -1.0])
LOG_P = np.log(P)


@functools.partial(jax.jit, static_argnames=("num_nodes",))
def soft(log_p, rewards, log_n, temperature=1.0, num_nodes=1600):
  return soft_best_of_n.soft_log_pmf(
    log_p,
    rewards,
    log_n=log_n,
    temperature=temperature,
    num_nodes=num_nodes,
  )


tilted = jax.jit(soft_best_of_n.tilted_log_pmf)


def enumerated(p, r, n, temperature):
  """Law of soft best-of-n, by going through all V^n draws."""
  law = np.zeros_like(p)
  for draws in itertools.product(range(len(p)), repeat=n):
    draws = list(draws)
    kept = scipy.special.softmax(r[draws] / temperature)
    np.add.at(law, draws, np.prod(p[draws]) * kept)
  return law


# --- the exact law -----------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_pmf_equals_enumeration(n, temperature):
  value = np.exp(soft(LOG_P, R, np.log(n), temperature))
  # Relative accuracy of every outcome, down to p^n of the worst.
  helpers.assert_close(value, enumerated(P, R, n, temperature), rtol=1e-11)


def test_pmf_equals_a_million_draws(key):
  def draw(key):
    outcome = lambda k: jax.random.categorical(k, jnp.asarray(LOG_P))
    reward = lambda i: jnp.asarray(R)[i]
    return best_of_n.sample(key, outcome, reward, 4, temperature=0.7).sample

  count = 1_000_000
  kept = jax.jit(jax.vmap(draw))(jax.random.split(key, count))
  share = np.bincount(kept, minlength=4) / count
  law = np.exp(soft(LOG_P, R, np.log(4), 0.7))
  # Four comparisons at 3 standard errors, with a fixed key.
  assert np.all(np.abs(share - law) < 3 * np.sqrt(law * (1 - law) / count))


def test_mass_is_one():
  for log_n in (0.0, 1.0, 5.0, 30.0, 200.0):
    for temperature in (0.02, 1.0, 50.0):
      total = np.exp(soft(LOG_P, R, log_n, temperature)).sum()
      np.testing.assert_allclose(total, 1, rtol=0, atol=1e-13)


def test_limits():
  helpers.assert_close(soft(LOG_P, R, 0.0), LOG_P)
  # KL to the tilt is 1.25 / n^2.
  for log_n in (17.0, 300.0):
    helpers.assert_close(
      soft(LOG_P, R, log_n), tilted(LOG_P, R, 1.0), atol=1e-6
    )
  helpers.assert_close(soft(LOG_P, R, 300.0), tilted(LOG_P, R, 1.0), rtol=1e-12)
  # Gaps of 1 at temperature 1/50: e^-50 away from best-of-n, ties included.
  tied = np.array([2.0, 0.0, 2.0, -1.0])
  for rewards in (R, tied):
    helpers.assert_close(
      soft(LOG_P, rewards, np.log(5), 0.02),
      jax.jit(best_of_n.log_pmf)(LOG_P, rewards, 5),
    )


def test_only_reward_differences_over_temperature_matter():
  value = soft(LOG_P, R, np.log(9))
  helpers.assert_close(soft(LOG_P, R + 1e3, np.log(9)), value, rtol=1e-11)
  helpers.assert_close(soft(LOG_P, 7 * R, np.log(9), 7.0), value)
  shuffle = np.array([2, 0, 3, 1])
  helpers.assert_close(
    soft(LOG_P[shuffle], R[shuffle], np.log(9)), value[shuffle]
  )


def test_number_of_nodes():
  exact = soft(LOG_P, R, np.log(9))
  # A range of 50: spacing 0.25 has error e^-39, spacing 1.25 e^-8.
  helpers.assert_close(soft(LOG_P, R, np.log(9), num_nodes=200), exact)
  coarse = np.exp(soft(LOG_P, R, np.log(9), num_nodes=40)).sum()
  assert 1e-9 < abs(coarse - 1) < 1e-2


# --- rates -------------------------------------------------------------------


def test_distance_to_the_tilt():
  rate = soft_best_of_n.soft_rate(LOG_P, R, 1.0)
  assert isinstance(rate, soft_best_of_n.SoftRate)
  np.testing.assert_allclose(rate.kl, 1.25029, rtol=0, atol=5e-6)
  np.testing.assert_allclose(rate.total_variation, 0.75253, rtol=0, atol=5e-6)
  # Written out once more.
  u = np.exp(R) / (P @ np.exp(R))
  tilt = P * u
  helpers.assert_close(rate.kl, (tilt @ u**2 - (tilt @ u) ** 2) / 2)
  helpers.assert_close(rate.total_variation, tilt @ np.abs(P @ u**2 - u) / 2)
  n = 1024
  log_pi, log_tilt = soft(LOG_P, R, np.log(n)), tilted(LOG_P, R, 1.0)
  kl = n**2 * categorical.kl(log_tilt, log_pi)
  variation = n * categorical.total_variation(log_tilt, log_pi)
  np.testing.assert_allclose(kl, 1.2530, rtol=0, atol=5e-5)
  np.testing.assert_allclose(variation, 0.7531, rtol=0, atol=5e-5)


def test_rate_gradient():
  def total(log_p, rewards, temperature):
    rate = soft_best_of_n.soft_rate(log_p, rewards, temperature)
    return rate.kl + 2 * rate.total_variation

  helpers.assert_gradient(
    jax.jit(total), jnp.asarray(LOG_P), jnp.asarray(R), jnp.array(1.3)
  )


def enumerated_counts(length, n):
  """Soft best-of-n over the number of ones, by going through all multisets."""
  ones = np.arange(length + 1)
  base = scipy.stats.binom.pmf(ones, length, 0.4)
  weight = np.exp(1.5 * (ones - length))
  law = np.zeros(length + 1)
  for draws in itertools.combinations_with_replacement(ones, n):
    counts = np.bincount(draws, minlength=length + 1)
    orders = math.factorial(n) / np.prod([math.factorial(c) for c in counts])
    kept = counts * weight
    law += orders * np.prod(base**counts) * kept / kept.sum()
  return base, law


def test_whole_sequences_and_tokens():
  # The same n per sequence loses to the tilt as sequences grow; per token not.
  token_p, token_r = np.array([0.6, 0.4]), np.array([0.0, 1.5])
  expected = {1: 0.00401, 2: 0.01980, 4: 0.11953, 6: 0.31355, 8: 0.58542}
  log_token = np.log(token_p)
  log_tilt_token = tilted(log_token, token_r, 1.0)
  per_token = categorical.kl(
    log_tilt_token, soft(log_token, token_r, np.log(8))
  )
  np.testing.assert_allclose(per_token, 0.0040130, rtol=0, atol=5e-8)
  bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
  for length, value in expected.items():
    # Sequences of the other lengths have no mass: one shape serves all.
    live = np.arange(256) < 2**length
    own = bits[:, :length]
    log_p = np.where(live, np.log(token_p)[own].sum(-1), -np.inf)
    rewards = np.where(live, token_r[own].sum(-1), 0.0)
    log_tilt = tilted(log_p, rewards, 1.0)
    whole = categorical.kl(log_tilt, soft(log_p, rewards, np.log(8)))
    np.testing.assert_allclose(whole, value, rtol=0, atol=5e-6)
    tokens = soft(log_token, token_r, np.log(8))[own].sum(-1)
    by_token = categorical.kl(log_tilt, jnp.where(live, tokens, -jnp.inf))
    helpers.assert_close(by_token, length * per_token, rtol=1e-9)
  base, law = enumerated_counts(8, 8)
  tilt = base * np.exp(1.5 * np.arange(9))
  tilt /= tilt.sum()
  helpers.assert_close(whole, scipy.special.rel_entr(tilt, law).sum())


# --- gradients, transforms, arguments ----------------------------------------


def test_gradients():
  weights = jnp.array([0.3, -1.0, 0.7, 2.0])

  @jax.jit
  def total(log_p, rewards, temperature, log_n):
    log_pi = soft_best_of_n.soft_log_pmf(
      log_p, rewards, log_n=log_n, temperature=temperature, num_nodes=200
    )
    log_tilt = soft_best_of_n.tilted_log_pmf(log_p, rewards, temperature)
    return weights @ (log_pi + 2 * log_tilt)

  helpers.assert_gradient(
    total, jnp.asarray(LOG_P), jnp.asarray(R), jnp.array(1.3), jnp.array(1.7)
  )


def test_zeros():
  log_p = jnp.array([-jnp.inf, *LOG_P, -jnp.inf])
  # What has no mass counts neither as the best nor as the worst.
  rewards = jnp.array([1e4, *R, -1e4])

  def kl(x):
    log_pi = soft_best_of_n.soft_log_pmf(x, rewards, 4)
    log_tilt = soft_best_of_n.tilted_log_pmf(x, rewards, 1.0)
    rate = soft_best_of_n.soft_rate(x, rewards, 1.0)
    value = categorical.kl(log_tilt, log_pi) + rate.kl + rate.total_variation
    return value, (log_pi, log_tilt)

  with jax.debug_nans(True):
    gradient, laws = jax.jit(jax.grad(kl, has_aux=True))(log_p)
  expected = soft(LOG_P, R, np.log(4)), tilted(LOG_P, R, 1.0)
  for law, e in zip(laws, expected, strict=True):
    helpers.assert_close(law[1:5], e)
    assert law[0] == -np.inf and law[5] == -np.inf
  assert gradient[0] == 0 and gradient[5] == 0
  assert np.all(np.isfinite(gradient))


def test_transforms():
  @jax.jit
  def everything(log_p, rewards, temperature):
    return (
      soft_best_of_n.soft_log_pmf(log_p, rewards, 5, temperature),
      soft_best_of_n.tilted_log_pmf(log_p, rewards, temperature),
      soft_best_of_n.soft_rate(log_p, rewards, temperature),
    )

  log_p, r = jnp.stack([LOG_P, LOG_P[::-1]]), jnp.stack([R, R])
  helpers.assert_transforms(
    lambda *args: everything(*args), log_p, r, jnp.array([1.0, 0.5])
  )
  batched = everything(log_p, r, 0.5)
  single = everything(log_p[1], r[1], 0.5)
  helpers.assert_close(jax.tree.map(lambda x: x[1], batched), single)


def test_float32():
  log_p, r = LOG_P.astype(np.float32), R.astype(np.float32)
  for log_n in (0.0, 1.5, 12.0):
    # 1600 terms of single precision.
    np.testing.assert_allclose(
      soft(log_p, r, log_n), soft(LOG_P, R, log_n), rtol=1e-5, atol=2e-5
    )


def test_arguments_are_checked():
  with pytest.raises(ValueError, match="temperature must be above 0, was 0"):
    soft_best_of_n.soft_log_pmf(LOG_P, R, 4, 0.0)
  with pytest.raises(ValueError, match="temperature must be above 0"):
    soft_best_of_n.tilted_log_pmf(LOG_P, R, -1.0)
  with pytest.raises(ValueError, match="temperature must be above 0"):
    soft_best_of_n.soft_rate(LOG_P, R, 0.0)
  with pytest.raises(ValueError, match="n must be at least 1"):
    soft_best_of_n.soft_log_pmf(LOG_P, R, 0.5)
  with pytest.raises(ValueError, match="give one of n and log_n"):
    soft_best_of_n.soft_log_pmf(LOG_P, R, 4, log_n=1.0)
  with pytest.raises(ValueError, match="num_nodes must be at least 2"):
    soft_best_of_n.soft_log_pmf(LOG_P, R, 4, num_nodes=1)
  with pytest.raises(AssertionError, match="log_p .4,., rewards .3,."):
    soft_best_of_n.soft_log_pmf(LOG_P, R[:3], 4)
