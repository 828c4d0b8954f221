# SPDX-License-Identifier: Apache-2.0
"""Miscoordination, conflict and collusion of independent learners.

Paper: Multi-Agent Risks from Advanced AI (2502.14143); the labels are ours.
Claims: (1) Known play is labelled as it should be: hares in the stag hunt,
defection in the prisoner's dilemma, grim trigger between two firms; and grim
trigger is an equilibrium from the discount on that theory says. (2) Hedge and
the policy gradient end in miscoordination and in collusion as often as the
areas of the basins say, always in conflict in the prisoner's dilemma, and never
in collusion where no threat keeps prices up.
Expected: (1) no wrong label; discount 1/2. (2) From uniform first policies
Hedge ends in miscoordination (stag hunt) with .753, the policy gradient with
.719; two patient firms collude with .911 and .877. Measured, no claim: the same
where actions are sampled, which changes little for Hedge; the policy gradient,
which then learns from what it played alone, sometimes gets stuck. No symmetric
stag hunt is of common interest up to affine maps, so miscoordination is asked
of games with an outcome that is everybody's best.
Command: `python -m experiments.failure_modes`
About 5 seconds on 2 cores.
"""

import dataclasses

import numpy as np
from absl import app

from experiments import harness, plotting
from experiments.stages.failure_modes import labels, learners, worlds


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How many runs."""

  num_seeds: int = harness.field(
    1024, smoke=128, full=8192, help="first policies, each with its own noise"
  )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Known play, then learners."""
  del progress  # One compiled program: there is nothing to follow.
  table = worlds.worlds()
  parts = (
    labels.labels(table),
    learners.learners(
      np.random.default_rng(config.seed), table, starts=config.num_seeds
    ),
  )
  return harness.collect(
    "failure_modes", "Multi-Agent Risks from Advanced AI (2502.14143)", parts
  )


def plot(results: harness.Results) -> dict:
  """Rates, and the basins of the stag hunt."""
  figure, (left, right) = plotting.figure(1, 2, width=5.2, height=3.8)
  learners.plot_rates(left, results.curves)
  learners.plot_basins(right, results.curves)
  return {"failure_modes": figure}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
