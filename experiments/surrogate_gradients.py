# SPDX-License-Identifier: Apache-2.0
"""The expected gradient of every policy-gradient surrogate, without sampling.

Paper: DeepSeekMath (2402.03300); Understanding R1-Zero-Like Training
(2503.20783); Back to Basics (2402.14740); Group Sequence Policy Optimization
(2507.18071).
Claims: over completions of at most two tokens out of three, all groups listed.
(1) Rewards, leaving one out and a greedy baseline give the gradient of J if
tokens are summed; the group's mean (G-1)/G of it; averages over tokens and
division by the deviation another direction. (2) At the old policy seven
published losses are one; RLOO, LUSPO and Dr. GRPO are unbiased up to a factor.
(3) Binary rewards over their deviation give c_G(p) grad p, which is grad p for
two completions. (4) For samples of another policy weights of sequences are
right and weights of tokens are not.
Expected: (1, 2, 4) to 1e-13; (3) c_4 = 1.645032, c_8 = 2.026116,
c_16 = 2.197914 at p = 1/4. Measured, no claim: mean cosines with grad J of the
averages, of every loss with three advantages, errors by truncation.
Command: `python -m experiments.surrogate_gradients`
About 15 seconds on 2 cores.
"""

import dataclasses

from absl import app

from experiments import harness, plotting
from experiments.stages import completions
from experiments.stages.surrogate_gradients import (
  binary,
  estimators,
  losses,
  off_policy,
)


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How many random policies."""

  num_seeds: int = harness.field(
    20, smoke=3, full=200, help="random policies and rewards"
  )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Lists all groups of each policy."""
  del progress  # Four compiled programs: there is nothing to follow.
  first = config.seed * config.num_seeds
  worlds = completions.worlds(range(first, first + config.num_seeds))
  parts = (
    estimators.estimators(worlds),
    losses.losses(worlds),
    binary.binary(worlds),
    off_policy.off_policy(worlds),
  )
  return harness.collect(
    "surrogate_gradients", "DeepSeekMath (2402.03300)", parts
  )


def plot(results: harness.Results) -> dict:
  """Angles to the policy gradient, and the slope of binary rewards."""
  figure, (left, right) = plotting.figure(1, 2, width=5.6, height=3.8)
  estimators.draw(left, results.curves)
  binary.draw(right, results.curves)
  return {"gradients": figure}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
