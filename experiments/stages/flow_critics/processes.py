# SPDX-License-Identifier: Apache-2.0
"""Processes without choices whose values are known."""

from typing import NamedTuple

import numpy as np

STATES, DISCOUNT = 16, 0.9
WORLDS = ("certain", "random")


class Process(NamedTuple):
  """One for each seed and world: leading axes `[seeds, worlds]`.

  Attributes:
    moves: `[..., S, S]`, probabilities of the next state.
    gains: `[..., S]`, rewards in [-1, 1].
    values: `[..., S]`, exact.
  """

  moves: np.ndarray
  gains: np.ndarray
  values: np.ndarray


def processes(seeds) -> Process:
  """Random processes; in the first world the next state is certain."""
  shape = len(seeds), len(WORLDS), STATES
  moves, gains = np.zeros((*shape, STATES)), np.zeros(shape)
  for i, seed in enumerate(seeds):
    rng = np.random.default_rng(seed)
    gains[i] = rng.uniform(-1, 1, STATES)
    moves[i, 0] = np.eye(STATES)[rng.integers(STATES, size=STATES)]
    moves[i, 1] = rng.dirichlet(np.full(STATES, 0.3), STATES)
  values = np.linalg.solve(np.eye(STATES) - DISCOUNT * moves, gains[..., None])
  return Process(moves, gains, values[..., 0])
