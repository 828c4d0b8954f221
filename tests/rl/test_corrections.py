# SPDX-License-Identifier: Apache-2.0
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.exact import sequences
from jaxalign.rl import corrections
from tests import helpers
from tests.rl import bed

WHERE = jnp.arange(4) < jnp.array([4, 2, 0])[:, None]


def sampler():
  return bed.logits() + 0.3 * sequences.random_table(
    jax.random.key(3), bed.V, bed.T
  )


def corrected_gradient(level):
  """E_mu[w R grad log pi], untruncated, over all groups of the sampler."""
  old, drawn = bed.token_logp(bed.logits()), bed.token_logp(sampler())
  rewards, where = bed.rewards(), bed.WHERE

  def loss(logp, group):
    weights = corrections.truncated_is_weights(
      old[group],
      drawn[group],
      where=where[group],
      level=level,
      max_weight=math.inf,
    )
    return jnp.mean(rewards[group] * jnp.sum(weights * logp, -1))

  return bed.expected_gradient(loss, bed.logits(), sampler())


def test_sequence_weights_are_unbiased_and_token_weights_are_not():
  exact = jax.grad(lambda x: bed.value(x, bed.rewards()))(bed.logits())
  helpers.assert_close(corrected_gradient("sequence"), exact, atol=1e-15)
  error = jnp.linalg.norm(corrected_gradient("token") - exact)
  assert 0.01 < error / jnp.linalg.norm(exact) < 1


def test_weights_by_hand(key):
  logp, drawn = jax.random.normal(key, (2, 3, 4))
  lr = np.where(WHERE, logp - drawn, 0)
  token, whole = np.exp(lr), np.exp(lr.sum(1, keepdims=True))
  whole = np.where(WHERE, whole, 1)
  dirty = jnp.where(WHERE, logp, jnp.nan), jnp.where(WHERE, drawn, jnp.inf)
  for level, w in (("token", token), ("sequence", whole)):
    helpers.assert_close(
      corrections.truncated_is_weights(
        *dirty, where=WHERE, level=level, max_weight=1.2
      ),
      np.minimum(w, 1.2),
    )
    helpers.assert_close(
      corrections.masked_is_weights(
        *dirty, where=WHERE, level=level, min_weight=0.3, max_weight=1.2
      ),
      np.where((w >= 0.3) & (w <= 1.2), w, 0),
    )


def test_on_policy_everything_is_kept(key):
  logp = jax.random.normal(key, (3, 4))
  for weights in (
    corrections.masked_is_weights(logp, logp, where=WHERE, max_weight=1.0),
    corrections.truncated_is_weights(logp, logp, where=WHERE, max_weight=1.0),
  ):
    helpers.assert_close(weights, jnp.ones((3, 4)), atol=0)
  kept = corrections.off_policy_mask(
    logp, logp, -jnp.ones(3), where=WHERE, delta=0.0
  )
  assert jnp.all(kept)


def test_off_policy_mask_drops_bad_and_old():
  logp = jnp.array([[-2.0, -2.0], [-2.0, -2.0], [-2.0, jnp.nan], [-1.0, -1.0]])
  drawn = jnp.full((4, 2), -1.0)
  where = jnp.isfinite(logp)
  advantages = jnp.array([1.0, -1.0, -1.0, -1.0])
  kept = corrections.off_policy_mask(
    logp, drawn, advantages, where=where, delta=0.9
  )
  np.testing.assert_array_equal(kept, [True, False, False, True])
  kept = corrections.off_policy_mask(
    logp, drawn, advantages, where=where, delta=1.1
  )
  assert jnp.all(kept)


def test_weights_are_constants(key):
  logp = jax.random.normal(key, (3, 4))

  def total(x):
    pair = (x, logp)
    return jnp.sum(
      corrections.truncated_is_weights(*pair, where=WHERE)
      + corrections.masked_is_weights(*pair, where=WHERE)
    )

  assert not np.any(jax.jit(jax.grad(total))(logp + 0.1))


def test_transforms(key):
  logp, drawn = jax.random.normal(key, (2, 2, 3, 4))
  helpers.assert_transforms(
    lambda x, y: (
      corrections.truncated_is_weights(x, y, where=WHERE),
      corrections.masked_is_weights(x, y, where=WHERE),
      corrections.off_policy_mask(x, y, x[:, 0], where=WHERE),
    ),
    logp,
    drawn,
  )


def test_bad_input():
  x, where = jnp.zeros((2, 3)), jnp.ones((2, 3), bool)
  with pytest.raises(ValueError, match="unknown level 'sequence_mean'"):
    corrections.truncated_is_weights(x, x, where=where, level="sequence_mean")
  with pytest.raises(ValueError, match="max_weight must be above 0"):
    corrections.truncated_is_weights(x, x, where=where, max_weight=0.0)
  with pytest.raises(ValueError, match="need 0 <= min_weight < max_weight"):
    corrections.masked_is_weights(x, x, where=where, min_weight=3.0)
  with pytest.raises(AssertionError, match="need one shape"):
    corrections.off_policy_mask(x, x, jnp.zeros(3), where=where)
