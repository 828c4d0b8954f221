# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import divergences
from jaxalign.exact import sequences
from jaxalign.rl.f_regularization import base_sample_f_terms, mastered_groups
from tests import helpers

LOG2 = np.log(2)
LOGITS = np.array([0.7, -0.4, 1.1, 0.2, -1.3, 0.5])
BASE = np.array([-0.2, 0.9, 0.3, -1.0, 0.4, 0.1])
REWARDS = np.array([0.1, 0.9, 0.4, 1.0, 0.0, 0.3])
ORDER = 0.2


def alpha(order):
  order = divergences.alpha_order(order, convention="dph_rl")
  return divergences.f_divergence("alpha", alpha=order)


FORWARD = divergences.f_divergence("reverse_kl")
JS = divergences.f_divergence("jensen_shannon")
# The generator of the paper, the divergence here, and how often it counts.
CASES = {
  "forward": (lambda u: u - np.log(u) - 1, FORWARD, 1.0),
  "js": (lambda u: u * np.log(u) - (u + 1) * np.log((u + 1) / 2), JS, 2.0),
  "alpha": (
    lambda u: (
      (u ** (1 - ORDER) - (1 - ORDER) * u - ORDER) / (ORDER * (ORDER - 1))
    ),
    alpha(ORDER),
    1.0,
  ),
}


@pytest.mark.parametrize("name", CASES)
def test_terms_are_the_generators_of_the_paper(name):
  generator, div, times = CASES[name]
  log_u = np.array([-30.0, -1.5, -1e-3, 0.0, 0.4, 6.0])
  ref = np.linspace(-3, -1, 6)
  found = times * base_sample_f_terms(ref + log_u, ref, div=div)
  # The oracle cancels close to 1, where both are 0 to second order.
  helpers.assert_close(found, generator(np.exp(log_u)), rtol=1e-9, atol=1e-15)
  assert found[3] == 0 and np.all(found >= 0)


@pytest.mark.parametrize("name", CASES)
def test_mean_over_the_base_is_the_divergence_with_its_gradient(name):
  _, div, _ = CASES[name]
  log_ref = jax.nn.log_softmax(BASE)

  def sampled(logits):
    terms = base_sample_f_terms(jax.nn.log_softmax(logits), log_ref, div=div)
    return jnp.exp(log_ref) @ terms

  def exact(logits):
    return divergences.categorical_f_divergence(div, logits, BASE)

  for fn in (lambda f: f, jax.grad):
    helpers.assert_close(fn(sampled)(LOGITS), fn(exact)(LOGITS))
  helpers.assert_gradient(sampled, LOGITS)


def test_orders_of_alpha_lie_between_the_two_divergences():
  """a -> 0 is KL(pi||ref), a -> 1 is KL(ref||pi)."""
  reverse, forward = (
    divergences.kl(*pair) for pair in ((LOGITS, BASE), (BASE, LOGITS))
  )
  near = 1e-6  # both ends are approached linearly
  for order, expected in ((near, reverse), (1 - near, forward)):
    found = divergences.categorical_f_divergence(alpha(order), LOGITS, BASE)
    np.testing.assert_allclose(found, expected, rtol=10 * near)


def test_optima():
  """`f'(pi/ref) = (r - lam)/eta`: the closed forms, and a flat objective."""
  ref, eta = jax.nn.softmax(BASE), 0.4

  def optimum(div, eta):
    log_pi = divergences.regularized_maximizer(div, REWARDS, BASE, eta)
    return log_pi, jnp.exp(log_pi) / ref

  closed = {
    "forward": lambda z: 1 / -z,  # z = (r - lam)/eta
    "js": lambda z: 1 / (2 * jnp.exp(-z) - 1),
    "alpha": lambda z: (1 - ORDER * z) ** (-1 / ORDER),
  }
  for name, (_, div, times) in CASES.items():
    log_pi, u = optimum(div, eta * times)
    # lam from one outcome must fit all others.
    lam = REWARDS[0] - eta * times * div.f_prime(u[0])
    helpers.assert_close(closed[name]((REWARDS - lam) / eta), u, rtol=1e-9)

    def objective(logits, div=div, times=times):
      value = jax.nn.softmax(logits) @ REWARDS
      penalty = divergences.categorical_f_divergence(div, logits, BASE)
      return value - eta * times * penalty

    assert np.abs(jax.grad(objective)(log_pi)).max() < 1e-15


