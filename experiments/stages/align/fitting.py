# SPDX-License-Identifier: Apache-2.0
"""Training of an objective: optimiser, mesh, metrics, the model's export."""

import json
import math
import pathlib
import shutil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from experiments.stages.align import objectives, pairs, policy
from jaxalign import checks, models, training

_NUM_EVALUATIONS = 4
_NUM_CHECKPOINTS = 10
_LOG_EVERY = 10
_CLIP = 1.0


def join(coordinator: str, num_processes: int, process_id: int) -> bool:
  """Joins the processes of a run, where there are several."""
  if coordinator:
    return training.initialize_distributed(
      coordinator, num_processes=num_processes, process_id=process_id
    )
  try:
    return training.initialize_distributed()
  except RuntimeError:  # JAX has computed already: a notebook, one process
    return False


def make_mesh(text: str, *, batch_size: int, num_microbatches: int):
  """The mesh of a flag, or `None` for one device.

  Raises:
    InputError: it divides not the devices or not the batch.
  """
  if batch_size % num_microbatches:
    raise checks.InputError(
      f"num_microbatches {num_microbatches} must divide batch_size {batch_size}"
    )
  if not text and jax.process_count() == 1:
    return None
  shape = training.parse_mesh(text or f"data:{jax.device_count()}")
  mesh = training.make_mesh(shape)
  if batch_size % jax.process_count():
    raise checks.InputError(
      f"batch_size {batch_size} must be a multiple of the"
      f" {jax.process_count()} processes"
    )
  rows = np.zeros(batch_size // jax.process_count())
  training.shard_batch(rows, mesh, num_microbatches=num_microbatches)
  return mesh


def place(tree: Any, mesh: Mesh | None) -> Any:
  """Arrays of the host on the devices."""
  if mesh is None:
    return jax.tree.map(jnp.asarray, tree)
  return training.shard_tree(tree, mesh)


def gathered(tree: Any) -> Any:
  """Arrays on the host, whole, of all processes."""
  if jax.process_count() == 1:
    return jax.device_get(tree)
  return multihost_utils.process_allgather(tree, tiled=True)


def optimizer(
  learning_rate: float, *, warmup: int, steps: int
) -> optax.GradientTransformation:
  """Adam with clipped gradients; linear warm-up, then half a cosine."""
  schedule = optax.warmup_cosine_decay_schedule(
    0.0 if warmup else learning_rate, learning_rate, warmup, steps
  )
  return optax.chain(
    optax.clip_by_global_norm(_CLIP),
    optax.adam(schedule),
  )


class Plan(NamedTuple):
  """How to train.

  Attributes:
    optimizer: makes updates of gradients.
    steps: of the whole run.
    batch_size: pairs of a batch.
    num_microbatches: parts of it.
    seed: of the order.
    mesh: or `None`.
  """

  optimizer: optax.GradientTransformation
  steps: int
  batch_size: int
  num_microbatches: int
  seed: int
  mesh: Mesh | None


def fit(
  plan: Plan,
  objective: objectives.Objective,
  trained: policy.Params,
  start: policy.Params,
  split: pairs.Split,
  **options: Any,
) -> training.FitResult:
  """Trains on a split.

  Args:
    plan: how.
    objective: what is minimised.
    trained: where to start; on the host.
    start: the model's parameters; on the devices.
    split: pairs to learn from.
    **options: of `training.fit`.
  """
  key = jax.random.key(plan.seed)
  # A copy, as steps consume their state and `trained` is looked at again.
  copy = jax.tree.map(jnp.array, trained)
  state = training.init_state(key, copy, plan.optimizer)
  if plan.mesh is not None:
    state = training.shard_tree(state, plan.mesh)
  step = training.make_train_step(
    objectives.loss_fn(objective),
    plan.optimizer,
    num_microbatches=plan.num_microbatches,
    mesh=plan.mesh,
  )
  return training.fit(
    state,
    lambda state, batch: step(state, batch, start),
    split.shuffled(plan.batch_size, plan.seed),
    num_steps=plan.steps,
    **options,
  )


def writers(
  directory: pathlib.Path, *, progress: bool, tensorboard: bool
) -> list[training.Writer]:
  """Of process 0: a file, and the console if wanted."""
  if jax.process_index():
    return []
  found: list[training.Writer] = [
    training.JsonlWriter(directory / "metrics.jsonl")
  ]
  if progress:
    found.append(training.ConsoleWriter())
  if tensorboard:
    found.append(training.TensorBoardWriter(directory / "tensorboard"))
  return found


def schedule(steps: int) -> dict[str, int]:
  """When to evaluate, to save and to write, as `training.fit` takes it."""
  return {
    "eval_every": math.ceil(steps / _NUM_EVALUATIONS),
    "save_every": math.ceil(steps / _NUM_CHECKPOINTS),
    "log_every": _LOG_EVERY,
  }


def read_metrics(directory: pathlib.Path) -> dict[str, np.ndarray]:
  """What was written of each step, those of an interrupted run included."""
  text = (directory / "metrics.jsonl").read_text(encoding="utf-8")
  lines = [json.loads(line) for line in text.splitlines()]
  names = dict.fromkeys(name for line in lines for name in line)
  return {
    name: np.array([float(line.get(name, np.nan)) for line in lines])
    for name in names
  }


def export(
  directory: pathlib.Path,
  config: models.TransformerConfig,
  params: policy.Params,
  score: np.ndarray | None,
  *,
  like: str,
) -> None:
  """Writes `model/`, which later stages and transformers read.

  Args:
    directory: of the run.
    config: of the model.
    params: merged, on the host.
    score: the reward's direction, `[width]`, if there is one.
    like: directory of the checkpoint that was fine-tuned; empty for none.
  """
  # A run that ended once and was resumed has written it before.
  shutil.rmtree(directory / "model", ignore_errors=True)
  models.save_hf(directory / "model", config, params, like=like or None)
  if score is not None:
    np.save(directory / "model" / "score.npy", score)
