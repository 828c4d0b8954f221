# SPDX-License-Identifier: Apache-2.0
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.divergences import categorical
from jaxalign.rl import regression
from tests import helpers

K = 5


def bandit():
  """Rewards, logits of a reference and of a policy over K answers."""
  rng = np.random.default_rng(0)
  rewards, ref, logits = rng.uniform(size=K), *rng.standard_normal((2, K))
  return (jnp.asarray(x) for x in (rewards, ref, logits))


# --- weights -----------------------------------------------------------------


def test_weights_by_hand():
  a = jnp.array([-2.0, 0.0, 1.0, 50.0])
  helpers.assert_close(
    regression.awr_weights(a, beta=0.5),
    np.minimum(np.exp(np.asarray(a) / 0.5), 20),
  )
  free = regression.awr_weights(a, beta=0.5, max_weight=math.inf)
  helpers.assert_close(free, np.exp(np.asarray(a) / 0.5))
  huge = regression.awr_weights(jnp.array([1e6]), beta=0.5)
  helpers.assert_close(huge, np.array([20.0]))
  found = regression.rwr_weights(a)
  assert np.isnan(found[0]) and np.all(found[1:] == a[1:])
  q = jnp.array([1.0, 2.0])
  sampled = jnp.array([[0.0, 1.0, 5.0], [0.0, 1.0, 2.0]])
  for baseline, advantages in (
    ("mean", np.array([-1.0, 1.0])),
    ("max", np.array([-4.0, 0.0])),
  ):
    options = {"baseline": baseline}
    found = regression.crr_weights(q, sampled, kind="binary", **options)
    helpers.assert_close(found, (advantages > 0).astype(float))
    found = regression.crr_weights(
      q, sampled, kind="exp", beta=0.1, max_weight=5.0, **options
    )
    helpers.assert_close(found, np.minimum(np.exp(advantages / 0.1), 5))


def test_the_fixed_point_is_mu_times_the_weight():
  rewards, ref, _ = bandit()
  mu = jax.nn.softmax(ref)
  q = jnp.broadcast_to(rewards, (K, K))
  weights = {
    "awr": regression.awr_weights(rewards, beta=0.3),
    "rwr": regression.rwr_weights(rewards),
    "crr": regression.crr_weights(rewards, q, kind="exp", beta=0.3),
  }

  def loss(logits, weights):
    log_pi = jax.nn.log_softmax(logits)
    return mu @ regression.weighted_likelihood_loss(log_pi, weights)

  slope = jax.jit(jax.grad(loss))
  for f in weights.values():
    zero = slope(jnp.log(mu * f), f)
    helpers.assert_close(zero, np.zeros(K))
    assert np.abs(slope(jnp.log(mu), f)).max() > 0.01
  # The improvement operator with a clip beyond reach is the tilt of mu.
  tilted = jax.nn.softmax(ref + rewards / 0.3)
  helpers.assert_close(mu * weights["awr"] / (mu @ weights["awr"]), tilted)


def test_an_exact_step_of_rwr():
  """It raises the reward by `Var / E`: .254167 as printed."""
  rewards = jnp.array([0.1, 0.5, 1.0])
  policy = jnp.full(3, 1 / 3)
  for printed in (0.254167, None):
    weights = regression.rwr_weights(rewards)
    mean = policy @ rewards
    gain = policy @ (rewards - mean) ** 2 / mean
    after = policy * weights / (policy @ weights)
    helpers.assert_close(after @ rewards - mean, gain)
    if printed:
      assert abs(gain - printed) < 5e-7
    policy = after


def test_what_has_no_weight_may_be_anything():
  log_probs = jnp.array([-jnp.inf, -1.0, jnp.nan])
  weights = jnp.array([0.0, 2.0, jnp.nan])
  where = jnp.array([True, True, False])

  def total(log_probs):
    return jnp.sum(
      regression.weighted_likelihood_loss(log_probs, weights, where=where)
    )

  value, slope = jax.value_and_grad(total)(log_probs)
  helpers.assert_close((value, slope), (2.0, np.array([0.0, -2.0, 0.0])))


