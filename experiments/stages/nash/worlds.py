# SPDX-License-Identifier: Apache-2.0
"""The games that are played, and what the theory needs to know of them."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.exact import games
from jaxalign.social_choice import equilibria, nash

WORLDS = {
  "symmetric cycle": slice(0, 1),
  "uneven cycle": slice(1, 2),
  "random games": slice(2, None),
}
CYCLE, RANDOM = 0, WORLDS["random games"]
BIASED = slice(1, None)  # on the symmetric cycle every limit is pi*


class Game(NamedTuple):
  """A regularised preference game and where the algorithms start.

  Attributes:
    log_ref: `[..., A]`, the reference mu, -inf beyond the game's actions.
    pref: `[..., A, A]`, `P(y > y')`.
    log_start: `[..., A]`, the first policy.
    shift: `[..., A]`, direction in which runs beside pi* start.
  """

  log_ref: jax.Array
  pref: jax.Array
  log_start: jax.Array
  shift: jax.Array


class Solution(NamedTuple):
  """Equilibria and step sizes of a game; K step sizes.

  Attributes:
    star: `[..., A]`, the equilibrium, log pi*.
    threshold: `[...]`, of self-play's step size.
    etas: `[..., K]`, the constant step sizes.
    mixtures: `[..., K, A]`, log rho, equilibria of strength
      tau / (1 - eta tau).
    limits: `[..., K, A]`, the best responses `mu exp(P rho / tau) / Z`.
    rate: `[...]`, step size of gradient descent on IPO losses.
  """

  star: jax.Array
  threshold: jax.Array
  etas: jax.Array
  mixtures: jax.Array
  limits: jax.Array
  rate: jax.Array


def cycles(win_prob: jax.typing.ArrayLike) -> Game:
  """Rock, paper, scissors twice: alike; with wins and reference that differ."""
  return Game(
    jnp.log(jnp.array([[1 / 3] * 3, [0.5, 0.3, 0.2]])),
    jnp.stack(
      [
        games.cyclic_game(3, win_prob),
        games.rock_paper_scissors(jnp.array([0.9, 0.7, 0.6])),
      ]
    ),
    jnp.log(jnp.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])),
    jnp.array([[1.0, 0.0, -1.0]] * 2),
  )


def _random_game(key: jax.Array, scale: jax.Array, actions: int) -> Game:
  pref_key, key = jax.random.split(key)
  ref, start, shift = jax.random.normal(key, (3, actions))
  return Game(
    jax.nn.log_softmax(ref / 2),
    games.random_preferences(pref_key, actions, scale),
    jax.nn.log_softmax(start),
    shift,
  )


@functools.partial(jax.jit, static_argnames="actions")
def make_games(
  keys: jax.Array, win_prob: jax.Array, scale: jax.Array, *, actions: int
) -> Game:
  """The two cycles, then a random game for every key: `[W, ...]`.

  The actions that a cycle lacks have no mass in its reference.
  """

  def pad(x, fill):
    widths = [(0, 0), *[(0, actions - 3)] * (x.ndim - 1)]
    return jnp.pad(x, widths, constant_values=fill)

  padded = map(pad, cycles(win_prob), (-jnp.inf, 0.5, -jnp.inf, 0.0))
  drawn = jax.vmap(lambda key: _random_game(key, scale, actions))(keys)
  return Game(*(jnp.concatenate(x) for x in zip(padded, drawn, strict=True)))


@jax.jit
def solve_strengths(
  game: Game, strengths: jax.Array, tau: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Equilibria `[W, K, A]` of strengths `[W, K]`, by Newton's method.

  Returns:
    Their log-policies `[W, K, A]`, the best responses to them at tau, and the
    thresholds of self-play `[W, K]` at tau.
  """

  def repeat(x):
    return jnp.broadcast_to(x[:, None], (*strengths.shape, *x.shape[1:]))

  log_ref, pref = repeat(game.log_ref), repeat(game.pref)
  log_pi = equilibria.regularized_nash(log_ref, pref, 1 / strengths).log_policy
  paid = jnp.einsum("wkxy,wky->wkx", pref, jnp.exp(log_pi))
  response = jax.nn.log_softmax(log_ref + paid / tau)
  return log_pi, response, nash.self_play_threshold(log_pi, pref, tau)


def solve(game: Game, *, tau: float, shares: Sequence[float]) -> Solution:
  """Everything that the theory needs to know, in NumPy.

  Args:
    game: of W worlds.
    tau: weight of the KL from the reference.
    shares: step sizes, as shares of self-play's threshold.
  """
  tau = np.float64(tau)
  equal = np.full((len(game.pref), len(shares)), tau)
  star, _, threshold = map(np.asarray, solve_strengths(game, equal, tau))
  etas = threshold * np.array(shares)
  mixtures, limits, _ = solve_strengths(game, tau / (1 - etas * tau), tau)
  return Solution(
    star=star[:, 0],
    threshold=threshold[:, 0],
    etas=etas,
    mixtures=np.asarray(mixtures),
    limits=np.asarray(limits),
    # Stable on every game, because no covariance has an eigenvalue above 1/2;
    # half of what is fastest on the symmetric cycle.
    rate=tau * threshold[:, 0] / 4,
  )