def test_sequences():
  """Token terms of forward KL add up to the sequences' KL, those of JS do not.

  Over all sequences of the base.
  """
  first, second = jax.random.split(jax.random.key(1))
  table, base = (sequences.random_table(k, 3, 2) for k in (first, second))
  tokens = sequences.enumerate_sequences(3, 2)
  logp, ref_logp = (sequences.token_log_probs(x, tokens) for x in (table, base))

  def sums(div):
    terms = base_sample_f_terms(logp, ref_logp, div=div)
    whole = base_sample_f_terms(logp.sum(-1), ref_logp.sum(-1), div=div)
    return (
      sequences.expectation(base, terms.sum(-1)),
      sequences.expectation(base, whole),
    )

  tokens_sum, sequence = sums(FORWARD)
  helpers.assert_close(tokens_sum, sequence)
  tokens_sum, sequence = sums(JS)
  assert tokens_sum > 1.05 * sequence


def test_a_penalty_on_samples_of_the_policy_is_another_one():
  """k3 of KL(pi||m), m the mixture, in a loss: its samples move with pi.

  The released "js" mode has this half. Both halves against the gradient of JS:
  another direction, and more than twice as long (once for the factor 2).
  """
  log_ref = jax.nn.log_softmax(BASE)
  law = jax.nn.softmax(LOGITS)

  def released(logits):
    log_pi = jax.nn.log_softmax(logits)
    log_m = jnp.logaddexp(log_pi, log_ref) - jnp.log(2.0)
    on_policy = divergences.kl_estimate(log_pi - log_m, kind="k3")
    return law @ on_policy + jnp.exp(log_ref) @ (log_ref - log_m)

  def exact(logits):
    return divergences.jensen_shannon(logits, BASE)

  wrong, right = jax.grad(released)(LOGITS), jax.grad(exact)(LOGITS)
  norms = np.linalg.norm(wrong), np.linalg.norm(right)
  assert wrong @ right / np.prod(norms) < 0.99
  assert norms[0] / norms[1] > 2.2


@pytest.mark.parametrize(("div", "absent"), [(FORWARD, np.inf), (JS, LOG2 / 2)])
def test_masks_and_zeros(div, absent):
  logp = jnp.array([-1.0, jnp.nan, -jnp.inf, -2.0])
  ref_logp = jnp.array([-1.5, -jnp.inf, -1.0, -2.5])
  where, kept = np.array([True, False, True, True]), np.array([0, 3])

  def terms(logp):
    return base_sample_f_terms(logp, ref_logp, div=div, where=where)

  value, slopes = terms(logp), jax.jacrev(terms)(logp)
  helpers.assert_close(value[1:3], np.array([0.0, absent]))
  alone = base_sample_f_terms(logp[kept], ref_logp[kept], div=div)
  helpers.assert_close(value[kept], alone)
  assert np.all(slopes[:, 1:3] == 0) and np.all(np.isfinite(slopes))
  with jax.debug_nans(True):
    jax.grad(lambda x: terms(x)[kept].sum())(logp.at[1].set(-jnp.inf))


def test_mastered_groups():
  correct = np.array([True, True, True, False, False, False])
  found = mastered_groups(correct, num_generations=2)
  np.testing.assert_array_equal(found, [True, True, False, False, False, False])


def test_transforms():
  def everything(logp, ref_logp):
    return (
      base_sample_f_terms(logp, ref_logp, div=JS, where=logp < 1),
      mastered_groups(logp > 0, num_generations=3),
    )

  helpers.assert_transforms(
    everything, np.stack([LOGITS, BASE]), np.stack([BASE, LOGITS])
  )


def test_bad_input():
  with pytest.raises(AssertionError, match="ref_logp"):
    base_sample_f_terms(LOGITS, BASE[:3], div=JS)
  with pytest.raises(AssertionError, match="where"):
    base_sample_f_terms(LOGITS, BASE, div=JS, where=np.ones(3, bool))
  with pytest.raises(ValueError, match="num_generations must divide"):
    mastered_groups(np.ones(5, bool), num_generations=2)
