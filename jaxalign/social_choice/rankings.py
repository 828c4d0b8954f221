# SPDX-License-Identifier: Apache-2.0
"""Populations given as complete rankings: one user type for each ranking."""

import chex
import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = ("linear_utilities", "ranking_win_matrix")


def linear_utilities(orders: jax.Array) -> jax.Array:
  """Utilities that fall linearly with rank, `U[k, x] = 1 - rank_k(x)/(M-1)`.

  Args:
    orders: int `[..., M]`, alternatives from 0, best first, each once; M >= 2.

  Returns:
    `[..., M]`, by alternative, from 1 (best) to 0 (last).

  Raises:
    AssertionError: orders are not integers.

  >>> print(linear_utilities(jnp.array([2, 0, 1])))
  [0.5 0.  1. ]

  Reference:
    Boutilier et al., Optimal Social Choice Functions: A Utilitarian View
    (2015), section 2, for utilities behind rankings.
  """
  chex.assert_type(orders, int, custom_message="need integers: orders")
  last = orders.shape[-1] - 1
  return (last - jnp.argsort(orders, -1)) / last


def ranking_win_matrix(orders: jax.Array, counts: jax.Array) -> jax.Array:
  """Share of voters who rank x above y.

  Args:
    orders: int `[K, M]`, alternatives from 0, best first, each once.
    counts: `[K]`, voters of each ranking, at least 0.

  Returns:
    `[M, M]`, with 1/2 on the diagonal, so that `P + P^T = 1`.

  Raises:
    AssertionError: orders are not integers, or not one count per ranking.

  >>> orders, counts = jnp.array([[0, 1], [1, 0]]), jnp.array([3, 1])
  >>> print(ranking_win_matrix(orders, counts))
  [[0.5  0.75]
   [0.25 0.5 ]]

  Reference:
    Mattei and Walsh, PrefLib: A Library for Preferences (2013).
  """
  chex.assert_type(orders, int, custom_message="need integers: orders")
  checks.check_same_shape(first_places=orders[..., 0], counts=counts)
  ranks = jnp.argsort(orders, -1)
  shares = numerics.as_float(counts)
  shares = shares / jnp.sum(shares)
  above = ranks[:, :, None] < ranks[:, None, :]
  eye = jnp.eye(orders.shape[-1], dtype=shares.dtype)
  return jnp.sum(jnp.where(above, shares[:, None, None], 0), 0) + eye / 2
