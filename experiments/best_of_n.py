# SPDX-License-Identifier: Apache-2.0
"""Best-of-n: its exact law, what it costs, and its relatives.

Paper: Theoretical Guarantees on the Best-of-n Alignment Policy (2401.01879);
Asymptotics of Language Model Alignment (2404.01730); Soft Best-of-n Sampling
(2505.03156); BOND (2407.14622); Transforming and Combining Rewards
(2402.00742).
Claims: (1) The KL from the base is at most log n - (n-1)/n, with equality only
without atoms: over V ordered outcomes of equal mass the gap falls as 1/V^2,
over a fair coin the KL stops at log 2. Expected at n = 16, bound 1.83509: coin
.69296, V = 10, 100, 1000: 1.73306, 1.83402, 1.83508; at n = 128 the coin has
.693147, bound 3.85984. (2) The win rate is close to the best at this KL.
Expected at n = 2, 4, 16: .66667, .8, .941176 against .67591, .80400, .941287;
rewind-and-repeat has .73537 at the KL of n = 4. (3) With n = e^(m/10) over m
Bernoulli(.3) tokens the reward per token tends to .514629 and the KL to the
optimum to 0, to (log m)/m. Expected at m = 1e5: .51457 and .000043. (4) Soft
best-of-n reaches its tilt as 1/n^2. Expected: n^2 KL -> 1.25029, n TV ->
.75253, to 4/n; at n = 8 over T = 1, 2, 4, 6, 8 tokens KL .00401, .01980,
.11953, .31355, .58542. (5) Distilling best-of-2 of a moving anchor k times
gives best-of-2^k: exactly, and by gradient descent to a KL of 1e-4. (6) Of two
rewards, summing log-sigmoids raises the smaller one against the plain sum, at
equal KL: expected at every KL. (7) On rewards of samples (`--rewards=FILE.csv`
with columns prompt and reward) the bound holds and the reward does not fall
with n; on known laws (`--generate=FILE.csv` writes a file of them and runs on
it) it is the exact one. Expected: simulations agree within 5 standard errors,
all else to 1e-10 where no tolerance is named.
Command: `python -m experiments.best_of_n`
About 25 seconds on 2 cores.
"""

import dataclasses

import jax
from absl import app

from experiments import harness
from experiments.stages.best_of_n import (
  combined_rewards,
  distillation,
  draws,
  exact_law,
  frontier,
  sampled_rewards,
  soft_best_of_n,
  tokens,
)

PAPER = (
  "Theoretical Guarantees on the Best-of-n Alignment Policy (2401.01879);"
  " Asymptotics of Language Model Alignment (2404.01730); Soft Best-of-n"
  " Sampling (2505.03156); BOND (2407.14622); Transforming and Combining"
  " Rewards (2402.00742)"
)
MOST = 10**15  # draws that a float64 counts one by one


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """Counts of draws, sizes of the worlds, and files of rewards."""

  n: tuple[int, ...] = harness.field(
    (1, 2, 4, 8, 16, 32, 64, 128),
    smoke=(1, 4, 16, 128),
    full=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
    least=1,
    most=MOST,
    help="numbers of draws of which the best is kept",
  )
  vocab: int = harness.field(10, least=2, help="outcomes of the random bases")
  ties: str = harness.field(
    "uniform",
    help="which of equal rewards is kept: any of the draws, or the last listed",
    choices=("uniform", "index"),
  )
  bases: int = harness.field(
    20_000,
    smoke=500,
    full=200_000,
    least=6,
    help="random bases for what always holds",
  )
  draws: int = harness.field(
    125_000,
    smoke=10_000,
    full=500_000,
    least=1000,
    help="best-of-n samples per seed",
  )
  tokens: tuple[int, ...] = harness.field(
    (10, 100, 1000, 10_000, 100_000),
    smoke=(1000,),
    full=(10, 100, 1000, 10_000, 100_000, 1_000_000),
    least=10,
    help="lengths of sequences; at n = e^(length/10)",
  )
  rewards: str = harness.field(
    "", help="CSV file with columns prompt,reward: samples of the base policy"
  )
  generate: str = harness.field(
    "", help="file to write with rewards of known laws, and to run on"
  )
  samples: int = harness.field(
    2000, smoke=400, full=20_000, least=10, help="samples per known law"
  )
  bootstrap: int = harness.field(
    200,
    smoke=50,
    full=1000,
    least=40,
    help="resamples for intervals of the reward",
  )

  def __post_init__(self):
    super().__post_init__()
    if self.rewards and self.generate:
      raise ValueError(
        "rewards and generate exclude each other: a generated file is run on"
      )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Reads or makes rewards of samples, then computes everything else."""
  # A key for each part, in their order, of which some need none.
  keys = jax.random.split(config.key(), 8)
  parts = (
    sampled_rewards.sampled_rewards(
      keys[0],
      n=config.n,
      ties=config.ties,
      samples=config.samples,
      bootstrap=config.bootstrap,
      read_from=config.rewards,
      write_to=config.generate,
      progress=progress,
    ),
    exact_law.exact_law(
      keys[1],
      n=config.n,
      vocab=config.vocab,
      ties=config.ties,
      num_bases=config.bases,
      progress=progress,
    ),
    frontier.frontier(n=config.n),
    draws.draws(
      keys[3],
      ties=config.ties,
      num_seeds=config.num_seeds,
      per_seed=config.draws,
    ),
    tokens.tokens(lengths=config.tokens, progress=progress),
    soft_best_of_n.soft_best_of_n(),
    distillation.distillation(keys[6], vocab=config.vocab, progress=progress),
    combined_rewards.combined_rewards(keys[7], vocab=config.vocab),
  )
  return harness.collect("best_of_n", PAPER, parts)


def plot(results: harness.Results) -> dict:
  """One figure for each part but the draws."""
  parts = {
    "kl": exact_law,
    "frontier": frontier,
    "tokens": tokens,
    "soft": soft_best_of_n,
    "distillation": distillation,
    "conjunction": combined_rewards,
    "rewards": sampled_rewards,
  }
  return {name: part.plot(results.curves) for name, part in parts.items()}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
