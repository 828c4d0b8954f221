# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import preference
from tests import helpers
from tests.preference import golden

BARE = golden.PAIRS._replace(ref_chosen=None, ref_rejected=None)
NLL = np.array([2.0, 3.0])
WEIGHTS = np.array([0.5, 1.5])
CPO = functools.partial(preference.cpo_loss, alpha=0.0)
ALPHAPO = functools.partial(preference.alphapo_loss, alpha=0.25)
COMPARED = np.array([0.711676, 0.574223])  # of log-odds


@pytest.mark.parametrize(
  ("loss", "expected"),
  [
    (preference.orpo_loss, (2.471168, 2.599089)),
    (lambda x: preference.orpo_loss(x, np.zeros(2), lam=1.0), COMPARED),
    (lambda x: preference.orpo_loss(x, NLL), NLL + 0.1 * COMPARED),
    (CPO, (0.589185, 1.005492)),
    (preference.cpo_loss, (0.589185 + 12 / 5, 1.005492 + 30.5 / 12)),
    (
      lambda x: preference.cpo_loss(x, NLL, alpha=0.5),
      (1.589185, 2.505492),
    ),
    (preference.simpo_loss, (0.976153, 0.959446)),
  ],
)
def test_golden_values(loss, expected):
  golden.assert_golden(loss(BARE).loss, expected)


def test_three_kinds():
  weighted = functools.partial(preference.dorpo_loss, weights=WEIGHTS)
  golden.assert_three_kinds(
    [
      preference.orpo_loss,
      preference.cpo_loss,
      preference.simpo_loss,
      ALPHAPO,
      functools.partial(preference.alphapo_loss, alpha=-0.5),
      lambda x: weighted(x, weights=jnp.asarray(WEIGHTS, x[0].dtype)),
      lambda x: weighted(x, nll=-x[0], lam=1.0, inside=False),
    ]
  )


def test_log_odds():
  logp = np.log([0.2, 0.9, 1e-300])
  value = preference.log_odds(logp)
  slope = jax.vmap(jax.grad(preference.log_odds))(logp)
  helpers.assert_close(value[:2], np.log([0.25, 9.0]))
  helpers.assert_close(slope, 1 / -np.expm1(logp))
  # 1 - p from log p, where p is 1 in this type.
  helpers.assert_close(preference.log_odds(np.float64(-1e-20)), np.log(1e20))
  assert preference.log_odds(0.0) == np.inf
  assert preference.log_odds(-np.inf) == -np.inf
  with pytest.raises(AssertionError, match="need floats"):
    preference.log_odds(np.array([-1]))


def test_dorpo_weighs_inside_or_outside():
  nll, orpo = -BARE.policy_chosen / BARE.chosen_length, preference.orpo_loss
  ones = preference.dorpo_loss(BARE, np.ones(2))
  helpers.assert_close(ones, orpo(BARE))
  outside = preference.dorpo_loss(BARE, WEIGHTS, inside=False).loss
  helpers.assert_close(outside, WEIGHTS * orpo(BARE).loss)
  ratio = -np.log(np.expm1(COMPARED))
  inside = WEIGHTS * nll + 0.1 * np.log1p(np.exp(-WEIGHTS * ratio))
  golden.assert_golden(preference.dorpo_loss(BARE, WEIGHTS).loss, inside)
  # Without weight nothing counts, infinite or not.
  certain = BARE._replace(policy_chosen=np.array([0.0, -np.inf]))
  for inside, expected in ((True, 0.1 * np.log(2)), (False, 0.0)):
    nothing = preference.dorpo_loss(certain, np.zeros(2), inside=inside)
    helpers.assert_close(nothing.loss, np.full(2, expected))


def test_alphapo_tends_to_simpo():
  simpo = preference.simpo_loss(BARE).loss
  zero = preference.alphapo_loss(BARE, alpha=0.0).loss
  helpers.assert_close(zero, simpo, rtol=0, atol=0)
  for alpha in (1e-9, -1e-9):
    near = preference.alphapo_loss(BARE, alpha=alpha).loss
    # The reward differs by alpha a^2 / 2, of which beta/2 at most remains.
    helpers.assert_close(near, simpo, rtol=0, atol=1e-9)


def test_alphapo_where_powers_overflow():
  one, gamma = np.ones(2, np.float32), 0.5

  def loss(rejected, alpha):
    logps = preference.PairLogps(-one, rejected, None, None, one, one)
    out = preference.alphapo_loss(logps, alpha=alpha, beta=1.0, gamma=gamma)
    return out.loss

  far = np.array([-200.0, -np.inf], np.float32)
  for alpha in (0.5, -0.5):
    slope = jax.grad(lambda x, a=alpha: jnp.sum(loss(x, a)))(far)
    assert np.all(np.isfinite(slope))
  np.testing.assert_array_equal(loss(far, 0.5), 0)
  # With alpha below 0 no reward is below 1/alpha.
  gap = (1 - np.exp(-0.5)) / -0.5 + 2 - gamma
  helpers.assert_close(loss(far, -0.5), np.log1p(np.exp(-gap)) * one, rtol=1e-6)


@pytest.mark.parametrize(
  "loss", [preference.orpo_loss, preference.cpo_loss, ALPHAPO]
)
def test_an_empty_completion_is_not_compared(loss):
  lengths = golden.PAIRS.rejected_length * np.array([0, 1])

  def total(chosen):
    return loss(
      BARE._replace(policy_chosen=chosen, rejected_length=lengths)
    ).loss

  out = total(BARE.policy_chosen)
  slope = jax.jacobian(total)(BARE.policy_chosen)
  expected = loss(BARE).loss * np.array([0, 1])
  if loss is preference.cpo_loss:  # its comparison is of sums
    expected += CPO(BARE).loss * np.array([1, 0])
  else:
    assert not slope[0].any()
  helpers.assert_close(out, expected)


@pytest.mark.parametrize(
  ("loss", "options", "message"),
  [
    (preference.orpo_loss, {"lam": 0.0}, "lam must be above 0"),
    (preference.cpo_loss, {"alpha": -1.0}, "alpha must be at least 0"),
    (preference.simpo_loss, {"gamma": -1.0}, "gamma must be at least 0"),
    (preference.simpo_loss, {"beta": 0.0}, "beta must be above 0"),
  ],
)
def test_refuses_options_outside_their_range(loss, options, message):
  with pytest.raises(ValueError, match=message):
    loss(BARE, **options)


def test_refuses_arrays_of_another_shape():
  with pytest.raises(AssertionError, match=r"nll \(3,\)"):
    preference.orpo_loss(BARE, np.ones(3))
  with pytest.raises(AssertionError, match=r"weights \(3,\)"):
    preference.dorpo_loss(BARE, np.ones(3))
