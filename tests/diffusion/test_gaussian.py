# SPDX-License-Identifier: Apache-2.0
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.diffusion import gaussian, predictions
from jaxalign.divergences import gaussian_kl_diag
from tests import helpers, programs

KINDS = predictions.PREDICTIONS
VARIANCE = 2.3
RNG = np.random.default_rng(0)
# A loss is a quadratic in (x, eps) where the denoiser is affine: three nodes of
# Gauss and Hermite give its expectation exactly.
NODES, MASSES = np.polynomial.hermite_e.hermegauss(3)
MASSES = MASSES / math.sqrt(2 * math.pi)
TIMES, TIME_WEIGHTS = np.polynomial.legendre.leggauss(80)
TIMES, TIME_WEIGHTS = (TIMES + 1) / 2, TIME_WEIGHTS / 2


def log_linear(t):
  """SNR from 1e4 to 1e-3."""
  return -jnp.log(1e4) + t * jnp.log(1e7)


def curved(t):
  """The same ends by another way."""
  return log_linear(0.3 * t + 0.7 * t**3)


def optimal(gamma, prediction="eps", variance=VARIANCE):
  """The best denoiser of N(0, v), by the regression of x on z."""

  def denoiser(z, t):
    alpha, sigma = predictions.alpha_sigma(gamma(t))
    slope = alpha * variance / (alpha**2 * variance + sigma**2)
    return predictions.convert_prediction(
      slope[..., None] * z, z, alpha, sigma, src="x", dst=prediction
    )

  return denoiser


def expectation(loss, times, variance=VARIANCE):
  """`E_{x, eps} loss` at each time `[N]`, for x ~ N(0, v) of one dimension."""
  shape = (len(times), 3, 3, 1)
  x = jnp.broadcast_to(math.sqrt(variance) * NODES[:, None, None], shape)
  eps = jnp.broadcast_to(NODES[:, None], shape)
  t = jnp.broadcast_to(jnp.asarray(times)[:, None, None], shape[:-1])
  return jnp.einsum("nij,i,j->n", loss(x, t, eps), MASSES, MASSES)


def diffusion_loss(gamma, prediction="eps", variance=VARIANCE):
  def loss(x, t, eps):
    denoiser = optimal(gamma, prediction, variance)
    return gaussian.vdm_loss(
      denoiser, x, t, eps, gamma=gamma, prediction=prediction
    )

  return TIME_WEIGHTS @ expectation(loss, TIMES, variance)


def t_step_terms(gammas, prediction="eps", variance=VARIANCE):
  """The expected terms of steps 1 to T under the best denoiser."""
  steps = len(gammas) - 1

  def gamma(t):
    return gammas[jnp.round(t * steps).astype(int)]

  def loss(x, step, eps):
    denoiser = optimal(gamma, prediction, variance)
    return gaussian.ddpm_vlb(
      denoiser, x, step, eps, gammas=gammas, prediction=prediction
    )

  return expectation(loss, np.arange(1, steps + 1), variance)


def draw(seed=0, batch=(2, 4), dim=3):
  rng = np.random.default_rng(seed)
  x, eps = jnp.asarray(rng.normal(size=(2, *batch, dim)))
  return x, jnp.asarray(rng.uniform(0.1, 0.9, batch)), eps


# --- conversions -------------------------------------------------------------


@pytest.mark.parametrize("src", KINDS)
def test_conversions(src):
  x, t, eps = draw()
  for alpha, sigma in (
    predictions.alpha_sigma(6 * t - 3),
    (1 - t, t),  # flow
    (jnp.ones_like(t), 3 * t),  # variance exploding
  ):
    a, s = alpha[..., None], sigma[..., None]
    z = a * x + s * eps
    truth = {
      "x": x,
      "eps": eps,
      "v": a * eps - s * x,
      "u": eps - x,
      # grad_z log N(z; alpha x, sigma^2)
      "score": -(z - a * x) / s**2,
    }
    for dst in KINDS:
      found = predictions.convert_prediction(
        truth[src], z, alpha, sigma, src=src, dst=dst
      )
      helpers.assert_close(found, truth[dst], rtol=1e-10, atol=1e-11)


