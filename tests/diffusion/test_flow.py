# SPDX-License-Identifier: Apache-2.0
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.diffusion import flow, gaussian
from tests import helpers

MEAN, VARIANCE = 0.7, 2.3
NODES, MASSES = np.polynomial.hermite_e.hermegauss(3)
MASSES = MASSES / math.sqrt(2 * math.pi)


def exact(z, t):
  law = jnp.array([MEAN]), jnp.array([VARIANCE])
  return flow.affine_velocity(*law)(z, t)


def draw(seed=0, batch=(2, 4), dim=3):
  rng = np.random.default_rng(seed)
  x, eps = jnp.asarray(rng.normal(size=(2, *batch, dim)))
  return x, jnp.asarray(rng.uniform(0.1, 0.9, batch)), eps


def gamma(t):
  """`-log SNR` of `x_t = (1 - t) x + t eps`."""
  return 2 * (jnp.log(t) - jnp.log1p(-t))


def rescaled(velocity):
  """A velocity as a denoiser of variance-preserving z."""

  def denoiser(z, t):
    scale = jnp.sqrt((1 - t) ** 2 + t**2)[..., None]
    return velocity(z * scale, t)

  return denoiser


def expectation(loss, times, mean=MEAN, variance=VARIANCE):
  """`E loss` at each time, exact for losses quadratic in (x, eps)."""
  shape = (len(times), 3, 3, 1)
  x = mean + math.sqrt(variance) * NODES[:, None, None]
  x, eps = (jnp.broadcast_to(a, shape) for a in (x, NODES[:, None]))
  t = jnp.broadcast_to(jnp.asarray(times)[:, None, None], shape[:-1])
  return jnp.einsum("nij,i,j->n", loss(x, t, eps), MASSES, MASSES)


# --- the loss ----------------------------------------------------------------


def test_elbo_weight_is_the_diffusion_loss():
  """Draw by draw, for any velocity, and for the integral between two times."""
  x, t, eps = draw()
  velocity = lambda z, t: jnp.sin(z) + t[..., None]
  loss = flow.flow_matching_loss(velocity, x, t, eps, weight="elbo")
  vdm = gaussian.vdm_loss(
    rescaled(velocity), x, t, eps, gamma=gamma, prediction="u"
  )
  helpers.assert_close(loss, vdm, rtol=1e-12)
  # int_a^b of the best velocity's loss, in closed form.
  nodes, weights = np.polynomial.legendre.leggauss(80)
  low, high = 0.05, 0.999
  times = low + (high - low) * (nodes + 1) / 2
  found = (
    (high - low)
    / 2
    * (
      weights
      @ expectation(
        lambda *a: flow.flow_matching_loss(exact, *a, weight="elbo"), times
      )
    )
  )
  snr = [((1 - t) / t) ** 2 for t in (low, high)]
  vdm_integral = 0.5 * math.log(
    (1 + VARIANCE * snr[0]) / (1 + VARIANCE * snr[1])
  )
  helpers.assert_close(found, vdm_integral, rtol=1e-12)


def test_uniform_weight_in_log_snr():
  """`w = 1` weighs the noise's error by exp(-lambda/2) in d lambda."""
  x, t, eps = draw()
  velocity = lambda z, t: jnp.sin(z) + t[..., None]
  uniform = flow.flow_matching_loss(velocity, x, t, eps)
  vdm = gaussian.vdm_loss(
    rescaled(velocity), x, t, eps, gamma=gamma, prediction="u"
  )
  helpers.assert_close(uniform, jnp.exp(gamma(t) / 2) * vdm, rtol=1e-12)


def test_affine_velocity_is_the_conditional_mean():
  times = np.linspace(0, 1, 7)
  # Residuals of the best prediction are orthogonal to 1 and to x_t.
  for test in (lambda z: 1.0, lambda z: z[..., 0]):

    def moment(x, t, eps, test=test):
      z = (1 - t[..., None]) * x + t[..., None] * eps
      return (exact(z, t) - (eps - x))[..., 0] * test(z)

    helpers.assert_close(expectation(moment, times), np.zeros(7), atol=1e-13)
  # The formulas of the two coefficients.
  t = jnp.asarray(times)
  slope = (t - (1 - t) * VARIANCE) / ((1 - t) ** 2 * VARIANCE + t**2)
  offset = -MEAN - slope * (1 - t) * MEAN
  helpers.assert_close(exact(jnp.zeros((7, 1)), t)[:, 0], offset)
  helpers.assert_close(
    exact(jnp.ones((7, 1)), t)[:, 0], slope + offset, atol=1e-13
  )


# --- the likelihood ----------------------------------------------------------


def log_normal(x, mean=MEAN, variance=VARIANCE):
  return jnp.sum(
    jax.scipy.stats.norm.logpdf(x, mean, jnp.sqrt(jnp.asarray(variance))), -1
  )


def test_runge_kutta_errors():
  """The sheet's 1.9e-6 and 6.7e-5, at 3.7 from the mean of N(m, 2.3)."""
  x = jnp.array([MEAN - 3.7])
  errors = {}
  for steps in (5, 10, 160, 320):
    found = flow.ode_log_prob(exact, x, num_steps=steps)
    errors[steps] = abs(float(found - log_normal(x)))
  assert f"{errors[10]:.1e}" == "1.9e-06"
  assert f"{errors[5]:.1e}" == "6.7e-05"
  # Fourth order: a sixteenth for half the step.
  assert abs(errors[160] / errors[320] - 16) < 1


