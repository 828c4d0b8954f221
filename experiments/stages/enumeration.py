# SPDX-License-Identifier: Apache-2.0
"""Best-of-n by enumeration of all draws, the reference of every exact law."""

import itertools

import numpy as np


def best_of_n(p, rewards, n: int, temperature: float = 0.0) -> np.ndarray:
  """The law `[V]` of what is kept of n draws, over all their multisets."""
  p, rewards = np.asarray(p), np.asarray(rewards)
  drawn = itertools.combinations_with_replacement(range(p.size), n)
  times = (np.array(list(drawn))[..., None] == np.arange(p.size)).sum(1)
  factorial = np.cumprod([1.0, *range(1, n + 1)])
  chance = factorial[n] * np.prod(p**times / factorial[times], 1)
  if temperature:
    weight = np.exp((rewards - rewards.max()) / temperature) * times
  else:
    best = np.where(times > 0, rewards, -np.inf).max(1, keepdims=True)
    weight = np.where(rewards == best, times, 0)
  return chance @ (weight / weight.sum(1, keepdims=True))
