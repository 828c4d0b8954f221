# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.stats

from jaxalign.divergences import gaussian
from tests import helpers

# Two pairs of two dimensions. The second dimension of the second pair has
# s1^2 > 2 s2^2, where the chi2 divergence and Renyi's of order 2 are infinite.
M1 = np.array([[0.3, -1.0], [0.2, 0.5]])
S1 = np.array([[0.8, 1.1], [0.6, 2.0]])
M2 = np.array([[-0.5, 0.2], [0.1, -0.4]])
S2 = np.array([[1.3, 0.9], [0.7, 1.2]])
DIAG = (M1, S1, M2, S2)
C1 = np.array([[[0.9, 0.3], [0.3, 0.8]], [[0.7, -0.2], [-0.2, 0.8]]])
C2 = np.array([[[1.3, -0.4], [-0.4, 1.1]], [[0.9, 0.1], [0.1, 0.6]]])
FULL = (M1, C1, M2, C2)
# The pair of the quoted constants, on the line.
LINE = tuple(np.array([z]) for z in (0.3, 0.8, -0.5, 1.3))

ORDERS = (0.3, 0.5, 1.0, 1.4)
BY_NAME = {
  "gaussian_kl_diag": gaussian.gaussian_kl_diag,
  **{
    f"gaussian_renyi_diag({alpha})": functools.partial(
      gaussian.gaussian_renyi_diag, alpha=alpha
    )
    for alpha in (0.3, 1.4)
  },
  "gaussian_squared_hellinger_diag": gaussian.gaussian_squared_hellinger_diag,
  "gaussian_pearson_chi2_diag": gaussian.gaussian_pearson_chi2_diag,
  "gaussian_squared_w2_diag": gaussian.gaussian_squared_w2_diag,
  "gaussian_cauchy_schwarz_diag": gaussian.gaussian_cauchy_schwarz_diag,
  "gaussian_mmd2_diag": functools.partial(
    gaussian.gaussian_mmd2_diag, bandwidth=0.7
  ),
  "gaussian_energy_distance": gaussian.gaussian_energy_distance,
}
FULL_BY_NAME = {
  "gaussian_kl_full": gaussian.gaussian_kl_full,
  **{
    f"gaussian_renyi_full({alpha})": functools.partial(
      gaussian.gaussian_renyi_full, alpha=alpha
    )
    for alpha in (0.3, 1.4)
  },
  "gaussian_squared_w2_full": gaussian.gaussian_squared_w2_full,
}


def plain(name, m1, s1, m2, s2, alpha=2.0, h=0.7):
  """The textbook formulas in one dimension, as they are printed."""
  m1, s1, m2, s2 = (np.asarray(z, np.float64) for z in (m1, s1, m2, s2))
  d, v = m1 - m2, alpha * s2**2 + (1 - alpha) * s1**2

  def renyi():
    spread = np.log(s2 / s1) + np.log(s2**2 / v) / (2 * (alpha - 1))
    return spread + alpha * d**2 / (2 * v)

  def kernel(d, v):
    return h / np.sqrt(h**2 + v) * np.exp(-(d**2) / (2 * (h**2 + v)))

  def mean_abs(d, v):
    away = d * (1 - 2 * scipy.stats.norm.cdf(-d / np.sqrt(v)))
    return np.sqrt(2 * v / np.pi) * np.exp(-(d**2) / (2 * v)) + away

  if name == "kl":
    return np.log(s2 / s1) + (s1**2 + d**2) / (2 * s2**2) - 0.5
  if name == "renyi":
    return renyi()
  if name == "hellinger":
    root = np.sqrt(2 * s1 * s2 / (s1**2 + s2**2))
    return 1 - root * np.exp(-(d**2) / (4 * (s1**2 + s2**2)))
  if name == "cauchy_schwarz":
    both = s1**2 + s2**2
    return d**2 / (2 * both) + np.log(both / (2 * s1 * s2)) / 2
  if name == "mmd2":
    own = kernel(0, 2 * s1**2) + kernel(0, 2 * s2**2)
    return own - 2 * kernel(d, s1**2 + s2**2)
  own = mean_abs(0, 2 * s1**2) + mean_abs(0, 2 * s2**2)
  return 2 * mean_abs(d, s1**2 + s2**2) - own


