# SPDX-License-Identifier: Apache-2.0
"""Estimates of KL(policy||ref) from samples: bias, variance, gradients.

Paper: Schulman, Approximating KL Divergence (2020); A Comedy of Estimators
(2512.21852), for the gradients.
Claims: (1) on unit Gaussians d apart, standard deviations and biases over the
KL. Expected at d = .1: sd 20, 1.418, 1.417 of k1, k2, k3 and bias .0025 of k2;
at d = 1: 2, 1.732, 1.695 and .25; each within five standard errors of the
simulation. k1 and k3 have no bias; from d = 1.12 on k3 is the worse of the two.
(2) By enumeration on categoricals, what each estimator's expected gradient is
in each use. Expected: k1 as a loss 0, k2 that of KL(policy||ref), k3 that of
KL(ref||policy); in the reward only k1 is right, weighted by the ratio k1 and k3
are; to 1e-12, as are all claims by enumeration. (3) By enumeration on random
autoregressive tables: estimates of the sequence KL are unbiased; in the median
their variance grows from Rao-Blackwell over k3 and k1 by tokens to k3 of the
sequence's ratio; three surrogates have the exact gradient, and four that
differentiate token by token lack the score of the prefix. Expected with 3
tokens and 3 steps: relative error .35 in the median.
Command: `python -m experiments.kl_estimators`
About 20 seconds on 2 cores.
"""

import dataclasses
from functools import partial

import jax
from absl import app

from experiments import harness, plotting
from experiments.stages.kl_estimators import (
  gaussians,
  sequence_estimates,
  uses,
)


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """Sizes of the simulation and of the enumerated worlds."""

  draws: int = harness.field(
    1_000_000,
    smoke=250_000,
    full=4_000_000,
    least=1000,
    help="Gaussian samples per seed",
  )
  categoricals: int = harness.field(
    200,
    smoke=20,
    full=5000,
    least=1,
    help="random pairs for the gradients by use",
  )
  outcomes: int = harness.field(8, least=2, help="outcomes of each categorical")
  # Fewer have no 95 % interval of the median.
  tables: int = harness.field(
    1000,
    smoke=100,
    full=10_000,
    least=6,
    help="random pairs of autoregressive tables",
  )
  vocab: int = harness.field(3, least=2, help="tokens of the vocabulary")
  length: int = harness.field(3, least=2, help="tokens of a sequence")

  def __post_init__(self):
    super().__post_init__()
    if self.vocab**self.length > 1024:
      raise ValueError(
        "vocab ** length must be at most 1024 to be enumerated for every"
        f" table, was {self.vocab}**{self.length}"
      )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Simulates the Gaussians and enumerates the rest."""
  keys = jax.random.split(config.key(), 3)
  parts = (
    partial(
      gaussians.gaussians,
      keys[0],
      num_seeds=config.num_seeds,
      draws=config.draws,
    ),
    partial(
      uses.uses,
      keys[1],
      categoricals=config.categoricals,
      outcomes=config.outcomes,
    ),
    partial(
      sequence_estimates.sequence_estimates,
      keys[2],
      tables=config.tables,
      vocab=config.vocab,
      length=config.length,
    ),
  )
  return harness.collect(
    "kl_estimators",
    "Approximating KL Divergence (Schulman 2020);"
    " A Comedy of Estimators (2512.21852)",
    (part() for part in harness.track(parts, "estimators", progress=progress)),
  )


def _plot_gradients(curves: dict):
  """Expected gradients on categoricals and on sequences, side by side."""
  figure, (left, right) = plotting.figure(1, 2, width=5.2)
  uses.draw(left, curves)
  sequence_estimates.draw(right, curves)
  return figure


def plot(results: harness.Results) -> dict:
  """Bias and spread against distance, gradients, variances over tables."""
  curves = results.curves
  return {
    "gaussians": gaussians.plot(curves),
    "gradients": _plot_gradients(curves),
    "variances": sequence_estimates.plot(curves),
  }


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
