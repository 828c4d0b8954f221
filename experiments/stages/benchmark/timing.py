# SPDX-License-Identifier: Apache-2.0
"""Times in turn, so that a machine whose speed drifts cancels."""

import time
from collections.abc import Callable

import jax
import numpy as np


def seconds(fn: Callable, *args) -> float:
  """Wall-clock seconds of one call, until its result is there."""
  start = time.perf_counter()
  jax.block_until_ready(fn(*args))
  return time.perf_counter() - start


def paired_ratio(ours: Callable, peer: Callable, args, turns: int):
  """Median time of ours and the median of its ratio to the peer, in turn."""
  jax.block_until_ready((ours(*args), peer(*args)))
  pairs = np.array(
    [(seconds(ours, *args), seconds(peer, *args)) for _ in range(turns)]
  )
  return np.median(pairs[:, 0]), np.median(pairs[:, 0] / pairs[:, 1])
