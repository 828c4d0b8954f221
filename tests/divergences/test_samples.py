# SPDX-License-Identifier: Apache-2.0
import functools
import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.spatial
import scipy.special
import scipy.stats

from jaxalign.divergences import gaussian, samples
from tests import helpers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 7, 2))
Y = RNG.normal(size=(2, 5, 2)) * 1.3 + np.array([0.6, -0.4])
# Clouds of one size for assignments.
CLOUD = RNG.normal(size=(24, 2))
OTHER = RNG.normal(size=(24, 2)) * 0.7 + np.array([1.0, 0.5])

gaussian_kernel = functools.partial(samples.gaussian_kernel, bandwidth=0.7)


def tight(cost="squared_euclidean", epsilon=0.5, max_iterations=2000):
  return jax.jit(
    functools.partial(
      samples.sinkhorn_divergence,
      epsilon=epsilon,
      cost=cost,
      threshold=1e-9,
      max_iterations=max_iterations,
    )
  )


def flat(fn, **options):
  """The functions of two clouds that all tests of edges go through."""
  return lambda x, y: fn(x, y, **options)


BY_NAME = {
  "mmd2": flat(samples.mmd2, kernel=gaussian_kernel),
  "mmd2, biased": flat(samples.mmd2, kernel=gaussian_kernel, unbiased=False),
  "energy_distance": samples.energy_distance,
  "cauchy_schwarz_samples": flat(samples.cauchy_schwarz_samples, bandwidth=0.6),
  "knn_renyi": flat(samples.knn_renyi, alpha=0.5, k=3),
  "sinkhorn_divergence": flat(
    samples.sinkhorn_divergence, epsilon=0.5, threshold=1e-9
  ),
}
SMOOTH = [name for name in BY_NAME if name != "knn_renyi"]


def value_of(result):
  return getattr(result, "value", result)


# --- kernels and energy ------------------------------------------------------


def test_gaussian_kernel_against_loops():
  gram = gaussian_kernel(X, Y)
  for b, i, j in itertools.product(range(2), range(7), range(5)):
    squared = ((X[b, i] - Y[b, j]) ** 2).sum()
    helpers.assert_close(gram[b, i, j], np.exp(-squared / (2 * 0.49)))


def test_mmd2_against_loops():
  def mean(a, b, skip):
    pairs = itertools.product(range(len(a)), range(len(b)))
    values = [
      np.exp(-((a[i] - b[j]) ** 2).sum() / (2 * 0.49))
      for i, j in pairs
      if not (skip and i == j)
    ]
    return np.mean(values)

  for unbiased in (True, False):
    value = samples.mmd2(X, Y, gaussian_kernel, unbiased=unbiased)
    for b in range(2):
      x, y = X[b], Y[b]
      within = mean(x, x, unbiased) + mean(y, y, unbiased)
      helpers.assert_close(value[b], within - 2 * mean(x, y, False))
  # A linear kernel compares means.
  linear = samples.mmd2(X, Y, lambda a, b: a @ b.mT, unbiased=False)
  expected = ((X.mean(1) - Y.mean(1)) ** 2).sum(-1)
  helpers.assert_close(linear, expected)


def test_mmd2_is_unbiased(key):
  keys = jax.random.split(key)
  x = 0.3 + 0.8 * jax.random.normal(keys[0], (2000, 50, 1))
  y = -0.5 + 1.3 * jax.random.normal(keys[1], (2000, 60, 1))
  values = np.asarray(jax.jit(BY_NAME["mmd2"])(x, y))
  exact = gaussian.gaussian_mmd2_diag(
    *(jnp.array([z]) for z in (0.3, 0.8, -0.5, 1.3)), bandwidth=0.7
  )
  helpers.assert_close(exact, 0.137727084732995)
  error = values.std() / np.sqrt(2000)
  assert error < 0.0016
  # Three standard errors, and the published mean of another such run: two.
  assert abs(values.mean() - exact) < 3 * error
  assert abs(values.mean() - 0.1387) < 3 * np.sqrt(2) * 0.0014
  biased = jax.jit(BY_NAME["mmd2, biased"])(x, y)
  assert biased.mean() - exact > 5 * error


