# SPDX-License-Identifier: Apache-2.0
"""References that are averages of several models' parameters.

SALSA regularises towards the average of two models that were fine-tuned alike,
instead of towards one of them. Any loss here takes the log-probabilities of the
averaged model as those of its reference. Averaged tables of logits are, prefix
by prefix, geometric mixtures of the next-token laws.
"""

from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics

__all__ = ("model_soup",)


def model_soup(
  params: Sequence[Any], weights: Sequence[float] | jax.Array | None = None
) -> Any:
  """The weighted average of several models' parameters, leaf by leaf.

  `sum_m w_m theta_m`. SALSA's weight is known as one half of two models from
  summaries; others are not confirmed.

  Args:
    params: M trees of floating-point arrays, of one structure; an array alone
      (a table of logits, `[rows, V]`) is a tree.
    weights: `[M]`, summing to 1, of any sign; equal ones by default.

  Returns:
    A tree like each of them, of the first one's types; sums are formed in
    float32 or wider.

  Raises:
    AssertionError: structures, shapes or types differ, or a leaf is not
      floating point.
    ValueError: no model, not one weight for each, or weights that do not sum to
      1 (where they are not traced).

  >>> one, two = {"w": jnp.array([0., 2.])}, {"w": jnp.array([4., 2.])}
  >>> print(model_soup([one, two], [.75, .25])["w"])
  [1. 2.]

  Reference:
    SALSA (2411.01798); Model Soups (2203.05482).
  """
  params = list(params)
  if not params:
    raise ValueError("params needs at least one model")
  if weights is None:
    weights = [1 / len(params)] * len(params)
  shape = np.shape(weights)
  if shape != (len(params),):
    raise ValueError(
      f"weights {shape} need one entry for each of {len(params)} models"
    )
  if not isinstance(weights, jax.core.Tracer):
    total = float(np.sum(np.asarray(weights, np.float64)))
    if abs(total - 1) > 1e-6:  # what rounding in float32 may leave
      raise ValueError(f"weights must sum to 1, sum to {total:.6g}")
  chex.assert_trees_all_equal_shapes_and_dtypes(*params)

  def average(*leaves):
    checks.check_float(params=leaves[0])
    stacked = numerics.as_float(jnp.stack(leaves))
    total = jnp.tensordot(jnp.asarray(weights, stacked.dtype), stacked, 1)
    return total.astype(leaves[0].dtype)

  return jax.tree.map(average, *params)
