# SPDX-License-Identifier: Apache-2.0
"""Predictions for the rows of a user's CSV file, calibrated for its groups."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness
from experiments.stages import csv_predictions, csv_tables, online_rates
from experiments.stages.clusterable_calibration import methods
from jaxalign import checks
from jaxalign.learning import clusterable, online_calibration

NUM_THRESHOLDS = 21  # of each column, at its quantiles
FEWEST = 16  # rows: a grid of two intervals


class Sequence(NamedTuple):
  """What the file says of T rows, in their order.

  Attributes:
    x: `[T, D]`, points.
    y: `[T]`, outcomes, 0 or 1.
  """

  x: np.ndarray
  y: np.ndarray


def read(path: str, outcome: str, features: tuple[str, ...]) -> Sequence:
  """Reads the columns; without features all others are.

  Raises:
    InputError: the file cannot be read, a column is missing or constant, a
      cell is no number, an outcome is not 0 or 1, or rows are too few.
  """
  table = csv_tables.read(path, (outcome, *features) if features else None)
  if outcome not in table.names:
    raise checks.InputError(
      f"{path}, line 1: expected a column {outcome!r}, found"
      f" {', '.join(table.names)}"
    )
  csv_predictions.check_binary(table, outcome)
  points = table.without(outcome)
  if not points.names:
    raise checks.InputError(f"{path}: no columns besides {outcome!r}")
  if len(points.values) < FEWEST:
    raise checks.InputError(
      f"{path}: needs at least {FEWEST} rows, has {len(points.values)}"
    )
  for name in points.names:
    if np.ptp(points.column(name)) == 0:
      raise checks.InputError(f"{path}: column {name!r} is constant: leave it")
  return Sequence(points.values, table.column(outcome))


def _cover(x: np.ndarray) -> np.ndarray:
  """Half-spaces and sigmoids of every column, and everybody, `[T, N]`."""
  share = np.linspace(0, 1, NUM_THRESHOLDS + 2)[1:-1]
  places = np.quantile(x, share, axis=0).T
  parts = (
    np.ones((len(x), 1), np.float32),
    methods.half_lines(x, places),
    methods.sigmoids(x, places[:, ::4], x.std(0)),
  )
  return np.concatenate(parts, 1)


@functools.partial(jax.jit, static_argnames="m")
def _group_errors(p, y, groups, m):
  """The largest error of a cell, of each group, as a share of all rounds."""
  missed = jnp.abs(clusterable.cell_sums(p, y, groups, m))
  return missed.max(1) / y.shape[0]


def own(
  key: jax.Array, data: Sequence, *, num_clusters: int, m: int
) -> harness.Part:
  """Predicts every row before its outcome is seen.

  Groups are those of a mixture fitted to all points afterwards: they judge the
  predictions, none of which knew them.

  Args:
    key: of the forecasts.
    data: what the file says.
    num_clusters: components of the mixture.
    m: intervals of the grid; 0 for the usual.
  """
  rounds = len(data.y)
  m = m or online_rates.grid(rounds)
  cover = _cover(data.x)
  keys = jax.random.split(key)
  x, y = jnp.asarray(data.x), jnp.asarray(data.y, jnp.float32)
  found = methods.simultaneous(keys[0], jnp.asarray(cover), y, m)
  rest = methods.clusters_then_global(keys[1], x, y, m, num_clusters)
  mixture = clusterable.fit_gaussian_mixture(x, num_clusters)
  logdens = clusterable.mixture_log_densities(mixture, x)
  kinds = {
    "discriminant": clusterable.discriminant_groups(logdens),
    "likelihood": clusterable.likelihood_groups(logdens),
  }
  predictions = dict(
    zip(
      ("simultaneous", "cluster_then_predict", "one_calibrator"),
      (found.predictions, *rest),
      strict=True,
    )
  )
  errors = {
    (kind, name): np.asarray(_group_errors(p, y, groups, m))
    for kind, groups in kinds.items()
    for name, p in predictions.items()
  }
  bound = online_calibration.online_calibration_bound(rounds, m, cover.shape[1])
  claims = [
    harness.none_exceeds(
      "cover_bound",
      "largest error of the simultaneous predictions over all groups of the"
      " cover less the bound of its mean, per row",
      [np.abs(found.sums).max() / rounds - bound / rounds],
      tolerance=0.0,
    )
  ]
  tables = {
    "rows": harness.rows(
      rows=rounds, grid=m, cover=cover.shape[1], bound=bound / rounds
    )
  }
  for kind, groups in kinds.items():
    tables[f"error per row, {kind} groups"] = harness.rows(
      cluster=np.arange(num_clusters),
      share=np.asarray(groups.mean(0)),
      **{name: errors[kind, name] for name in predictions},
    )
  curves = {
    "csv/outcome": data.y,
    # On the grid, and not one rounding of float32 beside it.
    "csv/prediction": np.round(np.asarray(found.predictions) * m) / m,
    "csv/cluster": np.asarray(kinds["discriminant"].argmax(-1)),
  }
  for (kind, name), error in errors.items():
    curves[f"errors/{kind}/{name}"] = error
  return harness.Part(claims, curves, tables)


def plot(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Errors of discriminant groups by method."""
  names = [name for name in curves if name.startswith("errors/discriminant/")]
  for i, name in enumerate(names):
    errors = curves[name]
    place = np.arange(errors.size) + 0.25 * (i - 1)
    label = name.rpartition("/")[2].replace("_", " ")
    axes.bar(place, errors, 0.25, label=label)
  axes.set(
    xlabel="cluster, as in the table",
    ylabel="calibration error per row",
    title="discriminant groups",
    xticks=np.arange(errors.size),
  )
  axes.legend()
