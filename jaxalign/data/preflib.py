# SPDX-License-Identifier: Apache-2.0
"""Reader of complete strict rankings in PrefLib's `.soc` format.

Header lines begin with `#`; `# ALTERNATIVE NAME k: text` names alternative k,
counted from 1. Every other line is `count: i1,i2,...`, best first.
"""

import os
import pathlib
import re
from typing import NamedTuple

import numpy as np

from jaxalign import checks

__all__ = ("Rankings", "parse_preflib", "read_preflib")

_NAME = re.compile(r"#\s*ALTERNATIVE NAME (\d+):\s*(.*)")


class Rankings(NamedTuple):
  """Rankings of M alternatives, each held by a number of voters.

  Attributes:
    names: M names.
    orders: int `[K, M]`, alternatives from 0, best first.
    counts: int `[K]`, voters of each ranking.
  """

  names: tuple[str, ...]
  orders: np.ndarray
  counts: np.ndarray


def _order(line: str, where: str) -> tuple[int, list[int]]:
  count, colon, order = line.partition(":")
  try:
    if not colon:
      raise ValueError
    return int(count), [int(entry) for entry in order.split(",")]
  except ValueError:
    raise checks.InputError(
      f"{where}: expected 'count: i1,i2,...' with whole numbers, was {line!r}"
    ) from None


def parse_preflib(text: str, *, source: str = "<text>") -> Rankings:
  r"""Parses the text of a `.soc` file.

  Labels are taken as the file states them; some published files number orders
  and names differently, which no parser can see.

  Args:
    text: the file's contents, a string.
    source: what error messages call it.

  Returns:
    `Rankings`; alternatives without a name line are called by their number.

  Raises:
    InputError: with source and line number: a line that is not a ranking, a
      count below 1, an order that is not a permutation of all alternatives; or
      a text without rankings.

  >>> parse_preflib("# ALTERNATIVE NAME 1: tea\n3: 2,1\n").names
  ('tea', '2')

  Reference:
    Mattei and Walsh, PrefLib: A Library for Preferences (2013).
  """
  names: dict[int, str] = {}
  orders: list[list[int]] = []
  counts: list[int] = []
  for number, raw in enumerate(text.splitlines(), 1):
    line, where = raw.strip(), f"{source}, line {number}"
    if line.startswith("#"):
      match = _NAME.match(line)
      if match:
        names[int(match[1])] = match[2].strip()
      continue
    if not line:
      continue
    count, order = _order(line, where)
    size = len(orders[0]) if orders else max(len(order), max(names, default=0))
    if count < 1:
      raise checks.InputError(f"{where}: expected a count above 0, was {count}")
    if sorted(order) != list(range(1, size + 1)):
      raise checks.InputError(
        f"{where}: expected every alternative from 1 to {size} once, was"
        f" {','.join(map(str, order))}"
      )
    orders.append(order)
    counts.append(count)
  if not orders:
    raise checks.InputError(
      f"{source}: expected lines 'count: i1,i2,...', found none"
    )
  size = len(orders[0])
  return Rankings(
    names=tuple(names.get(k, str(k)) for k in range(1, size + 1)),
    orders=np.array(orders) - 1,
    counts=np.array(counts),
  )


def read_preflib(path: str | os.PathLike) -> Rankings:
  """Reads a `.soc` file; see `parse_preflib`.

  Args:
    path: of the file, a scalar string or path.

  Returns:
    `Rankings`.

  Raises:
    InputError: the file is missing or malformed.

  >>> read_preflib("absent.soc")
  Traceback (most recent call last):
  ...
  jaxalign.checks.InputError: absent.soc: no such file

  Reference:
    Mattei and Walsh, PrefLib: A Library for Preferences (2013).
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise checks.InputError(f"{path}: no such file")
  return parse_preflib(
    path.read_text(encoding="utf-8", errors="replace"), source=str(path)
  )
