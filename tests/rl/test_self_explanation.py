# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxalign.rl import self_explanation
from tests import helpers

C, A = 4, 3


def tables(seed):
  """Logits of rationales `[C]` and of answers given them `[C, A]`."""
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=C)), jnp.asarray(rng.normal(size=(C, A)))


def laws(tables):
  """Log-probabilities of rationales, and of answer 0 given each."""
  rationales, answers = tables
  return jax.nn.log_softmax(rationales), jax.nn.log_softmax(answers)[:, 0]


def test_posterior_is_bayes():
  prior, answer = (np.exp(x) for x in laws(tables(0)))
  found = self_explanation.rationale_posterior(*laws(tables(0)))
  joint = prior * answer
  np.testing.assert_allclose(np.exp(found), joint / joint.sum(), rtol=1e-12)


def test_posterior_where_rationales_or_all_of_them_are_excluded():
  prior = jnp.log(jnp.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]))
  answer = jnp.log(jnp.array([[0.0, 0.3, 0.9], [0.0, 0.0, 0.9]]))
  with jax.debug_nans(True):
    found = self_explanation.rationale_posterior(prior, answer)
  np.testing.assert_array_equal(np.exp(found), [[0, 1, 0], [0, 0, 0]])


def test_explanations_raise_the_chance_of_the_answer():
  """E_post X = E X^2 / E X = E X + Var X / E X."""
  for seed in range(3):
    log_prior, log_answer = laws(tables(seed))
    prior, x = np.exp(log_prior), np.exp(log_answer)
    posterior = np.exp(
      self_explanation.rationale_posterior(log_prior, log_answer)
    )
    mean = prior @ x
    variance = prior @ (x - mean) ** 2
    assert variance > 0
    np.testing.assert_allclose(posterior @ x, prior @ x**2 / mean, rtol=1e-13)
    np.testing.assert_allclose(posterior @ x, mean + variance / mean)


def test_expected_gradient_is_that_of_the_log_of_success():
  """Of the term itself, with explanations drawn from the posterior."""
  start = tables(1)
  posterior = jnp.exp(self_explanation.rationale_posterior(*laws(start)))
  beta = 0.3

  @jax.jit
  def gradients(tables):
    def expected(tables):
      tokens = jnp.stack(laws(tables), -1)  # c~, then a*
      return posterior @ self_explanation.exp_sft_loss(tokens, beta)

    def success(tables):
      return jax.nn.logsumexp(sum(laws(tables)))

    return jax.grad(expected)(tables), jax.grad(success)(tables)

  found, of_success = gradients(start)
  expected = jax.tree.map(lambda x: -beta * x, of_success)
  helpers.assert_close(found, expected, rtol=1e-12, atol=1e-15)


def test_the_term_is_a_masked_sum():
  rng = np.random.default_rng(2)
  logp = jnp.asarray(rng.normal(size=(2, 5)))
  where = jnp.array([[True, True, False, True, False], [False] * 5])
  loss = self_explanation.exp_sft_loss
  expected = [-0.2 * (logp[0, 0] + logp[0, 1] + logp[0, 3]), 0]
  spoilt = jnp.where(where, logp, jnp.nan)
  found = loss(spoilt, 0.2, where=where)
  np.testing.assert_allclose(found, expected, rtol=1e-14)
  np.testing.assert_allclose(loss(logp, 0.2), -0.2 * logp.sum(-1))
  slope = jax.grad(lambda x: loss(x, 0.2, where=where).sum())(spoilt)
  np.testing.assert_allclose(slope, jnp.where(where, -0.2, 0))
  helpers.assert_transforms(
    lambda x, w: loss(x, 0.2, where=w), logp, where, rtol=1e-14
  )


def test_the_weight_follows_a_schedule():
  schedule = optax.linear_schedule(0.1, 0.0, 10)
  logp = jnp.array([-1.0, -2.0])

  @jax.jit
  def loss(step):
    return self_explanation.exp_sft_loss(logp, schedule(step))

  found = [float(loss(step)) for step in (0, 5, 10)]
  # The schedule rounds its end to 6e-18.
  np.testing.assert_allclose(found, [0.3, 0.15, 0.0], atol=1e-15)


def test_posteriors_transform():
  prior, answer = (jnp.stack([x, x[::-1]]) for x in laws(tables(3)))
  helpers.assert_transforms(self_explanation.rationale_posterior, prior, answer)
  helpers.assert_gradient(
    lambda x, y: self_explanation.rationale_posterior(x, y)[0],
    prior[0],
    answer[0],
  )


def test_pairs_are_explanations_over_own_failures():
  explained = np.array([True, True, False, False, False])
  correct = np.array([True, False, True, False, False])
  pairs = jax.jit(self_explanation.exp_dpo_pairs)(explained, correct)
  expected = np.zeros((5, 5), bool)
  expected[0, [3, 4]] = True
  np.testing.assert_array_equal(pairs.where, expected)
  np.testing.assert_array_equal(pairs.preferred, [1, 0, 0, 0, 0])
  np.testing.assert_array_equal(pairs.rejected, [0, 0, 0, 1, 1])


def test_no_pairs_without_failures_or_without_explanations():
  correct = jnp.array([[True, True], [True, False]])
  explained = jnp.array([[True, False], [False, False]])
  for result in self_explanation.exp_dpo_pairs(explained, correct):
    assert not np.any(result)
  helpers.assert_transforms(self_explanation.exp_dpo_pairs, explained, correct)


def test_bad_input():
  with pytest.raises(AssertionError, match=r"log_answer \(3,\)"):
    self_explanation.rationale_posterior(jnp.zeros(2), jnp.zeros(3))
  with pytest.raises(AssertionError, match="need floats: logp"):
    self_explanation.exp_sft_loss(jnp.zeros(2, int), 0.1)
  with pytest.raises(AssertionError, match=r"where \(3,\)"):
    self_explanation.exp_sft_loss(jnp.zeros(2), 0.1, where=jnp.ones(3, bool))
  with pytest.raises(AssertionError):
    self_explanation.exp_dpo_pairs(jnp.zeros(2), jnp.zeros(2))
