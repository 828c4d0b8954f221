# SPDX-License-Identifier: Apache-2.0
"""`align` killed, resumed elsewhere, on several processes, from TFDS."""

import json
import os
import signal
import time
from unittest import mock

import jax
import numpy as np
import pytest

from experiments import align
from jaxalign import data
from tests import helpers, processes

pytest.importorskip("grain")

_MODULE = "experiments.align"
_STEPS = 20
_FLAGS = (
  "--batch_size=8",
  f"--steps={_STEPS}",
  "--warmup=1",
  "--held_out=.3",
  "--model=nano",
)


@pytest.fixture(autouse=True)
def _single_precision():
  with jax.enable_x64(False):
    yield


@pytest.fixture(scope="module")
def file(tmp_path_factory):
  path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
  records = [
    data.Preference(f"{i}+1=", str(i + 1), "?" * (1 + i % 4)) for i in range(40)
  ]
  data.write_preferences(path, records)
  return path


def main(*arguments):
  """In this process, which has eight devices."""
  return align.main(["align", *arguments])


def run(*arguments, num_devices=1):
  """In a process of its own, to its end."""
  process = processes.start(_MODULE, *arguments, num_devices=num_devices)
  code, _, error = processes.end(process)
  assert code in (0, 1), error


@pytest.fixture(scope="module")
def whole(file, tmp_path_factory):
  """A run that nothing disturbs."""
  output = tmp_path_factory.mktemp("whole") / "run"
  run(*_FLAGS, f"--data={file}", f"--output_dir={output}")
  return output


def learned(output):
  """Metrics of each step, and the parameters that were written."""
  from safetensors import numpy as safetensors

  lines = (output / "metrics.jsonl").read_text().splitlines()
  steps = [json.loads(line) for line in lines]
  assert [step["step"] for step in steps] == list(range(1, _STEPS + 1))
  params = safetensors.load_file(output / "model" / "model.safetensors")
  return steps, params


def assert_same(output, whole, atol):
  """Of metrics, rewards are sums of a few tokens' log-probabilities."""
  (steps, params), (expected_steps, expected) = learned(output), learned(whole)
  helpers.assert_close(params, expected, rtol=0, atol=atol)
  losses, expected_losses = (
    [step["loss"] for step in x] for x in (steps, expected_steps)
  )
  helpers.assert_close(losses, expected_losses, rtol=0, atol=atol)


def test_killed_and_resumed_is_bit_identical(file, whole, tmp_path):
  output = tmp_path / "run"
  flags = (*_FLAGS, f"--data={file}", f"--output_dir={output}")
  process = processes.start(_MODULE, *flags)
  metrics = output / "metrics.jsonl"
  # Anywhere, and not at the same step in each run of this test.
  kill_at = int(np.random.default_rng().integers(3, _STEPS - 3))
  while process.poll() is None:
    if metrics.exists() and metrics.read_bytes().count(b"\n") >= kill_at:
      process.kill()
      break
    time.sleep(0.001)
  code, _, error = processes.end(process)
  assert code == -signal.SIGKILL, error
  assert not (output / "results.json").exists()
  run(*flags, "--resume")
  for name in ("metrics.jsonl", "model/model.safetensors"):
    assert (whole / name).read_bytes() == (output / name).read_bytes(), name


def test_saved_on_eight_devices_resumed_on_one_and_on_four(
  file, whole, tmp_path, capsys
):
  shuffled = data.shuffled_batches

  def interrupted(stop_at):
    taken = []

    def batches(take, *arguments, **options):
      def stopping(rows):
        taken.append(1)
        if len(taken) == stop_at:
          os.kill(os.getpid(), signal.SIGTERM)
        return take(rows)

      return shuffled(stopping, *arguments, **options)

    return mock.patch.object(data, "shuffled_batches", batches)

  output = tmp_path / "run"
  flags = (*_FLAGS, f"--data={file}", f"--output_dir={output}")
  with interrupted(6):
    assert main(*flags, "--mesh=data:4,model:2") == 0
  with interrupted(8):
    assert main(*flags, "--resume") == 0
  run(*flags, "--resume", "--mesh=data:2,model:2", num_devices=4)
  out = capsys.readouterr().out
  assert "after step 6" in out and "after step 14" in out
  # 1e-5: sums of float32 in another order.
  assert_same(output, whole, 1e-5)


def test_two_processes_train_as_one(file, whole, tmp_path):
  flags = (*_FLAGS, f"--data={file}", f"--output_dir={tmp_path / 'run'}")
  address = (f"--coordinator={processes.free_address()}", "--num_processes=2")
  pair = [
    processes.start(_MODULE, *flags, *address, f"--process_id={i}")
    for i in range(2)
  ]
  for process in pair:
    code, _, error = processes.end(process)
    assert code in (0, 1), error
  assert_same(tmp_path / "run", whole, 1e-5)


def test_from_a_tfds_directory(file, whole, tmp_path):
  """A data set that was prepared from the file trains as the file does."""
  builder = data.PreferencePairs(path=file, data_dir=tmp_path / "tfds")
  builder.download_and_prepare()
  output = tmp_path / "run"
  flags = (*_FLAGS, f"--data={builder.data_dir}", f"--output_dir={output}")
  run(*flags)
  # TFDS has an order of its own: the pairs are the same, not the batches.
  digests = [
    json.loads((x / "results.json").read_text())["tables"]["records"]
    for x in (output, whole)
  ]
  assert digests[0] == digests[1]
