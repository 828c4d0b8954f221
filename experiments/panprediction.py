# SPDX-License-Identifier: Apache-2.0
"""Predictions that serve many losses and groups: step calibration.

Paper: Panprediction (2510.27638).
Claims: (1) What acting on predictions loses is bounded by their step
calibration error; omniprediction and multi-group learning are special cases.
(2) Audit and patch reaches an error eps in at most 1/(4 eps^2) patches. (3) The
randomised online algorithm misses by at most 1/m + 2 sqrt(ln(2B)/T) after T
samples: the paper's randomised rate 1/eps^2 is reached. (4) Deterministic
predictions: one sample for all audits, with noise, is guaranteed to suffice at
log(B)/eps^3, the paper's deterministic rate; a sample for each audit, or one
without noise, has a guarantee of 1/eps^4 only. These guarantees, in
`jaxalign.learning.sample_reuse`, are ours, for finitely many tests.
Expected: (1) largest gap over bound .17 for 500 random predictors, at most .25.
(2) 10, 42, 101, 242 patches for eps = .05, .02, .01, .005, caps 100 to 10000.
(3) slope of log error on log T -.46, of -1/2 within .1; error times sqrt(T) is
.6 to .7. (4) errors of about half of eps at the planned samples; above an eps
of some .03 the planned sample without noise is the smaller one. What suffices
for one population is far less than any guarantee. Measured exponents of 1/error
there, with 95 % intervals and without a claim: 2.8 (2.6 to 3.0) with fresh
samples, 2.8 (2.4 to 3.3) with one sample, with noise or without, 2.0 (1.6 to
2.7) for the online algorithm rounded to one prediction a point, which has no
guarantee for every population.
Command: `python -m experiments.panprediction`
Own data: `--csv=FILE --prediction=COLUMN --outcome=COLUMN --groups=COLUMN,...`
audits the predictions in a file, patches them until `--eps`, and writes
`predictions.csv`; halves of the rows tell what patches do to unseen ones.
About 25 seconds on 2 cores.
"""

import dataclasses

import numpy as np
from absl import app

from experiments import harness, plotting
from experiments.stages import csv_predictions
from experiments.stages.panprediction import (
  audits,
  deterministic,
  own,
  randomised,
  reduction,
  worlds,
)

_PAPER = "Panprediction (2510.27638)"


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """Sizes of the parts; a file."""

  num_predictors: int = harness.field(
    500, smoke=100, least=1, help="random predictors for the reduction"
  )
  num_eps: int = harness.field(
    24, smoke=4, least=2, help="points of the audit's curve"
  )
  rounds: tuple[int, ...] = harness.field(
    (500, 2000, 8000, 32000),
    smoke=(500, 2000),
    least=100,
    help="rounds of the online algorithm",
  )
  targets: tuple[float, ...] = harness.field(
    (0.14, 0.1, 0.07, 0.05, 0.035),
    smoke=(0.14, 0.1),
    help="errors wanted of deterministic predictions, falling",
  )
  sizes: tuple[float, ...] = harness.field(
    (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0),
    smoke=(0.5, 2.0, 8.0),
    help="samples tried for each of them, times 1/eps^2, rising",
  )
  rounded: tuple[int, ...] = harness.field(
    (128, 512, 2048),
    smoke=(128, 256),
    help="rounds of the rounded online algorithm, powers of two up to 2048",
  )
  csv: str = harness.field("", help="CSV file of predictions to patch")
  prediction: str = harness.field("prediction", help="its column of them")
  outcome: str = harness.field("outcome", help="its column of 0 and 1")
  groups: tuple[str, ...] = harness.field(
    ("",), help="its columns of groups, in [0, 1]; all others by default"
  )
  eps: float = harness.field(
    0.02, least=1e-3, help="error until which rows are patched"
  )

  def __post_init__(self):
    super().__post_init__()
    for name in ("targets", "eps"):
      given = getattr(self, name)
      if not all(0 < e < 1 for e in np.ravel(given)):
        raise ValueError(f"{name} must be between 0 and 1, was {given}")
    if not (min(self.sizes) > 0 and np.all(np.diff(self.sizes) > 0)):
      raise ValueError(f"sizes must be above 0 and rise, were {self.sizes}")
    for name in ("rounds", "targets", "rounded"):
      if len(set(getattr(self, name))) < 2:
        raise ValueError(f"{name} needs two numbers, to fit an exponent")
    points = 2**worlds.NUM_BITS
    if any(t < 1 or points % t for t in self.rounded):
      raise ValueError(f"rounded must divide {points}, was {self.rounded}")


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Patches a file, or runs every part on generated worlds."""
  del progress  # Each part is a few compiled programs.
  rng = np.random.default_rng(config.seed)
  if config.csv:
    groups = tuple(name for name in config.groups if name)
    data = own.read(config.csv, config.prediction, config.outcome, groups)
    part = own.own(rng, data, eps=config.eps)
    return harness.collect("panprediction", _PAPER, (part,))
  small, large = worlds.small(rng), worlds.large(rng)
  losses = worlds.losses(rng, small)
  num_seeds = config.num_seeds
  parts = (
    reduction.reduction(
      rng, small, losses, num_predictors=config.num_predictors
    ),
    audits.audits(small, losses, num_eps=config.num_eps),
    randomised.randomised(
      config.key(), rng, small, rounds=config.rounds, num_seeds=num_seeds
    ),
    deterministic.guaranteed(
      rng, large, targets=config.targets, num_seeds=num_seeds
    ),
    deterministic.measured(
      rng,
      large,
      targets=config.targets,
      sizes=config.sizes,
      rounds=config.rounded,
      num_seeds=num_seeds,
    ),
  )
  return harness.collect("panprediction", _PAPER, parts)


def plot(results: harness.Results) -> dict:
  """The reduction, patches and rates; or what became of a file."""
  curves = results.curves
  if "csv/patched" in curves:
    figure, (left, right) = plotting.figure(1, 2)
    own.plot_change(left, curves)
    own.plot_errors(right, curves)
    return {"patched": figure}
  figure, axes = plotting.figure(2, 3, width=3.9)
  reduction.plot(axes[0], curves)
  audits.plot(axes[1], curves)
  randomised.plot(axes[2], curves)
  deterministic.plot_guarantee(axes[3], curves)
  deterministic.plot_measured(axes[4], curves)
  deterministic.plot_exponents(axes[5], curves)
  return {"panprediction": figure}


def main(argv):
  """Runs from the command line."""
  return csv_predictions.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