@pytest.fixture(scope="module")
def grid():
  """A trapezoid rule: exact to rounding for functions that decay like these."""
  line = np.linspace(-16, 16, 641)
  points = np.stack(np.meshgrid(line, line, indexing="ij"), -1)
  return points, (line[1] - line[0]) ** 2


def integrals(grid, m1, c1, m2, c2):
  points, cell = grid
  a = scipy.stats.multivariate_normal(m1, c1).logpdf(points)
  b = scipy.stats.multivariate_normal(m2, c2).logpdf(points)
  integral = lambda log_f: np.exp(log_f).sum() * cell
  renyi = [
    np.log(integral(alpha * a + (1 - alpha) * b)) / (alpha - 1)
    for alpha in ORDERS
    if alpha != 1
  ]
  overlap = integral(a + b) / np.sqrt(integral(2 * a) * integral(2 * b))
  return {
    "kl": (np.exp(a) * (a - b)).sum() * cell,
    "renyi": [*renyi[:2], (np.exp(a) * (a - b)).sum() * cell, *renyi[2:]],
    "hellinger": 1 - integral((a + b) / 2),
    "total_variation": np.abs(np.exp(a) - np.exp(b)).sum() * cell / 2,
    "chi2": integral(2 * a - b) - 1,
    "cauchy_schwarz": -np.log(overlap),
  }


# --- exact -------------------------------------------------------------------


def test_diag_against_quadrature(grid):
  args = [z[0] for z in DIAG]
  m1, s1, m2, s2 = args
  exact = integrals(grid, m1, np.diag(s1**2), m2, np.diag(s2**2))
  close = functools.partial(helpers.assert_close, rtol=1e-10)
  close(gaussian.gaussian_kl_diag(*args), exact["kl"])
  for alpha, expected in zip(ORDERS, exact["renyi"], strict=True):
    close(gaussian.gaussian_renyi_diag(*args, alpha=alpha), expected)
  close(gaussian.gaussian_squared_hellinger_diag(*args), exact["hellinger"])
  close(gaussian.gaussian_pearson_chi2_diag(*args), exact["chi2"])
  close(gaussian.gaussian_cauchy_schwarz_diag(*args), exact["cauchy_schwarz"])
  equal = integrals(grid, m1, np.diag(s1**2), m2, np.diag(s1**2))
  # |p - q| has a kink: the rule's error there is of second order in the step.
  helpers.assert_close(
    gaussian.gaussian_total_variation_diag(m1, m2, s1),
    equal["total_variation"],
    rtol=1e-3,
  )


def test_full_against_quadrature(grid):
  args = [z[0] for z in FULL]
  exact = integrals(grid, *args)
  helpers.assert_close(gaussian.gaussian_kl_full(*args), exact["kl"])
  for alpha, expected in zip(ORDERS, exact["renyi"], strict=True):
    value = gaussian.gaussian_renyi_full(*args, alpha=alpha)
    helpers.assert_close(value, expected)
  order_half = gaussian.gaussian_renyi_full(*args, alpha=0.5)
  helpers.assert_close(-np.expm1(-order_half / 2), exact["hellinger"])
  order_two = gaussian.gaussian_renyi_full(*args, alpha=2.0)
  helpers.assert_close(np.expm1(order_two), exact["chi2"], rtol=1e-9)


def test_mmd2_against_quadrature(grid):
  args = [z[0] for z in DIAG]
  m1, s1, m2, s2 = args
  points, cell = grid

  def mean_kernel(d, v):
    density = scipy.stats.multivariate_normal(d, np.diag(v)).pdf(points)
    kernel = np.exp(-(points**2).sum(-1) / (2 * 0.7**2))
    return (density * kernel).sum() * cell

  own = mean_kernel(0 * m1, 2 * s1**2) + mean_kernel(0 * m1, 2 * s2**2)
  expected = own - 2 * mean_kernel(m1 - m2, s1**2 + s2**2)
  value = gaussian.gaussian_mmd2_diag(*args, bandwidth=0.7)
  helpers.assert_close(value, expected)


