# SPDX-License-Identifier: Apache-2.0
"""Gaussian diffusion of Gaussian data, whose best denoiser is known.

Under an affine denoiser a loss is a quadratic in (x, eps): three nodes of Gauss
and Hermite give its expectation exactly, and there is nothing to sample.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness, plotting
from jaxalign.diffusion import gaussian, predictions, schedules

VARIANCE = 2.3  # of the data, about 0
STEPS = (4, 16, 64, 256, 1024)
SHARE = 0.2  # alpha^2 at t = 1, for the bound less the entropy
EXACT = 1e-10  # sums of 1024 terms of order 1
NODES, MASSES = np.polynomial.hermite_e.hermegauss(3)
MASSES = MASSES / math.sqrt(2 * math.pi)

log_linear = functools.partial(
  schedules.log_linear_gamma, gamma_min=-math.log(1e4), gamma_max=math.log(1e3)
)


def curved(t: jax.Array) -> jax.Array:
  """Another way between the same ends."""
  return log_linear(0.3 * t + 0.7 * t**3)


def optimal(gamma, prediction: str):
  """The best denoiser, by the regression of x on z."""

  def denoiser(z, t):
    alpha, sigma = predictions.alpha_sigma(gamma(t))
    slope = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
    return predictions.convert_prediction(
      slope[..., None] * z, z, alpha, sigma, src="x", dst=prediction
    )

  return denoiser


def expectation(loss, times, mean: float = 0.0) -> jax.Array:
  """`E_{x, eps} loss` at each time `[N]`, of x ~ N(mean, v)."""
  shape = (len(times), 3, 3, 1)
  x = mean + math.sqrt(VARIANCE) * NODES[:, None, None]
  x, eps = (jnp.broadcast_to(a, shape) for a in (x, NODES[:, None]))
  t = jnp.broadcast_to(jnp.asarray(times)[:, None, None], shape[:-1])
  return jnp.einsum("nij,i,j->n", loss(x, t, eps), MASSES, MASSES)


def quadrature(num: int = 80) -> tuple[np.ndarray, np.ndarray]:
  """Nodes and weights over [0, 1]."""
  nodes, weights = np.polynomial.legendre.leggauss(num)
  return (nodes + 1) / 2, weights / 2


def t_step_loss(gammas: jax.Array, prediction: str = "eps") -> jax.Array:
  """The diffusion loss of T steps."""
  steps = len(gammas) - 1
  denoiser = optimal(
    lambda t: gammas[jnp.round(t * steps).astype(int)], prediction
  )
  loss = functools.partial(
    gaussian.ddpm_vlb, denoiser, gammas=gammas, prediction=prediction
  )
  return jnp.sum(expectation(loss, np.arange(1, steps + 1)))


def continuous_loss(gamma, prediction: str) -> jax.Array:
  """The diffusion loss of continuous time."""
  times, weights = quadrature()
  loss = functools.partial(
    gaussian.vdm_loss,
    optimal(gamma, prediction),
    gamma=gamma,
    prediction=prediction,
  )
  return weights @ expectation(loss, times)


def negative_bound() -> jax.Array:
  """Prior, reconstruction and diffusion loss, less the entropy."""
  last = math.log((1 - SHARE) / SHARE)
  gamma = functools.partial(
    schedules.log_linear_gamma, gamma_min=-8.0, gamma_max=last
  )
  scale = math.sqrt(VARIANCE / (1 + VARIANCE * math.exp(8.0)))  # of x given z_0

  def ends(x, t, eps):
    first = gaussian.reconstruction_loss(
      optimal(gamma, "v"), x, t, eps, gamma=gamma, scale=scale, prediction="v"
    )
    return first + gaussian.prior_kl(x, gamma=last)

  entropy = math.log(2 * math.pi * math.e * VARIANCE) / 2
  nelbo = expectation(ends, np.zeros(1))[0] + continuous_loss(gamma, "v")
  return nelbo - entropy


def _information(snr: np.ndarray) -> np.ndarray:
  """What z tells of x, nats."""
  return np.log1p(VARIANCE * snr) / 2


def _closed_loss(snr: np.ndarray) -> float:
  """`sum (SNR(s) - SNR(t)) / 2` times the variance of x given z_t."""
  return (snr[:-1] - snr[1:]) @ (VARIANCE / (1 + VARIANCE * snr[1:])) / 2


# --- single terms ------------------------------------------------------------


@jax.jit
def _ddpm_weights(gammas: jax.Array) -> jax.Array:
  return gaussian.ddpm_weights(gammas)


def weight_errors(rng: np.random.Generator) -> np.ndarray:
  """DDPM's weight of the noise's error against that by SNR, random steps."""
  beta = rng.uniform(0.01, 0.4, 64)
  bar = np.cumprod(1 - beta)
  gammas = np.log1p(-bar) - np.log(bar)
  posterior = beta[1:] * (1 - bar[:-1]) / (1 - bar[1:])
  ddpm = beta[1:] ** 2 / (2 * posterior * (1 - beta[1:]) * (1 - bar[1:]))
  return np.asarray(_ddpm_weights(gammas)) / ddpm - 1


def velocity_errors(rng: np.random.Generator) -> np.ndarray:
  """Errors of x and eps by those of v, random draws and noise levels."""
  draws = rng.standard_normal((3, 256, 4))
  return np.asarray(_velocity_errors(*draws, rng.uniform(-4, 4, 256)))


@jax.jit
def _velocity_errors(x, eps, guess, gammas) -> jax.Array:
  alpha, sigma = predictions.alpha_sigma(gammas)
  z = alpha[:, None] * x + sigma[:, None] * eps

  def convert(value, src, dst):
    return predictions.convert_prediction(
      value, z, alpha, sigma, src=src, dst=dst
    )

  square = jnp.sum((convert(x, "x", "v") - guess) ** 2, -1)
  errors = []
  for dst, truth, share in (("x", x, sigma**2), ("eps", eps, alpha**2)):
    found = jnp.sum((truth - convert(guess, "v", dst)) ** 2, -1)
    errors.append(found / (share * square) - 1)
  return jnp.stack(errors)


# --- the part ----------------------------------------------------------------


@jax.jit
def measure() -> dict[str, jax.Array]:
  """All losses, by every kind of prediction."""
  grids = [jnp.arange(n + 1) / n for n in STEPS]
  return {
    "steps": jnp.stack([t_step_loss(log_linear(t)) for t in grids]),
    "coarse": jnp.stack(
      [t_step_loss(log_linear(grids[0]), k) for k in predictions.PREDICTIONS]
    ),
    "continuous": jnp.stack(
      [
        continuous_loss(gamma, k)
        for gamma in (log_linear, curved)
        for k in predictions.PREDICTIONS
      ]
    ),
    "nelbo": negative_bound(),
    "gammas": [log_linear(t) for t in grids],
  }


def gaussian_bounds(*, seed: int) -> harness.Part:
  """Claims on the diffusion loss and its terms."""
  found = jax.tree.map(np.asarray, measure())
  snr = [np.exp(-gammas) for gammas in found["gammas"]]
  limit = np.subtract(*_information(snr[0][[0, -1]]))
  closed = np.array([_closed_loss(s) for s in snr])
  d = SHARE * (VARIANCE - 1)
  rng = np.random.default_rng(seed)
  claims = [
    harness.all_agree(
      "vdm_steps",
      "loss of T steps, T from 4 to 1024, against half the sum of SNR"
      " differences times variances of x given z: largest relative difference",
      found["steps"] / closed - 1,
      tolerance=EXACT,
    ),
    harness.none_exceeds(
      "vdm_falls",
      "loss of T steps rises from one T to the next and to continuous time by",
      np.diff([*found["steps"], limit]),
      tolerance=0.0,
    ),
    harness.all_agree(
      "vdm_continuous",
      "loss of continuous time, two schedules with the same ends and five kinds"
      " of prediction, less the difference of what z tells of x: largest",
      found["continuous"] - limit,
      tolerance=EXACT,
    ),
    harness.all_agree(
      "vdm_predictions",
      "loss of 4 steps by five kinds of prediction: largest relative error",
      found["coarse"] / closed[0] - 1,
      tolerance=EXACT,
    ),
    harness.Claim(
      name="nelbo_entropy",
      statement="negative bound less entropy, v = 2.3 and alpha_1^2 = .2,"
      " against (d - log(1 + d)) / 2",
      theory=(d - math.log1p(d)) / 2,
      measured=found["nelbo"],
      tolerance=EXACT,
    ),
    harness.all_agree(
      "ddpm_weights",
      "DDPM's weight of the noise's error against (SNR(s)/SNR(t) - 1) / 2:"
      " largest relative difference over random steps",
      weight_errors(rng),
      tolerance=EXACT,
    ),
    harness.all_agree(
      "v_prediction",
      "squared errors of x and eps over sigma^2 and alpha^2 times that of v:"
      " largest difference from 1 over random draws",
      velocity_errors(rng),
      tolerance=EXACT,
    ),
  ]
  curves = {
    "vdm/steps": np.array(STEPS),
    "vdm/loss": found["steps"],
    "vdm/limit": np.array(limit),
  }
  rows = harness.rows(
    T=[*map(str, STEPS), "infinite"], loss=[*found["steps"], limit]
  )
  return harness.Part(claims, curves, {"diffusion loss of T steps": rows})


def plot(axes, curves: dict[str, np.ndarray]) -> None:
  """The loss of T steps and its limit."""
  axes.plot(curves["vdm/steps"], curves["vdm/loss"], "o-", ms=3, label="L_T")
  axes.axhline(
    curves["vdm/limit"], color="black", ls=":", lw=1, label="continuous time"
  )
  plotting.log_scale(axes, "x")
  axes.set_ylim(0, None)
  axes.set(
    xlabel="steps T",
    ylabel="diffusion loss, nats",
    title="Gaussian data: the loss of T steps",
  )
  axes.legend()
