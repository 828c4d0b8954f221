# SPDX-License-Identifier: Apache-2.0
"""The processes: one that is fixed, and random ones of the same kind.

With a leading axis for several; drawn and evaluated in NumPy, which compiles
nothing.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np

from jaxalign.exact import mdp as tables

STATES, ACTIONS, DISCOUNT = 6, 4, 0.9


class Optimum(NamedTuple):
  """The solution of a process.

  Attributes:
    values: `[S]`, V*.
    action_values: `[S, A]`, Q*.
    greedy: `[S]`, the best actions.
    gap: the smallest by which a best action beats the next one.
  """

  values: np.ndarray
  action_values: np.ndarray
  greedy: np.ndarray
  gap: float


def draw(seed: int) -> tables.TabularMDP:
  """A random process; that of seed 0 has the printed numbers."""
  rs = np.random.RandomState(seed)
  shape = STATES, ACTIONS
  transitions = rs.dirichlet(0.3 * np.ones(STATES), shape)
  return tables.TabularMDP(transitions, rs.rand(*shape), DISCOUNT)


def draw_several(seeds: range) -> tables.TabularMDP:
  """Stacked, the printed one in front."""
  found = [draw(seed) for seed in (0, *(1 + seed for seed in seeds))]
  return tables.TabularMDP(*(np.stack(x) for x in zip(*found, strict=True)))


@jax.jit
def _solve(mdp: tables.TabularMDP) -> tuple[jax.Array, jax.Array]:
  """V* and Q*."""
  values = tables.optimal_values(mdp)
  return values, tables.action_values(mdp, values)


@functools.cache
def optimum() -> Optimum:
  """Of the printed process."""
  values, action_values = map(np.asarray, _solve(draw(0)))
  ordered = np.sort(action_values, -1)
  gap = float(np.min(ordered[:, -1] - ordered[:, -2]))
  greedy = action_values.argmax(-1)
  return Optimum(values, action_values, greedy, gap)


def value_of(mdp: tables.TabularMDP, policy: np.ndarray) -> np.ndarray:
  """`[..., S]`, of policies `[..., S, A]` in one or as many processes."""
  moves = np.einsum("...sa,...sat->...st", policy, mdp.transitions)
  rewards = np.sum(policy * mdp.rewards, -1)
  system = np.eye(STATES) - DISCOUNT * moves
  return np.linalg.solve(system, rewards[..., None])[..., 0]
