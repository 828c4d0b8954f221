# SPDX-License-Identifier: Apache-2.0
"""Laws of rewards of which best-of-n is known exactly, and samples of them."""

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from experiments.stages.best_of_n import bases
from jaxalign import data


class Law(NamedTuple):
  """A known law of rewards."""

  quantile: Callable[[np.ndarray], np.ndarray]  # of [...] in (0, 1)
  values: np.ndarray  # [L], ascending: of cells with
  cdf: np.ndarray  # [L]

  def best_of(self, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the best of n draws `[N]`."""
    below = np.concatenate([[0.0], self.cdf[:-1]])
    mass = self.cdf ** n[:, None] - below ** n[:, None]
    mean = mass @ self.values
    return mean, mass @ self.values**2 - mean**2


def _gaussian(mean: float, sd: float) -> Law:
  normal = statistics.NormalDist(mean, sd)
  edges = mean + sd * np.linspace(-10, 10, 20_001)
  return Law(
    np.vectorize(normal.inv_cdf, otypes=[float]),
    (edges[1:] + edges[:-1]) / 2,
    np.vectorize(normal.cdf, otypes=[float])(edges[1:]),
  )


def _tied(values: Sequence[float], probs: Sequence[float]) -> Law:
  levels, cdf = np.array(values, float), np.cumsum(probs)
  cdf[-1] = 1.0
  return Law(lambda u: levels[np.searchsorted(cdf, u)], levels, cdf)


def known_laws() -> dict[str, Law]:
  """Laws of rewards by prompt: without ties, and with many."""
  return {
    "gaussian mean 0 sd 1": _gaussian(0.0, 1.0),
    "gaussian mean 2 sd 0.5": _gaussian(2.0, 0.5),
    "correct 1 in 10": _tied((0, 1), (0.9, 0.1)),
    "integers 0 to 4": _tied(range(5), (0.2,) * 5),
  }


def known_rewards(key: jax.Array, samples: int) -> data.Rewards:
  """Samples from every known law, by inversion."""
  laws = known_laws()
  uniform = bases.uniform(key, (len(laws), samples))
  return data.Rewards(
    tuple(laws),
    tuple(
      law.quantile(u) for law, u in zip(laws.values(), uniform, strict=True)
    ),
  )
