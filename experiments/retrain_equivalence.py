# SPDX-License-Identifier: Apache-2.0
"""Unlearning by ascent depends on the order in which data were learned.

Paper: On the Impossibility of Retrain Equivalence in Machine Unlearning
(2510.16629), its linear case.
Claims: Least squares in stages, each to convergence, then gradient ascent on
one of them. (1) Two models that learned the stages in another order drift apart
by `(I + eta X^T X)^T` applied to their difference, whatever the targets, so
that one of them at least is as far from what retraining without the forgotten
stage gives as half of their distance. (2) What one gradient step a stage leaves
of the order is `eta^2 (H1 g0 - H0 g1)`. (3) What was learned last, without
error, has gradient 0: ascent forgets nothing of it.
Expected: identities to 1e-11 of their size; with 20 weights, three stages of 5
rows and step .01 distances of 1 to 2 grow to some 10^6 in 50 steps.
Measured, no claim: how far the forgotten stage's error has risen, by its place.
Command: `python -m experiments.retrain_equivalence`
About 3 seconds on 2 cores. `order_commutator` is for losses of one's own.
"""

import dataclasses

import numpy as np
from absl import app

from experiments import harness, plotting
from experiments.stages.retrain_equivalence import linear


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How many tasks."""

  num_seeds: int = harness.field(64, smoke=8, full=512, help="random tasks")


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Every order of the stages, on each task."""
  del progress  # Two compiled programs: there is nothing to follow.
  rng = np.random.default_rng(config.seed)
  return harness.collect(
    "retrain_equivalence",
    "On the Impossibility of Retrain Equivalence (2510.16629)",
    [linear.linear(rng, num_seeds=config.num_seeds)],
  )


def plot(results: harness.Results) -> dict:
  """Distances, and errors on what is to be forgotten."""
  figure, (left, right) = plotting.figure(1, 2)
  linear.plot_distances(left, results.curves)
  linear.plot_forgetting(right, results.curves)
  return {"retrain_equivalence": figure}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