def test_published_constants():
  # Compared at half a unit of the last printed digit.
  value = gaussian.gaussian_mmd2_diag(*LINE, bandwidth=0.7)
  helpers.assert_close(value, 0.137727084732995, rtol=0, atol=5e-16)
  value = gaussian.gaussian_energy_distance(*LINE)
  # As printed it is a sum of doubles near 3, each known to 4e-16 only.
  helpers.assert_close(value, [0.3933228135005904], rtol=0, atol=1e-15)


def test_energy_distance_is_twice_the_cramer_distance():
  cdf = scipy.stats.norm.cdf
  for m1, s1, m2, s2 in np.stack(DIAG, -1).reshape(-1, 4):
    square = lambda x, a=(m1, s1), b=(m2, s2): (cdf(x, *a) - cdf(x, *b)) ** 2
    exact, _ = scipy.integrate.quad(square, -20, 20, epsabs=1e-13, limit=200)
    value = gaussian.gaussian_energy_distance(m1, s1, m2, s2)
    helpers.assert_close(value, 2 * exact, rtol=1e-9)


def test_total_variation_on_the_line_against_quadrature():
  m1, s, m2 = 0.3, 0.8, -0.5
  pdf = scipy.stats.norm.pdf
  # The densities cross half way between the means, and only there.
  upper, _ = scipy.integrate.quad(
    lambda x: pdf(x, m1, s) - pdf(x, m2, s), (m1 + m2) / 2, 20
  )
  value = gaussian.gaussian_total_variation_diag(
    *(jnp.array([z]) for z in (m1, m2, s))
  )
  helpers.assert_close(value, upper)


def test_squared_w2():
  m1, c1, m2, c2 = (z[0] for z in FULL)
  root = scipy.linalg.sqrtm(c1)
  cross = scipy.linalg.sqrtm(root @ c2 @ root).real
  expected = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * cross)
  value = gaussian.gaussian_squared_w2_full(m1, c1, m2, c2)
  helpers.assert_close(value, expected, rtol=1e-9)
  # On the line: the mean squared difference of quantiles.
  quantile = scipy.stats.norm.ppf
  difference = lambda u: (quantile(u, 0.3, 0.8) - quantile(u, -0.5, 1.3)) ** 2
  exact, _ = scipy.integrate.quad(difference, 0, 1, limit=200)
  helpers.assert_close(
    gaussian.gaussian_squared_w2_diag(*LINE), exact, rtol=1e-7
  )


def test_plain_formulas_on_the_line():
  args = [z.reshape(-1, 1) for z in DIAG]
  pairs = {
    "kl": gaussian.gaussian_kl_diag,
    "hellinger": gaussian.gaussian_squared_hellinger_diag,
    "cauchy_schwarz": gaussian.gaussian_cauchy_schwarz_diag,
    "mmd2": functools.partial(gaussian.gaussian_mmd2_diag, bandwidth=0.7),
    "energy": gaussian.gaussian_energy_distance,
  }
  for name, fn in pairs.items():
    expected = plain(name, *args)
    helpers.assert_close(np.reshape(fn(*args), -1), expected[..., 0])
  for alpha in (0.01, 0.3, 0.7, 1.3):
    value = gaussian.gaussian_renyi_diag(*args, alpha=alpha)
    helpers.assert_close(value, plain("renyi", *args, alpha=alpha)[..., 0])


# --- identities --------------------------------------------------------------


