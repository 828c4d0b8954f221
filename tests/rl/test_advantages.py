# SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxalign import checks
from jaxalign.exact import sequences
from jaxalign.rl import advantages
from tests import helpers
from tests.rl import bed


def estimator(**options):
  """`1/G sum_i A_i log pi(y_i)`, the loss of each group."""
  rewards = bed.rewards()

  def loss(logp, group):
    given = advantages.group_advantages(
      rewards[group], num_generations=bed.G, **options
    )
    return jnp.mean(given * jnp.sum(logp, -1))

  return loss


def test_without_a_scale_the_direction_is_the_policy_gradient():
  table = bed.logits()
  exact = jax.grad(lambda x: bed.value(x, bed.rewards()))(table)
  for baseline, factor in (("loo", 1), ("mean", (bed.G - 1) / bed.G)):
    actual = bed.expected_gradient(
      estimator(baseline=baseline, scale="none"), table
    )
    helpers.assert_close(actual, factor * exact, atol=1e-15)
  # By the deviation: another direction.
  scaled = bed.expected_gradient(estimator(), table)
  cosine = jnp.vdot(scaled, exact) / jnp.sqrt(
    jnp.vdot(scaled, scaled) * jnp.vdot(exact, exact)
  )
  assert 0.9 < cosine < 1 - 1e-6


def by_hand(rewards, num_generations, ddof, eps):
  """GRPO in NumPy."""
  groups = np.asarray(rewards).reshape(-1, num_generations)
  mean = groups.mean(1, keepdims=True)
  return (groups - mean) / (groups.std(1, ddof=ddof, keepdims=True) + eps)


def test_scales_against_numpy(key):
  rewards = np.asarray(jax.random.normal(key, (12,)))
  groups = rewards.reshape(3, 4)
  centred = groups - groups.mean(1, keepdims=True)
  cases = {
    ("mean", "group", 1): by_hand(rewards, 4, 1, 1e-4),
    ("mean", "group", 0): by_hand(rewards, 4, 0, 1e-4),
    ("mean", "batch", 1): centred / (rewards.std(ddof=1) + 1e-4),
    ("loo", "none", 1): np.stack(
      [[g[i] - np.delete(g, i).mean() for i in range(4)] for g in groups]
    ),
    ("none", "none", 1): groups,
  }
  for (baseline, scale, ddof), expected in cases.items():
    actual = advantages.group_advantages(
      jnp.asarray(rewards),
      num_generations=4,
      baseline=baseline,
      scale=scale,
      ddof=ddof,
    )
    helpers.assert_close(actual.reshape(3, 4), expected)


def test_binary_rewards_scaled_by_their_deviation():
  """The expected estimator is c_G(p) grad p, by all groups of a coin."""
  for size, ddof in ((2, 0), (4, 0), (4, 1)):
    p = 0.3
    total = 0.0
    for rewards in itertools.product((0.0, 1.0), repeat=size):
      mean, deviation = np.mean(rewards), np.std(rewards, ddof=ddof)
      if deviation == 0:
        continue
      weight = p ** sum(rewards) * (1 - p) ** (size - sum(rewards))
      # d log P(r) / dp is 1/p for a success and -1/(1-p) for a failure.
      scores = np.where(np.array(rewards) == 1, 1 / p, -1 / (1 - p))
      total += weight * np.mean((np.array(rewards) - mean) / deviation * scores)
    slope = advantages.binary_group_slope(
      jnp.float64(p), num_generations=size, ddof=ddof
    )
    helpers.assert_close(slope, total, rtol=1e-12)
    # The library's advantages of one such group.
    given = jnp.array([1.0] + [0.0] * (size - 1))
    helpers.assert_close(
      advantages.group_advantages(
        given, num_generations=size, ddof=ddof, eps=0.0
      ),
      by_hand(given, size, ddof, 0.0)[0],
    )


@pytest.mark.parametrize(
  ("size", "ddof", "printed"),
  [(2, 0, 1.0), (4, 0, 1.645032), (8, 0, 2.026116), (16, 0, 2.197914),
   (4, 1, 1.424639)],
)  # fmt: skip
def test_printed_slopes(size, ddof, printed):
  slope = advantages.binary_group_slope(
    jnp.float64(0.25), num_generations=size, ddof=ddof
  )
  assert abs(slope - printed) <= 5e-7
  limit = 1 / np.sqrt(0.25 * 0.75)
  assert abs(limit - 2.309401) <= 5e-7 and slope < limit
  if size == 2:
    p = jnp.linspace(0.01, 0.99, 7)
    helpers.assert_close(
      advantages.binary_group_slope(p, num_generations=2), jnp.ones(7)
    )


def test_two_completions_are_an_unbiased_policy_gradient():
  """c_2 = 1: two-sample GRPO with binary rewards and ddof 0 is REINFORCE."""
  p = scipy.stats.uniform.rvs(size=5, random_state=0)
  slope = advantages.binary_group_slope(jnp.asarray(p), num_generations=2)
  helpers.assert_close(slope, np.ones(5))


