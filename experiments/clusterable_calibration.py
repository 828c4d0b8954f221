# SPDX-License-Identifier: Apache-2.0
"""Calibration for subgroups that are components of a mixture.

Paper: Learning With Multi-Group Guarantees For Clusterable Subpopulations
(2410.14588).
Claims: Online predictions for all plausible groups at once, without any
clustering, miss by no more than T/m + 2 sqrt(T ln(2B)): the error of the true
groups grows as sqrt(T). One calibrator for everybody misses a constant share of
every group, and clustering first is in between. Groups by membership and by
likelihood are one where components do not overlap.
Expected: on an overlapping mixture, slopes of log error on log T from 1000 to
32000 of .45 and .40 for simultaneous predictions (discriminant and likelihood
groups), asserted to be at most .58, and .96 for one calibrator, at least .9.
Clustering first has .71 (.54 to .87); its T^(2/3) is a bound of the paper, of
which nothing is claimed. With cells summed (L1) no rate of 1/2 is possible:
.65, .58, .69 and .99, in a table.
Command: `python -m experiments.clusterable_calibration`
Own data: `--csv=FILE --outcome=COLUMN --features=COLUMN,...` predicts the rows
in their order and writes `predictions.csv`, with the errors of its groups.
About 12 seconds on 2 cores.
"""

import dataclasses

import numpy as np
from absl import app

from experiments import harness, plotting
from experiments.stages import csv_predictions
from experiments.stages.clusterable_calibration import own, rates

_PAPER = (
  "Learning With Multi-Group Guarantees For Clusterable Subpopulations"
  " (2410.14588)"
)


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """Lengths of the runs; a file."""

  num_seeds: int = harness.field(
    4, smoke=4, full=16, help="sequences of each length, for intervals"
  )
  rounds: tuple[int, ...] = harness.field(
    (1000, 2000, 4000, 8000, 16000, 32000),
    smoke=(250, 8000),
    least=100,
    help="lengths of sequences",
  )
  csv: str = harness.field("", help="CSV file of points and outcomes")
  outcome: str = harness.field("outcome", help="its column of 0 and 1")
  features: tuple[str, ...] = harness.field(
    ("",), help="its columns of points; all others by default"
  )
  clusters: int = harness.field(2, least=1, help="components of a file's rows")
  grid: int = harness.field(
    0, least=0, help="intervals of a file's predictions; 0: half of sqrt(rows)"
  )

  def __post_init__(self):
    super().__post_init__()
    if len(set(self.rounds)) < 2:
      raise ValueError("rounds needs two numbers, to fit a slope")


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Predicts a file's rows, or runs all methods on generated sequences."""
  del progress  # A few compiled programs: there is nothing to follow.
  if config.csv:
    features = tuple(name for name in config.features if name)
    data = own.read(config.csv, config.outcome, features)
    part = own.own(
      config.key(), data, num_clusters=config.clusters, m=config.grid
    )
    return harness.collect("clusterable_calibration", _PAPER, (part,))
  rng = np.random.default_rng(config.seed)
  parts = (
    rates.rates(
      config.key(), rng, rounds=config.rounds, num_seeds=config.num_seeds
    ),
    rates.overlap(rng),
  )
  return harness.collect("clusterable_calibration", _PAPER, parts)


def plot(results: harness.Results) -> dict:
  """Errors against rounds, or what became of a file."""
  curves = results.curves
  if "csv/prediction" in curves:
    figure, (axes,) = plotting.figure(width=6)
    own.plot(axes, curves)
    return {"groups": figure}
  figure, (left, middle, right) = plotting.figure(1, 3, width=4.2)
  rates.plot(left, curves, "largest")
  rates.plot(middle, curves, "summed")
  rates.plot_overlap(right, curves)
  return {"clusterable_calibration": figure}


def main(argv):
  """Runs from the command line."""
  return csv_predictions.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
