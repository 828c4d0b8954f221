# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: whole, of this run, on any number of devices, or passed over."""

import gc
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxalign import checks, training
from tests import helpers
from tests.training import toy_run

# Of reads that nobody waited for, since another had failed.
pytestmark = pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning"
)

CONFIG = {"rows": 16, "rate": 0.1}


def _open(path, **options):
  return training.Checkpointer(path, **({"config": CONFIG} | options))


def _state(step, *, seed=0):
  """One with a matrix that is large enough to be a file of its own."""
  params = {
    "kernel": jax.random.normal(jax.random.key(seed), (64, 64), jnp.float32),
    "gain": jnp.full(3, seed, jnp.bfloat16),
    "on": jnp.array([True, False]),
  }
  state = training.init_state(jax.random.key(5), params, optax.adam(0.1))
  return state._replace(step=jnp.int32(step))


@pytest.fixture
def saved(tmp_path):
  """A directory with checkpoints of steps 1 and 2."""
  with _open(tmp_path / "run") as checkpointer:
    for step in (1, 2):
      checkpointer.save(_state(step, seed=step), {"position": step})
  yield tmp_path / "run"
  gc.collect()  # what orbax began to read beside a broken file


def test_state_position_and_typed_key_survive(saved):
  with _open(saved, resume=True) as checkpointer:
    restored = checkpointer.restore(_state(0))
  expected = _state(2, seed=2)
  assert restored.data == {"position": 2}
  assert restored.state.key == expected.key
  for got, wanted in zip(
    jax.tree.leaves(restored.state._replace(key=())),
    jax.tree.leaves(expected._replace(key=())),
    strict=True,
  ):
    assert got.dtype == wanted.dtype
    np.testing.assert_array_equal(got, wanted)


def _flip(path):
  raw = bytearray(path.read_bytes())
  raw[len(raw) // 2] ^= 1
  path.write_bytes(raw)


def _truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _misread(path):
  """Another number, in JSON that is as valid as before."""
  text = path.read_text()
  digit = re.findall(r"\d", text)[-1]
  path.write_text(str((int(digit) + 1) % 10).join(text.rsplit(digit, 1)))


def _remove(path):
  path.unlink()


@pytest.mark.parametrize(
  ("damage", "part"),
  [
    *((damage, "largest") for damage in (_flip, _truncate, _remove)),
    (_truncate, "state/manifest.ocdbt"),
    (_truncate, "data/metadata"),
    *((_misread, f"{item}/metadata") for item in ("data", "config", "digest")),
  ],
)
def test_broken_checkpoint_gives_way_to_the_one_before(
  saved, damage, part, caplog
):
  files = [path for path in (saved / "2").rglob("*") if path.is_file()]
  largest = max(files, key=lambda path: path.stat().st_size)
  damage(largest if part == "largest" else saved / "2" / part)
  with _open(saved, resume=True) as checkpointer:
    restored = checkpointer.restore(_state(0))
    assert "checkpoint 2 cannot be read" in caplog.text
    assert "resuming from step 1" in caplog.text
    assert restored.data == {"position": 1}
    np.testing.assert_array_equal(
      restored.state.params["kernel"], _state(1, seed=1).params["kernel"]
    )
    # Its step is free again.
    checkpointer.save(_state(2, seed=3), {"position": 2})
    checkpointer.wait()
    assert checkpointer.steps() == [1, 2]


def test_nothing_is_deleted_where_nothing_can_be_read(saved):
  for step in ("1", "2"):
    _truncate(saved / step / "state" / "manifest.ocdbt")
  with (
    _open(saved, resume=True) as checkpointer,
    pytest.raises(checks.InputError, match="no checkpoint can be read: step 2"),
  ):
    checkpointer.restore(_state(0))
  assert {"1", "2"} <= {path.name for path in saved.iterdir()}


def test_checkpoints_of_another_run_are_refused(saved):
  other = CONFIG | {"rate": 0.2}
  with (
    _open(saved, config=other, resume=True) as checkpointer,
    pytest.raises(checks.InputError, match="rate was 0.1, is 0.2"),
  ):
    checkpointer.restore(_state(0))
  with pytest.raises(checks.InputError, match="holds checkpoints up to step 2"):
    _open(saved)


def test_only_the_newest_are_kept_and_an_empty_directory_is_a_start(tmp_path):
  with _open(tmp_path, resume=True, max_to_keep=2) as checkpointer:
    assert checkpointer.restore(_state(0)) is None
    for step in (1, 2, 3):
      checkpointer.save(_state(step), None)
    checkpointer.wait()
    assert checkpointer.steps() == [2, 3]
  with pytest.raises(ValueError, match="at least 2"):
    _open(tmp_path, max_to_keep=1)


def _continue(path, shape, num_steps):
  """Trains on a mesh of the first devices, from a checkpoint if any."""
  devices = jax.devices()[: math.prod(shape.values())]
  mesh = training.make_mesh(shape, devices=devices)
  state = toy_run.init()
  state = training.shard_tree(state, mesh)
  step = training.make_train_step(toy_run.loss_fn, toy_run.OPTIMIZER, mesh=mesh)
  with _open(path, resume=True) as checkpointer:
    state, _ = training.fit(
      state,
      step,
      toy_run.Batches(),
      num_steps=num_steps,
      checkpointer=checkpointer,
    )
  kernel = state.params["first"]["kernel"]
  assert kernel.sharding.device_set == set(devices)
  return jax.device_get(state.params)


def test_saved_on_eight_devices_resumed_on_one_and_on_four(tmp_path):
  with jax.enable_x64(False):
    eight = {"data": 4, "model": 2}
    _continue(tmp_path, eight, 3)
    _continue(tmp_path, {"data": 1}, 6)
    got = _continue(tmp_path, {"data": 2, "model": 2}, 9)
    expected = _continue(tmp_path / "whole", eight, 9)
  # Float32: sums in another order.
  helpers.assert_close(got, expected, rtol=0, atol=1e-5)
