# SPDX-License-Identifier: Apache-2.0
"""Learning curves, and what every arm has come to."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import plotting
from experiments.stages.diffusion_control import environments


def learning_curves(curves: dict[str, np.ndarray]) -> Figure:
  """Returns in both environments and regret in the first, over updates."""
  names = [str(x) for x in curves["environments"]]
  shown = [(name, "returns") for name in names] + [(names[0], "regret")]
  arms = [str(x) for x in curves["arms"]]
  of_ratios = [i for i, arm in enumerate(arms) if arm.startswith("FPO")]
  others = [i for i in range(len(arms)) if i not in of_ratios]
  figure, panels = plotting.figure(2, 3, width=3.9, height=2.8)
  for row, (group, where) in enumerate(
    ((of_ratios, "upper"), (others, "lower"))
  ):
    for column, (name, key) in enumerate(shown):
      panel = panels[3 * row + column]
      for i in group:
        samples = curves[f"{name}/{key}"][i]
        updates = np.arange(samples.shape[-1])
        style = plotting.line_style(i)
        plotting.band(panel, updates, samples, arms[i], **style)
      panel.set(xlabel="update", ylabel=key.removesuffix("s"), title=name)
      if key == "regret":
        panel.set_ylim(0, None)
    handles, labels = panels[3 * row].get_legend_handles_labels()
    figure.legend(handles, labels, loc=f"outside {where} center", ncols=6)
  return figure


def _points(axes: Axes, arms, samples: np.ndarray) -> None:
  """The mean of each arm `[arms, S]` with its 95 % interval, a row each."""
  mean = samples.mean(-1)
  half = 1.96 * samples.std(-1, ddof=1) / samples.shape[-1] ** 0.5
  for i, arm in enumerate(arms):
    style = {"color": plotting.line_style(i)["color"], "fmt": "o", "ms": 4}
    axes.errorbar(mean[i], str(arm), xerr=half[i], capsize=3, **style)
  axes.invert_yaxis()
  axes.set_xlim(0, None)


def each_arm(curves: dict[str, np.ndarray]) -> Figure:
  """Regret and gap after all updates, with the gap at the start."""
  figure, panels = plotting.figure(1, 3, width=4.0, height=3.2)
  arms = curves["arms"]
  point_mass = environments.POINT_MASS
  _points(panels[0], arms, curves[f"{point_mass}/ends/regret"])
  panels[0].set(xlabel="regret after all updates", title=point_mass)
  for panel, name in zip(panels[1:], curves["environments"], strict=True):
    _points(panel, arms, curves[f"{name}/ends/excess"])
    flow, tight, _ = curves[f"{name}/starts/excess"].mean(-1)
    panel.axvline(flow, color="black", ls=":", label="flow at the start")
    panel.axvline(tight, color="black", ls="--", label="the same, distilled")
    panel.set(xlabel="excess flow matching loss", title=str(name))
  handles, labels = panels[-1].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=2)
  return figure
