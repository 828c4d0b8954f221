# SPDX-License-Identifier: Apache-2.0
"""Claims on means of repeated measurements."""

import numpy as np

from experiments import harness


def bounded_mean(
  name: str, statement: str, values: np.ndarray, bound: float, relation: str
) -> harness.Claim:
  """Claims a bound on the mean of `values` `[n]`, and gives its interval."""
  return harness.Claim(
    name=name,
    statement=statement,
    theory=bound,
    measured=values.mean(),
    tolerance=0.0,
    relation=relation,
    interval=harness.confidence_interval(values),
  )
