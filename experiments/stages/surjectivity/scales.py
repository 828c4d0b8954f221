# SPDX-License-Identifier: Apache-2.0
"""Inversion of random transformers whose weights grow."""

from collections.abc import Sequence

import jax
import numpy as np
from matplotlib.axes import Axes

from experiments import harness
from experiments.stages.surjectivity import nets, search

ACCURATE = 1e-6  # largest entry of the error that counts as an inverse
WHOLE_RESTARTS = 5


def _measure(
  rng: np.random.Generator,
  scales: Sequence[float],
  num_targets: int,
  num_restarts: int,
) -> dict:
  """Results by scale, stacked: the same draws for all, times the scale."""
  unit = nets.draw(rng, num_targets)
  y = 3 * rng.normal(size=(num_targets, nets.TOKENS, nets.WIDTH))
  noise = search.starts(rng, max(num_restarts, WHOLE_RESTARTS))
  found = []
  for scale in scales:
    p = {name: scale * w for name, w in unit.items()}
    found.append(
      {
        **search.arclength(p, y),
        "damped": search.damped_newton(p, y, noise[:num_restarts]),
        "whole": search.whole_newton(p, y, noise[:WHOLE_RESTARTS]),
      }
    )
  return jax.tree.map(lambda *x: np.stack(x), *found)


def _claims(found: dict, share: dict) -> list[harness.Claim]:
  return [
    harness.Claim(
      name="arclength",
      statement="stacks of pre-norm sub-blocks are inverted to 1e-6 at any"
      " target and scale of weights: smallest share over scales",
      theory=1.0,
      measured=share["error"].min(),
      tolerance=0.0,
    ),
    harness.none_exceeds(
      "moved",
      "no token's preimage under a sub-block is further away than the bound on"
      " what the sub-block adds: largest excess",
      [found["excess"]],
      tolerance=0.0,
    ),
    harness.Claim(
      name="folds",
      statement="paths at the largest scale turn back and forth, so steps in t"
      " alone cannot follow them: most turns of a path",
      theory=2.0,
      measured=found["folds"][-1].max(),
      tolerance=0.0,
      relation=">=",
    ),
    harness.Claim(
      name="newton",
      statement="Newton's method on the whole stack, restarted, finds fewer at"
      " the largest scale, by half of the targets at least: its share less that"
      " of the paths",
      theory=-0.5,
      measured=share["whole"][-1] - share["error"][-1],
      tolerance=0.0,
      relation="<=",
    ),
  ]


def scales(
  rng: np.random.Generator,
  *,
  scales: Sequence[float],
  num_targets: int,
  num_restarts: int,
) -> harness.Part:
  """Claims on what is found, and on what the others miss.

  Args:
    rng: the source of weights and targets.
    scales: of the weights, rising.
    num_targets: networks with a target each.
    num_restarts: of damped Newton on each sub-block.
  """
  found = _measure(rng, scales, num_targets, num_restarts)
  share = {
    name: (found[name] < ACCURATE).mean(1)
    for name in ("error", "damped", "whole")
  }
  tables = {
    "inverted to 1e-6, by scale of the weights": harness.rows(
      scale=scales,
      arclength=share["error"],
      mean_steps=found["steps"].mean((1, 2)),
      most_steps=found["steps"].max((1, 2)),
      most_folds=found["folds"].max((1, 2)),
      damped_Newton=share["damped"],
      Newton_on_the_stack=share["whole"],
    )
  }
  curves = {
    "scales/scale": np.array(scales),
    "scales/steps": found["steps"],
    **{f"scales/{name}": values for name, values in share.items()},
  }
  return harness.Part(_claims(found, share), curves, tables)


def plot_success(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Shares by scale."""
  labels = {
    "error": "arclength, by sub-block",
    "damped": "damped Newton, by sub-block",
    "whole": "Newton on the stack",
  }
  for i, (name, label) in enumerate(labels.items()):
    axes.plot(
      curves["scales/scale"],
      curves[f"scales/{name}"],
      marker="os^"[i],
      label=label,
    )
  axes.set(
    xlabel="scale of the weights",
    ylabel="share inverted to 1e-6",
    ylim=(-0.05, 1.05),
    title="targets inverted",
  )
  axes.legend()


def plot_steps(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Mean and largest number of steps by scale."""
  steps = curves["scales/steps"]
  for i, (label, values) in enumerate(
    (("mean", steps.mean((1, 2))), ("most", steps.max((1, 2))))
  ):
    axes.plot(
      curves["scales/scale"], values, "o", linestyle="-:"[i], label=label
    )
  axes.set(
    xlabel="scale of the weights",
    ylabel="steps of a sub-block",
    ylim=(0, None),
    title="length of the paths",
  )
  axes.legend()
