# SPDX-License-Identifier: Apache-2.0
"""Divergences: bounds from samples, fits, transport limits, rounding.

Paper: f-GAN (1606.00709) and MINE (1801.04062) for the bounds; Feydy et al.
(1810.08278) for Sinkhorn divergences.
Claims: (1) critics trained on samples of two Gaussians give lower bounds of
every f-divergence. Expected: above none of the closed forms, also on fresh
samples to 4 standard errors; Donsker-Varadhan and NWJ within 2 % of KL = .364.
(2) One Gaussian fitted to .6 N(-2, 1) + .4 N(2, 1). Expected to 1e-4: mean and
standard deviation (-.331, 2.019) for KL(model||target), (-1.926, .857) and
(-.284, 2.106) for an entropy weighted .6 and 1.2, moments (-.4, 2.2) for
KL(target||model). (3) Expected limits of the Sinkhorn divergence: squared
transport distance, squared distance of means, half the energy distance, within
`epsilon log n` and `range^2 / (8 epsilon)`. (4) The Cauchy-Schwarz divergence
of three clouds' densities is 0 exactly when they are aligned and ignores their
scale. Expected to 1e-12. (5) In float32, where two distributions nearly agree,
relative errors. Expected: at most 1e-4 for the library's forms, at least 1e-3
for eight plain ones.
Command: `python -m experiments.divergence_bounds`
About 25 seconds on 2 cores. Needs ott-jax, of the experiments extra.
"""

import dataclasses
from functools import partial

import jax
from absl import app

from experiments import harness, plotting
from experiments.stages.divergence_bounds import (
  alignment,
  conjugates,
  lower_bounds,
  modes,
  rounding,
  transport,
)


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """Sizes of the samples and searches."""

  draws: int = harness.field(
    10_000, least=100, help="samples of each Gaussian to train critics on"
  )
  fresh: int = harness.field(
    200_000,
    full=1_000_000,
    least=100,
    help="fresh samples to evaluate critics on",
  )
  steps: int = harness.field(
    400, smoke=250, least=1, help="Adam steps of the critics"
  )
  points: int = harness.field(24, least=2, help="points of each cloud")
  rows: int = harness.field(
    64, smoke=16, least=1, help="pairs of distributions compared in float32"
  )
  outcomes: int = harness.field(
    1000, least=100, help="outcomes of each distribution"
  )

  def __post_init__(self):
    super().__post_init__()
    if self.points > 64:
      raise ValueError(
        "points must be at most 64, since three clouds have points^3 triples,"
        f" was {self.points}"
      )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Trains the critics, fits, transports and rounds."""
  keys = jax.random.split(config.key(), 4)
  parts = (
    conjugates.conjugates,
    partial(
      lower_bounds.lower_bounds,
      keys[0],
      num_seeds=config.num_seeds,
      draws=config.draws,
      fresh=config.fresh,
      steps=config.steps,
    ),
    modes.modes,
    partial(transport.transport, keys[1], points=config.points),
    partial(alignment.alignment, keys[2], points=config.points),
    partial(
      rounding.rounding, keys[3], rows=config.rows, outcomes=config.outcomes
    ),
  )
  return harness.collect(
    "divergence_bounds",
    "f-GAN (1606.00709); MINE (1801.04062); Interpolating between"
    " Optimal Transport and MMD using Sinkhorn Divergences (1810.08278)",
    (part() for part in harness.track(parts, "divergences", progress=progress)),
  )


def _plot_clouds(curves: dict):
  """Both divergences of clouds, side by side."""
  figure, (left, right) = plotting.figure(1, 2)
  transport.draw(left, curves)
  alignment.draw(right, curves)
  return figure


def plot(results: harness.Results) -> dict:
  """Generators, bounds, fits, clouds and rounding."""
  curves = results.curves
  return {
    "generators": conjugates.plot(curves),
    "bounds": lower_bounds.plot(curves),
    "modes": modes.plot(curves),
    "clouds": _plot_clouds(curves),
    "float32": rounding.plot(curves),
  }


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
