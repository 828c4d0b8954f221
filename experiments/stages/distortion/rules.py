# SPDX-License-Identifier: Apache-2.0
"""Voting rules on a win matrix, and the facts that tie them together."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from jaxalign import social_choice as sc


def uniform_pairs(size: int) -> jax.Array:
  """Weights of pairs that are drawn from all, ordered ones alike."""
  return jnp.full((size, size), 1 / size**2)


_fit = jax.jit(sc.bradley_terry_mle)
lottery = jax.jit(sc.maximal_lottery)


def _inversions(scores: np.ndarray, other: np.ndarray) -> int:
  """Pairs that two lists of scores put in opposite orders."""
  gaps = scores[:, None] - scores, other[:, None] - other
  # Ties, which rounding breaks, are the fit's stopping rule wide.
  signs = [np.where(np.abs(gap) > 1e-10, np.sign(gap), 0) for gap in gaps]
  return int(np.sum(signs[0] * signs[1] < 0)) // 2


def bradley_terry(name: str, win: jax.Array) -> tuple:
  """Borda scores, the fit, and the two facts that tie them together."""
  size = win.shape[0]
  mu = jnp.full(size, 1 / size)
  pairs = uniform_pairs(size)
  borda = sc.borda_scores(win, mu)
  fit = _fit(win, pairs)
  modelled = jax.nn.sigmoid(fit.scores[:, None] - fit.scores) @ mu
  claims = [
    harness.all_agree(
      f"{name}: Borda identity",
      f"{name}: the fitted model reproduces every Borda score",
      [modelled - borda],
      tolerance=1e-10,  # the fit's stopping rule
    ),
    harness.Claim(
      name=f"{name}: Borda order",
      statement=f"{name}: pairs that Bradley-Terry and Borda order differently",
      theory=0,
      measured=_inversions(np.asarray(borda), np.asarray(fit.scores)),
      tolerance=0,
    ),
  ]
  return borda, fit.scores, claims


def lottery_claim(name: str, residual: jax.Array) -> harness.Claim:
  """That nothing gains against the maximal lottery."""
  return harness.Claim(
    name=f"{name}: maximal lottery",
    statement=f"{name}: what the best reply to the maximal lottery gains",
    theory=0.0,
    measured=residual,
    tolerance=1e-12,  # roundings of margins of order 1
    relation="<=",
  )
