# SPDX-License-Identifier: Apache-2.0
"""Where mass goes that no pair speaks of: DPO against RPO.

Paper: Provably Mitigating Overoptimization in RLHF (2405.16436).
Claims: log-linear policies. (1) One pair, four actions: descent on DPO moves
along the difference of the pair's features, hence to the action farthest that
way, which no pair contains; with the chosen action's likelihood in the loss
(RPO) the chosen action gains. Both losses have the same infimum, where it has
all the mass: the path decides. (2) RPO's loss is the value of a game against a
reward that is consistent with the pairs, and its optimum is the saddle. (3) In
random worlds RPO keeps more mass on chosen actions and less on unseen ones.
Expected: (1) after 4000 updates DPO: unseen 1.000, chosen .000; RPO with eta
.2: chosen .326, rejected .241, unseen .433, and after 40000 .552, .075, .373;
(2) to 1e-12 and 1e-9; (3) the unseen's mass .32 instead of .56.
What does not follow: a higher reward. Where unseen actions are as good as seen
ones, RPO ends .56 below DPO, whose reward hardly falls on the way; they must be
worse by 2.4 than their features say for the two to be even.
Command: `python -m experiments.overoptimisation`
About 10 seconds on 2 cores.
"""

import dataclasses

from absl import app

from experiments import harness, plotting
from experiments.stages.overoptimisation import (
  adversary,
  one_pair,
  random_worlds,
)


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How many random worlds."""

  num_seeds: int = harness.field(
    200, smoke=50, full=2000, help="random features, rewards and pairs"
  )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """One pair, the game, random worlds."""
  del progress  # A few compiled programs: there is nothing to follow.
  first = config.seed * config.num_seeds
  seeds = range(first, first + config.num_seeds)
  parts = (
    one_pair.one_pair(),
    adversary.adversary(seeds=seeds),
    random_worlds.random_worlds(seeds=seeds),
  )
  return harness.collect(
    "overoptimisation",
    "Provably Mitigating Overoptimization in RLHF (2405.16436)",
    parts,
  )


def plot(results: harness.Results) -> dict:
  """Probabilities with one pair; mass and reward in random worlds."""
  pair, axes = plotting.figure(1, 2)
  for i, panel in enumerate(axes):
    one_pair.plot(panel, results.curves, i)
  axes[1].legend()
  worlds, axes = plotting.figure(1, 3, width=3.8)
  for panel, which in zip(axes, ("reward", "unseen", "chosen"), strict=True):
    random_worlds.plot(panel, results.curves, which)
  axes[0].legend()
  return {"one_pair": pair, "random_worlds": worlds}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