# --- A*-PO -------------------------------------------------------------------


def gradients(samples_from, beta, values):
  """Of the expected loss; of `-2 beta (E r - beta KL)`; the first at pi*."""
  rewards, ref, logits = bandit()
  log_ref = jax.nn.log_softmax(ref)

  @jax.jit
  def both(logits, values):
    def loss(logits):
      log_pi = jax.nn.log_softmax(logits)
      at = jax.lax.stop_gradient(log_pi if samples_from == "pi" else log_ref)
      terms = regression.astar_po_loss(
        log_pi, log_ref, rewards, jnp.broadcast_to(values, K), beta=beta
      )
      return jnp.exp(at) @ terms

    def objective(logits):
      reward = jax.nn.softmax(logits) @ rewards
      return -2 * beta * (reward - beta * categorical.kl(logits, ref))

    return jax.grad(loss)(logits), jax.grad(objective)(logits)

  best = log_ref + rewards / beta
  return both(logits, values), both(best, values)[0]


def test_on_policy_the_gradient_of_astar_po_is_that_of_the_objective():
  """With beta1 = beta, and with any other value: there it is a baseline."""
  rewards, ref, _ = bandit()
  beta = 0.4
  log_z = jax.nn.logsumexp(jax.nn.log_softmax(ref) + rewards / beta)
  for values in (beta * log_z, 0.0, 3.0):
    (found, expected), at_best = gradients("pi", beta, values)
    helpers.assert_close(found, expected)
    helpers.assert_close(at_best, np.zeros(K), atol=1e-14)
  assert np.abs(expected).max() > 0.01


def test_the_published_settings_of_astar_po_miss_the_optimum():
  """beta1 = .5, beta = 1e-3: the residual at the optimum is not 0, and from
  the reference's samples the optimum is no longer the minimum."""
  rewards, ref, _ = bandit()
  log_ref = jax.nn.log_softmax(ref)

  def optimal(beta):
    return beta * jax.nn.logsumexp(log_ref + rewards / beta)

  for beta, beta1, agrees in ((0.4, 0.4, True), (1e-3, 0.5, False)):
    scaled = log_ref + rewards / beta
    best = scaled - jax.nn.logsumexp(scaled)
    values = jnp.broadcast_to(optimal(beta1), K)
    residual = regression.astar_po_loss(
      best, log_ref, rewards, values, beta=beta
    )
    expected = (optimal(beta) - optimal(beta1)) ** 2
    helpers.assert_close(residual, np.broadcast_to(expected, K), atol=1e-14)
    assert (expected < 1e-14) == agrees
    _, slope = gradients("ref", beta, optimal(beta1))
    # Of order beta times the residual.
    assert (np.abs(slope).max() < 1e-6 * beta) == agrees


def test_optimal_values_from_samples():
  rewards, *_ = bandit()
  for beta in (0.01, 0.5, 100.0):
    found = regression.astar_values(rewards, beta=beta)
    weights = np.exp((np.asarray(rewards) - rewards.max()) / beta)
    expected = rewards.max() + beta * np.log(weights.mean())
    helpers.assert_close(found, expected)
  # Between the mean and the maximum.
  helpers.assert_close(found, rewards.mean(), rtol=1e-2)


# --- RPO ---------------------------------------------------------------------


