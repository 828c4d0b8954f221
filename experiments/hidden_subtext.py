# SPDX-License-Identifier: Apache-2.0
"""A hidden trait in ordinary preferences: who learns it, and from which pairs.

Paper: Subliminal Effects in Your Data (2602.04863).
Claims: A teacher with a persona scores pairs of answers that hold no word of
the persona's trait. (1) DPO on the tenth of positive pairs that
logit-linear selection keeps makes students say the trait's words at least three
times as often, without persona and in other architectures; as many random pairs
at most 1.5 times, all pairs likewise, and exchanged labels at most a quarter as
often. (2) Students score the pairs as the teacher does. (3) Log-ratios of
personas are of low rank; of normal features, selection finds its direction.
Expected: shares of the trait's words from .05 before to .22, .24 and .17 (GRU,
small transformer, the teacher's own architecture), .05 to .06 after random
pairs and all pairs, .002 to .013 after exchanged labels; correlation .73 to .83
(.91 to .93 where pretraining is that of the full preset, in the reference's
numbers); singular values 1, .26, .19, .16, .07, .05. It is bought dearly: tuned
on the selected pairs a student loses .9 to 2.5 nats a word of the language that
it spoke before. The smoke preset teaches no student, and claims (3) alone.
Command: `python -m experiments.hidden_subtext`
About 60 seconds on 2 cores.
"""

import dataclasses

import jax
import numpy as np
from absl import app

from experiments import harness, plotting
from experiments.stages.hidden_subtext import arms, students, theory, world

_GAMMA = 0.1


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How large the world is, and who learns."""

  num_seeds: int = harness.field(
    2, full=4, help="languages, with teachers and students of their own"
  )
  tune: bool = harness.field(
    True, smoke=False, help="whether to teach students, which takes the time"
  )
  num_pairs: int = harness.field(
    8000, smoke=500, full=16_000, least=100, help="to select from"
  )
  width: int = harness.field(
    48, smoke=24, least=4, help="of the teacher, a multiple of 4"
  )
  steps: int = harness.field(
    300, smoke=60, full=500, least=1, help="of pretraining"
  )
  batch_size: int = harness.field(
    64, smoke=32, full=256, least=1, help="of pretraining, sequences"
  )
  tuning_steps: int = harness.field(74, least=10, help="of DPO, 64 pairs each")

  def __post_init__(self):
    super().__post_init__()
    if self.width % 4:
      raise ValueError(f"width must be a multiple of 4, was {self.width}")

  @property
  def sizes(self) -> world.Sizes:
    """All but who learns."""
    return world.Sizes(
      self.num_pairs,
      _GAMMA,
      self.width,
      self.steps,
      self.batch_size,
      self.tuning_steps,
    )


def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Makes the worlds, then teaches one student after the other."""
  rng = np.random.default_rng(config.seed)
  known = students.students(config.width) if config.tune else {}
  of_world, *of_students = jax.random.split(config.key(), 1 + len(known))
  # In float32, also where the caller has more.
  with jax.enable_x64(False):
    made = world.make(of_world, config.num_seeds, config.sizes)
    subset = arms.subsets(rng, made)
    names = harness.track(list(known), "students", progress=progress)
    found = {
      name: arms.teach(key, known[name], made, subset, config.sizes)
      for name, key in zip(names, of_students, strict=True)
    }
    parts = [
      theory.low_rank(made, config.sizes),
      theory.gaussian(rng, num_seeds=config.num_seeds),
    ]
    if found:
      parts.insert(0, arms.report(found, made))
  return harness.collect(
    "hidden_subtext", "Subliminal Effects in Your Data (2602.04863)", parts
  )


def plot(results: harness.Results) -> dict:
  """Rates of the trait, scores, singular values."""
  taught = "students" in results.curves
  figure, axes = plotting.figure(1, 3 if taught else 1, width=3.9)
  theory.plot(axes[0], results.curves)
  if taught:
    arms.plot_rates(axes[1], results.curves)
    arms.plot_scores(axes[2], results.curves)
  return {"hidden_subtext": figure}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