def test_unbiased_mmd2_may_be_negative_and_biased_not():
  x, y = X[:, :5], X[:, :5] + 1e-3
  assert np.all(samples.mmd2(x, y, gaussian_kernel) < 0)
  biased = samples.mmd2(x, y, gaussian_kernel, unbiased=False)
  assert np.all(biased > 0)


def test_energy_distance_against_scipy():
  value = samples.energy_distance(X[..., :1], Y[..., :1])
  for b in range(2):
    root = scipy.stats.energy_distance(X[b, :, 0], Y[b, :, 0])
    helpers.assert_close(value[b], root**2, rtol=0, atol=1e-15)


def test_energy_distance_is_mmd2_of_minus_the_distance():
  def kernel(a, b):
    return -jnp.linalg.norm(a[..., :, None, :] - b[..., None, :, :], axis=-1)

  expected = samples.mmd2(X, Y, kernel, unbiased=False)
  helpers.assert_close(samples.energy_distance(X, Y), expected)


def test_energy_distance_tends_to_the_closed_form(key):
  keys = jax.random.split(key)
  x = 0.3 + 0.8 * jax.random.normal(keys[0], (200, 100, 1))
  y = -0.5 + 1.3 * jax.random.normal(keys[1], (200, 100, 1))
  values = np.asarray(jax.jit(samples.energy_distance)(x, y))
  # The V-statistic's bias: E|X - X'| / n of each sample, whose diagonal is 0.
  bias = 2 * (0.8 + 1.3) / np.sqrt(np.pi) / 100
  error = values.std() / np.sqrt(200)
  assert abs(values.mean() - bias - 0.3933228135005904) < 3 * error


# --- optimal transport -------------------------------------------------------


def entropic_cost(cost, epsilon):
  """Sinkhorn's algorithm for uniform weights, in logarithms; the dual value."""
  n, m = cost.shape
  lse = scipy.special.logsumexp
  f, g = np.zeros(n), np.zeros(m)
  for _ in range(500):
    f = -epsilon * (lse((g - cost) / epsilon, 1) - np.log(m))
    g = -epsilon * (lse((f[:, None] - cost) / epsilon, 0) - np.log(n))
  return f.mean() + g.mean()


@pytest.mark.parametrize("cost", samples.COSTS)
def test_sinkhorn_against_iteration(cost):
  metric = "sqeuclidean" if cost == "squared_euclidean" else "euclidean"

  def transport(a, b):
    return entropic_cost(scipy.spatial.distance.cdist(a, b, metric), 0.5)

  x, y = X[0], Y[0]
  expected = transport(x, y) - transport(x, x) / 2 - transport(y, y) / 2
  result = tight(cost)(x, y)
  helpers.assert_close(result.value, expected, rtol=1e-7)
  assert result.converged


def test_sinkhorn_limits():
  squared = scipy.spatial.distance.cdist(CLOUD, OTHER, "sqeuclidean")
  means = ((CLOUD.mean(0) - OTHER.mean(0)) ** 2).sum()
  rows, columns = scipy.optimize.linear_sum_assignment(squared)
  transport = squared[rows, columns].mean()

  wide = tight(epsilon=1e4)(CLOUD, OTHER)
  # The first correction is of the order of the squared costs over epsilon.
  assert wide.converged and abs(wide.value - means) < 2e-3
  wider = tight(epsilon=1e6)(CLOUD, OTHER)
  assert abs(wider.value - means) < 0.02 * abs(wide.value - means)

  gaps = []
  for epsilon in (0.1, 0.01):
    sharp = jax.jit(
      flat(samples.sinkhorn_divergence, epsilon=epsilon, max_iterations=20000)
    )(CLOUD, OTHER)
    assert sharp.converged
    gaps.append(abs(sharp.value - transport))
  # Entropies of the plans and of the clouds themselves are at most log 24.
  assert gaps[1] < 0.01 * np.log(24) and gaps[1] < gaps[0]

  half_energy = samples.energy_distance(jnp.array(CLOUD), jnp.array(OTHER)) / 2
  flat_cost = tight("euclidean", epsilon=1e4)(CLOUD, OTHER)
  assert abs(flat_cost.value - half_energy) < 1e-3


