# SPDX-License-Identifier: Apache-2.0
"""The processes of the experiment, drawn on the host: one for each seed."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.exact import mdp as processes

NUM_STATES, NUM_ACTIONS = 3, 2
# Two islands of states, one with rewards around 1 and one around -1.
ISLAND, STAY, SPREAD = 3, 0.95, 0.5


def random_processes(
  seeds: Iterable[int], *, discount: float
) -> list[processes.TabularMDP]:
  """Uniform transitions on the simplex, rewards uniform on [-1, 1]."""
  worlds = []
  for seed in seeds:
    rng = np.random.default_rng(seed)
    shape = (NUM_STATES, NUM_ACTIONS)
    moves = rng.dirichlet(np.ones(NUM_STATES), shape)
    rewards = rng.uniform(-1, 1, shape)
    worlds.append(
      processes.TabularMDP(jnp.asarray(moves), jnp.asarray(rewards), discount)
    )
  return worlds


def safe_or_risky(
  seeds: Iterable[int], *, discount: float
) -> list[processes.TabularMDP]:
  """A sure sum now, or a chance of a better next state.

  State 1 brings a prize at every visit. Action 1 leads to it with probability
  about .8; action 0 seldom does, but pays a bit more than half of the prize's
  expected gain. What has been won is not part of the state.
  """
  worlds = []
  for seed in seeds:
    rng = np.random.default_rng(seed)
    prize = rng.uniform(0.8, 1.2)
    to_prize = np.stack(
      [rng.uniform(0, 0.05, 2), rng.uniform(0.77, 0.83, 2)], -1
    )  # by state and action
    sure = rng.uniform(0.5, 0.58, 2) * (to_prize[:, 1] - to_prize[:, 0]) * prize
    rewards = np.array([[0.0, 0.0], [prize, prize]])
    rewards[:, 0] += sure
    worlds.append(
      processes.TabularMDP(
        jnp.asarray(np.stack([1 - to_prize, to_prize], -1)),
        jnp.asarray(rewards),
        discount,
      )
    )
  return worlds


def island_chains(seeds: Iterable[int]) -> processes.TabularMDP:
  """Chains of one action `[seeds, ...]`; they seldom change islands."""
  transitions, rewards = [], []
  for seed in seeds:
    rng = np.random.default_rng(seed)
    moves = np.full((2 * ISLAND, 2 * ISLAND), (1 - STAY) / ISLAND)
    for here in (slice(ISLAND), slice(ISLAND, None)):
      moves[here, here] = STAY * rng.dirichlet(np.ones(ISLAND), ISLAND)
    around = np.repeat([1.0, -1.0], ISLAND)
    transitions.append(moves[:, None])
    rewards.append(around + SPREAD * rng.uniform(-1, 1, 2 * ISLAND))
  return processes.TabularMDP(
    jnp.asarray(np.stack(transitions)),
    jnp.asarray(np.stack(rewards))[..., None],
    jnp.ones(len(rewards)),
  )


def stack(worlds: list) -> processes.TabularMDP:
  """Processes of one shape with a leading axis, discounts included."""
  return jax.tree.map(
    lambda *xs: jnp.stack([jnp.asarray(x) for x in xs]), *worlds
  )


def gamble() -> tuple[processes.TabularMDP, jax.Array]:
  """A reward of 1 or -1, then safe 0 or a gamble of 1.5 (.6) or -1 (.4).

  Undiscounted, three steps; with probabilities of the first state `[6]`. What
  has been won is not part of the state in which the gamble is offered.
  """
  won, lost, offered, nothing, good, bad = range(6)
  transitions, rewards = np.zeros((6, 2, 6)), np.zeros((6, 2))
  transitions[[won, lost], :, offered] = 1
  transitions[offered, 0, nothing] = 1
  transitions[offered, 1, [good, bad]] = 0.6, 0.4
  transitions[[nothing, good, bad], :, nothing] = 1
  rewards[[won, lost, good, bad]] = [[1.0], [-1.0], [1.5], [-1.0]]
  mdp = processes.TabularMDP(
    jnp.asarray(transitions), jnp.asarray(rewards), 1.0
  )
  return mdp, jnp.array([0.5, 0.5, 0.0, 0.0, 0.0, 0.0])
