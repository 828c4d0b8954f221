# SPDX-License-Identifier: Apache-2.0
"""Policies that approximate an explicit target: f-DPG, GDC, BRAIn.

Paper: f-DPG (2302.08215); GDC (2012.11635); BRAIn (2402.02479).
Claims: over 50 outcomes. (1) f-DPG follows the gradient of any f-divergence
from the target: KL(p||pi), KL(pi||p) and JS reach it, TV needs a decaying step.
(2) A family that does not hold the target has another limit for each of them,
the least in its own divergence. (3) Of all distributions with given moments,
GDC's exponential target is the closest to the base. (4) A baseline takes the
noise of f' itself away, all of it at the target. (5) BRAIn's self-normalised
baseline makes distribution matching from 8 samples less noisy, the more the
closer the target is.
Expected: (1) KL(p||pi) below 1e-11 after 20000 steps; TV of about 5e-4 is left,
.03 with a constant step. (2) All pairs of limits. (3) Moments to 1e-12,
KL(other||base) = KL(other||target) + KL(target||base) to 1e-12, primal and dual
to 2e-9. (4) Traces f'(1)^2 (1 - sum p^2) without it, 0 with it. (5) 134, 34, 6
and 2.4 times less at a KL of .004, .017, .10 and .38. Measured, no claim: that
B shrinks the gradient by one eighth, and biases it where the target is far;
that JS's limit is the second best for each of the other three.
Command: `python -m experiments.distribution_matching`
About 12 seconds on 2 cores.
"""

import dataclasses

from absl import app

from experiments import harness
from experiments.stages.distribution_matching import (
  exact,
  projection,
  variance,
)


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How many random targets."""

  num_seeds: int = harness.field(
    8, smoke=2, full=64, help="random policies, targets and moments"
  )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Descents, projections, variances."""
  del progress  # A few compiled programs: there is nothing to follow.
  first = config.seed * config.num_seeds
  seeds = range(first, first + config.num_seeds)
  parts = (
    exact.exact(seeds=seeds),
    projection.projection(seeds=seeds),
    variance.variance(seeds=seeds),
  )
  return harness.collect("distribution_matching", "f-DPG (2302.08215)", parts)


def plot(results: harness.Results) -> dict:
  """Descents, and traces of covariances."""
  return {
    "descents": exact.plot(results.curves),
    "variance": variance.plot(results.curves),
  }


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
