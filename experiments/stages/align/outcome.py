# SPDX-License-Identifier: Apache-2.0
"""What came of training: claims and tables of one run."""

from collections.abc import Callable

import jax

from experiments import harness
from experiments.stages.align import (
  evaluation,
  pairs,
  policy,
  setup,
  words,
)


def _splits(made: setup.Setup) -> dict[str, pairs.Split]:
  """The pairs of each split that are evaluated."""
  splits = {"train": made.found.train, "held out": made.found.held_out}
  most = evaluation.MOST_PAIRS
  return {name: split.first(most) for name, split in splits.items()}


def evaluator(
  made: setup.Setup, program: Callable, start: policy.Params
) -> Callable:
  """Metrics of held-out pairs, for `training.fit`."""
  split = _splits(made)["held out"]

  def evaluate(state):
    found = evaluation.scores(
      made.runner, program, split, made.plan.batch_size, state.params, start
    )
    return {
      "loss": found.loss,
      "accuracy": found.hits.mean(),
      "margin": found.margins.mean(),
    }

  return evaluate


def _claim(
  stage: str, before: evaluation.Scores, after: evaluation.Scores
) -> harness.Claim:
  """That training has done something for the pairs it saw."""
  if stage == "sft":
    return harness.Claim(
      name="training_improves",
      statement="training answers are likelier than before training",
      theory=before.loss,
      measured=after.loss,
      tolerance=0.0,
      relation="<=",
    )
  return harness.Claim(
    name="training_improves",
    statement="accuracy on training pairs is above that before training",
    # By half a pair at least: equal is not above.
    theory=before.hits.mean() + 0.5 / len(before.hits),
    measured=after.hits.mean(),
    tolerance=0.0,
    relation=">=",
    interval=harness.confidence_interval(after.hits),
  )


def preferences(
  stage: str,
  made: setup.Setup,
  program: Callable,
  before: policy.Params,
  after: policy.Params,
  start: policy.Params,
) -> harness.Part:
  """Accuracies and margins of both splits, before and after training."""
  table, curves, found = [], {}, {}
  for split, chosen in _splits(made).items():
    for name, trained in (("start", before), ("trained", after)):
      found[split, name] = evaluation.scores(
        made.runner, program, chosen, made.plan.batch_size, trained, start
      )
      table.append(evaluation.row(split, name, found[split, name]))
      curves[f"margins/{split}/{name}"] = found[split, name].margins
  claim = _claim(stage, found["train", "start"], found["train", "trained"])
  return harness.Part([claim], curves, {"preferences": table})


def of_words(
  stage: str,
  made: setup.Setup,
  params: policy.Params,
  score: jax.Array | None,
  start: policy.Params,
) -> harness.Part:
  """The generated world's exact optimum; nothing where pairs were read."""
  model, found = made.model, made.found
  if found.world is None:
    return harness.Part([], {}, {})
  if stage == "sft":
    return words.of_imitation(model, params, found)
  if stage == "reward":
    return words.of_reward(model, params, score, found)
  return words.of_policy(model, params, start, found, made.loss)


def samples(
  stage: str, made: setup.Setup, params: policy.Params, start: policy.Params
) -> harness.Part:
  """Answers to held-out prompts; a reward model gives none."""
  if stage == "reward":
    return harness.Part([], {}, {})
  tables = evaluation.samples(
    made.keys.samples,
    made.model,
    params,
    start,
    made.found.held_out,
    made.found.tokenizer,
  )
  return harness.Part([], {}, tables)
