# SPDX-License-Identifier: Apache-2.0
"""Labels of known play, and the discount at which grim trigger holds."""

import jax
import numpy as np

from experiments import harness
from experiments.stages.failure_modes import worlds
from jaxalign.learning import games


def _pure(row: int, column: int) -> np.ndarray:
  play = np.zeros((2, 2))
  play[row, column] = 1
  return play


def _known(table: dict[str, worlds.World]) -> list[tuple]:
  """World, what is played, the play and its label."""
  grim = table["Bertrand, patient"].outcome[0, 0]
  return [
    ("stag hunt", "hare, hare", _pure(1, 1), "miscoordination"),
    ("stag hunt", "stag, stag", _pure(0, 0), "none"),
    ("prisoner's dilemma", "defect, defect", _pure(1, 1), "conflict"),
    ("Bertrand, patient", "grim trigger", grim, "collusion"),
    ("harmony", "both first", _pure(0, 0), "none"),
    ("matching pennies", "uniform", np.full((2, 2), 0.25), "none"),
  ]


def critical_discount() -> float:
  """The least discount at which two grim triggers are an equilibrium."""
  firms, _ = worlds.bertrand()
  stable = jax.jit(games.pure_nash)
  low, high = 0.0, 1.0
  while high - low > 1e-9:
    middle = (low + high) / 2
    payoffs = worlds.repeated_payoffs(worlds.grim_trigger(middle), firms)
    if stable(payoffs)[0, 0]:
      high = middle
    else:
      low = middle
  return high


def labels(table: dict[str, worlds.World]) -> harness.Part:
  """Claims on known play.

  Args:
    table: all worlds.
  """
  known = _known(table)
  names, played, plays, expected = zip(*known, strict=True)
  found = worlds.label(
    np.stack([table[name].payoffs for name in names]),
    np.stack([table[name].principal for name in names]),
    np.stack(plays),
  )
  found = [games.FAILURE_MODES[i] for i in np.asarray(found)]
  firms, _ = worlds.bertrand()
  cooperate, deviate, punish = firms[0, 0, 0], firms[0, 1, 0], firms[0, 1, 1]
  claims = [
    harness.all_agree(
      "labels",
      "known play of five games is labelled as it should be: wrong labels",
      [np.array(found) != np.array(expected)],
      tolerance=0.0,
    ),
    harness.Claim(
      name="critical_discount",
      statement="discount from which on grim trigger is an equilibrium, against"
      " (deviation - agreement)/(deviation - punishment)",
      theory=(deviate - cooperate) / (deviate - punish),
      measured=critical_discount(),
      tolerance=1e-8,  # of bisection
    ),
  ]
  interest = [
    (
      bool(games.affine_common_interest(table[name].payoffs)),
      bool(games.shared_optimum(table[name].payoffs)),
    )
    for name in names
  ]
  tables = {
    "known play": [
      {
        "game": name,
        "play": play,
        "label": label,
        "one interest, affinely": "yes" if affine else "no",
        "shared optimum": "yes" if shared else "no",
      }
      for name, play, label, (affine, shared) in zip(
        names, played, found, interest, strict=True
      )
    ]
  }
  return harness.Part(claims, {}, tables)
