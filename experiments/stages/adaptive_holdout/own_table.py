# SPDX-License-Identifier: Apache-2.0
"""A user's table: what a holdout set would have reported of it."""

import math

import jax
import numpy as np

from experiments import harness
from experiments.stages import csv_tables
from experiments.stages.adaptive_holdout import selection
from jaxalign import checks

_LEAST_ROWS = 30  # ten in each third


def _labels(table: csv_tables.Table, target: str) -> np.ndarray:
  """1 for the larger of the target's two values, -1 for the other."""
  if target not in table.names:
    raise checks.InputError(
      f"{table.path}: expected a column {target!r}, found"
      f" {', '.join(table.names)}"
    )
  column = table.column(target)
  values = np.unique(column)
  if len(values) != 2:
    raise checks.InputError(
      f"{table.path}: column {target!r} must have two values, has {len(values)}"
    )
  return np.where(column == values[1], 1.0, -1.0)


def _features(table: csv_tables.Table, target: str) -> np.ndarray:
  """The other columns, standardised."""
  rest = table.without(target)
  if not rest.names:
    raise checks.InputError(
      f"{table.path}: expected a column beside {target!r}"
    )
  spread = rest.values.std(0)
  if not np.all(spread > 0):
    name = rest.names[int(np.argmin(spread))]
    raise checks.InputError(
      f"{table.path}: column {name!r} is constant: remove it"
    )
  return (rest.values - rest.values.mean(0)) / spread


def _claim(found: np.ndarray, number: int) -> harness.Claim:
  """Of `[S, ways, votes, 2]` by sets of n examples."""
  way = selection.WAYS.index("Thresholdout")
  reported, fresh = found[:, way, :, 0], found[:, way, :, 1]
  # Accuracies of two sets, answered with noise; divisions share their rows.
  limits = selection.thresholds(number)
  error = math.sqrt(2 * 0.25 / number + 2 * limits["scale"] ** 2)
  return harness.all_agree(
    "thresholdout_report",
    "accuracy that Thresholdout reports less that on new data, means over"
    " divisions: largest difference",
    [np.mean(reported - fresh, 0)],
    tolerance=limits["threshold"] + harness.STANDARD_ERRORS * error,
  )


def own_table(
  path: str, target: str, *, seed: int, num_seeds: int
) -> harness.Part:
  """What each way reports of a user's table, over random thirds of its rows.

  Args:
    path: of the CSV file.
    target: the column to predict, of two values.
    seed: of all draws.
    num_seeds: random divisions of the rows.

  Raises:
    InputError: the table cannot be used.
  """
  table = csv_tables.read(path)
  labels, features = _labels(table, target), _features(table, target)
  if len(labels) < _LEAST_ROWS:
    raise checks.InputError(
      f"{path}: expected at least {_LEAST_ROWS} rows, found {len(labels)}"
    )
  third, columns = len(labels) // 3, features.shape[1]
  votes = sorted({max(1, columns // k) for k in (1, 2, 4, 8, 16, 32)})
  found = []
  for s in range(num_seeds):
    rng = np.random.default_rng([seed, s])
    order = rng.permutation(len(labels))[: 3 * third].reshape(3, third)
    splits = [selection.Split(features[i], labels[i]) for i in order]
    if any(len(np.unique(split.labels)) < 2 for split in splits):
      raise checks.InputError(
        f"{path}: one value of {target!r} is so rare that a third of the rows"
        " lacks it"
      )
    key = jax.random.fold_in(jax.random.key(seed), s)
    found.append(selection.reports(key, splits, tuple(votes)))
  found = np.stack(found)
  part = selection.part_of({"own": found}, {"own": votes})
  return part._replace(claims=[_claim(found, third)])