def test_flow_velocity_is_the_slope_of_the_path():
  x, t, eps = draw()
  _, slope = jax.jvp(
    lambda t: (1 - t[..., None]) * x + t[..., None] * eps,
    (t,),
    (jnp.ones_like(t),),
  )
  z = (1 - t[..., None]) * x + t[..., None] * eps
  u = predictions.convert_prediction(x, z, 1 - t, t, src="x", dst="u")
  helpers.assert_close(u, slope)


def test_errors_of_v_and_u():
  """The identities of section 3: errors of x and eps by those of v and u."""
  x, t, eps = draw()
  guess = eps + 0.1 * draw(1)[0]
  for src, alpha, sigma in (
    ("v", *predictions.alpha_sigma(6 * t - 3)),
    ("u", 1 - t, t),
  ):
    z = alpha[..., None] * x + sigma[..., None] * eps
    true = predictions.convert_prediction(x, z, alpha, sigma, src="x", dst=src)
    x_hat = predictions.convert_prediction(
      guess, z, alpha, sigma, src=src, dst="x"
    )
    eps_hat = predictions.convert_prediction(
      guess, z, alpha, sigma, src=src, dst="eps"
    )
    square = jnp.sum((true - guess) ** 2, -1)
    helpers.assert_close(jnp.sum((x - x_hat) ** 2, -1), sigma**2 * square)
    helpers.assert_close(jnp.sum((eps - eps_hat) ** 2, -1), alpha**2 * square)


def test_conversions_at_the_ends():
  one, zero, x = jnp.ones(()), jnp.zeros(()), jnp.ones(2)
  with jax.debug_nans(True):
    for alpha, sigma in ((one, zero), (zero, one)):
      for src in ("v", "u"):
        for dst in ("x", "eps", "v", "u"):
          found = predictions.convert_prediction(
            x, 2 * x, alpha, sigma, src=src, dst=dst
          )
          assert np.all(np.isfinite(found))
    # Clean data: x is z. Pure noise: eps is z.
    for src in ("eps", "score", "v", "u"):
      found = predictions.convert_prediction(
        x, 2 * x, one, zero, src=src, dst="x"
      )
      helpers.assert_close(found, 2 * x)
    for src in ("x", "v", "u"):
      found = predictions.convert_prediction(
        x, 2 * x, zero, one, src=src, dst="eps"
      )
      helpers.assert_close(found, 2 * x)


def test_alpha_sigma():
  alpha, sigma = predictions.alpha_sigma(jnp.array([-jnp.inf, 0.0, jnp.inf]))
  helpers.assert_close(alpha**2, [1, 0.5, 0])
  helpers.assert_close(sigma**2, [0, 0.5, 1])
  alpha, sigma = predictions.alpha_sigma(log_linear(jnp.array([0.0, 1.0])))
  helpers.assert_close((alpha / sigma) ** 2, [1e4, 1e-3])


# --- the bound on Gaussian data ----------------------------------------------

L_INF = 0.5 * math.log((1 + VARIANCE * 1e4) / (1 + VARIANCE * 1e-3))


@pytest.mark.parametrize(
  ("steps", "sheet"), [(4, 55.05), (16, 8.23), (64, 5.638), (1024, 5.056)]
)
def test_t_step_losses(steps, sheet):
  gammas = log_linear(jnp.arange(steps + 1) / steps)
  total = jnp.sum(t_step_terms(gammas))
  snr = np.exp(-np.asarray(gammas))
  variance = VARIANCE / (1 + VARIANCE * snr)  # of x given z
  closed = (snr[:-1] - snr[1:]) @ variance[1:] / 2
  helpers.assert_close(total, closed, rtol=1e-12)
  digits = 3 if steps > 16 else 2
  assert abs(float(total) - sheet) <= 0.5001 * 10**-digits
  assert total > L_INF


