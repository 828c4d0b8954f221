# SPDX-License-Identifier: Apache-2.0
"""Noise for given data under deterministic samplers with exact predictions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness, plotting
from jaxalign.diffusion import predictions
from jaxalign.learning import ddim_inversion

COMPONENTS, WIDTH, STEPS = 5, 4, 50
SPREAD, STANDARD_DEVIATION = 2.0, 0.7
# Of `log SNR`, evenly: from nearly clean to nearly pure.
GAMMAS = np.linspace(-8, 6, STEPS + 1)
TOLERANCE = 1e-13
LABELS = {
  "newton": "Newton",
  "fixed_point": "fixed point",
  "explicit": "usual DDIM inversion",
}


def _noise(means, weights, z, alpha, sigma):
  """`E[eps | z]` of a Gaussian mixture, for z `[..., D]`."""
  alpha, sigma = alpha[..., None], sigma[..., None]
  variance = (alpha * STANDARD_DEVIATION) ** 2 + sigma**2
  away = z[..., None, :] - alpha[..., None] * means
  share = jax.nn.softmax(
    jnp.log(weights) - jnp.sum(away**2, -1) / (2 * variance)
  )
  return sigma * jnp.sum(share[..., None] * away, -2) / variance


def _fields(means, weights):
  """Noise for DDIM, and velocity of `z = (1 - t) x + t eps` for the flow."""

  def eps_fn(z, t):
    gamma = GAMMAS[0] + (GAMMAS[-1] - GAMMAS[0]) * t
    return _noise(means, weights, z, *predictions.alpha_sigma(gamma))

  def velocity(z, t):
    # `(eps - z) / (1 - t)` has no value at pure noise.
    t = jnp.minimum(t, 1 - 1e-3)
    eps = _noise(means, weights, z, 1 - t, t)
    return (eps - z) / (1 - t)[..., None]

  return eps_fn, velocity


def _errors(found, sample, x0):
  """Errors `[N]` of the data from each noise that was found."""
  data = sample(jnp.stack(list(found.values())))
  return dict(zip(found, jnp.max(jnp.abs(data - x0), -1), strict=True))


@jax.jit
def _measure(means, weights, x0):
  """Errors `[N]` of each method for DDIM; of one, and of reversal, for a flow.

  Reversal runs the flow's solver backwards in time.
  """
  eps_fn, velocity = _fields(means, weights)
  ddim = {
    method: ddim_inversion.ddim_inverse(
      eps_fn, x0, GAMMAS, method=method, tolerance=TOLERANCE
    ).x
    for method in ddim_inversion.INVERSION_METHODS
  }
  solve = functools.partial(ddim_inversion.flow_sample, num_steps=STEPS)
  flow = {
    "flow": ddim_inversion.flow_inverse(
      velocity, x0, num_steps=STEPS, tolerance=TOLERANCE
    ).x,
    "reversed flow": solve(lambda z, t: -velocity(z, 1 - t), x0),
  }
  return {
    **_errors(
      ddim, lambda x: ddim_inversion.ddim_sample(eps_fn, x, GAMMAS), x0
    ),
    **_errors(flow, functools.partial(solve, velocity), x0),
  }


def _data(rng: np.random.Generator, num: int) -> tuple[np.ndarray, ...]:
  """Means, weights, and targets on and off the distribution, half each."""
  means = SPREAD * rng.normal(size=(COMPONENTS, WIDTH))
  weights = rng.dirichlet(np.full(COMPONENTS, 5.0))
  on = means[rng.choice(COMPONENTS, num // 2, p=weights)]
  on = on + STANDARD_DEVIATION * rng.normal(size=on.shape)
  off = 3 * rng.normal(size=(num - len(on), WIDTH))
  return means, weights, np.concatenate([on, off])


def samplers(rng: np.random.Generator, *, num_targets: int) -> harness.Part:
  """Claims on the noise that is found.

  Args:
    rng: the source of the mixture and the targets.
    num_targets: half of them drawn from the mixture, half far off.
  """
  means, weights, x0 = _data(rng, num_targets)
  found = jax.tree.map(np.asarray, _measure(means, weights, x0))
  exact = "is inverted at any data: largest error of what the noise gives"
  # Errors of 1e-13 a step, which the steps after it enlarge.
  claims = [
    harness.none_exceeds(
      f"ddim_{method}",
      f"DDIM, step by step by {label}, {exact}",
      [found[method]],
      tolerance=1e-9,
    )
    for method, label in (
      ("newton", "Newton's method"),
      ("fixed_point", "fixed point"),
    )
  ]
  claims += [
    harness.Claim(
      name="ddim_usual",
      statement="the usual DDIM inversion is none: smallest error of what its"
      " noise gives",
      theory=1e-3,
      measured=found["explicit"].min(),
      tolerance=0.0,
      relation=">=",
    ),
    harness.none_exceeds(
      "flow_newton",
      f"Runge and Kutta's solver of the probability flow {exact}",
      [found["flow"]],
      tolerance=1e-9,
    ),
  ]
  tables = {
    "data from the noise that was found": harness.rows(
      method=list(found),
      median_error=[np.median(e) for e in found.values()],
      largest_error=[e.max() for e in found.values()],
      within_1e_6=[(e < 1e-6).mean() for e in found.values()],
    )
  }
  curves = {f"samplers/{name}": values for name, values in found.items()}
  return harness.Part(claims, curves, tables)


def plot(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Sorted errors of each method."""
  for i, (name, label) in enumerate(LABELS.items()):
    errors = np.sort(curves[f"samplers/{name}"])
    # Zero has no place on a logarithmic axis.
    errors = np.maximum(errors, 1e-17)
    share = (np.arange(len(errors)) + 1) / len(errors)
    axes.plot(errors, share, label=label, **plotting.line_style(i))
  axes.set(
    xscale="log",
    xlabel="error of the data from the noise",
    ylabel="share of targets below",
    title=f"DDIM, {STEPS} steps",
  )
  axes.legend()
