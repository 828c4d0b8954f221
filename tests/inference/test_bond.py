# SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxalign.divergences import categorical
from jaxalign.inference import best_of_n, bond
from tests import helpers

P = np.array([0.3, 0.2, 0.1, 0.25, 0.15])
R = np.array([1.0, 2.0, 2.0, 0.0, 2.5])
LOG_P = np.log(P)
LOGITS = np.array([0.3, -0.8, 0.1, 0.6, -0.2])
N = 4

pmf = jax.jit(best_of_n.log_pmf, static_argnames=("ties",))
target = jax.jit(bond.bond_log_pmf, static_argnames=("keep_sum",))
objective = jax.jit(bond.jeffreys_objective)


# --- exact targets and objective ---------------------------------------------


def test_target_is_the_product_of_its_three_factors():
  upto = np.array([P[r >= R].sum() for r in R])
  below = np.array([P[r > R].sum() for r in R])
  for n in (1, 2, 7):
    total = sum((below / upto) ** (i - 1) for i in range(1, n + 1))
    assert np.all((total >= 1) & (total <= n))
    expected = P * upto ** (n - 1) * total
    helpers.assert_close(np.exp(target(LOG_P, R, n)), expected)
    short = P * upto ** (n - 1)
    value = np.exp(target(LOG_P, R, n, keep_sum=False))
    helpers.assert_close(value, short / short.sum())


def test_log_quantile():
  expected = np.log([P[r >= R].sum() for r in R])
  helpers.assert_close(bond.log_quantile(LOG_P, R), expected)
  with np.errstate(divide="ignore"):
    none_below = bond.log_quantile(np.log([0.0, 0.4, 0.6]), np.arange(3.0))
  helpers.assert_close(none_below, np.array([-np.inf, np.log(0.4), 0]))


def test_target_without_the_sum_is_the_regularised_optimum():
  # E log F - KL / (n-1) at its optimum is log Z / (n-1), and less elsewhere.
  log_f = np.asarray(bond.log_quantile(LOG_P, R))
  log_pi = np.asarray(target(LOG_P, R, N, keep_sum=False))

  def value(log_pi):
    pi = np.exp(log_pi)
    return pi @ log_f - pi @ (log_pi - LOG_P) / (N - 1)

  log_z = scipy.special.logsumexp(LOG_P + (N - 1) * log_f)
  helpers.assert_close(value(log_pi), log_z / (N - 1))
  rng = np.random.default_rng(0)
  for shift in 0.3 * rng.normal(size=(20, 5)):
    assert value(scipy.special.log_softmax(log_pi + shift)) < value(log_pi)


def test_target_at_huge_n():
  top = np.where(R.max() == R, 0, -np.inf)
  for keep_sum in (True, False):
    value = bond.bond_log_pmf(LOG_P, R, log_n=1e3, keep_sum=keep_sum)
    np.testing.assert_array_equal(value, top)


def test_iterated_best_of_two_follows_best_of_n():
  log_anchor = jnp.asarray(LOG_P)
  for k in range(1, 6):
    log_anchor = bond.jbond_anchor_update(
      log_anchor, target(log_anchor, R, 2), rate=1.0
    )
    helpers.assert_close(log_anchor, pmf(LOG_P, R, 2**k), rtol=1e-9)
    kl = categorical.kl(log_anchor, LOG_P)
    assert kl <= k * np.log(2) - 1 + 2.0**-k
    win = best_of_n.win_rate(log_anchor, LOG_P, R)
    assert win <= 2**k / (2**k + 1)


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
def test_objective(weight):
  log_target = target(LOG_P, R, N)
  policy, law = scipy.special.softmax(LOGITS), np.exp(log_target)
  forward = scipy.special.rel_entr(law, policy).sum()
  backward = scipy.special.rel_entr(policy, law).sum()
  value = objective(LOGITS, log_target, weight=weight)
  helpers.assert_close(value, (1 - weight) * forward + weight * backward)
  assert value > 0
  helpers.assert_close(objective(log_target, log_target, weight=weight), 0.0)
  gradient = jax.grad(lambda x: objective(x, log_target, weight=weight))
  helpers.assert_close(gradient(log_target), np.zeros(5), atol=1e-14)
  helpers.assert_gradient(
    lambda x, y: objective(x, y, weight=weight), LOGITS, log_target
  )


