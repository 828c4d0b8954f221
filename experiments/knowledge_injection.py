# SPDX-License-Identifier: Apache-2.0
"""Which format of finetuning makes new facts known, and which facts.

Paper: From Style to Facts (2503.05919); the world, its sizes and all numbers
are of a replica in small.
Claims: A transformer that has learned facts on base entities from questions,
documents and comparisons is finetuned on new ones, in one format, and asked in
a template that it has never seen about them. Questions make more known than
documents; fewer numerical facts are known than categorical ones, in every
format; and which of two has the larger number stays a guess.
Expected: known after questions in two templates less after documents in fixed
order: at least .1 of categorical and .2 of numerical facts; seen .26 and .51 in
the quick preset, whose world is about half as large as that of the full one.
Comparisons of new entities are right in .5 +- .02 of the cases.
A document states six facts and a question one, so that equal rows favour
documents; rows "matched" state each fact equally often, and fewer facts are
known after these: .34 categorical and .02 numerical ones in fixed order.
`--write=FILE` writes such a world as text, a JSON object a line, for a language
model of one's own.
Command: `python -m experiments.knowledge_injection`
About 55 seconds on 2 cores.
"""

import dataclasses

from absl import app

from experiments import harness, plotting
from experiments.stages.knowledge_injection import export, formats, mixes
from jaxalign.learning import knowledge


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """Sizes of the world and of training."""

  num_seeds: int = harness.field(
    2, smoke=2, full=6, help="worlds, each with its model, for intervals"
  )
  num_names: int = harness.field(
    16, smoke=6, full=24, least=2, help="first names, and as many last names"
  )
  num_categorical: int = harness.field(
    4, smoke=2, least=1, help="categorical facts on each entity"
  )
  num_numerical: int = harness.field(
    2, smoke=1, least=1, help="numerical facts on each entity"
  )
  num_base: int = harness.field(
    80, smoke=16, full=150, least=2, help="entities of pretraining"
  )
  num_new: int = harness.field(
    30, smoke=8, full=50, least=2, help="entities of finetuning"
  )
  num_layers: int = harness.field(2, smoke=1, least=1, help="of the model")
  width: int = harness.field(
    48, smoke=32, full=64, least=4, help="of the model, a multiple of 4"
  )
  pretrain_steps: int = harness.field(
    600, smoke=250, full=2000, least=1, help="updates of pretraining"
  )
  pretrain_rows: int = harness.field(
    96, smoke=40, full=128, least=5, help="rows of each"
  )
  finetune_steps: int = harness.field(
    120, smoke=80, full=250, least=1, help="updates of finetuning"
  )
  new_rows: int = harness.field(
    30, smoke=12, full=48, least=2, help="rows of each on new entities"
  )
  replay_rows: int = harness.field(
    10, smoke=5, full=16, least=5, help="rows of each as in pretraining"
  )
  guess: float = harness.field(
    0.08,
    # Three standard deviations of what a ranking by chance of 8 entities gives.
    smoke=0.3,
    help="how far from 1/2 shares of right comparisons may be",
  )
  write: str = harness.field(
    "", help="JSONL file to write a world of these sizes to, as text"
  )

  def __post_init__(self):
    super().__post_init__()
    if self.num_new > self.num_base:
      raise ValueError(
        f"num_new must be at most num_base {self.num_base}, was {self.num_new}"
      )
    if self.num_base + self.num_new > self.num_names**2:
      raise ValueError(
        f"num_base and num_new must be at most the {self.num_names**2} names"
        f" together, were {self.num_base + self.num_new}"
      )
    facts = self.num_categorical + self.num_numerical
    if self.new_rows % facts:
      raise ValueError(
        f"new_rows must be a multiple of the {facts} facts of a document, was"
        f" {self.new_rows}"
      )
    if self.width % 4:
      raise ValueError(f"width must be a multiple of 4, was {self.width}")

  def sizes(self) -> mixes.Sizes:
    """What the stages need."""
    return mixes.Sizes(
      vocab=knowledge.KnowledgeVocab(
        num_first=self.num_names,
        num_last=self.num_names,
        num_categorical=self.num_categorical,
        num_numerical=self.num_numerical,
      ),
      num_base=self.num_base,
      num_new=self.num_new,
      num_layers=self.num_layers,
      width=self.width,
      pretrain_steps=self.pretrain_steps,
      pretrain_rows=self.pretrain_rows,
      finetune_steps=self.finetune_steps,
      new_rows=self.new_rows,
      replay_rows=self.replay_rows,
    )


def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Pretrains, then finetunes in all formats."""
  del progress  # Two compiled programs: there is nothing to follow.
  if config.write:
    export.write(config.write, config.key(), config.sizes())
  part = formats.table(
    config.key(),
    config.sizes(),
    num_seeds=config.num_seeds,
    guess=config.guess,
  )
  return harness.collect(
    "knowledge_injection", "From Style to Facts (2503.05919)", (part,)
  )


def plot(results: harness.Results) -> dict:
  """What is known, by format."""
  figure, (axes,) = plotting.figure(width=8.5)
  formats.plot(axes, results.curves)
  return {"knowledge_injection": figure}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
