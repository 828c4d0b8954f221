# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities beside the output, so that an interrupted run goes on.

A JSON line says whose they are, and one follows for each pair, in order. What
was being written when a run was interrupted lacks its line end.
"""

import json
import pathlib

import numpy as np

from jaxalign import checks


class Journal:
  """A file that grows; without a path nothing is kept."""

  def __init__(self, path: pathlib.Path | None, digest: str):
    """Opens or begins a file.

    Args:
      path: of the file.
      digest: names the pairs, the model and the system prompt.

    Raises:
      InputError: the file is of another run, or damaged.
    """
    self._path = path
    self.found = np.zeros((0, 2, 2), np.float64)
    if path is None:
      return
    if path.exists():
      self._resume(path, digest)
    else:
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(json.dumps({"digest": digest}) + "\n", encoding="utf-8")

  def _resume(self, path: pathlib.Path, digest: str) -> None:
    whole, end, _ = path.read_text(encoding="utf-8").rpartition("\n")
    try:
      first, *rest = map(json.loads, whole.split("\n"))
      known = first["digest"]
      found = np.array(rest, np.float64).reshape(-1, 2, 2)
    except (ValueError, TypeError, KeyError):
      raise checks.InputError(f"{path} is damaged: remove it") from None
    if known != digest:
      raise checks.InputError(
        f"{path} holds scores of other pairs, another model or another system"
        " prompt: remove it or choose another --output"
      )
    self.found = found
    path.write_text(whole + end, encoding="utf-8")

  def append(self, logps: np.ndarray) -> None:
    """Adds pairs `[B, 2, 2]`; they are on the disk before it returns."""
    self.found = np.concatenate([self.found, logps])
    if self._path is None:
      return
    with self._path.open("a", encoding="utf-8") as stream:
      for row in logps.reshape(len(logps), -1).tolist():
        stream.write(json.dumps(row) + "\n")

  def remove(self) -> None:
    """Leaves nothing behind."""
    if self._path is not None:
      self._path.unlink()
