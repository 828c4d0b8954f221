# SPDX-License-Identifier: Apache-2.0
"""Where metrics go: the console, a JSONL file, TensorBoard.

A writer is any object with the four methods of `Writer`. A run that was
interrupted and resumed leaves the files of one that was not: what was written
after the step it resumes from is dropped first.
"""

import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Protocol, TextIO

import rich.console

from jaxalign import checks

__all__ = ("ConsoleWriter", "JsonlWriter", "TensorBoardWriter", "Writer")


class Writer(Protocol):
  """What `fit` asks of a writer, in this order.

  `rewind` once, then `write` for each step and `flush` now and then, `flush`
  also when a run ends with an error. `close` belongs to who made the writer.
  """

  def rewind(self, step: int) -> None:
    """Drops what an earlier run has written after `step`."""

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Takes the metrics of one step."""

  def flush(self) -> None:
    """Makes what was written so far last."""

  def close(self) -> None:
    """Ends writing."""


class ConsoleWriter:
  """A line of text for the newest step at each flush.

  >>> writer = ConsoleWriter(sys.stdout)
  >>> writer.write(3, {"loss": .25, "accuracy": 1.})
  >>> writer.flush()
  step 3  loss 0.25  accuracy 1
  """

  def __init__(self, stream: TextIO | None = None):
    self._console = rich.console.Console(
      file=stream or sys.stderr, soft_wrap=True, highlight=False, markup=False
    )
    self._line: str | None = None
    self._last: tuple[int, float] | None = None

  def rewind(self, step: int) -> None:
    """Starts to count steps per second."""
    self._last = step, time.perf_counter()

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Keeps the metrics of the newest step."""
    self._step = step
    values = (f"{name} {value:.6g}" for name, value in metrics.items())
    self._line = "  ".join((f"step {step}", *values))

  def flush(self) -> None:
    """Prints the newest step's metrics, with the speed since the last."""
    if self._line is None:
      return
    now = time.perf_counter()
    if self._last is not None:
      speed = (self._step - self._last[0]) / (now - self._last[1])
      self._line += f"  {speed:.3g} steps/s"
      self._last = self._step, now
    self._console.print(self._line)
    self._line = None

  def close(self) -> None:
    """Prints what is left."""
    self.flush()


def _json_value(x: float) -> float | str:
  # JSON has neither inf nor nan.
  return x if math.isfinite(x) else str(x)


class JsonlWriter:
  r"""A line of JSON for each step: `{"step": 1, "loss": 0.25}`.

  Numbers are written with all their digits; what is not finite becomes "inf",
  "-inf" or "nan". A process that is killed loses no whole line.

  >>> import tempfile
  >>> path = pathlib.Path(tempfile.mkdtemp(), "metrics.jsonl")
  >>> writer = JsonlWriter(path)
  >>> writer.rewind(0)
  >>> writer.write(1, {"loss": .25})
  >>> writer.close()
  >>> path.read_text()
  '{"step": 1, "loss": 0.25}\n'
  """

  def __init__(self, path: str | os.PathLike):
    self._path = pathlib.Path(path)
    self._stream: TextIO | None = None

  def rewind(self, step: int) -> None:
    """Keeps the lines up to `step`; one that a kill cut short is dropped."""
    self.close()
    kept = []
    if self._path.exists():
      for line in self._path.read_text(encoding="utf-8").splitlines(True):
        if line.endswith("\n") and json.loads(line)["step"] <= step:
          kept.append(line)
      # In one move: a kill in between must not lose them.
      partial = self._path.with_name(self._path.name + ".partial")
      partial.write_text("".join(kept), encoding="utf-8")
      partial.replace(self._path)

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Appends a line."""
    if self._stream is None:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      self._stream = self._path.open("a", buffering=1, encoding="utf-8")
    values = {name: _json_value(value) for name, value in metrics.items()}
    self._stream.write(json.dumps({"step": step, **values}) + "\n")

  def flush(self) -> None:
    """Puts the lines on the disk."""
    if self._stream is not None:
      os.fsync(self._stream.fileno())

  def close(self) -> None:
    """Closes the file."""
    if self._stream is not None:
      self._stream.close()
      self._stream = None


class TensorBoardWriter:
  """Scalars for TensorBoard, through tensorboardX (the extra `log`)."""

  def __init__(self, directory: str | os.PathLike):
    try:
      import tensorboardX
    except ImportError as error:
      raise checks.InputError(
        "TensorBoard needs tensorboardX: pip install 'jaxalign[log]'"
      ) from error
    self._open = tensorboardX.SummaryWriter
    self._directory = str(directory)
    self._writer = None

  def rewind(self, step: int) -> None:
    """Makes TensorBoard forget what comes after `step`."""
    self.close()
    self._writer = self._open(self._directory, purge_step=step + 1)

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Adds a point to each curve."""
    if self._writer is None:
      self._writer = self._open(self._directory)
    for name, value in metrics.items():
      self._writer.add_scalar(name, value, step)

  def flush(self) -> None:
    """Puts the points on the disk."""
    if self._writer is not None:
      self._writer.flush()

  def close(self) -> None:
    """Closes the file."""
    if self._writer is not None:
      self._writer.close()
      self._writer = None
