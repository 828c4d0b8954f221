# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.divergences import categorical
from jaxalign.exact import sequences
from jaxalign.rl import kl_penalty
from tests import helpers
from tests.rl import bed

WHERE = jnp.arange(4) < jnp.array([4, 2, 0])[:, None]


def reference():
  return bed.token_logp(sequences.random_table(jax.random.key(5), bed.V, bed.T))


def divergence(table, *, forward=False):
  """KL(policy||ref) of completions, or KL(ref||policy)."""
  log_pi, log_ref = (
    jnp.sum(x, -1) for x in (bed.token_logp(table), reference())
  )
  if forward:
    log_pi, log_ref = log_ref, log_pi
  return jnp.sum(jnp.exp(log_pi) * (log_pi - log_ref))


def placed(kind, *, tokens):
  """Expected gradient of a term in the loss, of tokens or of sequences."""
  ref, where = reference(), bed.WHERE

  def loss(logp, group):
    pair = (logp, ref[group])
    keep = where[group]
    if not tokens:
      pair = tuple(jnp.sum(x, -1) for x in pair)
      keep = jnp.any(keep, -1)
    terms = kl_penalty.kl_in_loss(*pair, kind=kind, where=keep)
    return jnp.sum(terms) / bed.G

  return bed.expected_gradient(loss, bed.logits())


def test_gradients_by_placement_of_whole_sequences():
  table = bed.logits()
  reverse = jax.grad(divergence)(table)
  forward = jax.grad(lambda x: divergence(x, forward=True))(table)
  for kind, expected in (
    ("k1", jnp.zeros_like(table)),
    ("k2", reverse),
    ("k3", forward),
    ("ratio_k3", reverse),
  ):
    helpers.assert_close(placed(kind, tokens=False), expected, atol=1e-14)


def local_divergence(table, *, forward):
  """sum_prefix d_old(prefix) D(pi(.|prefix), ref(.|prefix))."""
  ref_table = sequences.random_table(jax.random.key(5), bed.V, bed.T)
  visits = jnp.exp(
    jnp.concatenate([jnp.zeros(1), jax.nn.log_softmax(bed.logits()[0])])
  )
  visits = visits.at[1].set(0)  # token 0 ends: nothing follows
  pair = (ref_table, table) if forward else (table, ref_table)
  return visits @ categorical.kl(*pair)


def test_gradients_of_tokens_are_local():
  table = bed.logits()
  for kind, forward in (("k2", False), ("k3", True), ("ratio_k3", False)):
    expected = jax.grad(lambda x, f=forward: local_divergence(x, forward=f))(
      table
    )
    helpers.assert_close(placed(kind, tokens=True), expected, atol=1e-14)
  helpers.assert_close(
    placed("k1", tokens=True), jnp.zeros_like(table), atol=1e-14
  )
  # The prefixes' part is missing.
  full = jax.grad(divergence)(table)
  gap = jnp.linalg.norm(placed("k2", tokens=True) - full)
  assert gap / jnp.linalg.norm(full) > 0.01


def test_k1_in_the_reward_is_exact_with_rewards_to_go():
  table, ref, beta = bed.logits(), reference(), 0.3
  rewards, where = bed.rewards(), bed.WHERE
  old = bed.token_logp(table)
  exact = jax.grad(lambda x: bed.value(x, rewards) - beta * divergence(x))(
    table
  )

  def loss(logp, group):
    shaped = kl_penalty.kl_in_reward(
      rewards[group], old[group], ref[group], where=where[group], beta=beta
    )
    to_go = kl_penalty.reward_to_go(shaped, where=where[group])
    return jnp.sum(to_go * logp) / bed.G

  helpers.assert_close(bed.expected_gradient(loss, table), exact, atol=1e-14)


def test_rewards_by_hand(key):
  logp, ref = jax.random.normal(key, (2, 3, 4))
  rewards = jnp.array([1.0, 2.0, 3.0])
  shaped = kl_penalty.kl_in_reward(
    rewards,
    jnp.where(WHERE, logp, jnp.nan),
    jnp.where(WHERE, ref, -jnp.inf),
    where=WHERE,
    beta=0.3,
  )
  expected = np.where(WHERE, -0.3 * (logp - ref), 0)
  expected[0, 3] += 1
  expected[1, 1] += 2
  helpers.assert_close(shaped, expected)
  to_go = kl_penalty.reward_to_go(
    jnp.where(WHERE, shaped, jnp.nan), where=WHERE
  )
  loop = [[x[t:].sum() for t in range(4)] for x in expected]
  helpers.assert_close(to_go, np.where(WHERE, loop, 0))
  slope = jax.grad(
    lambda x: jnp.sum(
      kl_penalty.kl_in_reward(rewards, x, ref, where=WHERE, beta=0.3)
    )
  )(logp)
  assert not np.any(slope)


def test_terms_differentiate_and_transform(key):
  logp, ref = jax.random.normal(key, (2, 2, 3, 4))
  assert kl_penalty.KL_TERMS == ("k1", "k2", "k3", "ratio_k3")

  def terms(x, y):
    return tuple(
      kl_penalty.kl_in_loss(x, y, kind=kind, where=WHERE, old_logp=y + 0.1)
      for kind in kl_penalty.KL_TERMS
    )

  def everything(x, y):
    shaped = kl_penalty.kl_in_reward(x[:, 0], x, y, where=WHERE, beta=0.5)
    return terms(x, y), kl_penalty.reward_to_go(shaped, where=WHERE)

  helpers.assert_transforms(everything, logp, ref)
  helpers.assert_gradient(
    lambda x: sum(jnp.sum(t) for t in terms(x, ref[0])), logp[0]
  )
  dirty = jnp.where(WHERE, logp[0], jnp.nan)
  clean = jax.grad(lambda x: sum(jnp.sum(t) for t in terms(x, ref[0])))(dirty)
  assert jnp.all(jnp.isfinite(clean)) and not np.any(np.where(WHERE, 0, clean))


def test_bad_input():
  x, where = jnp.zeros((2, 3)), jnp.ones((2, 3), bool)
  with pytest.raises(ValueError, match="unknown kind 'k4'"):
    kl_penalty.kl_in_loss(x, x, kind="k4", where=where)
  with pytest.raises(AssertionError, match="need one shape"):
    kl_penalty.kl_in_reward(x, x, x, where=where, beta=0.1)
  with pytest.raises(AssertionError, match="need one shape"):
    kl_penalty.reward_to_go(x, where=where[0])