def test_renyi_identities():
  renyi = functools.partial(gaussian.gaussian_renyi_diag, *DIAG)
  hellinger = gaussian.gaussian_squared_hellinger_diag(*DIAG)
  helpers.assert_close(renyi(alpha=0.5), -2 * np.log(1 - hellinger))
  chi2 = gaussian.gaussian_pearson_chi2_diag(*DIAG)
  helpers.assert_close(renyi(alpha=2.0)[0], np.log1p(chi2[0]))
  assert chi2[1] == jnp.inf
  swapped = gaussian.gaussian_renyi_diag(M2, S2, M1, S1, alpha=0.2)
  helpers.assert_close(renyi(alpha=0.8), 4 * swapped)
  # Additive on products; 1 - H2 is multiplicative.
  single = [z[..., None] for z in DIAG]
  helpers.assert_close(
    gaussian.gaussian_renyi_diag(*single, alpha=1.4).sum(-1), renyi(alpha=1.4)
  )
  parts = gaussian.gaussian_squared_hellinger_diag(*single)
  helpers.assert_close(1 - hellinger, np.prod(1 - parts, -1))
  values = np.stack([renyi(alpha=a) for a in (0.0, 0.2, 0.6, 1.0, 1.3, 3.0)])
  assert np.all(values[0] == 0) and np.all(np.diff(values[:, 0]) > 0)
  assert values[-1, 1] == np.inf


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("gap", [1e-4, 1e-9, 1e-14])
def test_renyi_is_continuous_at_kl(side, gap):
  alpha = 1 + side * gap
  # |R_al - KL| is about |al - 1| Var_P(log p/q) / 2, with a variance below 6.
  bound = {"rtol": 0, "atol": 3 * gap + 1e-14}
  helpers.assert_close(
    gaussian.gaussian_renyi_diag(*DIAG, alpha=alpha),
    gaussian.gaussian_kl_diag(*DIAG),
    **bound,
  )
  helpers.assert_close(
    gaussian.gaussian_renyi_full(*FULL, alpha=alpha),
    gaussian.gaussian_kl_full(*FULL),
    **bound,
  )


def test_full_of_diagonal_covariances_is_diag():
  covs = [np.vectorize(np.diag, signature="(d)->(d,d)")(s**2) for s in (S1, S2)]
  full = (M1, covs[0], M2, covs[1])
  helpers.assert_close(
    gaussian.gaussian_kl_full(*full), gaussian.gaussian_kl_diag(*DIAG)
  )
  helpers.assert_close(
    gaussian.gaussian_squared_w2_full(*full),
    gaussian.gaussian_squared_w2_diag(*DIAG),
  )
  for alpha in (0.0, 0.3, 1.4, 2.0):  # the last is infinite for the second pair
    helpers.assert_close(
      gaussian.gaussian_renyi_full(*full, alpha=alpha),
      gaussian.gaussian_renyi_diag(*DIAG, alpha=alpha),
    )


@pytest.mark.parametrize("name", FULL_BY_NAME)
def test_full_invariances(name):
  fn = FULL_BY_NAME[name]
  value = fn(*FULL)
  # A rotation and a shift change nothing; KL and Renyi bear any linear map.
  turn = scipy.stats.ortho_group.rvs(2, random_state=0)
  if "w2" not in name:
    turn = turn @ np.array([[2.0, 0.7], [0.0, 0.3]])
  moved = [
    z @ turn.T + 3 if z.ndim == 2 else turn @ z @ turn.T
    for z in map(np.asarray, FULL)
  ]
  helpers.assert_close(fn(*moved), value)


def test_permutation_of_dimensions():
  for name, fn in BY_NAME.items():
    flipped = fn(*(z[..., ::-1] for z in DIAG))
    value = fn(*DIAG)
    if name == "gaussian_energy_distance":
      value = value[..., ::-1]
    helpers.assert_close(flipped, value)
  helpers.assert_close(
    gaussian.gaussian_total_variation_diag(
      M1[..., ::-1], M2[..., ::-1], S1[..., ::-1]
    ),
    gaussian.gaussian_total_variation_diag(M1, M2, S1),
  )


def test_symmetric_ones_are_symmetric():
  swap = lambda z: (*z[2:], *z[:2])
  for name in ("hellinger", "w2", "cauchy_schwarz", "mmd2", "energy"):
    for full, fn in {**BY_NAME, **FULL_BY_NAME}.items():
      if name in full:
        args = FULL if full.endswith("full") else DIAG
        helpers.assert_close(fn(*args), fn(*swap(args)))


# --- gradients ---------------------------------------------------------------


@pytest.mark.parametrize("name", BY_NAME)
def test_diag_gradients(name):
  fn = jax.jit(BY_NAME[name])
  helpers.assert_gradient(lambda *z: fn(*z).sum(), *(z[0] for z in DIAG))


@pytest.mark.parametrize("name", FULL_BY_NAME)
def test_full_gradients(name):
  fn = jax.jit(FULL_BY_NAME[name])
  helpers.assert_gradient(fn, *(z[0] for z in FULL))


def test_total_variation_gradient():
  fn = jax.jit(gaussian.gaussian_total_variation_diag)
  helpers.assert_gradient(fn, M1[0], M2[0], S1[0])


