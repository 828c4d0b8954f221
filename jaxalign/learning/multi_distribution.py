# SPDX-License-Identifier: Apache-2.0
"""Learning from k distributions in r rounds of sampling: boosting over them.

Realizable: some hypothesis of the class is right on all of them. Each round
samples the mixture of the distributions by weights q, fits a hypothesis to it,
finds the distributions on which that is bad, and raises their weights. The
majority of the r hypotheses is good on every distribution. With any learner:

  params = boost_params(k, r, eps)
  q = jnp.full(k, 1 / k)
  for each round:
    fit a hypothesis to samples of the mixture q
    bad[j] = its error on distribution j is above params.tolerance / 2
    q = boost_update(q, bad, params.alpha)
  predict majority(predictions of the r hypotheses)

Where no hypothesis is right everywhere: `jaxalign.learning.finite_class`.
"""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = (
  "BoostParams",
  "boost_evaluation_size",
  "boost_params",
  "boost_update",
  "majority",
)


class BoostParams(NamedTuple):
  """What r rounds of boosting over k distributions run with.

  Attributes:
    theta: margin of the vote: a distribution is bad in at most `(1 - theta)/2`
      of the rounds.
    bad_weight: p, the most weight that bad distributions may have in a round.
    tolerance: tau, the error above which a hypothesis is bad on a distribution.
    alpha: step of the weights.
  """

  theta: float
  bad_weight: float
  tolerance: float
  alpha: float


def boost_params(
  num_distributions: int, rounds: int, eps: float
) -> BoostParams:
  """Parameters of boosting, from k, r and the error that is allowed.

  `theta = min(r/(2 ln k), 1/2)`, `p = (4 k^(2/r))^(-1/(1 - theta)) / 2`,
  `tau = eps theta/(1 + theta)` and `alpha = ln((1 - p)/p) / 2`. If the bad
  distributions never have more weight than p, none is bad in more than
  `(1 - theta)/2` of the rounds, since `k (4 p^(1 - theta))^(r/2)` is
  `2^(-(1 - theta) r/2)`, below 1. So the majority errs by at most
  `(1 + 1/theta) tau = eps`.

  Args:
    num_distributions: k, at least 2.
    rounds: r, at least 3.
    eps: error allowed on every distribution, in (0, 1).

  Returns:
    `BoostParams`.

  Raises:
    ValueError: k below 2, r below 3 or eps outside (0, 1).

  >>> params = boost_params(64, 4, .1)
  >>> print(f"{params.theta:.4f} {params.bad_weight:.2e}")
  0.4809 6.30e-04

  Reference:
    Few-round multi-distribution learning (2511.15507), the upper bound for
    r rounds; parameters re-derived from a summary.
  """
  if num_distributions < 2:
    raise ValueError(
      f"num_distributions must be at least 2, was {num_distributions}: for one,"
      " fit it directly"
    )
  if rounds < 3:
    raise ValueError(
      f"rounds must be at least 3, was {rounds}: for one or two rounds fit one"
      " hypothesis to samples of the uniform mixture"
    )
  if not 0 < eps < 1:
    raise ValueError(f"eps must lie in (0, 1), was {eps}")
  log_k = math.log(num_distributions)
  theta = min(rounds / (2 * log_k), 0.5)
  p = math.exp(-(math.log(4) + 2 * log_k / rounds) / (1 - theta)) / 2
  return BoostParams(
    theta=theta,
    bad_weight=p,
    tolerance=eps * theta / (1 + theta),
    alpha=math.log((1 - p) / p) / 2,
  )


def boost_evaluation_size(
  num_distributions: int,
  rounds: int,
  *,
  tolerance: float,
  failure_prob: float,
) -> int:
  """Samples of each distribution that tell a round's bad ones from good.

  `ceil(12 ln(2 k r/delta)/tau)`: errors of at most tau/4 and above tau fall on
  the right sides of tau/2 in all rounds, with probability 1 - delta.

  Args:
    num_distributions: k.
    rounds: r.
    tolerance: tau, as `boost_params` gives it.
    failure_prob: delta, in (0, 1).

  Returns:
    Samples of each distribution in each round.

  Raises:
    ValueError: a number is not above 0, or `failure_prob` not below 1.

  >>> boost_evaluation_size(64, 4, tolerance=.0325, failure_prob=.1)
  3154

  Reference:
    Few-round multi-distribution learning (2511.15507), the upper bound for
    r rounds.
  """
  checks.check_positive(
    num_distributions=num_distributions,
    rounds=rounds,
    tolerance=tolerance,
    failure_prob=failure_prob,
  )
  if failure_prob >= 1:
    raise ValueError(f"failure_prob must be below 1, was {failure_prob}")
  tests = 2 * num_distributions * rounds / failure_prob
  return math.ceil(12 * math.log(tests) / tolerance)


def boost_update(
  weights: jax.Array, bad: jax.Array, alpha: float | jax.Array
) -> jax.Array:
  """The next weights: `q_j exp(alpha (2 c_j - 1))`, normalised.

  Args:
    weights: `[..., k]`, q, probabilities.
    bad: bool `[..., k]`, c, where the round's hypothesis is bad.
    alpha: scalar, the step.

  Returns:
    `[..., k]`, probabilities.

  Raises:
    AssertionError: shape or type.

  >>> q = boost_update(jnp.array([.5, .5]), jnp.array([True, False]), .5)
  >>> print(f"{q[0] / q[1]:.4f}")  # e^(2 alpha)
  2.7183

  Reference:
    Few-round multi-distribution learning (2511.15507), the upper bound for
    r rounds.
  """
  checks.check_same_shape(weights=weights, bad=bad)
  checks.check_float(weights=weights)
  chex.assert_type(bad, bool)
  weights = numerics.as_float(weights)
  raised = weights * jnp.where(bad, jnp.exp(2 * alpha), 1)
  return (raised / jnp.sum(raised, -1, keepdims=True)).astype(weights.dtype)


def majority(predictions: jax.Array) -> jax.Array:
  """The vote of r binary hypotheses; a tie says 1.

  If at least `(1 + theta) r/2` of them err by tau at most, the vote errs by
  `(1 + 1/theta) tau` at most.

  Args:
    predictions: bool or 0 and 1, `[..., r]`.

  Returns:
    bool `[...]`.

  >>> majority(jnp.array([[0, 1], [0, 0]])).tolist()
  [True, False]

  Reference:
    Few-round multi-distribution learning (2511.15507), the upper bound for
    r rounds.
  """
  votes = jnp.sum(predictions, -1)
  return 2 * votes >= predictions.shape[-1]
