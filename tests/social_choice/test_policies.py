# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from jaxalign.social_choice import policies, rules
from tests import helpers

REF = np.log(np.array([[0.2, 0.3, 0.1, 0.4], [0.7, 0.1, 0.15, 0.05]]))
SCORES = np.array([[0.3, 1.0, -0.5, 0.0], [2.0, 2.1, -1.0, 0.4]])
TAU = np.array([0.1, 0.6])
WINS = np.array(
  [
    [0.5, 0.8, 0.3, 0.6],
    [0.2, 0.5, 0.7, 0.4],
    [0.7, 0.3, 0.5, 0.9],
    [0.4, 0.6, 0.1, 0.5],
  ]
)
PAIRS = np.outer([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4])

argmax = policies.kl_ball_argmax
value = policies.kl_ball_value
project = policies.kl_ball_project
dpo = policies.dpo_policy
rlhf = policies.rlhf_policy


def kl(log_p, log_q):
  p, q = np.exp(np.asarray(log_p)), np.exp(np.asarray(log_q))
  return np.sum(scipy.special.rel_entr(p, q), -1)


def best_by_scipy(log_ref, scores, tau):
  """The tilt by Brent's method on the inverse temperature."""

  def tilt(s):
    return scipy.special.log_softmax(log_ref + s * scores)

  root = scipy.optimize.brentq(
    lambda s: kl(tilt(s), log_ref) - tau, 0, 1e4, xtol=1e-15
  )
  return tilt(root)


# --- the best policy in the ball ---------------------------------------------


def test_argmax_and_value_against_brent():
  found = argmax(REF, SCORES, TAU)
  expected = [best_by_scipy(*row) for row in zip(REF, SCORES, TAU, strict=True)]
  helpers.assert_close(found, np.array(expected))
  helpers.assert_close(kl(found, REF), TAU)
  helpers.assert_close(
    value(REF, SCORES, TAU), np.sum(np.exp(found) * SCORES, -1)
  )
  # An affine map of the scores changes nothing but the value.
  helpers.assert_close(argmax(REF, 1e6 * SCORES - 3, TAU), found, rtol=1e-8)
  helpers.assert_close(
    value(REF, 4 * SCORES - 3, TAU), 4 * value(REF, SCORES, TAU) - 3
  )


def test_best_policy_among_many():
  """No policy in the ball scores more: 1e5 of them are tried."""
  rng = np.random.default_rng(0)
  tried = rng.dirichlet(5 * np.exp(REF[0]), 100_000)
  distance = np.sum(scipy.special.rel_entr(tried, np.exp(REF[0])), -1)
  scores = tried[distance <= TAU[0]] @ SCORES[0]
  best = float(value(REF[0], SCORES[0], TAU[0]))
  assert best - 0.02 < scores.max() <= best


@pytest.mark.parametrize("tau", [0.0, 1e-20, 1e-9, 1e-3, 1.2, 1.2039, 1.3])
def test_all_radii(tau):
  log_policy = argmax(REF[0], SCORES[0], tau)
  reach = -REF[0, 1]  # where the ball touches the best vertex
  assert kl(log_policy, REF[0]) <= tau + 1e-15
  best = value(REF[0], SCORES[0], tau)
  helpers.assert_close(best, np.exp(log_policy) @ SCORES[0], rtol=1e-13)
  if tau >= reach:
    assert list(np.exp(log_policy)) == [0, 1, 0, 0] and best == 1
  # For small radii the best gain is sqrt(2 tau var).
  mean = np.exp(REF[0]) @ SCORES[0]
  spread = np.exp(REF[0]) @ (SCORES[0] - mean) ** 2
  if tau < 1e-6:
    gain = np.sqrt(2 * tau * spread)
    np.testing.assert_allclose(best - mean, gain, rtol=1e-4, atol=1e-15)


def test_ties_and_missing_outcomes():
  scores = np.array([1.0, 1.0 - 1e-16, 0.2, 5.0])
  log_ref = np.array([np.log(0.2), np.log(0.6), np.log(0.2), -np.inf])
  with jax.debug_nans(True):
    log_policy = argmax(log_ref, scores, np.inf)
    best = value(log_ref, scores, np.inf)
    inside = argmax(log_ref, scores, 0.01)
    gradient = jax.grad(policies.kl_ball_value, (0, 1))(log_ref, scores, 0.01)
    face = jax.grad(policies.kl_ball_value, (0, 1))(log_ref, scores, np.inf)
  # Only what the reference has counts; ties to rounding share its proportions.
  helpers.assert_close(np.exp(log_policy), np.array([0.25, 0.75, 0, 0]))
  helpers.assert_close(best, 1.0)
  assert inside[3] == -np.inf
  kept = np.exp(argmax(log_ref[:3], scores[:3], 0.01))
  helpers.assert_close(np.exp(inside[:3]), kept)
  helpers.assert_close(gradient[1][:3], kept)
  assert gradient[0][3] == gradient[1][3] == 0
  helpers.assert_close(face[1], np.exp(log_policy))
  assert np.all(face[0] == 0)
  # A ball that ends between one and both of the tied alternatives.
  assert np.all(argmax(np.log([0.5, 0.5]), np.ones(2), 0.1) == np.log(0.5))


