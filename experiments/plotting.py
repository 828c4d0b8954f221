# SPDX-License-Identifier: Apache-2.0
"""One look for all plots. Importing it sets matplotlib's defaults."""

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

matplotlib.rcParams.update(
  {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "grid.alpha": 0.3,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
  }
)


def figure(
  rows: int = 1, columns: int = 1, *, width: float = 4.6, height: float = 3.2
) -> tuple[Figure, list[Axes]]:
  """A figure in the project's style and its axes, row by row.

  Args:
    rows: of panels.
    columns: of panels.
    width: of one panel, inches.
    height: of one panel, inches.
  """
  fig = Figure(figsize=(columns * width, rows * height))
  axes = fig.subplots(rows, columns, squeeze=False)
  return fig, list(axes.flat)


def band(axes: Axes, x, samples, label: str, **style) -> None:
  """Mean over the first axis of `samples` `[S, T]`, with its 95 % interval."""
  mean = samples.mean(0)
  half = 1.96 * samples.std(0, ddof=1) / samples.shape[0] ** 0.5
  (line,) = axes.plot(x, mean, label=label, **style)
  axes.fill_between(
    x, mean - half, mean + half, color=line.get_color(), alpha=0.2, linewidth=0
  )


def log_scale(axes: Axes, *names: str) -> None:
  """Logarithmic axes with plain labels, which draw faster than powers."""
  for name in names:
    axes.set(**{f"{name}scale": "log"})
    axis = getattr(axes, f"{name}axis")
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def line_style(i: int) -> dict[str, str]:
  """Colour and dashes of the i-th line: 30 that can be told apart."""
  return {"color": f"C{i % 10}", "linestyle": ("-", "--", ":")[i // 10]}
