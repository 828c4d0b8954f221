# SPDX-License-Identifier: Apache-2.0
"""The two Gaussians P and Q of the lower bounds, and their divergences."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from experiments.stages.divergence_bounds import registry
from jaxalign.divergences import categorical, gaussian, generators

P_MEAN, P_SCALE, Q_MEAN, Q_SCALE = 0.3, 0.8, -0.5, 1.3
# Bounds go by the names of their divergences, of which KL has two.
DV, NWJ = "donsker_varadhan", "kl"
GRID = np.linspace(-14, 14, 4001)
LOG_P = scipy.stats.norm.logpdf(GRID, P_MEAN, P_SCALE)
LOG_Q = scipy.stats.norm.logpdf(GRID, Q_MEAN, Q_SCALE)


def masses() -> tuple[np.ndarray, np.ndarray]:
  """Masses of P and Q `[G]` on the grid."""
  step = GRID[1] - GRID[0]
  return np.exp(LOG_P) * step, np.exp(LOG_Q) * step


def bounded() -> dict[str, generators.FDivergence]:
  """The divergences that are finite between the two Gaussians."""
  divergences = registry.registry()
  return {k: v for k, v in divergences.items() if k != "neyman_chi2"}


@jax.jit
def closed_forms(log_p: jax.Array, log_q: jax.Array) -> dict[str, jax.Array]:
  """What each bound is a lower bound of.

  Args:
    log_p: `[G]`, log-density of P on a uniform grid.
    log_q: `[G]`, of Q.

  Returns:
    Scalars, by quadrature on the grid where there is no closed form.
  """
  p, q = jnp.array([P_MEAN, P_SCALE]), jnp.array([Q_MEAN, Q_SCALE])
  pair, swapped = (*p[:, None], *q[:, None]), (*q[:, None], *p[:, None])
  kl = gaussian.gaussian_kl_diag(*pair)
  reverse = gaussian.gaussian_kl_diag(*swapped)
  alpha = registry.ALPHA
  renyi = gaussian.gaussian_renyi_diag(*pair, alpha=alpha)
  values = {
    DV: kl,
    "kl": kl,
    "reverse_kl": reverse,
    "jeffreys": kl + reverse,
    "pearson_chi2": gaussian.gaussian_pearson_chi2_diag(*pair),
    "squared_hellinger": gaussian.gaussian_squared_hellinger_diag(*pair),
    "alpha": jnp.expm1((alpha - 1) * renyi) / (alpha * (alpha - 1)),
  }
  for name, div in bounded().items():
    if name not in values:
      values[name] = categorical.categorical_f_divergence(div, log_p, log_q)
  return values