def test_equal_rewards_have_advantage_zero():
  rewards = jnp.full(6, 0.1)  # whose mean is not .1 to the last bit
  for baseline, scale in itertools.product(
    advantages.BASELINES[:2], advantages.SCALES
  ):
    actual = advantages.group_advantages(
      rewards, num_generations=3, baseline=baseline, scale=scale, eps=0.0
    )
    helpers.assert_close(actual, jnp.zeros(6), atol=0)
  alone = advantages.group_advantages(
    rewards, num_generations=1, baseline="loo", scale="none"
  )
  helpers.assert_close(alone, jnp.zeros(6), atol=0)


def test_shift_and_scale_of_rewards(key):
  rewards = jax.random.normal(key, (6,))
  moved = 2.5 * rewards - 7
  for scale, factor in (("group", 1), ("batch", 1), ("none", 2.5)):
    first, second = (
      advantages.group_advantages(x, num_generations=3, scale=scale, eps=0.0)
      for x in (rewards, moved)
    )
    helpers.assert_close(second, factor * first)


def test_gdpo_keeps_the_weight_of_a_narrow_reward(key):
  rewards = jax.random.normal(key, (8, 2)) * jnp.array([1.0, 100.0])
  weights = jnp.array([2.0, 1.0])
  actual = advantages.gdpo_advantages(rewards, weights, num_generations=4)
  total = sum(
    w * by_hand(rewards[:, k], 4, 1, 1e-4).ravel()
    for k, w in enumerate([2.0, 1.0])
  )
  expected = (total - total.mean()) / (total.std(ddof=1) + 1e-4)
  helpers.assert_close(actual, expected)
  scaled = rewards * jnp.array([1.0, 1e-3])
  again = advantages.gdpo_advantages(
    scaled, weights, num_generations=4, eps=1e-12
  )
  helpers.assert_close(
    again,
    advantages.gdpo_advantages(rewards, weights, num_generations=4, eps=1e-12),
    rtol=1e-9,
  )
  with pytest.raises(AssertionError, match="need one shape"):
    advantages.gdpo_advantages(rewards, jnp.ones(3), num_generations=4)


def test_opo_has_the_least_variance_for_scores_of_length(key):
  """Minimises sum_i L_i (R_i - b)^2, the variance if |score|^2 = L."""
  rewards = jax.random.normal(key, (3,))
  lengths = jnp.array([1.0, 5.0, 2.0])
  actual = advantages.opo_advantages(rewards, lengths, num_generations=3)
  slope = jax.grad(lambda b: jnp.sum(lengths * (rewards - b) ** 2))(
    rewards[0] - actual[0]
  )
  assert abs(slope) < 1e-12
  helpers.assert_close(
    advantages.opo_advantages(rewards, jnp.ones(3), num_generations=3),
    advantages.group_advantages(rewards, num_generations=3, scale="none"),
  )
  empty = advantages.opo_advantages(rewards, jnp.zeros(3), num_generations=3)
  helpers.assert_close(empty, rewards - rewards.mean())


def test_remax_is_unbiased():
  table, rewards = bed.logits(), bed.rewards()
  exact = jax.grad(lambda x: bed.value(x, rewards))(table)

  def loss(logp, group):
    given = advantages.remax_advantages(
      rewards[group], rewards[:1], num_generations=bed.G
    )
    return jnp.mean(given * jnp.sum(logp, -1))

  helpers.assert_close(bed.expected_gradient(loss, table), exact, atol=1e-15)


def test_best_of_group_is_the_gradient_of_the_best():
  table, rewards = bed.logits(), bed.rewards()

  def best(x):
    logp = jnp.sum(bed.token_logp(x), -1)
    groups = sequences.enumerate_sequences(len(rewards), bed.G)
    return jnp.exp(jnp.sum(logp[groups], -1)) @ jnp.max(rewards[groups], -1)

  def loss(logp, group):
    given = advantages.best_of_group_rewards(
      rewards[group], num_generations=bed.G
    )
    return jnp.sum(given * jnp.sum(logp, -1))

  helpers.assert_close(
    bed.expected_gradient(loss, table), jax.grad(best)(table), atol=1e-15
  )
  tied = advantages.best_of_group_rewards(
    jnp.array([1.0, 1.0, 0.0]), num_generations=3
  )
  helpers.assert_close(tied, jnp.zeros(3), atol=0)


