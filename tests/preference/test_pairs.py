# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import preference
from tests import helpers

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(2, 4, 3))
TOKENS = RNG.integers(0, 3, (2, 4))
WHERE = np.array([[True, True, False, True], [False] * 4])


def test_sequence_logps_sums_the_selected_tokens():
  probs = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
  expected = sum(np.log(probs[0, t, TOKENS[0, t]]) for t in (0, 1, 3))
  logits = np.where(WHERE[..., None], LOGITS, np.nan)
  tokens = np.where(WHERE, TOKENS, -100)
  actual = preference.sequence_logps(logits, tokens, where=WHERE)
  helpers.assert_close(actual, np.array([expected, 0.0]))


def test_what_is_masked_moves_nothing():
  def total(logits):
    logps = preference.sequence_logps(logits, TOKENS, where=WHERE)
    return jnp.sum(logps)

  helpers.assert_gradient(total, LOGITS)
  gradient = jax.grad(total)(np.where(WHERE[..., None], LOGITS, np.inf))
  assert not np.any(np.asarray(gradient)[~WHERE])


def test_transforms():
  helpers.assert_transforms(
    lambda x, t, w: preference.sequence_logps(x, t, where=w),
    LOGITS,
    TOKENS,
    WHERE,
  )


def test_an_outcome_without_mass_has_log_probability_minus_infinity():
  logits = jnp.array([[0.0, -jnp.inf]])
  where = jnp.array([True])
  for token, expected in ((0, 0.0), (1, -np.inf)):
    logp = preference.sequence_logps(logits, jnp.array([token]), where=where)
    assert logp == expected


def test_refuses_shapes_that_differ():
  with pytest.raises(AssertionError, match=r"tokens \(4,\)"):
    preference.sequence_logps(LOGITS, TOKENS[0], where=WHERE)
