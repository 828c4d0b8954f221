# SPDX-License-Identifier: Apache-2.0
"""CSV files with named columns, read with errors that name file and line."""

import csv
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from jaxalign import checks

__all__ = ()


def rows(
  path: str | os.PathLike, columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, str]]]:
  """Line numbers and rows of a CSV file that has the given columns.

  Raises:
    InputError: missing file, missing columns, a row of another length.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise checks.InputError(f"{path}: no such file")
  with path.open(newline="", encoding="utf-8-sig") as stream:
    reader = csv.DictReader(stream, restkey="", restval=None)
    header = reader.fieldnames or []
    missing = [name for name in columns if name not in header]
    if missing:
      raise checks.InputError(
        f"{path}, line 1: expected a column {missing[0]!r}, found"
        f" {', '.join(header) or 'nothing'}"
      )
    for row in reader:
      if "" in row or None in row.values():
        raise checks.InputError(
          f"{path}, line {reader.line_num}: expected {len(header)} columns"
        )
      yield reader.line_num, row


def number(path: str | os.PathLike, line: int, column: str, text: str) -> float:
  """A finite number from a cell.

  Raises:
    InputError: it is none.
  """
  try:
    value = float(text)
  except ValueError:
    value = np.nan
  if not np.isfinite(value):
    raise checks.InputError(
      f"{path}, line {line}: expected a finite number in {column!r}, was"
      f" {text!r}"
    )
  return value