@pytest.mark.parametrize("enabled", [True, False])
def test_equal_arguments_have_value_and_gradient_0(enabled):
  m, s, c = M1[0], S1[0], C1[0]

  def check(fn, *args):
    value, gradient = jax.value_and_grad(
      lambda *z: jnp.sum(fn(*z)), tuple(range(len(args)))
    )(*args)
    helpers.assert_close(value, 0.0)
    for g in gradient:
      helpers.assert_close(g, np.zeros_like(g))

  with jax.debug_nans(enabled):
    for fn in BY_NAME.values():
      check(fn, m, s, m, s)
    # The unit matrix has equal eigenvalues and equal singular values.
    for fn in FULL_BY_NAME.values():
      check(fn, m, c, m, c)
      check(fn, m, np.eye(2), m, np.eye(2))
    check(lambda a, b: gaussian.gaussian_total_variation_diag(a, b, s), m, m)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.0])
def test_hessian_at_equality_is_fisher_information(alpha):
  # Of R_al: al times the information, 1/s^2 for means and 2/s^2 for scales.
  m, s = M1[0], S1[0]
  fn = functools.partial(gaussian.gaussian_renyi_diag, alpha=alpha)
  by_mean = jax.hessian(fn)(m, s, m, s)
  by_scale = jax.hessian(fn, 1)(m, s, m, s)
  helpers.assert_close(by_mean, alpha * np.diag(s**-2))
  helpers.assert_close(by_scale, 2 * alpha * np.diag(s**-2))

  direction = np.array([[0.3, 0.5], [0.5, -0.2]])
  full = functools.partial(gaussian.gaussian_renyi_full, alpha=alpha)
  for cov in (C1[0], np.eye(2)):
    along = lambda t, cov=cov: full(m, cov + t * direction, m, cov)
    inner = np.linalg.solve(cov, direction)
    helpers.assert_close(
      jax.grad(jax.grad(along))(0.0), alpha / 2 * np.trace(inner @ inner)
    )


def test_hessian_of_squared_w2():
  # (sqrt(1 + t) - 1)^2 = t^2/4 + ... for every eigenvalue t of the direction.
  direction = np.array([[0.3, 0.5], [0.5, -0.2]])
  fn = gaussian.gaussian_squared_w2_full
  zero, one = jnp.zeros(2), jnp.eye(2)
  along = lambda t: fn(zero, one + t * direction, zero, one)
  helpers.assert_close(jax.grad(jax.grad(along))(0.0), (direction**2).sum() / 2)
  m1, c1, m2, c2 = (z[0] for z in FULL)
  slope = jax.jit(jax.grad(lambda t: fn(m1, c1 + t * direction, m2, c2)))
  helpers.assert_gradient(slope, np.array(0.1))


# --- edges -------------------------------------------------------------------


def test_renyi_is_infinite_with_finite_gradients_elsewhere():
  with jax.debug_nans(True):
    value, gradient = jax.value_and_grad(
      lambda *z: jnp.sum(
        jnp.where(
          jnp.array([True, False]),
          gaussian.gaussian_pearson_chi2_diag(*z),
          0,
        )
      ),
      (0, 1, 2, 3),
    )(*DIAG)
    alone = jax.grad(gaussian.gaussian_pearson_chi2_diag, (0, 1, 2, 3))(
      *(z[0] for z in DIAG)
    )
    infinite = jax.grad(gaussian.gaussian_pearson_chi2_diag, (0, 1, 2, 3))(
      *(z[1] for z in DIAG)
    )
    covs = [jnp.diag(z[1] ** 2) for z in (S1, S2)]
    full, slope = jax.value_and_grad(
      gaussian.gaussian_renyi_full, (0, 1, 2, 3)
    )(M1[1], covs[0], M2[1], covs[1], alpha=2.0)
  assert np.isfinite(value) and full == jnp.inf
  for g, a, i, f in zip(gradient, alone, infinite, slope, strict=True):
    helpers.assert_close(g[0], a)
    assert np.all(g[1] == 0) and np.all(i == 0) and np.all(f == 0)


