# SPDX-License-Identifier: Apache-2.0
"""Small preference games and their exact solutions.

A game is its matrix of preferences `P [M, M]`: `P[x, y]` is how often x is
preferred to y, `P + P^T = 1`, `P[x, x] = 1/2`. Its margins `P - 1/2` are a
symmetric zero-sum game of value 0, whose optimal strategies are the maximal
lotteries.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics

__all__ = (
  "cyclic_game",
  "enumerate_maximal_lotteries",
  "random_preferences",
  "rock_paper_scissors",
)

_MAX_ACTIONS = 8


def cyclic_game(num_actions: int, win_prob: jax.typing.ArrayLike) -> jax.Array:
  """The regular tournament: each action beats the half that follows it.

  `P[i, i + k mod M] = win_prob` for `1 <= k <= (M - 1) / 2`. Its only maximal
  lottery is uniform.

  Args:
    num_actions: M, odd and at least 3.
    win_prob: scalar in (1/2, 1].

  Returns:
    `[M, M]`, the preferences.

  Raises:
    ValueError: M is even or below 3.

  >>> print(cyclic_game(3, .75))
  [[0.5 0.75 0.25]
   [0.25 0.5 0.75]
   [0.75 0.25 0.5 ]]

  Reference:
    Fisher and Ryan, Optimal strategies for a generalized "scissors, paper, and
    stone" game (1992).
  """
  if num_actions < 3 or num_actions % 2 == 0:
    raise ValueError(
      f"num_actions must be odd and at least 3, was {num_actions}"
    )
  win_prob = numerics.as_float(win_prob)
  checks.check_rank(0, win_prob=win_prob)
  steps = np.arange(num_actions) - np.arange(num_actions)[:, None]
  follows = steps % num_actions
  beaten = (follows > 0) & (follows <= (num_actions - 1) // 2)
  margin = win_prob - 0.5
  return 0.5 + jnp.where(beaten, margin, jnp.where(follows == 0, 0, -margin))


def rock_paper_scissors(win_probs: jax.Array) -> jax.Array:
  """A cycle of three whose wins differ: 0 beats 1 beats 2 beats 0.

  Its only maximal lottery gives an action the margin with which the two others
  meet: `pi = (w_1 - 1/2, w_2 - 1/2, w_0 - 1/2) / Z`.

  Args:
    win_probs: `[3]`, each in (1/2, 1]: w_0 of 0 over 1, w_1 of 1 over 2, w_2 of
      2 over 0.

  Returns:
    `[3, 3]`, the preferences.

  Raises:
    AssertionError: win_probs is not floating point or not of shape `[3]`.

  >>> print(rock_paper_scissors(jnp.array([1., .75, .625])))
  [[0.5 1. 0.375]
   [0. 0.5 0.75 ]
   [0.625 0.25 0.5 ]]

  Reference:
    Kaplansky, A contribution to von Neumann's theory of games (1945).
  """
  checks.check_float(win_probs=win_probs)
  checks.check_same_shape(win_probs=win_probs, cycle=np.zeros(3))
  ahead = jnp.diag(numerics.as_float(win_probs) - 0.5)[:, jnp.array([2, 0, 1])]
  return 0.5 + ahead - ahead.T


def random_preferences(
  key: jax.Array, num_actions: int, scale: jax.typing.ArrayLike
) -> jax.Array:
  """Preferences with independent Gaussian log-odds, hence with cycles.

  `log(P[x, y] / P[y, x]) ~ N(0, scale^2)` for `x < y`.

  Args:
    key: typed random key.
    num_actions: M.
    scale: scalar, the standard deviation of the log-odds.

  Returns:
    `[M, M]`, the preferences.

  >>> pref = random_preferences(jax.random.key(0), 3, 1.)
  >>> print(pref + pref.T)
  [[1. 1. 1.]
   [1. 1. 1.]
   [1. 1. 1.]]

  Reference:
    Brandl, Brandt and Seedig, Consistent probabilistic social choice (2016),
    for the margins and their lotteries.
  """
  scale = numerics.as_float(scale)
  checks.check_rank(0, scale=scale)
  shape = (num_actions, num_actions)
  upper = jnp.triu(jax.random.normal(key, shape, scale.dtype), 1)
  # tanh is odd, so that the margins are skew-symmetric to the last bit.
  margins = jnp.tanh(scale * upper / 2) / 2
  return 0.5 + (margins - margins.T)


def enumerate_maximal_lotteries(pref: np.ndarray) -> np.ndarray:
  """Every extreme maximal lottery, by trying all supports and tight rows.

  The maximal lotteries are the polytope `{pi >= 0, sum pi = 1, A pi <= 0}` with
  `A = P - 1/2`. M - 1 of its 2 M inequalities are tight at an extreme point:
  all choices are solved, the feasible solutions kept. One row means that the
  maximal lottery is unique. Host side only, in float64.

  Args:
    pref: `[M, M]`, the preferences, M at most 8.

  Returns:
    `[K, M]`, float64 NumPy: the K extreme lotteries, in lexicographic order.

  Raises:
    InputError: pref is not square, has more than 8 actions, or
      `pref + pref^T` is not 1.

  >>> pref = rock_paper_scissors(jnp.array([1., .75, .625]))
  >>> print(enumerate_maximal_lotteries(pref).round(4))
  [[0.2857 0.1429 0.5714]]

  Reference:
    Shapley and Snow, Basic solutions of discrete games (1950).
  """
  pref = np.asarray(pref, np.float64)
  if pref.ndim != 2 or pref.shape[0] != pref.shape[1]:
    raise checks.InputError(f"pref must be square, was {pref.shape}")
  size = len(pref)
  if size > _MAX_ACTIONS:
    raise checks.InputError(
      f"pref must have at most {_MAX_ACTIONS} actions, had {size}"
    )
  # Float32 preferences sum to 1 to within their rounding.
  if not np.allclose(pref + pref.T, 1, rtol=0, atol=1e-6):
    raise checks.InputError("pref + pref^T must be 1 everywhere")
  margins = (pref - pref.T) / 2
  rows = np.concatenate([np.eye(size), margins])
  choices = list(itertools.combinations(range(2 * size), size - 1))
  tight = np.array(choices, int)
  total = np.ones((len(tight), 1, size))
  systems = np.concatenate([total, rows[tight]], 1)
  systems = systems[np.linalg.matrix_rank(systems, tol=1e-9) == size]
  points = np.linalg.solve(systems, np.eye(size)[:, :1])[..., 0]
  feasible = (points >= -1e-9).all(1) & (points @ margins.T <= 1e-9).all(1)
  points = np.where(points[feasible] > 1e-9, points[feasible], 0)
  _, first = np.unique(points.round(7), axis=0, return_index=True)
  return points[first]
