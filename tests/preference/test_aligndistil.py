# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import preference
from jaxalign.exact import sequences
from tests import helpers

RNG = np.random.default_rng(0)
B, T, V = 2, 3, 4
LOGITS, DPO, REVERSE = RNG.normal(size=(3, B, T, V))
WHERE = np.array([[True, False, True], [True, True, True]])


def law(logits):
  return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def teacher_of(beta2):
  weight = beta2 * np.abs(law(DPO) - law(REVERSE)).sum(-1) + 1e-3
  return DPO + weight[..., None] * (DPO - REVERSE), weight


def loss(logits, dpo, reverse, where, beta2=15.0):
  return preference.aligndistil_loss(
    logits, dpo, reverse, where=where, beta2=beta2
  )


def test_the_loss_of_a_loop():
  for beta2 in (15.0, 0.3):
    teacher, weight = teacher_of(beta2)
    kl = np.sum(law(LOGITS) * np.log(law(LOGITS) / law(teacher)), -1)
    expected = [
      np.mean(0.1 * kl[i][WHERE[i]] / weight[i][WHERE[i]]) for i in range(B)
    ]
    spoilt = [
      np.where(WHERE[..., None], x, np.nan) for x in (LOGITS, DPO, REVERSE)
    ]
    actual = loss(*spoilt, WHERE, beta2=beta2)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_it_is_least_at_the_teacher():
  teacher, _ = teacher_of(0.5)

  def total(logits):
    return jnp.sum(loss(logits, DPO, REVERSE, WHERE, beta2=0.5))

  value, gradient = jax.jit(jax.value_and_grad(total))(teacher + 3.0)
  np.testing.assert_allclose(value, 0, atol=1e-14)
  np.testing.assert_allclose(gradient, 0, atol=1e-14)


def test_token_level_rlhf_is_a_divergence_to_an_extrapolation():
  """And the constant `log Z(s)` is 0 for c of 0 and 1 alone."""
  beta2 = 0.7
  pi, dpo, ref = law(LOGITS[0, 0]), law(DPO[0, 0]), law(REVERSE[0, 0])
  for c in (0.0, 0.4, 1.0, 2.5):
    unnormalised = dpo**c * ref ** (1 - c)
    log_z = np.log(unnormalised.sum())
    best = unnormalised / unnormalised.sum()
    objective = c * beta2 * pi @ np.log(dpo / ref)
    objective -= beta2 * pi @ np.log(pi / ref)
    expected = -beta2 * pi @ np.log(pi / best) + beta2 * log_z
    np.testing.assert_allclose(objective, expected, rtol=1e-13)
    assert (abs(log_z) < 1e-15) == (c in (0, 1))


def test_distilled_tokens_are_the_best_sequences_only_at_zero_and_one():
  """The sequence's optimum against each token's own, on tables."""
  ref, dpo = RNG.normal(size=(2, sequences.num_prefixes(3, 2), 3))
  x = sequences.enumerate_sequences(3, 2)
  log_ref, log_dpo = (sequences.sequence_log_probs(t, x) for t in (ref, dpo))
  for c in (0.0, 0.4, 1.0, 2.5):
    rewards = c * (log_dpo - log_ref)
    best = sequences.regularized_table(ref, rewards, 1.0)
    values = []
    for table in (best, ref + c * (dpo - ref)):
      log_pi = sequences.sequence_log_probs(table, x)
      values.append(jnp.exp(log_pi) @ (rewards - log_pi + log_ref))
    gap = values[0] - values[1]
    assert gap > -1e-14 and (gap < 1e-14) == (c in (0, 1))


def test_transforms_and_gradient():
  helpers.assert_transforms(loss, LOGITS, DPO, REVERSE, WHERE)

  def total(logits, dpo, reverse):
    return jnp.sum(loss(logits, dpo, reverse, WHERE))

  helpers.assert_gradient(lambda x: total(x, DPO, REVERSE), LOGITS)
  of_teacher = jax.jit(jax.grad(total, (1, 2)))(LOGITS, DPO, REVERSE)
  assert not np.any(of_teacher)


def test_zeros_and_empty_completions():
  run = jax.jit(jax.value_and_grad(lambda *x: loss(*x)[0]))
  lacking = np.array([[[0.0, 0.0, -np.inf]]])
  where = np.ones((1, 1), bool)
  value, gradient = run(lacking, lacking, np.zeros((1, 1, 3)), where)
  np.testing.assert_allclose(value, 0, atol=1e-12)
  np.testing.assert_allclose(gradient, 0, atol=1e-12)
  everywhere = np.zeros((1, 1, 3))
  assert run(everywhere, lacking, everywhere, where)[0] == np.inf
  value, gradient = run(everywhere, lacking, everywhere, ~where)
  assert value == 0 and not np.any(gradient)


def test_refusals():
  with pytest.raises(AssertionError, match=r"reverse_logits \(3, 4\)"):
    loss(LOGITS, DPO, REVERSE[0], WHERE)
  with pytest.raises(AssertionError, match=r"where \(3,\)"):
    loss(LOGITS, DPO, REVERSE, WHERE[0])
  with pytest.raises(ValueError, match="beta2 must be above 0, was 0"):
    loss(LOGITS, DPO, REVERSE, WHERE, beta2=0)