def test_renyi_is_infinite_from_variance_0_on():
  # v = 9/8 - 9 (9/8 - 1) = 0 exactly.
  zero, one = jnp.zeros(1), jnp.ones(1)
  renyi = lambda s: gaussian.gaussian_renyi_diag(
    zero, s * one, zero, one, alpha=1.125
  )
  assert renyi(3.0) == jnp.inf and renyi(3.1) == jnp.inf
  expected = plain("renyi", 0, 2.99, 0, 1, alpha=1.125)
  helpers.assert_close(renyi(2.99), expected, rtol=1e-9)


def test_point_masses():
  m = jnp.array([0.5, 0.5, -1.0])
  zero = jnp.zeros(3)
  with jax.debug_nans(True):
    for spread in (zero, jnp.array([0.0, 0.7, 0.0])):
      value, gradient = jax.value_and_grad(
        lambda *z: jnp.sum(gaussian.gaussian_energy_distance(*z)), (0, 1, 2, 3)
      )(m, zero, jnp.array([0.5, 0.2, 1.0]), spread)
      assert np.isfinite(value) and np.all(np.isfinite(gradient))
    both = gaussian.gaussian_energy_distance(m, zero, zero, zero)
    helpers.assert_close(both, 2 * jnp.abs(m))
    kernel = jnp.exp(-jnp.sum(m**2) / (2 * 0.7**2))
    helpers.assert_close(
      gaussian.gaussian_mmd2_diag(m, zero, zero, zero, bandwidth=0.7),
      2 - 2 * kernel,
    )
    helpers.assert_close(
      gaussian.gaussian_squared_w2_diag(m, zero, zero, zero), jnp.sum(m**2)
    )
  # E|Z - m| less half of E|Z - Z'|, by the formula with one scale 0.
  one_sided = gaussian.gaussian_energy_distance(
    *jnp.array([0.5, 0.0, 0.2, 0.7])
  )
  exact, _ = scipy.integrate.quad(
    lambda x: (scipy.stats.norm.cdf(x, 0.2, 0.7) - (x >= 0.5)) ** 2,
    -10,
    10,
    points=[0.5],
  )
  helpers.assert_close(one_sided, 2 * exact, rtol=1e-8)
  point = gaussian.gaussian_kl_diag(m, zero, m, jnp.ones(3))
  assert point == jnp.inf


def test_scales_of_many_magnitudes_in_float32():
  s1 = np.float32([[1e-9], [1e-3], [1.0], [30.0], [1e-6]])
  s2 = np.float32([[1.0], [2e3], [1e-6], [40.0], [1e-9]])
  zero = np.zeros_like(s1)
  args = (zero, s1, zero, s2)
  # Terms of the size of log(s2/s1) round to a few units of 1e-7.
  close = functools.partial(helpers.assert_close, rtol=2e-6)
  close(gaussian.gaussian_kl_diag(*args), plain("kl", *args)[..., 0])
  for alpha in (0.1, 0.5, 0.9):
    expected = plain("renyi", *args, alpha=alpha)[..., 0]
    close(gaussian.gaussian_renyi_diag(*args, alpha=alpha), expected)
  close(
    gaussian.gaussian_cauchy_schwarz_diag(*args),
    plain("cauchy_schwarz", *args)[..., 0],
  )


@pytest.mark.parametrize("name", ["kl", "renyi", "cauchy_schwarz", "mmd2"])
def test_float32_near_equality(name):
  rng = np.random.default_rng(0)
  m1, noise, s1, stretch = rng.normal(size=(4, 20)).astype(np.float32)
  s1 = np.exp(s1)
  m2, s2 = m1 + 1e-3 * noise * s1, s1 * np.exp(1e-3 * stretch)
  args = (m1, s1, m2, s2)
  fn = {
    "kl": gaussian.gaussian_kl_diag,
    "renyi": functools.partial(gaussian.gaussian_renyi_diag, alpha=1.5),
    "cauchy_schwarz": gaussian.gaussian_cauchy_schwarz_diag,
    "mmd2": functools.partial(gaussian.gaussian_mmd2_diag, bandwidth=0.7),
  }[name]
  value = fn(*(z[:, None] for z in args))
  assert value.dtype == jnp.float32
  # Differences of 1e-3 are known to 1e-4 in float32; the plain forms, whose
  # results are 1e-7 of their terms, are off by 1e-1 and more.
  helpers.assert_close(value, plain(name, *args, alpha=1.5), rtol=1e-3)


