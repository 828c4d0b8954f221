# SPDX-License-Identifier: Apache-2.0
"""How fast every algorithm converges, and to what duality gap.

Factors of the KL per step, fitted to the curves, against those of the
linearised algorithms.
"""

import numpy as np

from experiments import harness, plotting
from experiments.stages.nash import runs
from experiments.stages.nash.algorithms import SIDES
from experiments.stages.nash.worlds import CYCLE, RANDOM, WORLDS

RATES = {
  "nash_md": ("nash_md", -1, "Nash-MD, largest constant step"),
  "self_play": ("self_play", 0, "self-play below its threshold"),
  "self_play_above": ("self_play", -1, "self-play above its threshold"),
  "extragradient": ("extragradient", 0, "extragradient"),
  "nash_ema": ("nash_ema", 0, "Nash-EMA"),
  "online_ipo": ("online_ipo", 0, "online IPO by gradient descent"),
  "ipo_md": ("ipo_md", -1, "IPO-MD by gradient descent"),
  "nash_md_pg": ("nash_md_pg", -1, "Nash-MD-PG by its expected gradient"),
}


def _rates(found: runs.Found) -> list[harness.Claim]:
  """Fitted factors against those of the linearised algorithms."""
  picked = [found.index[name][k] for name, k, _ in RATES.values()]
  ratios = (np.log(found.fitted) / np.log(found.theory))[RANDOM, picked]
  worst = ratios[:, np.abs(ratios.mean(0) - 1).argmax()]
  _, below, above = found.fitted[:, found.index["self_play"]].T
  return [
    *(
      harness.Claim(
        name=f"{name}_rate",
        statement=f"{label}: fitted factor of the KL per step on the symmetric"
        " cycle",
        theory=found.theory[CYCLE, run],
        measured=found.fitted[CYCLE, run],
        # Roundings of the policy move log KL by up to 3e-3 at the end of the
        # 37 nats that are fitted, third-order terms by 1e-5 at the beginning.
        tolerance=2e-5,
      )
      for run, (name, (_, _, label)) in zip(picked, RATES.items(), strict=True)
    ),
    harness.Claim(
      name="rates_on_random_games",
      statement="logarithm of the fitted factor over the theory's: mean over"
      " random games, of the algorithm furthest from 1",
      theory=1.0,
      measured=worst.mean(),
      # Faster modes that are still there steepen the curves.
      tolerance=0.05,
      interval=harness.confidence_interval(worst),
    ),
    harness.Claim(
      name="sides_of_the_threshold",
      statement=f"share of the games on which self-play converges at {SIDES[0]}"
      f" and diverges at {SIDES[1]} times its threshold",
      theory=1.0,
      measured=np.mean((below < 1) & (above > 1)),
      tolerance=0.0,
    ),
  ]


def _gaps(found: runs.Found) -> list[harness.Claim]:
  """The duality gap on the way and at the end."""
  unbiased = ("self_play", "extragradient", "nash_ema", "online_ipo")
  last = found.gap[:, -1, [found.index[name][0] for name in unbiased]]
  # Steps above 2 / tau may drive the policy beyond the range of floats.
  converging = np.delete(found.gap, found.index["self_play"][-1], -1)
  # A few roundings of 1/2.
  tolerance = 1e-14
  return [
    harness.Claim(
      name="gap_is_not_negative",
      statement="smallest duality gap on any run that converges",
      theory=0.0,
      measured=converging.min(),
      tolerance=tolerance,
      relation=">=",
    ),
    harness.Claim(
      name="gap_vanishes",
      statement="final duality gap of self-play below its threshold,"
      " extragradient, Nash-EMA and online IPO: largest",
      theory=0.0,
      measured=last.max(),
      tolerance=tolerance,
    ),
  ]


def _interval(samples: np.ndarray) -> dict[str, str]:
  if len(samples) < 2:
    return {}
  low, high = harness.confidence_interval(samples)
  return {"95 %": f"{low:.4f} to {high:.4f}"}


def _decreasing_row(paths: np.ndarray) -> dict[str, str | float]:
  """Its exponent, where the first step does not end it."""
  if paths[:, 1].max() < runs.DECAY[0]:
    return {"fitted": "exact in 1", "theory": "exact in 1", "log ratio": 1.0}
  exponents = runs.fitted_exponents(paths)
  return {
    "fitted": f"T^{exponents.mean():.4f}",
    "theory": "T^-2",
    "log ratio": exponents.mean() / -2,
  } | _interval(exponents / -2)


