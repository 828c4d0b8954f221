# SPDX-License-Identifier: Apache-2.0
"""What a model that learns in its context converges to: posterior predictives.

Training on many tasks, each a context and a next outcome, has its optimum in
the predictive distribution of Bayes' rule under the law of the tasks. Here are
the two whose oracle is exact: coins, and linear regression.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = (
  "Predictive",
  "gaussian_nll",
  "inverse_gamma_predictive",
  "known_noise_predictive",
  "rule_of_succession",
)

Scalar = float | jax.Array


class Predictive(NamedTuple):
  """Moments of the next target given its features and the context.

  Attributes:
    mean: `[...]`.
    variance: `[...]`, with the noise of the target itself.
  """

  mean: jax.Array
  variance: jax.Array


def gaussian_nll(
  mean: jax.Array, variance: jax.Array, targets: jax.Array
) -> jax.Array:
  """Negative log-likelihood of a Gaussian, up to a constant.

  `(log v + (y - mu)^2/v)/2`, without `log(2 pi)/2`. Its least expectation is at
  the mean and the variance of the targets, whatever their law.

  Args:
    mean: `[...]`, mu, differentiated.
    variance: `[...]`, v, above 0, differentiated.
    targets: `[...]`, y.

  Returns:
    `[...]`, nats.

  Raises:
    AssertionError: shapes differ, or no floats.

  >>> print(gaussian_nll(jnp.zeros(1), jnp.ones(1), jnp.array([2.])))
  [2.]

  Reference:
    Towards Better Understanding of In-Context Learning Ability from In-Context
    Uncertainty Quantification (2405.15115).
  """
  arrays = {"mean": mean, "variance": variance, "targets": targets}
  checks.check_same_shape(**arrays)
  checks.check_float(**arrays)
  mean, variance, targets = map(numerics.as_float, arrays.values())
  return (jnp.log(variance) + (targets - mean) ** 2 / variance) / 2


def rule_of_succession(successes: jax.Array, trials: jax.Array) -> jax.Array:
  """Chance of a success after h of n: `(h + 1)/(n + 2)`.

  The posterior predictive of a coin whose chance is uniform on [0, 1].

  Args:
    successes: `[...]`, h, integers or floats.
    trials: `[...]`, n, at least h.

  Returns:
    `[...]`, in (0, 1); 1/2 before the first trial.

  Raises:
    AssertionError: shapes differ.

  >>> print(rule_of_succession(jnp.array([0, 3]), jnp.array([0, 6])))
  [0.5 0.5]

  Reference:
    Laplace, Essai philosophique sur les probabilites (1814); what Spectrum
    Tuning (2510.06084) converges to on coins.
  """
  checks.check_same_shape(successes=successes, trials=trials)
  successes = numerics.as_float(successes)
  return (successes + 1) / (numerics.as_float(trials) + 2)


# --- linear regression -------------------------------------------------------


class _Posterior(NamedTuple):
  """Of the weights, and what the noise enters: L m = X^T y.

  Attributes:
    mean: `[...]`, of the query's target.
    spread: `[...]`, `x^T L^-1 x`.
    squares: `[...]`, `y^T y - m^T L m`.
    count: `[...]`, n.
  """

  mean: jax.Array
  spread: jax.Array
  squares: jax.Array
  count: jax.Array


def _posterior(
  features: jax.Array,
  targets: jax.Array,
  query: jax.Array,
  where: jax.Array | None,
  prior_variance: Scalar,
) -> _Posterior:
  checks.check_positive(prior_variance=prior_variance)
  checks.check_float(features=features, targets=targets, query=query)
  checks.check_same_shape(targets=targets, rows=features[..., 0])
  checks.check_same_shape(query=query, columns=features[..., 0, :])
  x, y, query = map(numerics.as_float, (features, targets, query))
  where = jnp.ones(y.shape, bool) if where is None else where
  checks.check_same_shape(targets=targets, where=where)
  x, y = jnp.where(where[..., None], x, 0), jnp.where(where, y, 0)
  precision = x.mT @ x + jnp.eye(x.shape[-1], dtype=x.dtype) / prior_variance
  right = jnp.stack([jnp.einsum("...nd,...n->...d", x, y), query], -1)
  solved = jnp.linalg.solve(precision, right)
  means, directions = solved[..., 0], solved[..., 1]
  return _Posterior(
    mean=jnp.sum(query * means, -1),
    spread=jnp.sum(query * directions, -1),
    squares=jnp.sum(y**2, -1) - jnp.sum(right[..., 0] * means, -1),
    count=jnp.sum(where, -1).astype(x.dtype),
  )


def known_noise_predictive(
  features: jax.Array,
  targets: jax.Array,
  query: jax.Array,
  *,
  noise_variance: Scalar,
  prior_variance: Scalar,
  where: jax.Array | None = None,
) -> Predictive:
  """The next target of a linear regression whose noise is known.

  Weights have the prior `N(0, s2 t2 I)`, targets noise of variance s2. With
  `L = X^T X + I/t2` and `m = L^-1 X^T y`: mean `x^T m`, variance
  `s2 (1 + x^T L^-1 x)`; the distribution is Gaussian.

  Args:
    features: `[..., N, D]`, X, of the context.
    targets: `[..., N]`, y.
    query: `[..., D]`, x.
    noise_variance: s2, above 0, a scalar or `[...]`.
    prior_variance: t2, scalar above 0, of weights in units of s2.
    where: bool `[..., N]`, what the context holds; all by default.

  Returns:
    `Predictive`.

  Raises:
    AssertionError: shapes do not fit, or no floats.
    ValueError: a variance is not above 0.

  >>> one = jnp.ones((1, 1))
  >>> found = known_noise_predictive(
  ...   one, jnp.ones(1), jnp.ones(1), noise_variance=2., prior_variance=1.)
  >>> print(found.mean, found.variance)
  0.5 3.0

  Reference:
    Towards Better Understanding of In-Context Learning Ability from In-Context
    Uncertainty Quantification (2405.15115), the Bayes-optimal predictor.
  """
  checks.check_positive(noise_variance=noise_variance)
  found = _posterior(features, targets, query, where, prior_variance)
  return Predictive(found.mean, noise_variance * (1 + found.spread))


def inverse_gamma_predictive(
  features: jax.Array,
  targets: jax.Array,
  query: jax.Array,
  *,
  shape: Scalar,
  scale: Scalar,
  prior_variance: Scalar,
  where: jax.Array | None = None,
) -> Predictive:
  """The next target of a linear regression whose noise has to be learned too.

  As `known_noise_predictive`, with `s2 ~ InvGamma(a, b)`: with `a_n = a + n/2`
  and `b_n = b + (y^T y - m^T L m)/2` the variance is
  `b_n/(a_n - 1) (1 + x^T L^-1 x)`; the distribution is Student's with `2 a_n`
  degrees of freedom.

  Args:
    features: `[..., N, D]`, X, of the context.
    targets: `[..., N]`, y.
    query: `[..., D]`, x.
    shape: a, above 0, scalar.
    scale: b, above 0, scalar.
    prior_variance: t2, scalar above 0, of weights in units of s2.
    where: bool `[..., N]`, what the context holds; all by default.

  Returns:
    `Predictive`; the variance is inf where `a_n` is at most 1.

  Raises:
    AssertionError: shapes do not fit, or no floats.
    ValueError: a parameter of the prior is not above 0.

  >>> one = jnp.ones((1, 1))
  >>> found = inverse_gamma_predictive(one, jnp.ones(1), jnp.ones(1),
  ...   shape=1.5, scale=.75, prior_variance=1.)
  >>> print(found.mean, found.variance)  # b_n = 1 and a_n = 2
  0.5 1.5

  Reference:
    Towards Better Understanding of In-Context Learning Ability from In-Context
    Uncertainty Quantification (2405.15115), the Bayes-optimal predictor.
  """
  checks.check_positive(shape=shape, scale=scale)
  found = _posterior(features, targets, query, where, prior_variance)
  excess = shape + found.count / 2 - 1
  finite = excess > 0
  noise = (scale + found.squares / 2) / jnp.where(finite, excess, 1)
  return Predictive(
    found.mean, jnp.where(finite, noise * (1 + found.spread), jnp.inf)
  )
