# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import divergences, preference
from tests import helpers
from tests.preference import golden

KL = divergences.f_divergence("kl")
FORWARD = divergences.f_divergence("reverse_kl")
JS = divergences.f_divergence("jensen_shannon")


def power(a):
  """In the paper's convention: f' = (1 - u^-a) / a."""
  order = divergences.alpha_order(a, convention="f_dpo")
  return divergences.f_divergence("alpha", alpha=order)


ALL = (KL, FORWARD, JS, power(0.5), power(0.3))


@pytest.mark.parametrize(
  ("div", "beta", "expected"),
  [
    (KL, 0.1, (0.562915, 0.895163)),
    (FORWARD, 0.1, (0.535611, 1.454173)),
    (JS, 0.2, (0.628409, 0.815615)),  # ours is half of the printed one
    (power(0.5), 0.1, (0.559208, 1.029953)),
    (power(0.7), 0.1, (0.552268, 1.143955)),
  ],
)
def test_golden_values(div, beta, expected):
  out = preference.f_dpo_loss(golden.PAIRS, div=div, beta=beta)
  golden.assert_golden(out.loss, expected)


def test_three_kinds():
  golden.assert_three_kinds(
    [functools.partial(preference.f_dpo_loss, div=div) for div in ALL]
  )


def test_tabular_optima_are_those_of_the_regularised_reward():
  beta = 0.4
  found = golden.minimisers(
    [
      (
        functools.partial(preference.f_dpo_loss, div=div, beta=beta),
        golden.WEIGHTS,
      )
      for div in ALL
    ]
  )
  for div, log_pi in zip(ALL, found, strict=True):
    expected = divergences.regularized_maximizer(
      div, golden.REWARDS, golden.LOG_REF, beta
    )
    helpers.assert_close(jnp.exp(log_pi), jnp.exp(expected), rtol=0, atol=1e-13)


def test_the_pairwise_form_misses_an_optimum_with_a_zero():
  """Pearson's optimum is clipped; pairs with what is clipped pull elsewhere."""
  beta, pearson = 0.7, divergences.f_divergence("pearson_chi2")
  expected = np.exp(
    divergences.regularized_maximizer(
      pearson, golden.REWARDS, golden.LOG_REF, beta
    )
  )
  assert np.sum(expected == 0) == 1
  # Where there is mass the reward less beta f' is one constant, below it is
  # less: the conditions of the maximum.
  slope = golden.REWARDS - beta * 2 * (expected / np.exp(golden.LOG_REF) - 1)
  live = expected > 0
  assert np.ptp(slope[live]) < 1e-12 and slope[~live] < slope[live].min()

  def loss(logps):
    ratios = jnp.exp(jnp.stack(logps[:2]) - jnp.stack(logps[2:4]))
    chosen, rejected = beta * 2 * (ratios - 1)
    value = -jax.nn.log_sigmoid(chosen - rejected)
    return preference.PairLoss(value, chosen, rejected)

  pairwise = np.exp(golden.minimisers([(loss, golden.WEIGHTS)])[0])
  assert np.abs(pairwise - expected).max() > 1e-3
  with pytest.raises(ValueError, match="exact zeros, which the pairwise form"):
    preference.f_dpo_loss(golden.PAIRS, div=pearson)


@pytest.mark.parametrize(
  "div",
  [
    divergences.f_divergence("le_cam"),
    divergences.f_divergence("total_variation"),
    divergences.f_divergence("hockey_stick", gamma=2.0),
    divergences.f_divergence("alpha", alpha=1.01),
    divergences.custom_f_divergence(lambda u: (u - 1) ** 2, name="mine"),
  ],
  ids=lambda div: div.name,
)
def test_refuses_a_finite_slope_at_zero(div):
  with pytest.raises(ValueError, match="needs a divergence with f'\\(0\\)"):
    jax.jit(functools.partial(preference.f_dpo_loss, div=div))(golden.PAIRS)


def test_kl_is_dpo_and_so_are_orders_close_to_one():
  dpo = preference.dpo_loss(golden.PAIRS)
  helpers.assert_close(
    preference.f_dpo_loss(golden.PAIRS, div=KL), dpo, rtol=1e-14
  )
  near = preference.f_dpo_loss(golden.PAIRS, div=power(1e-9))
  # f' = (1 - e^(-a h))/a differs from h by a h^2/2, here at most 4e-9.
  helpers.assert_close(near.loss, dpo.loss, rtol=0, atol=1e-9)


def test_custom_divergences_are_those_of_the_table():
  custom = divergences.custom_f_divergence(lambda u: -jnp.log(u))
  h = np.linspace(-30, 30, 9)
  logps = preference.PairLogps(h, np.zeros(9), np.zeros(9), np.ones(9))

  def total(chosen, div):
    logps_at = logps._replace(policy_chosen=chosen)
    out = preference.f_dpo_loss(logps_at, div=div, beta=1e-3)
    return jnp.sum(out.loss), out

  (slope, out), (custom_slope, custom_out) = (
    jax.grad(total, has_aux=True)(h, div) for div in (FORWARD, custom)
  )
  helpers.assert_close((custom_slope, custom_out), (slope, out), rtol=1e-12)


def test_what_overflows_is_infinite_and_a_clamp_is_asked_for():
  zero = jnp.zeros(2, jnp.float32)
  far = jnp.array([-100.0, -jnp.inf], jnp.float32)

  def loss(chosen, rejected, **options):
    logps = preference.PairLogps(chosen, rejected, zero, zero)
    return preference.f_dpo_loss(logps, div=FORWARD, **options).loss

  np.testing.assert_array_equal(loss(far, zero), np.inf)
  np.testing.assert_array_equal(loss(zero, far), 0)
  slope = jax.grad(lambda x: jnp.sum(loss(zero, x)))(far)
  np.testing.assert_array_equal(slope, 0)
  clamped = loss(far, zero, clamp=80.0)
  np.testing.assert_allclose(clamped, 0.1 * np.exp(80), rtol=1e-5)
  # What grows like h does not overflow.
  logps = preference.PairLogps(far[:1], zero[:1], zero[:1], zero[:1])
  log_like = preference.f_dpo_loss(logps, div=JS, beta=1.0).loss
  np.testing.assert_allclose(log_like, 50 - np.log(2) / 2, rtol=1e-6)


def test_refuses_options_outside_their_range():
  with pytest.raises(ValueError, match="beta must be above 0"):
    preference.f_dpo_loss(golden.PAIRS, div=KL, beta=0.0)
  with pytest.raises(ValueError, match="clamp must be above 0"):
    preference.f_dpo_loss(golden.PAIRS, div=KL, clamp=-80.0)