@pytest.mark.parametrize("prediction", KINDS)
def test_continuous_loss_depends_on_the_ends_only(prediction):
  assert abs(L_INF - 5.0205) < 5e-5
  for gamma in (log_linear, curved):
    # Eighty nodes integrate the curved schedule to rounding.
    value = diffusion_loss(gamma, prediction)
    helpers.assert_close(value, L_INF, rtol=1e-12)


def test_negative_bound_less_entropy():
  """`NELBO - H = (d - log(1 + d)) / 2` with `d = alpha_1^2 (v - 1)`."""
  variance, share = VARIANCE, 0.2
  last = math.log((1 - share) / share)
  gamma = lambda t: -8.0 + (last + 8.0) * t
  # The best decoder of x given z_0.
  scale = math.sqrt(variance / (1 + variance * math.exp(8.0)))

  def ends(x, t, eps):
    denoiser = optimal(gamma, "v", variance)
    first = gaussian.reconstruction_loss(
      denoiser, x, t, eps, gamma=gamma, scale=scale, prediction="v"
    )
    return first + gaussian.prior_kl(x, gamma=last)

  nelbo = expectation(ends, np.zeros(1), variance)[0]
  nelbo += diffusion_loss(gamma, "v", variance)
  entropy = math.log(2 * math.pi * math.e * variance) / 2
  d = share * (variance - 1)
  theory = (d - math.log(1 + d)) / 2
  assert abs(theory - 0.0144441395) < 5e-11
  helpers.assert_close(nelbo - entropy, theory, rtol=1e-10)


def test_ddpm_bound_with_clean_data_and_pure_noise():
  """T steps from `abar_T = 0` to `abar_0 = 1`: reconstruction in step 1."""
  steps = 10
  alpha_bar = np.cos(np.pi * np.arange(steps + 1) / (2 * steps)) ** 2
  alpha_bar[-1] = 0.0
  with np.errstate(divide="ignore"):
    gammas = jnp.asarray(np.log1p(-alpha_bar) - np.log(alpha_bar))
    snr = alpha_bar / (1 - alpha_bar)
  terms = t_step_terms(gammas, "x")
  assert terms[0] == np.inf and np.all(np.isfinite(terms[1:]))
  helpers.assert_close(t_step_terms(gammas, "v")[1:], terms[1:])
  gamma = lambda t: gammas[jnp.round(t * steps).astype(int)]

  def first(x, t, eps):
    scale = math.sqrt(VARIANCE / (1 + VARIANCE * snr[1]))
    return gaussian.reconstruction_loss(
      optimal(gamma), x, t, eps, gamma=gamma, scale=scale
    )

  helpers.assert_close(gaussian.prior_kl(jnp.ones(1), gamma=jnp.inf), 0.0)
  nelbo = expectation(first, [1 / steps])[0] + jnp.sum(terms[1:])
  entropy = math.log(2 * math.pi * math.e * VARIANCE) / 2
  # A step costs the spread of x given z_t, and buys what z_s tells beyond z_t:
  # the latter sum to what z_1 tells of x, which with the decoder is H.
  before, after = 1 + VARIANCE * snr[1:-1], 1 + VARIANCE * snr[2:]
  excess = np.sum(before / after - 1 - np.log(before / after)) / 2
  assert excess > 1  # the cosine schedule is coarse near clean data
  helpers.assert_close(nelbo - entropy, excess)


def test_decoder_without_parameters():
  x, t, eps = draw()
  silent = lambda z, t: jnp.zeros_like(z)
  loss = gaussian.reconstruction_loss(
    silent, x, 0 * t, eps, gamma=log_linear, scale=0.01
  )
  expected = jnp.sum(eps**2, -1) / 2 + 1.5 * (
    math.log(2 * math.pi) + math.log(1e-4)
  )
  helpers.assert_close(loss, expected)


# --- one term ----------------------------------------------------------------