def test_sinkhorn_is_a_divergence():
  fn = tight()
  zero = fn(CLOUD, CLOUD)
  helpers.assert_close(zero.value, 0.0, atol=1e-9)
  helpers.assert_close(
    fn(CLOUD, OTHER).value, fn(OTHER, CLOUD).value, rtol=1e-8
  )
  assert fn(CLOUD, OTHER).value > 0.1
  shifted = fn(CLOUD + 5, OTHER + 5).value
  helpers.assert_close(shifted, fn(CLOUD, OTHER).value)
  slope = jax.grad(lambda x: fn(x, CLOUD).value)(CLOUD)
  helpers.assert_close(slope, np.zeros_like(CLOUD), atol=1e-8)


def test_sinkhorn_reports_that_it_did_not_converge():
  result = samples.sinkhorn_divergence(
    CLOUD, OTHER, epsilon=1e-3, max_iterations=20
  )
  assert isinstance(result, samples.SinkhornResult)
  assert not result.converged and np.isfinite(result.value)


def test_sinkhorn_far_from_the_origin_in_float32():
  x, y = (jnp.asarray(z, jnp.float32) for z in (X[0], Y[0]))
  fn = jax.jit(flat(samples.sinkhorn_divergence, epsilon=0.5))
  # x + 1000 rounds to 3e-5; expanded squares would round to 1e-1.
  helpers.assert_close(fn(x + 1000, y + 1000).value, fn(x, y).value, rtol=2e-3)


def test_sinkhorn_without_ott(monkeypatch):
  monkeypatch.setitem(sys.modules, "ott.tools", None)
  with pytest.raises(ImportError, match=r'pip install "jaxalign\[ot\]"'):
    samples.sinkhorn_divergence(X, Y, epsilon=0.5)


# --- density estimates -------------------------------------------------------


def density(points, weights, bandwidth, z):
  return weights @ scipy.stats.norm.pdf(z, points[:, None], bandwidth)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_cauchy_schwarz_against_quadrature(count):
  rng = np.random.default_rng(1)
  clouds = [rng.normal(size=(n,)) + n / 4 for n in (3, 4, 5, 2)[:count]]
  weights = [rng.uniform(0.2, 2.0, size=c.shape) for c in clouds]
  z = np.linspace(-12, 14, 4001)  # the trapezoid rule is exact to rounding
  step = z[1] - z[0]
  for given in (None, [np.log(w) for w in weights]):
    used = [np.ones_like(w) for w in weights] if given is None else weights
    p = [density(c, w, 0.6, z) for c, w in zip(clouds, used, strict=True)]
    powers = [np.log((f**count).sum() * step) / count for f in p]
    expected = sum(powers) - np.log(np.prod(p, 0).sum() * step)
    value = jax.jit(
      functools.partial(samples.cauchy_schwarz_samples, bandwidth=0.6)
    )(*(c[:, None] for c in clouds), log_weights=given)
    helpers.assert_close(value, expected)


