# SPDX-License-Identifier: Apache-2.0
"""What each preference loss learns from infinitely many pairs, in closed form.

Paper: Direct Preference Optimization (2305.18290) and the papers of the losses.
Claims: Over six outcomes the expectation of each loss is minimised to rounding
from random rewards, references and sampling laws. Its minimiser is the formula
that the loss is known by: the soft optimum for DPO, whatever the sampling, the
regularised optimum of each divergence for f-DPO, `ref (p/q)^(1/beta)` for what
is learned of good and bad completions apart. Pearson's chi-squared is the
exception: its optimum has exact zeros, which no loss of log-ratios reaches.
Expected: no difference above 1e-6 (most are below 1e-13).
Command: `python -m experiments.tabular_optima`
About 20 seconds on 2 cores.
"""

import dataclasses

import numpy as np
from absl import app

from experiments import harness, plotting
from experiments.stages.tabular_optima import (
  labelled,
  pairwise,
  rows,
  targets,
)


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How many random worlds."""

  worlds: int = harness.field(
    16, smoke=3, full=256, help="random rewards, references and samplings"
  )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Minimises every loss in every world."""
  del progress  # A few compiled programs: there is nothing to follow.
  worlds = rows.draw(config.seed, config.worlds)
  parts = (
    pairwise.pairwise(worlds),
    labelled.labelled(worlds),
    targets.targets(worlds),
  )
  return harness.collect(
    "tabular_optima",
    "Direct Preference Optimization (2305.18290) and the losses' papers",
    parts,
  )


def plot(results: harness.Results) -> dict:
  """The difference of each loss from its formula, against the bound."""
  gaps = {
    name.removeprefix("gap "): float(gap)
    for name, gap in results.curves.items()
  }
  figure, (axes,) = plotting.figure(height=0.25 * len(gaps) + 1)
  place = np.arange(len(gaps))
  size = np.maximum(list(gaps.values()), np.finfo(float).eps / 16)
  axes.barh(place, size, left=np.finfo(float).eps / 32)
  axes.axvline(rows.BOUND, color="black", linestyle="--", label="bound")
  axes.set(
    yticks=place,
    yticklabels=list(gaps),
    xscale="log",
    xlabel="largest difference between minimiser and formula",
  )
  axes.invert_yaxis()
  axes.legend()
  return {"optima": figure}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