def test_weights_are_those_of_ddpm():
  beta = RNG.uniform(0.01, 0.4, 9)
  alpha = 1 - beta
  alpha_bar = np.cumprod(alpha)
  gammas = jnp.asarray(np.log1p(-alpha_bar) - np.log(alpha_bar))
  posterior = beta[1:] * (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:])
  expected = beta[1:] ** 2 / (2 * posterior * alpha[1:] * (1 - alpha_bar[1:]))
  helpers.assert_close(gaussian.ddpm_weights(gammas), expected)
  snr = np.exp(-np.asarray(gammas))
  helpers.assert_close(expected, (snr[:-1] / snr[1:] - 1) / 2)


@pytest.mark.parametrize("prediction", KINDS)
def test_term_is_the_divergence_of_the_posteriors(prediction):
  gammas = jnp.asarray(np.sort(RNG.normal(size=5)) * 2)
  x, _, eps = draw()
  step = jnp.asarray(RNG.integers(1, 5, x.shape[:-1]))
  weights = jnp.asarray(RNG.normal(size=(3, 3)))
  seen = []

  def denoiser(z, t):
    seen.append(t)
    return jnp.tanh(z @ weights)

  with programs.op_by_op():  # which shows the denoiser numbers
    found = gaussian.ddpm_vlb(
      denoiser, x, step, eps, gammas=gammas, prediction=prediction
    )
  helpers.assert_close(seen[0], step / 4)
  # q(z_s | z_t, x) by Bayes' rule, one-dimensional.
  alpha_s, sigma_s = (
    a[..., None] for a in predictions.alpha_sigma(gammas[step - 1])
  )
  alpha, sigma = predictions.alpha_sigma(gammas[step])
  alpha_t, sigma_t = alpha[..., None], sigma[..., None]
  ratio = alpha_t / alpha_s
  noise = sigma_t**2 - ratio**2 * sigma_s**2
  z = alpha_t * x + sigma_t * eps
  precision = 1 / sigma_s**2 + ratio**2 / noise

  def posterior(x):
    return (alpha_s * x / sigma_s**2 + ratio * z / noise) / precision

  x_hat = predictions.convert_prediction(
    denoiser(z, step / 4), z, alpha, sigma, src=prediction, dst="x"
  )
  scale = jnp.broadcast_to(1 / jnp.sqrt(precision), x.shape)
  expected = gaussian_kl_diag(posterior(x), scale, posterior(x_hat), scale)
  helpers.assert_close(found, expected, rtol=1e-9)


@pytest.mark.parametrize("prediction", KINDS)
def test_losses_by_definition(prediction):
  x, t, eps = draw()
  denoiser = lambda z, t: jnp.sin(z) + t[..., None]
  alpha, sigma = predictions.alpha_sigma(curved(t))
  z = alpha[..., None] * x + sigma[..., None] * eps
  eps_hat = predictions.convert_prediction(
    denoiser(z, t), z, alpha, sigma, src=prediction, dst="eps"
  )
  square = jnp.sum((eps - eps_hat) ** 2, -1)
  options = {"gamma": curved, "prediction": prediction}
  helpers.assert_close(
    gaussian.ddpm_simple_loss(denoiser, x, t, eps, **options),
    square,
    rtol=1e-9,
  )
  slope = math.log(1e7) * (0.3 + 2.1 * t**2)
  helpers.assert_close(
    gaussian.vdm_loss(denoiser, x, t, eps, **options),
    slope / 2 * square,
    rtol=1e-9,
  )
  x_hat = predictions.convert_prediction(
    denoiser(z, t), z, alpha, sigma, src=prediction, dst="x"
  )
  found = gaussian.reconstruction_loss(
    denoiser, x, t, eps, scale=2.0, **options
  )
  log_density = jax.scipy.stats.norm.logpdf(x, x_hat, 2.0)
  helpers.assert_close(found, -jnp.sum(log_density, -1), rtol=1e-9)


# --- draws, gradients, transforms --------------------------------------------


