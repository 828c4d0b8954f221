# SPDX-License-Identifier: Apache-2.0
"""How little must change for a sample to show the disparate impact it should.

Paper: Exposing the Illusion of Fairness: Auditing Vulnerabilities to
Distributional Manipulation Attacks (2507.20708) and its released code.
Claims: Of all weights that give a sample a disparate impact t and leave the
shares of its groups, those of the entropic projection are closest in KL. (1)
The projection, by Newton's method in two unknowns, equals a problem in one.
(2) Without the constraint on shares the impact is not t. (3) The released
code's balanced variant, which moves both rates alike, is not the closest. (4)
`ceil((t b - a) n0)` changed predictions reach t, one fewer does not.
Expected: (1) impacts and divergences to 1e-10. Made-up samples of 500 with
rates near .35 and .6, brought to .8: KL .0102 (projection), .0112 (balanced),
.0152 (flips); with shares free to move the impact is about .70. A test on a
sample of this size would mostly not notice (p-values of .08 to .13).
Command: `python -m experiments.disparate_impact`, or on one's own table
`python -m experiments.disparate_impact --csv=FILE --prediction=COLUMN
--group=COLUMN --target_di=.8`, both columns of 0 and 1: the weights, and the
flipped predictions, of each row are in `curves.npz`.
About 2 seconds on 2 cores.
"""

import dataclasses

import numpy as np
from absl import app

from experiments import harness, plotting
from experiments.stages.disparate_impact import own_table, projection


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How many samples, or which, and what they are to show."""

  num_seeds: int = harness.field(
    16, smoke=4, full=64, help="made-up samples; no matter with csv"
  )
  target_di: float = harness.field(0.8, help="the disparate impact to be shown")
  csv: str = harness.field("", help="a table; else made up")
  prediction: str = harness.field(
    "", help="with csv: column of predictions, 0 or 1"
  )
  group: str = harness.field(
    "", help="with csv: column of groups, 0 the disadvantaged, 1 the other"
  )

  def __post_init__(self):
    super().__post_init__()
    if not self.target_di > 0:
      raise ValueError(f"target_di must be above 0, was {self.target_di}")
    if len({bool(x) for x in (self.csv, self.prediction, self.group)}) > 1:
      raise ValueError(
        "csv, prediction and group belong together: give all or none"
      )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Made-up samples, or a user's.

  Raises:
    InputError: the table cannot be used, or cannot have this impact.
  """
  del progress  # A few compiled programs: there is nothing to follow.
  if config.csv:
    sample = own_table.read(config.csv, config.prediction, config.group)
    part = own_table.own_table(
      config.key(), sample, impact=config.target_di, path=config.csv
    )
  else:
    part = projection.projection(
      np.random.default_rng(config.seed),
      config.key(),
      impact=config.target_di,
      num_seeds=config.num_seeds,
    )
  return harness.collect(
    "disparate_impact", "Exposing the Illusion of Fairness (2507.20708)", [part]
  )


def plot(results: harness.Results) -> dict:
  """Divergences by the impact that is asked for, and weights."""
  figure, (left, right) = plotting.figure(1, 2)
  projection.plot_divergence(left, results.curves)
  projection.plot_cells(right, results.curves)
  return {"disparate_impact": figure}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
