# SPDX-License-Identifier: Apache-2.0
"""Learning from many distributions: what rounds of sampling save.

Paper: The Sample-Adaptivity Tradeoff in On-Demand Sampling (2511.15507).
Claims: (1) Boosting over distributions keeps its promise whatever an adversary
marks, and its bound on the vote is tight. (2) On linear functions over F2 with
distributions of unknown dimension, few more rounds save most samples. (3)
LazyHedge needs about sqrt k rounds with the box on a hard function, few with
the ellipsoid, and stores O~(1) data in all. (4) With a finite class and no
hypothesis that is right everywhere it comes near the best worst error, with a
fraction of the samples that a single round takes.
Expected: (1) the potential of an adversary .51, .49 and .41 for (k, r) of (64,
3), (64, 4), (256, 4); an error of exactly 3 tau. (2) k = 64: about 4650, 1900,
1600, 1000, 680 samples in all for 1, 2, 3, 4, 6 rounds of a learner that pools
them, and 4650, 1050, 950, 1000, 530 for one large distribution among small
ones; boosting takes about 4650, 1850, 1100 in each of 1, 3, 6 rounds, and more
in all. (3) 5, 10, 19, 34 rounds (box) and 2, 3, 3, 4 (ellipsoid) for k of 16,
64, 256, 1024; caps that sum to 4.3 at most. (4) 1280 samples in about four
rounds, or 6400 in one, come within .01 of the best single hypothesis; the
uniform mixture of 1280 is .07 off. Not shown: the rates of the theorems in d, k
and eps, which sizes like these cannot tell.
Command: `python -m experiments.few_rounds`
About 15 seconds on 2 cores.
"""

import dataclasses

import jax
import numpy as np
from absl import app

from experiments import harness, plotting
from experiments.stages.few_rounds import agnostic, boosting, hedge, parities


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How much is repeated."""

  num_seeds: int = harness.field(
    2, smoke=2, full=8, help="searches for the least number of samples"
  )
  trials: int = harness.field(
    20, smoke=10, help="trials of each number of samples in a search", least=5
  )
  rounds: tuple[int, ...] = harness.field(
    parities.ROUNDS,
    smoke=parities.FEWEST,
    help="rounds of the learner that pools, of 1, 2, 3, 4, 6",
  )
  distributions: tuple[int, ...] = harness.field(
    (16, 64, 256, 1024), smoke=(16, 64), help="k of the hard functions", least=4
  )
  steps: int = harness.field(
    20000, smoke=4000, help="of LazyHedge on the hard functions", least=1000
  )
  adversaries: int = harness.field(
    1000, smoke=100, help="runs against boosting, for each of three k and r"
  )
  worlds: int = harness.field(
    16, smoke=3, full=64, help="of the agnostic problem", least=2
  )

  def __post_init__(self):
    super().__post_init__()
    if not set(parities.FEWEST) <= set(self.rounds) <= set(parities.ROUNDS):
      raise ValueError(
        "rounds must be some of 1, 2, 3, 4, 6, with 1, 2 and 6 among them: was"
        f" {', '.join(map(str, self.rounds))}"
      )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Boosting, linear functions, LazyHedge, and LazyHedge on data."""
  keys = jax.random.split(config.key(), 3)
  parts = (
    boosting.boosting(keys[0], runs=config.adversaries),
    parities.parities(
      keys[1],
      config.rounds,
      num_seeds=config.num_seeds,
      trials=config.trials,
      progress=progress,
    ),
    hedge.hedge(keys[2], config.distributions, config.steps),
    agnostic.agnostic(
      np.random.default_rng(config.seed),
      worlds=config.worlds,
      progress=progress,
    ),
  )
  return harness.collect(
    "few_rounds",
    "The Sample-Adaptivity Tradeoff in On-Demand Sampling (2511.15507)",
    parts,
  )


def plot(results: harness.Results) -> dict:
  """Samples by rounds, rounds by distributions, and the agnostic problem."""
  figure, axes = plotting.figure(2, 2)
  parities.plot(axes[0], results.curves)
  hedge.plot(axes[1], results.curves)
  agnostic.plot_tradeoff(axes[2], results.curves)
  agnostic.plot_excess(axes[3], results.curves)
  return {"few_rounds": figure}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
