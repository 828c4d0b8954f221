# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.rl import advantages, aggregation, surrogates
from tests import helpers
from tests.rl import bed

WHERE = jnp.arange(4) < jnp.array([4, 2, 0])[:, None]


def test_modes_by_hand(key):
  loss = jax.random.normal(key, (3, 4))
  x, m = np.asarray(loss), np.asarray(WHERE)
  expected = {
    "token_mean": (x[m].sum() / 6, 6),
    "seq_mean_token_mean": ((x[0].mean() + x[1, :2].mean()) / 2, 2),
    "seq_mean_token_sum": ((x[0].sum() + x[1, :2].sum()) / 2, 2),
    "constant": (x[m].sum() / (3 * 10), 30),
  }
  assert set(expected) == set(aggregation.AGGREGATIONS)
  for mode, (value, weight) in expected.items():
    actual = aggregation.aggregate(
      jnp.where(WHERE, loss, jnp.nan),
      where=WHERE,
      mode=mode,
      max_length=10 if mode == "constant" else None,
    )
    helpers.assert_close(tuple(actual), (value, float(weight)))


def test_weights_join_microbatches(key):
  loss = jax.random.normal(key, (3, 4))
  for mode in aggregation.AGGREGATIONS:
    options = dict(mode=mode, max_length=10 if mode == "constant" else None)
    whole = aggregation.aggregate(loss, where=WHERE, **options)
    parts = [
      aggregation.aggregate(loss[rows], where=WHERE[rows], **options)
      for rows in (slice(0, 1), slice(1, 3))
    ]
    joined = sum(p.loss * p.weight for p in parts) / sum(
      p.weight for p in parts
    )
    helpers.assert_close(joined, whole.loss)


def test_an_empty_batch_weighs_nothing():
  loss, where = jnp.full((2, 3), jnp.nan), jnp.zeros((2, 3), bool)
  for mode in aggregation.AGGREGATIONS[:3]:
    fn = functools.partial(aggregation.aggregate, where=where, mode=mode)
    assert tuple(fn(loss)) == (0, 0)
    slope = jax.grad(fn, has_aux=True)(loss)[0]
    assert not np.any(slope)


def expected_gradient(
  mode, scale, *, level="token", baseline="mean", **options
):
  """Minus the gradient of a clipped loss at the old policy, all groups."""
  rewards, old = bed.rewards(), bed.token_logp(bed.logits())
  where = bed.WHERE

  def loss(logp, group):
    given = advantages.group_advantages(
      rewards[group], num_generations=bed.G, baseline=baseline, scale=scale
    )
    ratio = surrogates.log_ratio(
      logp, old[group], where=where[group], level=level
    )
    tokens = surrogates.clip_loss(
      ratio, jnp.broadcast_to(given[:, None], ratio.shape)
    )
    return -aggregation.aggregate(
      tokens.loss, where=where[group], mode=mode, **options
    ).loss

  return bed.expected_gradient(loss, bed.logits())


def test_which_averages_are_unbiased():
  table = bed.logits()
  exact = jax.grad(lambda x: bed.value(x, bed.rewards()))(table)
  share = (bed.G - 1) / bed.G
  # PPO of whole sequences with RLOO's advantages.
  helpers.assert_close(
    expected_gradient(
      "seq_mean_token_mean", "none", level="sequence", baseline="loo"
    ),
    exact,
    atol=1e-15,
  )
  # LUSPO: the mean of ratios, times the length.
  helpers.assert_close(
    expected_gradient("seq_mean_token_sum", "none", level="sequence_mean"),
    share * exact,
    atol=1e-15,
  )
  # Dr. GRPO.
  helpers.assert_close(
    expected_gradient("constant", "none", max_length=2),
    share / 2 * exact,
    atol=1e-15,
  )
  for mode in ("seq_mean_token_mean", "token_mean"):
    biased = expected_gradient(mode, "none")
    cosine = jnp.vdot(biased, exact) / jnp.sqrt(
      jnp.vdot(biased, biased) * jnp.vdot(exact, exact)
    )
    assert 0.9 < cosine < 1 - 1e-6, mode


def test_gradient_and_transforms(key):
  loss = jax.random.normal(key, (2, 3, 4))

  def everything(x):
    return tuple(
      aggregation.aggregate(
        x, where=WHERE, mode=mode, max_length=10 if mode == "constant" else None
      )
      for mode in aggregation.AGGREGATIONS
    )

  helpers.assert_transforms(everything, loss)
  helpers.assert_gradient(
    lambda x: sum(part.loss for part in everything(x)), loss[0]
  )


def test_bad_input():
  x, where = jnp.zeros((2, 3)), jnp.ones((2, 3), bool)
  with pytest.raises(ValueError, match="unknown aggregation 'mean'"):
    aggregation.aggregate(x, where=where, mode="mean")
  with pytest.raises(ValueError, match="'constant', max_length None"):
    aggregation.aggregate(x, where=where, mode="constant")
  with pytest.raises(ValueError, match="'token_mean', max_length 3"):
    aggregation.aggregate(x, where=where, mode="token_mean", max_length=3)
  with pytest.raises(AssertionError, match="need rank 2: loss"):
    aggregation.aggregate(x[0], where=where[0], mode="token_mean")
  with pytest.raises(AssertionError, match="need one shape"):
    aggregation.aggregate(x, where=where[:, :2], mode="token_mean")