def test_cauchy_schwarz_of_two_is_a_ratio_of_kernel_means():
  kernel = functools.partial(samples.gaussian_kernel, bandwidth=0.6 * 2**0.5)
  mean = lambda a, b: np.log(np.mean(kernel(a, b), (-2, -1)))
  expected = -mean(X, Y) + mean(X, X) / 2 + mean(Y, Y) / 2
  value = samples.cauchy_schwarz_samples(X, Y, bandwidth=0.6)
  helpers.assert_close(value, expected)
  # Of two points it is that of two Gaussians.
  point = samples.cauchy_schwarz_samples(X[:, :1], Y[:, :1], bandwidth=0.6)
  scale = jnp.full((2, 2), 0.6)
  helpers.assert_close(
    point,
    gaussian.gaussian_cauchy_schwarz_diag(X[:, 0], scale, Y[:, 0], scale),
  )


def test_cauchy_schwarz_of_three_clouds():
  fn = jax.jit(
    lambda a, b, c, *w: samples.cauchy_schwarz_samples(
      a, b, c, bandwidth=0.6, log_weights=w or None
    )
  )
  x = jnp.array(X[0])
  helpers.assert_close(fn(x, x, x), 0.0, atol=1e-12)
  # 0 if and only if the third is where the others are.
  for shift in (1e-2, -0.3, 4.0, 40.0):
    assert fn(x, x, x + shift) > 1e-6
  assert np.isfinite(fn(x, x, x + 1000.0))
  helpers.assert_close(fn(x + 3, x + 3, x + 3), 0.0, atol=1e-12)
  y = jnp.array(RNG.normal(size=(7, 2)))
  z = jnp.array(RNG.normal(size=(7, 2)))
  value = fn(x, y, z)
  for order in itertools.permutations((x, y, z)):
    helpers.assert_close(fn(*order), value)
  helpers.assert_close(fn(x[::-1], y, z), value)
  # Rescaling one density does not matter.
  zero = jnp.zeros(7)
  helpers.assert_close(fn(x, y, z, zero, zero + np.log(17), zero - 9), value)
  doubled = fn(jnp.concatenate([x, x]), y, z)
  helpers.assert_close(doubled, value)
  # A weight of 0 is a point that is not there, wherever it is.
  with jax.debug_nans(True):
    weights = zero.at[2].set(-jnp.inf)
    keep = np.arange(7) != 2
    sliced = fn(x[keep], y, z)
    helpers.assert_close(fn(x, y, z, weights, zero, zero), sliced)
    slopes = jax.grad(fn, (0, 3))(x, y, z, weights, zero, zero)
  expected = jax.grad(fn)(x[keep], y, z)
  helpers.assert_close(slopes[0][keep], expected)
  assert np.all(slopes[0][2] == 0) and slopes[1][2] == 0


def test_cauchy_schwarz_does_not_underflow():
  x, y = jnp.zeros((1, 1), jnp.float32), jnp.full((1, 1), 100, jnp.float32)
  value = samples.cauchy_schwarz_samples(x, y, bandwidth=1.0)
  np.testing.assert_allclose(value, 2500.0, rtol=1e-6)


@pytest.mark.parametrize(("alpha", "k"), [(0.5, 3), (0.5, 20), (1.7, 8)])
def test_knn_renyi_against_a_tree(alpha, k):
  rng = np.random.default_rng(2)
  x, y = rng.normal(size=(90, 2)), rng.normal(size=(300, 2)) + 0.7
  tree = scipy.spatial.cKDTree(np.concatenate([x, y]))
  neighbours = tree.query(y, k + 1)[1][:, 1:]  # the first is the point itself
  from_x = (neighbours < 90).sum(1)
  ratios = 300 / 90 * from_x / (k - from_x + 1)
  expected = np.log(np.mean(ratios**alpha)) / (alpha - 1)
  helpers.assert_close(samples.knn_renyi(x, y, alpha=alpha, k=k), expected)


