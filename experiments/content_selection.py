# SPDX-License-Identifier: Apache-2.0
"""Choosing content for users who stay away when they are not satisfied.

Paper: Algorithmic Content Selection and the Impact of User Disengagement
(2410.13108); the model's timing and its exact dynamic program are ours.
Claims: (1) With a linear price of satisfaction the best plan goes to one
satisfaction and stays: the closed form is the dynamic program. Bounded steps
never exceed it; of k levels only the left ends matter. (2) Simulated users
bring the revenue and the engagement that the theory says. (3) Friction lowers
revenue, and can raise long-run engagement; with logistic demand it raises
participation alone. (4) Hedge earns half of the best policy's gain less
.398 ln N, whatever the gains and however many rounds.
Expected: effective discounts .834940 and .48; (1) to 1e-12: satisfaction 5.00
and value 9.5177 for logistic demand, 9.0046 with steps of at most 1, 3 and
9.154755 for six levels; (2) within 5 standard errors; (3) revenue 5.5 falls to
3.047722 while engagement .5 rises to .655172; (4) no shortfall.
Command: `python -m experiments.content_selection`, or on one's own demand curve
`python -m experiments.content_selection --csv=FILE` with columns satisfaction
and participation, and --base, --price, --discount, --friction, --max_step.
About 2 seconds on 2 cores.
"""

import dataclasses
import math

import numpy as np
from absl import app

from experiments import harness, plotting
from experiments.stages.content_selection import (
  cases,
  demand,
  friction,
  model,
  online,
  simulation,
)
from jaxalign import checks


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How many users and sequences, or a demand curve of one's own."""

  num_users: int = harness.field(
    4000, smoke=1000, full=40_000, least=2, help="simulated users of a seed"
  )
  num_sequences: int = harness.field(
    100, smoke=20, full=1000, least=1, help="sequences of gains of each kind"
  )
  csv: str = harness.field(
    "", help="CSV file with columns satisfaction,participation, for it alone"
  )
  base: float = harness.field(
    model.LOGISTIC.base, help="with csv: what content earns at no change"
  )
  price: float = harness.field(
    model.LOGISTIC.price, help="with csv: of a unit of satisfaction"
  )
  discount: float = harness.field(
    model.LOGISTIC.discount, help="with csv: of one round, in (0, 1)"
  )
  friction: float = harness.field(
    model.LOGISTIC.friction,
    least=0,
    most=1,
    help="with csv: by which share users return less after staying away",
  )
  max_step: float = harness.field(
    math.inf, least=0, help="with csv: the largest change of satisfaction"
  )

  def __post_init__(self):
    super().__post_init__()
    checks.check_positive(price=self.price)
    if not math.isfinite(self.price + self.base):
      raise ValueError(
        f"base and price must be finite, were {self.base} and {self.price}"
      )
    if not 0 < self.discount < 1:
      raise ValueError(f"discount must be between 0 and 1, was {self.discount}")


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """The cases, users, friction and Hedge; or one's own demand curve."""
  del progress  # A few compiled programs: there is nothing to follow.
  if config.csv:
    own = model.Model(
      config.base, config.price, config.discount, config.friction
    )
    parts = [
      demand.demand(
        config.key(),
        demand.read(config.csv),
        own,
        max_step=config.max_step,
        num_users=config.num_seeds * config.num_users,
      )
    ]
  else:
    parts = [
      cases.cases(),
      simulation.simulation(
        config.key(), num_seeds=config.num_seeds, num_users=config.num_users
      ),
      friction.friction(),
      online.online(
        np.random.default_rng(config.seed), number=config.num_sequences
      ),
    ]
  return harness.collect(
    "content_selection",
    "Algorithmic Content Selection and the Impact of User Disengagement"
    " (2410.13108)",
    parts,
  )


def plot(results: harness.Results) -> dict:
  """Values, friction and Hedge, or one's own demand curve."""
  curves = results.curves
  if "demand/y" in curves:
    return {"demand": demand.plot(curves)}
  figure, axes = plotting.figure(2, 2)
  cases.plot(axes[0], curves)
  friction.plot(axes[1], curves, "two", "two levels of demand")
  friction.plot(axes[2], curves, "logistic", "logistic demand")
  online.plot(axes[3], curves)
  return {"content_selection": figure}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
