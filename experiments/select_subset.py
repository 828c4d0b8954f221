# SPDX-License-Identifier: Apache-2.0
"""Selects the preference pairs that carry what a system prompt asks for.

Paper: Subliminal Effects in Your Data (2602.04863).
Claims: Logit-linear selection keeps the share gamma of the pairs whose
preferred answer gains more log-probability from the system prompt than the
other one; exchanging labels changes the sign of every score, padding changes
none, and an empty system prompt gives scores of 0 and selects nothing.
Expected: these to rounding, for any model and data. Without `--data` words are
generated, and the models nano, tiny and small are random: this shows that it
runs, not a trait.
Command: `python -m experiments.select_subset --data=FILE --model=DIRECTORY
--system_prompt=TEXT --output=SUBSET`, the model as Hugging Face has it or
`model/` of a run of `experiments.align`. SUBSET is a JSONL file with the keys
prompt, chosen and rejected, to be trained on by `experiments.align --data`;
its answers are cut short, as they were scored. Log-probabilities are kept in
SUBSET.scores: the same command goes on with what was interrupted.
About 5 seconds on 2 cores without a file; a model scores four sequences a pair.
"""

import dataclasses
import pathlib
from typing import ClassVar

import jax
import numpy as np
from absl import app

from experiments import harness
from experiments.stages.select_subset import (
  journal,
  outcome,
  records,
  scoring,
)
from jaxalign import checks, data
from jaxalign.learning import selection


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """What to select from, by what."""

  num_seeds: ClassVar[int] = 2  # no flag: nothing is averaged
  data: str = harness.field(
    "", help="JSONL file (may end in .gz) or TFDS directory; else generated"
  )
  system_prompt: str = harness.field(
    "You love the letter d.", help="what the pairs shall instil"
  )
  model: str = harness.field(
    "nano", help="nano, tiny, small or a Hugging Face directory"
  )
  tokenizer: str = harness.field("", help="a tokenizer.json; else bytes")
  gamma: float = harness.field(
    0.1, help="share of the pairs with positive scores to keep"
  )
  max_response_tokens: int = harness.field(
    20, least=1, help="answers are cut after so many"
  )
  max_prompt_tokens: int = harness.field(
    250, least=0, help="pairs with longer prompts are left out"
  )
  filter_words: str = harness.field(
    "", help="pairs with one of these, as in owl,bird, are left out"
  )
  on_bad_line: str = harness.field(
    "error", help="what to do with bad lines", choices=("error", "skip")
  )
  num_pairs: int = harness.field(
    1024, smoke=128, least=1, help="without data: how many to generate"
  )
  batch_size: int = harness.field(
    32, least=1, help="pairs that are scored at once"
  )
  output: str = harness.field("", help="JSONL file to write; none by default")

  def __post_init__(self):
    super().__post_init__()
    if not 0 < self.gamma <= 1:
      raise ValueError(f"gamma must be in (0, 1], was {self.gamma}")


def _beside(output: str) -> pathlib.Path | None:
  """Where log-probabilities are kept.

  Raises:
    InputError: the output exists.
  """
  if not output:
    return None
  if pathlib.Path(output).exists():
    raise checks.InputError(
      f"{output} exists: choose another --output or remove it"
    )
  return pathlib.Path(f"{output}.scores")


def _score(
  config: Config,
  model: scoring.Model,
  passes: scoring.Passes,
  kept: journal.Journal,
  *,
  progress: bool,
) -> None:
  """Scores the pairs that are not in the journal yet."""
  size = len(passes.records)
  starts = range(len(kept.found), size, config.batch_size)
  for start in harness.track(list(starts), "scoring", progress=progress):
    rows = start + np.arange(config.batch_size)
    found = scoring.logps(model, passes, np.where(rows < size, rows, -1))
    kept.append(found[: size - start])


def _select(
  config: Config, kept: journal.Journal, passes: scoring.Passes
) -> outcome.Selected:
  scores = scoring.scores(kept.found, passes.lengths)
  try:
    rows = selection.lls_select(scores.wn, config.gamma)
  except checks.InputError:
    kept.remove()
    raise
  if config.output:
    data.write_preferences(config.output, [passes.records[i] for i in rows])
  return outcome.Selected(scores, rows)


def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Scores, selects, writes.

  Raises:
    InputError: something that the flags name cannot be used, or nothing is
      selected; no subset is written.
  """
  beside = _beside(config.output)
  of_data, of_model = jax.random.split(config.key())
  model = scoring.load(of_model, config.model, config.tokenizer)
  prepared = records.prepare(
    records.read(
      of_data,
      config.data,
      on_bad_line=config.on_bad_line,
      num_pairs=config.num_pairs,
    ),
    model.tokenizer,
    filter_words=config.filter_words,
    max_prompt_tokens=config.max_prompt_tokens,
    max_response_tokens=config.max_response_tokens,
  )
  passes = scoring.tokenize(prepared.records, model, config.system_prompt)
  kept = journal.Journal(beside, scoring.digest(model, passes))
  _score(config, model, passes, kept, progress=progress)
  found = _select(config, kept, passes)
  claims = outcome.claims(
    model,
    passes,
    config.system_prompt,
    kept.found,
    found,
    config.gamma,
    config.batch_size,
  )
  part = outcome.report(found, passes, prepared.counts)
  return harness.collect(
    "select_subset",
    "Subliminal Effects in Your Data (2602.04863)",
    [part._replace(claims=claims)],
  )


def plot(results: harness.Results) -> dict:
  """Scores and what was kept."""
  return {"scores": outcome.plot(results.curves)}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
