# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import divergences, preference
from tests import helpers

RNG = np.random.default_rng(0)
B, T, V = 2, 3, 5
LOGITS, REF_LOGITS = RNG.normal(size=(2, B, T, V))
WHERE = np.array([[True, False, True], [True, True, True]])
LOGPS = preference.PairLogps(*RNG.normal(size=(4, B)))
MASS, LAM = 0.37, 0.8
RISKS = {
  "kl": preference.sequential_kl,
  "cvar": functools.partial(preference.sequential_cvar, mass=MASS),
  "entropic": functools.partial(preference.sequential_entropic_risk, lam=LAM),
}


def laws(*logits):
  return [np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in logits]


PI, REF = laws(LOGITS, REF_LOGITS)
Z = np.log(REF / PI)


def upper_tail(z, p, mass):
  """CVaR by Rockafellar and Uryasev: the least value is at some outcome."""
  excess = np.maximum(z[..., None, :] - z[..., :, None], 0)
  return np.min(z + np.einsum("...bv,...v->...b", excess, p) / mass, -1)


TOKEN_RISKS = {
  "kl": np.sum(REF * Z, -1),
  "cvar": upper_tail(Z, REF, MASS),
  "entropic": np.log(np.sum(REF * np.exp(LAM * Z), -1)) / LAM,
}


@pytest.mark.parametrize("name", RISKS)
def test_risks_are_their_definitions(name):
  nan = np.where(WHERE[..., None], 0, np.nan)
  actual = RISKS[name](LOGITS + nan, REF_LOGITS + nan, where=WHERE)
  expected = np.sum(np.where(WHERE, TOKEN_RISKS[name], 0), -1)
  np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_entropic_risk_is_a_renyi_divergence():
  def risk(lam):
    return preference.sequential_entropic_risk(
      LOGITS, REF_LOGITS, lam=lam, where=WHERE
    )

  for lam in (0.3, 2.5):
    renyi = divergences.renyi(REF_LOGITS, LOGITS, alpha=1 + lam)
    expected = jnp.sum(jnp.where(WHERE, renyi, 0), -1)
    np.testing.assert_allclose(risk(lam), expected, rtol=1e-12)
  kl = RISKS["kl"](LOGITS, REF_LOGITS, where=WHERE)
  # Half the variance of Z, times lam, and rounding over lam.
  np.testing.assert_allclose(risk(1e-6), kl, atol=1e-5)


def test_cvar_of_all_the_mass_is_kl_and_tails_grow():
  def risk(mass):
    return preference.sequential_cvar(
      LOGITS, REF_LOGITS, mass=mass, where=WHERE
    )

  kl = RISKS["kl"](LOGITS, REF_LOGITS, where=WHERE)
  np.testing.assert_allclose(risk(1.0), kl, rtol=1e-12)
  values = np.array([risk(mass) for mass in (1.0, 0.95, 0.5, 0.1)])
  assert np.all(np.diff(values, axis=0) > 0)
  # A mass below every outcome's is the largest value alone.
  worst = np.sum(np.where(WHERE, Z.max(-1), 0), -1)
  np.testing.assert_allclose(risk(1e-3), worst, rtol=1e-12)


def test_the_authors_cvar_is_none():
  """Above a quantile of the vocabulary without weights, not renormalised.

  It falls short even of the mean, which no CVaR of an upper tail can.
  """
  confidence = 0.5
  kept = Z > np.quantile(Z, 1 - confidence, -1, keepdims=True)
  theirs = np.sum(np.where(kept, REF * Z, 0), -1)
  ours = upper_tail(Z, REF, confidence)
  mean = TOKEN_RISKS["kl"]
  assert np.all(ours > mean) and np.any(theirs < mean)
  assert np.all(np.abs(theirs - ours) > 0.01)


def test_h_plus_drift_is_a_sum_of_advantages():
  """Token by token, and mean 0 under the reference at every prefix."""
  log_ratio = np.log(PI / REF)
  one = np.ones((B, T, 1), bool)
  drift = RISKS["kl"](LOGITS[:, :, None], REF_LOGITS[:, :, None], where=one)
  means = np.sum(REF * (log_ratio + np.asarray(drift)[..., None]), -1)
  np.testing.assert_allclose(means, 0, atol=1e-15)


def test_tdpo_variants():
  chosen, rejected = (
    RISKS["kl"](x, REF_LOGITS, where=WHERE) for x in (LOGITS, -LOGITS)
  )
  log_ratios = [LOGPS[0] - LOGPS[2], LOGPS[1] - LOGPS[3]]
  margin = log_ratios[0] - log_ratios[1]
  for options, alpha in (
    ({"variant": "tdpo1"}, 1.0),
    ({"variant": "tdpo2"}, 0.5),
    ({"alpha": 0.2}, 0.2),
  ):
    out = preference.tdpo_loss(LOGPS, chosen, rejected, beta=0.7, **options)
    x = 0.7 * (margin - alpha * (rejected - chosen))
    np.testing.assert_allclose(out.loss, np.log1p(np.exp(-x)), rtol=1e-13)
    reward = 0.7 * (log_ratios[0] + alpha * chosen)
    np.testing.assert_allclose(out.chosen_reward, reward, rtol=1e-13)
  infinite = np.full(B, np.inf)
  none = preference.tdpo_loss(LOGPS, infinite, infinite, alpha=0.0)
  helpers.assert_close(none, preference.dpo_loss(LOGPS))
  out = preference.tdpo_loss(LOGPS, np.zeros(B), infinite)
  assert np.all(out.loss == np.inf)