def test_reinforce_pp_against_a_loop(key):
  first, second = jax.random.split(key)
  rewards = jax.random.normal(first, (4,))
  logp, ref_logp = jax.random.normal(second, (2, 4, 3))
  where = np.arange(3) < np.array([3, 1, 0, 2])[:, None]
  to_go = np.zeros((4, 3))
  for i in range(4):
    for t in range(3):
      later = range(t, int(where[i].sum()))
      kl = sum(float(logp[i, s] - ref_logp[i, s]) for s in later)
      to_go[i, t] = rewards[i] - 0.3 * kl
  valid = to_go[where]
  expected = (to_go - valid.mean()) / np.sqrt(valid.var() + 1e-8)
  actual = advantages.reinforce_pp_advantages(
    rewards,
    jnp.where(where, logp, jnp.nan),
    jnp.where(where, ref_logp, -jnp.inf),
    where=where,
    beta=0.3,
  )
  helpers.assert_close(actual, np.where(where, expected, 0))
  centred = advantages.group_advantages(
    rewards, num_generations=2, scale="none"
  )
  helpers.assert_close(
    advantages.reinforce_pp_advantages(
      rewards, logp, ref_logp, where=where, beta=0.3, num_generations=2
    ),
    advantages.reinforce_pp_advantages(
      centred, logp, ref_logp, where=where, beta=0.3
    ),
  )


def test_advantages_are_constants(key):
  rewards = jax.random.normal(key, (4,))

  def total(x):
    tokens = x[:, None] * jnp.ones((4, 2))
    options = dict(num_generations=2)
    parts = (
      advantages.group_advantages(x, **options),
      advantages.gdpo_advantages(tokens, jnp.ones(2), **options),
      advantages.opo_advantages(x, jnp.arange(4.0), **options),
      advantages.remax_advantages(x, x[:2], **options),
      advantages.best_of_group_rewards(x, **options),
      advantages.reinforce_pp_advantages(
        x, tokens, 2 * tokens, where=jnp.ones((4, 2), bool), beta=0.1
      ),
    )
    return sum(jnp.sum(part**2) for part in parts)

  helpers.assert_close(jax.jit(jax.grad(total))(rewards), jnp.zeros(4), atol=0)


def test_transforms(key):
  rewards = jax.random.normal(key, (2, 4))
  where = jnp.arange(3) < jnp.array([3, 1, 0, 2])[:, None]

  def everything(x):
    tokens = jnp.outer(x, jnp.arange(1, 4))
    options = dict(num_generations=2)
    return (
      advantages.group_advantages(x, **options),
      advantages.gdpo_advantages(
        tokens, jnp.arange(3.0, dtype=x.dtype), **options
      ),
      advantages.opo_advantages(x, jnp.abs(x), **options),
      advantages.remax_advantages(x, x[:2], **options),
      advantages.best_of_group_rewards(x, **options),
      advantages.reinforce_pp_advantages(
        x, tokens, -tokens, where=where, beta=0.1
      ),
      advantages.binary_group_slope(jax.nn.sigmoid(x), num_generations=3),
    )

  helpers.assert_transforms(everything, rewards)
  # Groups may be reordered, and completions within them.
  order = jnp.array([3, 2, 0, 1])
  helpers.assert_close(
    advantages.group_advantages(rewards[0][order], num_generations=2),
    advantages.group_advantages(rewards[0], num_generations=2)[order],
  )


def test_bad_input():
  rewards = jnp.arange(6.0)
  with pytest.raises(ValueError, match="must divide the batch: 4 gener.*6 rew"):
    advantages.group_advantages(rewards, num_generations=4)
  with pytest.raises(
    ValueError, match=r"scale='group' with ddof=1.*there is 1"
  ):
    advantages.group_advantages(rewards, num_generations=1)
  with pytest.raises(
    ValueError, match=r"scale='batch' with ddof=1.*there is 1"
  ):
    advantages.group_advantages(rewards[:1], num_generations=1, scale="batch")
  with pytest.raises(ValueError, match="unknown baseline 'median'"):
    advantages.group_advantages(rewards, num_generations=2, baseline="median")
  with pytest.raises(ValueError, match="unknown scale"):
    advantages.group_advantages(rewards, num_generations=2, scale="max")
  with pytest.raises(ValueError, match="need a batch axis"):
    advantages.group_advantages(jnp.float32(1), num_generations=1)
  with pytest.raises(ValueError, match="must be above 1, was 1"):
    advantages.best_of_group_rewards(rewards, num_generations=1)
  with pytest.raises(ValueError, match="must be above ddof=1, was 1"):
    advantages.binary_group_slope(0.5, num_generations=1, ddof=1)
  with pytest.raises(AssertionError, match="need one shape"):
    advantages.opo_advantages(rewards, rewards[:5], num_generations=2)
  with pytest.raises(checks.InputError, match="completion 1 of prompt 2"):
    advantages.check_rewards(
      np.array([0, 1, 0, 1, 0, np.inf]), num_generations=2
    )
  with pytest.raises(ValueError, match="must divide"):
    advantages.check_rewards(np.zeros(5), num_generations=2)
  advantages.check_rewards(np.zeros(6), num_generations=2)
