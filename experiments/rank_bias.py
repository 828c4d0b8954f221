# SPDX-License-Identifier: Apache-2.0
"""GRPO makes unlikely successes rarer; a reward for the unlikely mends it.

Paper: Rewarding the Unlikely (2506.02355).
Claims: A softmax policy that learns from its own samples raises what is already
likely, and lowers correct answers that are not. So GRPO raises pass@1 and ends
below the base at large k. A reward that falls with the rank of a correct
sample's likelihood mends it, and too much of it costs pass@1. Not reproduced:
that more PPO epochs mitigate the bias.
Expected: (1) eight answers, one exact step: the correct ones of probability
.05, .02 and .01 change by -.0057, -.0168 and -.0205 in log pi; the natural
gradient raises every correct one. (2) one policy over 64 strategies for 96
problems, 300 gradient steps: train pass@1 / @4 / @16 and held-out @64 / @256,
base .399/.826/.993, .649/.952; GRPO .57/.74/.87, .22/.47 (single runs: @256
from .2 to .67); beta = .25 .57/.73/.88, .25/.53; beta = .5 .46/.86/.99, .54/.90
(.87 to .92); beta = 1 .344 at pass@1, @256 .99. Two or four steps on each
batch, 300 in all: @256 .44 and .37, no better.
Command: `python -m experiments.rank_bias`
About 10 seconds on 2 cores.
"""

import dataclasses

from absl import app

from experiments import harness
from experiments.stages.rank_bias import identity, training


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How many runs."""

  num_seeds: int = harness.field(
    10, smoke=4, full=32, least=4, help="runs of every arm, for intervals"
  )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """One exact step, and sampled training."""
  del progress  # One compiled program: there is nothing to follow.
  parts = (
    identity.identity(seed=config.seed),
    training.training(key=config.key(), num_seeds=config.num_seeds),
  )
  return harness.collect(
    "rank_bias", "Rewarding the Unlikely (2506.02355)", parts
  )


def plot(results: harness.Results) -> dict:
  """The step, pass@k, and the way there."""
  curves = results.curves
  return {"identity": identity.plot(curves), **training.plot(curves)}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
