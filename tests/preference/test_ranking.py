# SPDX-License-Identifier: Apache-2.0
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import preference
from tests import helpers
from tests.preference import golden

RNG = np.random.default_rng(0)
H_CHOSEN = golden.PAIRS.policy_chosen - golden.PAIRS.ref_chosen
H_REJECTED = golden.PAIRS.policy_rejected - golden.PAIRS.ref_rejected
TWO = np.stack([H_CHOSEN, H_REJECTED], -1)
CHOSEN = np.array([0.5, 0.2, 0.2, 0.1])
OTHER = np.array([0.1, 0.3, 0.2, 0.4])
REF = np.array([0.3, 0.3, 0.1, 0.3])


def optimum(population):
  """The policy over four outcomes of least expected loss."""

  def loss(logits):
    return population(jax.nn.log_softmax(logits) - np.log(REF))

  found = preference.minimize_population(loss, np.zeros(4))
  return jax.nn.softmax(found.x)


def assert_policy(policy, ratio, beta):
  expected = REF * ratio ** (1 / beta)
  expected /= expected.sum()
  helpers.assert_close(policy, expected, rtol=0, atol=1e-13)


# --- ranking-NCE and MC-PO ---------------------------------------------------


def test_one_other_candidate_is_dpo():
  loss = preference.ranking_nce_loss(TWO)
  golden.assert_golden(loss, [0.562915, 0.895163])
  helpers.assert_close(loss, preference.dpo_loss(golden.PAIRS).loss)


def test_ranking_nce_learns_the_chosen_law():
  """All candidates of M = 2: what M is does not matter to the optimum."""
  beta = 0.8
  candidates = np.array(list(itertools.product(range(4), repeat=3)))
  weights = CHOSEN[candidates[:, 0]] * np.prod(REF[candidates[:, 1:]], -1)

  def population(h):
    return weights @ preference.ranking_nce_loss(h[candidates], beta=beta)

  assert_policy(optimum(population), CHOSEN / REF, beta)


def test_contrastive_divergence():
  """The mean over negatives of the gradient is that of the likelihood."""
  h, beta = RNG.normal(size=5), 0.6
  shares = np.exp(beta * h) / np.sum(np.exp(beta * h))
  expected = beta * (shares - np.eye(5)[0])
  negatives = beta * (np.eye(5) - np.eye(5)[0])  # gradients of h_k - h_0
  helpers.assert_close(shares @ negatives, expected)
  loss = functools.partial(preference.ranking_nce_loss, beta=beta)
  helpers.assert_close(jax.grad(loss)(h), expected)


def test_negatives_are_drawn_by_their_rewards(key):
  h, beta, n = np.array([1.0, -0.5, 2.0, -np.inf]), 0.6, 20_000
  shown = np.broadcast_to(h, (n, 4))
  for include in (True, False):
    drawn = preference.mc_negative(
      key, shown, beta=beta, include_chosen=include
    )
    weights = np.exp(beta * h) * np.array([include, 1, 1, 1])
    shares = weights / weights.sum()
    found = np.bincount(np.asarray(drawn), minlength=4) / n
    # Five standard errors: once in a million.
    bound = 5 * np.sqrt(shares * (1 - shares) / n)
    assert np.all(np.abs(found - shares) <= bound)


def test_mc_po_is_dpo_with_the_drawn_negative(key):
  h = RNG.normal(size=(30, 4))
  k = preference.mc_negative(key, h)
  assert k.shape == (30,) and jnp.issubdtype(k.dtype, jnp.integer)

  def loss(h):
    negative = jnp.take_along_axis(h, k[:, None], -1)[:, 0]
    zero = jnp.zeros(30)
    logps = preference.PairLogps(h[:, 0], negative, zero, zero)
    return preference.dpo_loss(logps).loss

  gradient = np.asarray(jax.grad(lambda h: loss(h).sum())(h))
  assert np.any(k == 0) and np.any(k > 0)
  assert not np.any(gradient[np.asarray(k) == 0])
  assert np.all(gradient[np.asarray(k) > 0, 0] < 0)


# --- D2O ---------------------------------------------------------------------


def test_d2o_of_one_completion_is_dpo():
  out = preference.d2o_loss(H_CHOSEN[:, None], H_REJECTED)
  golden.assert_golden(out.loss, [0.562915, 0.895163])
  helpers.assert_close(out, preference.dpo_loss(golden.PAIRS))


def test_d2o_by_hand():
  h_self, h_negative = RNG.normal(size=(3, 4)), RNG.normal(size=3)
  out = preference.d2o_loss(h_self, h_negative, beta=0.3, alpha=0.2)
  x = 0.3 * h_self.mean(-1) - 0.2 * h_negative
  helpers.assert_close(out.loss, np.log1p(np.exp(-x)))
  helpers.assert_close(out.chosen_reward, 0.3 * h_self.mean(-1))
  helpers.assert_close(out.rejected_reward, 0.2 * h_negative)


def test_d2o_learns_away_from_the_negatives():
  beta = 0.8

  def population(h):
    h_self = jnp.broadcast_to(h[:, None, None], (4, 4, 1))
    h_negative = jnp.broadcast_to(h[None, :], (4, 4))
    loss = preference.d2o_loss(h_self, h_negative, beta=beta).loss
    return jnp.sum(REF[:, None] * OTHER * loss)

  assert_policy(optimum(population), REF / OTHER, beta)


def test_a_completion_without_mass():
  none = np.array([-np.inf, 0.3, 0.2])
  assert preference.ranking_nce_loss(none) == np.inf
  gradient = jax.grad(preference.ranking_nce_loss)(none[::-1].copy())
  assert np.all(np.isfinite(gradient)) and gradient[2] == 0
  assert preference.d2o_loss(none, jnp.array(0.1)).loss == np.inf
  assert preference.d2o_loss(none[1:], jnp.array(-np.inf)).loss == 0


def test_gradients_and_transforms(key):
  def both(key, h, h_negative):
    return (
      preference.ranking_nce_loss(h),
      preference.d2o_loss(h, h_negative),
      preference.mc_negative(key, h),
    )

  h, h_negative = 3 * RNG.normal(size=(2, 3, 4)), RNG.normal(size=(2, 3))
  helpers.assert_transforms(both, jax.random.split(key, 2), h, h_negative)

  def loss(h, h_negative):
    nce, d2o, _ = both(key, h, h_negative)
    return (nce + d2o.loss) @ np.arange(3.0)

  helpers.assert_gradient(loss, h[0], h_negative[0])
  by_self, by_negative = jax.grad(
    lambda *h: preference.d2o_loss(*h).loss.sum(), (0, 1)
  )(h[0], h_negative[0])
  assert np.all(by_self < 0) and np.all(by_negative > 0)


def test_bad_input(key):
  with pytest.raises(ValueError, match="at least one other candidate"):
    preference.ranking_nce_loss(np.zeros((3, 1)))
  with pytest.raises(ValueError, match="at least one other candidate"):
    preference.mc_negative(key, np.zeros(()))
  with pytest.raises(ValueError, match="beta must be above 0, was 0"):
    preference.mc_negative(key, np.zeros(3), beta=0.0)
  with pytest.raises(ValueError, match="alpha must be above 0, was 0"):
    preference.d2o_loss(np.zeros((2, 3)), np.zeros(2), alpha=0.0)
  with pytest.raises(ValueError, match="at least one completion"):
    preference.d2o_loss(np.zeros((2, 0)), np.zeros(2))
  with pytest.raises(AssertionError, match=r"h_negative \(3,\)"):
    preference.d2o_loss(np.zeros((2, 4)), np.zeros(3))
