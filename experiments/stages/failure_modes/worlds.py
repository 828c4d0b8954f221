# SPDX-License-Identifier: Apache-2.0
"""Games of two players and two actions, once or repeated, and who is served."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.exact import mdp
from jaxalign.learning import games

HIGH, LOW = 1.5, 1.0  # prices
CONSUMER_VALUE = 2.0
PATIENT, IMPATIENT = 0.9, 0.4  # discounts of the repeated games


class World(NamedTuple):
  """A game, what is chosen in it, and what that leads to.

  Attributes:
    payoffs: `[2, 2, 2]`, of a round: player, then both actions.
    principal: `[2, 2]`, of whom the players serve, or of the public.
    chosen: `[2, 2, 2]`, payoffs of what learners choose between: actions, or
      strategies of the repeated game.
    outcome: `[2, 2, 2, 2]`, the joint play of actions of each pair of choices.
  """

  payoffs: np.ndarray
  principal: np.ndarray
  chosen: np.ndarray
  outcome: np.ndarray


def _symmetric(rows) -> np.ndarray:
  """Payoffs of both from those of the first."""
  rows = np.array(rows, float)
  return np.stack([rows, rows.T])


def _once(payoffs: np.ndarray, principal: np.ndarray | None = None) -> World:
  """A game that is played once; by default the players serve themselves."""
  principal = payoffs.sum(0) if principal is None else principal
  return World(payoffs, principal, payoffs, np.eye(4).reshape(2, 2, 2, 2))


def bertrand() -> tuple[np.ndarray, np.ndarray]:
  """Two firms ask a high or a low price; who asks less sells, ties share.

  Returns:
    Payoffs of the firms `[2, 2, 2]` and of the consumer `[2, 2]`.
  """
  firms = _symmetric([[HIGH / 2, 0], [LOW, LOW / 2]])
  paid = np.array([[HIGH, LOW], [LOW, LOW]])
  return firms, CONSUMER_VALUE - paid


# Strategies of the repeated game: what is asked while nobody has asked the low
# price, and afterwards. Grim trigger, and always the low price.
_ASKED = np.array([[[1, 0], [0, 1]], [[0, 1], [0, 1]]], float)


@jax.jit
def grim_trigger(discount: float) -> jax.Array:
  """Discounted joint play of grim trigger and of always asking the low price.

  Returns:
    `[2, 2, 2, 2]`: strategies (0 grim trigger), then actions (0 high).
  """
  stays = np.zeros((2, 4, 2))
  stays[:, :, 1] = 1
  stays[0, 0] = [1, 0]  # as long as both ask the high price
  process = mdp.TabularMDP(jnp.asarray(stays), jnp.zeros((2, 4)), discount)

  @jax.vmap
  def play(policy):
    shares = mdp.occupancy(process, policy, jnp.array([1.0, 0.0]))
    return shares.sum(0)

  policies = jnp.einsum("psa,qsb->pqsab", _ASKED, _ASKED)
  return play(policies.reshape(4, 2, 4)).reshape(2, 2, 2, 2)


def repeated_payoffs(outcome: np.ndarray, payoffs: np.ndarray) -> np.ndarray:
  """Discounted payoffs `[2, 2, 2]` of pairs of strategies."""
  return np.einsum("stab,nab->nst", outcome, payoffs)


def _repeated(discount: float) -> World:
  firms, consumer = bertrand()
  outcome = np.asarray(grim_trigger(discount))
  return World(firms, consumer, repeated_payoffs(outcome, firms), outcome)


STAG_HUNT = _symmetric([[4, 0], [3, 2]])  # stag, hare
DILEMMA = _symmetric([[3, 0], [4, 1]])  # cooperate, defect
HARMONY = _symmetric([[4, 3], [2, 1]])
PENNIES = np.array([[[1, -1], [-1, 1]], [[-1, 1], [1, -1]]], float)


def worlds() -> dict[str, World]:
  """All of them, by name."""
  return {
    "stag hunt": _once(STAG_HUNT),
    "prisoner's dilemma": _once(DILEMMA),
    "harmony": _once(HARMONY),
    "matching pennies": _once(PENNIES, PENNIES[0]),
    "Bertrand, once": _once(*bertrand()),
    "Bertrand, patient": _repeated(PATIENT),
    "Bertrand, impatient": _repeated(IMPATIENT),
  }


@jax.jit
@jax.vmap
def label(payoffs, principal, play) -> jax.Array:
  """Labels of joint plays `[B, 2, 2]`, each of its game."""
  return games.label_failure_mode(payoffs, principal, play).label
