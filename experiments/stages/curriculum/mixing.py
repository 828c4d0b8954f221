# SPDX-License-Identifier: Apache-2.0
"""Learning from weighted distributions against learning from all alike."""

import jax
import numpy as np
from matplotlib.axes import Axes

from experiments import harness, plotting
from experiments.stages.curriculum import worlds

CHECKPOINTS = (250, 500, 750, 1500)
ARMS = ("uniform", "curriculum")
EVERY = 10  # steps between points of the plots


def mixing(rng: np.random.Generator, *, num_seeds: int) -> harness.Part:
  """Claims on where both end.

  Args:
    rng: the source of all draws, which are the same for both.
    num_seeds: runs of each.
  """
  found = worlds.train(worlds.noise(rng, num_seeds))
  found = jax.tree.map(np.asarray, found)
  uniform, adaptive = found["accuracy"]
  gain = adaptive - uniform
  claims = [
    harness.bounded_mean(
      "gain_750",
      "mean accuracy after 750 steps: curriculum less uniform mixing",
      gain[:, 749].mean(-1),
      0.0,
      ">=",
    ),
    harness.bounded_mean(
      "gain_1500",
      "mean accuracy after 1500 steps: curriculum less uniform mixing",
      gain[:, 1499].mean(-1),
      0.0,
      ">=",
    ),
    harness.bounded_mean(
      "gain_hardest",
      "accuracy on the hardest problems after 1500 steps: curriculum less"
      " uniform mixing",
      gain[:, 1499, -1],
      0.0,
      ">=",
    ),
  ]
  at = np.array(CHECKPOINTS) - 1
  overall = found["accuracy"].mean((1, 3))[:, at]
  hardest = found["accuracy"][..., -1].mean(1)[:, at]
  tables = {
    title: harness.rows(
      mixing=np.array(ARMS),
      **{f"{t}": values[:, i] for i, t in enumerate(CHECKPOINTS)},
    )
    for title, values in (
      ("mean accuracy, by steps", overall),
      ("accuracy on the hardest problems, by steps", hardest),
    )
  }
  shown = np.arange(EVERY - 1, worlds.STEPS, EVERY)
  curves = {"mixing/steps": shown + 1}
  for name, accuracy in zip(ARMS, found["accuracy"], strict=True):
    curves[f"mixing/{name}/accuracy"] = accuracy[:, shown].mean(-1)
    curves[f"mixing/{name}/hardest"] = accuracy[:, shown, -1]
  curves["mixing/weights"] = found["weights"][1][:, shown].mean(0)
  return harness.Part(claims, curves, tables)


def plot_accuracy(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Of all problems and of the hardest."""
  for i, name in enumerate(ARMS):
    for key, dashes in (("accuracy", "-"), ("hardest", ":")):
      plotting.band(
        axes,
        curves["mixing/steps"],
        curves[f"mixing/{name}/{key}"],
        f"{name}, {'all' if key == 'accuracy' else 'hardest'}",
        color=f"C{i}",
        linestyle=dashes,
      )
  axes.set(xlabel="step", ylabel="accuracy", title="accuracy (95 % bands)")
  axes.legend()


def plot_weights(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """The share of each distribution in what is drawn."""
  axes.stackplot(
    curves["mixing/steps"],
    curves["mixing/weights"].T,
    labels=[f"{p:g}" for p in worlds.SUCCESS],
    colors=[f"C{i}" for i in range(len(worlds.SUCCESS))],
  )
  axes.set(
    xlabel="step",
    ylabel="weight, mean over seeds",
    ylim=(0, 1),
    title="curriculum, by success at the start",
  )
  axes.grid(visible=False)
  axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)
