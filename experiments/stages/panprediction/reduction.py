# SPDX-License-Identifier: Apache-2.0
"""From step calibration to panprediction, and its two special cases."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.stages.panprediction import worlds
from jaxalign.learning import panpredictions


def _gaps(p: np.ndarray, world: worlds.World, losses: np.ndarray):
  """Gaps and bounds of many predictors `[P, N]`."""
  run = jax.vmap(panpredictions.panprediction_gap, (0, *(None,) * 6))
  found = jax.jit(run)(jnp.asarray(p), *map(jnp.asarray, (*world, losses)))
  return np.asarray(found.gap), np.asarray(found.bound)


def _margins(losses: np.ndarray) -> np.ndarray:
  """`phi(p) = D(k_l(p))` on a fine grid, `[L, P]`."""
  p = jnp.linspace(0, 1, 2001)
  action = jax.vmap(panpredictions.best_response_action, (0, None))(losses, p)
  margin = losses[..., 1] - losses[..., 0]
  return np.take_along_axis(margin, np.asarray(action), 1)


def reduction(
  rng: np.random.Generator,
  world: worlds.World,
  losses: np.ndarray,
  *,
  num_predictors: int,
) -> harness.Part:
  """Claims on gaps of random predictors.

  Args:
    rng: the source of the predictors.
    world: the population.
    losses: `[L, A, 2]`.
    num_predictors: how many.
  """
  p = rng.random((num_predictors, world.w.size))
  whole, bound = _gaps(p, world, losses)
  everybody = world._replace(G=np.ones((1, world.w.size)))
  omni, omni_bound = _gaps(p, everybody, losses)
  one, one_bound = _gaps(p, world, losses[:1])
  cases = {
    "panprediction": (whole, bound),
    "omniprediction (one group)": (omni, omni_bound),
    "multi-group learning (one loss)": (one, one_bound),
  }
  phi = _margins(losses)
  claims = [
    harness.none_exceeds(
      "phi_monotone",
      "largest rise of D(k_l(p)) along p, of every loss",
      [np.diff(phi, axis=1)],
      tolerance=0.0,
    ),
    harness.none_exceeds(
      "phi_part",
      "|phi(1)| + TV(phi) less 3, losses being in [0, 1]",
      [np.abs(phi[:, -1]) + np.abs(np.diff(phi, axis=1)).sum(1) - 3],
      tolerance=0.0,
    ),
    harness.none_exceeds(
      "gap_bound",
      "panprediction gap over its bound, less 1: random predictors",
      [(whole / bound[..., None, None]) - 1],
      tolerance=0.0,
    ),
    harness.none_exceeds(
      "special_cases",
      "omniprediction's and multi-group learning's gaps over their bounds,"
      " less 1",
      [
        (gap / most[..., None, None]) - 1
        for gap, most in list(cases.values())[1:]
      ],
      tolerance=0.0,
    ),
    harness.all_agree(
      "special_cases_agree",
      "the special cases are entries of the whole",
      [omni[:, :, 0] - whole[:, :, 0], one[:, 0] - whole[:, 0]],
      tolerance=1e-12,
    ),
  ]
  table = harness.rows(
    case=np.array(list(cases)),
    losses=[gap.shape[1] for gap, _ in cases.values()],
    groups=[gap.shape[2] for gap, _ in cases.values()],
    mean_error=[gap.max((1, 2, 3)).mean() for gap, _ in cases.values()],
    largest_gap_over_bound=[
      (gap / most[..., None, None]).max() for gap, most in cases.values()
    ],
  )
  curves = {"reduction/gap": whole.max((2, 3)), "reduction/bound": bound}
  return harness.Part(claims, curves, {"random predictors": table})


def plot(axes, curves: dict[str, np.ndarray]) -> None:
  """Gap against bound, one point for each predictor and loss."""
  gap, bound = (curves[f"reduction/{name}"] for name in ("gap", "bound"))
  for loss in range(gap.shape[1]):
    axes.plot(bound[:, loss], gap[:, loss], ".", ms=2, alpha=0.5)
  most = gap.max() * 1.1
  axes.plot([0, most], [0, most], "k--", label="gap = bound")
  axes.set(
    xlabel="bound by step calibration",
    ylabel="worst gap of the loss",
    title="random predictors, coloured by loss",
  )
  axes.legend()
