# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.exact import sequences
from jaxalign.rl import entropy
from tests import helpers
from tests.rl import bed


def test_chain_rule_of_entropy_and_what_tokens_leave_out():
  table = bed.logits()

  def of_sequences(x):
    logp = jnp.sum(bed.token_logp(x), -1)
    return -jnp.sum(jnp.exp(logp) * logp)

  def of_tokens(x, drawn):
    at = sequences.conditional_log_probs(x, bed.TOKENS)
    each = jnp.where(bed.WHERE, entropy.token_entropy(at), 0)
    return bed.value(drawn, jnp.sum(each, -1))

  helpers.assert_close(of_tokens(table, table), of_sequences(table))
  full = jax.grad(of_sequences)(table)
  # With the prefixes' law fixed, as sampled tokens have it: another gradient.
  sampled = jax.grad(of_tokens)(table, jax.lax.stop_gradient(table))
  assert jnp.max(jnp.abs(full - sampled)) > 1e-3


def test_token_entropy_of_known_laws():
  logits = jnp.log(jnp.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]))
  helpers.assert_close(entropy.token_entropy(logits), np.log([2.0, 1.0]))
  slope = jax.grad(lambda x: jnp.sum(entropy.token_entropy(x)))(logits)
  assert jnp.all(jnp.isfinite(slope))


def test_top_entropy_mask_counts_valid_tokens(key):
  values = jax.random.uniform(key, (4, 5))
  where = jnp.arange(5) < jnp.array([5, 3, 2, 0])[:, None]
  dirty = jnp.where(where, values, jnp.inf)
  for share, count in ((0.2, 2), (0.5, 5), (1.0, 10)):
    mask = entropy.top_entropy_mask(dirty, where=where, share=share)
    assert mask.sum() == count
    kept, left = values[mask], values[where & ~mask]
    assert left.size == 0 or kept.min() > left.max()
  assert not jnp.any(
    entropy.top_entropy_mask(values, where=jnp.zeros_like(where))
  )


def test_bonus_and_its_coefficient():
  values, where = jnp.array([1.0, 3.0, jnp.nan]), jnp.arange(3) < 2
  bonus = entropy.entropy_bonus_loss(values, where=where, coefficient=0.1)
  helpers.assert_close(bonus, -0.2)
  slope = jax.grad(
    lambda x: entropy.entropy_bonus_loss(x, where=where, coefficient=0.1)
  )(values)
  helpers.assert_close(slope, jnp.array([-0.05, -0.05, 0]))
  at = jnp.array(0.004)
  low = entropy.adaptive_entropy_coefficient(at, 0.1, target=0.2)
  helpers.assert_close(low, (jnp.array(0.009), jnp.array(0.009)))
  high = entropy.adaptive_entropy_coefficient(at, 0.3, target=0.2)
  helpers.assert_close(high, (jnp.array(0.0), jnp.array(0.0)))
  most = entropy.adaptive_entropy_coefficient(1.0, 0.1, target=0.2)
  helpers.assert_close(most, (jnp.array(1.0), jnp.array(1.0)))


def test_transforms(key):
  logits = jax.random.normal(key, (2, 4, 3))

  def everything(x):
    values = entropy.token_entropy(x)
    where = jnp.arange(4) < 3
    return (
      values,
      entropy.top_entropy_mask(values, where=where, share=0.5),
      entropy.entropy_bonus_loss(values, where=where, coefficient=0.5),
      entropy.adaptive_entropy_coefficient(values[0], values[1], target=1.0),
    )

  helpers.assert_transforms(everything, logits)
  helpers.assert_gradient(
    lambda x: jnp.sum(entropy.token_entropy(x) * jnp.arange(4)), logits[0]
  )


def test_bad_input():
  x, where = jnp.zeros(3), jnp.ones(3, bool)
  with pytest.raises(ValueError, match=r"share must be in \(0, 1\], was 0"):
    entropy.top_entropy_mask(x, where=where, share=0)
  with pytest.raises(ValueError, match="step must be above 0"):
    entropy.adaptive_entropy_coefficient(0.1, 0.1, target=1.0, step=0.0)
  with pytest.raises(AssertionError, match="need one shape"):
    entropy.entropy_bonus_loss(x, where=where[:2], coefficient=0.1)