def test_variational_best_of_n_is_weight_one():
  # KL(pi||BoN) = -E log F^(n-1) sum + KL(pi||ref).
  log_target = target(LOG_P, R, N)
  policy = scipy.special.softmax(LOGITS)
  utility = policy @ (np.asarray(log_target) - LOG_P)
  expected = scipy.special.rel_entr(policy, P).sum() - utility
  helpers.assert_close(objective(LOGITS, log_target, weight=1.0), expected)


def test_objective_with_zeros():
  log_target = jnp.log(jnp.array([0.25, 0.75, 0.0]))
  wide = jnp.zeros(3)
  with jax.debug_nans(True):
    # Of the two divergences one is infinite: a weight of 0 removes it.
    assert bond.jeffreys_objective(wide, log_target, weight=0.5) == np.inf
    only = bond.jeffreys_objective(wide, log_target, weight=0.0)
    narrow = jnp.array([0.0, 0.0, -jnp.inf])
    gradient = jax.grad(bond.jeffreys_objective)(narrow, log_target)
  helpers.assert_close(only, 0.25 * np.log(0.75) + 0.75 * np.log(2.25))
  assert gradient[2] == 0 and np.all(np.isfinite(gradient))


# --- Monte Carlo -------------------------------------------------------------


def test_quantile_reward():
  anchors = np.array([[0.0, 1.0, 1.0, 3.0], [5.0, 6.0, 7.0, 8.0]])
  rewards = np.array([1.0, 4.0])
  scored = bond.bond_quantile_reward(rewards, anchors, clamp=1 / 8)
  assert isinstance(scored, bond.QuantileReward)
  helpers.assert_close(scored.reward, np.log([0.75, 0.125]))
  np.testing.assert_array_equal(scored.clamped, [False, True])
  bare = bond.bond_quantile_reward(rewards, anchors, clamp=0.0)
  helpers.assert_close(bare.reward, np.array([np.log(0.75), -np.inf]))
  assert not np.any(bare.clamped)
  shuffled = bond.bond_quantile_reward(rewards, anchors[:, ::-1], clamp=1 / 8)
  helpers.assert_close(shuffled.reward, scored.reward)


def test_quantile_reward_is_consistent(key):
  # 1e6 anchors: 3 standard errors of log F.
  drawn = jax.random.categorical(key, jnp.asarray(LOG_P), shape=(1_000_000,))
  anchors = jnp.broadcast_to(jnp.asarray(R)[drawn], (5, 1_000_000))
  scored = bond.bond_quantile_reward(R, anchors, clamp=1e-6)
  exact = np.asarray(bond.log_quantile(LOG_P, R))
  error = np.sqrt((np.exp(-exact) - 1) / 1e6)
  assert np.all(np.abs(scored.reward - exact) <= 3 * error + 1e-12)