def test_likelihood_of_correlated_data():
  """Data with a full covariance: the divergence has D terms that are mixed."""
  rng = np.random.default_rng(3)
  root = rng.normal(size=(3, 3))
  basis, _ = np.linalg.qr(root)
  variances, centre = np.array([0.5, 1.0, 2.3]), rng.normal(size=3)
  aligned = flow.affine_velocity(
    jnp.asarray(basis.T @ centre), jnp.asarray(variances)
  )
  velocity = lambda z, t: aligned(z @ basis, t) @ basis.T
  x = jnp.asarray(rng.normal(size=(2, 3)))
  expected = jax.scipy.stats.multivariate_normal.logpdf(
    x, centre, basis @ np.diag(variances) @ basis.T
  )
  found = flow.ode_log_prob(velocity, x, num_steps=80)
  # Fourth order: below 1e-9 at 80 steps by the test above.
  helpers.assert_close(found, expected, rtol=0, atol=1e-8)
  # All directions of signs have the identity for their second moment.
  signs = np.array(list(itertools.product([-1.0, 1.0], repeat=3)))
  probes = jnp.broadcast_to(jnp.asarray(signs)[:, None], (8, 2, 3))
  helpers.assert_close(
    flow.ode_log_prob(velocity, x, num_steps=80, probes=probes), found
  )
  one = flow.ode_log_prob(velocity, x, num_steps=80, probes=probes[:1])
  assert np.all(np.abs(one - found) > 1e-3)


def test_law_is_normalised_for_a_curved_velocity():
  """`int p = 1` for any smooth velocity, though its law is unknown."""
  velocity = lambda z, t: jnp.sin(2 * z) * (1 - t[..., None]) + 0.3
  x = jnp.linspace(-12.0, 12.0, 2001)[:, None]
  log_p = flow.ode_log_prob(velocity, x, num_steps=40)
  total = jnp.sum(jnp.exp(log_p)) * (x[1, 0] - x[0, 0])
  # The error of 40 steps of fourth order; twice the steps, a sixteenth of it.
  assert abs(float(total) - 1) < 1e-6
  log_p = flow.ode_log_prob(velocity, x, num_steps=80)
  finer = jnp.sum(jnp.exp(log_p)) * (x[1, 0] - x[0, 0])
  assert abs(float(finer) - 1) < abs(float(total) - 1) / 8


# --- gradients, transforms, ends ---------------------------------------------


def scaled(weights):
  return lambda z, t: jnp.tanh(z @ weights) + t[..., None] * z


WEIGHTS = np.random.default_rng(2).normal(size=(3, 3)) / 2
FUNCTIONS = {
  "uniform": lambda w, x, t, eps: flow.flow_matching_loss(scaled(w), x, t, eps),
  "elbo": lambda w, x, t, eps: flow.flow_matching_loss(
    scaled(w), x, t, eps, weight="elbo"
  ),
  "ode_log_prob": lambda w, x, t, eps: flow.ode_log_prob(
    scaled(w), x, num_steps=4
  ),
  "probes": lambda w, x, t, eps: flow.ode_log_prob(
    scaled(w), x, num_steps=4, probes=eps[None]
  ),
  "affine_velocity": lambda w, x, t, eps: flow.affine_velocity(
    w[0], 1 + w[1] ** 2
  )(x, t),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_transforms_and_gradients(name):
  x, t, eps = draw()
  fn = FUNCTIONS[name]
  helpers.assert_transforms(fn, jnp.stack([WEIGHTS, -WEIGHTS]), x, t, eps)
  total = jax.jit(lambda w, x: jnp.sum(fn(w, x, t[0], eps[0])))
  helpers.assert_gradient(total, WEIGHTS, x[0], atol=1e-7)


def test_the_ends_give_no_nan():
  x, _, eps = draw(batch=(2,))
  t = jnp.array([0.0, 1.0])

  def loss(scale, weight="elbo"):
    velocity = lambda z, t: scale * z
    return flow.flow_matching_loss(velocity, x, t, eps, weight=weight)

  with jax.debug_nans(True):
    value, gradient = loss(0.5), jax.jacrev(loss)(0.5)
    perfect = flow.flow_matching_loss(
      lambda z, t: eps - x, x, t, eps, weight="elbo"
    )
    uniform = jax.jacrev(lambda s: loss(s, "uniform"))(0.5)
  assert value[0] == np.inf and value[1] == 0
  assert np.all(gradient == 0) and np.all(perfect == 0)
  assert np.all(np.isfinite(uniform)) and np.all(uniform != 0)


def test_bad_arguments():
  x, t, eps = draw()
  velocity = lambda z, t: z
  with pytest.raises(ValueError, match="unknown weight 'vdm': choose one of e"):
    flow.flow_matching_loss(velocity, x, t, eps, weight="vdm")
  with pytest.raises(AssertionError, match="eps"):
    flow.flow_matching_loss(velocity, x, t, eps[0])
  with pytest.raises(AssertionError, match="t "):
    flow.flow_matching_loss(velocity, x, t[0], eps)
  with pytest.raises(AssertionError, match="velocity"):
    flow.flow_matching_loss(lambda z, t: t, x, t, eps)
  with pytest.raises(ValueError, match="x must be"):
    flow.flow_matching_loss(velocity, t[0, 0], t[0, 0], t[0, 0])
  with pytest.raises(ValueError, match="num_steps must be at least 1, was 0"):
    flow.ode_log_prob(velocity, x, num_steps=0)
  with pytest.raises(ValueError, match="x must be"):
    flow.ode_log_prob(velocity, t[0, 0], num_steps=1)
  with pytest.raises(AssertionError, match="probes"):
    flow.ode_log_prob(velocity, x, num_steps=1, probes=x)
  with pytest.raises(AssertionError, match="need rank 1"):
    flow.affine_velocity(jnp.zeros(()), jnp.ones(()))
