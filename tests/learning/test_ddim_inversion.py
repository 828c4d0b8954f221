# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.diffusion import flow, predictions, schedules
from jaxalign.learning import ddim_inversion
from tests import helpers

STEPS = 8
GAMMAS = np.linspace(-6, 4, STEPS + 1)
MEANS = np.array([[1.0, -1.0], [-1.0, 0.5]])
VARIANCE = 0.3


def noise_of(z, t):
  """Exact noise of two equal Gaussians, by the gradient of the log-density."""
  gamma = schedules.log_linear_gamma(t, gamma_min=-6.0, gamma_max=4.0)
  alpha, sigma = predictions.alpha_sigma(gamma)
  variance = (alpha**2 * VARIANCE + sigma**2)[..., None]
  away = z[..., None, :] - alpha[..., None, None] * MEANS.astype(z.dtype)
  share = jax.nn.softmax(-jnp.sum(away**2, -1) / (2 * variance))
  mean = jnp.sum(share[..., None] * away, -2)
  return sigma[..., None] * mean / variance


invert = jax.jit(
  functools.partial(ddim_inversion.ddim_inverse, noise_of),
  static_argnames="method",
)
sample = jax.jit(functools.partial(ddim_inversion.ddim_sample, noise_of))


def data(seed=0):
  return jnp.asarray(2 * np.random.default_rng(seed).normal(size=(6, 2)))


def test_sampling_is_the_formula():
  x = noise = np.array([0.4, -1.2])
  alpha_bar = 1 / (1 + np.exp(GAMMAS))
  for k in range(STEPS, 0, -1):
    eps = np.asarray(noise_of(jnp.asarray(x), jnp.asarray(k / STEPS)))
    before, now = alpha_bar[k - 1], alpha_bar[k]
    c = np.sqrt(before / now)
    x = c * x + (np.sqrt(1 - before) - c * np.sqrt(1 - now)) * eps
  np.testing.assert_allclose(sample(jnp.asarray(noise), GAMMAS), x, rtol=1e-9)


def test_exact_methods_invert_and_the_usual_one_does_not():
  x0 = data()
  for method in ("newton", "fixed_point"):
    found = invert(x0, GAMMAS, method=method)
    assert found.ok.all() and found.residual.max() <= 1e-10
    # 1e-8: errors of 1e-10 a step, which eight steps enlarge.
    np.testing.assert_allclose(sample(found.x, GAMMAS), x0, atol=1e-8)
  usual = invert(x0, GAMMAS, method="explicit")
  assert not usual.ok.any()
  errors = np.abs(sample(usual.x, GAMMAS) - x0).max(-1)
  assert np.median(errors) > 0.03
  assert ddim_inversion.INVERSION_METHODS == (
    "explicit",
    "fixed_point",
    "newton",
  )


def test_clean_data_at_time_zero():
  gammas = np.append(-np.inf, GAMMAS[1:])
  found = invert(data(), gammas, method="newton")
  assert found.ok.all()
  np.testing.assert_allclose(sample(found.x, gammas), data(), atol=1e-8)


def test_where_the_fixed_point_does_not_contract():
  """`|k| Lip(eps) > c`; Newton's method solves it nevertheless."""
  gammas, x0 = jnp.array([-4.0, 4.0]), jnp.array([0.3])
  field = lambda z, t: 3 * jnp.sin(z)
  fixed, exact = (
    ddim_inversion.ddim_inverse(field, x0, gammas, method=method)
    for method in ("fixed_point", "newton")
  )
  assert not fixed.ok and np.isnan(fixed.x).all() and fixed.residual > 1e-3
  assert exact.ok
  back = ddim_inversion.ddim_sample(field, exact.x, gammas)
  np.testing.assert_allclose(back, x0, atol=1e-9)


def test_flows_of_gaussians_have_their_map():
  """The law's quantiles: `x_1 = (x_0 - m) / s`, up to the solver's error."""
  mean, variance = jnp.array([1.0, -2.0]), jnp.array([4.0, 0.25])
  velocity = flow.affine_velocity(mean, variance)
  x0 = data(1)
  run = jax.jit(
    lambda x0: ddim_inversion.flow_inverse(velocity, x0, num_steps=40)
  )
  found = run(x0)
  assert found.ok.all()
  expected = (x0 - mean) / jnp.sqrt(variance)
  np.testing.assert_allclose(found.x, expected, atol=1e-4)
  back = ddim_inversion.flow_sample(velocity, found.x, num_steps=40)
  np.testing.assert_allclose(back, x0, atol=1e-9)
  there = ddim_inversion.flow_sample(velocity, expected, num_steps=40)
  assert 1e-9 < np.abs(there - x0).max() < 1e-4


def test_transforms_and_gradient():
  def both(x):
    found = ddim_inversion.ddim_inverse(
      noise_of, x, GAMMAS[2:5].astype(x.dtype)
    )
    # The error that is left is rounding, which differs.
    data = ddim_inversion.flow_sample(noise_of, x, num_steps=2)
    return found.x, found.ok, data

  helpers.assert_transforms(both, np.asarray(data(2))[:2], rtol=1e-8)
  helpers.assert_gradient(
    lambda x: jnp.sum(sample(x, GAMMAS) ** 2), np.array([0.3, -0.4])
  )


def test_bad_input():
  x = jnp.ones(2)
  with pytest.raises(ValueError, match="unknown method 'exact'"):
    ddim_inversion.ddim_inverse(noise_of, x, GAMMAS, method="exact")
  with pytest.raises(ValueError, match="gammas must have two levels or more"):
    ddim_inversion.ddim_sample(noise_of, x, GAMMAS[:1])
  with pytest.raises(ValueError, match="gammas must end below inf"):
    ddim_inversion.ddim_inverse(noise_of, x, jnp.array([0.0, jnp.inf]))
  with pytest.raises(ValueError, match="num_steps must be at least 1, was 0"):
    ddim_inversion.flow_sample(noise_of, x, num_steps=0)
  with pytest.raises(ValueError, match="tolerance must be above 0"):
    ddim_inversion.flow_inverse(noise_of, x, num_steps=2, tolerance=0.0)
  with pytest.raises(ValueError, match="x must be"):
    ddim_inversion.flow_inverse(noise_of, jnp.ones(()), num_steps=2)
