# SPDX-License-Identifier: Apache-2.0
"""Mirror descent in tables: averaging, Munchausen's bonus, Tsallis' zeros.

Paper: MDVI (2205.14211); Munchausen RL (2007.14430) and its generalisation by
Tsallis' relative entropy (2301.11476).
Claims: Value iteration that pays for the KL to its last policy averages all
values it has seen, so that the noise of one sampled transition a pair vanishes;
without that memory it never does, with some of it, it rests at a floor. The
bonus of log pi is the same iteration in another variable: the entropy that is
left decides the limit, action gaps grow by 1 / (1 - alpha). With Tsallis'
entropy policies have exact zeros and are greedy below a temperature.
Expected: on a process of 6 states (1) exact transitions, alpha = 1: K times the
error is 79.77; one sample a pair, means of 16 runs at K = 200, 800, 3200:
alpha = 1 about .42, .14, .04, alpha = .9 about .3, alpha = 0 about .6. (2)
Munchausen follows the explicit iteration to 2e-14; (3) MVI(2) loses nothing
below the temperature .517 in either reading, MVI(1) takes every action at any
temperature and tends to the same policy. That MVI(2) beats MVI(1) on Atari
games is not examined.
Command: `python -m experiments.mirror_descent`
About 15 seconds on 2 cores.
"""

import dataclasses

from absl import app

from experiments import harness
from experiments.stages.mirror_descent import (
  explicit,
  mdvi,
  munchausen,
  zeros,
)


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How many random processes, and for how long they are sampled."""

  num_seeds: int = harness.field(
    16, smoke=16, full=64, help="runs with samples; random processes"
  )
  iterations: int = harness.field(
    12800, smoke=3200, full=51200, least=800, help="of runs with samples"
  )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Runs MDVI, Munchausen value iteration and its Tsallis form."""
  del progress  # A few compiled programs: there is nothing to follow.
  first = config.seed * config.num_seeds
  seeds = range(first, first + config.num_seeds)
  parts = (
    mdvi.mdvi(
      key=config.key(),
      num_runs=config.num_seeds,
      iterations=config.iterations,
    ),
    explicit.explicit(seeds=seeds),
    munchausen.limits(seeds=seeds),
    munchausen.sparse(),
    zeros.zeros(seeds=seeds),
  )
  return harness.collect("mirror_descent", "MDVI (2205.14211)", parts)


def plot(results: harness.Results) -> dict:
  """Errors over iterations; what MVI(q) loses over the temperature."""
  return {
    "mdvi": mdvi.plot(results.curves),
    "mvi": munchausen.plot(results.curves),
  }


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
