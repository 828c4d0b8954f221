# SPDX-License-Identifier: Apache-2.0
"""Three features, of which the most manipulable one has to be kept."""

import numpy as np
from matplotlib.axes import Axes

from experiments import harness
from experiments.stages.strategic_features import problems

PROBLEM = problems.Problem(
  np.array([[1.0, -0.8, 0.5], [-0.8, 1.0, 0.0], [0.5, 0.0, 1.0]]),
  np.array([0.5, -0.5, -0.5]),
  np.array([2.0, 8.0, 1.0]),
)
# Penalties of the grid are .06 % apart, where the error is flat.
GRID = 1e-7
SAME = 1e-12  # both found by the same function


def name(mask: np.ndarray) -> str:
  """A set of features, counted from 0.

  >>> name(np.array([0., 1., 1.]))
  '{1, 2}'
  """
  return f"{{{', '.join(map(str, np.flatnonzero(mask)))}}}"


def counterexample() -> harness.Part:
  """Claims on the best subset, and the table of all."""
  batch = problems.stacked([PROBLEM])
  found = problems.enumerate_subsets(batch)
  joint = problems.select(batch)
  values, lams = found["penalty"].value[0], found["penalty"].lam[0]
  parts = [part[0] for part in found["parts"]]
  masks = problems.subsets(3)
  best = np.argmin(values)
  oracle = problems.dense_grid(PROBLEM)
  # Row k of the cut-offs lacks the k features of the lowest costs.
  order = np.argsort(PROBLEM.costs)
  nested = [np.isin(np.arange(3), order[k:]) for k in range(4)]
  rows = [int(np.flatnonzero((masks == mask).all(1))[0]) for mask in nested]
  claims = [
    harness.all_agree(
      "counterexample_table",
      "counterexample: every subset's error with its best penalty is the least"
      " of 40001 penalties: largest difference",
      [values - oracle],
      tolerance=GRID,
    ),
    harness.Claim(
      name="counterexample_cutoffs",
      statement="counterexample: error of the best cut-off by manipulability"
      " over that of the best subset",
      theory=oracle[rows].min() / oracle.min(),
      measured=values[rows].min() / joint.value[0],
      tolerance=1e-5,  # GRID over an error of .05
    ),
    harness.all_agree(
      "counterexample_joint",
      "counterexample: joint selection finds the best subset: excess error",
      [joint.value[0] - values[best]],
      tolerance=SAME,
    ),
    harness.Claim(
      name="counterexample_keeps",
      statement="counterexample: joint selection keeps the most manipulable"
      " feature (1) and all but one (sum 2)",
      theory=2.0,
      measured=joint.mask[0].sum() * joint.mask[0, order[0]],
      tolerance=0.0,
    ),
  ]
  tables = {
    "counterexample": harness.rows(
      features=np.array([name(mask) for mask in masks]),
      lam=lams,
      SMSE=values,
      Lpred=parts[0],
      Gamma=parts[1],
      Gap=parts[2],
      optimum=found["optimum"].value[0],
    )
  }
  curves = {
    "counterexample/values": values,
    "counterexample/parts": np.array(parts),
    "counterexample/cutoff": np.isin(np.arange(8), rows),
  }
  return harness.Part(claims, curves, tables)


def plot(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """The three parts of every subset's error; cut-offs are named in bold."""
  order = np.argsort(curves["counterexample/values"])
  masks = problems.subsets(3)
  bottom = np.zeros(8)
  labels = ("prediction", "manipulation", "single penalty")
  for part, label in zip(curves["counterexample/parts"], labels, strict=True):
    axes.bar(range(8), part[order], bottom=bottom, label=label)
    bottom = bottom + part[order]
  axes.set_xticks(range(8), [name(masks[i]) for i in order], rotation=45)
  for i, text in zip(order, axes.get_xticklabels(), strict=True):
    if curves["counterexample/cutoff"][i]:
      text.set_fontweight("bold")
  axes.set(ylabel="SMSE", title="counterexample (bold: cut-offs)")
  axes.legend()
