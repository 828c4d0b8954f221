# SPDX-License-Identifier: Apache-2.0
"""Finds the input embeddings for which a model gives a wanted hidden state.

Paper: On Surjectivity of Neural Networks (2508.19445).
Claims: A stack of pre-norm sub-blocks with residual connections is onto, hence
any hidden states before the final norm are those of some embeddings. They are
found, sub-block by sub-block and token by token, and verified by the model's
own forward pass. States after the final norm are in reach only where they are
short enough. Nothing follows for token sequences, whose embeddings are a finite
set: how far the found embeddings are from the nearest tokens is reported, and
what those tokens give instead.
Expected: an error below 1e-6 of the target's largest entry; attention's
softmax, in float32, sets it. Random targets need embeddings many times further
from all tokens than these are from each other. For the states of a prompt other
embeddings than its tokens' may be found, with the same states.
Command: `python -m experiments.elicit`, or of a model of one's own
`python -m experiments.elicit --model=HF_DIR --target=FILE.npy`, where the file
holds floats [T, width], or `--prompt=TEXT` for the states of a text.
Writes `curves.npz` with the embeddings, a plot and `results.json`. About 10
seconds on 2 cores for nano, a minute for tiny: the time grows like width^3.
"""

import dataclasses
from typing import ClassVar

from absl import app

from experiments import harness
from experiments.stages.elicit import inversion, outcome, targets


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """Which model, and what it shall produce."""

  num_seeds: ClassVar[int] = 2  # no flag: a run is one run
  model: str = harness.field(
    "nano", help="nano, tiny, small (random) or a Hugging Face directory"
  )
  target: str = harness.field(
    "", help=".npy file of hidden states [T, width]; else of prompt, or random"
  )
  prompt: str = harness.field("", help="a text whose hidden states to produce")
  tokenizer: str = harness.field("", help="a tokenizer.json; else bytes")
  length: int = harness.field(
    8, smoke=3, least=1, help="tokens of a random target"
  )
  max_steps: int = harness.field(
    2000, least=1, help="of a path; stronger weights need more"
  )
  state: str = harness.field(
    "residual",
    help="whether the target is before the final norm or after it",
    choices=("residual", "normed"),
  )

  def __post_init__(self):
    super().__post_init__()
    if self.target and self.prompt:
      raise ValueError("target and prompt exclude each other: give one of them")


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Inverts and verifies.

  Raises:
    InputError: something that the flags name cannot be used, or the target is
      out of the final norm's reach.
  """
  task = targets.make(config)
  found = inversion.invert(
    task.model,
    task.params,
    task.states,
    max_steps=config.max_steps,
    progress=progress,
  )
  return harness.collect(
    "elicit",
    "On Surjectivity of Neural Networks (2508.19445)",
    [outcome.verified(task, found)],
  )


def plot(results: harness.Results) -> dict:
  """Lengths of states, and distances to tokens."""
  return {"embeddings": outcome.plot(results.curves)}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
