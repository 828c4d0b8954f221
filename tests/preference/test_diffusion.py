# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import preference
from tests import helpers

RNG = np.random.default_rng(0)
B = 6
ERRORS = preference.DenoisingErrors(*RNG.uniform(0.5, 1.5, size=(4, B)))
MW, ML, NW, NL = ERRORS


def log_sigmoid(x):
  return -np.log1p(np.exp(-x))


def phi(x):
  return x / np.expm1(x)


def test_definitions():
  out = preference.diffusion_dpo_loss(ERRORS, beta=3.0)
  expected = -log_sigmoid(-1.5 * ((MW - NW) - (ML - NL)))
  np.testing.assert_allclose(out.loss, expected, rtol=1e-13)
  np.testing.assert_allclose(out.chosen_reward, -1.5 * (MW - NW), rtol=1e-12)
  out = preference.diffusion_npo_loss(ERRORS, beta=3.0)
  expected = -log_sigmoid(3 * ((NL - NW) - (ML - MW)))
  np.testing.assert_allclose(out.loss, expected, rtol=1e-13)
  np.testing.assert_allclose(out.chosen_reward, -3 * (MW - NW), rtol=1e-12)
  out = preference.mapo_loss(ERRORS, num_timesteps=10)
  margin = 10 * (phi(MW / 2) - phi(ML / 2))
  np.testing.assert_allclose(
    out.loss, MW - 0.1 * log_sigmoid(margin), rtol=1e-13
  )
  np.testing.assert_allclose(out.chosen_reward, 10 * phi(MW / 2), rtol=1e-13)


def test_at_the_reference_it_is_log_two():
  out = preference.diffusion_dpo_loss(
    preference.DenoisingErrors(MW, ML, MW, ML)
  )
  np.testing.assert_allclose(out.loss, np.log(2), rtol=1e-15)


def test_the_mean_over_timesteps_bounds_the_loss_of_the_mean():
  each = preference.diffusion_dpo_loss(ERRORS, beta=20.0).loss
  means = preference.DenoisingErrors(*(np.mean(x) for x in ERRORS))
  whole = preference.diffusion_dpo_loss(means, beta=20.0).loss
  assert np.mean(each) > whole + 0.01


def test_npo_is_dpo_of_exchanged_pairs():
  exchanged = preference.DenoisingErrors(ML, MW, NL, NW)
  helpers.assert_close(
    preference.diffusion_npo_loss(ERRORS, beta=2.0).loss,
    preference.diffusion_dpo_loss(exchanged, beta=4.0).loss,
  )


def test_mapo_lowers_the_chosen_error_and_raises_the_other():
  def total(chosen, rejected):
    errors = preference.DenoisingErrors(chosen, rejected)
    return jnp.sum(preference.mapo_loss(errors).loss)

  slopes = jax.jit(jax.value_and_grad(total, (0, 1)))
  for scale in (1e-6, 0.1, 1.0):
    # Within what the sigmoid does not round to 0: a margin of some hundreds.
    value, (chosen, rejected) = slopes(scale * MW, scale * ML)
    assert np.isfinite(value) and np.all(chosen > 0) and np.all(rejected <= 0)
  zero = np.zeros(1)
  value, (chosen, rejected) = slopes(zero, zero)
  # 1 + (beta/2) T s / 2, and minus the second term: phi'(0) = -1/2.
  np.testing.assert_allclose(value, 0.1 * np.log(2), rtol=1e-13)
  np.testing.assert_allclose((chosen, rejected), [[13.5], [-12.5]], rtol=1e-13)
  large = np.full(1, 1e4)
  value, gradients = slopes(large, large)
  assert np.isfinite(value) and np.all(np.isfinite(gradients))


def test_phi_and_its_slope_are_smooth_where_the_series_ends():
  def loss(m):
    errors = preference.DenoisingErrors(m, jnp.zeros_like(m))
    out = preference.mapo_loss(errors, num_timesteps=1, snr=1.0)
    return jnp.sum(out.chosen_reward), out.loss

  x = np.array([1e-9, 0.09, 0.11, 3.0, 60.0])
  out = preference.mapo_loss(
    preference.DenoisingErrors(x, x), num_timesteps=1, snr=1.0
  )
  np.testing.assert_allclose(out.chosen_reward, phi(x), rtol=1e-14)
  steps = np.array([0.0, 1e-9, 0.0999, 0.1001, 3.0])
  helpers.assert_gradient(lambda m: jnp.sum(loss(m)[1]), steps)


def every(*errors):
  """All three losses of one set of errors."""
  errors = preference.DenoisingErrors(*errors)
  return (
    preference.diffusion_dpo_loss(errors, beta=2.0),
    preference.diffusion_npo_loss(errors, beta=2.0),
    preference.mapo_loss(errors, num_timesteps=3),
  )


def test_transforms_and_gradients():
  helpers.assert_transforms(every, *(x.reshape(2, 3) for x in ERRORS))

  def total(chosen, rejected, *rest):
    return sum(jnp.sum(out.loss) for out in every(chosen, rejected, *rest))

  helpers.assert_gradient(lambda *x: total(*x, NW, NL), MW, ML)
  in_ref = jax.jit(jax.grad(total, (2, 3)))(*ERRORS)
  assert not np.any(in_ref)


def test_the_negative_branch():
  npo, dpo, base = ({"w": x} for x in RNG.normal(size=(3, 4)))
  moved = npo["w"] + dpo["w"] - base["w"]
  full = preference.negative_params(npo, dpo, base)
  helpers.assert_close(full, {"w": moved})
  helpers.assert_close(preference.negative_params(npo, dpo, base, b=1.0), npo)
  guided = preference.negative_guidance(npo["w"], dpo["w"], scale=3.0)
  helpers.assert_close(guided, 3 * npo["w"] - 2 * dpo["w"])


def test_refusals():
  with pytest.raises(ValueError, match="needs ref_chosen and ref_rejected"):
    preference.diffusion_dpo_loss(preference.DenoisingErrors(MW, ML))
  with pytest.raises(AssertionError, match="ref_rejected int64"):
    preference.diffusion_dpo_loss(ERRORS._replace(ref_rejected=np.arange(B)))
  with pytest.raises(ValueError, match="beta must be above 0, was -1"):
    preference.diffusion_npo_loss(ERRORS, beta=-1)
  with pytest.raises(ValueError, match="snr must be above 0, was 0"):
    preference.mapo_loss(ERRORS, snr=0)
  with pytest.raises(AssertionError, match=r"model_rejected \(5,\)"):
    preference.mapo_loss(ERRORS._replace(model_rejected=ML[1:]))
  with pytest.raises(AssertionError, match=r"ref_chosen \(5,\)"):
    preference.diffusion_dpo_loss(ERRORS._replace(ref_chosen=NW[1:]))
  with pytest.raises(AssertionError, match=r"negative \(5,\)"):
    preference.negative_guidance(MW, MW[1:], scale=1.0)
