# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import divergences, numerics, preference
from tests import helpers
from tests.preference import golden

RNG = np.random.default_rng(0)


def test_golden_values():
  _, logps, _, ref, _, lengths = golden.PAIRS
  golden.assert_golden(preference.npo_loss(logps, ref), (12.605164, 15.098922))
  simnpo = preference.simnpo_loss(logps, lengths, beta=2.5, gamma=0.0)
  golden.assert_golden(simnpo, (0.002152, 0.000771))


def test_npo_has_gradient_ascent_s_gradient_times_its_weight():
  logps, ref = RNG.normal(size=(2, 4))
  for beta in (0.1, 2.0):

    def total(x, ref, beta=beta):
      return jnp.sum(preference.npo_loss(x, ref, beta=beta))

    slope = jax.grad(total)
    power, of_ref = np.exp(beta * logps), np.exp(beta * ref)
    expected = 2 * power / (power + of_ref)
    np.testing.assert_allclose(slope(logps, ref), expected, rtol=1e-13)
    np.testing.assert_array_equal(slope(ref, ref), 1)


def test_npo_of_small_beta_is_gradient_ascent():
  logps, ref = RNG.normal(size=(2, 4))
  beta = 1e-6
  found = preference.npo_loss(logps, ref, beta=beta) - 2 / beta * np.log(2)
  ascent = preference.ga_loss(logps) - ref
  # What remains is beta h^2/4, and a difference of numbers of size 1e6.
  np.testing.assert_allclose(found, ascent, rtol=0, atol=1e-6 + 1e-9)


def test_npo_falls_along_its_exact_law():
  """`dh/dt = -d npo/dh` has `e^(-beta h)/beta - h = 2 t + 1/beta`."""
  beta = 0.5
  slope = jax.grad(lambda h: preference.npo_loss(h, jnp.zeros(()), beta=beta))
  for t in (0.0, 1.0, 30.0, 200.0):
    # beta h = omega(y) - y with y = 1 + 2 beta t.
    y = 1 + 2 * beta * t
    h = (numerics.wright_omega(jnp.asarray(y)) - y) / beta
    left = jnp.exp(-beta * h) / beta - h
    np.testing.assert_allclose(left, 2 * t + 1 / beta, rtol=1e-13)
    speed = jax.grad(
      lambda t: (numerics.wright_omega(1 + 2 * beta * t) - 1) / beta - 2 * t
    )(t)
    np.testing.assert_allclose(speed, -slope(h), rtol=1e-12)
  np.testing.assert_allclose(h, -10.553, rtol=0, atol=5e-4)


def test_what_is_forgotten_or_empty():
  logps, zero = np.array([-np.inf, -1.0]), np.zeros(2)
  np.testing.assert_array_equal(preference.npo_loss(logps, zero)[0], 0)
  lengths = np.array([3, 0])
  for x in (logps, np.array([-np.inf, np.nan])):
    loss, slope = jax.vjp(lambda x: preference.simnpo_loss(x, lengths), x)
    np.testing.assert_array_equal(loss, 0)
    np.testing.assert_array_equal(slope(np.ones(2))[0], 0)
  assert preference.ga_loss(logps)[0] == -np.inf
  np.testing.assert_array_equal(
    preference.grad_diff_loss(zero, logps)[0], np.inf
  )


def test_mean_token_probability_is_that_of_the_selected():
  logps = np.log(RNG.uniform(size=(2, 4)))
  logps[0, 1], logps[0, 2] = np.nan, -np.inf
  where = np.array([[True, False, True, True], [False] * 4])
  value, pull = jax.vjp(
    lambda x: preference.mean_token_probability(x, where=where), logps
  )
  expected = (np.exp(logps[0, 0]) + np.exp(logps[0, 3])) / 3
  np.testing.assert_allclose(value, [expected, 0], rtol=1e-14)
  (slope,) = pull(np.ones(2))
  np.testing.assert_allclose(slope, np.where(where, np.exp(logps), 0) / 3)


# Formulas as the released code has them; its Jensen-Shannon is twice ours.
V = np.array([0.05, 0.3, 0.95])
E, F = V[:, None], V[None, :]
PRINTED = {
  "total_variation": -np.tanh(E) / 2 + np.tanh(F) / 2,
  "kl": -E + np.exp(F - 1),
  "jensen_shannon": (
    -(np.log(2) - np.log1p(np.exp(-E))) + F + np.log1p(np.exp(-F)) - np.log(2)
  )
  / 2,
  "pearson_chi2": -E + F + F**2 / 4,
}


@pytest.mark.parametrize("name", PRINTED)
def test_flat_has_the_printed_formulas(name):
  div = divergences.f_divergence(name)
  found = preference.flat_loss(div, *np.broadcast_arrays(E, F))
  np.testing.assert_allclose(found, PRINTED[name], rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", PRINTED)
def test_flat_s_best_critic_finds_the_divergence(name):
  div = divergences.f_divergence(name)
  log_e, log_f = np.log(RNG.dirichlet(np.ones(4), 2))
  expected = divergences.categorical_f_divergence(div, log_e, log_f)

  def loss(critic):
    """Over all pairs of template and forget answers."""
    each = preference.flat_loss(
      div, *jnp.broadcast_arrays(critic[:, None], critic[None, :])
    )
    return jnp.exp(log_e) @ each @ jnp.exp(log_f)

  if name == "total_variation":  # the supremum is not attained
    best = -loss(np.where(log_e > log_f, 40.0, -40.0))
  else:
    best = -preference.minimize_population(loss, np.zeros(4)).loss
  np.testing.assert_allclose(best, expected, rtol=1e-13)


def test_gradients_and_transforms():
  logps, ref = RNG.normal(size=(2, 2, 3))
  lengths = RNG.integers(1, 4, (2, 3))
  tv = divergences.f_divergence("total_variation")
  where = RNG.random((2, 3)) < 0.7

  def losses(logps, ref, lengths, where):
    return (
      preference.ga_loss(logps),
      preference.grad_diff_loss(logps, ref),
      preference.npo_loss(logps, ref, beta=0.7),
      preference.simnpo_loss(logps, lengths, gamma=0.3),
      preference.flat_loss(tv, logps, ref),
      preference.mean_token_probability(logps, where=where),
    )

  helpers.assert_transforms(losses, logps, ref, lengths, where)
  rest = ref[0], lengths[0], where[0]
  helpers.assert_gradient(
    lambda x: sum(jnp.sum(y) for y in losses(x, *rest)), logps[0]
  )


def test_wrong_arguments_raise():
  two, three = np.zeros(2), np.zeros(3)
  for wrong in (
    lambda: preference.grad_diff_loss(two, three),
    lambda: preference.npo_loss(two, three),
    lambda: preference.simnpo_loss(two, three),
    lambda: preference.mean_token_probability(two, where=three > 0),
    lambda: preference.flat_loss(divergences.f_divergence("kl"), two, three),
  ):
    with pytest.raises(AssertionError, match=r"\(2,\).*\(3,\)"):
      wrong()
  for loss in (preference.npo_loss, preference.simnpo_loss):
    with pytest.raises(ValueError, match="beta must be above 0, was 0"):
      loss(two, two, beta=0)
  with pytest.raises(AssertionError, match="need floats: forget_logps int"):
    preference.ga_loss(np.zeros(2, int))
