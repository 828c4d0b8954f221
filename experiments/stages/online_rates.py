# SPDX-License-Identifier: Apache-2.0
"""Parameters of online calibration, and rates fitted to its errors."""

import math

import numpy as np


def grid(num_rounds: int) -> int:
  """Intervals of the grid that go with a number of rounds."""
  return max(10, int(math.sqrt(num_rounds) / 2))


def eta(num_rounds: int, m: int, num_groups: int) -> float:
  """The rate of the bound, sqrt(ln(2B)/T)."""
  return math.sqrt(math.log(2 * num_groups * (m + 1)) / num_rounds)


def slopes(sizes, errors: np.ndarray) -> np.ndarray:
  """Least-squares slope of log error `[..., R]` on log size `[R]`, `[...]`."""
  x = np.log(np.asarray(sizes, np.float64))
  x = x - x.mean()
  return np.log(errors) @ x / (x @ x)
