# SPDX-License-Identifier: Apache-2.0
"""Closed forms between Gaussians, one pair for each batch entry.

`_diag` takes means and standard deviations `[..., D]`, `_full` means `[..., D]`
and covariances `[..., D, D]` (symmetric positive definite; their Cholesky
factors are used, never an inverse). Nats. Standard deviations are above 0
unless a function says otherwise; other values give NaN or infinity. Values
vanish, with their gradients, where the arguments are equal, and keep their
relative accuracy close to it.
"""

import functools
import math

import chex
import jax
import jax.numpy as jnp
from jax.scipy import linalg

from jaxalign import checks, numerics
from jaxalign.divergences.bregman import itakura_saito

__all__ = (
  "gaussian_cauchy_schwarz_diag",
  "gaussian_energy_distance",
  "gaussian_kl_diag",
  "gaussian_kl_full",
  "gaussian_mmd2_diag",
  "gaussian_pearson_chi2_diag",
  "gaussian_renyi_diag",
  "gaussian_renyi_full",
  "gaussian_squared_hellinger_diag",
  "gaussian_squared_w2_diag",
  "gaussian_squared_w2_full",
  "gaussian_total_variation_diag",
)


def _alike(**arrays: jax.Array) -> list[jax.Array]:
  checks.check_same_shape(**arrays)
  checks.check_float(**arrays)
  return [numerics.as_float(array) for array in arrays.values()]


