# SPDX-License-Identifier: Apache-2.0
"""A user's table: its disparate impact, and what would hide it."""

import jax
import numpy as np

from experiments import harness
from experiments.stages import csv_tables
from experiments.stages.disparate_impact import manipulation, projection
from jaxalign import checks
from jaxalign.learning import fairness


def read(path: str, prediction: str, group: str) -> manipulation.Sample:
  """Two columns of a CSV file.

  Raises:
    InputError: no such file or column, an entry that is neither 0 nor 1, or a
      group in which no prediction is 1 or none is 0.
  """
  if prediction == group:
    raise checks.InputError(
      f"prediction and group must be two columns, both are {group!r}"
    )
  table = csv_tables.read(path, (prediction, group))
  for name in (prediction, group):
    bad = np.flatnonzero(~np.isin(table.column(name), (0, 1)))
    if len(bad):
      value = table.column(name)[bad[0]]
      raise checks.InputError(
        f"{path}, row {bad[0] + 1}: expected 0 or 1 in {name!r}, was {value:g}"
      )
  sample = manipulation.Sample(table.column(prediction), table.column(group))
  for s in (0, 1):
    found = np.unique(sample.predictions[sample.groups == s])
    if len(found) < 2:
      raise checks.InputError(
        f"{path}: {prediction!r} must be both 0 and 1 where {group!r} is {s}"
      )
  return sample


def own_table(
  key: jax.Array, sample: manipulation.Sample, *, impact: float, path: str
) -> harness.Part:
  """What brings a user's table to an impact; its weights are in the curves.

  Args:
    key: of the flips.
    sample: from `read`.
    impact: the disparate impact to be shown.
    path: of the file, for errors.

  Raises:
    InputError: no weights or no flips give this impact.
  """
  rates = np.asarray(fairness.group_rates(*sample))
  if impact * rates[1] > 1:
    raise checks.InputError(
      f"{path}: no rate of group 0 is {impact:g} times {rates[1]:.4g}, that of"
      f" group 1: choose target_di up to {1 / rates[1]:.4g}"
    )
  found = manipulation.manipulate(key, sample, impact)
  found = jax.tree.map(np.asarray, found)
  claims = [
    harness.all_agree(
      "impact",
      "projection's disparate impact is the one asked for: difference",
      [found.impacts[0] - impact, found.residual],
      tolerance=projection.EXACT,
    ),
    harness.all_agree(
      "one_unknown",
      "projection's divergence is that of the problem in one unknown:"
      " difference",
      [found.kl[0] - found.direct],
      tolerance=projection.EXACT,
    ),
  ]
  summary = {
    "rows": sample.groups.size,
    "rate, S=0": float(rates[0]),
    "rate, S=1": float(rates[1]),
    "disparate impact": float(found.before),
    "asked for": impact,
    "flips needed": int(found.flips),
    "weights from": float(found.weights.min()),
    "to": float(found.weights.max()),
  }
  curves = projection.curves_of(sample, found) | {
    "own/weights": found.weights,
    "own/flipped": found.flipped,
  }
  tables = {path: [summary], "what detectors see": projection.rows(found)}
  return harness.Part(claims, curves, tables)