@pytest.mark.parametrize("keep_sum", [True, False])
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_surrogate_gradient_by_enumeration(weight, keep_sum):
  log_target = target(LOG_P, R, N, keep_sum=keep_sum)
  if keep_sum:
    reward = (log_target - LOG_P) / (N - 1)
  else:
    reward = bond.log_quantile(LOG_P, R)
  # Every pair of policy samples, every best sample.
  pairs = np.array(list(itertools.product(range(5), repeat=2)))
  policy, best = scipy.special.softmax(LOGITS), np.exp(pmf(LOG_P, R, N))
  chance = np.prod(policy[pairs], -1)

  @jax.jit
  @jax.grad
  def expected(logits):
    log_policy = jax.nn.log_softmax(logits)
    losses = bond.bond_surrogate(
      jnp.broadcast_to(log_policy[pairs][:, None], (25, 5, 2)),
      jnp.broadcast_to(jnp.asarray(LOG_P)[pairs][:, None], (25, 5, 2)),
      jnp.broadcast_to(reward[pairs][:, None], (25, 5, 2)),
      jnp.broadcast_to(log_policy, (25, 5)),
      N,
      weight=weight,
    )
    return jnp.sum(chance[:, None] * best * losses)

  def exact(logits):
    # The forward part always samples best-of-n itself.
    forward = objective(logits, jnp.log(best), weight=0.0)
    backward = objective(logits, log_target, weight=1.0)
    return (1 - weight) * forward + weight * backward

  helpers.assert_close(expected(LOGITS), jax.grad(exact)(LOGITS))


def test_surrogate_gradient_by_sampling(key):
  # 2.5e5 prompts with 2 policy samples and 1 best sample each.
  count = 250_000
  pair_key, best_key = jax.random.split(key)
  pairs = jax.random.categorical(pair_key, LOGITS, shape=(count, 2))
  log_best = pmf(LOG_P, R, N)
  best = jax.random.categorical(best_key, log_best, shape=(count,))
  reward = (log_best - LOG_P) / (N - 1)

  def loss(logits, pair, best):
    log_policy = jax.nn.log_softmax(logits)
    return bond.bond_surrogate(
      log_policy[pair],
      jnp.asarray(LOG_P)[pair],
      reward[pair],
      log_policy[best],
      N,
    )

  per_row = jax.jit(jax.vmap(jax.grad(loss), (None, 0, 0)))
  gradients = np.asarray(per_row(LOGITS, pairs, best))
  exact = jax.grad(lambda x: objective(x, log_best, weight=0.5))(LOGITS)
  error = gradients.std(0) / np.sqrt(count)
  # Five comparisons at 3 standard errors, with a fixed key.
  assert np.all(np.abs(gradients.mean(0) - exact) < 3 * error)
  assert np.all(error < 0.01)


def test_surrogate_baseline_and_invariance():
  rng = np.random.default_rng(1)
  log_policy, log_ref = -rng.uniform(0.1, 3, (2, 3, 4))
  rewards, log_best = -rng.uniform(0, 2, (3, 4)), -rng.uniform(0, 2, 3)

  def gradient(rewards, order=slice(None)):
    return jax.grad(
      lambda x: bond.bond_surrogate(
        x[:, order], log_ref[:, order], rewards[:, order], log_best, N
      ).sum()
    )(jnp.asarray(log_policy))

  # Score function with the mean of the others as baseline, written out.
  score = (N - 1) * rewards - (log_policy - log_ref)
  others = (score.sum(-1, keepdims=True) - score) / 3
  helpers.assert_close(gradient(rewards), -0.5 * (score - others) / 4)
  helpers.assert_close(gradient(rewards + 3.0), gradient(rewards))
  order = np.array([2, 0, 3, 1])
  helpers.assert_close(gradient(rewards, order), gradient(rewards))
  best = jax.grad(
    lambda x: bond.bond_surrogate(log_policy, log_ref, rewards, x, N).sum()
  )(jnp.asarray(log_best))
  helpers.assert_close(best, -0.5 * np.ones(3))


# --- J-BOND ------------------------------------------------------------------


def test_jbond_reward_constant():
  # E over two anchors is -(1 - F)^2 log 16: log F at F = 1/2 and at 1.
  anchors = np.array(list(itertools.product(range(5), repeat=2)))
  chance = np.prod(P[anchors], -1)
  rewards = np.broadcast_to(R[:, None], (5, 25))
  anchor_rewards = np.broadcast_to(R[anchors], (5, 25, 2))
  mean = bond.jbond_reward(rewards, anchor_rewards) @ chance
  above = np.array([P[r < R].sum() for r in R])
  helpers.assert_close(mean, -(above**2) * np.log(16))
  helpers.assert_close(-(0.5**2) * np.log(16), np.log(0.5))
  # Ties with an anchor are no loss.
  tied = bond.jbond_reward(jnp.array(1.0), jnp.array([1.0, 2.0]))
  assert tied == 0