def test_knn_renyi_of_gaussians(key):
  keys = jax.random.split(key)
  # XLA:CPU selects the largest of float64 by a full sort, 20 times slower.
  x = jax.random.normal(keys[0], (4000, 2), jnp.float32)
  y = jax.random.normal(keys[1], (4000, 2), jnp.float32) + 0.7
  one, zero = jnp.ones(2), jnp.zeros(2)
  exact = gaussian.gaussian_renyi_diag(zero, one, zero + 0.7, one, alpha=0.5)
  helpers.assert_close(exact, 0.245)
  values = [samples.knn_renyi(x, y, alpha=0.5, k=k) for k in (20, 60, 120)]
  # Its standard deviation is .017, .014, .013 over 25 draws; two draws differ.
  for value, published in zip(values, (0.297, 0.263, 0.249), strict=True):
    assert abs(value - published) < 3 * 0.017 * np.sqrt(2)
  assert values[0] > values[1] > values[2]
  assert abs(values[2] - exact) < 3 * 0.013


def test_knn_renyi_edges():
  x, y = jnp.arange(4.0)[:, None], 100 + jnp.arange(5.0)[:, None]
  with jax.debug_nans(True):
    for alpha in (0.5, 2.0):
      assert samples.knn_renyi(x, y, alpha=alpha, k=2) == jnp.inf
    every = samples.knn_renyi(x, y, alpha=0.5, k=8)
    # All 4 of x and the 4 others of y, around each: ratio 5/4 * 4/5.
    helpers.assert_close(every, 0.0)
    # Repeated points: itself is left out by its index, not by its distance.
    same = samples.knn_renyi(x, x, alpha=0.5, k=1)
    helpers.assert_close(same, 0.0)
    slope = jax.grad(lambda x: samples.knn_renyi(x, y, alpha=0.5, k=6))(x)
  assert np.all(slope == 0)


# --- gradients ---------------------------------------------------------------


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients(name):
  fn = jax.jit(lambda x, y: value_of(BY_NAME[name](x, y)))
  helpers.assert_gradient(fn, X[0, :3], Y[0, :3])


def test_euclidean_sinkhorn_gradient():
  fn = tight("euclidean")
  helpers.assert_gradient(lambda x: fn(x, Y[0, :3]).value, X[0, :3])


@pytest.mark.parametrize("enabled", [True, False])
def test_coincident_points_have_finite_gradients(enabled):
  # Two clouds that share points, one of which is doubled.
  x = jnp.array(X[0]).at[1].set(X[0, 0])
  with jax.debug_nans(enabled):
    for name in ("mmd2", "mmd2, biased", "energy_distance"):
      slopes = jax.grad(jax.jit(BY_NAME[name]), (0, 1))(x, x)
      assert np.all(np.isfinite(slopes))
    for fn in (samples.energy_distance, BY_NAME["cauchy_schwarz_samples"]):
      value, slopes = jax.value_and_grad(jax.jit(fn), (0, 1))(x, x)
      helpers.assert_close(value, 0.0)
      helpers.assert_close(slopes, (jnp.zeros((7, 2)),) * 2)
    slope = jax.grad(lambda x: tight("euclidean")(x, x[::-1]).value)(x)
    assert np.all(np.isfinite(slope))


def test_gradient_at_one_shared_point():
  # The kink contributes 0, the other pairs their unit vectors.
  x, y = jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [3.0]])
  slope = jax.grad(samples.energy_distance)(x, y)
  # d/dx_0: 2/4 (0 - 1) - 2/4 (-1); d/dx_1: 2/4 (1 - 1) - 2/4 (1).
  helpers.assert_close(slope, np.array([[0.0], [-0.5]]))


# --- transforms and errors ---------------------------------------------------


@pytest.mark.parametrize("name", BY_NAME)
def test_transforms(name):
  helpers.assert_transforms(lambda x, y: BY_NAME[name](x, y), X, Y)


def test_kernel_and_weight_transforms():
  helpers.assert_transforms(lambda x, y: gaussian_kernel(x, y), X, Y)
  helpers.assert_transforms(
    lambda x, y, v, w: samples.cauchy_schwarz_samples(
      x, y, bandwidth=0.6, log_weights=(v, w)
    ),
    X,
    Y,
    X[..., 0],
    Y[..., 0],
  )


