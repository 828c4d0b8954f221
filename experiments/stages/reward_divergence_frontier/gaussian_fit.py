# SPDX-License-Identifier: Apache-2.0
"""The entropy's own weight in H-DPO: a Gaussian fitted to two modes.

Without a reward the objective is `alpha E log pi - E log ref`, least at
`ref^(1/alpha)` where the policy is free; here it is one Gaussian.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness
from jaxalign import preference

WEIGHTS, MODES = (0.6, 0.4), (-2.0, 2.0)  # of unit Gaussians
ALPHAS = np.array([1.0, 0.9, 0.8, 0.7, 0.6])
# On the larger mode, and over both: mean and logarithm of the scale.
STARTS = np.array([[-2.0, 0.0], [0.0, 0.7]])
# Equal steps of a standard normal: exact for such integrands but for 1e-12.
GRID = np.linspace(-10.0, 10.0, 2001)


def log_reference(y, modes):
  """The mixture's log-density at `y`."""
  parts = [np.log(w) - (y - modes[i]) ** 2 / 2 for i, w in enumerate(WEIGHTS)]
  return jnp.logaddexp(*parts) - np.log(2 * np.pi) / 2


@jax.jit
def fits(modes, alphas):
  """Means and scales `[A, 2]` of the best Gaussian of all starts."""
  density = np.exp(-(GRID**2) / 2)
  density /= density.sum()

  def one(alpha, start):
    def objective(x):
      mean, log_scale = x
      y = mean + jnp.exp(log_scale) * GRID
      # The entropy of a Gaussian is log_scale and a constant.
      return -alpha * log_scale - density @ log_reference(y, modes)

    return preference.minimize_population(objective, start, num_steps=40)

  found = jax.vmap(jax.vmap(one, (None, 0)), (0, None))(alphas, STARTS)
  best = jnp.argmin(found.loss, -1)[:, None, None]
  mean, log_scale = jnp.take_along_axis(found.x, best, 1)[:, 0].T
  return jnp.stack([mean, jnp.exp(log_scale)], -1)


def gaussian_fit() -> harness.Part:
  """Claims on the fits as alpha falls."""
  fitted = np.asarray(fits(np.array(MODES), ALPHAS))
  single = np.asarray(fits(np.ones(2), ALPHAS))
  expected = np.stack([np.ones_like(ALPHAS), np.sqrt(ALPHAS)], -1)
  claims = [
    harness.all_agree(
      "entropy_weight",
      "H-DPO's objective with a Gaussian reference of mean 1 and scale 1: mean"
      " and scale of the fit less 1 and sqrt(alpha)",
      single - expected,
      tolerance=1e-9,
    ),
    harness.none_exceeds(
      "entropy_weight_scale",
      "H-DPO's objective with a reference of two modes: growth of the fitted"
      " scale as alpha falls from 1 to .6, largest",
      np.diff(fitted[:, 1]),
      tolerance=0.0,
    ),
    harness.Claim(
      name="entropy_weight_mode",
      statement="H-DPO's objective with a reference of two modes: distance of"
      " the fitted mean to the larger mode at alpha .6 over that at alpha 1",
      theory=1.0,
      measured=np.divide(*np.abs(fitted[[-1, 0], 0] - MODES[0])),
      tolerance=0.0,
      relation="<=",
    ),
  ]
  table = harness.rows(alpha=ALPHAS, mean=fitted[:, 0], scale=fitted[:, 1])
  curves = {"fit/alphas": ALPHAS, "fit/gaussians": fitted}
  return harness.Part(claims, curves, {"a Gaussian fitted to two modes": table})


def plot(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """The reference's density and the first and last fit."""
  y = np.linspace(-7, 7, 300)
  reference = np.exp(log_reference(y, MODES))
  axes.plot(y, reference, color="0.5", label="reference")
  for i in (0, -1):
    mean, scale = curves["fit/gaussians"][i]
    density = np.exp(-(((y - mean) / scale) ** 2) / 2) / scale
    density /= np.sqrt(2 * np.pi)
    axes.plot(y, density, label=f"alpha = {curves['fit/alphas'][i]:g}")
  axes.set(xlabel="y", title="H-DPO's objective: one Gaussian for two modes")
  axes.legend()
