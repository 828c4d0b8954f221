# SPDX-License-Identifier: Apache-2.0
"""The regularised maximiser against closed forms and direct optimisation."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxalign.divergences import custom, generators, regularized
from tests import helpers

INF = math.inf
R = np.array([0.7, -0.4, 1.5, 0.2, -1.1])
REF = np.array([0.15, 0.3, 0.05, 0.4, 0.1])

solve = jax.jit(regularized.regularized_maximizer, static_argnums=0)

# name: the row, and f and f' in NumPy.
CASES = {
  "kl": ({}, lambda u: u * np.log(u), lambda u: np.log(u) + 1),
  "reverse_kl": ({}, lambda u: -np.log(u), lambda u: -1 / u),
  "jensen_shannon": (
    {},
    lambda u: (u * np.log(u) - (u + 1) * np.log((u + 1) / 2)) / 2,
    lambda u: np.log(2 * u / (1 + u)) / 2,
  ),
  "jeffreys": (
    {},
    lambda u: (u - 1) * np.log(u),
    lambda u: np.log(u) + 1 - 1 / u,
  ),
  "pearson_chi2": ({}, lambda u: (u - 1) ** 2, lambda u: 2 * (u - 1)),
  "neyman_chi2": ({}, lambda u: (u - 1) ** 2 / u, lambda u: 1 - u**-2.0),
  "squared_hellinger": (
    {},
    lambda u: (np.sqrt(u) - 1) ** 2 / 2,
    lambda u: (1 - u**-0.5) / 2,
  ),
  "le_cam": (
    {},
    lambda u: (1 - u) ** 2 / (2 * (1 + u)),
    lambda u: 0.5 - 2 / (1 + u) ** 2,
  ),
}
for _al in (0.4, 0.5, 1.7, -0.7):
  CASES[f"alpha({_al})"] = (
    {"alpha": _al},
    lambda u, al=_al: (u**al - al * u - (1 - al)) / (al * (al - 1)),
    lambda u, al=_al: (u ** (al - 1) - 1) / (al - 1),
  )
DIVS = {
  name: generators.f_divergence(name.split("(")[0], **case[0])
  for name, case in CASES.items()
}


def _direct(f, rewards, ref, beta):
  """The objective maximised over the simplex, without any f'."""

  def loss(pi):
    return beta * np.sum(ref * f(np.maximum(pi, 1e-12) / ref)) - pi @ rewards

  result = scipy.optimize.minimize(
    loss,
    ref,
    method="SLSQP",
    bounds=[(0, 1)] * len(ref),
    constraints={"type": "eq", "fun": lambda pi: pi.sum() - 1},
    options={"ftol": 1e-15, "maxiter": 500},
  )
  return result.x


@pytest.mark.parametrize("name", CASES)
def test_direct_optimisation_and_optimality(name):
  """The optimum found without f', and the conditions that characterise it."""
  _, f, f_prime = CASES[name]
  for beta in (0.6, 3.0):
    pi = np.exp(solve(DIVS[name], R, np.log(REF), beta))
    # Differences of the objective see a policy to the root of 1e-15.
    helpers.assert_close(pi, _direct(f, R, REF, beta), rtol=0, atol=2e-6)
    helpers.assert_close(pi.sum(), 1.0, rtol=1e-14)
    kept = pi > 0
    lam = R[kept] - beta * f_prime(pi[kept] / REF[kept])
    helpers.assert_close(lam, np.full(kept.sum(), lam[0]), rtol=1e-9)
    if not kept.all():
      with np.errstate(divide="ignore"):
        assert np.all(R[~kept] - beta * f_prime(0.0) <= lam[0] + 1e-9)


