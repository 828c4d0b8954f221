# SPDX-License-Identifier: Apache-2.0
"""A user's own table: which features to keep, with which penalty."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from experiments.stages import csv_tables
from experiments.stages.strategic_features import problems
from jaxalign import checks

EXACT = 1e-9  # means of rows against moments, in float64


class Table(NamedTuple):
  """N rows of d features.

  Attributes:
    names: of the features.
    x: `[N, d]`, standardised.
    y: `[N]`, standardised.
    costs: `[d]`, of a shift by one standard deviation.
  """

  names: tuple[str, ...]
  x: np.ndarray
  y: np.ndarray
  costs: np.ndarray


def parse_costs(text: str) -> dict[str, float]:
  """Costs by column from `COLUMN:VALUE,...`.

  Raises:
    InputError: naming the entry that is none.

  >>> parse_costs("age:inf,income:.5")
  {'age': inf, 'income': 0.5}
  """
  costs = {}
  for entry in text.split(","):
    column, _, value = entry.rpartition(":")
    try:
      cost = float(value)
    except ValueError:
      cost = np.nan
    if not column or not cost > 0:
      raise checks.InputError(
        f"--costs: expected COLUMN:VALUE with a value above 0, was {entry!r}"
      )
    if column in costs:
      raise checks.InputError(f"--costs: column {column!r} has two costs")
    costs[column] = cost
  return costs


def _check_columns(
  path: str, header: Sequence[str], target: str, costs: dict[str, float]
) -> None:
  for flag, columns in (("--target", [target]), ("--costs", costs)):
    for column in columns:
      if column not in header:
        raise checks.InputError(
          f"{flag}: {path} has no column {column!r}, it has"
          f" {', '.join(header) or 'none'}"
        )
  if target in costs:
    raise checks.InputError(f"--costs: {target!r} is the target")
  for column in header:
    if column != target and column not in costs:
      raise checks.InputError(
        f"--costs: no cost of column {column!r}; every column but the target is"
        " a feature (inf for one that nobody can change)"
      )


def _check_rank(path: str, names: Sequence[str], x: np.ndarray) -> None:
  """Raises if columns, standardised, determine one another."""
  roots, vectors = np.linalg.eigh(x.T @ x / len(x))
  if roots[0] > len(roots) * 1e-12:
    return
  involved = np.abs(vectors[:, 0]) > 1e-6
  columns = [name for name, used in zip(names, involved, strict=True) if used]
  raise checks.InputError(
    f"{path}: singular covariance, columns {', '.join(columns)} determine one"
    " another: leave one out"
  )


def read(path: str, target: str, costs: str) -> Table:
  """A table from a CSV file.

  Args:
    path: of the file.
    target: the column that is predicted.
    costs: `COLUMN:VALUE,...` for every other column.

  Raises:
    InputError: naming what cannot be used, and where.
  """
  by_name = parse_costs(costs)
  found = csv_tables.read(path)
  _check_columns(path, found.names, target, by_name)
  features = found.without(target)
  if len(found.values) <= len(features.names):
    raise checks.InputError(
      f"{path}: expected more rows than its {len(features.names)} features,"
      f" found {len(found.values)}"
    )
  for name, column in zip(found.names, found.values.T, strict=True):
    if np.ptp(column) == 0:
      raise checks.InputError(f"{path}: column {name!r} is constant")
  x = problems.standardised(features.values)
  y = problems.standardised(found.column(target))
  _check_rank(path, features.names, x)
  return Table(
    features.names, x, y, np.array([by_name[n] for n in features.names])
  )


def _choices(
  table: Table, problem: problems.Problem, solution: problems.Solution
) -> list[dict]:
  """Rows of what may be done, from the first of a batch of solutions."""
  noise = np.mean((table.y - table.x @ problem.beta) ** 2)
  cutoff = int(solution.cutoffs.value[0].argmin())
  order = np.argsort(table.costs, kind="stable")
  kept = {
    "all features": np.arange(len(order)),
    "best cut-off": np.sort(order[cutoff:]),
    "recommended": np.flatnonzero(solution.joint.mask[0]),
  }
  lams = (
    solution.cutoffs.lam[0, 0],
    solution.cutoffs.lam[0, cutoff],
    solution.joint.lam[0],
  )
  values = (
    solution.cutoffs.value[0, 0],
    solution.cutoffs.value[0, cutoff],
    solution.joint.value[0],
  )
  plain = np.sum(problem.beta**2 / problem.costs) ** 2
  numbers = map(len, kept.values())
  return harness.rows(
    choice=["least squares", *kept, "a shrinkage for each"],
    features=[len(order), *numbers, len(order)],
    penalty=["0", *map(harness.format_number, lams), "-"],
    error=noise + np.array([plain, *values, solution.optimum.value[0]]),
  )


def recommendation(table: Table) -> harness.Part:
  """What to keep of a table, and what that costs."""
  problem = problems.fitted(table.x, table.y, table.costs)
  solution = problems.solve(problems.stacked([problem]))
  value = solution.joint.value[0]
  theta = solution.theta[0] + 0.0  # no -0 in the table
  choices = _choices(table, problem, solution)
  shifted = (table.x + theta / table.costs) @ theta
  error = {row["choice"]: row["error"] for row in choices}["recommended"]
  claims = [
    harness.Claim(
      name="rows",
      statement="mean squared error over the table's rows after their"
      " manipulation is the error by its formula",
      theory=error,
      measured=np.mean((table.y - shifted) ** 2),
      tolerance=EXACT * max(1, error),
    ),
    harness.none_exceeds(
      "recommended",
      "the recommended features are no worse than all of them or any cut-off:"
      " excess error",
      [value - solution.cutoffs.value[0].min()],
      tolerance=EXACT,
    ),
  ]
  kept = solution.joint.mask[0] > 0
  change = solution.switched.value[0] - value
  lam = harness.format_number(solution.joint.lam[0])
  tables = {
    "what to do: errors after manipulation, in variances of the target": (
      choices
    ),
    f"recommended: penalty {lam}, and by feature, in standard deviations": (
      harness.rows(
        feature=np.array(table.names),
        cost=table.costs,
        decision=np.where(kept, "keep", "leave out"),
        coefficient=theta,
        shift=theta / table.costs + 0.0,
        error_rises_if_switched=change,
      )
    ),
  }
  curves = {
    "table/names": np.array(table.names),
    "table/kept": kept,
    "table/change": change,
    "table/choices": np.array([row["choice"] for row in choices]),
    "table/errors": np.array([row["error"] for row in choices]),
  }
  return harness.Part(claims, curves, tables)


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """Errors of the choices, and what each feature costs or saves."""
  names, change = curves["table/names"], curves["table/change"]
  height = max(3.2, 0.25 * len(names))
  figure, (left, right) = plotting.figure(1, 2, height=height)
  # Least squares may be a hundred times worse: a number will do.
  plain, *errors = curves["table/errors"]
  at = np.arange(len(errors))[::-1]
  bars = left.barh(at, errors, color="C7")
  left.bar_label(bars, fmt="%.4g", padding=2)
  left.set_yticks(at, curves["table/choices"][1:])
  left.margins(x=0.15)
  left.set(
    xlabel="error after manipulation",
    title=f"what to do (least squares: {plain:.4g})",
  )
  order = np.argsort(change)
  for kept, color, label in (
    (True, "C0", "kept: rise if dropped"),
    (False, "C3", "left out: rise if added"),
  ):
    chosen = np.flatnonzero(curves["table/kept"][order] == kept)
    right.barh(chosen, change[order][chosen], color=color, label=label)
  right.set_yticks(range(len(names)), names[order])
  right.set(xlabel="rise of the error", title="each feature")
  right.legend(loc="lower right")
  return figure
