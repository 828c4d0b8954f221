# SPDX-License-Identifier: Apache-2.0
"""Logistic demand, bounded steps, levels: closed form against program."""

import numpy as np
from matplotlib.axes import Axes

from experiments import harness
from experiments.stages.content_selection import model

EXACT = 1e-12  # values of order 10, contracted to roundings
STEP = model.GRID[1] - model.GRID[0]
MAX_STEP = 1.0
STARTS = np.array([-8.0, -3.0, -1.0, 0.0, 1.5, 3.0])
LEVELS = np.array([0.05, 0.2, 0.5, 0.7, 0.85, 0.95])
# Demand, discount and friction of which the discount is shown.
SHOWN = ((0.7, 0.9, 0.5), (0.6, 0.8, 1.0), (0.5, 0.9, 0.0))
FRICTIONS = np.array([0.0, 0.3, 0.6, 0.9, 1.0])


def of_rounds(f: np.ndarray, discount: float, friction: float) -> np.ndarray:
  """`E[g^rounds]`, summed over the rounds until a user takes part again."""
  total, away = discount * f, 1 - f
  for rounds in range(2, 400):
    total = total + away * (1 - friction) * f * discount**rounds
    away = away * (1 - (1 - friction) * f)
  return total


def _continuous_target() -> float:
  """The best satisfaction for logistic demand, of 200001, in NumPy."""
  y = np.linspace(-8, 8, 200_001)
  one = model.LOGISTIC
  back = (1 - one.friction) * model.logistic(y)
  away = one.discount * back / (1 - one.discount * (1 - back))
  f = model.logistic(y)
  discounts = one.discount * (f + (1 - f) * away)
  return y[np.argmax(one.base / (1 - discounts) - one.price * y)]


def _discounts() -> tuple[list, list[dict]]:
  """Errors of the closed form, and the table of those shown."""
  errors, shown = [], []
  y = np.array([-2.0, 0.0, 2.0])
  for friction in FRICTIONS:
    one = model.LOGISTIC._replace(friction=friction)
    f = model.logistic(y)
    found = model.plan(y, f, one)["discounts"]
    errors.append(found - of_rounds(f, one.discount, friction))
  for f, discount, friction in SHOWN:
    one = model.Model(1.0, 1.0, discount, friction)
    found = model.plan(y, np.full(3, f), one)["discounts"][0]
    errors.append(found - of_rounds(f, discount, friction))
    shown.append(
      {
        "demand": f,
        "discount": discount,
        "friction": friction,
        "effective discount": float(found),
      }
    )
  return errors, shown


def cases() -> harness.Part:
  """Claims on discounts, plans, bounded steps and levels."""
  grid, one = model.GRID, model.LOGISTIC
  demand = model.logistic(grid)
  free = model.plan(grid, demand, one)
  bounded = model.plan(grid, demand, one, MAX_STEP)
  closed = one.price * grid + free["best"].value
  errors, shown = _discounts()
  steps = LEVELS[np.searchsorted(STARTS, grid, side="right") - 1]
  levels = model.plan(STARTS, LEVELS, one)
  fine = model.plan(grid, steps, one)
  zero = int(np.flatnonzero(grid == 0)[0])
  claims = [
    harness.all_agree(
      "discount",
      "the effective discount in closed form is the sum over the rounds until a"
      " user takes part again: largest difference",
      errors,
      tolerance=EXACT,
    ),
    harness.all_agree(
      "closed_form",
      "logistic demand: b x plus the value of the best target is the dynamic"
      " program: largest difference over the grid",
      [free["values"] - closed],
      tolerance=EXACT,
    ),
    harness.Claim(
      name="target",
      statement="logistic demand: the best satisfaction of the grid is, to its"
      " step, that of all",
      theory=_continuous_target(),
      measured=free["best"].y,
      tolerance=STEP,
    ),
    harness.none_exceeds(
      "bounded",
      "steps of at most 1: the program never exceeds the closed form: largest"
      " excess over the grid",
      [bounded["values"] - closed],
      tolerance=EXACT,
    ),
    harness.all_agree(
      "levels",
      "six levels: their left ends have the best of all satisfactions:"
      " difference of satisfaction and value",
      [np.subtract(levels["best"], fine["best"])],
      tolerance=EXACT,
    ),
  ]
  tables = {
    "effective discounts": shown,
    "plans": harness.rows(
      case=np.array(["logistic", "steps of at most 1", "six levels"]),
      target=[
        free["best"].y,
        grid[_rest(bounded["targets"], zero)],
        levels["best"].y,
      ],
      value_at_0=[
        free["best"].value,
        bounded["values"][zero],
        levels["best"].value,
      ],
    ),
  }
  curves = {
    "cases/closed": closed,
    "cases/bounded": bounded["values"],
    "cases/moves": grid[bounded["targets"]] - grid,
  }
  return harness.Part(claims, curves, tables)


def _rest(targets: np.ndarray, at: int) -> int:
  """Where a plan stays in the end, from an index."""
  for _ in targets:
    at = int(targets[at])
  return at


def plot(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Values with and without a bound on steps."""
  axes.plot(model.GRID, curves["cases/closed"], label="any step")
  axes.plot(model.GRID, curves["cases/bounded"], "--", label="at most 1")
  axes.set(
    xlabel="satisfaction x", ylabel="value V(x)", title="logistic demand"
  )
  axes.legend()
