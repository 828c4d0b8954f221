# SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import preference
from tests import helpers
from tests.preference import golden

RNG = np.random.default_rng(0)
CHOSEN = np.array([0.5, 0.2, 0.2, 0.1])
REJECTED = np.array([0.1, 0.3, 0.2, 0.4])
REF = np.array([0.3, 0.3, 0.1, 0.3])
H = np.array([1.3, -0.4, 0.2, 2.1])


def groups(k):
  """All pairs of groups of k of four outcomes, and their probabilities."""
  listed = np.array(list(itertools.product(range(4), repeat=k)))
  first, second = (x.ravel() for x in np.indices((len(listed),) * 2))
  chosen, rejected = listed[first], listed[second]
  weights = np.prod(CHOSEN[chosen], -1) * np.prod(REJECTED[rejected], -1)
  return chosen, rejected, weights


def test_a_group_of_one_is_a_pair():
  h = [
    (golden.PAIRS.policy_chosen - golden.PAIRS.ref_chosen)[:, None],
    (golden.PAIRS.policy_rejected - golden.PAIRS.ref_rejected)[:, None],
  ]
  out = preference.mdpo_loss(*h)
  golden.assert_golden(out.loss, [0.562915, 0.895163])
  helpers.assert_close(out, preference.dpo_loss(golden.PAIRS))


def test_mdpo_learns_what_is_k_times_as_sharp():
  k, beta = 2, 0.8
  chosen, rejected, weights = groups(k)

  def population(logits):
    h = jax.nn.log_softmax(logits) - np.log(REF)
    loss = preference.mdpo_loss(h[chosen], h[rejected], beta=beta).loss
    return weights @ loss

  found = preference.minimize_population(population, np.zeros(4))
  expected = REF * (CHOSEN / REJECTED) ** (k / beta)
  policy = jax.nn.softmax(found.x)
  helpers.assert_close(policy, expected / expected.sum(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("k", [2, 3])
def test_mipo_is_unbiased_and_mdpo_is_not(k):
  tau = 0.6
  chosen, rejected, weights = groups(k)
  np.testing.assert_allclose(weights.sum(), 1)
  means = [law @ H for law in (CHOSEN, REJECTED)]
  variances = [
    law @ (H - mean) ** 2
    for law, mean in zip((CHOSEN, REJECTED), means, strict=True)
  ]
  true = (means[0] - means[1] - 1 / (2 * tau)) ** 2
  out = preference.mipo_loss(H[chosen], H[rejected], tau=tau)
  helpers.assert_close(weights @ out.loss, true)
  # Without the correction: too large by the variance of the means.
  plain = (out.chosen_reward - out.rejected_reward) / tau - 1 / (2 * tau)
  helpers.assert_close(weights @ plain**2, true + sum(variances) / k)
  beta = 0.9
  of_groups = preference.mdpo_loss(H[chosen], H[rejected], beta=beta).loss
  of_means = np.log1p(np.exp(-beta * (means[0] - means[1])))
  assert weights @ of_groups > of_means + 0.01


def both(h_chosen, h_rejected):
  return (
    preference.mdpo_loss(h_chosen, h_rejected, beta=0.7),
    preference.mipo_loss(h_chosen, h_rejected, tau=0.7),
  )


def test_gradients_and_transforms():
  h_chosen, h_rejected = 2 * RNG.normal(size=(2, 2, 3, 4))
  helpers.assert_transforms(both, h_chosen, h_rejected)

  def loss(h_chosen, h_rejected):
    return sum(x.loss @ np.arange(3.0) for x in both(h_chosen, h_rejected))

  helpers.assert_gradient(loss, h_chosen[0], h_rejected[0])
  order = RNG.permutation(4)
  helpers.assert_close(
    both(h_chosen[0][:, order], h_rejected[0]), both(h_chosen[0], h_rejected[0])
  )


def test_a_completion_without_mass():
  some, none = np.array([0.1, 0.2]), np.array([-np.inf, 0.3])

  def loss(h_rejected, h_chosen=some):
    return preference.mdpo_loss(h_chosen, h_rejected).loss

  assert loss(some, none) == np.inf
  assert loss(none) == 0 and not np.any(jax.grad(loss)(none))


def test_bad_input():
  one, two = np.zeros((3, 1)), np.zeros((3, 2))
  with pytest.raises(ValueError, match="at least 2, for their variance, was 1"):
    preference.mipo_loss(one, one)
  with pytest.raises(AssertionError, match=r"h_rejected \(3, 1\)"):
    preference.mdpo_loss(two, one)
  with pytest.raises(ValueError, match="at least one completion"):
    preference.mdpo_loss(two[:, :0], two[:, :0])
  with pytest.raises(ValueError, match="tau must be above 0, was 0"):
    preference.mipo_loss(two, two, tau=0.0)
  with pytest.raises(ValueError, match="beta must be above 0, was -1"):
    preference.mdpo_loss(two, two, beta=-1.0)
  with pytest.raises(AssertionError, match="need floats"):
    preference.mdpo_loss(jnp.zeros(2, int), jnp.zeros(2, int))
