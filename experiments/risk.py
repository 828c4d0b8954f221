# SPDX-License-Identifier: Apache-2.0
"""Risk-averse values and policies against every policy there is.

Paper: Risk-averse learning with the Itakura-Saito loss (2505.16925); Convex
scoring functions (2505.04553); Return distributions by dynamic programming
(2501.13028).
Claims: The Itakura-Saito loss learns certainty equivalents with gradients of
one scale, where the squared error of exponential utilities explodes at low
values and vanishes at high ones. Under a discount g the level of aversion must
become a g at every step. A stock, what has been earned, is all that a policy
needs to remember to be best for a functional of the return; risk that is
nested step by step is another objective.
Expected: gradient ratio 66.69 at V = -3, level .7. Two coins, discount .8:
-.7245 with the level a g, -.7808 with a constant one. On a sampled Bellman
problem Itakura-Saito's final error is at most a third of the other's, each at
its best of nine rates; at the rate .1 the other ends further away than it
started. With a safe and a risky action (S = 2, A = 2, H = 4, g = .9) optimal
CVaR, entropic risk, mean with variance and four utilities equal the best of all
32768 policies; at tau of .25 and .5 stocks gain at least .02 in every process
over the best policy that sees state and time alone, and at least .03 over that
of the largest mean. Gambling example, worse half of returns: -1 never, -.7
always, -.5 after losing alone.
Command: `python -m experiments.risk`
About 20 seconds on 2 cores.
"""

import dataclasses

from absl import app

from experiments import harness, plotting
from experiments.stages.risk import control, equivalents, gamble, learning


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How many random problems, how long to learn."""

  num_updates: int = harness.field(
    2000, smoke=400, least=100, help="of values in the sampled problem"
  )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Runs all parts."""
  del progress  # A few compiled programs: there is nothing to follow.
  first = config.seed * config.num_seeds
  seeds = range(first, first + config.num_seeds)
  parts = (
    equivalents.equivalents(seeds=seeds),
    learning.learning(seeds=seeds, num_updates=config.num_updates),
    control.control(seeds=seeds),
    gamble.gamble(),
  )
  paper = "Itakura-Saito loss (2505.16925); 2505.04553; 2501.13028"
  return harness.collect("risk", paper, parts)


def plot(results: harness.Results) -> dict:
  """Learning by rate and on the way; what the stock is worth; the levels."""
  curves = results.curves
  learned, (left, right) = plotting.figure(1, 2)
  learning.plot_rates(left, curves)
  learning.plot_paths(right, curves)
  solved, (left, right) = plotting.figure(1, 2)
  gamble.plot(left, curves)
  control.plot(right, curves)
  levels, (axes,) = plotting.figure(1, 1)
  equivalents.plot(axes, curves)
  return {"learning": learned, "levels": levels, "stock": solved}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
