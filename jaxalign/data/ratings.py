# SPDX-License-Identifier: Apache-2.0
"""Reader of leaderboards: Bradley-Terry ratings on the Elo scale."""

import os
from typing import NamedTuple

import numpy as np

from jaxalign import checks
from jaxalign.data import tables

__all__ = ("Ratings", "read_ratings")


class Ratings(NamedTuple):
  """Ratings of M models; `P(i beats j) = 1/(1 + 10^(-(s_i - s_j)/400))`.

  Attributes:
    names: M names.
    scores: `[M]`, on the Elo scale.
    votes: int `[M]`, comparisons that each model took part in.
  """

  names: tuple[str, ...]
  scores: np.ndarray
  votes: np.ndarray

  @property
  def logits(self) -> np.ndarray:
    """`[M]`: Bradley-Terry scores in nats, `s log(10)/400`, of mean 0."""
    centred = self.scores - self.scores.mean()
    return centred * np.log(10) / 400


def read_ratings(path: str | os.PathLike) -> Ratings:
  """Reads a CSV file with columns `model`, `arena_score` and `votes`.

  Args:
    path: of the file, a scalar string or path.

  Returns:
    `Ratings`, a row each, in the file's order.

  Raises:
    InputError: with file and line: a missing column, a score that is not a
      finite number; or fewer than two models.

  >>> read_ratings("absent.csv")
  Traceback (most recent call last):
  ...
  jaxalign.checks.InputError: absent.csv: no such file

  Reference:
    Chatbot Arena (2403.04132), section 4.
  """
  names: list[str] = []
  scores: list[float] = []
  votes: list[int] = []
  for line, row in tables.rows(path, ("model", "arena_score", "votes")):
    names.append(row["model"])
    scores.append(tables.number(path, line, "arena_score", row["arena_score"]))
    votes.append(int(tables.number(path, line, "votes", row["votes"])))
  if len(names) < 2:
    raise checks.InputError(f"{path}: expected at least two models")
  return Ratings(tuple(names), np.array(scores), np.array(votes))