def test_argmax_gradients():
  helpers.assert_gradient(
    jax.jit(
      lambda ref, r, t: argmax(ref, r, t) @ np.array([1.0, -2, 0.3, 0.7])
    ),
    REF[0],
    SCORES[0],
    TAU[0],
  )


def test_value_gradients():
  helpers.assert_gradient(
    jax.jit(policies.kl_ball_value),
    REF[0],
    SCORES[0],
    TAU[0],
  )
  gradient = jax.grad(policies.kl_ball_value, 1)(REF[0], SCORES[0], TAU[0])
  helpers.assert_close(gradient, np.exp(argmax(REF[0], SCORES[0], TAU[0])))


def test_reference_beyond_all_exponents():
  """A mass of e^-1e13, as on the exponential family of instances."""
  log_ref = np.array([np.log(0.5), np.log(0.5), -1e13])
  scores = np.array([0.0, 1.0, 2.0])
  log_policy = argmax(log_ref, scores, 1.0)
  policy = np.exp(log_policy)
  # All of a's mass goes to b for log 2; the rest of tau buys c at 1e13 a unit.
  assert policy[0] == 0
  # Logits of size 1e13 are rounded to 1e-3.
  np.testing.assert_allclose(policy[2], (1 - np.log(2)) / 1e13, rtol=1e-2)


# --- projection --------------------------------------------------------------


def test_projection_is_the_closest_policy():
  log_z = scipy.special.log_softmax(3 * SCORES[:, ::-1], -1)
  found = np.asarray(project(log_z, REF, TAU))
  helpers.assert_close(kl(found, REF), TAU)
  helpers.assert_close(np.exp(found).sum(-1), np.ones(2))
  # Stationarity: log(pi/z) + eta log(pi/ref) is constant.
  for row in range(2):
    design = np.stack([found[row] - REF[row], np.ones(4)], 1)
    rest = found[row] - log_z[row]
    coefficients, residual, *_ = np.linalg.lstsq(design, rest, rcond=None)
    assert coefficients[0] < 0 and residual[0] < 1e-20
  # No policy of the ball is closer.
  rng = np.random.default_rng(1)
  tried = np.log(rng.dirichlet(3 * np.exp(found[0]), 20_000) + 1e-300)
  tried = tried[kl(tried, REF[0]) <= TAU[0]]
  assert len(tried) > 1000
  assert kl(tried, log_z[0]).min() >= kl(found[0], log_z[0])
  # Inside the ball nothing happens, and tau = 0 leaves the reference.
  helpers.assert_close(project(log_z, REF, np.inf), log_z)
  helpers.assert_close(project(log_z, REF, 0.0), REF)
  near = REF + 1e-3 * SCORES
  helpers.assert_close(
    project(near, REF, TAU), scipy.special.log_softmax(near, -1)
  )


def test_projection_zeros_and_gradients():
  log_z = np.array([np.log(0.9), -np.inf, np.log(0.1), -np.inf])
  with jax.debug_nans(True):
    kept = project(log_z, REF[0], 2.0)
    reach = -np.log(np.exp(REF[0, 0]) + np.exp(REF[0, 2]))
    far = project(log_z, REF[0], 0.5 * reach)
    gradient = jax.grad(lambda z: project(z, REF[0], 2.0)[0])(log_z)
  helpers.assert_close(np.exp(kept), np.exp(log_z))
  helpers.assert_close(np.exp(far)[::2], np.array([2, 1]) / 3)
  assert far[1] == -np.inf and np.all(np.isfinite(gradient))
  full = scipy.special.log_softmax(3 * SCORES[0, ::-1])
  helpers.assert_gradient(
    jax.jit(
      lambda z, ref, t: project(z, ref, t) @ np.array([1.0, -2, 0.3, 0.7])
    ),
    full,
    REF[0],
    TAU[0],
  )
  helpers.assert_gradient(
    jax.jit(
      lambda z, ref: project(z, ref, 9.0) @ np.array([1.0, -2, 0.3, 0.7])
    ),
    full,
    REF[0],
  )


# --- RLHF and DPO ------------------------------------------------------------


def dpo_loss(log_policy, lam):
  shift = lam * (log_policy - REF[0])
  gaps = shift[:, None] - shift
  return -jnp.sum(PAIRS * WINS * jax.nn.log_sigmoid(gaps))


