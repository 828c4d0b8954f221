# SPDX-License-Identifier: Apache-2.0
"""Action values learned in a mapped space, one table for each reward channel.

Paper: Orchestrated Value Mapping (2203.07171); the logarithm is that of
1906.00572.
Claims: Channels with different maps converge to Q*, gains and losses through
logarithms included. The gaps between actions that a logarithm sees are equal at
all distances from a reward. Targets must be averaged before the map: after it
the geometric mean is learned. Through tiles, plain values at a low discount
lose the way far from the goal, logarithms do not.
Expected: error of Q at most 1e-8 after 400 updates; rewards .1 and 1.9 give 1
averaged before the map, .436 after it, .77 in between; on a chain of 30
states with g = .6 and tiles of five about .7 of all states go right with plain
values, all with the logarithm (whose path is that of any other g, where the
floor is g^100). What does not follow: with a table, or with g = .96, plain
values find the way as well, and sooner; and through tiles the logarithm needs
its small step after the map: with a step before it alone it does worse at
g = .6 than plain values.
Command: `python -m experiments.value_mapping`
About 15 seconds on 2 cores.
"""

import dataclasses

from absl import app

from experiments import harness
from experiments.stages.value_mapping import (
  averaging,
  chain,
  convergence,
  maps,
)


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How many random processes and runs."""

  num_seeds: int = harness.field(
    8, smoke=4, full=32, help="runs with samples; random processes"
  )
  updates: int = harness.field(
    96_000, smoke=48_000, full=192_000, least=48_000, help="of the chain"
  )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Runs maps, expected updates, averages and the chain."""
  del progress  # A few compiled programs: there is nothing to follow.
  first = config.seed * config.num_seeds
  seeds = range(first, first + config.num_seeds)
  parts = (
    maps.maps(),
    convergence.convergence(seeds=seeds),
    averaging.averaging(seeds=seeds),
    chain.chain(seeds=seeds, updates=config.updates),
  )
  return harness.collect(
    "value_mapping", "Orchestrated Value Mapping (2203.07171)", parts
  )


def plot(results: harness.Results) -> dict:
  """Gaps, errors, averages, and the chain."""
  return {
    "averaging": averaging.plot(results.curves),
    "chain": chain.plot(results.curves),
    "convergence": convergence.plot(results.curves),
    "gaps": maps.plot(results.curves),
  }


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
