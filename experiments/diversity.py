# SPDX-License-Identifier: Apache-2.0
"""Which divergence to the base keeps what is not being rewarded.

Paper: The Choice of Divergence, DPH-RL (2509.07430).
Claims: At equal success on the problems trained on, mass-covering divergences
keep more of pass@k on others: exact regularised optima in the order reverse KL,
alpha = .2, alpha = .5, JS, forward KL. In sampled training any divergence
beats none, but all lie on one frontier of success against variety.
Expected: (1) train pass@1 = .50 for each: held-out pass@256 .6145, .6653,
.7208, .7241, .7724 (the base has .952), min pi/ref .079, .135, .214, .206,
.310, at weights .0951, .1018, .1137, .2483, .1312. Of 128 other worlds forward
KL keeps the most and reverse KL the least in 122; alpha = .5 and JS change
places, so that 71 have the whole order. (2) sampled, 300 steps of clipped GRPO:
held-out pass@256 .46 without, from .57 to .89 with any divergence; at train
pass@1 = .5 they differ by some .03, in the same order (.16 among optima).
Command: `python -m experiments.diversity`
About 30 seconds on 2 cores.
"""

import dataclasses

from absl import app

from experiments import harness, plotting
from experiments.stages.diversity import optima, sampled


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How many worlds and runs."""

  num_seeds: int = harness.field(
    8, smoke=4, full=32, least=4, help="sampled runs of every arm"
  )
  num_worlds: int = harness.field(
    16, smoke=4, full=64, least=2, help="other worlds to compare optima in"
  )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Exact optima, and sampled training."""
  del progress  # Three compiled programs: there is nothing to follow.
  exact = optima.optima(seed=config.seed, num_worlds=config.num_worlds)
  many = exact.curves["optima/held_out"][:, optima.KS.index(256)]
  parts = (
    exact,
    sampled.sampled(
      key=config.key(),
      num_seeds=config.num_seeds,
      target=optima.TARGET,
      exact_spread=many.max() - many.min(),
    ),
  )
  return harness.collect(
    "diversity", "The Choice of Divergence (2509.07430)", parts
  )


def plot(results: harness.Results) -> dict:
  """Success against variety, of optima and of sampled runs."""
  figure, (first, second, third) = plotting.figure(1, 3, width=3.6)
  optima.plot(first, second, results.curves)
  sampled.plot(third, results.curves)
  return {"divergences": figure}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
