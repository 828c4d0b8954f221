# SPDX-License-Identifier: Apache-2.0
"""Critics by flow matching: exact on certain targets, biased by few steps.

Paper: floq (2509.06863); What Does Flow-Matching Bring to TD-Learning?
(2603.04333).
Claims: A certain target is read exactly, from any noise and with any number of
Euler steps, also after most of them followed an outdated field. A random target
is not: with 8 steps and narrow noise the value is far from the mean, and true
values drift away under temporal differences. The end points have the law of the
target, not of the return. The paper's twofold final result and fivefold sample
efficiency with many updates are not reproduced in small: on 16 states, at equal
size, the monolithic critic is no worse.
Expected: errors of 0 after 75 % stale steps; a target of mean 1.1 read as 1.100
(K = 1), 1.552 (8) and 1.137 (64), 1.556 and 1.140 in print from 200000 draws;
variance of the end points .19 of the return's at discount .9; 16 updates for
each of 256 transitions: relative error of the monolithic critic .0006 with
certain transitions and .42 with random ones, of the flow critic .22 and .60.
Command: `python -m experiments.flow_critics`
About 40 seconds on 2 cores.
"""

import dataclasses

from absl import app

from experiments import harness
from experiments.stages.flow_critics import (
  exactness,
  finite_steps,
  learning,
  processes,
)


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How much is learned, and how often."""

  num_seeds: int = harness.field(
    4, smoke=2, full=16, help="random processes and runs, for means"
  )
  num_transitions: int = harness.field(
    256, smoke=128, full=512, least=32, help="data of a run that learns"
  )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """What is exact, what is biased, what is learned."""
  del progress  # A few compiled programs: there is nothing to follow.
  first = config.seed * config.num_seeds
  seeds = range(first, first + config.num_seeds)
  known = processes.processes(seeds)
  parts = (
    exactness.exactness(seeds=seeds),
    finite_steps.finite_steps(known),
    learning.learning(known, seeds=seeds, num_steps=config.num_transitions),
  )
  return harness.collect("flow_critics", "floq (2509.06863)", parts)


def plot(results: harness.Results) -> dict:
  """Trajectories, values by the number of steps, errors while learning."""
  curves = results.curves
  return {
    "finite_steps": finite_steps.plot(curves),
    "learning": learning.plot(curves),
    "recovery": exactness.plot(curves),
  }


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