def _full(
  p_mean: jax.Array, p_cov: jax.Array, q_mean: jax.Array, q_cov: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Checks; returns the difference of means and both Cholesky factors."""
  p_mean, q_mean = _alike(p_mean=p_mean, q_mean=q_mean)
  p_cov, q_cov = _alike(p_cov=p_cov, q_cov=q_cov)
  chex.assert_shape(
    p_cov,
    (*p_mean.shape, p_mean.shape[-1]),
    custom_message=f"need covariances [..., D, D] for means {p_mean.shape}",
  )
  p_chol, q_chol = jnp.linalg.cholesky(p_cov), jnp.linalg.cholesky(q_cov)
  return p_mean - q_mean, p_chol, q_chol


def _whiten(chol: jax.Array, x: jax.Array) -> jax.Array:
  return linalg.solve_triangular(chol, x[..., None], lower=True)[..., 0]


def _diagonal(matrix: jax.Array) -> jax.Array:
  return jnp.diagonal(matrix, axis1=-2, axis2=-1)


# --- KL and Renyi ------------------------------------------------------------


def gaussian_kl_diag(
  p_mean: jax.Array, p_scale: jax.Array, q_mean: jax.Array, q_scale: jax.Array
) -> jax.Array:
  """`KL(P||Q)` of Gaussians with diagonal covariance.

  `sum log(s2/s1) + (s1^2 + d^2) / (2 s2^2) - 1/2`, `d = m1 - m2`.

  Args:
    p_mean: `[..., D]`.
    p_scale: `[..., D]`, standard deviations.
    q_mean: `[..., D]`.
    q_scale: `[..., D]`, standard deviations.

  Returns:
    `[...]`, nats.

  Raises:
    AssertionError: shapes differ, or no floats.

  >>> zero, one = jnp.zeros(2), jnp.ones(2)
  >>> print(gaussian_kl_diag(zero, one, one, one))
  1.0

  Reference:
    Gil, Alajaji and Linder, Renyi divergence measures for commonly used
    univariate continuous distributions (2013).
  """
  m1, s1, m2, s2 = _alike(
    p_mean=p_mean, p_scale=p_scale, q_mean=q_mean, q_scale=q_scale
  )
  # With x = s1/s2 - 1 the scales' share is x^2/2 + (x - log(1 + x)).
  squares = ((m1 - m2) / s2) ** 2 + ((s1 - s2) / s2) ** 2
  return itakura_saito(s1, s2) + jnp.sum(squares, -1) / 2


def gaussian_kl_full(
  p_mean: jax.Array, p_cov: jax.Array, q_mean: jax.Array, q_cov: jax.Array
) -> jax.Array:
  """`KL(P||Q)` of Gaussians with full covariance.

  `(tr(S2^-1 S1) + d' S2^-1 d - D + log det S2 - log det S1) / 2`.

  Args:
    p_mean: `[..., D]`.
    p_cov: `[..., D, D]`, positive definite.
    q_mean: `[..., D]`.
    q_cov: `[..., D, D]`, positive definite.

  Returns:
    `[...]`, nats; NaN where a covariance is not positive definite.

  Raises:
    AssertionError: shapes do not fit, or no floats.

  >>> mean, cov = jnp.zeros(2), jnp.eye(2)
  >>> print(f"{gaussian_kl_full(mean, cov, mean, 2 * cov):.4f}")
  0.1931

  Reference:
    Gil, Alajaji and Linder, Renyi divergence measures for commonly used
    univariate continuous distributions (2013).
  """
  d, l1, l2 = _full(p_mean, p_cov, q_mean, q_cov)
  # With E = L2^-1 L1 - 1, which is lower triangular, |1 + E|^2 is the trace:
  # every summand below is at least 0.
  excess = linalg.solve_triangular(l2, l1 - l2, lower=True)
  squares = jnp.sum(excess**2, (-2, -1)) + jnp.sum(_whiten(l2, d) ** 2, -1)
  return itakura_saito(_diagonal(l1), _diagonal(l2)) + squares / 2


def _check_order(alpha: float) -> None:
  if not 0 <= alpha < math.inf:
    raise ValueError(f"alpha must be at least 0 and finite, was {alpha}")


def gaussian_renyi_diag(
  p_mean: jax.Array,
  p_scale: jax.Array,
  q_mean: jax.Array,
  q_scale: jax.Array,
  *,
  alpha: float,
) -> jax.Array:
  """Renyi divergence of Gaussians with diagonal covariance.

  With `v = al s2^2 + (1 - al) s1^2`, the sum of
  `log(s2/s1) + log(s2^2/v) / (2 (al - 1)) + al d^2 / (2 v)`.

  Args:
    p_mean: `[..., D]`.
    p_scale: `[..., D]`, standard deviations.
    q_mean: `[..., D]`.
    q_scale: `[..., D]`, standard deviations.
    alpha: the order, in `[0, inf)`; 1 is KL.

  Returns:
    `[...]`, nats, non-decreasing in the order; +inf where some `v <= 0`.

  Raises:
    AssertionError: shapes differ, or no floats.
    ValueError: alpha is negative or infinite.

  >>> m, s, t = jnp.zeros(1), jnp.array([3.]), jnp.array([2.])
  >>> for alpha in (.5, 1.5, 2.):
  ...   print(f"{gaussian_renyi_diag(m, s, m, t, alpha=alpha):.4f}")
  0.0800
  0.5754
  inf

  Reference:
    van Erven and Harremoes, Renyi Divergence (1206.2459), equation 10; Gil,
    Alajaji and Linder (2013).
  """
  _check_order(alpha)
  if alpha == 1:
    return gaussian_kl_diag(p_mean, p_scale, q_mean, q_scale)
  if alpha < 0.5:
    # Skew symmetry keeps the argument of log1p below away from -1.
    other = gaussian_renyi_diag(
      q_mean, q_scale, p_mean, p_scale, alpha=1 - alpha
    )
    return alpha / (1 - alpha) * other
  m1, s1, m2, s2 = _alike(
    p_mean=p_mean, p_scale=p_scale, q_mean=q_mean, q_scale=q_scale
  )
  beta = 1 - alpha
  # v / s2^2 = 1 + beta (s1^2 - s2^2) / s2^2
  growth = beta * ((s1 - s2) / s2) * ((s1 + s2) / s2)
  finite = growth > -1
  growth = jnp.where(finite, growth, 0)
  spread = jnp.log1p(growth) / (2 * beta) - numerics.log_ratio(s1, s2)
  shift = alpha / 2 * ((m1 - m2) / s2) ** 2 / (1 + growth)
  return jnp.sum(jnp.where(finite, spread + shift, jnp.inf), -1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _log_det_growth(y: jax.Array, beta: float) -> jax.Array:
  """`log det(1 + beta Y) / beta`, accurate also where beta is close to 0."""
  return jnp.sum(jnp.log1p(beta * jnp.linalg.eigvalsh(y)), -1) / beta


@_log_det_growth.defjvp
def _log_det_growth_jvp(beta, primals, tangents):
  # tr((1 + beta Y)^-1 dY): equal eigenvalues do no harm at any order.
  (y,), (dy,) = primals, tangents
  chol = jnp.linalg.cholesky(jnp.eye(y.shape[-1], dtype=y.dtype) + beta * y)
  tangent = jnp.sum(_diagonal(linalg.cho_solve((chol, True), dy)), -1)
  return _log_det_growth(y, beta), tangent


def gaussian_renyi_full(
  p_mean: jax.Array,
  p_cov: jax.Array,
  q_mean: jax.Array,
  q_cov: jax.Array,
  *,
  alpha: float,
) -> jax.Array:
  """Renyi divergence of Gaussians with full covariance.

  With `S = al S2 + (1 - al) S1`, `al/2 d' S^-1 d - (log det S -
  (1 - al) log det S1 - al log det S2) / (2 (al - 1))`. The squared Hellinger
  distance is `-expm1(-R/2)` at order 1/2, Pearson's chi2 `expm1(R)` at order 2.

  Args:
    p_mean: `[..., D]`.
    p_cov: `[..., D, D]`, positive definite.
    q_mean: `[..., D]`.
    q_cov: `[..., D, D]`, positive definite.
    alpha: the order, in `[0, inf)`; 1 is KL.

  Returns:
    `[...]`, nats; +inf where S is not positive definite.

  Raises:
    AssertionError: shapes do not fit, or no floats.
    ValueError: alpha is negative or infinite.

  >>> mean, cov = jnp.zeros(2), jnp.eye(2)
  >>> print(f"{gaussian_renyi_full(mean, cov, mean, 2 * cov, alpha=2.):.4f}")
  0.2877

  Reference:
    van Erven and Harremoes, Renyi Divergence (1206.2459), equation 10; Gil,
    Alajaji and Linder (2013).
  """
  _check_order(alpha)
  if alpha == 1:
    return gaussian_kl_full(p_mean, p_cov, q_mean, q_cov)
  if alpha < 0.5:
    other = gaussian_renyi_full(q_mean, q_cov, p_mean, p_cov, alpha=1 - alpha)
    return alpha / (1 - alpha) * other
  d, l1, l2 = _full(p_mean, p_cov, q_mean, q_cov)
  beta = 1 - alpha
  # S1 = L2 (1 + Y) L2' and S = L2 (1 + beta Y) L2'.
  excess = linalg.solve_triangular(l2, l1 - l2, lower=True)
  y = excess + excess.mT + excess @ excess.mT
  eigenvalues = jnp.linalg.eigvalsh(jax.lax.stop_gradient(y))
  finite = jnp.all(beta * eigenvalues > -1, -1)
  y = jnp.where(finite[..., None, None], y, 0)
  chol = jnp.linalg.cholesky(jnp.eye(d.shape[-1], dtype=d.dtype) + beta * y)
  shift = jnp.sum(_whiten(chol, _whiten(l2, d)) ** 2, -1)
  spread = _log_det_growth(y, beta) / 2 - jnp.sum(
    numerics.log_ratio(_diagonal(l1), _diagonal(l2)), -1
  )
  return jnp.where(finite, spread + alpha / 2 * shift, jnp.inf)


# --- functions of the Renyi divergence ---------------------------------------


def gaussian_squared_hellinger_diag(
  p_mean: jax.Array, p_scale: jax.Array, q_mean: jax.Array, q_scale: jax.Array
) -> jax.Array:
  """Squared Hellinger distance of Gaussians with diagonal covariance.

  `1 - prod sqrt(2 s1 s2 / (s1^2 + s2^2)) exp(-d^2 / (4 (s1^2 + s2^2)))`.

  Args:
    p_mean: `[..., D]`.
    p_scale: `[..., D]`, standard deviations.
    q_mean: `[..., D]`.
    q_scale: `[..., D]`, standard deviations.

  Returns:
    `[...]`, in `[0, 1]`.

  Raises:
    AssertionError: shapes differ, or no floats.

  >>> zero, one = jnp.zeros(1), jnp.ones(1)
  >>> print(f"{gaussian_squared_hellinger_diag(zero, one, one, one):.4f}")
  0.1175

  Reference:
    van Erven and Harremoes, Renyi Divergence (1206.2459), section 1.
  """
  order_half = gaussian_renyi_diag(p_mean, p_scale, q_mean, q_scale, alpha=0.5)
  return -jnp.expm1(-order_half / 2)


def gaussian_pearson_chi2_diag(
  p_mean: jax.Array, p_scale: jax.Array, q_mean: jax.Array, q_scale: jax.Array
) -> jax.Array:
  """Pearson's chi2 divergence of Gaussians with diagonal covariance.

  `E_Q (p/q - 1)^2 = exp(R_2) - 1` with the Renyi divergence of order 2.

  Args:
    p_mean: `[..., D]`.
    p_scale: `[..., D]`, standard deviations.
    q_mean: `[..., D]`.
    q_scale: `[..., D]`, standard deviations.

  Returns:
    `[...]`; +inf where some `s1^2 >= 2 s2^2`.

  Raises:
    AssertionError: shapes differ, or no floats.

  >>> zero, one = jnp.zeros(1), jnp.ones(1)
  >>> print(f"{gaussian_pearson_chi2_diag(zero, one, one, one):.4f}")
  1.7183

  Reference:
    van Erven and Harremoes, Renyi Divergence (1206.2459), section 1.
  """
  order_two = gaussian_renyi_diag(p_mean, p_scale, q_mean, q_scale, alpha=2.0)
  finite = order_two < jnp.inf
  # The derivative of expm1 at inf is inf, and inf times 0 is not 0.
  return jnp.where(finite, jnp.expm1(jnp.where(finite, order_two, 0)), jnp.inf)


def gaussian_total_variation_diag(
  p_mean: jax.Array, q_mean: jax.Array, scale: jax.Array
) -> jax.Array:
  """Total variation between Gaussians of one diagonal covariance.

  `erf(|d/s| / (2 sqrt 2))`, `|.|` the Euclidean norm. Different scales have no
  such form.

  Args:
    p_mean: `[..., D]`.
    q_mean: `[..., D]`.
    scale: `[..., D]`, standard deviations of both.

  Returns:
    `[...]`, in `[0, 1]`; the subgradient at equal means is 0.

  Raises:
    AssertionError: shapes differ, or no floats.

  >>> zero, one = jnp.zeros(1), jnp.ones(1)
  >>> print(f"{gaussian_total_variation_diag(zero, 2 * one, one):.4f}")
  0.6827

  Reference:
    Barsov and Ulyanov, Estimates of the proximity of Gaussian measures (1987).
  """
  m1, m2, s = _alike(p_mean=p_mean, q_mean=q_mean, scale=scale)
  squared = jnp.sum(((m1 - m2) / s) ** 2, -1)
  apart = squared > 0
  distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1)), 0)
  return jax.lax.erf(distance / math.sqrt(8))


# --- transport, kernels, overlaps --------------------------------------------


def gaussian_squared_w2_diag(
  p_mean: jax.Array, p_scale: jax.Array, q_mean: jax.Array, q_scale: jax.Array
) -> jax.Array:
  """Squared 2-Wasserstein distance of Gaussians with diagonal covariance.

  `sum d^2 + (s1 - s2)^2`.

  Args:
    p_mean: `[..., D]`.
    p_scale: `[..., D]`, standard deviations, at least 0.
    q_mean: `[..., D]`.
    q_scale: `[..., D]`, standard deviations, at least 0.

  Returns:
    `[...]`, the square of the distance.

  Raises:
    AssertionError: shapes differ, or no floats.

  >>> zero, one = jnp.zeros(2), jnp.ones(2)
  >>> print(gaussian_squared_w2_diag(zero, one, one, 3 * one))
  10.0

  Reference:
    Peyre and Cuturi, Computational Optimal Transport (1803.00567), remark 2.31.
  """
  m1, s1, m2, s2 = _alike(
    p_mean=p_mean, p_scale=p_scale, q_mean=q_mean, q_scale=q_scale
  )
  return jnp.sum((m1 - m2) ** 2 + (s1 - s2) ** 2, -1)


@jax.custom_jvp
def _polar(matrix: jax.Array) -> jax.Array:
  """The orthogonal factor of an invertible matrix `[..., D, D]`."""
  u, _, vt = jnp.linalg.svd(matrix)
  return u @ vt


@_polar.defjvp
def _polar_jvp(primals, tangents):
  # The rule of the factor has sums of singular values in its denominators, that
  # of U and V apart has differences, which may be 0.
  (matrix,), (tangent,) = primals, tangents
  u, sigma, vt = jnp.linalg.svd(matrix)
  inner = u.mT @ tangent @ vt.mT
  inner = (inner - inner.mT) / (sigma[..., :, None] + sigma[..., None, :])
  return u @ vt, u @ inner @ vt


@jax.custom_jvp
def _procrustes(l1: jax.Array, l2: jax.Array) -> jax.Array:
  """`min_Q |L1 - L2 Q|^2` over orthogonal Q."""
  return jnp.sum((l1 - l2 @ _polar(l2.mT @ l1)) ** 2, (-2, -1))


@_procrustes.defjvp
def _procrustes_jvp(primals, tangents):
  # Q minimises, so its own tangent does not count.
  (l1, l2), (dl1, dl2) = primals, tangents
  rotation = _polar(l2.mT @ l1)
  rest = l1 - l2 @ rotation
  change = 2 * jnp.sum(rest * (dl1 - dl2 @ rotation), (-2, -1))
  return jnp.sum(rest**2, (-2, -1)), change


def gaussian_squared_w2_full(
  p_mean: jax.Array, p_cov: jax.Array, q_mean: jax.Array, q_cov: jax.Array
) -> jax.Array:
  """Squared 2-Wasserstein (Frechet) distance of Gaussians.

  `d'd + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)`, computed as
  `d'd + min_Q |L1 - L2 Q|^2` over orthogonal Q, where `S = L L'`.

  Args:
    p_mean: `[..., D]`.
    p_cov: `[..., D, D]`, positive definite.
    q_mean: `[..., D]`.
    q_cov: `[..., D, D]`, positive definite.

  Returns:
    `[...]`, the square of the distance; NaN where a covariance is not positive
    definite.

  Raises:
    AssertionError: shapes do not fit, or no floats.

  >>> mean, cov = jnp.zeros(2), jnp.eye(2)
  >>> print(f"{gaussian_squared_w2_full(mean, cov, mean + 1, 4 * cov):.4f}")
  4.0000

  Reference:
    Peyre and Cuturi, Computational Optimal Transport (1803.00567), remark 2.31.
  """
  d, l1, l2 = _full(p_mean, p_cov, q_mean, q_cov)
  return jnp.sum(d**2, -1) + _procrustes(l1, l2)


def gaussian_cauchy_schwarz_diag(
  p_mean: jax.Array, p_scale: jax.Array, q_mean: jax.Array, q_scale: jax.Array
) -> jax.Array:
  """Cauchy-Schwarz divergence of Gaussians with diagonal covariance.

  `-log(<p,q> / sqrt(<p,p> <q,q>))`, which is the sum of
  `d^2 / (2 (s1^2 + s2^2)) + log((s1^2 + s2^2) / (2 s1 s2)) / 2`. Works that
  square the ratio report twice this.

  Args:
    p_mean: `[..., D]`.
    p_scale: `[..., D]`, standard deviations.
    q_mean: `[..., D]`.
    q_scale: `[..., D]`, standard deviations.

  Returns:
    `[...]`, nats.

  Raises:
    AssertionError: shapes differ, or no floats.

  >>> zero, one = jnp.zeros(1), jnp.ones(1)
  >>> print(gaussian_cauchy_schwarz_diag(zero, one, 2 * one, one))
  1.0

  Reference:
    Kampa, Hasanbelliu and Principe, Closed-form Cauchy-Schwarz PDF divergence
    for mixture of Gaussians (2011).
  """
  m1, s1, m2, s2 = _alike(
    p_mean=p_mean, p_scale=p_scale, q_mean=q_mean, q_scale=q_scale
  )
  shift = (m1 - m2) ** 2 / (s1**2 + s2**2)
  spread = jnp.log1p((s1 - s2) / s1 * ((s1 - s2) / s2) / 2)
  return jnp.sum(shift + spread, -1) / 2


def gaussian_mmd2_diag(
  p_mean: jax.Array,
  p_scale: jax.Array,
  q_mean: jax.Array,
  q_scale: jax.Array,
  *,
  bandwidth: float | jax.Array,
) -> jax.Array:
  """Squared maximum mean discrepancy for the kernel `exp(-|x-y|^2 / (2 h^2))`.

  `k(0, 2 s1^2) + k(0, 2 s2^2) - 2 k(d, s1^2 + s2^2)` with
  `k(d, v) = prod h / sqrt(h^2 + v) exp(-d^2 / (2 (h^2 + v)))`.

  Args:
    p_mean: `[..., D]`.
    p_scale: `[..., D]`, standard deviations, at least 0.
    q_mean: `[..., D]`.
    q_scale: `[..., D]`, standard deviations, at least 0.
    bandwidth: h, a scalar above 0.

  Returns:
    `[...]`, in `[0, 2]`.

  Raises:
    AssertionError: shapes differ, or no floats.
    ValueError: the bandwidth is not above 0.

  >>> zero, one = jnp.zeros(1), jnp.ones(1)
  >>> print(f"{gaussian_mmd2_diag(zero, one, one, one, bandwidth=1.):.4f}")
  0.1773

  Reference:
    Gretton et al., A Kernel Two-Sample Test (2012), lemma 6.
  """
  m1, s1, m2, s2 = _alike(
    p_mean=p_mean, p_scale=p_scale, q_mean=q_mean, q_scale=q_scale
  )
  checks.check_positive(bandwidth=bandwidth)
  u1, u2 = (s1 / bandwidth) ** 2, (s2 / bandwidth) ** 2
  log_pp, log_qq = (-jnp.sum(jnp.log1p(2 * u), -1) / 2 for u in (u1, u2))
  # With g the geometric mean of k_pp and k_qq the sum is
  # (sqrt k_pp - sqrt k_qq)^2 + 2 (g - k_pq), and k_pq is at most g.
  t = (s1 - s2) / bandwidth * ((s1 + s2) / bandwidth) / (1 + u1 + u2)
  shift = ((m1 - m2) / bandwidth) ** 2 / (1 + u1 + u2)
  overlap = jnp.sum(jnp.log1p(-(t**2)) / 2 - shift, -1) / 2
  roots = numerics.exp_diff(log_pp / 2, log_qq / 2)
  geometric = jnp.exp((log_pp + log_qq) / 2)
  return roots**2 - 2 * geometric * jnp.expm1(overlap)


def gaussian_energy_distance(
  p_mean: jax.Array, p_scale: jax.Array, q_mean: jax.Array, q_scale: jax.Array
) -> jax.Array:
  """Energy distance of Gaussians on the line, entry by entry.

  `2 E|X-Y| - E|X-X'| - E|Y-Y'|`, twice the integral of `(F - G)^2`, where for
  `Z ~ N(d, v)`, `E|Z| = sqrt(2v/pi) exp(-d^2/(2v)) + d (1 - 2 Phi(-d/sqrt v))`.
  There is no such form in several dimensions.

  Args:
    p_mean: `[...]`.
    p_scale: `[...]`, standard deviations, at least 0.
    q_mean: `[...]`.
    q_scale: `[...]`, standard deviations, at least 0.

  Returns:
    `[...]`, one distance for each entry, in the unit of the means.

  Raises:
    AssertionError: shapes differ, or no floats.

  >>> print(f"{gaussian_energy_distance(*jnp.array([0., 1., 1., 1.])):.4f}")
  0.5418

  Reference:
    Szekely and Rizzo, Energy statistics (2013), section 2.
  """
  m1, s1, m2, s2 = _alike(
    p_mean=p_mean, p_scale=p_scale, q_mean=q_mean, q_scale=q_scale
  )
  # Two point masses are at the distance 2|d|.
  spread = (s1 > 0) | (s2 > 0)
  sigma = jnp.where(spread, jnp.sqrt(jnp.where(spread, s1**2 + s2**2, 1)), 1)
  d = m1 - m2
  z = d / sigma
  # Scaled differences, each at least 0, of which the first has E|Z| less its
  # value at d = 0 and the second that value less the two within the samples.
  shift = jnp.expm1(-(z**2) / 2) + z * math.sqrt(math.pi / 2) * jax.lax.erf(
    z / math.sqrt(2)
  )
  between = (s1 - s2) ** 2 / (2 * sigma + math.sqrt(2) * (s1 + s2))
  value = 2 * math.sqrt(2 / math.pi) * (sigma * shift + between)
  return jnp.where(spread, value, 2 * jnp.abs(d))
