# SPDX-License-Identifier: Apache-2.0
"""Which networks reach every output, and how to find the input.

Paper: On Surjectivity of Neural Networks (2508.19445).
Claims: (1) Stacks of pre-norm blocks are inverted at every target, however
large their weights, by following a path by its length; Newton's method from
random starts fails as weights grow. Preimages are as close as the bound on what
a block adds. (2) Counted with the signs of their slopes, preimages sum to 1.
(3) Residual linear attention has a preimage, found token by token. (4) DDIM
and the solver of the probability flow are inverted step by step; the usual
"DDIM inversion" is no inverse. (5) What ends with a normalisation or a ReLU,
|x|, and softmax attention without residual miss outputs; layers with LeakyReLU
do not.
Expected: (1) all targets at scales 1, 2, 3 and 5, in some 8, 16, 40 and 90
steps a sub-block on average and with up to 10 to 50 turns; Newton on the stack
finds 100 %, then some, then none. (2) 1 in all of 12 nets, from 1, 3 or 5
preimages. (3) To rounding; 1 in 1000 is so close to a pole that its error is
more than 1e-6 of the target, the median is below 1e-14. (4) Errors below 1e-9;
of the usual inversion above 1e-3 and of the order of .1. (5) 22 % are missed.
Command: `python -m experiments.surjectivity`
About 10 seconds on 2 cores.
"""

import dataclasses

import numpy as np
from absl import app

from experiments import harness, plotting
from experiments.stages.surjectivity import (
  counterexamples,
  maps,
  samplers,
  scales,
)


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How many of each."""

  num_seeds: int = harness.field(
    5, smoke=4, full=20, help="networks with a target each, at every scale"
  )
  scales: tuple[float, ...] = harness.field(
    (1.0, 2.0, 3.0, 5.0),
    smoke=(1.0, 5.0),
    least=0.0,
    help="of the weights, rising; claims on Newton's method are of the last",
  )
  num_restarts: int = harness.field(
    40, smoke=4, least=1, help="of damped Newton on each sub-block"
  )
  num_instances: int = harness.field(
    200, smoke=50, least=2, help="of linear attention"
  )
  num_data: int = harness.field(
    24, smoke=8, full=100, least=2, help="to be sampled from noise"
  )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Every part with random draws of its own."""
  parts = (
    lambda rng: scales.scales(
      rng,
      scales=config.scales,
      num_targets=config.num_seeds,
      num_restarts=config.num_restarts,
    ),
    maps.degrees,
    lambda rng: maps.linear(rng, num_instances=config.num_instances),
    lambda rng: samplers.samplers(rng, num_targets=config.num_data),
    counterexamples.layers,
    lambda rng: counterexamples.attention(),
  )
  found = [
    part(np.random.default_rng((config.seed, i)))
    for i, part in harness.track(
      list(enumerate(parts)), "parts", progress=progress
    )
  ]
  return harness.collect(
    "surjectivity", "On Surjectivity of Neural Networks (2508.19445)", found
  )


def plot(results: harness.Results) -> dict:
  """Shares, paths, preimages, errors; and cells that no input reaches."""
  curves = results.curves
  inverses, (first, second, third, fourth) = plotting.figure(2, 2)
  scales.plot_success(first, curves)
  scales.plot_steps(second, curves)
  maps.plot_degree(third, curves)
  samplers.plot(fourth, curves)
  missed, axes = plotting.figure(1, 2, height=4.2)
  for own, name in zip(axes, counterexamples.SIGNS, strict=True):
    counterexamples.plot(own, curves, name)
  return {"inverses": inverses, "missed": missed}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
