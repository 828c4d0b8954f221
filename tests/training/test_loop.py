# SPDX-License-Identifier: Apache-2.0
"""The loop: what it writes, when it stops, and that nothing shows a kill."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxalign import checks, training
from tests import processes
from tests.training import toy_run


class _List:
  """A writer that keeps what it is given, and counts flushes."""

  def __init__(self):
    self.lines, self.flushes, self.rewinds = [], 0, []

  def rewind(self, step):
    self.rewinds.append(step)

  def write(self, step, metrics):
    self.lines.append((step, metrics))

  def flush(self):
    self.flushes += 1


def _step(state, batch):
  """Adds the batch; what the batch says is not finite."""
  nonfinite = jnp.int32(0 if np.isfinite(batch) else 1)
  state = state._replace(step=state.step + 1, params=state.params + batch)
  return state, {"loss": jnp.float32(batch), "nonfinite": nonfinite}


class _Numbers:
  def __init__(self, numbers):
    self._numbers, self._position = numbers, 0

  def __next__(self):
    if self._position == len(self._numbers):
      raise StopIteration
    self._position += 1
    number = self._numbers[self._position - 1]
    return number() if callable(number) else number

  def get_state(self):
    return self._position

  def set_state(self, state):
    self._position = state


def _start():
  return training.init_state(jax.random.key(0), jnp.zeros(()), optax.identity())


def test_every_step_is_written_and_evaluated_when_due():
  writer = _List()
  state, interrupted = training.fit(
    _start(),
    _step,
    _Numbers(range(1, 8)),
    num_steps=7,
    writers=[writer],
    eval_fn=lambda state: {"total": state.params},
    eval_every=3,
    log_every=5,
  )
  assert not interrupted and state.params == 28 and state.step == 7
  assert [step for step, _ in writer.lines] == [1, 2, 3, 4, 5, 6, 7]
  assert writer.lines[2] == (3, {"loss": 3.0, "eval/total": 6.0})
  assert writer.lines[3] == (4, {"loss": 4.0})
  assert writer.flushes == 5  # at 3, 5, 6 and 7, and at the end
  assert writer.rewinds == [0]


def test_what_is_not_finite_is_named_and_not_saved(tmp_path):
  writer = _List()
  with training.Checkpointer(tmp_path, config={}) as checkpointer:
    with pytest.raises(FloatingPointError, match="step 4: loss is not finite"):
      training.fit(
        _start(),
        _step,
        _Numbers([1, 1, 1, np.nan, 1, 1]),
        num_steps=6,
        checkpointer=checkpointer,
        writers=[writer],
        eval_fn=lambda state: {"zero": 0.0},
        eval_every=4,
        save_every=2,
      )
    assert checkpointer.steps() == [2]
  assert [step for step, _ in writer.lines] == [1, 2, 3]


def test_data_that_ends_is_an_error_in_one_line():
  with pytest.raises(checks.InputError, match="ends before step 3 of 5"):
    training.fit(_start(), _step, _Numbers([1, 1]), num_steps=5)
  with pytest.raises(ValueError, match="log_every must be above 0"):
    training.fit(_start(), _step, _Numbers([]), num_steps=1, log_every=0)


def test_sigterm_saves_and_a_second_run_goes_on(tmp_path):
  def terminate():
    os.kill(os.getpid(), signal.SIGTERM)
    return 1

  handler = signal.getsignal(signal.SIGTERM)
  options = {"num_steps": 5, "save_every": 4}
  with training.Checkpointer(tmp_path, config={}) as checkpointer:
    options |= {"checkpointer": checkpointer}
    data = _Numbers([1, 1, terminate, 1, 1])
    state, interrupted = training.fit(_start(), _step, data, **options)
    assert interrupted and state.step == 3 and checkpointer.steps() == [3]
    assert signal.getsignal(signal.SIGTERM) is handler
    writer = _List()
    state, interrupted = training.fit(
      _start(), _step, _Numbers([1] * 5), writers=[writer], **options
    )
  assert not interrupted and state.params == 5 and state.step == 5
  assert writer.rewinds == [3] and [s for s, _ in writer.lines] == [4, 5]


def _run(directory, *arguments):
  module = "tests.training.toy_run"
  return processes.start(module, "--directory", directory, *arguments)


def test_killed_and_resumed_is_bit_identical(tmp_path):
  whole = _run(tmp_path / "whole")
  # Anywhere, and not at the same place in each run of this test.
  kill_at = int(np.random.default_rng().integers(6, 20))
  broken = tmp_path / f"killed_at_{kill_at}"
  code, out, err = processes.end(_run(broken, "--signal_at", "5"))
  assert (code, out) == (0, "interrupted\n"), err
  code, _, err = processes.end(
    _run(broken, "--signal_at", str(kill_at), "--signal", "SIGKILL")
  )
  assert code == -signal.SIGKILL, err
  assert processes.end(_run(broken))[:2] == (0, "done\n")
  assert processes.end(whole)[:2] == (0, "done\n")

  both = tmp_path / "whole", broken
  texts = [(path / "metrics.jsonl").read_text() for path in both]
  assert texts[0] == texts[1]
  steps = [json.loads(line)["step"] for line in texts[0].splitlines()]
  assert steps == list(range(1, 21))
  states = []
  for directory in both:
    with (
      jax.enable_x64(False),
      training.Checkpointer(
        directory / "checkpoints", config=toy_run.CONFIG, resume=True
      ) as checkpointer,
    ):
      state = checkpointer.restore(toy_run.init()).state
      states.append(jax.device_get(state._replace(key=())))
  jax.tree.map(np.testing.assert_array_equal, *states)
