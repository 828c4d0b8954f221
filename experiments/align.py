# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes a language model: imitation, a reward model, or preferences.

Paper: DPO (2305.18290) and the losses of `jaxalign.preference`; KTO
(2402.01306).
Claims: Without `--data` pairs of words are generated whose reward is known. A
policy trained on them by DPO has expected reward and KL to its reference within
5 % of the exact optimum, computed over all words; f-DPO's optimum is compared
likewise. `jensen_shannon` fails this: its rewards are bounded, so that its loss
is flat where an answer is much likelier than under the reference (after 600
steps it is .0002 above its least value, the KL 30 % below the optimum's), and
they fix the policy only up to the mass that it leaves to what is no word.
Within 5 % is also the expected reward of what is optimal under a learned
reward, and of a model that imitates the preferred answers (their KL is shown,
not claimed). With `--data` the model separates training pairs better than the
one it started from. Held-out accuracy is reported with its interval, whatever
it is.
Expected: reward .617 of .612 and KL .120 of .114, at seeds 1 and 2 KL .111 of
.114 and .110 of .114. The smoke preset has half of the labels, of which a word
learns little: .603 of .604 and .114 of .114 at seed 0, but the KL misses its
claim at others (.100 of .116 at seed 1).
Command: `python -m experiments.align`, or in two stages
`python -m experiments.align --stage=sft --data=FILE --output_dir=runs/sft` and
`python -m experiments.align --data=FILE --init_from=runs/sft`.
Writes `model/` (as Hugging Face has it), `checkpoints/`, `metrics.jsonl`, plots
and `results.json`. Interrupted runs go on with `--resume`. Some 45 seconds
on 2 cores without data.
"""

import contextlib
import dataclasses
import pathlib
import tempfile
import time
import typing
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
from absl import app

from experiments import harness
from experiments.stages.align import (
  fitting,
  outcome,
  plots,
  policy,
  setup,
)
from jaxalign import checks, data, training

_PAPER = "DPO (2305.18290)"
_TRUNCATIONS = data.TRUNCATIONS  # in Config, `data` is a flag
# Real texts are longer, and fewer, than generated words.
_OF_FILES = {
  "model": "tiny",
  "batch_size": 16,
  "learning_rate": 3e-4,
  "steps": 100,
}


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """Which stage, of what, on what."""

  num_seeds: ClassVar[int] = 2  # no flag: a run is one run
  stage: str = harness.field(
    "preference",
    help="what to train",
    choices=("sft", "reward", "preference"),
  )
  data: str = harness.field(
    "",
    help="JSONL file (may end in .gz) or TFDS directory, with other defaults: "
    + ", ".join(f"{name} {value}" for name, value in _OF_FILES.items())
    + "; else pairs are generated",
  )
  loss: str = harness.field(
    "dpo", help="of stage preference: dpo, ipo, f_dpo, simpo, orpo, kto, ..."
  )
  loss_options: str = harness.field(
    "", help="the loss's own, as in beta=.1,label_smoothing=.1"
  )
  divergence: str = harness.field("", help="of f_dpo, such as jensen_shannon")
  model: str = harness.field(
    "nano", help="nano, tiny, small or a Hugging Face directory"
  )
  tokenizer: str = harness.field("", help="a tokenizer.json; else bytes")
  init_from: str = harness.field(
    "", help="output directory of a former stage, to start from"
  )
  lora_rank: int = harness.field(
    0, least=0, help="of adapters; 0 trains all parameters"
  )
  max_length: int = harness.field(
    512, least=2, help="the longest prompt with answer, in tokens"
  )
  truncate: str = harness.field(
    "error", help="what to do with longer ones", choices=_TRUNCATIONS
  )
  on_bad_line: str = harness.field(
    "error", help="what to do with bad lines", choices=("error", "skip")
  )
  held_out: float = harness.field(
    0.1, help="share of prompts kept for evaluation"
  )
  num_pairs: int = harness.field(
    131072, smoke=65536, least=64, help="without data: how many to generate"
  )
  word_length: int = harness.field(
    3, least=2, most=4, help="without data: letters of a word"
  )
  batch_size: int = harness.field(
    1024, smoke=512, least=1, help="pairs of a step, of all devices together"
  )
  num_microbatches: int = harness.field(
    1, least=1, help="parts of a batch, worked through one by one"
  )
  learning_rate: float = harness.field(
    4e-3, help="at its highest; 1e-6 to 1e-5 for large models"
  )
  warmup: int = harness.field(20, least=0, help="steps until then")
  steps: int = harness.field(300, smoke=150, least=2, help="updates")
  mesh: str = harness.field("", help="as in data:4,model:2; else one device")
  coordinator: str = harness.field("", help="HOST:PORT of process 0")
  num_processes: int = harness.field(1, help="with coordinator: how many")
  process_id: int = harness.field(0, help="with coordinator: which this is")
  resume: bool = harness.field(False, help="go on with an interrupted run")
  tensorboard: bool = harness.field(False, help="write for TensorBoard too")

  @classmethod
  def from_preset(cls, preset: str, **overrides: Any) -> typing.Self:
    """The configuration of a preset; with a file, what suits real texts."""
    found = _OF_FILES if overrides.get("data") else {}
    return super().from_preset(preset, **found | overrides)

  def __post_init__(self):
    super().__post_init__()
    if not 0 < self.held_out < 1:
      raise ValueError(f"held_out must be between 0 and 1, was {self.held_out}")
    checks.check_positive(learning_rate=self.learning_rate)
    if self.warmup >= self.steps:
      raise ValueError(
        f"warmup must be below steps {self.steps}, was {self.warmup}"
      )
    if self.stage != "preference" and (self.loss_options or self.divergence):
      raise ValueError(
        f"loss_options and divergence are of stage preference, was {self.stage}"
      )


class Interrupted(Exception):
  """SIGTERM ended training; a checkpoint was written."""


class _Trained(NamedTuple):
  """What is trained, before and after; on the devices."""

  before: policy.Params
  after: policy.Params


def _train(
  config: Config,
  made: setup.Setup,
  program: Callable,
  start: policy.Params,
  path: pathlib.Path,
  progress: bool,
) -> _Trained:
  """Trains with checkpoints and metrics in a directory."""
  before = policy.trainable(
    made.keys.adapters,
    made.model.model.config,
    made.start,
    lora_rank=config.lora_rank,
    with_score=config.stage == "reward",
  )
  with contextlib.ExitStack() as stack:
    checkpointer = stack.enter_context(
      training.Checkpointer(
        path / "checkpoints",
        config=setup.identity(config, made),
        resume=config.resume,
      )
    )
    writers = fitting.writers(
      path, progress=progress, tensorboard=config.tensorboard
    )
    for writer in writers:
      stack.callback(writer.close)
    result = fitting.fit(
      made.plan,
      made.objective,
      before,
      start,
      made.found.train,
      checkpointer=checkpointer,
      writers=writers,
      eval_fn=outcome.evaluator(made, program, start),
      **fitting.schedule(config.steps),
    )
  if result.interrupted:
    raise Interrupted(f"interrupted after step {int(result.state.step)}")
  return _Trained(fitting.place(before, made.plan.mesh), result.state.params)


def _run(config: Config, path: pathlib.Path, progress: bool) -> harness.Results:
  made = setup.set_up(config)
  start = fitting.place(made.start, made.plan.mesh)
  program = made.runner.compiled(made.objective)
  trained = _train(config, made, program, start, path, progress)
  params = jax.jit(made.model.merged)(trained.after, start)
  score = trained.after.get("score")
  parts = [
    harness.Part([], {}, {"records": [made.found.summary]}),
    outcome.preferences(config.stage, made, program, *trained, start),
    outcome.of_words(config.stage, made, params, score, start),
    outcome.samples(config.stage, made, params, start),
  ]
  host = fitting.gathered({"params": params, "score": score})
  if jax.process_index() == 0:
    like = config.model if pathlib.Path(config.model).is_dir() else ""
    fitting.export(path, made.model.model.config, **host, like=like)
    metrics = fitting.read_metrics(path)
    curves = {f"metrics/{name}": x for name, x in metrics.items()}
    parts.append(harness.Part([], curves, {}))
  return harness.collect("align", _PAPER, parts)


def run(
  config: Config,
  *,
  progress: bool = True,
  output_dir: str | pathlib.Path | None = None,
) -> harness.Results:
  """Trains and evaluates; without a directory nothing is kept.

  Raises:
    InputError: something that the flags name cannot be used.
    FloatingPointError: a step was not finite.
    Interrupted: by SIGTERM, after a checkpoint was written.
  """
  with contextlib.ExitStack() as stack:
    if output_dir is None:
      output_dir = stack.enter_context(tempfile.TemporaryDirectory())
    return _run(config, pathlib.Path(output_dir), progress)


def plot(results: harness.Results) -> dict:
  """Learning curves, held-out margins, and the generated words' law."""
  figures = {
    "learning": plots.learning(results.curves),
    "margins": plots.margins(results.curves),
  }
  if "words/optimum" in results.curves:
    figures["words"] = plots.words(results.curves)
  return figures


def _check_output_dir(output_dir: str, config: Config) -> None:
  if not config.resume:
    harness.check_output_dir(output_dir, config)
  elif not (pathlib.Path(output_dir) / "checkpoints").is_dir():
    raise checks.InputError(
      f"{output_dir} holds no checkpoints to resume from: give --output_dir of"
      " the run that was interrupted"
    )


def _show(record: dict, output_dir: str) -> None:
  for title, rows in record["tables"].items():
    harness.print_out(harness.rows_table(title, rows))
  harness.print_out(harness.claims_table([record]))
  harness.print_out(f"{record['seconds']:.1f} s, written to {output_dir}")


def main(argv):
  """Runs from the command line; 0, 1 where a claim failed, 2 for bad input."""
  try:
    config, preset, output_dir = harness.parse_flags(Config, argv)
  except ValueError as error:
    return harness.fail(error)
  harness.set_up(preset)
  start = time.perf_counter()
  try:
    _check_output_dir(output_dir, config)
    fitting.join(config.coordinator, config.num_processes, config.process_id)
    results = run(config, output_dir=output_dir)
  except (checks.InputError, FloatingPointError, ImportError) as error:
    return harness.fail(error)
  except Interrupted as error:
    harness.print_out(f"{error}; --resume --output_dir={output_dir} goes on")
    return 0
  if jax.process_index():
    return 0
  seconds = time.perf_counter() - start
  record = harness.record_of(results, config, preset, seconds)
  harness.save(results, record, plot(results), output_dir)
  _show(record, output_dir)
  return 0 if results.holds else 1


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