def test_float32_near_equality_of_the_others():
  zero = np.zeros(2, np.float32)
  scale = np.float32([0.7, 1.4])
  close = functools.partial(helpers.assert_close, rtol=1e-3)
  shifted = scale * np.float32(1.001)
  exact = np.sum((scale.astype(float) - shifted) ** 2)
  covs = np.diag(scale**2), np.diag(shifted**2)
  # The Cholesky factors' rounding is 1e-4 of their difference.
  close(gaussian.gaussian_squared_w2_full(zero, covs[0], zero, covs[1]), exact)
  kl = plain("kl", 0, scale, 0, shifted).sum()
  close(gaussian.gaussian_kl_full(zero, covs[0], zero, covs[1]), kl, rtol=2e-3)
  close(
    gaussian.gaussian_energy_distance(zero, scale, zero + 1e-3, shifted),
    plain("energy", 0, scale, np.float32(1e-3), shifted),
  )
  close(
    gaussian.gaussian_squared_hellinger_diag(zero, scale, zero, shifted),
    plain("hellinger", 0, scale, 0, shifted).sum(),
  )


def test_high_dimension_does_not_overflow():
  zero, one = jnp.zeros(2000, jnp.float32), jnp.ones(2000, jnp.float32)
  with jax.debug_nans(True):
    value = gaussian.gaussian_mmd2_diag(
      zero, 100 * one, zero, 0.01 * one, bandwidth=1.0
    )
  # k_qq alone is left: (1 + 2e-4)^-1000.
  helpers.assert_close(value, 1.0002**-1000.0, rtol=1e-3)


# --- transforms and errors ---------------------------------------------------


@pytest.mark.parametrize("name", BY_NAME)
def test_diag_transforms(name):
  helpers.assert_transforms(lambda *z: BY_NAME[name](*z), *DIAG)


@pytest.mark.parametrize("name", FULL_BY_NAME)
def test_full_transforms(name):
  helpers.assert_transforms(lambda *z: FULL_BY_NAME[name](*z), *FULL)


def test_total_variation_transforms():
  helpers.assert_transforms(gaussian.gaussian_total_variation_diag, M1, M2, S1)


def test_batches_are_rows():
  for fn, args in (
    (gaussian.gaussian_kl_full, FULL),
    (functools.partial(gaussian.gaussian_renyi_full, alpha=1.4), FULL),
    (gaussian.gaussian_squared_w2_full, FULL),
  ):
    rows = jnp.stack([fn(*(z[i] for z in args)) for i in range(2)])
    helpers.assert_close(fn(*args), rows)


def test_bfloat16_computes_in_float32():
  low = [jnp.asarray(z, jnp.bfloat16) for z in DIAG]
  high = [z.astype(jnp.float32) for z in low]
  value = gaussian.gaussian_kl_diag(*low)
  assert value.dtype == jnp.float32
  helpers.assert_close(value, gaussian.gaussian_kl_diag(*high), rtol=0)


def test_errors():
  with pytest.raises(AssertionError, match=r"p_mean \(2, 2\).*q_scale \(2,\)"):
    gaussian.gaussian_kl_diag(M1, S1, M2, S2[0])
  with pytest.raises(AssertionError, match="need floats"):
    gaussian.gaussian_kl_diag(*np.ones((4, 2), int))
  with pytest.raises(AssertionError, match=r"need covariances .* \(2, 2\)"):
    gaussian.gaussian_kl_full(M1, C1[0], M2, C2[0])
  with pytest.raises(AssertionError, match=r"p_cov .* q_cov"):
    gaussian.gaussian_squared_w2_full(M1, C1, M2, C2[0])
  for alpha in (-0.1, float("inf"), float("nan")):
    message = f"alpha must be at least 0 and finite, was {alpha}"
    with pytest.raises(ValueError, match=message):
      gaussian.gaussian_renyi_diag(*DIAG, alpha=alpha)
    with pytest.raises(ValueError, match=message):
      gaussian.gaussian_renyi_full(*FULL, alpha=alpha)
  with pytest.raises(ValueError, match="bandwidth must be above 0, was 0"):
    gaussian.gaussian_mmd2_diag(*DIAG, bandwidth=0.0)
