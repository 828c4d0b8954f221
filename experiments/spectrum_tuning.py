# SPDX-License-Identifier: Apache-2.0
"""Trained on outputs alone, a network predicts by the posterior.

Paper: Spectrum Tuning (2510.06084).
Claims: A network that sees flips of coins of unknown bias, and whose loss is on
the flips but the first of each coin, comes to predict `(h + 1)/(n + 2)`, and
its loss to that of Bayes. Ablations: with the loss on one flip of each sequence
alone that flip is predicted likewise and the others are not; with the loss on
all, the first flip is predicted too, as a fair one.
Expected: GRU of 32 on 24 flips; mean distance about .003 in the quick preset;
.0013 is printed for 2000 updates. The loss of Bayes over flips 2 to 24 is
exactly .54502; the printed .54372 is of a sample of test sequences. On coins
nothing is lost by scoring the first flip as well.
Command: `python -m experiments.spectrum_tuning`
About 20 seconds on 2 cores.
"""

import dataclasses

from absl import app

from experiments import harness, plotting
from experiments.stages.spectrum_tuning import learning


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How long to train."""

  num_seeds: int = harness.field(
    2, smoke=2, full=8, help="networks of each ablation, for intervals"
  )
  num_flips: int = harness.field(
    24, smoke=8, least=3, help="of each coin in a sequence"
  )
  rows: int = harness.field(
    64, full=256, least=1, help="sequences of an update"
  )
  steps: int = harness.field(
    1000, smoke=200, full=2000, least=1, help="updates"
  )
  tolerance: float = harness.field(
    0.015, smoke=0.03, full=0.01, help="of a mean distance: training ends"
  )


def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Trains all networks at once."""
  del progress  # One compiled program: there is nothing to follow.
  part = learning.learning(
    config.key(),
    num_seeds=config.num_seeds,
    num_flips=config.num_flips,
    rows=config.rows,
    steps=config.steps,
    tolerance=config.tolerance,
  )
  return harness.collect(
    "spectrum_tuning", "Spectrum Tuning (2510.06084)", (part,)
  )


def plot(results: harness.Results) -> dict:
  """The distance by flips seen."""
  figure, (axes,) = plotting.figure()
  learning.plot(axes, results.curves)
  return {"spectrum_tuning": figure}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
