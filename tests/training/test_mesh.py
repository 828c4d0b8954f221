# SPDX-License-Identifier: Apache-2.0
"""Meshes: what is split where, what is refused, two processes as one."""

import functools
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxalign import checks, training
from tests import helpers, processes
from tests.training import toy_run


@functools.cache
def _mesh():
  return training.make_mesh({"data": 4, "model": 2})


@pytest.mark.parametrize(
  "text", ["", "data", "data:0", "data:x", "rows:2", "data:2,data:4", "data:2,"]
)
def test_parse_mesh_refuses(text):
  with pytest.raises(checks.InputError, match="as in data:4,model:2"):
    training.parse_mesh(text)


def test_mesh_axes_are_auto_and_sizes_must_fit():
  assert training.parse_mesh("model:2, data:4") == {"model": 2, "data": 4}
  assert _mesh().axis_types == (AxisType.Auto,) * 2
  with pytest.raises(checks.InputError, match="needs 6 devices, there are 8"):
    training.make_mesh({"data": 3, "model": 2})


def test_matrices_are_split_and_vectors_whole():
  tree = {
    "kernel": np.zeros((6, 16)),
    "stack": np.zeros((3, 8, 4)),
    "odd": np.zeros((3, 5)),
    "bias": np.zeros(16),
  }
  specs = jax.tree.map(
    lambda s: tuple(s.spec), training.param_shardings(tree, _mesh())
  )
  assert specs == {
    "kernel": (None, "model"),  # 6 does not divide by 4
    "stack": (None, "model", "data"),
    "odd": (),
    "bias": (),
  }


def test_rules_decide_for_parameters_and_their_moments():
  state = toy_run.init()
  rules = [("first/kernel$", PartitionSpec("data", "model"))]
  shardings = training.param_shardings(state, _mesh(), rules=rules)
  moments = shardings.opt_state[0].mu
  for tree in (shardings.params, moments):
    assert tuple(tree["first"]["kernel"].spec) == ("data", "model")
    assert tuple(tree["second"]["kernel"].spec) == ("model",)
  placed = training.shard_tree(state, _mesh(), rules=rules)
  kernel = placed.params["first"]["kernel"].addressable_shards[0].data
  assert kernel.shape == (1, 4)


@pytest.mark.parametrize(
  ("spec", "message"),
  [
    (PartitionSpec("rows"), "first/kernel: .* names 'rows'"),
    (
      PartitionSpec(("data", "model")),
      r"first/kernel \[4, 8\]: 4 does not divide into 8 parts",
    ),
  ],
)
def test_rules_that_do_not_fit_are_refused(spec, message):
  params = toy_run.init_params(jax.random.key(0))
  with pytest.raises(checks.InputError, match=message):
    training.param_shardings(params, _mesh(), rules=[("first/kernel", spec)])


def test_batches_are_split_over_data():
  batch = training.shard_batch({"x": np.arange(8.0)}, _mesh())
  assert batch["x"].sharding == training.batch_sharding(_mesh())
  assert batch["x"].addressable_shards[0].data.shape == (2,)
  whole = training.make_mesh({"model": 8})
  assert tuple(training.batch_sharding(whole).spec) == ()
  with pytest.raises(checks.InputError, match="a batch of 6 rows"):
    training.shard_batch({"x": np.arange(6.0)}, _mesh())


def test_coordinator_must_be_complete():
  # One that is never reached: the numbers are missing.
  script = (
    "from jaxalign import training\n"
    "print(training.initialize_distributed())\n"
    "training.initialize_distributed('localhost:1')\n"
  )
  run = subprocess.run(
    [sys.executable, "-c", script],
    capture_output=True,
    text=True,
    timeout=60,
    check=False,
  )
  assert run.stdout == "False\n"
  assert "give num_processes and process_id" in run.stderr.splitlines()[-1]
  with pytest.raises(checks.InputError, match="expected host:port"):
    training.initialize_distributed("localhost")


def test_two_processes_train_as_one(tmp_path):
  flags = ("--directory", tmp_path, "--coordinator", processes.free_address())
  pair = [
    processes.start(
      "tests.training.toy_run", *flags, "--process_id", i, num_devices=2
    )
    for i in range(2)
  ]
  for process in pair:
    code, out, err = processes.end(process)
    assert (code, out.splitlines()[-1:]) == (0, ["done"]), err

  with (
    jax.enable_x64(False),
    training.Checkpointer(
      tmp_path / "checkpoints", config=toy_run.CONFIG, resume=True
    ) as checkpointer,
  ):
    together = checkpointer.restore(toy_run.init()).state.params
    alone = toy_run.init()
    step = training.make_train_step(toy_run.loss_fn, toy_run.OPTIMIZER)
    batches, losses = toy_run.Batches(), []
    for _ in range(20):
      alone, metrics = step(alone, next(batches))
      losses.append(float(metrics["loss"]))
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  # Float32, and rows in another order.
  helpers.assert_close(
    [together, [json.loads(line)["loss"] for line in lines]],
    [alone.params, losses],
    rtol=0,
    atol=1e-5,
  )