def _rows(found: runs.Found, world: slice) -> list[dict]:
  """Rate and end of every run: means and medians over games."""
  fitted, expected = np.log(found.fitted[world]), np.log(found.theory[world])
  (decreasing,) = found.index["decreasing"]
  rows = []
  for run, name in enumerate(found.names):
    row = {
      "run": name,
      "fitted": np.exp(fitted[:, run].mean()),
      "theory": np.exp(expected[:, run].mean()),
      "log ratio": np.mean(fitted[:, run] / expected[:, run]),
    } | _interval(fitted[:, run] / expected[:, run])
    if run == decreasing:
      row |= _decreasing_row(found.kl[world, :, run])
    rows.append(
      row
      | {
        "final KL": np.nanmedian(found.kl[world, -1, run]),
        "final gap": np.nanmedian(found.gap[world, -1, run]),
      }
    )
  return rows


def _shown_runs(found: runs.Found) -> list[int]:
  """The runs to plot: one an algorithm, but both sides of self-play."""
  last = [group[-1] for group in found.index.values()]
  return sorted([*last, found.index["self_play"][0]])


def _title(world: str) -> str:
  return f"factor of the KL per step, {world}"


def convergence(found: runs.Found) -> harness.Part:
  """Claims and curves on all runs; a table for every kind of game."""
  shown = found.shown_steps
  return harness.Part(
    claims=[*_rates(found), *_gaps(found)],
    curves={
      "steps": shown,
      "kl": found.kl[:, shown],
      "gap": found.gap[:, shown],
      "shown": np.array(_shown_runs(found)),
    },
    tables={
      _title(name): _rows(found, world) for name, world in WORLDS.items()
    },
  )


def _line(axes, steps, samples, floor, **style) -> None:
  """Median over games, between the quartiles."""
  samples = np.maximum(samples, floor)
  low, middle, high = np.nanquantile(samples, (0.25, 0.5, 0.75), 0)
  (line,) = axes.plot(steps, middle, **style)
  if len(samples) > 1:
    color = line.get_color()
    axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)


def _plot_world(curves: dict[str, np.ndarray], rows: list[dict], name: str):
  """KL and gap against the step, one line an algorithm."""
  steps, world = curves["steps"], WORLDS[name]
  figure, (distance, gap) = plotting.figure(1, 2, width=5.0, height=5.4)
  for k, run in enumerate(curves["shown"]):
    fitted, theory = (
      x if isinstance(x, str) else f"{x:.4f}"
      for x in (rows[run]["fitted"], rows[run]["theory"])
    )
    style = {
      "color": f"C{k}",
      "linestyle": ("-", "--", "-.")[k % 3],
      "label": f"{rows[run]['run']}: {fitted} ({theory})",
    }
    _line(distance, steps, curves["kl"][world, :, run], 1e-32, **style)
    _line(gap, steps, curves["gap"][world, :, run], 1e-17, **style)
  distance.plot(
    steps,
    curves["bound"],
    color="black",
    linestyle=":",
    label="decreasing, 8 / (tau^2 (T + 1))",
  )
  many = "" if len(curves["kl"][world]) == 1 else ", median and quartiles"
  distance.set(ylim=(1e-28, 1e4), ylabel="KL(pi*||pi), nats")
  gap.set(ylim=(1e-15, 1e1), ylabel="duality gap")
  for axes in (distance, gap):
    axes.set(xlabel="step", title=name + many)
    plotting.log_scale(axes, "x", "y")
  figure.legend(
    *distance.get_legend_handles_labels(),
    loc="outside lower center",
    ncols=3,
    fontsize=8,
    frameon=False,
    title="name, step size over self-play's threshold: factor of the KL per"
    " step, fitted (theory)",
    title_fontsize=8,
  )
  return figure


def plot(curves: dict[str, np.ndarray], tables: dict[str, list[dict]]) -> dict:
  """A figure for every kind of game; the tables hold what legends say."""
  return {
    name.replace(" ", "_"): _plot_world(curves, tables[_title(name)], name)
    for name in WORLDS
  }
