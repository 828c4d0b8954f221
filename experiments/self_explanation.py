# SPDX-License-Identifier: Apache-2.0
"""Learning from explanations of the right answer where every sample fails.

Paper: ExPO (2507.02834).
Claims: (1) Rationales given the right answer lead to it more often than the
policy's own, by Var X / E X; their expected gradient is that of the log of
success, while the policy gradient is that times success itself. (2) GRPO with
self-explanations learns where GRPO alone sees no success to learn from, and
where an expert's rationale is too unlikely to be learned.
Expected: (1) to 1e-12. (2) one question, 32 rationales, 16 answers, success
7.5e-4 at first, groups of 8: mean success after 50, 100 and 400 steps about
.001, .001, .27 (GRPO), .80, .987, .998 (ExPO), and with an expert's rationale
40 nats below the others .001, .001, .81; runs of GRPO that are lucky by then
make .1 to .6 of 12 to 32. Measured, no claim: annealing the weight to 0 changes
nothing; an expert's rationale is not useless but slow, by its log-probability
over the weight: half of the success after 107 steps at 10 nats, 202 at 20, 395
at 40, against 38 for the policy's own. What is not shown here: that a model
that is prompted with the answer draws from the posterior, as it does exactly
here; nor the paper's scores.
Command: `python -m experiments.self_explanation`
About 10 seconds on 2 cores.
"""

import dataclasses

import jax
import numpy as np
from absl import app

from experiments import harness
from experiments.stages.self_explanation import (
  identities,
  training,
  worlds,
)


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How many questions."""

  num_seeds: int = harness.field(
    32, smoke=12, full=128, help="random questions, for intervals"
  )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Runs every arm on the same questions."""
  del progress  # Two compiled programs: there is nothing to follow.
  rng = np.random.default_rng(config.seed)
  policies = worlds.questions(rng, config.num_seeds, training.GAPS)
  first = jax.tree.map(lambda x: x[:, 0], policies)
  parts = (
    identities.identities(first),
    training.training(rng, policies),
  )
  return harness.collect("self_explanation", "ExPO (2507.02834)", parts)


def plot(results: harness.Results) -> dict:
  """Success by step."""
  return {"success": training.plot(results.curves)}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
