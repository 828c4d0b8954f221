# SPDX-License-Identifier: Apache-2.0
"""Pairs of outcomes, drawn from a law and labelled by Bradley-Terry."""

import numpy as np


def draw(
  rng: np.random.Generator, law: np.ndarray, scores: np.ndarray, num: int
) -> tuple[np.ndarray, np.ndarray]:
  """Which outcome was preferred, and to which: ints `[num]` each.

  Args:
    rng: the generator.
    law: `[n]`, how likely each outcome is drawn; normalised here.
    scores: `[n]`, nats.
    num: of pairs.
  """
  pairs = rng.choice(len(law), (num, 2), p=law / law.sum())
  of_first, of_second = scores[pairs].T
  win = 1 / (1 + np.exp(of_second - of_first))
  chosen = np.where(rng.random(num) < win, pairs[:, 0], pairs[:, 1])
  return chosen, pairs.sum(1) - chosen
