# SPDX-License-Identifier: Apache-2.0
"""Pictures of a run."""

import numpy as np
from matplotlib.figure import Figure

from experiments import plotting


def learning(curves: dict[str, np.ndarray]) -> Figure:
  """Loss, accuracy and margin at each step, and on held-out pairs."""
  figure, axes = plotting.figure(1, 3, width=3.6)
  step = curves["metrics/step"]
  for panel, name in zip(axes, ("loss", "accuracy", "margin"), strict=True):
    panel.plot(
      step, curves[f"metrics/{name}"], color="C0", alpha=0.6, label="batch"
    )
    held_out = curves.get(f"metrics/eval/{name}")
    if held_out is not None:
      there = np.isfinite(held_out)
      panel.plot(
        step[there], held_out[there], "o-", color="C1", label="held out"
      )
    panel.set(xlabel="step", title=name)
  axes[1].axhline(0.5, color="grey", linestyle=":", linewidth=1)
  axes[0].legend()
  return figure


def margins(curves: dict[str, np.ndarray]) -> Figure:
  """How the trained model's margins are distributed."""
  figure, (axes,) = plotting.figure()
  names = "train", "held out"
  values = [curves[f"margins/{name}/trained"] for name in names]
  low, high = np.percentile(np.concatenate(values), (0.5, 99.5))
  edges = np.linspace(low - 1e-3, high + 1e-3, 31)
  for name, value in zip(names, values, strict=True):
    axes.hist(
      np.clip(value, low, high), edges, density=True, alpha=0.6, label=name
    )
  axes.axvline(0, color="grey", linewidth=1)
  axes.set(
    xlabel="reward of chosen less that of rejected",
    ylabel="density of pairs",
    title="margins after training",
  )
  axes.legend()
  return figure


def words(curves: dict[str, np.ndarray]) -> Figure:
  """The trained law against the optimum."""
  figure, (axes,) = plotting.figure()
  best = curves["words/optimum"]
  for name in ("reference", "trained"):
    axes.plot(best, curves[f"words/{name}"], ".", label=name)
  ends = [min(best.min(), curves["words/trained"].min()), best.max()]
  axes.plot(ends, ends, color="grey", linewidth=1)
  plotting.log_scale(axes, "x", "y")
  axes.set(
    xlabel="probability at the optimum",
    ylabel="probability",
    title="each word",
  )
  axes.legend()
  return figure
