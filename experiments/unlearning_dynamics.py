# SPDX-License-Identifier: Apache-2.0
"""How fast, and at whose cost, a policy forgets.

Paper: Negative Preference Optimization (2404.05868); SimNPO (2410.07163), FLAT
(2410.11143) and gradient ascent beside it.
Claims: (1) Under gradient flow of one token's log-probability, gradient ascent
falls like -t and NPO obeys `e^(-beta h)/beta - h = 2 t + 1/beta`: it slows down
exponentially, to `-log(2 beta t)/beta`. (2) Of completions of L tokens NPO
forgets long ones far less per token; SimNPO's mean only delays them. (3) Where
prompts share parameters, gradient ascent destroys what is to be kept, NPO and
SimNPO do not; GradDiff, which sees it, keeps more when as much is forgotten.
Expected: (1) to 1e-8; after time 200 with beta .5 the log-ratio is -10.553, not
-200. (2) Length 64 falls .034 (NPO) and .285 (SimNPO) of what length 1 does.
(3) Kept after 3000 updates .40 (gradient ascent), .64 (NPO) and .76 (SimNPO),
though these have larger rates; at a tenth left .73, .77, .77, and .78 for
GradDiff. Measured, no claim: FLAT (.75 at a tenth, and the template's
probability rises to .93), and that gradient ascent never gets down to a tenth
in 27 % of the worlds, because it learns one of the prompts better.
Command: `python -m experiments.unlearning_dynamics`
About 12 seconds on 2 cores.
"""

import dataclasses

from absl import app

from experiments import harness
from experiments.stages.unlearning_dynamics import laws, world


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How many random worlds."""

  num_seeds: int = harness.field(
    256, smoke=64, full=1024, help="random features and answers, for intervals"
  )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """The laws, then the world."""
  del progress  # Four compiled programs: there is nothing to follow.
  first = config.seed * config.num_seeds
  parts = (
    laws.laws(),
    world.world(seeds=range(first, first + config.num_seeds)),
  )
  return harness.collect(
    "unlearning_dynamics",
    "Negative Preference Optimization (2404.05868)",
    parts,
  )


def plot(results: harness.Results) -> dict:
  """Flows, and the world's paths."""
  return {
    "laws": laws.plot(results.curves),
    "world": world.plot(results.curves),
  }


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
