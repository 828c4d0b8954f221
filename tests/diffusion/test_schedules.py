# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.diffusion import predictions, samplers, schedules
from jaxalign.exact import masked
from tests import helpers

CUBIC = functools.partial(schedules.polynomial_alpha, power=3.0)
# Each with its weight by hand.
MASKED = {
  "linear": (schedules.linear_alpha, lambda t: 1 / t),
  "quadratic": (schedules.polynomial_alpha, lambda t: 2 / t),
  "cubic": (CUBIC, lambda t: 3 / t),
  "cosine": (
    schedules.cosine_alpha,
    lambda t: np.pi / 2 / np.tan(np.pi * t / 2),
  ),
}
TIMES = np.array([0.01, 0.2, 0.5, 0.9, 1.0])


@pytest.mark.parametrize("name", MASKED)
def test_masked_schedules(name):
  alpha, weight = MASKED[name]
  helpers.assert_close(alpha(jnp.array([0.0, 1.0])), [1.0, 0.0], atol=1e-15)
  assert np.all(np.diff(alpha(jnp.linspace(0.0, 1.0, 50))) < 0)
  found = schedules.schedule_weight(alpha, jnp.asarray(TIMES))
  helpers.assert_close(found, weight(TIMES), atol=1e-12)
  helpers.assert_gradient(alpha, jnp.array(0.3))
  helpers.assert_gradient(
    lambda t: schedules.schedule_weight(alpha, t), jnp.array(0.3)
  )
  helpers.assert_transforms(
    lambda t: (alpha(t), schedules.schedule_weight(alpha, t)),
    jnp.asarray(TIMES[:4]).reshape(2, 2),
  )
  grid = schedules.alpha_grid(alpha, num_steps=5)
  assert grid[0] == 1 and grid[-1] == 0
  helpers.assert_close(grid, alpha(jnp.arange(6) / 5), atol=1e-15)
  assert np.all(samplers.ancestral_probs(grid) <= 1)


def test_the_bound_does_not_depend_on_the_schedule():
  length = 4
  hidden = np.random.default_rng(0).normal(size=(2**length, length))
  visible = masked.visible_sets(length)
  hidden = np.where(visible, 0, hidden)
  nodes, weights = np.polynomial.legendre.leggauss(30)
  t = (nodes + 1) / 2
  exact = masked.any_order_elbo(jnp.asarray(hidden))
  for alpha, _ in MASKED.values():
    shown = np.asarray(alpha(jnp.asarray(t)))[:, None, None]
    chance = np.prod(np.where(visible, shown, 1 - shown), -1)
    weight = schedules.schedule_weight(alpha, jnp.asarray(t))
    value = np.sum(weights / 2 * weight * (chance @ hidden.sum(-1)))
    # Thirty nodes integrate these to rounding; alpha' / (1 - alpha) cancels.
    helpers.assert_close(value, exact, rtol=1e-10)


def test_gaussian_schedules():
  t = jnp.asarray(TIMES[:4])
  alpha, sigma = predictions.alpha_sigma(schedules.cosine_gamma(t))
  helpers.assert_close(alpha, np.cos(np.pi * t / 2))
  helpers.assert_close(sigma, np.sin(np.pi * t / 2))
  ends = schedules.cosine_gamma(jnp.array([0.0, 1.0]))
  assert ends[0] == -np.inf and ends[1] == np.inf
  assert schedules.cosine_gamma(jnp.float32(1)) == np.inf
  snr = functools.partial(
    schedules.log_linear_gamma, gamma_min=-np.log(1e4), gamma_max=np.log(1e3)
  )
  found = np.exp(-snr(jnp.array([0.0, 0.5, 1.0])))
  helpers.assert_close(found, [1e4, 10**0.5, 1e-3])
  for gamma in (schedules.cosine_gamma, snr):
    helpers.assert_gradient(gamma, jnp.array(0.3))
    helpers.assert_transforms(lambda t, g=gamma: g(t), t.reshape(2, 2))


def test_bad_arguments():
  for t in (0.0, 1.5, np.nan):
    with pytest.raises(ValueError, match=rf"t must be in \(0, 1\], was {t}"):
      schedules.schedule_weight(schedules.linear_alpha, jnp.array([0.5, t]))
  with pytest.raises(ValueError, match="power must be above 0, was 0"):
    schedules.polynomial_alpha(jnp.zeros(2), power=0)
  with pytest.raises(ValueError, match="num_steps must be at least 1, was 0"):
    schedules.alpha_grid(schedules.linear_alpha, num_steps=0)
  with pytest.raises(ValueError, match="must go from 1 to 0, goes from 0 to 1"):
    schedules.alpha_grid(lambda t: t, num_steps=3)
  with pytest.raises(ValueError, match="gamma_max must be above gamma_min 1"):
    schedules.log_linear_gamma(jnp.zeros(2), gamma_min=1, gamma_max=1)


def test_schedules_under_debug_nans():
  with jax.debug_nans(True):
    ends = jax.jit(schedules.cosine_gamma)(jnp.array([0.0, 1.0]))
  # Clean data at 0; at 1, where the cosine is 0 but for rounding, pure noise.
  assert ends[0] == -np.inf and ends[1] > 70
