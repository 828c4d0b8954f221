# SPDX-License-Identifier: Apache-2.0
"""Searches for instances on which Nash learning does badly.

Regularised Nash policies are compared with the best policy in the KL ball that
they reach, so that the bound `D*(beta)` must hold without any tuning of a
radius. Meant for float64.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxalign import checks
from jaxalign.divergences import categorical
from jaxalign.social_choice import equilibria, policies, populations

__all__ = (
  "Game",
  "NashRatio",
  "SearchResult",
  "adversarial_search",
  "nash_ratio",
  "random_game",
)


class Game(NamedTuple):
  """A population with a reference and a strength of regularisation.

  Attributes:
    weights: `[G]`, probabilities of the user types.
    utilities: `[G, M]`, in [0, 1].
    log_ref: `[M]`, log-probabilities of the reference.
    inv_lam: `[]`, one over the weight of the KL penalty.
  """

  weights: jax.Array
  utilities: jax.Array
  log_ref: jax.Array
  inv_lam: jax.Array


class NashRatio(NamedTuple):
  """How far a regularised Nash policy is from the best one of its KL.

  Attributes:
    ratio: scalar, the best average utility at this KL over the policy's.
    valid: bool scalar: the equilibrium was found to `1e-8` in log-probability,
      and some alternative has average utility above `1e-6`.
  """

  ratio: jax.Array
  valid: jax.Array


def random_game(
  key: jax.Array, *, num_types: int, num_alternatives: int
) -> Game:
  """Draws a game with heavy-tailed utilities.

  Of the utilities, 30 % are 0, 30 % are `exp(-U[0, 8])` and the rest are
  Beta(.2, .2); weights are uniform on the simplex, the reference has normal
  logits of standard deviation 2, and `inv_lam` is `exp(U[-2, 7])`.

  Args:
    key: PRNG key.
    num_types: G.
    num_alternatives: M.

  Returns:
    `Game`.

  >>> game = random_game(jax.random.key(0), num_types=2, num_alternatives=3)
  >>> game.utilities.shape
  (2, 3)

  Reference:
    The distribution is the project's own.
  """
  keys = jax.random.split(key, 6)
  shape = (num_types, num_alternatives)
  kind = jax.random.uniform(keys[0], shape)
  small = jnp.exp(-8 * jax.random.uniform(keys[1], shape))
  wide = jax.random.beta(keys[2], 0.2, 0.2, shape)
  return Game(
    weights=jax.random.dirichlet(keys[3], jnp.ones(num_types)),
    utilities=jnp.where(kind < 0.3, 0, jnp.where(kind < 0.6, small, wide)),
    log_ref=jax.nn.log_softmax(
      2 * jax.random.normal(keys[4], (num_alternatives,))
    ),
    inv_lam=jnp.exp(jax.random.uniform(keys[5], (), minval=-2, maxval=7)),
  )


def nash_ratio(game: Game, beta: float | jax.Array) -> NashRatio:
  """Best average utility at the Nash policy's own KL, over the policy's.

  Args:
    game: the population, reference and regularisation.
    beta: scalar above 0, Bradley-Terry temperature.

  Returns:
    `NashRatio`; where valid, at most `distortion_bound(beta)`.

  Raises:
    ValueError: beta not above 0.

  >>> game = random_game(jax.random.key(0), num_types=2, num_alternatives=3)
  >>> bool(nash_ratio(game, 5.).ratio < 2.54)
  True

  Reference:
    Distortion of AI Alignment (2505.23749), guarantee of regularised NLHF.
  """
  margins = populations.margin_matrix(game.weights, game.utilities, beta)
  utility = populations.average_utility(game.weights, game.utilities)
  log_policy, residual = equilibria.regularized_nash(
    game.log_ref, margins, game.inv_lam
  )
  # The radius is the KL that the policy has, lest rounding invent violations.
  tau = categorical.kl(log_policy, game.log_ref)
  best = policies.kl_ball_value(game.log_ref, utility, tau)
  reached = jnp.sum(jnp.exp(log_policy) * utility)
  valid = (residual * game.inv_lam <= 1e-8) & (jnp.max(utility) > 1e-6)
  return NashRatio(best / reached, valid)


def _game_of(params: dict[str, jax.Array]) -> Game:
  return Game(
    weights=jax.nn.softmax(params["weights"]),
    utilities=jax.nn.sigmoid(params["utilities"]),
    log_ref=jax.nn.log_softmax(params["log_ref"]),
    inv_lam=jnp.exp(params["log_inv_lam"]),
  )


def _params_of(game: Game) -> dict[str, jax.Array]:
  inside = jnp.clip(game.utilities, 1e-4, 1 - 1e-4)
  return {
    "weights": jnp.log(game.weights),
    "utilities": jnp.log(inside) - jnp.log1p(-inside),
    "log_ref": game.log_ref,
    "log_inv_lam": jnp.log(game.inv_lam),
  }


class SearchResult(NamedTuple):
  """What an adversary found.

  Attributes:
    games: `Game` with leading axis `[S]`: the instances found.
    ratios: `[steps, S]`, the ratio at every step; NaN where not valid.
  """

  games: Game
  ratios: jax.Array


def adversarial_search(
  games: Game,
  beta: float,
  *,
  num_starts: int = 32,
  num_steps: int = 400,
  learning_rate: float = 0.05,
) -> SearchResult:
  """Climbs the log-ratio from the worst of many games, with Adam.

  Differentiates through the equilibrium by the implicit function theorem.

  Args:
    games: `Game` with leading axis `[N]`, the candidates.
    beta: a number above 0, Bradley-Terry temperature.
    num_starts: S, how many of the worst candidates to climb from.
    num_steps: steps of Adam.
    learning_rate: of Adam, on logits of weights, utilities and reference.

  Returns:
    `SearchResult`.

  Raises:
    ValueError: fewer candidates than starts, or an argument not above 0.

  >>> keys = jax.random.split(jax.random.key(0), 20)
  >>> draw = lambda k: random_game(k, num_types=2, num_alternatives=3)
  >>> found = adversarial_search(
  ...   jax.vmap(draw)(keys), 5., num_starts=2, num_steps=3)
  >>> found.ratios.shape
  (3, 2)

  Reference:
    Distortion of AI Alignment (2505.23749), tightness of the NLHF bound.
  """
  checks.check_positive(
    beta=beta,
    num_starts=num_starts,
    num_steps=num_steps,
    learning_rate=learning_rate,
  )
  candidates = games.inv_lam.shape[0]
  if candidates < num_starts:
    raise ValueError(
      f"num_starts must be at most the {candidates} games, was {num_starts}"
    )
  ratio, valid = jax.vmap(lambda game: nash_ratio(game, beta))(games)
  worst = jnp.argsort(jnp.where(valid, -ratio, jnp.inf))[:num_starts]
  params = jax.vmap(_params_of)(jax.tree.map(lambda x: x[worst], games))
  optimizer = optax.adam(learning_rate)

  def loss(params):
    ratio, valid = jax.vmap(lambda p: nash_ratio(_game_of(p), beta))(params)
    safe = jnp.where(valid, ratio, 1)
    return -jnp.sum(jnp.log(safe)), jnp.where(valid, ratio, jnp.nan)

  def climb(carry, _):
    params, state = carry
    (_, ratios), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    gradient = jax.tree.map(
      lambda g: jnp.where(jnp.isfinite(g), g, 0), gradient
    )
    updates, state = optimizer.update(gradient, state)
    return (optax.apply_updates(params, updates), state), ratios

  start = (params, optimizer.init(params))
  (params, _), ratios = jax.lax.scan(climb, start, length=num_steps)
  return SearchResult(jax.vmap(_game_of)(params), ratios)
