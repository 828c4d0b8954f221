# SPDX-License-Identifier: Apache-2.0
"""Flow matching of Gaussian data: the weight of a bound, and likelihoods."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness, plotting
from experiments.stages.elbo_identities import gaussian_bounds
from jaxalign.diffusion import flow, gaussian

MEAN, VARIANCE = 0.7, gaussian_bounds.VARIANCE
FAR = 3.7  # distance from the mean of the data whose likelihood is computed
ENDS = 0.05, 0.999  # times between which the loss is integrated
STEPS = (5, 10, 20, 40, 80, 160, 320)


def gamma(t: jax.Array) -> jax.Array:
  """`-log SNR` of `(1 - t) x + t eps`."""
  return 2 * (jnp.log(t) - jnp.log1p(-t))


def best(z: jax.Array, t: jax.Array) -> jax.Array:
  """The velocity of N(m, v)."""
  return flow.affine_velocity(jnp.array([MEAN]), jnp.array([VARIANCE]))(z, t)


def weight_errors(rng: np.random.Generator) -> dict[str, np.ndarray]:
  """Losses of a wrong velocity over `vdm_loss`, draw by draw."""
  draws = rng.standard_normal((2, 256, 4))
  found = _weight_errors(*draws, rng.uniform(0.05, 0.95, 256))
  return jax.tree.map(np.asarray, found)


@jax.jit
def _weight_errors(x, eps, t) -> dict[str, jax.Array]:

  def velocity(z, t):
    return jnp.sin(z) + t[..., None]

  def denoiser(z, t):  # of the z whose variance is kept
    return velocity(z * jnp.sqrt((1 - t) ** 2 + t**2)[..., None], t)

  vdm = gaussian.vdm_loss(denoiser, x, t, eps, gamma=gamma, prediction="u")
  elbo = flow.flow_matching_loss(velocity, x, t, eps, weight="elbo")
  uniform = flow.flow_matching_loss(velocity, x, t, eps)
  return {
    "elbo": elbo / vdm - 1,
    "uniform": uniform / (jnp.exp(gamma(t) / 2) * vdm) - 1,
  }


@jax.jit
def integrated_loss() -> jax.Array:
  """The bound's loss of the best velocity between two times."""
  nodes, weights = gaussian_bounds.quadrature()
  low, high = ENDS
  times = low + (high - low) * nodes
  loss = functools.partial(flow.flow_matching_loss, best, weight="elbo")
  return (high - low) * weights @ gaussian_bounds.expectation(loss, times, MEAN)


@jax.jit
def likelihoods() -> jax.Array:
  """The flow's log-density at one point, by steps."""
  x = jnp.array([MEAN - FAR])
  return jnp.stack([flow.ode_log_prob(best, x, num_steps=n) for n in STEPS])


def flow_bounds(*, seed: int) -> harness.Part:
  """Claims on the loss and the likelihood of a flow."""
  missed = weight_errors(np.random.default_rng(seed))
  snr = [((1 - t) / t) ** 2 for t in ENDS]
  integral = math.log((1 + VARIANCE * snr[0]) / (1 + VARIANCE * snr[1])) / 2
  exact = -(FAR**2 / VARIANCE + math.log(2 * math.pi * VARIANCE)) / 2
  errors = np.abs(np.asarray(likelihoods()) - exact)
  order = np.log2(errors[-2] / errors[-1])
  claims = [
    harness.all_agree(
      "flow_elbo_weight",
      "flow matching with weight (1 - t)/t over the diffusion loss, draw by"
      " draw: largest difference from 1",
      missed["elbo"],
      tolerance=gaussian_bounds.EXACT,
    ),
    harness.all_agree(
      "flow_uniform_weight",
      "flow matching with weight 1 over exp(-lambda/2) times the diffusion"
      " loss, draw by draw: largest difference from 1",
      missed["uniform"],
      tolerance=gaussian_bounds.EXACT,
    ),
    harness.Claim(
      name="flow_integral",
      statement="flow matching with weight (1 - t)/t, best velocity, over t"
      " from .05 to .999: the diffusion loss between these",
      theory=integral,
      measured=integrated_loss(),
      tolerance=gaussian_bounds.EXACT,
    ),
    harness.Claim(
      name="ode_order",
      statement="probability flow, Runge and Kutta: the order of the"
      " log-likelihood's error, from 160 to 320 steps",
      theory=4.0,
      measured=order,
      tolerance=0.1,  # the next order is a share of some 10/320
    ),
    harness.Claim(
      name="ode_log_prob",
      statement="probability flow, 320 steps: the log-density, 3.7 from the"
      " mean of N(.7, 2.3)",
      theory=exact,
      measured=likelihoods()[-1],
      tolerance=1e-10,  # the error of order 4 is below at 160 steps
    ),
  ]
  curves = {"ode/steps": np.array(STEPS), "ode/error": errors}
  rows = harness.rows(steps=STEPS, error=errors)
  title = "log-likelihood of a flow by Runge and Kutta"
  return harness.Part(claims, curves, {title: rows})


def plot(axes, curves: dict[str, np.ndarray]) -> None:
  """The likelihood's error by steps."""
  steps, errors = curves["ode/steps"], curves["ode/error"]
  axes.plot(steps, errors, "o-", ms=3, label="Runge and Kutta")
  axes.plot(
    steps,
    errors[-1] * (steps[-1] / steps) ** 4,
    color="black",
    ls=":",
    lw=1,
    label="steps to the power -4",
  )
  plotting.log_scale(axes, "x", "y")
  axes.set(
    xlabel="steps",
    ylabel="error of log p, nats",
    title="Gaussian data: likelihood of a flow",
  )
  axes.legend()
