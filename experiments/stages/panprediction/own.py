# SPDX-License-Identifier: Apache-2.0
"""Audits and patches the predictions in a user's CSV file."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness
from experiments.stages import csv_predictions, csv_tables
from jaxalign import checks
from jaxalign.learning import step_calibration


class Predictions(NamedTuple):
  """What the file says of N rows.

  Attributes:
    p: `[N]`, predictions.
    y: `[N]`, outcomes, 0 or 1.
    G: `[K, N]`, groups, the first everybody.
    names: of the K groups.
  """

  p: np.ndarray
  y: np.ndarray
  G: np.ndarray
  names: tuple[str, ...]


def read(
  path: str, prediction: str, outcome: str, groups: tuple[str, ...]
) -> Predictions:
  """Reads the columns; without groups all others are groups.

  Raises:
    InputError: the file cannot be read, a column is missing, a cell is no
      number or out of range, or there are fewer than two rows.
  """
  if groups:
    table = csv_tables.read(path, (prediction, outcome, *groups))
  else:
    table = csv_tables.read(path)
    for name in (prediction, outcome):
      if name not in table.names:
        raise checks.InputError(
          f"{path}, line 1: expected a column {name!r}, found"
          f" {', '.join(table.names)}"
        )
  rest = table.without(prediction, outcome)
  csv_predictions.check_unit(table, (prediction, *rest.names))
  csv_predictions.check_binary(table, outcome)
  if len(table.values) < 2:
    raise checks.InputError(f"{path}: expected at least two rows")
  everybody = np.ones((1, len(table.values)))
  return Predictions(
    p=table.column(prediction),
    y=table.column(outcome),
    G=np.concatenate([everybody, rest.values.T]),
    names=("everybody", *rest.names),
  )


@jax.jit
def _worst(p, y, w, G):
  """The largest error of each group `[K]`."""
  none = jnp.zeros((0, p.shape[0])), jnp.zeros(0)
  found = step_calibration.step_violations(p, y, w, G, *none)
  return jnp.max(jnp.abs(found), 1)


@jax.jit
def _patch(p, y, w, G, eps):
  none = jnp.zeros((0, p.shape[0])), jnp.zeros(0)
  return step_calibration.patch_step_calibration(p, y, w, G, *none, eps=eps)


def own(
  rng: np.random.Generator, data: Predictions, *, eps: float
) -> harness.Part:
  """Patches all rows, and half of them to see what that does to the others.

  Args:
    rng: which rows are held out.
    data: what the file says.
    eps: the error that patches are made for.
  """
  p, y, G = map(jnp.asarray, data[:3])
  size = p.shape[0]
  held_out = rng.permutation(size) < size // 2
  uniform = jnp.full(size, 1 / size)
  # Rows of weight 0 are patched with the others, but no audit sees them.
  seen, unseen = (jnp.asarray(m / m.sum()) for m in (~held_out, held_out))
  patched = _patch(p, y, uniform, G, eps)
  half = _patch(p, y, seen, G, eps)
  errors = {
    "before": _worst(p, y, uniform, G),
    "patched": _worst(patched.predictions, y, uniform, G),
    "held_out_before": _worst(p, y, unseen, G),
    "held_out_patched_by_the_rest": _worst(half.predictions, y, unseen, G),
  }
  errors = {name: np.asarray(x) for name, x in errors.items()}
  claims = [
    harness.none_exceeds(
      "patched_error",
      "step calibration error of the patched rows less eps",
      [errors["patched"] - eps],
      tolerance=0.0,
    )
  ]
  tables = {
    "rows": harness.rows(
      rows=size, groups=len(data.names), eps=eps, patches=int(patched.steps)
    ),
    "step calibration error, by group": harness.rows(
      group=np.array(data.names), **errors
    ),
  }
  curves = {
    "csv/prediction": data.p,
    "csv/outcome": data.y,
    "csv/patched": np.asarray(patched.predictions),
  }
  curves |= {f"errors/{name}": x for name, x in errors.items()}
  return harness.Part(claims, curves, tables)


def plot_change(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Patched against given predictions."""
  axes.plot(curves["csv/prediction"], curves["csv/patched"], ".", ms=2)
  axes.plot([0, 1], [0, 1], "k:", lw=1)
  axes.set(xlabel="prediction", ylabel="patched", title="every row")


def plot_errors(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Errors of the groups, in the order of the table."""
  names = [name for name in curves if name.startswith("errors/")]
  for i, name in enumerate(names):
    errors = curves[name]
    place = np.arange(errors.size) + 0.2 * i - 0.3
    axes.bar(place, errors, 0.2, label=name[7:].replace("_", " "))
  axes.set(
    xlabel="group, as in the table",
    ylabel="step calibration error",
    title="before and after",
    xticks=np.arange(errors.size),
  )
  axes.margins(y=0.25)  # room for the names
  axes.legend(ncols=2, loc="upper center")
