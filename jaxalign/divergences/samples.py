# SPDX-License-Identifier: Apache-2.0
"""Divergences between point clouds, `[..., N, D]` and `[..., M, D]`.

The last axis is the event, the one before it the sample: both are reduced,
leading axes are batch. Distances are formed from differences, not from inner
products, so that clouds far from the origin keep their accuracy; the gradient
of a distance that is 0 is 0.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = (
  "COSTS",
  "SinkhornResult",
  "cauchy_schwarz_samples",
  "energy_distance",
  "gaussian_kernel",
  "knn_renyi",
  "mmd2",
  "sinkhorn_divergence",
)

COSTS = ("squared_euclidean", "euclidean")

Kernel = Callable[[jax.Array, jax.Array], jax.Array]


def _clouds(**clouds: jax.Array) -> list[jax.Array]:
  """Checks that clouds agree in all but their numbers of points."""
  shapes = [x.shape for x in clouds.values()]
  alike = len({(*shape[:-2], shape[-1:]) for shape in shapes}) == 1
  if not alike or min(map(len, shapes)) < 2 or 0 in [s[-2] for s in shapes]:
    named = ", ".join(f"{name} {x.shape}" for name, x in clouds.items())
    raise AssertionError(f"need clouds [..., N, D] of one D, were {named}")
  checks.check_float(**clouds)
  return [numerics.as_float(array) for array in clouds.values()]


# Fused, so that the differences [..., N, M, D] are never stored.
@jax.jit
def _squared_distances(x: jax.Array, y: jax.Array) -> jax.Array:
  return jnp.sum((x[..., :, None, :] - y[..., None, :, :]) ** 2, -1)


def _distances(x: jax.Array, y: jax.Array) -> jax.Array:
  squared = _squared_distances(x, y)
  apart = squared > 0
  return jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1)), 0)


# --- kernels and energy ------------------------------------------------------


def gaussian_kernel(
  x: jax.Array, y: jax.Array, *, bandwidth: float | jax.Array
) -> jax.Array:
  """Gram matrix of the Gaussian kernel, `exp(-|x - y|^2 / (2 h^2))`.

  Args:
    x: `[..., N, D]`.
    y: `[..., M, D]`.
    bandwidth: h, a scalar above 0, in the unit of the points.

  Returns:
    `[..., N, M]`, in `[0, 1]`.

  Raises:
    AssertionError: shapes do not fit, or no floats.
    ValueError: the bandwidth is not above 0.

  >>> x, y = jnp.zeros((1, 2)), jnp.ones((1, 2))
  >>> print(f"{gaussian_kernel(x, y, bandwidth=1.)[0, 0]:.4f}")
  0.3679

  Reference:
    Gretton et al., A Kernel Two-Sample Test (2012), section 2.
  """
  x, y = _clouds(x=x, y=y)
  checks.check_positive(bandwidth=bandwidth)
  return jnp.exp(-_squared_distances(x / bandwidth, y / bandwidth) / 2)


def _mean_off_diagonal(gram: jax.Array) -> jax.Array:
  size = gram.shape[-1]
  kept = jnp.where(jnp.eye(size, dtype=bool), 0, gram)
  return jnp.sum(kept, (-2, -1)) / (size * (size - 1))


def mmd2(
  x: jax.Array, y: jax.Array, kernel: Kernel, *, unbiased: bool = True
) -> jax.Array:
  """Squared maximum mean discrepancy of two samples.

  `mean k(x, x') + mean k(y, y') - 2 mean k(x, y)`. The unbiased U-statistic
  leaves out the pairs of a point with itself and may be negative; the biased
  V-statistic keeps them and is the discrepancy of the empirical distributions.

  Args:
    x: `[..., N, D]`.
    y: `[..., M, D]`.
    kernel: maps `[..., N, D]` and `[..., M, D]` to the Gram matrix
      `[..., N, M]`; such as `functools.partial(gaussian_kernel, bandwidth=1.)`.
    unbiased: whether to take the U-statistic.

  Returns:
    `[...]`.

  Raises:
    AssertionError: shapes do not fit, or no floats.
    ValueError: unbiased with fewer than 2 points in a cloud.

  >>> x, y = jnp.array([[0.], [2.]]), jnp.array([[1.], [3.]])
  >>> print(mmd2(x, y, lambda a, b: a @ b.mT, unbiased=False))
  1.0

  Reference:
    Gretton et al., A Kernel Two-Sample Test (2012), lemma 6 and equation 5.
  """
  x, y = _clouds(x=x, y=y)
  sizes = (x.shape[-2], y.shape[-2])
  if unbiased and min(sizes) < 2:
    raise ValueError(
      f"unbiased needs at least 2 points in x and y, was {sizes}"
    )
  within = _mean_off_diagonal if unbiased else lambda g: jnp.mean(g, (-2, -1))
  between = jnp.mean(kernel(x, y), (-2, -1))
  return within(kernel(x, x)) + within(kernel(y, y)) - 2 * between


def energy_distance(x: jax.Array, y: jax.Array) -> jax.Array:
  """Energy distance of the empirical distributions of two samples.

  `2 mean |x - y| - mean |x - x'| - mean |y - y'|`, pairs of a point with itself
  included: the biased `mmd2` of the kernel `-|x - y|`. On the line it is twice
  the integral of `(F - G)^2`. Some works report its square root.

  Args:
    x: `[..., N, D]`.
    y: `[..., M, D]`.

  Returns:
    `[...]`, in the unit of the points.

  Raises:
    AssertionError: shapes do not fit, or no floats.

  >>> x, y = jnp.array([[0.], [2.]]), jnp.array([[1.]])
  >>> print(energy_distance(x, y))
  1.0

  Reference:
    Szekely and Rizzo, Energy statistics (2013), section 2.
  """
  return mmd2(x, y, lambda a, b: -_distances(a, b), unbiased=False)


# --- optimal transport -------------------------------------------------------


class SinkhornResult(NamedTuple):
  """A Sinkhorn divergence and whether its three problems were solved.

  Attributes:
    value: `[...]`, in the unit of the cost.
    converged: bool `[...]`; where false, `value` is that of the last iterate.
  """

  value: jax.Array
  converged: jax.Array


def sinkhorn_divergence(
  x: jax.Array,
  y: jax.Array,
  *,
  epsilon: float,
  cost: str = "squared_euclidean",
  threshold: float = 1e-3,
  max_iterations: int = 2000,
) -> SinkhornResult:
  """Sinkhorn divergence: debiased entropic optimal transport.

  `S = OT(x, y) - OT(x, x)/2 - OT(y, y)/2`, where OT is the optimal value of
  `<P, C> + epsilon KL(P || a b')` over couplings P of uniform weights a, b. As
  epsilon goes to 0, S tends to the transport cost (the squared 2-Wasserstein
  distance for the squared Euclidean cost); as it grows, to the squared distance
  of the means, or to half the energy distance for the Euclidean cost. Solved by
  ott-jax. Gradients are taken at fixed potentials: at the optimum this is exact
  for first derivatives, not for second ones.

  Args:
    x: `[..., N, D]`.
    y: `[..., M, D]`.
    epsilon: strength of the entropy, above 0, in the unit of the cost.
    cost: `"squared_euclidean"` or `"euclidean"`.
    threshold: largest L1 error of the marginals at which iterating stops.
    max_iterations: most iterations; small epsilons need more.

  Returns:
    `SinkhornResult` of value `[...]` and converged `[...]`.

  Raises:
    AssertionError: shapes do not fit, or no floats.
    ValueError: an option is not above 0, or the cost is unknown.
    ImportError: ott-jax is not installed.

  >>> x, y = jnp.zeros((2, 1)), jnp.ones((2, 1))
  >>> result = sinkhorn_divergence(x, y, epsilon=.1)
  >>> print(f"{result.value:.4f} {result.converged}")
  1.0000 True

  Reference:
    Feydy et al., Interpolating between Optimal Transport and MMD using Sinkhorn
    Divergences (1810.08278), equation 3 and theorem 1.
  """
  x, y = _clouds(x=x, y=y)
  checks.check_choice("cost", cost, COSTS)
  checks.check_positive(
    epsilon=epsilon, threshold=threshold, max_iterations=max_iterations
  )
  try:
    from ott.geometry import costs
    from ott.tools import sinkhorn_divergence as ott_sinkhorn
  except ImportError as error:
    raise ImportError(
      'sinkhorn_divergence needs ott-jax: pip install "jaxalign[ot]"'
    ) from error
  cost_fn = costs.SqEuclidean() if cost == COSTS[0] else costs.Euclidean()

  def solve(x, y):
    # The cost does not change when both move; ott expands squares, which costs
    # digits far from the origin.
    origin = jax.lax.stop_gradient(jnp.mean(y, 0))
    # Its default weights have the default type, whatever that of the points.
    a, b = (jnp.full(len(z), 1 / len(z), z.dtype) for z in (x, y))
    value, out = ott_sinkhorn.sinkdiv(
      x - origin,
      y - origin,
      cost_fn=cost_fn,
      epsilon=epsilon,
      a=a,
      b=b,
      solve_kwargs={"threshold": threshold, "max_iterations": max_iterations},
    )
    return SinkhornResult(value, jnp.stack(out.converged).all())

  for _ in x.shape[:-2]:
    solve = jax.vmap(solve)
  return solve(x, y)


# --- density estimates -------------------------------------------------------


def _log_overlap(
  clouds: Sequence[jax.Array],
  log_weights: Sequence[jax.Array],
  scale: float | jax.Array,
) -> jax.Array:
  """`log sum_i prod w_i int prod_k N(z; x_k[i_k], s^2) dz` up to a constant.

  The constant depends on the number of clouds only. The product of m Gaussians
  integrates to `exp(-sum_k |x_k - mean x|^2 / (2 s^2))`, a sum of squares that
  is the one over pairs divided by m.
  """
  count = len(clouds)
  lead = clouds[0].ndim - 2

  def spread(x, *axes):
    # To the axes of the given clouds among all: [..., N_1, ..., N_m].
    others = [lead + k for k in range(count) if k not in axes]
    return jnp.expand_dims(x, others)

  exponent = sum(spread(w, k) for k, w in enumerate(log_weights))
  for k in range(count):
    for j in range(k):
      squared = _squared_distances(clouds[j] / scale, clouds[k] / scale)
      exponent = exponent - spread(squared, j, k) / (2 * count)
  return jax.nn.logsumexp(exponent, tuple(range(lead, lead + count)))


def cauchy_schwarz_samples(
  *clouds: jax.Array,
  bandwidth: float | jax.Array,
  log_weights: Sequence[jax.Array] | None = None,
) -> jax.Array:
  """(Generalised) Cauchy-Schwarz divergence of Gaussian density estimates.

  `-log(int prod_k p_k / prod_k (int p_k^m)^(1/m))` of m clouds' densities
  `p_k = sum_i w_i N(x_i, h^2)`. The integrals are exact; for two clouds they
  are means of the Gaussian kernel of bandwidth `h sqrt 2`, pairs of a point
  with itself included. At least 0, by Hoelder's inequality; 0 if and only if
  the densities are proportional.

  Time and memory are the product of the m numbers of points, and the m-th power
  of each.

  Args:
    *clouds: m of at least 2 arrays, `[..., N_k, D]`.
    bandwidth: h, a scalar above 0, in the unit of the points.
    log_weights: m arrays `[..., N_k]`; they need not be normalised, since the
      scale of a density does not matter, and -inf drops a point. All equal by
      default. Every cloud needs a point that is not dropped.

  Returns:
    `[...]`, nats. Works that square the ratio of two report twice this.

  Raises:
    AssertionError: shapes do not fit, or no floats.
    ValueError: fewer than 2 clouds, another number of weights, or a bandwidth
      not above 0.

  >>> x, y = jnp.zeros((1, 1)), jnp.full((1, 1), 2.)
  >>> print(f"{cauchy_schwarz_samples(x, y, bandwidth=1.):.4f}")
  1.0000
  >>> print(f"{cauchy_schwarz_samples(x, x, y, bandwidth=1.):.4f}")
  1.3333

  Reference:
    Principe, Information Theoretic Learning (2010), chapter 2; more than two
    densities by Hoelder's inequality.
  """
  if len(clouds) < 2:
    raise ValueError(f"need at least 2 clouds, was {len(clouds)}")
  checks.check_positive(bandwidth=bandwidth)
  points = _clouds(**{f"clouds[{k}]": x for k, x in enumerate(clouds)})
  if log_weights is None:
    log_weights = [jnp.zeros(x.shape[:-1], x.dtype) for x in points]
  if len(log_weights) != len(points):
    raise ValueError(
      f"need log_weights for {len(points)} clouds, was {len(log_weights)}"
    )
  for k, (x, w) in enumerate(zip(points, log_weights, strict=True)):
    named = {f"clouds[{k}][..., 0]": x[..., 0], f"log_weights[{k}]": w}
    checks.check_same_shape(**named)
    checks.check_float(**named)
  weights = [numerics.as_float(w) for w in log_weights]
  order = len(points)
  alone = [
    _log_overlap([x] * order, [w] * order, bandwidth)
    for x, w in zip(points, weights, strict=True)
  ]
  return sum(alone) / order - _log_overlap(points, weights, bandwidth)


def knn_renyi(x: jax.Array, y: jax.Array, *, alpha: float, k: int) -> jax.Array:
  """Renyi divergence of P, sampled by x, from Q, sampled by y, by neighbours.

  Among the k nearest neighbours of `y_i` in both clouds, itself not counted,
  let `N_i` be from x and `M_i = k - N_i` from y. Then
  `R = log((M/N)^al mean_i (N_i / (M_i + 1))^al) / (al - 1)`. Its bias is
  largest for small k; its gradient is 0 wherever it exists. The distances are
  computed in blocks of rows.

  Args:
    x: `[..., N, D]`, samples of P.
    y: `[..., M, D]`, samples of Q.
    alpha: the order, above 0 and not 1.
    k: the number of neighbours, in `[1, N + M - 1]`. Points at equal distance
      count in the order x, y.

  Returns:
    `[...]`, nats; +inf where no neighbour is from x.

  Raises:
    AssertionError: shapes do not fit, or no floats.
    ValueError: alpha or k is out of its range.

  >>> x, y = jnp.array([[0.], [1.]]), jnp.array([[.1], [.9]])
  >>> print(f"{knn_renyi(x, y, alpha=.5, k=2):.4f}")
  0.6931

  Reference:
    Noshad et al., Direct Estimation of Information Divergence Using Nearest
    Neighbor Ratios (1702.05222), section II.
  """
  x, y = _clouds(x=x, y=y)
  num_x, num_y = x.shape[-2], y.shape[-2]
  if not 0 < alpha < math.inf or alpha == 1:
    raise ValueError(f"alpha must be above 0, finite and not 1, was {alpha}")
  if not 1 <= k < num_x + num_y:
    raise ValueError(f"k must be in [1, {num_x + num_y - 1}], was {k}")

  def estimate(x, y):
    both = jnp.concatenate([x, y])

    def num_from_x(i):
      squared = _squared_distances(y[i][None], both)[0]
      squared = squared.at[num_x + i].set(jnp.inf)
      return jnp.sum(jax.lax.top_k(-squared, k)[1] < num_x)

    from_x = jax.lax.map(
      num_from_x, jnp.arange(num_y), batch_size=min(num_y, 256)
    ).astype(x.dtype)
    ratios = from_x / (k - from_x + 1) * (num_y / num_x)
    mean = jnp.mean(ratios**alpha)
    return jnp.where(mean > 0, jnp.log(mean) / (alpha - 1), jnp.inf)

  for _ in x.shape[:-2]:
    estimate = jax.vmap(estimate)
  return estimate(x, y)