def test_the_inner_maximum_of_rpo():
  """For `r = beta log(pi/ref) + c` it is `-beta E_base log(pi/ref)`."""
  base, ref, logits = bandit()
  base, log_ref = base / base.sum(), jax.nn.log_softmax(ref)
  eta, beta = 0.5, 0.2
  log_pi = jax.nn.log_softmax(logits)
  reward = beta * (log_pi - log_ref) + 0.7

  @jax.jit
  def inner(other):
    gain = jnp.exp(other) @ reward - base @ reward
    return gain - beta * categorical.kl(other, ref)

  best = inner(log_pi)  # the tilt of ref by r is pi
  expected = -beta * base @ (log_pi - log_ref)
  helpers.assert_close(best, expected)
  rng = np.random.default_rng(1)
  for other in jax.nn.log_softmax(rng.standard_normal((3, K))):
    assert inner(other) < best

  def loss(logits):
    found = regression.rpo_loss(
      jnp.zeros(K), jax.nn.log_softmax(logits), eta=eta, beta=beta
    )
    return base @ found

  def worth(logits):
    return -eta * beta * base @ (jax.nn.log_softmax(logits) - log_ref)

  slopes = [jax.jit(jax.grad(fn))(logits) for fn in (loss, worth)]
  helpers.assert_close(*slopes)
  found = regression.rpo_loss(
    jnp.array([0.3]), jnp.array([-2.0]), eta=0.5, beta=0.01
  )
  helpers.assert_close(found, np.array([0.3 + 0.005 * 2]))


# --- gradient and invariance -------------------------------------------------


def everything(log_probs, other, rewards):
  weights = regression.awr_weights(rewards, beta=0.7)
  return (
    weights,
    regression.rwr_weights(rewards**2),
    regression.crr_weights(rewards, jnp.stack([other, -other], -1), kind="exp"),
    regression.weighted_likelihood_loss(log_probs, weights),
    regression.astar_po_loss(log_probs, other, rewards, rewards**2, beta=0.3),
    regression.astar_values(rewards, beta=0.3),
    regression.rpo_loss(other**2, log_probs, eta=0.5, beta=0.3),
  )


def test_gradients():
  rewards, ref, logits = bandit()
  weights = jnp.cos(jnp.arange(K))

  def total(log_probs):
    *_, fit, square, _, pessimistic = everything(log_probs, ref, rewards)
    return (fit + square + pessimistic) @ weights

  helpers.assert_gradient(total, logits)

  def constants(ref, rewards):
    return sum(map(jnp.sum, everything(logits, ref, rewards)[:-1]))

  slopes = jax.jit(jax.grad(constants, (0, 1)))(ref, rewards)
  assert all(np.all(x == 0) for x in slopes)


def test_transforms():
  rng = np.random.default_rng(2)
  helpers.assert_transforms(
    everything, *map(jnp.asarray, rng.standard_normal((3, 2, K)))
  )


def test_bad_input():
  rewards, ref, logits = bandit()
  short = ref[:2]
  with pytest.raises(AssertionError, match="sampled_q_values"):
    regression.crr_weights(rewards, ref, kind="exp")
  with pytest.raises(ValueError, match="unknown kind 'soft': choose"):
    regression.crr_weights(rewards, ref[:, None], kind="soft")
  with pytest.raises(ValueError, match="unknown baseline 'median': choose"):
    regression.crr_weights(rewards, ref[:, None], kind="exp", baseline="median")
  with pytest.raises(AssertionError, match="weights"):
    regression.weighted_likelihood_loss(logits, short)
  with pytest.raises(AssertionError, match="ref_log_probs"):
    regression.astar_po_loss(logits, short, rewards, rewards, beta=1.0)
  with pytest.raises(AssertionError, match="base_log_probs"):
    regression.rpo_loss(logits, short, eta=1.0, beta=1.0)
  with pytest.raises(AssertionError, match="int"):
    regression.rwr_weights(jnp.arange(3))
  with pytest.raises(ValueError, match="eta must be at least 0"):
    regression.rpo_loss(logits, ref, eta=-1.0, beta=1.0)
  for fn in (
    lambda: regression.awr_weights(rewards, beta=0.0),
    lambda: regression.astar_values(rewards, beta=0.0),
    lambda: regression.astar_po_loss(logits, ref, rewards, ref, beta=0.0),
    lambda: regression.rpo_loss(logits, ref, eta=1.0, beta=0.0),
  ):
    with pytest.raises(ValueError, match="beta must be above 0"):
      fn()
  with pytest.raises(ValueError, match="max_weight must be above 0"):
    regression.awr_weights(rewards, beta=1.0, max_weight=0.0)
