# SPDX-License-Identifier: Apache-2.0
"""Rewards of base samples, grouped by prompt: reader and writer."""

import csv
import os
import pathlib
from typing import NamedTuple

import numpy as np

from jaxalign import checks
from jaxalign.data import tables

__all__ = ("Rewards", "read_rewards", "write_rewards")


class Rewards(NamedTuple):
  """Rewards of samples from the base policy.

  Attributes:
    prompts: P identifiers, in the order in which they first appear.
    rewards: P arrays `[n_p]`, the rewards of each prompt's samples.
  """

  prompts: tuple[str, ...]
  rewards: tuple[np.ndarray, ...]


def read_rewards(path: str | os.PathLike) -> Rewards:
  """Reads a CSV file with columns `prompt` and `reward`, a row per sample.

  Args:
    path: of the file, a scalar string or path.

  Returns:
    `Rewards`.

  Raises:
    InputError: with file and line: a missing column, a reward that is not a
      finite number; or no rows.

  >>> read_rewards("absent.csv")
  Traceback (most recent call last):
  ...
  jaxalign.checks.InputError: absent.csv: no such file

  Reference:
    The format is the project's own.
  """
  groups: dict[str, list[float]] = {}
  for line, row in tables.rows(path, ("prompt", "reward")):
    value = tables.number(path, line, "reward", row["reward"])
    groups.setdefault(row["prompt"], []).append(value)
  if not groups:
    raise checks.InputError(f"{path}: expected rows of prompt,reward")
  return Rewards(tuple(groups), tuple(np.array(g) for g in groups.values()))


def write_rewards(path: str | os.PathLike, rewards: Rewards) -> None:
  """Writes a file that `read_rewards` reads back exactly.

  Args:
    path: of the file, a scalar string or path.
    rewards: what to write.

  Returns:
    None.

  Raises:
    InputError: the file exists.

  >>> import tempfile, os
  >>> path = os.path.join(tempfile.mkdtemp(), "rewards.csv")
  >>> write_rewards(path, Rewards(("a",), (np.array([.5, 1.]),)))
  >>> read_rewards(path).rewards
  (array([0.5, 1. ]),)

  Reference:
    The format is the project's own.
  """
  path = pathlib.Path(path)
  if path.exists():
    raise checks.InputError(f"{path} exists: choose another file or remove it")
  partial = path.with_name(path.name + ".partial")
  with partial.open("w", newline="", encoding="utf-8") as stream:
    writer = csv.writer(stream)
    writer.writerow(("prompt", "reward"))
    for prompt, values in zip(rewards.prompts, rewards.rewards, strict=True):
      writer.writerows((prompt, repr(float(value))) for value in values)
  partial.replace(path)
