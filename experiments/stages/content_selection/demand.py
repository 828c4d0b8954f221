# SPDX-License-Identifier: Apache-2.0
"""A user's own demand curve: where to keep satisfaction, and what it brings.

Participation is taken to hold from its row's satisfaction up to the next row's:
a demand of as many levels as rows, of which the left ends are enough.
"""

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from experiments.stages.content_selection import (
  friction,
  model,
  simulation,
)
from jaxalign import checks
from jaxalign.data import tables as csv_tables

COLUMNS = ("satisfaction", "participation")
# Of values: contraction to roundings, of which 1 / (1 - g) add up.
ROUNDING = 1e-13


def read(path: str) -> tuple[np.ndarray, np.ndarray]:
  """Satisfactions and participation `[N]` from a CSV file.

  Raises:
    InputError: naming file, line and column.
  """
  found: list[tuple[float, ...]] = []
  for line, row in csv_tables.rows(path, COLUMNS):
    y, f = (csv_tables.number(path, line, name, row[name]) for name in COLUMNS)
    if not 0 <= f <= 1:
      raise checks.InputError(
        f"{path}, line {line}: 'participation' must be in [0, 1], was {f:g}"
      )
    if found and (y <= found[-1][0] or f < found[-1][1]):
      name = COLUMNS[0] if y <= found[-1][0] else COLUMNS[1]
      must = "rise" if y <= found[-1][0] else "not fall"
      raise checks.InputError(
        f"{path}, line {line}: {name!r} must {must} from row to row, was"
        f" {row[name]} after {found[-1][COLUMNS.index(name)]:g}"
      )
    found.append((y, f))
  if len(found) < 2:
    raise checks.InputError(f"{path}: expected two rows or more")
  y, f = np.array(found).T
  return y, f


def _claims(
  key: jax.Array,
  curve: tuple[np.ndarray, np.ndarray],
  one: model.Model,
  found: dict,
  *,
  bounded: bool,
  num_users: int,
) -> list[harness.Claim]:
  y, demand = curve
  users = model.simulate(key, found, demand, one, start=0, num_users=num_users)
  closed = one.price * y + found["best"].value
  tolerance = ROUNDING * np.abs(closed).max() / (1 - one.discount)
  difference = found["values"] - closed
  # What later rounds than those simulated would add.
  cut = one.discount**model.ROUNDS * np.abs(found["values"]).max()
  return [
    harness.none_exceeds(
      "bounded",
      "the dynamic program never exceeds the closed form: largest excess",
      [difference],
      tolerance=tolerance,
    )
    if bounded
    else harness.all_agree(
      "closed_form",
      "the closed form is the dynamic program: largest difference",
      [difference],
      tolerance=tolerance,
    ),
    simulation.agreement(
      "users",
      "simulated users: mean discounted revenue is the value",
      found["values"][0],
      users["revenue"],
      rounding=tolerance + cut,
    ),
  ]


def demand(
  key: jax.Array,
  curve: tuple[np.ndarray, np.ndarray],
  one: model.Model,
  *,
  max_step: float,
  num_users: int,
) -> harness.Part:
  """The plan for a demand curve.

  Args:
    key: of simulated users.
    curve: satisfactions and participation `[N]`.
    one: the model.
    max_step: the largest move of satisfaction in a round.
    num_users: simulated users, from the lowest satisfaction.
  """
  y, f = curve
  found = model.plan(y, f, one, max_step)
  values, targets = found["values"], found["targets"]
  best = int(np.flatnonzero(y == found["best"].y)[0])
  claims = _claims(
    key, curve, one, found, bounded=max_step < np.inf, num_users=num_users
  )
  by_friction = model.by_friction(y, f, friction.FRICTIONS, one)
  shown = np.unique(np.linspace(0, len(y) - 1, 12).astype(int))
  tables = {
    "plan, by satisfaction": harness.rows(
      satisfaction=y[shown],
      participation=f[shown],
      go_to=y[targets[shown]],
      value=values[shown],
      long_run_engagement_if_kept=found["engagement"][shown],
    ),
    "the best satisfaction, by friction": harness.rows(
      friction=friction.FRICTIONS[::3],
      **{name: x[::3] for name, x in by_friction._asdict().items()},
    ),
    "the best satisfaction": [
      {
        "y*": float(y[best]),
        "participation": float(f[best]),
        "effective discount": float(found["discounts"][best]),
        "value at satisfaction 0": float(found["best"].value),
        "long-run engagement": float(found["engagement"][best]),
      }
    ],
  }
  curves = {
    "demand/y": y,
    "demand/f": f,
    "demand/kept": one.base / (1 - found["discounts"]) - one.price * y,
    "demand/values": values,
    "demand/best": np.array(best),
    **{f"friction/own/{name}": x for name, x in by_friction._asdict().items()},
  }
  return harness.Part(claims, curves, tables)


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """Demand, what each satisfaction is worth, and friction."""
  figure, (left, middle, right) = plotting.figure(1, 3)
  y, best = curves["demand/y"], curves["demand/best"]
  for axes, key, label, title in (
    (left, "f", "participation", "demand"),
    (middle, "kept", "value at satisfaction 0", "value if kept there"),
  ):
    axes.step(y, curves[f"demand/{key}"], where="post")
    axes.plot(y[best], curves[f"demand/{key}"][best], "o", label="best")
    axes.set(xlabel="satisfaction", ylabel=label, title=title)
    axes.legend()
  friction.plot(right, curves, "own", "best for each friction")
  return figure
