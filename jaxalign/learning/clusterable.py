# SPDX-License-Identifier: Apache-2.0
"""Calibration for groups that are the components of a mixture.

Points come from a mixture `sum_k pi_k f_k(x)` and the components are the
groups, either by membership, the most likely component, or by likelihood, in
proportion to the posterior. The error of T predictions on the grid i/m is

  `CE = max over k, v of |sum_t g_k(x_t) 1[p_t = v] (p_t - y_t)|`.

The paper's weighting could not be seen in detail; with a sum over v in place of
the maximum a rate of sqrt(T) is impossible.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.learning import online_calibration, step_calibration

__all__ = (
  "GaussianMixture",
  "cell_sums",
  "cluster_then_predict",
  "discriminant_groups",
  "fit_gaussian_mixture",
  "likelihood_groups",
  "mixture_log_densities",
)


def discriminant_groups(logdens: jax.Array) -> jax.Array:
  """Groups by membership: `1[k = argmax_j pi_j f_j(x)]`.

  Args:
    logdens: `[..., K]`, `log pi_k f_k(x)`, nats; -inf for density 0.

  Returns:
    `[..., K]`, one 1 in each row (of equals the first).

  Raises:
    AssertionError: no floats.

  >>> print(discriminant_groups(jnp.log(jnp.array([[.1, .3], [.2, .1]]))))
  [[0. 1.] [1. 0.]]

  Reference:
    Learning With Multi-Group Guarantees For Clusterable Subpopulations
    (2410.14588), discriminant groups.
  """
  checks.check_float(logdens=logdens)
  logdens = numerics.as_float(logdens)
  best = jnp.argmax(logdens, -1)
  return jax.nn.one_hot(best, logdens.shape[-1], dtype=logdens.dtype)


def likelihood_groups(logdens: jax.Array) -> jax.Array:
  """Groups by likelihood: `pi_k f_k(x) / sum_j pi_j f_j(x)`.

  Args:
    logdens: `[..., K]`, `log pi_k f_k(x)`, nats; -inf for density 0.

  Returns:
    `[..., K]`, rows sum to 1; nan where no component has density.

  Raises:
    AssertionError: no floats.

  >>> found = likelihood_groups(jnp.log(jnp.array([.125, .375])))
  >>> print(f"{found[0]:.4f} {found[1]:.4f}")
  0.2500 0.7500

  Reference:
    Learning With Multi-Group Guarantees For Clusterable Subpopulations
    (2410.14588), likelihood groups.
  """
  checks.check_float(logdens=logdens)
  return jax.nn.softmax(numerics.as_float(logdens), -1)


def cell_sums(
  predictions: jax.Array, y: jax.Array, groups: jax.Array, m: int
) -> jax.Array:
  """What each group misses at each prediction: `sum_t g_k 1[p_t = v] (p - y)`.

  The largest absolute entry is the calibration error CE; the largest sum over v
  of absolute entries is its L1 version.

  Args:
    predictions: `[T]`, on the grid i/m.
    y: `[T]`, outcomes in [0, 1].
    groups: `[T, K]`, weights in [0, 1].
    m: intervals of the grid.

  Returns:
    `[K, m + 1]`.

  Raises:
    AssertionError: rank or shape.
    ValueError: m is not above 0, or lengths differ.

  >>> found = cell_sums(
  ...   jnp.array([.5, .5, 1.]), jnp.array([0., 1., 0.]), jnp.ones((3, 1)), 2)
  >>> print(found)
  [[0. 0. 1.]]

  Reference:
    Learning With Multi-Group Guarantees For Clusterable Subpopulations
    (2410.14588), calibration error of groups.
  """
  checks.check_positive(m=m)
  checks.check_rank(1, predictions=predictions, y=y)
  checks.check_rank(2, groups=groups)
  checks.check_same_shape(predictions=predictions, y=y)
  if groups.shape[0] != y.shape[0]:
    raise ValueError(
      f"groups must have a row for each of {y.shape[0]} rounds, were"
      f" {groups.shape}"
    )
  place = jnp.round(predictions * m).astype(jnp.int32)
  miss = groups * (predictions - y)[:, None]
  return jax.ops.segment_sum(miss, place, m + 1).T


# --- clusters ----------------------------------------------------------------


class GaussianMixture(NamedTuple):
  """A mixture of K Gaussians with independent coordinates.

  Attributes:
    log_weights: `[K]`, log pi.
    means: `[K, D]`.
    variances: `[K, D]`.
  """

  log_weights: jax.Array
  means: jax.Array
  variances: jax.Array


def mixture_log_densities(mixture: GaussianMixture, x: jax.Array) -> jax.Array:
  """`log pi_k f_k(x)` of every component.

  Args:
    mixture: the mixture.
    x: `[..., D]`.

  Returns:
    `[..., K]`, nats.

  >>> one = GaussianMixture(jnp.zeros(1), jnp.zeros((1, 1)), jnp.ones((1, 1)))
  >>> print(f"{mixture_log_densities(one, jnp.zeros(1))[0]:.4f}")
  -0.9189

  Reference:
    McLachlan and Peel, Finite mixture models (2000).
  """
  gap = (x[..., None, :] - mixture.means) ** 2 / mixture.variances
  volume = jnp.log(2 * math.pi * mixture.variances)
  return mixture.log_weights - jnp.sum(gap + volume, -1) / 2


@functools.partial(jax.jit, static_argnames=("num_clusters", "num_steps"))
def fit_gaussian_mixture(
  x: jax.Array, num_clusters: int, *, num_steps: int = 100
) -> GaussianMixture:
  """Fits a mixture by expectation and maximisation.

  It starts from slices of equal size along the direction in which x varies
  most. Variances stay above 1e-4 of those of x, so that no component collapses
  onto a point.

  Args:
    x: `[N, D]`, each column with at least two values.
    num_clusters: K, at least 1 and at most N.
    num_steps: iterations.

  Returns:
    `GaussianMixture`.

  Raises:
    AssertionError: x is not of rank 2.
    ValueError: K is below 1 or above N.

  >>> x = jnp.array([[-2.], [-1.], [1.], [2.]])
  >>> found = fit_gaussian_mixture(x, 2)
  >>> bool(jnp.allclose(found.means, jnp.array([[-1.5], [1.5]]), atol=.01))
  True

  Reference:
    McLachlan and Peel, Finite mixture models (2000).
  """
  checks.check_rank(2, x=x)
  if not 1 <= num_clusters <= x.shape[0]:
    raise ValueError(
      f"num_clusters must be from 1 to the {x.shape[0]} points, was"
      f" {num_clusters}"
    )
  x = numerics.as_float(x)
  spread = jnp.var(x, 0)
  scaled = (x - jnp.mean(x, 0)) / jnp.sqrt(spread)
  direction = jnp.linalg.eigh(scaled.T @ scaled)[1][:, -1]
  # The sign of an eigenvector is arbitrary; clusters go by the first column.
  direction = direction * jnp.where(direction[0] < 0, -1, 1)
  rank = jnp.argsort(jnp.argsort(scaled @ direction))
  shares = jax.nn.one_hot(rank * num_clusters // x.shape[0], num_clusters)

  def maximise(shares):
    shares = shares.astype(x.dtype)
    total = jnp.sum(shares, 0)
    each = jnp.maximum(total, jnp.finfo(x.dtype).tiny)[:, None]
    means = shares.T @ x / each
    second = jnp.einsum("nk,nkd->kd", shares, (x[:, None] - means) ** 2)
    variances = jnp.maximum(second / each, 1e-4 * spread)
    return GaussianMixture(jnp.log(total / x.shape[0]), means, variances)

  def step(_, mixture):
    return maximise(likelihood_groups(mixture_log_densities(mixture, x)))

  return jax.lax.fori_loop(0, num_steps, step, maximise(shares))


def cluster_then_predict(
  key: jax.Array,
  x: jax.Array,
  y: jax.Array,
  m: int,
  eta: float | jax.Array,
  *,
  num_clusters: int,
  num_warmup: int,
) -> online_calibration.OnlineForecasts:
  """Fits clusters first and calibrates within each of them afterwards.

  For `num_warmup` rounds, T^(2/3) in the paper, one calibrator serves all; a
  mixture of Gaussians is fitted to what came until then; from there on each
  point goes to the calibrator of its most likely component. Its error grows as
  T^(2/3), where calibrating for all plausible groups at once,
  `online_calibrate` with a cover of them, has T^(1/2).

  Args:
    key: a typed key.
    x: `[T, D]`, the points in their order.
    y: `[T]`, outcomes, 0 or 1.
    m: intervals of the grid.
    eta: above 0, the rate of every calibrator.
    num_clusters: K.
    num_warmup: rounds before clusters are fitted, at least K and at most T.

  Returns:
    `OnlineForecasts`; the sums `[1 + K, m + 1]` are those of the calibrator of
    the first rounds and of the clusters'.

  Raises:
    AssertionError: rank.
    ValueError: lengths differ, num_warmup is not from K to T, m or eta is not
      above 0.
    InputError: an outcome leaves [0, 1].

  >>> x = jnp.array([[-1.], [-1.1], [1.], [1.1]] * 50)
  >>> y = jnp.array([0., 0., 1., 1.] * 50)
  >>> found = cluster_then_predict(
  ...   jax.random.key(0), x, y, 4, .5, num_clusters=2, num_warmup=20)
  >>> found.sums.shape
  (3, 5)

  Reference:
    Learning With Multi-Group Guarantees For Clusterable Subpopulations
    (2410.14588), cluster-then-predict.
  """
  checks.check_rank(2, x=x)
  if x.shape[0] != y.shape[0]:
    raise ValueError(
      f"x and y must have as many rounds, were {x.shape} and {y.shape}"
    )
  if not num_clusters <= num_warmup <= x.shape[0]:
    raise ValueError(
      f"num_warmup must be from {num_clusters} to {x.shape[0]}, was"
      f" {num_warmup}"
    )
  step_calibration.check_unit("y", y)
  mixture = fit_gaussian_mixture(x[:num_warmup], num_clusters)
  clusters = discriminant_groups(mixture_log_densities(mixture, x))
  early = (jnp.arange(x.shape[0]) < num_warmup)[:, None]
  # Calibrators of disjoint groups do not see each other: one run is all.
  groups = jnp.concatenate([early, jnp.where(early, 0, clusters)], 1)
  return online_calibration.online_calibrate(
    key, groups.astype(clusters.dtype), y, m, eta, tests="cells"
  )
