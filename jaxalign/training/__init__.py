# SPDX-License-Identifier: Apache-2.0
"""State, step, mesh, checkpoints and metrics of training, and its loop."""

from jaxalign.training.checkpoint import (
  Checkpointer,
  Restored,
)
from jaxalign.training.loop import (
  FitResult,
  fit,
)
from jaxalign.training.mesh import (
  batch_sharding,
  initialize_distributed,
  make_mesh,
  param_shardings,
  parse_mesh,
  shard_batch,
  shard_tree,
)
from jaxalign.training.metrics import (
  ConsoleWriter,
  JsonlWriter,
  TensorBoardWriter,
  Writer,
)
from jaxalign.training.state import (
  TrainState,
  init_state,
)
from jaxalign.training.step import (
  BatchLoss,
  make_train_step,
  name_nonfinite,
)

__all__ = (
  "BatchLoss",
  "Checkpointer",
  "ConsoleWriter",
  "FitResult",
  "JsonlWriter",
  "Restored",
  "TensorBoardWriter",
  "TrainState",
  "Writer",
  "batch_sharding",
  "fit",
  "init_state",
  "initialize_distributed",
  "make_mesh",
  "make_train_step",
  "name_nonfinite",
  "param_shardings",
  "parse_mesh",
  "shard_batch",
  "shard_tree",
)
