# SPDX-License-Identifier: Apache-2.0
"""Audit and patch on a known population: steps against their cap."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness, plotting
from experiments.stages.panprediction import worlds
from jaxalign.learning import panpredictions, step_calibration

PRINTED = (0.05, 0.02, 0.01, 0.005)  # errors of the table


def _patch(world: worlds.World, eps: np.ndarray):
  """Patched predictions for each eps, from 1/2."""
  start = jnp.full(world.w.shape, 0.5)
  patch = functools.partial(
    step_calibration.patch_step_calibration, start, *map(jnp.asarray, world)
  )
  found = jax.jit(jax.vmap(lambda eps: patch(eps=eps)))(jnp.asarray(eps))
  return jax.tree.map(np.asarray, found)


def _potential(world: worlds.World, p: np.ndarray) -> np.ndarray:
  return np.sum(world.w * (p - world.f) ** 2, -1)


def audits(
  world: worlds.World, losses: np.ndarray, *, num_eps: int
) -> harness.Part:
  """Claims on patching until eps.

  Args:
    world: the population.
    losses: `[L, A, 2]`.
    num_eps: points of the curve between the largest and the smallest eps.
  """
  between = np.geomspace(PRINTED[0], PRINTED[-1], num_eps)
  eps = np.concatenate([PRINTED, between])
  found = _patch(world, eps)
  caps = 1 / (4 * eps**2)
  start = _potential(world, np.full(world.w.shape, 0.5))
  drop = start - _potential(world, found.predictions)
  gaps = jax.jit(jax.vmap(panpredictions.panprediction_gap, (0, *(None,) * 6)))(
    found.predictions, *map(jnp.asarray, (*world, losses))
  )
  claims = [
    harness.none_exceeds(
      "patched_error",
      "step calibration error after patching less eps, at every eps",
      [found.error - eps],
      tolerance=0.0,
    ),
    harness.none_exceeds(
      "patch_steps",
      "patches over their cap 1/(4 eps^2), less 1, at every eps",
      [found.steps / caps - 1],
      tolerance=0.0,
    ),
    harness.none_exceeds(
      "patch_pays",
      "eps^2 for each patch less the fall of E(p - E[y|x])^2, at every eps",
      [found.steps * eps**2 - drop],
      tolerance=1e-12,
    ),
    harness.none_exceeds(
      "patched_gap",
      "panprediction error after patching less its bound, at every eps",
      [gaps.gap.max((2, 3)) - gaps.bound],
      tolerance=1e-12,
    ),
  ]
  first = slice(0, len(PRINTED))
  table = harness.rows(
    eps=eps[first],
    patches=found.steps[first],
    cap=np.rint(caps[first]).astype(int),
    error=found.error[first],
    panprediction_error=gaps.gap.max((1, 2, 3))[first],
    smallest_bound=gaps.bound.min(1)[first],
  )
  rest = slice(len(PRINTED), None)
  curves = {
    "audits/eps": eps[rest],
    "audits/steps": found.steps[rest],
    "audits/caps": caps[rest],
  }
  return harness.Part(claims, curves, {"audit and patch": table})


def plot(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Steps and their cap."""
  eps = curves["audits/eps"]
  axes.plot(eps, curves["audits/steps"], "o-", ms=3, label="patches made")
  axes.plot(eps, curves["audits/caps"], "k--", label="cap 1/(4 eps²)")
  plotting.log_scale(axes, "x", "y")
  axes.invert_xaxis()
  axes.set(xlabel="eps", ylabel="patches", title="audit and patch, population")
  axes.legend()
