# SPDX-License-Identifier: Apache-2.0
"""Writers: every digit, each step once, also after a kill."""

import io
import json
import sys

import pytest

from jaxalign import checks, training


def test_jsonl_keeps_every_digit_and_each_step_once(tmp_path):
  path = tmp_path / "run" / "metrics.jsonl"
  writer = training.JsonlWriter(path)
  writer.rewind(0)
  for step in (1, 2, 3):
    writer.write(step, {"loss": 0.1 + 0.2, "worst": float("inf")})
  writer.flush()
  writer.close()
  with path.open("a") as stream:
    stream.write('{"step": 4, "lo')  # where a kill cut it
  resumed = training.JsonlWriter(path)
  resumed.rewind(2)
  resumed.write(3, {"loss": 7.0})
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  assert [line["step"] for line in lines] == [1, 2, 3]
  assert lines[0] == {"step": 1, "loss": 0.1 + 0.2, "worst": "inf"}
  assert lines[2] == {"step": 3, "loss": 7.0}
  resumed.close()


def test_console_shows_the_newest_step_with_its_speed():
  stream = io.StringIO()
  writer = training.ConsoleWriter(stream)
  writer.rewind(4)
  writer.write(5, {"loss": 1.0})
  writer.write(6, {"loss": 1 / 3})
  writer.flush()
  writer.flush()
  writer.write(7, {"[odd] name": 1e-9})
  writer.close()
  first, second = stream.getvalue().splitlines()
  assert first.startswith("step 6  loss 0.333333  ")
  assert first.endswith(" steps/s")
  assert second.startswith("step 7  [odd] name 1e-09")


def _events(path):
  """The events of a file: length, checksum, event, checksum, and so on."""
  from tensorboardX.proto import event_pb2

  raw = path.read_bytes()
  while raw:
    size = int.from_bytes(raw[:8], "little")
    yield event_pb2.Event.FromString(raw[12 : 12 + size])
    raw = raw[16 + size :]


def test_tensorboard_purges_what_comes_after(tmp_path):
  pytest.importorskip("tensorboardX")
  writer = training.TensorBoardWriter(tmp_path)
  writer.rewind(3)
  writer.write(4, {"loss": 0.5})
  writer.flush()
  writer.close()
  (path,) = tmp_path.iterdir()
  events = list(_events(path))
  started = [e.step for e in events if e.HasField("session_log")]
  points = [
    (e.step, value.tag, value.simple_value)
    for e in events
    for value in e.summary.value
  ]
  assert started == [4] and points == [(4, "loss", 0.5)]


def test_tensorboard_that_is_not_installed(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, "tensorboardX", None)
  with pytest.raises(checks.InputError, match=r"pip install 'jaxalign\[log\]'"):
    training.TensorBoardWriter(tmp_path)
