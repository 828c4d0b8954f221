# SPDX-License-Identifier: Apache-2.0
"""A network that predicts mean and variance in context, against Bayes.

Paper: Towards Better Understanding of In-Context Learning Ability from
In-Context Uncertainty Quantification (2405.15115).
Claims: Trained by a Gaussian likelihood on linear regressions, each a context
of pairs and a query, a network's mean and variance approach those of the
posterior predictive, whether the variance of the noise is known or has an
inverse gamma prior: its loss is below the oracle's at no length of the context
and little above it.
Expected: two features, up to 12 pairs, a GRU of 64; losses above the oracle's
by about .02 (known) and .035 nats (learned) in the mean over lengths; the bands
are ours.
Command: `python -m experiments.in_context_uncertainty`
About 25 seconds on 2 cores.
"""

import dataclasses

from absl import app

from experiments import harness, plotting
from experiments.stages.in_context_uncertainty import learning, regression


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How long to train."""

  num_seeds: int = harness.field(
    2, smoke=2, full=8, help="networks of each world, for intervals"
  )
  length: int = harness.field(
    12, smoke=4, least=1, help="pairs of the longest context"
  )
  rows: int = harness.field(
    64, smoke=32, full=256, least=1, help="tasks of an update"
  )
  steps: int = harness.field(
    2000, smoke=200, full=6000, least=1, help="updates"
  )
  band: float = harness.field(
    0.05, smoke=0.3, help="how far above the oracle's a loss may be"
  )


def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Trains all networks at once."""
  del progress  # One compiled program: there is nothing to follow.
  part = learning.learning(
    config.key(),
    num_seeds=config.num_seeds,
    length=config.length,
    rows=config.rows,
    steps=config.steps,
    band=config.band,
  )
  return harness.collect(
    "in_context_uncertainty",
    "In-Context Uncertainty Quantification (2405.15115)",
    (part,),
  )


def plot(results: harness.Results) -> dict:
  """Losses in both worlds."""
  figure, panels = plotting.figure(1, 2)
  for axes, world in zip(panels, regression.WORLDS, strict=True):
    learning.plot(axes, results.curves, world)
  return {"in_context_uncertainty": figure}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