def test_dpo_is_stationary_and_equals_rlhf():
  log_policy, lam = dpo(WINS, PAIRS, REF[0], TAU[0])
  loss = jax.jit(dpo_loss)
  gradient = jax.jit(jax.grad(dpo_loss))(log_policy, lam)
  assert np.max(np.abs(gradient)) < 1e-16
  # Moving away costs: the loss is convex in the log-policy.
  for seed in range(5):
    step = 0.1 * np.random.default_rng(seed).normal(size=4)
    assert loss(np.asarray(log_policy) + step, lam) > loss(log_policy, lam)
  helpers.assert_close(kl(log_policy, REF[0]), TAU[0])
  scores = rules.bradley_terry_mle(WINS, PAIRS).scores
  helpers.assert_close(
    log_policy, scipy.special.log_softmax(REF[0] + scores / lam)
  )
  reward_policy = rlhf(WINS, PAIRS, REF[0], TAU[0])
  helpers.assert_close(reward_policy, log_policy)
  helpers.assert_close(reward_policy, best_by_scipy(REF[0], scores, TAU[0]))
  # With room enough both take the best alternative, and lam is 0.
  vertex, lam = dpo(WINS, PAIRS, REF[0], np.inf)
  assert lam == 0 and np.all(vertex == rlhf(WINS, PAIRS, REF[0], np.inf))
  assert np.exp(vertex)[np.argmax(scores)] == 1


def test_two_alternatives_by_hand():
  wins, ref = np.array([[0.5, 0.9], [0.1, 0.5]]), np.log([0.5, 0.5])
  log_policy, lam = dpo(wins, np.full((2, 2), 0.25), ref, 0.1)
  p = scipy.optimize.brentq(
    lambda p: np.log(2) - scipy.special.entr([p, 1 - p]).sum() - 0.1, 0.5, 1
  )
  helpers.assert_close(np.exp(log_policy[0]), p)
  helpers.assert_close(lam, np.log(9) / scipy.special.logit(p))


def test_rlhf_gradients():
  def scalar(p, nu, ref, t):
    log_policy, lam = policies.dpo_policy(p, nu, ref, t)
    rewarded = policies.rlhf_policy(p, nu, ref, t)
    return log_policy @ np.array([1.0, -2, 0.3, 0.7]) + lam + rewarded[0]

  helpers.assert_gradient(jax.jit(scalar), WINS, PAIRS, REF[0], TAU[0])


def test_no_reward_no_policy():
  lost = WINS.copy()
  lost[0, 1:], lost[1:, 0] = 0, 1
  for tau in (0.1, np.inf):
    assert np.all(np.isnan(rlhf(lost, PAIRS, REF[0], tau)))
    assert np.all(np.isnan(dpo(lost, PAIRS, REF[0], tau).log_policy))


def test_invariance():
  helpers.assert_transforms(
    lambda ref, r, t: (
      policies.kl_ball_argmax(ref, r, t),
      policies.kl_ball_value(ref, r, t),
      policies.kl_ball_project(3 * r, ref, t),
    ),
    jnp.asarray(REF),
    jnp.asarray(SCORES),
    jnp.asarray(TAU),
  )
  helpers.assert_transforms(
    lambda p, ref, t: (
      policies.rlhf_policy(p, jnp.asarray(PAIRS, p.dtype), ref, t),
      policies.dpo_policy(p, jnp.asarray(PAIRS, p.dtype), ref, t),
    ),
    jnp.stack([WINS, WINS.T]),
    jnp.asarray(REF),
    jnp.asarray(TAU),
  )
  order = np.array([2, 0, 3, 1])
  helpers.assert_close(
    argmax(REF[:, order], SCORES[:, order], TAU),
    argmax(REF, SCORES, TAU)[:, order],
  )
  single = argmax(REF.astype(np.float32), SCORES.astype(np.float32), 0.1)
  np.testing.assert_allclose(single, argmax(REF, SCORES, 0.1), atol=1e-5)


def test_errors():
  for fn in (
    policies.kl_ball_argmax,
    policies.kl_ball_value,
    policies.kl_ball_project,
  ):
    with pytest.raises(ValueError, match="tau must be at least 0, was -1"):
      fn(REF, SCORES, -1.0)
    with pytest.raises(ValueError, match=r"tau must be a scalar or \(2,\)"):
      fn(REF, SCORES, np.ones(3))
    with pytest.raises(AssertionError, match="need one shape: log_"):
      fn(REF, SCORES[0], 0.1)
  with pytest.raises(AssertionError, match="need floats"):
    policies.kl_ball_argmax(REF, np.ones((2, 4), int), 0.1)
  for fn in (policies.rlhf_policy, policies.dpo_policy):
    with pytest.raises(ValueError, match="tau must be at least 0"):
      fn(WINS, PAIRS, REF[0], -0.1)
  assert policies.DPOResult._fields == ("log_policy", "lam")
