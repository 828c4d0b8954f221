# SPDX-License-Identifier: Apache-2.0
"""Subsets of features that people manipulate: what they cost, and the choice.

The model, and what masks are, is that of `jaxalign.learning.strategic`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics
from jaxalign.learning import strategic

__all__ = (
  "Decomposition",
  "JointSelection",
  "cutoff_masks",
  "decompose",
  "joint_select",
)

_LEAST_GAIN = 1e-10  # of the variance explained without manipulation


class Decomposition(NamedTuple):
  """What a support costs; all at least 0.

  Attributes:
    prediction: `[]`, Lpred: what it cannot predict even without manipulation.
    manipulation: `[]`, Gamma: what manipulation costs at its optimum.
    gap: `[]`, Gap: what a single penalty loses against that optimum.
  """

  prediction: jax.Array
  manipulation: jax.Array
  gap: jax.Array


class JointSelection(NamedTuple):
  """Features and penalty chosen together.

  Attributes:
    mask: `[d]`, 1 for the features that are kept, else 0.
    lam: `[]`, their penalty.
    value: `[]`, its SMSE less the noise s2.
    cutoff: `[]`, the value of the best cut-off, where the search starts.
  """

  mask: jax.Array
  lam: jax.Array
  value: jax.Array
  cutoff: jax.Array


def decompose(
  mask: jax.Array, covariance: jax.Array, beta: jax.Array, costs: jax.Array
) -> Decomposition:
  """What a support costs: prediction, manipulation, and the single penalty.

  `Lpred(S) = beta' Sigma beta - v' Sigma_SS^-1 v`, `v = Sigma_S,: beta`;
  `Gamma(S) = R*(S) - Lpred(S)` and `Gap(S) = min_lam SMSE(S, lam) - R*(S)`
  with the optimum R* on S, all without the noise. Hence a support exceeds the
  optimum on all features by `Lpred(S) - (Gamma(all) - Gamma(S)) + Gap(S)`.

  Args:
    mask: `[d]`, 1 for the features of the support, else 0.
    covariance: `[d, d]`, Sigma, positive definite.
    beta: `[d]`, the true coefficients.
    costs: `[d]`, h above 0.

  Returns:
    `Decomposition`; the gap is 0 for equal costs and for at most one feature.

  Raises:
    AssertionError: shapes differ, or no floats.
    ValueError: a cost is not above 0, or the covariance is singular.

  >>> parts = decompose(
  ...   jnp.array([1., 0.]), jnp.eye(2), jnp.ones(2), jnp.full(2, .5))
  >>> print(f"{parts.prediction:.4f} {parts.manipulation:.4f}")
  1.0000 0.4608

  Reference:
    Strategic Feature Selection (2606.18867); these forms of its three parts are
    ours.
  """
  plain = strategic.ridge_on_support(mask, 0.0, covariance, beta)
  missed = plain - beta
  prediction = missed @ covariance @ missed
  optimum = strategic.strategic_optimum(mask, covariance, beta, costs).value
  single = strategic.best_penalty(mask, covariance, beta, costs).value
  return Decomposition(prediction, optimum - prediction, single - optimum)


def cutoff_masks(costs: jax.Array) -> jax.Array:
  """The subsets that leave out what is manipulated most easily.

  Args:
    costs: `[d]`, h above 0; of equal ones the first is left out first.

  Returns:
    `[d + 1, d]`: row k lacks the k features of the lowest costs.

  Raises:
    AssertionError: no vector of floats.
    ValueError: a cost is not above 0.

  >>> print(cutoff_masks(jnp.array([2., 8., 1.])))
  [[1. 1. 1.] [1. 1. 0.] [0. 1. 0.] [0. 0. 0.]]

  Reference:
    Strategic Feature Selection (2606.18867), the rule that it improves on.
  """
  checks.check_rank(1, costs=costs)
  checks.check_float(costs=costs)
  checks.check_positive(costs=costs)
  costs = numerics.as_float(costs)
  rank = jnp.argsort(jnp.argsort(costs))
  rows = jnp.arange(costs.size + 1)
  return (rank >= rows[:, None]).astype(costs.dtype)


def _flips(size: int) -> np.ndarray:
  """One or two features each, `[d (d + 1) / 2, d]`."""
  first, second = np.triu_indices(size)
  one = np.eye(size)
  return np.maximum(one[first], one[second])


def joint_select(
  covariance: jax.Array, beta: jax.Array, costs: jax.Array
) -> JointSelection:
  """Chooses a subset of the features and its penalty together.

  From the best of `cutoff_masks`, and while it gains, features are added,
  dropped or exchanged, at most two at a time, each subset with its best
  penalty. A relaxation gives no other start: with gates in (0, 1) of all
  features in `ridge_on_support` the least SMSE is that of `strategic_optimum`,
  at gates in proportion to `sqrt(h)`, which rank features by their costs.

  Args:
    covariance: `[d, d]`, Sigma, positive definite.
    beta: `[d]`, the true coefficients.
    costs: `[d]`, h above 0.

  Returns:
    `JointSelection`: never worse than all features or than any cut-off, and
    such that no change of one or two features gains; not always the best of
    all `2^d` subsets.

  Raises:
    AssertionError: shapes differ, or no floats.
    ValueError: a cost is not above 0, or the covariance is singular.

  >>> sigma = jnp.array([[1., -.8, .5], [-.8, 1., 0.], [.5, 0., 1.]])
  >>> chosen = joint_select(
  ...   sigma, jnp.array([.5, -.5, -.5]), jnp.array([2., 8., 1.]))
  >>> print(chosen.mask, f"{chosen.value:.4f} {chosen.cutoff:.4f}")
  [0. 1. 1.] 0.0515 0.0637

  Reference:
    Strategic Feature Selection (2606.18867): relaxation, local refinement and
    joint tuning are its steps; their details are ours.
  """
  strategic.check_problem(covariance, beta, costs)
  dtype = beta.dtype
  least = max(_LEAST_GAIN, 10 * float(jnp.finfo(dtype).eps))
  least = least * (beta @ covariance @ beta)
  flips = jnp.asarray(_flips(beta.size), dtype)

  def best_of(masks):
    found = jax.vmap(strategic.best_penalty, (0, None, None, None))(
      masks, covariance, beta, costs
    )
    best = jnp.argmin(found.value)
    return masks[best], jax.tree.map(lambda x: x[best], found)

  def refine(carry):
    mask, penalty, _ = carry
    other, better = best_of(jnp.abs(mask - flips))
    gains = better.value < penalty.value - least
    now = jax.tree.map(
      lambda x, y: jnp.where(gains, x, y), (other, better), (mask, penalty)
    )
    return *now, gains

  start, cutoff = best_of(cutoff_masks(costs))
  mask, penalty, _ = jax.lax.while_loop(
    lambda carry: carry[2], refine, (start, cutoff, jnp.array(True))
  )
  return JointSelection(mask, penalty.lam, penalty.value, cutoff.value)