def total(logits, rejected_logits, ref_logits, where, *logps):
  """Both losses with every risk, `[6]`."""
  losses = []
  for risk in RISKS.values():
    chosen = risk(logits, ref_logits, where=where)
    rejected = risk(rejected_logits, ref_logits, where=where)
    for variant in ("tdpo1", "tdpo2"):
      out = preference.tdpo_loss(
        preference.PairLogps(*logps), chosen, rejected, variant=variant
      )
      losses.append(out.loss)
  return jnp.stack(losses)


def test_transforms():
  args = (LOGITS, LOGITS[::-1], REF_LOGITS, WHERE, *LOGPS[:4])
  helpers.assert_transforms(total, *args)


def test_gradients():
  row = [x[0] for x in (LOGITS, -LOGITS, REF_LOGITS, WHERE, *LOGPS[:4])]

  def tdpo1(logits, rejected_logits):  # no gradient is stopped in it
    return jnp.sum(total(logits, rejected_logits, *row[2:])[::2])

  helpers.assert_gradient(tdpo1, *row[:2])

  def all_six(logits, rejected_logits, ref_logits):
    return jnp.sum(total(logits, rejected_logits, ref_logits, *row[3:]))

  def tdpo2(logits):
    return jnp.sum(total(logits, *row[1:])[1::2])

  in_chosen, _, in_ref = jax.jit(jax.grad(all_six, (0, 1, 2)))(*row[:3])
  assert not np.any(in_ref) and not np.any(jax.jit(jax.grad(tdpo2))(row[0]))
  assert not np.any(np.asarray(in_chosen)[~WHERE[0]]) and np.any(in_chosen)


@pytest.mark.parametrize("name", RISKS)
def test_zeros(name):
  none = np.array([[0.0, 0.0, -np.inf], [-np.inf, 0.0, -np.inf]])
  where = np.ones((1, 1), bool)

  def risk(logits, ref_logits):
    value = RISKS[name](logits[None, None], ref_logits[None, None], where=where)
    return value[0]

  run = jax.jit(jax.value_and_grad(risk))
  # The reference lacks what the policy has: finite, with its gradient.
  value, gradient = run(np.zeros(3), none[0])
  np.testing.assert_allclose(value, np.log(1.5), rtol=1e-12)
  np.testing.assert_allclose(gradient, [-1 / 6, -1 / 6, 1 / 3], atol=1e-12)
  # Both lack it: as if it were not there.
  value, gradient = run(none[0], none[0])
  np.testing.assert_allclose(value, 0, atol=1e-15)
  np.testing.assert_allclose(gradient, 0, atol=1e-15)
  # The policy lacks what the reference has.
  assert run(none[1], none[0])[0] == np.inf


def test_empty_completions_have_no_drift():
  for risk in RISKS.values():
    assert not np.any(risk(LOGITS, REF_LOGITS, where=np.zeros((B, T), bool)))


def test_refusals():
  for risk in RISKS.values():
    with pytest.raises(AssertionError, match=r"where \(3,\)"):
      risk(LOGITS, REF_LOGITS, where=WHERE[0])
    with pytest.raises(AssertionError, match=r"ref_logits \(3, 5\)"):
      risk(LOGITS, REF_LOGITS[0], where=WHERE)
  with pytest.raises(ValueError, match="mass must be above 0 and at most 1"):
    preference.sequential_cvar(LOGITS, LOGITS, mass=0, where=WHERE)
  with pytest.raises(ValueError, match="lam must be above 0, was 0"):
    preference.sequential_entropic_risk(LOGITS, LOGITS, lam=0, where=WHERE)
  loss = functools.partial(preference.tdpo_loss, LOGPS, *np.zeros((2, B)))
  with pytest.raises(ValueError, match="unknown variant 'tdpo3'"):
    loss(variant="tdpo3")
  with pytest.raises(ValueError, match="tdpo1 takes no alpha, was 0.5"):
    loss(variant="tdpo1", alpha=0.5)
  with pytest.raises(ValueError, match="alpha must be at least 0, was -1"):
    loss(alpha=-1)
  with pytest.raises(ValueError, match="beta must be above 0, was 0"):
    loss(beta=0)
  with pytest.raises(AssertionError, match=r"seq_rejected \(3,\)"):
    preference.tdpo_loss(LOGPS, np.zeros(B), np.zeros(3))
