# SPDX-License-Identifier: Apache-2.0
"""From flags to all that training needs; nothing is written here."""

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import jax
from jax.sharding import Mesh

from experiments import harness
from experiments.stages.align import (
  evaluation,
  fitting,
  objectives,
  pairs,
  policy,
)
from jaxalign import checks, models

if TYPE_CHECKING:
  from experiments import align

# Flags that change where a run goes on, not what it computes.
_PLACE = (
  "resume",
  "mesh",
  "coordinator",
  "num_processes",
  "process_id",
  "tensorboard",
)


# Options on generated pairs: their labels tell little about an optimum that is
# further away. Divergences are as strong at equal `beta f''(1)`.
_NEAR = {
  ("dpo", ""): "beta=1",
  ("f_dpo", "kl"): "beta=1",
  ("f_dpo", "reverse_kl"): "beta=1",
  ("f_dpo", "jensen_shannon"): "beta=4",
}


class Keys(NamedTuple):
  """One for each thing that is drawn."""

  data: jax.Array
  model: jax.Array
  adapters: jax.Array
  samples: jax.Array


class Setup(NamedTuple):
  """All that is read and made before training.

  Attributes:
    found: the pairs.
    model: with its adapters or without.
    start: parameters it starts from, on the host.
    loss: of stage preference, else `None`.
    objective: what is minimised.
    plan: how to train.
    runner: of evaluations.
    keys: what is drawn.
  """

  found: pairs.Data
  model: policy.Policy
  start: policy.Params
  loss: objectives.Loss | None
  objective: objectives.Objective
  plan: fitting.Plan
  runner: evaluation.Runner
  keys: Keys


def _read(config: "align.Config", key: jax.Array) -> pairs.Data:
  if not config.data:
    return pairs.generate(
      key,
      num_pairs=config.num_pairs,
      word_length=config.word_length,
      held_out=config.held_out,
    )
  return pairs.load(
    config.data,
    tokenizer=config.tokenizer,
    max_length=config.max_length,
    truncate=config.truncate,
    on_bad_line=config.on_bad_line,
    held_out=config.held_out,
  )


def _loss(config: "align.Config") -> objectives.Loss | None:
  if config.stage != "preference":
    return None
  options = config.loss_options
  if not config.data and not options:
    options = _NEAR.get((config.loss, config.divergence), "")
  return objectives.resolve(
    config.loss,
    options,
    config.divergence,
    num_microbatches=config.num_microbatches,
  )


def _plan(config: "align.Config", mesh: Mesh | None) -> fitting.Plan:
  optimizer = fitting.optimizer(
    config.learning_rate, warmup=config.warmup, steps=config.steps
  )
  return fitting.Plan(
    optimizer,
    config.steps,
    config.batch_size,
    config.num_microbatches,
    config.seed,
    mesh,
  )


def _read_all(config: "align.Config") -> Setup:
  """Reads and checks everything that flags name."""
  keys = Keys(*jax.random.split(config.key(), len(Keys._fields)))
  loss = _loss(config)
  mesh = fitting.make_mesh(
    config.mesh,
    batch_size=config.batch_size,
    num_microbatches=config.num_microbatches,
  )
  found = _read(config, keys.data)
  if config.batch_size > found.train.size:
    raise checks.InputError(
      f"batch_size {config.batch_size} is more than the {found.train.size}"
      " pairs to train on"
    )
  made, start = policy.load(
    keys.model, config.model, init_from=config.init_from
  )
  length = found.train.tokens.chosen_tokens.shape[1]
  policy.check_fits(made, found.tokenizer, length)
  model = policy.Policy(models.Transformer(made), bool(config.lora_rank))
  return Setup(
    found,
    model,
    start,
    loss,
    _objective(config.stage, model, loss),
    _plan(config, mesh),
    evaluation.Runner(mesh),
    keys,
  )


def set_up(config: "align.Config") -> Setup:
  """All that training needs; nothing is written.

  Raises:
    InputError: something that the flags name cannot be used.
  """
  made = _read_all(config)
  if config.stage != "preference":
    return made
  if not config.data and not config.init_from:
    made = _with_words(made)
  return _with_reference(made)


def _with_words(made: Setup) -> Setup:
  """The setup with a model that writes words, as all the answers have them."""
  # Any reference will do, hence half of the steps.
  state = fitting.fit(
    made.plan._replace(steps=made.plan.steps // 2),
    objectives.sft(made.model._replace(lora=False), on_both=True),
    {"weights": made.start},
    (),
    made.found.train,
  ).state
  return made._replace(start=fitting.gathered(state.params["weights"]))


def _with_reference(made: Setup) -> Setup:
  """The setup with what its reference says of all pairs."""
  start = fitting.place(made.start, made.plan.mesh)
  train, held_out = (
    evaluation.reference_logps(
      made.runner, made.model, start, split, made.plan.batch_size
    )
    for split in made.found[:2]
  )
  found = made.found._replace(train=train, held_out=held_out)
  return made._replace(found=found)


def _objective(
  stage: str, model: policy.Policy, loss: objectives.Loss | None
) -> objectives.Objective:
  if loss is not None:
    return objectives.preferences(model, loss)
  return {"sft": objectives.sft, "reward": objectives.reward}[stage](model)


def identity(config: "align.Config", made: Setup) -> dict:
  """What a checkpoint must agree with to be resumed."""
  flags = dataclasses.asdict(config)
  kept = {name: x for name, x in flags.items() if name not in _PLACE}
  return harness.to_json(kept | {"digest of data": made.found.digest})
