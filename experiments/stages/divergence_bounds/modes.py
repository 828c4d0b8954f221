# SPDX-License-Identifier: Apache-2.0
"""One Gaussian fitted to a mixture of two, in four directions.

Mean and standard deviation that Adam finds, against a search in two dimensions
for KL(model||target) and its entropy-weighted kin, and against the moments of
the target for KL(target||model).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from experiments import harness, plotting
from experiments.stages.divergence_bounds import adam
from jaxalign import numerics
from jaxalign.divergences import categorical

WEIGHTS, MODES = (0.6, 0.4), (-2.0, 2.0)
ENTROPY_WEIGHTS = {
  "KL(model||target)": 1.0,
  "entropy weighted .6": 0.6,
  "entropy weighted 1.2": 1.2,
}
FORWARD = "KL(target||model)"
FITS = (*ENTROPY_WEIGHTS, FORWARD)
# What the claims call them.
_LABELS = ("reverse_kl", "entropy_0.6", "entropy_1.2", "forward_kl")
_GRID = np.linspace(-15, 15, 301)
_STARTS = (-2.5, 0.5, 2.5)


def _target(x: np.ndarray) -> np.ndarray:
  """Log-density of the mixture."""
  parts = [
    np.log(weight) + scipy.stats.norm.logpdf(x, mode)
    for weight, mode in zip(WEIGHTS, MODES, strict=True)
  ]
  return np.logaddexp(*parts)


def objective(fit: str, mean, scale, x, target) -> jax.Array:
  """What a fit minimises, by sums over a grid much finer than the densities.

  The entropy-weighted ones are `-alpha H(model) - E_model log target`.
  """
  model = -((x - mean) ** 2) / (2 * scale**2)
  if fit == FORWARD:
    return categorical.kl(target, model)
  entropy = -jnp.sum(numerics.plogp(jax.nn.log_softmax(model)))
  return categorical.kl(model, target) + (1 - ENTROPY_WEIGHTS[fit]) * entropy


@jax.jit
def fit_gaussians(x: jax.Array, target: jax.Array) -> tuple:
  """Adam on every objective from three starts; the best by objective.

  Returns:
    Means and standard deviations `[4]`, in the order of `FITS`.
  """

  def values(params):
    """`[4]` of means and logarithms of standard deviations `[4, 2]`."""
    return jnp.stack(
      [
        objective(fit, mean, jnp.exp(log_scale), x, target)
        for fit, (mean, log_scale) in zip(FITS, params, strict=True)
      ]
    )

  def one_start(mean):
    params = adam.minimise(
      lambda params: jnp.sum(values(params)),
      jnp.zeros((len(FITS), 2)).at[:, 0].set(mean),
      rate=0.05,
      steps=800,
    )
    return params, values(params)

  params, reached = jax.vmap(one_start)(jnp.array(_STARTS))
  chosen = params[jnp.argmin(reached, 0), jnp.arange(len(FITS))]
  return chosen[:, 0], jnp.exp(chosen[:, 1])


def search(alpha: float) -> tuple[float, float]:
  """Minimum of `-alpha H - E_model log target` by a grid that zooms in."""
  z = np.linspace(-9, 9, 301)
  weight = np.exp(-(z**2) / 2)
  weight /= weight.sum()
  centre, half = np.array([0.0, 2.0]), np.array([4.0, 1.8])
  for _ in range(14):
    mean, scale = (
      np.linspace(c - h, c + h, 21) for c, h in zip(centre, half, strict=True)
    )
    at = mean[:, None, None] + scale[:, None] * z
    value = -alpha * np.log(scale) - _target(at) @ weight
    i, j = np.unravel_index(np.argmin(value), value.shape)
    centre, half = np.array([mean[i], scale[j]]), half / 3
  return float(centre[0]), float(centre[1])


def _moments() -> tuple[float, float]:
  """Mean and standard deviation of the mixture."""
  mean = float(np.dot(WEIGHTS, MODES))
  second = float(np.dot(WEIGHTS, np.square(MODES)))
  return mean, math.sqrt(1 + second - mean**2)


def modes() -> harness.Part:
  """Claims, curves and a table of all fits."""
  found = fit_gaussians(jnp.asarray(_GRID), jnp.asarray(_target(_GRID)))
  fits = np.stack([np.asarray(x) for x in found], 1)
  theory = [search(alpha) for alpha in ENTROPY_WEIGHTS.values()]
  theory.append(_moments())
  claims = [
    harness.Claim(
      name=f"{label}_{what}",
      statement=f"{full} of the Gaussian fitted to two modes by {name}",
      theory=expected[i],
      measured=fitted[i],
      # Adam's last steps; the optima are flat to second order.
      tolerance=1e-4,
    )
    for label, name, expected, fitted in zip(
      _LABELS, FITS, theory, fits, strict=True
    )
    for i, (what, full) in enumerate(
      (("mean", "mean"), ("sd", "standard deviation"))
    )
  ]
  rows = [
    {"objective": name, "mean": mean, "standard deviation": scale}
    for name, (mean, scale) in zip(FITS, fits, strict=True)
  ]
  return harness.Part(
    claims, {"fits": fits}, {"one Gaussian for two modes": rows}
  )


def plot(curves: dict[str, np.ndarray]):
  """The target and every fit."""
  figure, (axes,) = plotting.figure(width=6.0, height=3.4)
  x = np.linspace(-7, 7, 400)
  axes.fill_between(x, np.exp(_target(x)), color="0.85", label="target")
  for name, (mean, scale) in zip(FITS, curves["fits"], strict=True):
    axes.plot(x, scipy.stats.norm.pdf(x, mean, scale), label=name)
  axes.set(
    xlabel="x", ylabel="density", title="one Gaussian fitted to two modes"
  )
  axes.legend()
  return figure