def test_closed_forms():
  beta = 0.6
  log_pi = solve(DIVS["kl"], R, np.log(REF), beta)
  helpers.assert_close(log_pi, jax.nn.log_softmax(np.log(REF) + R / beta))
  # Forward KL: beta ref / (lam - r).
  root = scipy.optimize.brentq(
    lambda lam: np.sum(beta * REF / (lam - R)) - 1,
    R.max() + 1e-9,
    50,
    xtol=1e-15,
  )
  pi = np.exp(solve(DIVS["reverse_kl"], R, np.log(REF), beta))
  helpers.assert_close(pi, beta * REF / (root - R), rtol=1e-9)
  # Pearson: clipped affine, with exact zeros.
  beta = 0.3
  pi = np.exp(solve(DIVS["pearson_chi2"], R, np.log(REF), beta))
  root = scipy.optimize.brentq(
    lambda lam: np.sum(REF * np.maximum(1 + (R - lam) / (2 * beta), 0)) - 1,
    -9, 9, xtol=1e-15,
  )  # fmt: skip
  expected = REF * np.maximum(1 + (R - root) / (2 * beta), 0)
  helpers.assert_close(pi, expected, rtol=1e-9)
  assert np.any(pi == 0) and np.any(expected == 0)


@pytest.mark.parametrize("index", [0.6, 1.7])
def test_tsallis_policy(index):
  """`mu [ (1 + (q-1)(r - lam)/tau)/q ]_+^(1/(q-1))` is tau T_q = tau q D_q."""
  tau = 0.4

  def policy(lam):
    inner = np.maximum(1 + (index - 1) * (R - lam) / tau, 0) / index
    return REF * inner ** (1 / (index - 1))

  # f = (u^q - u)/(q-1) has f'(0) and f'(inf) in place of 0 and inf.
  low = R.max() - tau / (1 - index) + 1e-12 if index < 1 else -9
  root = scipy.optimize.brentq(
    lambda lam: policy(lam).sum() - 1, low, 30, xtol=1e-15
  )
  div = generators.f_divergence("alpha", alpha=index)
  pi = np.exp(solve(div, R, np.log(REF), tau * index))
  helpers.assert_close(pi, policy(root), rtol=1e-9, atol=1e-15)
  if index > 1:
    assert np.any(pi == 0)
  else:
    assert np.all(pi > 0)

  # T_q itself, maximised directly.
  def f(u):
    return (u**index - u) / (index - 1)

  helpers.assert_close(pi, _direct(f, R, REF, tau), rtol=0, atol=2e-6)


def test_twice_jensen_shannon_written_by_a_user():
  twice = custom.custom_f_divergence(
    lambda u: u * jnp.log(u) - (u + 1) * jnp.log((u + 1) / 2)
  )
  pi = np.exp(solve(twice, R, np.log(REF), 0.4))
  row = np.exp(solve(DIVS["jensen_shannon"], R, np.log(REF), 0.8))
  helpers.assert_close(pi, row, rtol=1e-9)
  f = lambda u: u * np.log(u) - (u + 1) * np.log((u + 1) / 2)
  helpers.assert_close(pi, _direct(f, R, REF, 0.4), rtol=0, atol=2e-6)


def _score(div, rewards, ref_logits, beta):
  log_pi = regularized.regularized_maximizer(div, rewards, ref_logits, beta)
  weights = jnp.cos(jnp.arange(log_pi.shape[-1]))
  return jnp.sum(jnp.where(log_pi > -INF, log_pi, 0) * weights)


@pytest.mark.parametrize("name", CASES)
def test_gradients(name):
  """In rewards, reference and beta; also where two outcomes are the best."""
  fn = jax.jit(functools.partial(_score, DIVS[name]))
  tie = np.array([1.5, 0.2, 1.5, 0.4, 0.3])
  for rewards in (R, tie):
    helpers.assert_gradient(fn, rewards, np.log(REF), np.array(0.6))


def test_gradients_of_zeros_are_zero():
  """Chi-squared drops outcomes: small changes of their rewards do nothing."""
  div = DIVS["pearson_chi2"]

  @jax.jit
  def jacobian(rewards):
    def pi(rewards):
      return jnp.exp(
        regularized.regularized_maximizer(div, rewards, jnp.log(REF), 0.3)
      )

    return pi(rewards), jax.jacrev(pi)(rewards), jax.jacfwd(pi)(rewards)

  pi, reverse, forward = jacobian(R)
  assert np.any(pi == 0)
  helpers.assert_close(reverse, forward, atol=1e-15)
  assert np.all(reverse[pi == 0] == 0) and np.all(reverse[:, pi == 0] == 0)
  # A policy stays normalised, whatever moves.
  helpers.assert_close(reverse.sum(0), np.zeros(5), atol=1e-14)


