# SPDX-License-Identifier: Apache-2.0
"""Which features to keep, and how much ridge, when people manipulate them.

A score `theta' x` is announced; everybody shifts x by a at the cost
`(1/2) a' H a`, H = diag(h), to raise it, hence by `a* = H^-1 theta`, whoever
they are. With x of mean 0 and covariance Sigma and `y = beta' x + e` the
strategic mean squared error is

  `SMSE(theta) = s2 + (theta - beta)' Sigma (theta - beta)
               + (theta' H^-1 theta)^2`.

There is no intercept: one fitted again after the manipulation would cancel the
last term. Costs are those of the coordinates in which ridge acts: standardise
features before their costs are set. Use float64: gaps between penalties are
differences of close numbers.

Masks are floats, 1 for a feature that is kept and 0 for one that is not, so
that subsets can be vmapped. Arrays are of one problem; vmap for more.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics

__all__ = (
  "Penalty",
  "StrategicOptimum",
  "best_penalty",
  "best_response",
  "ridge_on_support",
  "strategic_mse",
  "strategic_optimum",
)

# Penalties tried, in units of the largest that can matter: four a decade.
_PENALTIES = np.logspace(-12, 2, 57)
_GOLDEN = (5**0.5 - 1) / 2
_GOLDEN_STEPS = 36  # half a decade becomes 1.5e-8 decades


class Penalty(NamedTuple):
  """The best single ridge penalty on a support.

  Attributes:
    lam: `[]`, at least 0.
    value: `[]`, its SMSE less the noise s2.
  """

  lam: jax.Array
  value: jax.Array


class StrategicOptimum(NamedTuple):
  """The coefficients of least SMSE on a support, ridge or not.

  Attributes:
    theta: `[d]`, 0 off the support.
    tau: `[]`, by how much manipulation raises the score, `theta' H^-1 theta`.
    value: `[]`, the SMSE less the noise s2.
  """

  theta: jax.Array
  tau: jax.Array
  value: jax.Array


def check_problem(
  covariance: jax.Array, beta: jax.Array, costs: jax.Array
) -> None:
  """Shapes always; values where they are known."""
  checks.check_rank(1, beta=beta, costs=costs)
  checks.check_same_shape(beta=beta, costs=costs, variances=covariance[0])
  checks.check_same_shape(beta=beta, covariances_of_one=covariance[:, 0])
  checks.check_float(covariance=covariance, beta=beta, costs=costs)
  checks.check_positive(costs=costs)
  if isinstance(covariance, jax.core.Tracer):
    return
  matrix = np.asarray(covariance)
  if not np.allclose(matrix, matrix.T, rtol=1e-5):
    raise checks.InputError("covariance must be symmetric")
  roots = np.linalg.eigvalsh(matrix)
  if not roots[0] > len(roots) * np.finfo(matrix.dtype).eps * roots[-1]:
    raise checks.InputError(
      f"covariance is singular: eigenvalues {roots[0]:.3g} to {roots[-1]:.3g};"
      " leave out features that others determine"
    )


def best_response(theta: jax.Array, costs: jax.Array) -> jax.Array:
  """By how much everybody shifts each feature, `H^-1 theta`.

  Args:
    theta: `[..., d]`, the score's coefficients.
    costs: `[..., d]`, the shape of `theta`: h above 0; small is easily
      manipulated, +inf never.

  Returns:
    `[..., d]`, in the features' units.

  Raises:
    AssertionError: shapes differ, or no floats.
    ValueError: a cost is not above 0.

  >>> print(best_response(jnp.array([1., -2.]), jnp.array([.5, 4.])))
  [ 2.  -0.5]

  Reference:
    Strategic Feature Selection (2606.18867).
  """
  checks.check_same_shape(theta=theta, costs=costs)
  checks.check_float(theta=theta, costs=costs)
  checks.check_positive(costs=costs)
  return numerics.as_float(theta) / numerics.as_float(costs)


def _manipulation(theta: jax.Array, costs: jax.Array) -> jax.Array:
  return jnp.sum(theta**2 / costs)


def strategic_mse(
  theta: jax.Array,
  covariance: jax.Array,
  beta: jax.Array,
  costs: jax.Array,
  *,
  noise: float | jax.Array = 0.0,
) -> jax.Array:
  """Mean squared error after manipulation.

  `s2 + (theta - beta)' Sigma (theta - beta) + (theta' H^-1 theta)^2`.

  Args:
    theta: `[d]`, the score's coefficients.
    covariance: `[d, d]`, Sigma, positive definite.
    beta: `[d]`, the true coefficients.
    costs: `[d]`, h above 0.
    noise: s2, the variance that no score explains.

  Returns:
    `[]`, in the squared units of y.

  Raises:
    AssertionError: shapes differ, or no floats.
    ValueError: a cost is not above 0, or the covariance is singular.

  >>> one = jnp.ones(1)
  >>> print(strategic_mse(.5 * one, jnp.eye(1), one, .5 * one))
  0.5

  Reference:
    Strategic Feature Selection (2606.18867); this form of the objective is
    ours.
  """
  check_problem(covariance, beta, costs)
  checks.check_same_shape(theta=theta, beta=beta)
  error = theta - beta
  return noise + error @ covariance @ error + _manipulation(theta, costs) ** 2


def _solve(matrix: jax.Array, right: jax.Array) -> jax.Array:
  """Solves a positive definite system by Gauss-Jordan elimination.

  Without LAPACK: two large batches of its factorisations, side by side in one
  program, wait for each other forever on a CPU of two cores (jaxlib 0.10.2).
  """

  def eliminate(k, rows):
    pivot = rows[k] / rows[k, k]
    return (rows - rows[:, k][:, None] * pivot).at[k].set(pivot)

  rows = jnp.concatenate([matrix, right[:, None]], 1)
  return jax.lax.fori_loop(0, right.size, eliminate, rows)[:, -1]


def _on_support(
  mask: jax.Array, penalties: jax.Array, covariance: jax.Array, beta: jax.Array
) -> jax.Array:
  """Generalised ridge: a penalty `[d]` for each feature."""
  # Rows of excluded features are those of the identity.
  matrix = mask[:, None] * covariance * mask
  matrix += jnp.diag(jnp.where(mask == 0, 1, penalties))
  right = mask * (covariance @ beta)
  return mask * _solve(matrix, right)


def ridge_on_support(
  mask: jax.Array,
  lam: float | jax.Array,
  covariance: jax.Array,
  beta: jax.Array,
) -> jax.Array:
  """Ridge coefficients on a subset of the features.

  `(Sigma_SS + lam I)^-1 Sigma_S,: beta`, and 0 off S. Entries of the mask
  between 0 and 1 are gates: `D (D Sigma D + lam I)^-1 D Sigma beta` with
  `D = diag(mask)`, which is ridge with the penalty `lam / mask_j^2` on each.

  Args:
    mask: `[d]`, in [0, 1].
    lam: at least 0.
    covariance: `[d, d]`, Sigma, positive definite.
    beta: `[d]`, the true coefficients.

  Returns:
    `[d]`; nan where `Sigma_SS + lam I` is singular.

  Raises:
    AssertionError: shapes differ, or no floats.
    ValueError: the covariance is singular.

  >>> sigma = jnp.array([[1., .5], [.5, 1.]])
  >>> print(ridge_on_support(jnp.array([1., 0.]), 1., sigma, jnp.ones(2)))
  [0.75 0.  ]

  Reference:
    Strategic Feature Selection (2606.18867); the gates are ours.
  """
  checks.check_same_shape(mask=mask, beta=beta)
  checks.check_float(mask=mask)
  check_problem(covariance, beta, jnp.ones_like(beta))
  return _on_support(mask, jnp.full_like(beta, lam), covariance, beta)


def strategic_optimum(
  mask: jax.Array, covariance: jax.Array, beta: jax.Array, costs: jax.Array
) -> StrategicOptimum:
  """The coefficients of least SMSE among those that are 0 off a support.

  `(Sigma_SS + 2 tau H_S^-1)^-1 Sigma_S,: beta` where tau solves `tau = theta'
  H^-1 theta`: the left side rises and the right one falls. With equal costs h
  it is ridge with the penalty `2 tau / h`.

  Args:
    mask: `[d]`, 1 for the features of the support, else 0.
    covariance: `[d, d]`, Sigma, positive definite.
    beta: `[d]`, the true coefficients.
    costs: `[d]`, h above 0.

  Returns:
    `StrategicOptimum`.

  Raises:
    AssertionError: shapes differ, or no floats.
    ValueError: a cost is not above 0, or the covariance is singular.

  >>> one = jnp.ones(1)
  >>> best = strategic_optimum(one, jnp.eye(1), one, .5 * one)
  >>> print(f"{best.theta[0]:.4f} {best.tau:.4f}")
  0.4176 0.3487

  Reference:
    Strategic Feature Selection (2606.18867); this form of the optimum is ours.
  """
  checks.check_same_shape(mask=mask, beta=beta)
  check_problem(covariance, beta, costs)

  def at(tau):
    return _on_support(mask, 2 * tau / costs, covariance, beta)

  def excess(tau):
    return tau - _manipulation(at(tau), costs)

  zero = jnp.zeros((), beta.dtype)
  tau = numerics.bisect(excess, zero, _manipulation(at(zero), costs))
  theta = at(tau)
  value = strategic_mse(theta, covariance, beta, costs)
  return StrategicOptimum(theta, tau, value)


# --- one penalty for all -----------------------------------------------------


def _golden_section(fn, low: jax.Array, high: jax.Array) -> jax.Array:
  """The minimiser of a function with one minimum between two points.

  Args:
    fn: maps `[2]` to `[2]`, entry by entry.
    low: `[]`, the lower point.
    high: `[]`, the upper one.
  """

  def shrink(_, ends):
    low, high = ends
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    values = fn(jnp.stack([left, right]))
    keep_left = values[0] <= values[1]
    return jnp.where(keep_left, low, left), jnp.where(keep_left, right, high)

  low, high = jax.lax.fori_loop(0, _GOLDEN_STEPS, shrink, (low, high))
  return (low + high) / 2


def _penalty_scale(
  mask: jax.Array, covariance: jax.Array, beta: jax.Array, costs: jax.Array
) -> jax.Array:
  """Above what penalties on a support need to be.

  `theta = v / lam` for large lam, and SMSE less a constant is
  `-2 |v|^2 / lam + (v' H^-1 v)^2 / lam^4`: least at `lam^3 = 2 (v' H^-1 v)^2 /
  |v|^2`. Variances are added, the scale of what is not large.
  """
  v = mask * (covariance @ beta)
  size = jnp.sum(v**2)
  cube = 2 * _manipulation(v, costs) ** 2 / jnp.where(size == 0, 1, size)
  return jnp.max(jnp.diag(covariance)) + jnp.cbrt(cube)


def best_penalty(
  mask: jax.Array, covariance: jax.Array, beta: jax.Array, costs: jax.Array
) -> Penalty:
  """The ridge penalty of least SMSE on a support.

  The best of a grid of 14 decades, then golden sections around it, or 0.

  Args:
    mask: `[d]`, 1 for the features of the support, else 0.
    covariance: `[d, d]`, Sigma, positive definite.
    beta: `[d]`, the true coefficients.
    costs: `[d]`, h above 0.

  Returns:
    `Penalty`; 0 where no penalty is better, as on the empty support.

  Raises:
    AssertionError: shapes differ, or no floats.
    ValueError: a cost is not above 0, or the covariance is singular.

  >>> one = jnp.ones(1)
  >>> best = best_penalty(one, jnp.eye(1), one, .5 * one)
  >>> print(f"{best.lam:.2f} {best.value:.4f}")
  1.39 0.4608

  Reference:
    Strategic Feature Selection (2606.18867); how it is found is ours.
  """
  checks.check_same_shape(mask=mask, beta=beta)
  check_problem(covariance, beta, costs)

  @jax.vmap
  def values(lam):
    theta = ridge_on_support(mask, lam, covariance, beta)
    return strategic_mse(theta, covariance, beta, costs)

  scale = _penalty_scale(mask, covariance, beta, costs)
  lams = scale * jnp.asarray(_PENALTIES, beta.dtype)
  best = jnp.argmin(values(lams))
  around = jnp.log(lams[jnp.clip(best + jnp.array([-1, 1]), 0, lams.size - 1)])
  lam = jnp.exp(_golden_section(lambda x: values(jnp.exp(x)), *around))
  without, found = values(jnp.stack([jnp.zeros_like(lam), lam]))
  none = without <= found
  return Penalty(jnp.where(none, 0, lam), jnp.where(none, without, found))
