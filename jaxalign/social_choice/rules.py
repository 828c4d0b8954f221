# SPDX-License-Identifier: Apache-2.0
"""Voting rules on pairwise comparisons: Borda, Condorcet, Bradley-Terry.

`win[x, y]` is the probability that x is preferred to y, with 1/2 on the
diagonal; `pair_weights[x, y]` is the probability that the ordered pair (x, y)
is shown. Functions of counts read `counts[x, y]` as how often x was preferred
to y and `counts[x, x]` as how often (x, x) was drawn. Event axes come last.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics

__all__ = (
  "BTFit",
  "borda_scores",
  "bradley_terry_mle",
  "check_connected",
  "condorcet_winner",
  "empirical_borda",
  "pairwise_margins",
)


def _square(**matrices: jax.Array | np.ndarray) -> None:
  """Raises unless all are `[..., M, M]` of one shape."""
  checks.check_same_shape(**matrices)
  for name, x in matrices.items():
    if jnp.ndim(x) < 2 or jnp.shape(x)[-1] != jnp.shape(x)[-2]:
      raise ValueError(f"{name} must be [..., M, M], was {jnp.shape(x)}")


def dense_solve(linear: Callable, rhs: jax.Array) -> jax.Array:
  """Solves `linear(x) = rhs` for vectors: the tangents of an implicit root."""
  # One column at a time: linear may cost M^2 memory for M unknowns.
  eye = jnp.eye(rhs.shape[0], dtype=rhs.dtype)
  return jnp.linalg.solve(jax.lax.map(linear, eye).T, rhs)


# --- scores and winners ------------------------------------------------------


def borda_scores(win: jax.Array, mu: jax.Array) -> jax.Array:
  """Probability of winning against a random opponent.

  `B(x) = sum_y mu_y P[x, y]` with `P[x, x] = 1/2`, whatever the diagonal of
  `win` holds.

  Args:
    win: `[..., M, M]`, win probabilities.
    mu: `[..., M]`, law of the opponent.

  Returns:
    `[..., M]`.

  >>> win = jnp.array([[.5, .9], [.1, .5]])
  >>> print(borda_scores(win, jnp.array([.5, .5])))
  [0.7 0.3]

  Reference:
    Distortion of AI Alignment (2505.23749), section 3.
  """
  checks.check_float(win=win, mu=mu)
  win, mu = numerics.as_float(win), numerics.as_float(mu)
  _square(win=win)
  checks.check_same_shape(wins_of_one=win[..., 0], mu=mu)
  self_pair = jnp.eye(mu.shape[-1], dtype=bool)
  return jnp.sum(jnp.where(self_pair, 0.5, win) * mu[..., None, :], -1)


def empirical_borda(counts: jax.Array) -> jax.Array:
  """Share of its comparisons that each alternative has won.

  `(wins + s) / (wins + losses + 2 s)` with s draws of (x, x): there x appears
  twice and wins once. Converges to `borda_scores` where pairs are drawn from
  `mu mu^T`; without the self-pairs, or with one win of one, it would not.

  Args:
    counts: `[..., M, M]`.

  Returns:
    `[..., M]`; 0 for an alternative that nobody was shown.

  >>> empirical_borda(jnp.array([[0., 3., 0.], [1., 0., 0.], [0., 0., 0.]]))
  Array([0.75, 0.25, 0.  ], dtype=float32)

  Reference:
    Distortion of AI Alignment (2505.23749), section 3.
  """
  counts = numerics.as_float(counts)
  _square(counts=counts)
  wins = jnp.sum(counts, -1)
  shown = wins + jnp.sum(counts, -2)
  return jnp.where(shown > 0, wins / jnp.where(shown > 0, shown, 1), 0)


def pairwise_margins(counts: jax.Array) -> jax.Array:
  """Estimated margins `A = P - 1/2` of all pairs.

  `A[x, y] = (c[x, y] - c[y, x]) / (2 (c[x, y] + c[y, x]))`, and 0 for pairs
  that nobody was shown and on the diagonal.

  Args:
    counts: `[..., M, M]`.

  Returns:
    `[..., M, M]`, skew-symmetric, in [-1/2, 1/2].

  >>> print(pairwise_margins(jnp.array([[2., 3.], [1., 0.]])))
  [[ 0.    0.25]
   [-0.25  0.  ]]

  Reference:
    Distortion of AI Alignment (2505.23749), section 4.
  """
  counts = numerics.as_float(counts)
  _square(counts=counts)
  mirrored = jnp.swapaxes(counts, -1, -2)
  total = counts + mirrored
  shown = total > 0
  return jnp.where(
    shown, (counts - mirrored) / (2 * jnp.where(shown, total, 1)), 0
  )


def condorcet_winner(win: jax.Array) -> jax.Array:
  """Marks the alternative that beats every other one, if there is one.

  Args:
    win: `[..., M, M]`: win probabilities, margins or counts; x beats y where
      `win[x, y] > win[y, x]`.

  Returns:
    bool `[..., M]`, true at no more than one place.

  >>> condorcet_winner(jnp.array([[.5, .9], [.1, .5]]))
  Array([ True, False], dtype=bool)

  Reference:
    Distortion of AI Alignment (2505.23749), section 3.
  """
  win = jnp.asarray(win)
  _square(win=win)
  self_pair = jnp.eye(win.shape[-1], dtype=bool)
  return jnp.all((win > jnp.swapaxes(win, -1, -2)) | self_pair, -1)


# --- Bradley-Terry -----------------------------------------------------------


class BTFit(NamedTuple):
  """Maximum-likelihood scores of the Bradley-Terry model.

  Attributes:
    scores: `[..., M]`, mean 0; 0 where `valid` is false.
    grad_norm: `[...]`, largest absolute error of an alternative's win rate,
      the gradient in units of the comparisons that it takes part in.
    valid: bool `[...]`: a finite maximiser exists.
  """

  scores: jax.Array
  grad_norm: jax.Array
  valid: jax.Array


def _reachable(wins: jax.Array) -> jax.Array:
  """Whether a chain of wins leads from x to y; bool `[M, M]`."""
  size = wins.shape[-1]
  links = (wins > 0) | jnp.eye(size, dtype=bool)

  def double(_, links):
    paths = links.astype(jnp.float32)
    return paths @ paths > 0

  return jax.lax.fori_loop(0, max(1, size - 1).bit_length(), double, links)


def check_connected(win: np.ndarray, pair_weights: np.ndarray) -> None:
  """Raises unless the Bradley-Terry likelihood has a finite maximiser.

  It has one exactly if the directed graph with an edge from x to y wherever
  `pair_weights[x, y] win[x, y] > 0` is strongly connected. Host side only.

  Args:
    win: `[M, M]`, win probabilities or counts.
    pair_weights: `[M, M]`, weights of the pairs.

  Raises:
    InputError: naming two alternatives without a chain of wins between them.

  >>> check_connected(np.array([[.5, .9], [.1, .5]]), np.ones((2, 2)) / 4)

  Returns:
    Nothing.

  Reference:
    Ford, Solution of a Ranking Problem from Binary Comparisons (1957).
  """
  checks.check_rank(2, win=win, pair_weights=pair_weights)
  _square(win=win, pair_weights=pair_weights)
  # Positive or not is decided here: the product could underflow in float32.
  wins = (np.asarray(win) > 0) & (np.asarray(pair_weights) > 0)
  missing = np.argwhere(~np.asarray(_reachable(jnp.asarray(wins))))
  if missing.size:
    x, y = missing[0]
    raise checks.InputError(
      "no finite Bradley-Terry fit: no chain of wins leads from alternative "
      f"{x} to alternative {y}; drop one of them or add comparisons"
    )


def _rate_errors(scores: jax.Array, wins: jax.Array) -> jax.Array:
  """Observed minus fitted win rate of each alternative; `[M]`.

  The gradient of the log-likelihood, divided by the weight of the comparisons
  that an alternative takes part in: rare alternatives weigh as much as others.
  """
  shown = wins + wins.T
  fitted = shown * jax.nn.sigmoid(scores[:, None] - scores)
  return jnp.sum(wins - fitted, -1) / jnp.sum(shown, -1)


def _heaviest(wins: jax.Array) -> jax.Array:
  """Marks the alternative shown most: pinning it keeps the system regular."""
  shown = jnp.sum(wins, -1) + jnp.sum(wins, -2)
  return jnp.arange(wins.shape[-1]) == jnp.argmax(shown)


def _newton_direction(scores, wins, pinned):
  shown = wins + wins.T
  gap = scores[:, None] - scores
  curvature = shown * jax.nn.sigmoid(gap) * jax.nn.sigmoid(-gap)
  laplacian = jnp.diag(jnp.sum(curvature, -1)) - curvature
  laplacian = laplacian / jnp.sum(shown, -1, keepdims=True)
  # Scores are free up to a constant: one of them stays where it is.
  identity = jnp.eye(scores.shape[0], dtype=scores.dtype)
  matrix = jnp.where(pinned[:, None], identity, laplacian)
  errors = jnp.where(pinned, 0, _rate_errors(scores, wins))
  return jnp.linalg.solve(matrix, errors)


def _maximize(wins: jax.Array, num_iters: int) -> jax.Array:
  """Damped Newton ascent from 0; needs no line search.

  The negative log-likelihood is generalised self-concordant: its third
  derivative along a direction is at most its second times the largest gap of
  that direction over a compared pair. For such functions a Newton step of
  length `log(1 + gap) / gap` ascends, and tends to the full step.
  """
  size = wins.shape[-1]
  pinned = _heaviest(wins)
  compared = wins + wins.T > 0
  tolerance = jnp.finfo(wins.dtype).eps ** 0.75

  def improve(state):
    step, scores, _ = state
    direction = _newton_direction(scores, wins, pinned)
    gaps = jnp.abs(direction[:, None] - direction)
    gap = jnp.max(jnp.where(compared, gaps, 0))
    length = jnp.where(gap > 0, jnp.log1p(gap) / jnp.where(gap > 0, gap, 1), 1)
    return step + 1, scores + length * direction, gap

  def unfinished(state):
    step, scores, gap = state
    return (step < num_iters) & (gap > tolerance * (1 + jnp.max(abs(scores))))

  start = (0, jnp.zeros(size, wins.dtype), jnp.asarray(jnp.inf, wins.dtype))
  return jax.lax.while_loop(unfinished, improve, start)[1]


def _fit(win: jax.Array, pair_weights: jax.Array, num_iters: int):
  size = win.shape[-1]
  self_pair = jnp.eye(size, dtype=bool)
  wins = jnp.where(self_pair, 0, win * pair_weights)
  valid = jnp.all(_reachable(wins))
  # Without a maximiser everybody beats everybody equally often.
  wins = jnp.where(valid, wins, 1 - self_pair.astype(wins.dtype))
  wins = wins / jax.lax.stop_gradient(jnp.max(wins))
  pinned = _heaviest(wins)
  scores = jax.lax.custom_root(
    lambda r: jnp.where(pinned, r, _rate_errors(r, wins)),
    jnp.zeros(size, wins.dtype),
    lambda fn, _: _maximize(jax.lax.stop_gradient(wins), num_iters),
    dense_solve,
  )
  errors = _rate_errors(scores, wins)
  return scores - jnp.mean(scores), jnp.max(jnp.abs(errors)), valid


@functools.partial(jax.jit, static_argnums=2)
def _fit_all(win: jax.Array, pair_weights: jax.Array, num_iters: int):
  fit = functools.partial(_fit, num_iters=num_iters)
  return jnp.vectorize(fit, signature="(m,m),(m,m)->(m),(),()")(
    win, pair_weights
  )


def bradley_terry_mle(
  win: jax.Array, pair_weights: jax.Array, *, num_iters: int = 100
) -> BTFit:
  """Scores of highest Bradley-Terry likelihood.

  `argmax_r sum_{x,y} nu[x, y] P[x, y] log sigmoid(r_x - r_y)`, the reward model
  of RLHF and the implicit one of DPO. For `nu = mu mu^T` it orders alternatives
  as Borda does: `sum_y mu_y sigmoid(r_x - r_y) = B(x)`. Differentiable in both
  arguments by the implicit function theorem. Diagonals are not read.

  Args:
    win: `[..., M, M]`, win probabilities; or counts, with `pair_weights` 1.
    pair_weights: `[..., M, M]`, weights of the pairs, the shape of `win`.
    num_iters: largest number of Newton steps.

  Returns:
    `BTFit`. `valid` is false where no finite maximiser exists.

  >>> win = jnp.array([[.5, .75], [.25, .5]])
  >>> fit = bradley_terry_mle(win, jnp.full((2, 2), .25))
  >>> print(f"{fit.scores[0] - fit.scores[1]:.4f}")  # log 3
  1.0986

  Reference:
    Distortion of AI Alignment (2505.23749), section 3; step length: Sun and
    Tran-Dinh, Generalized Self-Concordant Functions (1703.04599), section 4.
  """
  checks.check_float(win=win, pair_weights=pair_weights)
  checks.check_positive(num_iters=num_iters)
  win, pair_weights = numerics.as_float(win), numerics.as_float(pair_weights)
  _square(win=win, pair_weights=pair_weights)
  dtype = jnp.result_type(win, pair_weights)
  return BTFit(
    *_fit_all(win.astype(dtype), pair_weights.astype(dtype), num_iters)
  )