def test_second_derivative():
  for name in ("jensen_shannon", "pearson_chi2"):
    slope = jax.jit(jax.grad(functools.partial(_score, DIVS[name])))

    def along(rewards, slope=slope):
      return jnp.sum(slope(rewards, np.log(REF), 0.6) * REF)

    helpers.assert_gradient(jax.jit(along), R, atol=1e-7)


def test_outcomes_without_reference_mass():
  """They stay without mass and are as if deleted, whatever their rewards."""
  logits = np.insert(np.log(REF), [1, 5], -INF)
  rewards = np.insert(R, [1, 5], [np.nan, 99.0])
  kept, gone = np.array([0, 2, 3, 4, 5]), np.array([1, 6])
  for name in ("kl", "le_cam"):
    log_pi = solve(DIVS[name], rewards, logits, 0.6)
    helpers.assert_close(log_pi[kept], solve(DIVS[name], R, np.log(REF), 0.6))
    assert np.all(log_pi[gone] == -INF)
    score = functools.partial(_score, DIVS[name])
    with jax.debug_nans(True):
      slopes = jax.jit(jax.grad(score, (0, 1, 2)))(rewards, logits, 0.6)
    assert np.all(slopes[0][gone] == 0) and np.all(slopes[1][gone] == 0)
    assert all(np.all(np.isfinite(x)) for x in slopes)
    assert np.any(slopes[0] != 0)
  # The usual finite masks do the same.
  for mask in (-1e30, float(np.finfo(np.float32).min)):
    masked = np.where(np.isinf(logits), mask, logits).astype(np.float32)
    clean = np.nan_to_num(rewards, nan=3.0).astype(np.float32)
    log_pi = solve(DIVS["reverse_kl"], clean, masked, np.float32(0.6))
    exact = solve(DIVS["reverse_kl"], R, np.log(REF), 0.6)
    helpers.assert_close(log_pi[kept], exact, rtol=1e-5)
    assert np.all(log_pi[gone] == -INF)


def test_no_nan_inside():
  """Operation by operation, with zeros of reference and policy."""
  logits, rewards = np.insert(np.log(REF), 2, -INF), np.insert(R, 2, 5.0)
  with jax.debug_nans(True):
    slopes = jax.grad(
      functools.partial(_score, DIVS["pearson_chi2"]), (0, 1, 2)
    )(jnp.array(rewards), jnp.array(logits), jnp.array(0.3))
  assert all(np.all(np.isfinite(x)) for x in slopes)


@pytest.mark.parametrize(
  "name",
  [
    *("kl", "reverse_kl", "jensen_shannon", "jeffreys"),
    *("neyman_chi2", "le_cam", "alpha(-0.7)"),
  ],
)
def test_rare_best_outcome_in_float32(name, key):
  """The best of 5000 outcomes is rare: lam has no digits left for it there."""
  keys = jax.random.split(key)
  rewards = np.asarray(3 * jax.random.normal(keys[0], (2, 5000)), np.float32)
  logits = np.asarray(3 * jax.random.normal(keys[1], (2, 5000)), np.float32)
  best = np.argmax(rewards, -1)[:, None]
  np.put_along_axis(logits, best, -18.0, -1)  # 1e-12 or so of the reference

  @jax.jit
  def evaluate(rewards, logits, beta):
    def pi(beta):
      return jnp.exp(
        regularized.regularized_maximizer(DIVS[name], rewards, logits, beta)
      )

    return jax.jvp(pi, (beta,), (jnp.ones_like(beta),))

  for beta in (0.03, 1.0):
    pi, slope = evaluate(rewards, logits, np.float32(beta))
    assert pi.dtype == np.float32
    exact, exact_slope = evaluate(
      rewards.astype(float), logits.astype(float), np.float64(np.float32(beta))
    )
    # Rewards of size 10 are rounded to 1e-6: 3e-5 beta^-1 of a probability.
    helpers.assert_close(np.sum(np.abs(pi - exact), -1), [0, 0], atol=2e-4)
    size = 1e-4 + np.sum(np.abs(exact_slope), -1)
    error = np.sum(np.abs(slope - exact_slope), -1)
    assert np.all(error < 2e-3 * size), error / size
    if name in ("reverse_kl", "neyman_chi2", "le_cam", "alpha(-0.7)"):
      top = np.take_along_axis(np.asarray(exact), best, -1)
      assert np.all(top > 1e-3)  # not negligible: it is the case meant


