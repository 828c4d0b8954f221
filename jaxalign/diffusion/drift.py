# SPDX-License-Identifier: Apache-2.0
"""How far a policy gradient through a bound has drifted.

First drift: the bound separates from the log-likelihood. Second drift: the
gradient through the bound separates from that of the reward. Both need a world
in which log-likelihoods are known, such as those of `jaxalign.exact`.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = (
  "DriftReport",
  "concavity_threshold",
  "drift_report",
  "elbo_gap",
  "gradient_bias_norm",
  "gradient_cosine",
)


class DriftReport(NamedTuple):
  """The state of a policy that is trained through a bound.

  Attributes:
    reward: `[...]`, J, the expected reward.
    gap: `[...]`, nats, `E_pi[log pi - ELBO]`.
    cosine: `[...]`, between the surrogate's gradient and that of J.
    bias_norm: `[...]`, length of their difference.
    entropy: `[...]`, nats, `-E_pi[log pi]`.
  """

  reward: jax.Array
  gap: jax.Array
  cosine: jax.Array
  bias_norm: jax.Array
  entropy: jax.Array


def elbo_gap(log_prob: jax.Array, elbo: jax.Array) -> jax.Array:
  """By how much a bound misses the log-likelihood, for each sample.

  `log pi(x) - ELBO(x)`, the divergence between the noising process given x and
  the denoiser's posterior of it; 0 where both are -inf.

  Args:
    log_prob: `[...]`, nats.
    elbo: `[...]`, nats.

  Returns:
    `[...]`, at least 0 up to rounding; +inf where only the bound is -inf.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.

  >>> print(elbo_gap(jnp.array([-1., -jnp.inf]), jnp.array([-1.5, -jnp.inf])))
  [0.5 0. ]

  Reference:
    DiPOD (2606.13795), the identity of its first drift.
  """
  checks.check_same_shape(log_prob=log_prob, elbo=elbo)
  checks.check_float(log_prob=log_prob, elbo=elbo)
  log_prob, elbo = numerics.as_float(log_prob), numerics.as_float(elbo)
  impossible = jnp.isneginf(log_prob) & jnp.isneginf(elbo)
  return jnp.where(impossible, 0, log_prob) - jnp.where(impossible, 0, elbo)


def _ravel(a: Any, b: Any) -> tuple[jax.Array, jax.Array]:
  chex.assert_trees_all_equal_shapes(a, b)
  flat_a, _ = jax.flatten_util.ravel_pytree(a)
  flat_b, _ = jax.flatten_util.ravel_pytree(b)
  return numerics.as_float(flat_a), numerics.as_float(flat_b)


def gradient_cosine(a: Any, b: Any) -> jax.Array:
  """The cosine of the angle between two gradients.

  Args:
    a: a tree of arrays.
    b: a tree of the same structure and shapes.

  Returns:
    A scalar in [-1, 1]; NaN where one is 0.

  Raises:
    AssertionError: structures or shapes differ.

  >>> print(gradient_cosine({"w": jnp.array([0., 4.])}, {"w": jnp.ones(2)}))
  0.70710677

  Reference:
    DiPOD (2606.13795), second drift.
  """
  a, b = _ravel(a, b)
  # To size 1 first: a drifting policy's squares overflow long before it does.
  a, b = (x / jnp.max(jnp.abs(x)) for x in (a, b))
  return a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b))


def gradient_bias_norm(a: Any, b: Any) -> jax.Array:
  """The length of the difference of two gradients.

  Where the gap is s-smooth in the parameters, the gradient through the bound
  misses that of the reward by at most `E[|A| sqrt(2 s gap)]`.

  Args:
    a: a tree of arrays.
    b: a tree of the same structure and shapes.

  Returns:
    A scalar, at least 0.

  Raises:
    AssertionError: structures or shapes differ.

  >>> print(gradient_bias_norm({"w": jnp.array([3., 4.])}, {"w": jnp.zeros(2)}))
  5.0

  Reference:
    DiPOD (2606.13795), second drift.
  """
  a, b = _ravel(a, b)
  return jnp.linalg.norm(a - b)


def drift_report(
  weights: jax.Array,
  rewards: jax.Array,
  log_prob: jax.Array,
  elbo: jax.Array,
  *,
  surrogate_gradient: Any,
  reward_gradient: Any,
) -> DriftReport:
  """All diagnostics of a policy at its enumerated or sampled actions.

  Args:
    weights: `[N]`, that sum to 1: probabilities, quadrature weights, or 1/N.
    rewards: `[N]`.
    log_prob: `[N]`, nats.
    elbo: `[N]`, nats.
    surrogate_gradient: a tree, of what ascends (minus a loss).
    reward_gradient: a tree, of the expected reward.

  Returns:
    `DriftReport` of scalars.

  Raises:
    AssertionError: shapes differ.

  >>> half = jnp.full(2, .5)
  >>> report = drift_report(half, jnp.array([0., 1.]), jnp.log(half),
  ...   jnp.log(half) - .1, surrogate_gradient=half, reward_gradient=half)
  >>> print(report.reward, f"{report.gap:.1f}", report.bias_norm)
  0.5 0.1 0.0

  Reference:
    DiPOD (2606.13795).
  """
  checks.check_rank(1, weights=weights)
  checks.check_same_shape(
    weights=weights, rewards=rewards, log_prob=log_prob, elbo=elbo
  )
  live = weights > 0

  def mean(x):
    return jnp.sum(weights * jnp.where(live, x, 0))

  return DriftReport(
    mean(rewards),
    mean(elbo_gap(log_prob, elbo)),
    gradient_cosine(surrogate_gradient, reward_gradient),
    gradient_bias_norm(surrogate_gradient, reward_gradient),
    -mean(log_prob),
  )


def concavity_threshold(
  advantages: jax.Array, weights: jax.Array, features: jax.Array
) -> jax.Array:
  """The least regulariser under which a frozen surrogate is concave.

  `-lambda_min` of the pencil `(E[A phi phi'], E[phi phi'])`. Where the ELBO is
  a quadratic of regression weights on features phi, `E[(A + beta) ELBO]` is
  concave in them iff beta is at least this. With centred advantages and a
  constant among the features, beta = 0 is a saddle wherever `E[A phi]` is not
  0.

  Args:
    advantages: `[N]`, A.
    weights: `[N]`, at least 0.
    features: `[N, F]`, phi, or `[N, F, F]`, expectations of `phi phi'`.

  Returns:
    A scalar; negative where there is room to spare.

  Raises:
    ValueError: shapes do not fit.

  >>> A, half = jnp.array([1., -1.]), jnp.full(2, .5)
  >>> print(concavity_threshold(A, half, jnp.array([[1., 0.], [1., 1.]])))
  1.0

  Reference:
    The project's own; the setting is DiPOD (2606.13795).
  """
  checks.check_same_shape(advantages=advantages, weights=weights)
  shape = jnp.shape(features)
  if len(shape) not in (2, 3) or shape[:1] != jnp.shape(advantages):
    raise ValueError(
      f"features must be [N, F] or [N, F, F] for advantages"
      f" {jnp.shape(advantages)}, were {shape}"
    )
  features = numerics.as_float(features)
  if features.ndim == 2:
    features = features[:, :, None] * features[:, None, :]
  second = jnp.einsum("n,nij->ij", weights, features)
  signed = jnp.einsum("n,nij->ij", weights * advantages, features)
  root = jnp.linalg.cholesky(second)
  half = jax.scipy.linalg.solve_triangular(root, signed, lower=True)
  pencil = jax.scipy.linalg.solve_triangular(root, half.T, lower=True)
  return -jnp.linalg.eigvalsh(pencil)[0]
