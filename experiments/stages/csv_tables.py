# SPDX-License-Identifier: Apache-2.0
"""A user's table of numbers: a CSV file with a header."""

import csv
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxalign import checks
from jaxalign.data import tables


class Table(NamedTuple):
  """Numbers in named columns.

  Attributes:
    path: of the file, for errors.
    names: of C columns.
    values: float64 `[N, C]`, finite.
  """

  path: str
  names: tuple[str, ...]
  values: np.ndarray

  def column(self, name: str) -> np.ndarray:
    """One column, `[N]`."""
    return self.values[:, self.names.index(name)]

  def without(self, *names: str) -> "Table":
    """The columns that are not named, in their order."""
    kept = [i for i, name in enumerate(self.names) if name not in names]
    kept_names = tuple(self.names[i] for i in kept)
    return Table(self.path, kept_names, self.values[:, kept])


def _header(path: pathlib.Path) -> tuple[str, ...]:
  with path.open(newline="", encoding="utf-8-sig") as stream:
    names = tuple(next(csv.reader(stream), ()))
  for i, name in enumerate(names):
    if not name or name in names[:i]:
      found = f"{name!r} twice" if name else f"none for column {i + 1}"
      raise checks.InputError(
        f"{path}, line 1: expected a name for each column, found {found}"
      )
  return names


def _read(path: pathlib.Path, columns: Sequence[str] | None) -> Table:
  names = _header(path)
  columns = names if columns is None else tuple(columns)
  values = [
    [tables.number(path, line, name, row[name]) for name in columns]
    for line, row in tables.rows(path, columns)
  ]
  if not values or not columns:
    raise checks.InputError(f"{path}: expected at least one row of numbers")
  return Table(str(path), columns, np.array(values, np.float64))


def read(
  path: str | os.PathLike, columns: Sequence[str] | None = None
) -> Table:
  """Reads the columns of these names, or all; others may hold anything.

  Args:
    path: of a CSV file in UTF-8 whose first line names the columns.
    columns: the names of those that must be numbers; all by default.

  Raises:
    InputError: naming file, line and column: a missing file or column, a cell
      that is empty or not a finite number, no rows.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise checks.InputError(f"{path}: no such file")
  try:
    return _read(path, columns)
  except (UnicodeDecodeError, csv.Error) as error:
    raise checks.InputError(f"{path}: no CSV file in UTF-8: {error}") from None
