# SPDX-License-Identifier: Apache-2.0
"""Nash learning: where every algorithm converges to, and how fast.

Paper: Nash Learning from Human Feedback (2312.00886); Human Alignment of Large
Language Models through Online Preference Optimisation (2403.08635); EGPO
(2503.08942).
Claims: (1) A step of Nash-MD leaves KL(pi*||pi) below (1 - eta tau) KL + 2
eta^2, and decreasing steps leave it below 8 / (tau^2 (T + 1)). Expected: ratios
to the bounds at most 1; the KL in fact falls like T^-2, exponent -2 +- .01.
(2) Nash-MD with a constant step, IPO-MD and Nash-MD-PG rest at one policy, the
best response to the equilibrium of strength tau / (1 - eta tau), which is not
pi*. Expected: KL to it 0 +- 1e-12, floors of KL(pi*||pi) equal to 1e-5. (3) The
KL falls by the factor per step of the linearised algorithm. Expected: equal to
2e-5 on the symmetric cycle; on random games logarithms within 5 %. (4)
Self-play converges up to a step size. Expected: 1.31579 +- .000005 for tau =
.02 on the cycle of wins .8. (5) Multiplicative weights do not approach the
equilibrium of a cycle; their average does. Expected: its duality gap falls like
T^-1, exponent -1 +- .1.
Command: `python -m experiments.nash`
About 20 seconds on 2 cores.
"""

import dataclasses

import numpy as np
from absl import app

from experiments import harness
from experiments.stages.nash import (
  bias,
  contraction,
  convergence,
  multiplicative_weights,
  runs,
  stability,
)


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """The games and the step sizes."""

  num_seeds: int = harness.field(
    16, smoke=4, full=48, help="random games, of which intervals are taken"
  )
  tau: float = harness.field(0.1, help="weight of the KL from the reference")
  win_prob: float = harness.field(0.8, help="wins in the symmetric cycle")
  actions: int = harness.field(6, least=3, help="actions of the random games")
  scale: float = harness.field(1.0, help="spread of the random log-odds")
  shares: tuple[float, ...] = harness.field(
    (0.025, 0.05, 0.1),
    help="step sizes as shares of self-play's threshold, increasing",
  )
  decay: float = harness.field(0.5, help="decay of the average in Nash-EMA")
  steps: int = harness.field(
    6000, smoke=4000, full=8000, least=100, help="steps of each algorithm"
  )

  def __post_init__(self):
    super().__post_init__()
    for name in ("tau", "scale"):
      if not 0 < getattr(self, name) < np.inf:
        raise ValueError(
          f"{name} must be above 0 and finite, was {getattr(self, name)}"
        )
    if not 0.5 < self.win_prob <= 1:
      raise ValueError(f"win_prob must be in (0.5, 1], was {self.win_prob}")
    rising = np.all(np.diff((0.0, *self.shares, 0.5)) > 0)
    if len(self.shares) < 2 or not rising:
      raise ValueError(
        "shares must be two or more increasing numbers in (0, 0.5), was"
        f" {','.join(map(str, self.shares))}"
      )
    if not 0 <= self.decay < 1:
      raise ValueError(f"decay must be in [0, 1), was {self.decay}")


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Runs every algorithm on every game; then the two special cases."""
  del progress  # A few compiled programs: there is nothing to follow.
  found = runs.measure(
    config.key(),
    num_seeds=config.num_seeds,
    win_prob=config.win_prob,
    actions=config.actions,
    scale=config.scale,
    tau=config.tau,
    shares=config.shares,
    decay=config.decay,
    steps=config.steps,
  )
  return harness.collect(
    "nash",
    "Nash Learning from Human Feedback (2312.00886); Human Alignment of"
    " LLMs through Online Preference Optimisation (2403.08635); EGPO"
    " (2503.08942)",
    [
      contraction.contraction(found, tau=config.tau),
      bias.bias(found, tau=config.tau, shares=config.shares),
      convergence.convergence(found),
      stability.stability(),
      multiplicative_weights.multiplicative_weights(win_prob=config.win_prob),
    ],
  )


def plot(results: harness.Results) -> dict:
  """Convergence on every kind of game, bias, stability, no regularisation."""
  curves, tables = results.curves, results.tables
  return convergence.plot(curves, tables) | {
    "bias": bias.plot(curves),
    "stability": stability.plot(curves),
    "multiplicative_weights": multiplicative_weights.plot(curves, tables),
  }


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
