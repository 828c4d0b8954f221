# SPDX-License-Identifier: Apache-2.0
"""What parallel samplers of masked diffusion can sample, and at which cost.

Paper: DLMs are Provably Optimal Parallel Samplers (2512.25014); RADD
(2406.03736) and LLaDA (2502.09992) for the samplers.
Claims: Two rounds of revision, each bit from two, sample the uniform law on
strings of even parity; plain sampling with a schedule fixed in advance, no
scratch and predictors that see at most n - 2 bits never does. A circuit takes
as many rounds as it is deep, with a footprint of its size (scratch) or of its
width (remasking, revision). Random order samples the any-order likelihood,
confidence does not. A round costs the total correlation of what it reveals.
Expected: (1) even parity: total variation 0 by revision, by scratch and with
one predictor that sees all other bits; KL log 2 from the best sampler of fan-in
n - 2, over all schedules of 4 bits; total variation 1/2 where all but the last
bit are uniform, but sqrt 2 - 1 where they lean. (2) XOR tree of n = 2^m bits:
m + 1 rounds, 2 n - 1 autoregressive; footprint 2 n - 1 with scratch, n + n / 2
with remasking, n with revision. (3) total variation from the likelihood 0 in
random order; by confidence a (1 - a) for two bits. (4) KL from the sampler =
sum over rounds of E[total correlation]. (5) forwards of ancestral sampling
7.06, 14.26 and 442.8 for 16 tokens in 8 and 64 steps and 1024 in 512; its law
nears that of any order like 1 / T.
Command: `python -m experiments.parallel_sampling`
About 30 seconds on 2 cores.
"""

import dataclasses

import jax
from absl import app

from experiments import harness, plotting
from experiments.stages.parallel_sampling import (
  costs,
  orders,
  parity,
  steps,
  tree,
)


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How many random laws and samples."""

  num_seeds: int = harness.field(
    8, smoke=2, full=64, help="random laws and denoisers"
  )
  num_samples: int = harness.field(
    20_000,
    smoke=4_000,
    full=50_000,
    least=2,
    help="sequences sampled by confidence, for each denoiser",
  )
  num_runs: int = harness.field(
    400,
    smoke=40,
    full=2_000,
    least=2,
    help="sequences sampled for each number of steps",
  )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Enumerates every law, then samples."""
  del progress  # A few compiled programs: there is nothing to follow.
  first = config.seed * config.num_seeds
  seeds = range(first, first + config.num_seeds)
  by_confidence, by_steps = jax.random.split(config.key())
  parts = (
    parity.parity(),
    tree.tree(seed=config.seed),
    orders.orders(by_confidence, seeds=seeds, num_samples=config.num_samples),
    costs.costs(seeds=seeds),
    steps.forwards(by_steps, num_runs=config.num_runs),
    steps.law(seeds=seeds),
  )
  return harness.collect(
    "parallel_sampling",
    "DLMs are Provably Optimal Parallel Samplers (2512.25014)",
    parts,
  )


def plot(results: harness.Results) -> dict:
  """Distances against rounds and steps, circuits, forwards."""
  curves = results.curves
  rounds, (left, right) = plotting.figure(1, 2)
  parity.plot(left, curves)
  costs.plot(right, curves)
  circuits, (left, right) = plotting.figure(1, 2)
  tree.plot(left, curves, "rounds")
  tree.plot(right, curves, "footprint")
  for axes in (left, right):
    plotting.log_scale(axes, "x", "y")
    axes.set_xticks(tree.SIZES)
  left.legend()
  samplers, (left, middle, right) = plotting.figure(1, 3, width=4)
  steps.plot_forwards(left, curves)
  steps.plot_law(middle, curves)
  orders.plot(right, curves)
  return {"rounds": rounds, "circuits": circuits, "samplers": samplers}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