def test_draws(key):
  x = jnp.zeros((4096, 2))
  t, eps = gaussian.draw_noise(key, x, min_time=0.2)
  assert np.all((t > 0.2) & (t <= 1))
  # Five standard errors of a uniform and of normal variables.
  assert abs(float(jnp.mean(t)) - 0.6) < 5 * 0.8 / math.sqrt(12 * 4096)
  assert abs(float(jnp.mean(eps))) < 5 / math.sqrt(8192)
  assert abs(float(jnp.var(eps)) - 1) < 5 * math.sqrt(2 / 8192)
  small = gaussian.draw_noise(key, jnp.zeros((3, 2), jnp.bfloat16))
  assert small.t.dtype == small.eps.dtype == jnp.float32


def losses(prediction):
  """Every loss as a function of (weights, x, t, eps), summed."""
  gammas = lambda x: jnp.linspace(-4.0, 3.0, 6).astype(x.dtype)

  def total(weights, x, t, eps):
    denoiser = lambda z, t: jnp.tanh(z @ weights) + t[..., None] * z
    options = {"prediction": prediction, "gamma": lambda t: 7 * t - 4}
    step = 1 + jnp.floor(5 * t).astype(int)
    return (
      gaussian.vdm_loss(denoiser, x, t, eps, **options)
      + gaussian.ddpm_simple_loss(denoiser, x, t, eps, **options)
      + gaussian.reconstruction_loss(denoiser, x, t, eps, scale=1.5, **options)
      + gaussian.prior_kl(x, gamma=3.0)
      + gaussian.ddpm_vlb(
        denoiser, x, step, eps, gammas=gammas(x), prediction=prediction
      )
    )

  return total