@pytest.mark.parametrize("gamma", [0.0, 0.7])
def test_jbond_gradient_by_enumeration(gamma):
  weight = 0.3
  log_anchor = jnp.asarray(LOG_P)
  anchors = np.array(list(itertools.product(range(5), repeat=2)))
  chance = np.prod(P[anchors], -1)
  policy = scipy.special.softmax(LOGITS)

  @jax.jit
  @jax.grad
  def expected(logits):
    log_policy = jax.nn.log_softmax(logits)
    shape = (5, 25)
    losses = bond.jbond_surrogate(
      jnp.broadcast_to(log_policy[:, None], shape),
      jnp.broadcast_to(log_anchor[:, None], shape),
      jnp.broadcast_to(jnp.asarray(R)[:, None], shape),
      jnp.broadcast_to(log_policy[anchors], (*shape, 2)),
      jnp.broadcast_to(jnp.asarray(R)[anchors], (*shape, 2)),
      weight=weight,
      gamma=gamma,
    )
    return policy @ losses @ chance

  # Forward KL from the best of two anchors; the other parts in closed form.
  above = np.array([P[r < R].sum() for r in R])
  mean_reward = -(above**2) * np.log(16)

  def exact(logits):
    pi = jax.nn.softmax(logits)
    kl = categorical.kl(logits, log_anchor)
    forward = categorical.kl(pmf(LOG_P, R, 2), logits)
    return (
      (1 - weight) * forward + weight * (kl - pi @ mean_reward) + gamma * kl
    )

  helpers.assert_close(expected(LOGITS), jax.grad(exact)(LOGITS))


def test_jbond_improves_reward():
  # Exact expected updates of a tabular policy, with a moving anchor.
  anchors = np.array(list(itertools.product(range(5), repeat=2)))
  rewards = jnp.asarray(R)

  def loss(logits, anchor):
    log_policy, log_anchor = (
      jax.nn.log_softmax(logits),
      jax.nn.log_softmax(anchor),
    )
    policy = jax.lax.stop_gradient(jnp.exp(log_policy))
    shape = (5, 25)
    losses = bond.jbond_surrogate(
      jnp.broadcast_to(log_policy[:, None], shape),
      jnp.broadcast_to(log_anchor[:, None], shape),
      jnp.broadcast_to(rewards[:, None], shape),
      jnp.broadcast_to(log_policy[anchors], (*shape, 2)),
      jnp.broadcast_to(rewards[anchors], (*shape, 2)),
    )
    return policy @ losses @ jnp.exp(log_anchor[anchors].sum(-1))

  @jax.jit
  def train(logits):
    def step(carry, _):
      logits, anchor = carry
      logits = logits - 0.5 * jax.grad(loss)(logits, anchor)
      anchor = bond.jbond_anchor_update(anchor, logits, rate=0.05)
      return (logits, anchor), jax.nn.softmax(logits) @ rewards

    return jax.lax.scan(step, (logits, logits), None, 400)[1]

  reward = train(jnp.asarray(LOG_P))
  # The last outcome has the largest reward, 2.5; the base has 1.275.
  assert np.all(np.diff(reward) > -1e-9)
  assert reward[0] < 1.4 and reward[-1] > 2.3


