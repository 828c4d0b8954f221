# SPDX-License-Identifier: Apache-2.0
"""Sampling a small domain more often, weighting its loss, and cooling down.

Paper: Upsample or Upweight? Balanced Training on Heavily Imbalanced Datasets
(2410.04579).
Claims: (1) Temperature sampling and scalarisation have the same expected
gradient. The variance of scalarisation's is larger by `sum_i (w_i - 1) p_i A_i`
with A second moments of gradients: the chi-square divergence of the shares
where these are equal, but negative where what is raised has small gradients.
(2) On a linear task with domains of 4000 and 40 examples the small one is
learned better by temperature sampling than in proportion, and is overfitted by
it later; Cooldown ends better. Scalarisation diverges at a step size at which
the others do not, and does not at one that is smaller by its largest weight.
Expected: (1) to 1e-10 by enumeration of 1000 examples. (2) error on the small
domain, of which .8 is noise: 1.92 in proportion, 1.48 by temperature (1.35 at
its best), 1.36 by Cooldown; that of single runs varies more than it differs.
Command: `python -m experiments.domain_sampling`
About 4 seconds on 2 cores.
"""

import dataclasses

import numpy as np
from absl import app

from experiments import harness, plotting
from experiments.stages.domain_sampling import training, variances


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How many tasks."""

  num_seeds: int = harness.field(
    128, smoke=64, full=512, help="random tasks, for intervals"
  )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Variances by enumeration, then training on the same draws by each way."""
  del progress  # One compiled program: there is nothing to follow.
  rng = np.random.default_rng(config.seed)
  parts = (
    variances.variances(rng),
    training.training(rng, num_seeds=config.num_seeds),
  )
  return harness.collect(
    "domain_sampling", "Upsample or Upweight? (2410.04579)", parts
  )


def plot(results: harness.Results) -> dict:
  """Errors on both domains by steps."""
  figure, axes = plotting.figure(1, 2)
  for ax, domain in zip(axes, training.DOMAINS, strict=True):
    training.plot(ax, results.curves, domain)
  return {"domain_sampling": figure}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
