# SPDX-License-Identifier: Apache-2.0
"""GFlowNets sample in proportion to a reward; REINFORCE keeps one sequence.

Paper: Flow of Reasoning (2406.05673); trajectory balance (2201.13259) and
subtrajectory balance (2209.12782) for the losses.
Claims: TB, VarGrad, SubTB and DB vanish at the exact flows and bring a policy
to R/Z; on the policy's own samples the gradients of TB and VarGrad are that of
KL(pi||R/Z), twice: entropy-regularised reward. They find all modes, REINFORCE
one. Flow of Reasoning claims diverse solutions from about 15 examples: of it
this shows that a policy trained on 15 problems keeps many strategies, gains
accuracy on unseen problems, and gains with every further sample.
Expected: identities to 1e-12 (limits of SubTB to 1e-7); all 64 sequences:
losses below 1e-6, total variation to R/Z below 3e-3, eight modes of eight,
while REINFORCE has .998 on one sequence, in 7 worlds of 8 the best, and a total
variation of .85; from 15 problems, on unseen ones: VarGrad pass@1 .35,
pass@16 .99, 4.1 different solutions among 16 samples; REINFORCE .48 for both,
and .5 solutions. What does not follow: that learning makes more diverse (the
start has pass@16 .996 and 4.6 solutions), or that variety is free (REINFORCE's
pass@1 is higher).
Command: `python -m experiments.gflownet`
About 15 seconds on 2 cores.
"""

import dataclasses

import jax
import numpy as np
from absl import app

from experiments import harness
from experiments.stages.gflownet import (
  few_examples,
  identities,
  modes,
  training,
)


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How many worlds, and how long they are learned from."""

  num_seeds: int = harness.field(
    8, smoke=2, full=32, help="random rewards, and draws of 15 problems"
  )
  num_updates: int = harness.field(
    1500,
    smoke=1000,
    full=3000,
    least=1000,
    help="of each arm, to the next lower multiple of 50",
  )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Trains every arm in both kinds of worlds."""
  del progress  # One compiled program: there is nothing to follow.
  first = config.seed * config.num_seeds
  seeds = range(first, first + config.num_seeds)
  (of_modes, which), (of_examples, unseen) = (
    stage.worlds(seeds) for stage in (modes, few_examples)
  )
  path = training.train(
    jax.random.split(config.key(), 2 * len(seeds)),
    np.concatenate([of_modes, of_examples]),
    num_updates=config.num_updates,
  )
  path = jax.tree.map(np.asarray, path)
  first_half = jax.tree.map(lambda x: x[:, : len(seeds)], path)
  parts = (
    identities.identities(seeds=seeds),
    modes.modes(first_half, of_modes, which),
    few_examples.few_examples(path.law[:, len(seeds) :, -1], unseen),
  )
  results = harness.collect("gflownet", "Flow of Reasoning (2406.05673)", parts)
  stretch = config.num_updates // training.RECORDS
  updates = stretch * np.arange(1, training.RECORDS + 1)
  return dataclasses.replace(
    results, curves=results.curves | {"updates": updates}
  )


def plot(results: harness.Results) -> dict:
  """Learning, and what is kept of variety."""
  return {
    "modes": modes.plot(results.curves),
    "few_examples": few_examples.plot(results.curves),
  }


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
