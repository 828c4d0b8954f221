# SPDX-License-Identifier: Apache-2.0
"""The distortion of alignment methods: theory's curves, searches, real votes.

Paper: Distortion of AI Alignment (2505.23749); Distortion of AI Alignment
Revisited (2609.12651), for comparisons drawn like the reference.
Claims: Nash learning (NLHF, maximal lotteries) has distortion D*(beta) =
(beta/2) coth(beta/2) at worst and attains it; Borda, hence RLHF and DPO without
KL constraint, is at C(beta) > D*(beta) on an instance; with a KL ball RLHF and
DPO reach e^beta/(10 beta), where NLHF stays at 1; with comparisons along a path
RLHF is unbounded. Expected at beta = 5: D* 2.5339, C 3.4777 (3.4742 at eps
1e-3), 2.9683 on the exponential family, path 1.958, 6.683, 21.46 for 10, 100,
1000 alternatives. No random or adversarial game exceeds D*; the adversary comes
within 90 % of it. Finite samples follow the exact binomial law.
Command: `python -m experiments.distortion`
Real input: `--profile=FILE.soc` (PrefLib rankings), `--ratings=FILE.csv`
(columns model, arena_score, votes).
About 90 seconds on 2 cores.
"""

import dataclasses

import jax
import numpy as np
from absl import app

from experiments import harness, plotting
from experiments.stages.distortion import (
  finite_samples,
  leaderboard,
  rankings,
  searches,
  worst_cases,
)


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """Temperatures, sizes of the searches, files."""

  betas: tuple[float, ...] = harness.field(
    (1.0, 2.0, 5.0, 10.0, 20.0), help="Bradley-Terry temperatures"
  )
  num_instances: int = harness.field(
    20_000,
    smoke=400,
    full=100_000,
    least=1,
    help="random games for each beta and size",
  )
  candidates: int = harness.field(
    8000,
    smoke=400,
    least=32,
    help="random games from which the adversary starts",
  )
  steps: int = harness.field(
    400, smoke=150, least=1, help="the adversary's Adam steps"
  )
  electorates: int = harness.field(
    4000,
    smoke=200,
    full=40_000,
    least=1,
    help="simulated electorates for each seed",
  )
  budgets: tuple[float, ...] = harness.field(
    (0.01, 0.1, 0.5, 1.0, 2.0),
    smoke=(0.1, 1.0),
    help="KL radii in nats for policies on ratings",
  )
  profile: str = harness.field(
    "", help="PrefLib .soc file of rankings; a built-in profile by default"
  )
  ratings: str = harness.field(
    "", help="CSV file of ratings; a built-in leaderboard by default"
  )

  def __post_init__(self):
    super().__post_init__()
    # Beyond, users with a share of 10 e^-beta are lost in win probabilities.
    if not all(0 < beta <= 30 for beta in self.betas):
      raise ValueError(f"betas must be in (0, 30], were {self.betas}")
    if not all(0 <= tau < np.inf for tau in self.budgets):
      raise ValueError(
        f"KL budgets must be finite and at least 0, were {self.budgets}"
      )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Runs the table, the searches, the finite-sample law and the real input."""
  # Files first: what is wrong with them shows before anything is computed.
  profile = rankings.read(config.profile)
  ratings = leaderboard.read(config.ratings)
  games_key, adversary_key, finite_key = jax.random.split(config.key(), 3)
  betas = config.betas
  parts = (
    worst_cases.worst_cases(betas=betas, progress=progress),
    searches.random_games(
      games_key,
      betas=betas,
      num_instances=config.num_instances,
      progress=progress,
    ),
    searches.adversary(
      adversary_key,
      betas=betas,
      candidates=config.candidates,
      steps=config.steps,
      progress=progress,
    ),
    finite_samples.finite_samples(
      finite_key, num_seeds=config.num_seeds, electorates=config.electorates
    ),
    rankings.rankings(profile),
    leaderboard.leaderboard(ratings, budgets=config.budgets),
  )
  return harness.collect(
    "distortion", "Distortion of AI Alignment (2505.23749)", parts
  )


def plot(results: harness.Results) -> dict:
  """Distortion against beta, the searches, and the leaderboard."""
  curves = results.curves
  figure, (left, right) = plotting.figure(1, 2)
  searches.plot(left, curves)
  finite_samples.plot(right, curves)
  return {
    "distortion": worst_cases.plot(curves),
    "searches": figure,
    "ratings": leaderboard.plot(curves),
  }


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