def test_extreme_strengths():
  """From the best outcome alone to the reference, without NaN."""
  for name in ("kl", "reverse_kl", "pearson_chi2", "neyman_chi2", "jeffreys"):
    div = DIVS[name]
    r, logits = R.astype(np.float32), np.log(REF).astype(np.float32)
    near = np.exp(solve(div, r, logits, np.float32(1e-4)))
    # Neyman's policies approach a point mass like the root of beta.
    helpers.assert_close(near, np.eye(5)[2], atol=2e-2)
    far = np.exp(solve(div, r, logits, np.float32(1e4)))
    helpers.assert_close(far, REF, rtol=1e-3)


def test_invariances(key):
  rewards = np.asarray(jax.random.normal(key, (3, 5)))
  order = np.array([3, 0, 4, 1, 2])
  for name in ("reverse_kl", "le_cam"):
    div = DIVS[name]
    log_pi = solve(div, rewards, np.tile(np.log(REF), (3, 1)), 0.6)
    shifted = solve(div, rewards + 7, np.tile(np.log(REF) - 2, (3, 1)), 0.6)
    helpers.assert_close(shifted, log_pi)
    permuted = solve(
      div, rewards[:, order], np.tile(np.log(REF)[order], (3, 1)), 0.6
    )
    helpers.assert_close(permuted, log_pi[:, order])
    # Only r / beta counts.
    scaled = solve(div, 5 * rewards, np.tile(np.log(REF), (3, 1)), 3.0)
    helpers.assert_close(scaled, log_pi)


def test_types():
  kl = DIVS["kl"]
  half, single = jnp.zeros(3, jnp.bfloat16), jnp.zeros(3, jnp.float32)
  double = jnp.zeros(3)
  maximize = functools.partial(regularized.regularized_maximizer, kl)
  for a, b, expected in (
    (half, half, jnp.float32),
    (single, double, jnp.float64),
    (double, single, jnp.float64),
  ):
    out = jax.eval_shape(functools.partial(maximize, beta=1.0), a, b)
    assert out.dtype == expected


@pytest.mark.parametrize("name", ["total_variation", "hockey_stick"])
def test_refuses_a_piecewise_constant_slope(name):
  options = {"gamma": 1.7} if name == "hockey_stick" else {}
  div = generators.f_divergence(name, **options)
  with pytest.raises(ValueError, match=f"{name} has a piecewise constant f'"):
    regularized.regularized_maximizer(div, R, np.log(REF), 1.0)


def test_wrong_arguments_raise():
  maximize = functools.partial(regularized.regularized_maximizer, DIVS["kl"])
  with pytest.raises(ValueError, match="beta must be above 0, was 0"):
    maximize(R, np.log(REF), 0.0)
  message = r"need one shape: rewards \(5,\), ref_logits \(3,\)"
  with pytest.raises(AssertionError, match=message):
    maximize(R, np.zeros(3), 1.0)
  with pytest.raises(AssertionError, match="need floats: rewards int64"):
    maximize(np.zeros(5, int), np.log(REF), 1.0)


def test_transforms(key):
  rewards = jax.random.normal(key, (2, 2, 5))
  logits = jnp.tile(jnp.log(REF), (2, 2, 1)) + rewards[::-1]
  div = DIVS["le_cam"]
  helpers.assert_transforms(
    lambda *x: regularized.regularized_maximizer(div, *x),
    rewards,
    logits,
    jnp.array([0.5, 2.0]),
  )
