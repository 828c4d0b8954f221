# SPDX-License-Identifier: Apache-2.0
"""Predictions for the rows of a user's CSV file: checks and the way back."""

import csv
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from experiments import harness
from experiments.stages import csv_tables
from jaxalign import checks

FILE = "predictions.csv"


def check_unit(table: csv_tables.Table, names: Sequence[str]) -> None:
  """Raises unless the named columns are within [0, 1].

  Raises:
    InputError: naming file, column and row (1 is the first below the header).
  """
  for name in names:
    column = table.column(name)
    bad = np.flatnonzero((column < 0) | (column > 1))
    if bad.size:
      raise checks.InputError(
        f"{table.path}, row {bad[0] + 1}: expected a number within [0, 1] in"
        f" {name!r}, was {column[bad[0]]:g}"
      )


def check_binary(table: csv_tables.Table, name: str) -> None:
  """Raises unless the named column is of 0 and 1.

  Raises:
    InputError: naming file, column and row (1 is the first below the header).
  """
  column = table.column(name)
  bad = np.flatnonzero((column != 0) & (column != 1))
  if bad.size:
    raise checks.InputError(
      f"{table.path}, row {bad[0] + 1}: expected 0 or 1 in {name!r}, was"
      f" {column[bad[0]]:g}"
    )


def write(path: pathlib.Path, columns: Mapping[str, np.ndarray]) -> None:
  """Writes columns beside the target and renames: whole or absent."""
  partial = path.with_name(path.name + ".partial")
  with partial.open("w", newline="", encoding="utf-8") as stream:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    rows = zip(*(x.tolist() for x in columns.values()), strict=True)
    writer.writerows(rows)
  partial.replace(path)


def main(argv: Sequence[str], config_type: type[harness.Config]) -> int:
  """`harness.main`; with `--csv` also writes the curves `csv/*` as a table."""
  code = harness.main(argv, config_type)
  if code == 2:
    return code
  config, _, output_dir = harness.parse_flags(config_type, argv)
  if config.csv:
    folder = pathlib.Path(output_dir)
    with np.load(folder / "curves.npz") as curves:
      columns = {
        name.removeprefix("csv/"): curves[name]
        for name in curves.files
        if name.startswith("csv/")
      }
    write(folder / FILE, columns)
    harness.print_out(f"predictions of every row in {folder / FILE}")
  return code
