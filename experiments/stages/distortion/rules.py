# SPDX-License-Identifier: Apache-2.0
"""Voting rules on a win matrix, and the facts that tie them together."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from jaxalign import social_choice as sc


def uniform_pairs(size: int) -> jax.Array:
  """Weights of pairs that are drawn from all, ordered ones alike."""
  return jnp.full((size, size), 1 / size**2)


distortion = jax.jit(sc.distortion, static_argnames="method")


class Solution(NamedTuple):
  """What the rules make of a win matrix `[M, M]`; all `[M]` but `residual`.

  Attributes:
    borda: scores against an opponent drawn from all alike.
    scores: of the Bradley-Terry model.
    modelled: Borda scores of the fitted model.
    policy: the maximal lottery.
    residual: scalar, what the best reply to it gains.
  """

  borda: jax.Array
  scores: jax.Array
  modelled: jax.Array
  policy: jax.Array
  residual: jax.Array


@jax.jit
def solve(win: jax.Array) -> Solution:
  """What the rules make of the matrix, by one program."""
  size = win.shape[0]
  mu = jnp.full(size, 1 / size)
  scores = sc.bradley_terry_mle(win, uniform_pairs(size)).scores
  lottery = sc.maximal_lottery(win)
  return Solution(
    sc.borda_scores(win, mu),
    scores,
    jax.nn.sigmoid(scores[:, None] - scores) @ mu,
    jnp.exp(lottery.log_policy),
    lottery.residual,
  )


def _inversions(scores: np.ndarray, other: np.ndarray) -> int:
  """Pairs that two lists of scores put in opposite orders."""
  gaps = scores[:, None] - scores, other[:, None] - other
  # Ties, which rounding breaks, are the fit's stopping rule wide.
  signs = [np.where(np.abs(gap) > 1e-10, np.sign(gap), 0) for gap in gaps]
  return int(np.sum(signs[0] * signs[1] < 0)) // 2


def claims(name: str, found: Solution) -> list[harness.Claim]:
  """Facts that tie the fit to Borda, and that nothing gains on the lottery."""
  return [
    harness.all_agree(
      f"{name}: Borda identity",
      f"{name}: the fitted model reproduces every Borda score",
      [found.modelled - found.borda],
      tolerance=1e-10,  # the fit's stopping rule
    ),
    harness.Claim(
      name=f"{name}: Borda order",
      statement=f"{name}: pairs that Bradley-Terry and Borda order differently",
      theory=0,
      measured=_inversions(found.borda, found.scores),
      tolerance=0,
    ),
    harness.Claim(
      name=f"{name}: maximal lottery",
      statement=f"{name}: what the best reply to the maximal lottery gains",
      theory=0.0,
      measured=found.residual,
      tolerance=1e-12,  # roundings of margins of order 1
      relation="<=",
    ),
  ]
