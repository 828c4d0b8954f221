# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import divergences, preference
from tests import helpers
from tests.preference import golden

GOLDEN = [
  (preference.dpo_loss, {}, (0.562915, 0.895163)),
  (preference.dpo_loss, {"label_smoothing": 0.1}, (0.590915, 0.858163)),
  (preference.hinge_loss, {}, (0.72, 1.37)),
  (preference.hdpo_loss, {"alpha": 0.9}, (0.572445, 0.862999)),
  (preference.ipo_loss, {}, (4.84, 75.69)),
  (preference.ipo_loss, {"average_log_prob": True}, (20.100278, 28.533403)),
  (preference.robust_dpo_loss, {"eps": 0.1}, (0.527915, 0.941413)),
  (preference.exo_pair_loss, {"eps": 0.1}, (0.367722, 0.728606)),
  (preference.discopop_loss, {"tau": 0.05}, (0.755073, 0.895501)),
  (preference.sigmoid_norm_loss, {}, (0.667647, 0.710376)),
]


def at(difference):
  """Two completions whose log-ratios differ by so much."""
  zero = jnp.zeros_like(difference)
  return preference.PairLogps(difference, zero, zero, zero)


@pytest.mark.parametrize(("loss", "options", "expected"), GOLDEN)
def test_golden_values(loss, options, expected):
  golden.assert_golden(loss(golden.PAIRS, **options).loss, expected)


def test_three_kinds():
  golden.assert_three_kinds(
    [functools.partial(loss, **options) for loss, options, _ in GOLDEN]
  )


def test_dpo_at_the_reference():
  loss = lambda x: preference.dpo_loss(at(x)).loss[0]
  value, slope = jax.value_and_grad(loss)(np.zeros(1))
  np.testing.assert_allclose(value, np.log(2), rtol=1e-15)
  np.testing.assert_allclose(slope, -0.05, rtol=1e-15)  # -beta/2


def test_tabular_optima():
  beta, alpha, tau, eps = 0.4, 0.7, 0.3, 0.2
  weights, sampling = golden.WEIGHTS, golden.SAMPLING
  rng = np.random.default_rng(1)
  wins = np.triu(rng.uniform(size=(6, 6)), 1)  # of no Bradley-Terry model
  wins += np.tril(1 - wins.T, -1) + np.eye(6) / 2
  labels = sampling[:, None] * sampling * wins
  flipped = (1 - eps) * weights + eps * weights.T
  found = golden.minimisers(
    [
      (
        functools.partial(preference.hdpo_loss, alpha=alpha, beta=beta),
        weights,
      ),
      (functools.partial(preference.ipo_loss, tau=tau), labels),
      (
        functools.partial(preference.robust_dpo_loss, beta=beta, eps=eps),
        flipped,
      ),
    ]
  )
  exponents = np.stack(
    [
      golden.LOG_REF / alpha + golden.REWARDS / (alpha * beta),
      golden.LOG_REF + wins @ sampling / tau,
      golden.LOG_REF + golden.REWARDS / beta,
    ]
  )
  # The sheet's figures are below 1e-15; Newton's steps end at rounding.
  helpers.assert_close(
    jnp.exp(found), jax.nn.softmax(exponents), rtol=0, atol=1e-13
  )


def test_hdpo_of_weight_one_is_dpo():
  hdpo = preference.hdpo_loss(golden.PAIRS, alpha=1.0)
  dpo = preference.dpo_loss(golden.PAIRS)
  helpers.assert_close(hdpo, dpo, rtol=1e-14)


def test_robust_is_dpo_in_expectation_over_flips():
  d, eps = np.linspace(-300, 300, 7), 0.3
  robust = functools.partial(preference.robust_dpo_loss, eps=eps)
  mean = (1 - eps) * robust(at(d)).loss + eps * robust(at(-d)).loss
  helpers.assert_close(mean, preference.dpo_loss(at(d)).loss, atol=1e-14)


def test_exo_is_a_divergence_that_vanishes_at_its_label():
  eps = 0.03
  label = np.log([1 - eps, eps])
  d = np.array([np.log(1 / eps - 1), 0.0, 3.0, -40.0]) / 0.1

  def total(d):
    loss = preference.exo_pair_loss(at(d), eps=eps).loss
    return jnp.sum(loss), loss

  slope, loss = jax.grad(total, has_aux=True)(d)
  logits = np.stack([0.1 * d, np.zeros(4)], -1)
  expected = divergences.kl(logits, np.broadcast_to(label, (4, 2)))
  helpers.assert_close(loss, expected, rtol=1e-13, atol=1e-16)
  assert abs(loss[0]) < 1e-16 and abs(slope[0]) < 1e-16


def test_discopop_at_zero_and_below():
  loss = lambda d: preference.discopop_loss(at(d), beta=1.0).loss
  np.testing.assert_allclose(loss(np.zeros(1)), (np.log(2) + 1) / 2)
  slope = jax.vmap(jax.grad(lambda d: loss(d[None])[0]))
  signs = np.sign(slope(np.array([-1.0, -0.05, 0.05, 1.0])))
  np.testing.assert_array_equal(signs, [-1, 1, 1, -1])
  # The exponential alone would overflow.
  np.testing.assert_allclose(loss(np.array([-1e4])), 1e4)


@pytest.mark.parametrize(
  "loss",
  [
    preference.sigmoid_norm_loss,
    functools.partial(preference.ipo_loss, average_log_prob=True),
  ],
)
def test_an_empty_completion_has_no_loss(loss):
  def total(chosen):
    empty = golden.PAIRS.chosen_length * np.array([0, 1])
    logps = golden.PAIRS._replace(policy_chosen=chosen, chosen_length=empty)
    return jnp.sum(loss(logps).loss)

  value, slope = jax.value_and_grad(total)(golden.PAIRS.policy_chosen)
  assert value == loss(golden.PAIRS).loss[1]
  assert slope[0] == 0 and slope[1] != 0


@pytest.mark.parametrize(
  ("loss", "options", "message"),
  [
    (preference.dpo_loss, {"beta": 0}, "beta must be above 0, was 0"),
    (preference.dpo_loss, {"label_smoothing": 0.5}, r"in \[0, 0.5\), was 0.5"),
    (preference.hdpo_loss, {"alpha": 0.0}, "alpha must be above 0"),
    (preference.ipo_loss, {"tau": -1.0}, "tau must be above 0"),
    (preference.robust_dpo_loss, {"eps": 0.5}, r"eps must be in \[0, 0.5\)"),
    (preference.exo_pair_loss, {"eps": 0.0}, "eps must be above 0"),
    (preference.discopop_loss, {"tau": 0.0}, "tau must be above 0"),
  ],
)
def test_refuses_options_outside_their_range(loss, options, message):
  with pytest.raises(ValueError, match=message):
    loss(golden.PAIRS, **options)


def test_refuses_lengths_of_another_shape():
  logps = golden.PAIRS._replace(chosen_length=np.ones(3))
  with pytest.raises(AssertionError, match=r"chosen_length \(3,\)"):
    preference.sigmoid_norm_loss(logps)
