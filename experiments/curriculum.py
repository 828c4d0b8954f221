# SPDX-License-Identifier: Apache-2.0
"""A curriculum by learnability against uniform mixing of distributions.

Paper: DUMP (2504.09710).
Claims: (1) The mean |A| of binary GRPO has a closed form, is largest for
problems that are solved half of the time and 0 for those that always or never
are. Weights are equal where nothing differs, and rise for what has been seen
less. (2) Mixing distributions by these weights ends above uniform mixing, on
average and for the hardest problems.
Expected: (1) to 1e-12; mean |A| of 8 samples, without ddof, .2349 at success
.05, .7598 at .25, .9278 at .5. (2) six distributions of 20 problems, solved
with .95 to .01 at first, 8 prompts of 8 samples a step: mean accuracy after
250, 500, 750 and 1500 steps about .70, .83, .90, .99 (uniform) and .77, .83,
.95, .994 (curriculum); on the hardest problems .96 and .99 in the end. What
does not follow: that it is faster throughout. After 500 steps it is not ahead,
and it comes to the hardest problems later (.04 there against .17), which give
no advantages while none is ever solved.
Command: `python -m experiments.curriculum`
About 10 seconds on 2 cores.
"""

import dataclasses

import numpy as np
from absl import app

from experiments import harness, plotting
from experiments.stages.curriculum import learnability, mixing


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How many runs."""

  num_seeds: int = harness.field(
    32, smoke=16, full=128, help="runs of each mixing, for intervals"
  )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Runs both mixings on the same draws."""
  del progress  # Two compiled programs: there is nothing to follow.
  parts = (
    learnability.learnability(),
    mixing.mixing(
      np.random.default_rng(config.seed), num_seeds=config.num_seeds
    ),
  )
  return harness.collect("curriculum", "DUMP (2504.09710)", parts)


def plot(results: harness.Results) -> dict:
  """Learnability, accuracy and weights."""
  figure, (left, middle, right) = plotting.figure(1, 3, width=3.9)
  learnability.plot(left, results.curves)
  mixing.plot_accuracy(middle, results.curves)
  mixing.plot_weights(right, results.curves)
  return {"curriculum": figure}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