@pytest.mark.parametrize("name", BY_NAME)
def test_batches_are_rows_and_points_have_no_order(name):
  fn = jax.jit(lambda x, y: value_of(BY_NAME[name](x, y)))
  value = fn(X, Y)
  helpers.assert_close(value, jnp.stack([fn(X[i], Y[i]) for i in range(2)]))
  shuffled = fn(X[:, ::-1], Y[:, [2, 0, 1, 4, 3]])
  helpers.assert_close(shuffled, value, rtol=1e-9)


def test_far_from_the_origin_in_float32():
  x, y = (jnp.asarray(z, jnp.float32) for z in (X, Y))
  for name in ("mmd2", "energy_distance", "cauchy_schwarz_samples"):
    fn = BY_NAME[name]
    # x + 1000 rounds to 3e-5, and so do distances near 1.
    helpers.assert_close(fn(x + 1000, y + 1000), fn(x, y), rtol=0, atol=2e-4)


def test_bfloat16_computes_in_float32():
  low = [jnp.asarray(z, jnp.bfloat16) for z in (X, Y)]
  high = [z.astype(jnp.float32) for z in low]
  for name in SMOOTH:
    fn = jax.jit(lambda x, y, name=name: value_of(BY_NAME[name](x, y)))
    assert fn(*low).dtype == jnp.float32
    # Two programs: sums may be taken in another order.
    helpers.assert_close(fn(*low), fn(*high), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", BY_NAME)
def test_wrong_shapes(name):
  message = r"need clouds \[..., N, D\] of one D, were .*\(2, 7, 2\)"
  for other in (Y[..., :1], Y[0], Y[0, 0], Y[:, :0]):
    with pytest.raises(AssertionError, match=message):
      BY_NAME[name](X, other)
  with pytest.raises(AssertionError, match="need floats"):
    BY_NAME[name](np.ones((3, 2), int), np.ones((3, 2), int))


def test_wrong_options():
  sinkhorn = functools.partial(samples.sinkhorn_divergence, X, Y)
  cauchy = samples.cauchy_schwarz_samples
  for call, message in (
    (lambda: samples.mmd2(X[:, :1], Y, gaussian_kernel), "at least 2 points"),
    (lambda: samples.gaussian_kernel(X, Y, bandwidth=0.0), "bandwidth must be"),
    (lambda: sinkhorn(epsilon=0.0), "epsilon must be above 0, was 0"),
    (lambda: sinkhorn(epsilon=1.0, threshold=0.0), "threshold must be above 0"),
    (lambda: sinkhorn(epsilon=1.0, max_iterations=0), "max_iterations must be"),
    (lambda: sinkhorn(epsilon=1.0, cost="cosine"), "euclidean, squared_euclid"),
    (lambda: cauchy(X, bandwidth=1.0), "at least 2 clouds, was 1"),
    (lambda: cauchy(X, Y, bandwidth=-1.0), "bandwidth must be above 0"),
    (
      lambda: cauchy(X, Y, bandwidth=1.0, log_weights=[X[..., 0]]),
      "log_weights for 2 clouds, was 1",
    ),
    (lambda: samples.knn_renyi(X, Y, alpha=1.0, k=3), "finite and not 1"),
    (lambda: samples.knn_renyi(X, Y, alpha=0.0, k=3), "alpha must be above 0"),
    (lambda: samples.knn_renyi(X, Y, alpha=0.5, k=12), r"in \[1, 11\], was 12"),
  ):
    with pytest.raises(ValueError, match=message):
      call()
  with pytest.raises(AssertionError, match=r"log_weights\[1\] \(2, 7\)"):
    cauchy(X, Y, bandwidth=1.0, log_weights=[X[..., 0], X[..., 0]])
