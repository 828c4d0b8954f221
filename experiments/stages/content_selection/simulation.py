# SPDX-License-Identifier: Apache-2.0
"""Simulated users against values and long-run engagement."""

import jax
import numpy as np

from experiments import harness
from experiments.stages.content_selection import model

MAX_STEP = 1.0
ROUNDING = 1e-9  # above .9^250 of the revenue, which is cut off


def agreement(
  name: str,
  statement: str,
  theory: float,
  samples: np.ndarray,
  *,
  rounding: float = ROUNDING,
) -> harness.Claim:
  """That a mean is its theory, within standard errors of itself."""
  error = samples.std(ddof=1) / np.sqrt(samples.size)
  return harness.Claim(
    name=name,
    statement=statement,
    theory=theory,
    measured=samples.mean(),
    tolerance=harness.STANDARD_ERRORS * error + rounding,
    interval=harness.confidence_interval(samples),
  )


def simulation(
  key: jax.Array, *, num_seeds: int, num_users: int
) -> harness.Part:
  """Claims on users who start at satisfaction 0.

  Args:
    key: of their draws.
    num_seeds: repetitions.
    num_users: users of each.
  """
  grid, one = model.GRID, model.LOGISTIC
  demand = model.logistic(grid)
  zero = int(np.flatnonzero(grid == 0)[0])
  claims, rows, curves = [], [], {}
  for i, (name, max_step) in enumerate(
    (("free", np.inf), ("bounded", MAX_STEP))
  ):
    found = model.plan(grid, demand, one, max_step)
    users = model.simulate(
      jax.random.fold_in(key, i),
      found,
      demand,
      one,
      start=zero,
      num_users=num_seeds * num_users,
    )
    steps = "any step" if name == "free" else "steps of at most 1"
    claims.append(
      agreement(
        f"users_{name}",
        f"simulated users, {steps}: mean discounted revenue is the value",
        found["values"][zero],
        users["revenue"],
      )
    )
    rows.append(
      {
        "plan": steps,
        "value": float(found["values"][zero]),
        "simulated": float(users["revenue"].mean()),
      }
    )
    curves[f"users/{name}"] = users["revenue"].reshape(num_seeds, -1).mean(1)
    if name == "free":
      at = found["targets"][zero]
      claims.append(
        agreement(
          "users_engagement",
          "simulated users: the share of late rounds in which they take part is"
          " the long-run engagement",
          found["engagement"][at],
          users["share"],
        )
      )
  tables = {"simulated users": rows}
  return harness.Part(claims, curves, tables)