@pytest.mark.parametrize("prediction", KINDS)
def test_gradients(prediction):
  x, t, eps = draw()
  weights = jnp.asarray(np.random.default_rng(2).normal(size=(3, 3)))
  total = jax.jit(
    lambda weights, x: jnp.sum(losses(prediction)(weights, x, t[0], eps[0]))
  )
  helpers.assert_gradient(total, weights, x[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("prediction", ["score", "u"])
def test_transforms(prediction):
  x, t, eps = draw()
  weights = jnp.asarray(np.random.default_rng(2).normal(size=(3, 3)))
  fn = losses(prediction)
  helpers.assert_transforms(fn, jnp.stack([weights, -weights]), x, t, eps)


def test_transforms_of_conversions_and_weights():
  x, t, eps = draw()
  for dst in ("x", "score"):
    helpers.assert_transforms(
      lambda x, z, t, dst=dst: predictions.convert_prediction(
        x, z, 1 - t, t, src="u", dst=dst
      ),
      x,
      eps,
      t,
    )
  helpers.assert_transforms(gaussian.ddpm_weights, jnp.sort(t, -1))


@pytest.mark.parametrize("prediction", KINDS)
def test_the_ends_give_no_nan(prediction):
  x, _, eps = draw(batch=(2,))
  t = jnp.array([0.0, 1.0])

  def bounded(scale):
    denoiser = lambda z, t: scale * z
    options = {"gamma": log_linear, "prediction": prediction}
    return jnp.sum(
      gaussian.vdm_loss(denoiser, x, t, eps, **options)
      + gaussian.reconstruction_loss(denoiser, x, t, eps, scale=1.0, **options)
    )

  def infinite(scale):
    gammas = jnp.array([-jnp.inf, 0.0, jnp.inf])
    denoiser = lambda z, t: scale * z
    return gaussian.ddpm_vlb(
      denoiser,
      x,
      jnp.array([1, 2]),
      eps,
      gammas=gammas,
      prediction=prediction,
    )

  with jax.debug_nans(True):
    assert np.all(np.isfinite(jax.value_and_grad(bounded)(0.5)))
    value = infinite(0.5)
    gradient = jax.jacrev(infinite)(0.5)
  assert value[0] == np.inf and gradient[0] == 0
  finite = prediction in ("x", "v", "u")
  assert np.isfinite(value[1]) == finite and np.isfinite(gradient[1])


@pytest.mark.parametrize("prediction", KINDS)
def test_noise_of_infinite_levels(prediction):
  """Schedules may end in clean data and in pure noise where no bound asks."""
  x, _, eps = draw(batch=(2,))
  t = jnp.array([0.0, 1.0])
  gamma = lambda t: jnp.where(t > 0.5, jnp.inf, -jnp.inf)

  def loss(scale):
    denoiser = lambda z, t: scale * z
    return gaussian.ddpm_simple_loss(
      denoiser, x, t, eps, gamma=gamma, prediction=prediction
    )

  with jax.debug_nans(True):
    found = loss(0.5)
  # Of clean data x tells nothing of eps; at pure noise eps is known from z,
  # and is not in doubt unless it is what the network has to return.
  clean = {
    "x": jnp.inf,
    "score": jnp.sum(eps[0] ** 2),
    "eps": jnp.sum((eps[0] - x[0] / 2) ** 2),
    "v": jnp.sum((eps[0] - x[0] / 2) ** 2),
    "u": jnp.sum((eps[0] - x[0] - x[0] / 2) ** 2),
  }
  helpers.assert_close(found[0], clean[prediction])
  noise = {
    "score": jnp.sum((1.5 * eps[1]) ** 2),
    "eps": jnp.sum((0.5 * eps[1]) ** 2),
  }
  helpers.assert_close(found[1], noise.get(prediction, 0.0))


def test_one_example_without_batch():
  x, t, eps = draw()
  denoiser = lambda z, t: jnp.sin(z) * t[..., None]
  gammas = jnp.arange(5.0)
  many = gaussian.ddpm_vlb(
    denoiser, x, jnp.full(t.shape, 2), eps, gammas=gammas
  )
  step = jnp.asarray(2)
  one = gaussian.ddpm_vlb(denoiser, x[1, 2], step, eps[1, 2], gammas=gammas)
  helpers.assert_close(one, many[1, 2])


def test_bad_arguments():
  x, t, eps = draw()
  silent = lambda z, t: jnp.zeros_like(z)
  gammas = jnp.arange(3.0)
  with pytest.raises(ValueError, match="unknown src 'noise': choose one of ep"):
    predictions.convert_prediction(x, x, t, t, src="noise", dst="x")
  with pytest.raises(ValueError, match="unknown dst"):
    predictions.convert_prediction(x, x, t, t, src="x", dst="noise")
  with pytest.raises(AssertionError, match="alpha"):
    predictions.convert_prediction(x, x, t[0], t[0], src="x", dst="eps")
  with pytest.raises(ValueError, match="unknown prediction 'noise'"):
    gaussian.vdm_loss(silent, x, t, eps, gamma=log_linear, prediction="noise")
  with pytest.raises(AssertionError, match="eps"):
    gaussian.vdm_loss(silent, x, t, eps[0], gamma=log_linear)
  with pytest.raises(AssertionError, match="t "):
    gaussian.ddpm_simple_loss(silent, x, t[0], eps, gamma=log_linear)
  with pytest.raises(AssertionError, match="prediction"):
    gaussian.vdm_loss(lambda z, t: z[..., 0], x, t, eps, gamma=log_linear)
  with pytest.raises(AssertionError, match="gamma"):
    gaussian.vdm_loss(silent, x, t, eps, gamma=lambda t: jnp.sum(t))
  with pytest.raises(AssertionError, match="step"):
    gaussian.ddpm_vlb(silent, x, t, eps, gammas=gammas)
  with pytest.raises(ValueError, match="gammas must have two levels"):
    gaussian.ddpm_weights(gammas[:1])
  with pytest.raises(ValueError, match="scale must be above 0"):
    gaussian.reconstruction_loss(silent, x, t, eps, gamma=log_linear, scale=0.0)
  with pytest.raises(AssertionError, match="gamma"):
    gaussian.prior_kl(x, gamma=gammas)
  with pytest.raises(ValueError, match="x must be"):
    gaussian.prior_kl(jnp.zeros(()), gamma=0.0)
  with pytest.raises(ValueError, match="min_time must be in"):
    gaussian.draw_noise(jax.random.key(0), x, min_time=1.0)
