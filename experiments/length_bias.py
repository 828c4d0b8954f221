# SPDX-License-Identifier: Apache-2.0
"""Length that DPO learns from longer chosen completions, and what removes it.

Paper: SamPO (2406.10957); LD-DPO (2409.06411).
Claims: (1) a policy whose every token is .1 nats likelier than the reference's
has a DPO margin of 4 between 50 tokens and 10, and none in SamPO. (2) Drawing
tokens anew for policy and reference, as the authors' program does, makes the
log-ratio's deviation that of log-probabilities. (3) On tables with an end of
sequence, trained on pairs whose labels prefer longer completions, the expected
length grows with DPO in every seed, and less in the mean with SamPO, LD-DPO and
means over tokens.
Expected: (1, 2) to 1e-12: 4.0 and 0.0; deviations .065 and 1.85 for a ratio
that varies by .05 and log-probabilities that vary by 1 (.088 and 1.32 are known
for one sample of such numbers, which is not); (3) from 2.54 tokens to 3.83, and
.14 fewer with SamPO, .08 and .33 with LD-DPO of .5 and 0, .22 with means; the
intervals of eight seeds exclude 0, but in one or two it is the other way round.
Measured, no claim: what is paid in quality, which differs from seed to seed.
Command: `python -m experiments.length_bias`
About 15 seconds on 2 cores.
"""

import dataclasses

import jax
from absl import app

from experiments import harness
from experiments.stages.length_bias import draws, training


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How many random worlds, and how long to train."""

  num_updates: int = harness.field(
    400, smoke=200, least=100, help="of Adam, for every loss"
  )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Margins and deviations of draws, then training."""
  del progress  # A few compiled programs: there is nothing to follow.
  first = config.seed * config.num_seeds
  seeds = range(first, first + config.num_seeds)
  keys = jax.random.split(config.key())
  parts = (
    draws.draws(keys[0], seeds),
    training.training(keys[1], seeds, steps=config.num_updates),
  )
  return harness.collect("length_bias", "SamPO (2406.10957)", parts)


def plot(results: harness.Results) -> dict:
  """Expected length during training."""
  return {"length": training.plot(results.curves)}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
