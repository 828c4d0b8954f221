# SPDX-License-Identifier: Apache-2.0
"""The loop around a step: metrics, evaluation, checkpoints, interruption."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from jaxalign import checks
from jaxalign.training.checkpoint import Checkpointer
from jaxalign.training.metrics import Writer
from jaxalign.training.state import TrainState
from jaxalign.training.step import Step, name_nonfinite

__all__ = ("FitResult", "fit")


class FitResult(NamedTuple):
  """How training ended.

  Attributes:
    state: `TrainState` after the last step that was done.
    interrupted: whether SIGTERM ended it before `num_steps`.
  """

  state: TrainState
  interrupted: bool


class DataIterator(Protocol):
  """Batches, and a position that JSON can hold; as iterators of grain have."""

  def __next__(self) -> Any:
    """The next batch."""

  def get_state(self) -> Any:
    """The position after the batches taken so far."""

  def set_state(self, state: Any) -> None:
    """Goes to a position."""


@contextlib.contextmanager
def _sigterm() -> Iterator[threading.Event]:
  """An event that SIGTERM sets, instead of ending the process."""
  event = threading.Event()
  if threading.current_thread() is not threading.main_thread():
    yield event  # only the main thread may set handlers
    return
  before = signal.signal(signal.SIGTERM, lambda *_: event.set())
  try:
    yield event
  finally:
    signal.signal(signal.SIGTERM, before)


def _agreed(flag: bool) -> bool:
  """Whether the flag is set in any process; all of them must ask."""
  if jax.process_count() == 1:
    return flag
  return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


class _Pending(NamedTuple):
  """What a step gave, still on the device."""

  step: int
  metrics: dict[str, Any]
  evaluation: dict[str, Any]


def _write(
  pending: list[_Pending],
  params: Any,
  writers: Sequence[Writer],
) -> None:
  """Fetches metrics with one transfer and writes them.

  Raises:
    FloatingPointError: naming the first that is not finite, with its step.
  """
  fetched = jax.device_get(pending)
  pending.clear()
  for step, metrics, evaluation in fetched:
    bad = name_nonfinite(params, metrics) if "nonfinite" in metrics else None
    if bad is not None:
      raise FloatingPointError(
        f"step {step}: {bad} is not finite, so its update was left out: look at"
        " its batch, or lower the learning rate"
      )
    metrics.pop("nonfinite", None)
    values = {k: float(v) for k, v in (metrics | evaluation).items()}
    for writer in writers:
      writer.write(step, values)
  for writer in writers:
    writer.flush()


def _next_batch(data: DataIterator, step: int, num_steps: int) -> Any:
  try:
    return next(data)
  except StopIteration:
    raise checks.InputError(
      f"the data ends before step {step} of {num_steps}: repeat it, or take"
      " fewer steps"
    ) from None


def _resume(
  state: TrainState, data: DataIterator, checkpointer: Checkpointer | None
) -> TrainState:
  restored = None if checkpointer is None else checkpointer.restore(state)
  if restored is None:
    return state
  data.set_state(restored.data)
  logging.info("resuming from step %d", int(restored.state.step))
  return restored.state


def _due(every: int, step: int) -> bool:
  return every > 0 and step % every == 0


def fit(
  state: TrainState,
  step: Step,
  data: DataIterator,
  *,
  num_steps: int,
  checkpointer: Checkpointer | None = None,
  writers: Sequence[Writer] = (),
  eval_fn: Callable[[TrainState], Mapping[str, Any]] | None = None,
  eval_every: int = 0,
  log_every: int = 10,
  save_every: int = 0,
) -> FitResult:
  """Trains until a step, from the newest checkpoint if there is one.

  Each step's metrics are written, but fetched only now and then, so that the
  device does not wait for the host. At SIGTERM the state is saved and the loop
  returns; several processes agree on that where they fetch. A run resumed from
  there, or after a kill, gives the same parameters and metrics as one that
  nothing interrupted.

  Args:
    state: where to start; its arrays `[...]` are donated by `step`.
    step: `step(state, batch)` returns the new state and metrics, scalars by
      name, as `make_train_step` makes it.
    data: an iterator of batches with `get_state` and `set_state`.
    num_steps: of the whole run, those of an interrupted one included.
    checkpointer: saves at the end, at SIGTERM and every `save_every` steps.
    writers: get the metrics; of several processes give them to one.
    eval_fn: gives further metrics of a state, written as `eval/NAME`.
    eval_every: how many steps lie between evaluations; 0 for none.
    log_every: how many steps lie between fetches.
    save_every: how many steps lie between checkpoints; 0 for none.

  Returns:
    `FitResult`.

  Raises:
    InputError: the data ends too early; a checkpoint cannot be used.
    FloatingPointError: naming the loss, metric or gradient that is not finite,
      and its step. Nothing of it is saved.

  >>> import numpy as np, optax
  >>> from jaxalign.training.state import init_state
  >>> from jaxalign.training.step import make_train_step
  >>> def loss_fn(params, batch, key):
  ...   return ((params - batch)**2).sum(), batch.size, {}
  >>> state = init_state(jax.random.key(0), jax.numpy.zeros(()), optax.sgd(.5))
  >>> data = iter([np.ones(2), np.ones(2)])
  >>> step = make_train_step(loss_fn, optax.sgd(.5))
  >>> float(fit(state, step, data, num_steps=2).state.params)
  1.0

  Reference:
    Orbax documentation, Checkpointing PyTrees with CheckpointManager.
  """
  checks.check_positive(log_every=log_every)
  int(state.step)  # a tracer ends here, before anything is touched
  state = _resume(state, data, checkpointer)
  first = int(state.step)
  for writer in writers:
    writer.rewind(first)
  pending: list[_Pending] = []
  stop = False
  try:
    with _sigterm() as asked:
      for number in range(first + 1, num_steps + 1):
        state, metrics = step(state, _next_batch(data, number, num_steps))
        found = {}
        if eval_fn is not None and _due(eval_every, number):
          found = {f"eval/{k}": v for k, v in eval_fn(state).items()}
        pending.append(_Pending(number, metrics, found))
        # One process asks itself at each step; several must ask together.
        fetch = _due(log_every, number)
        if fetch or jax.process_count() == 1:
          stop = _agreed(asked.is_set())
        save = stop or number == num_steps or _due(save_every, number)
        if fetch or found or save:
          # Before saving: what is not finite must not be saved.
          _write(pending, state.params, writers)
        if save and checkpointer is not None:
          checkpointer.save(state, data.get_state())
        if stop:
          break
  finally:
    for writer in writers:
      writer.flush()
    if checkpointer is not None:
      checkpointer.wait()
  return FitResult(state, stop and int(state.step) < num_steps)