def test_anchor_update():
  anchor = {"w": jnp.array([0.0, 2.0]), "b": jnp.array(1.0)}
  params = {"w": jnp.array([1.0, 1.0]), "b": jnp.array(-1.0)}
  moved = bond.jbond_anchor_update(anchor, params, rate=0.25)
  helpers.assert_close(moved, {"w": np.array([0.25, 1.75]), "b": 0.5})
  kept = bond.jbond_anchor_update(anchor, params, rate=0.0)
  helpers.assert_close(kept, anchor)
  gradient = jax.grad(
    lambda p: bond.jbond_anchor_update(anchor, p, rate=0.25)["w"].sum()
  )(params)
  helpers.assert_close(gradient["w"], np.array([0.25, 0.25]))


# --- transforms and arguments ------------------------------------------------


def test_transforms():
  @jax.jit
  def everything(log_p, rewards, weight):
    log_target = bond.bond_log_pmf(log_p, rewards, 4)
    short = bond.bond_log_pmf(log_p, rewards, 4, keep_sum=False)
    log_f = bond.log_quantile(log_p, rewards)
    # As data for the other functions, any numbers will do.
    anchors = jnp.stack([rewards[::-1], rewards], -1)
    return (
      log_target,
      short,
      log_f,
      bond.jeffreys_objective(log_p, log_target, weight=weight),
      bond.bond_quantile_reward(rewards, anchors, clamp=0.1),
      bond.bond_surrogate(log_p, short, log_f, log_p[0], 4, weight=weight),
      bond.jbond_reward(rewards, anchors),
      bond.jbond_surrogate(
        log_p, short, rewards, anchors, anchors, weight=weight, gamma=weight
      ),
      bond.jbond_anchor_update(log_p, short, rate=0.5),
    )

  log_p, r = jnp.stack([LOG_P, LOG_P[::-1]]), jnp.stack([R, R])
  weight = jnp.array([0.5, 0.2])
  helpers.assert_transforms(lambda *args: everything(*args), log_p, r, weight)


def test_arguments_are_checked():
  half, two = jnp.array(-0.7), jnp.array([-0.7, -0.7])
  for weight in (-0.1, 1.1, np.nan):
    with pytest.raises(ValueError, match="weight must be in .0, 1., was"):
      bond.jeffreys_objective(two, two, weight=weight)
    with pytest.raises(ValueError, match="weight must be in .0, 1., was"):
      bond.bond_surrogate(two, two, two, half, 4, weight=weight)
    with pytest.raises(ValueError, match="weight must be in .0, 1., was"):
      bond.jbond_surrogate(half, half, half, two, two, weight=weight)
  with pytest.raises(ValueError, match="clamp must be in .0, 1., was 2"):
    bond.bond_quantile_reward(half, two, clamp=2.0)
  with pytest.raises(ValueError, match="rate must be in .0, 1., was 2"):
    bond.jbond_anchor_update(half, half, rate=2.0)
  with pytest.raises(ValueError, match="leave-one-out .* had 1"):
    bond.bond_surrogate(two[:1], two[:1], two[:1], half, 4)
  with pytest.raises(AssertionError, match="log_policy_best .2,."):
    bond.bond_surrogate(two, two, two, two, 4)
  with pytest.raises(AssertionError, match="rewards .1,."):
    bond.bond_surrogate(two, two, two[:1], half, 4)
  with pytest.raises(AssertionError, match="one_anchor_each"):
    bond.bond_quantile_reward(two, two, clamp=0.1)
  with pytest.raises(AssertionError, match="rewards_of_two_anchors"):
    bond.jbond_reward(half, jnp.zeros(3))
  with pytest.raises(AssertionError, match="anchor_rewards .3,."):
    bond.jbond_surrogate(half, half, half, two, jnp.zeros(3))
  with pytest.raises(AssertionError, match="log_target .5,."):
    bond.jeffreys_objective(two, LOG_P)
  for keep_sum in (True, False):
    with pytest.raises(ValueError, match="n must be at least 1"):
      bond.bond_log_pmf(LOG_P, R, 0.5, keep_sum=keep_sum)
  with pytest.raises(AssertionError, match="rewards .4,."):
    bond.log_quantile(LOG_P, R[:4])
