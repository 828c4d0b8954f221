# SPDX-License-Identifier: Apache-2.0
"""Generators completed from f alone against the rows of the table."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.divergences import categorical, custom, generators
from tests import helpers

INF = math.inf
log = jnp.log


def _skew(u):
  a = 0.3 * u + 0.7
  return 0.3 * u * log(u) - a * log(a)


def _alpha(al):
  return lambda u: (u**al - al * u - (1 - al)) / (al * (al - 1))


# As a user would write them; the options name the row of the table.
WRITTEN = {
  "kl": (lambda u: u * log(u), {}),
  "reverse_kl": (lambda u: -log(u), {}),
  "jensen_shannon": (_skew, {"weight": 0.3}),
  "jeffreys": (lambda u: (u - 1) * log(u), {}),
  "total_variation": (lambda u: abs(u - 1) / 2, {}),
  "pearson_chi2": (lambda u: (u - 1) ** 2, {}),
  "neyman_chi2": (lambda u: (u - 1) ** 2 / u, {}),
  "squared_hellinger": (lambda u: (jnp.sqrt(u) - 1) ** 2 / 2, {}),
  "le_cam": (lambda u: (1 - u) ** 2 / (2 * (1 + u)), {}),
  "alpha(0.4)": (_alpha(0.4), {"alpha": 0.4}),
  "alpha(1.5)": (_alpha(1.5), {"alpha": 1.5}),
  "alpha(0.9)": (_alpha(0.9), {"alpha": 0.9}),
  "hockey_stick": (lambda u: jnp.maximum(u - 1.7, 0), {"gamma": 1.7}),
}
SMOOTH = [n for n in WRITTEN if n not in ("total_variation", "hockey_stick")]
U = np.geomspace(0.05, 20, 30)
P = np.array([[0.5, 0.3, 0.15, 0.05], [0.5, 0.5, 0, 0], [0.2, 0, 0.8, 0]])
Q = np.array([[0.1, 0.2, 0.3, 0.4], [0, 0.25, 0.75, 0], [0.3, 0.1, 0.6, 0]])


@pytest.fixture(scope="module")
def pairs():
  """By name: the completed generator and the row of the table."""
  return {
    name: (
      custom.custom_f_divergence(f, name=name),
      generators.f_divergence(name.split("(")[0], **options),
    )
    for name, (f, options) in WRITTEN.items()
  }


@pytest.fixture(scope="module")
def columns(pairs):
  """Columns of both and their slopes, in one compiled call."""
  with np.errstate(divide="ignore"):
    log_p, log_q = np.log(P), np.log(Q)

  def evaluate(div, row, smooth):
    out = {
      "f": div.f(U),
      "f_prime": div.f_prime(U),
      "f_second": div.f_second(U),
    }
    if smooth:
      t = row.f_prime(jnp.array(U))
      out["inverse"] = div.f_prime_inverse(t)
      out["conjugate"] = div.conjugate(t)
      out["inverse_slope"] = jax.vmap(jax.grad(div.f_prime_inverse))(t)
      out["conjugate_slope"] = jax.vmap(jax.grad(div.conjugate))(t)

    def divergence(p, q):
      return categorical.categorical_f_divergence(div, p, q)

    out["divergence"] = divergence(log_p, log_q)
    out["slopes"] = jax.grad(lambda p, q: divergence(p, q).sum(), (0, 1))(
      log_p, log_q
    )
    return out

  with jax.enable_x64(True):
    return jax.jit(
      lambda: {
        name: [evaluate(div, row, name in SMOOTH) for div in (mine, row)]
        for name, (mine, row) in pairs.items()
      }
    )()


@pytest.mark.parametrize("name", WRITTEN)
def test_limits_equal_the_table(name, pairs):
  mine, row = pairs[name]
  for field in ("f_zero", "f_prime_one", "f_prime_inf", "conjugate_sup"):
    # Read off in floating point, where f(1e-150) is f(0) up to cancellation;
    # alpha = 0.9 is within 1e-15 10 of its limit there.
    value, expected = getattr(mine, field), getattr(row, field)
    if name == "total_variation" and field == "f_prime_one":
      assert -0.5 <= value <= 0.5  # any subgradient
    else:
      helpers.assert_close(value, expected, atol=1e-13)
  assert mine.name == name
  assert mine.f(jnp.zeros(())) == mine.f_zero


@pytest.mark.parametrize("name", WRITTEN)
def test_columns_equal_the_table(name, columns):
  mine, row = columns[name]
  for column in ("f", "f_prime", "f_second"):
    helpers.assert_close(mine[column], row[column], atol=1e-13)
  if name in SMOOTH:
    helpers.assert_close(mine["inverse"], U)
    # u f''(u) is as small as 1/8000 (Neyman): rounding of t counts as much.
    for column in ("inverse", "conjugate", "inverse_slope", "conjugate_slope"):
      helpers.assert_close(mine[column], row[column], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", WRITTEN)
def test_categorical_values_and_slopes_equal_the_table(name, columns):
  mine, row = columns[name]
  helpers.assert_close(mine["divergence"], row["divergence"], atol=1e-14)
  helpers.assert_close(mine["slopes"], row["slopes"], atol=1e-13)


def test_beyond_the_ends(pairs):
  """f* is -f(0) below f'(0) and +inf from f'(inf) on; the inverse 0 and inf."""
  names = ("pearson_chi2", "le_cam", "alpha(1.5)", "squared_hellinger")

  @jax.jit
  def ends():
    out = {}
    for name in names:
      mine = pairs[name][0]
      t = jnp.array([-30.0, min(mine.f_prime_inf, 1e300)])
      slopes = jax.vmap(jax.grad(mine.conjugate))(t)
      out[name] = mine.conjugate(t), mine.f_prime_inverse(t), slopes
    return out

  bounded = ("le_cam", "squared_hellinger")
  for name, (conjugate, inverse, slopes) in ends().items():
    assert not np.isnan(slopes).any()
    if name != "squared_hellinger":  # whose f'(0) is -inf
      assert conjugate[0] == -pairs[name][1].f_zero
      assert inverse[0] == 0 and slopes[0] == 0
    if name in bounded:
      assert conjugate[1] == INF and inverse[1] == INF


def test_conjugate_of_a_kink(pairs):
  t = jnp.linspace(-2, 0.45, 9)
  for name in ("total_variation", "hockey_stick"):
    mine, row = pairs[name]
    helpers.assert_close(jax.jit(mine.conjugate)(t), row.conjugate(t))


def test_activation(pairs):
  v = jnp.linspace(-5, 5, 11)
  assert pairs["kl"][0].activation(v) is v
  for name in ("reverse_kl", "le_cam", "jensen_shannon"):
    div = pairs[name][0]
    activation = div.activation(v)
    expected = div.f_prime_inf - np.log1p(np.exp(-np.asarray(v)))
    helpers.assert_close(activation, expected, atol=1e-14)
    assert np.all(activation < div.conjugate_sup)


def test_gradients_by_differences(pairs):
  mine = pairs["jensen_shannon"][0]

  def everything(x):
    return (
      mine.f(x)
      + mine.f_prime(x)
      + mine.f_second(x)
      + mine.f_prime_inverse(-x)
      + mine.conjugate(-x)
      + mine.activation(x)
      + mine.term(-x, -2 * x)
    )

  helpers.assert_gradient(jax.jit(everything), np.array(0.3))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ratios_beyond_the_type(dtype, pairs):
  """+inf only where f is infinite in the limit, never NaN."""
  far = 150.0 if dtype == np.float32 else 1100.0
  log_p = np.array([[0, -far, -far], [-far, 0, -2 * far]], dtype)
  log_q = np.array([[-far, 0, -2 * far], [0, -far, -far]], dtype)
  finite = ("jensen_shannon", "total_variation", "squared_hellinger", "le_cam")
  finite += ("alpha(0.4)", "alpha(0.9)", "hockey_stick")

  @jax.jit
  def evaluate():
    out = {}
    for name, both in pairs.items():

      def divergence(p, q, div=both[0]):
        return categorical.categorical_f_divergence(div, p, q)

      slopes = jax.vmap(jax.grad(divergence, (0, 1)))(log_p, log_q)
      row = categorical.categorical_f_divergence(both[1], log_p, log_q)
      out[name] = divergence(log_p, log_q), row, slopes
    return out

  for name, (value, row, slopes) in evaluate().items():
    assert value.dtype == dtype and not np.isnan(value).any()
    assert np.isfinite(slopes).all(), name
    if name in finite:
      eps = 8 * np.finfo(dtype).eps
      helpers.assert_close(value, row, rtol=eps, atol=eps)
    else:
      assert np.all(value >= row * (1 - 1e-6))


def test_given_limits_are_kept():
  div = custom.custom_f_divergence(
    lambda u: u * log(u), f_zero=0.0, f_prime_inf=INF
  )
  assert div.f_zero == 0 and div.conjugate_sup == INF and div.name == "custom"
  # 1/log u is slower than any power: only the caller knows the limit 1.
  slow = lambda u: (u - 1) * (1 - 1 / log(u + math.e)) * 2
  given = custom.custom_f_divergence(slow, f_prime_inf=2.0, f_zero=0.0)
  assert given.f_prime_inf == 2.0


def test_made_under_a_trace():
  """Completed inside a jitted function, in float32 and float64."""

  @jax.jit
  def conjugate(t):
    div = custom.custom_f_divergence(lambda u: u * log(u))
    return div.conjugate(t)

  for dtype in (np.float32, np.float64):
    t = np.array([-1.0, 0.5], dtype)
    value = conjugate(t)
    assert value.dtype == dtype
    helpers.assert_close(value, np.exp(t - 1), rtol=1e-6)


def test_refusals():
  with pytest.raises(ValueError, match=r"f\(1\) = 0, mine has f\(1\) = 1.0"):
    custom.custom_f_divergence(lambda u: u, name="mine")
  with pytest.raises(ValueError, match=r"f\(1\) = 0, custom has f\(1\) = nan"):
    custom.custom_f_divergence(lambda u: jnp.nan * u, f_zero=0.0, f_prime_inf=0)
  with pytest.raises(ValueError, match=r"f'\(inf\) evaluates to NaN, at u = 1"):
    custom.custom_f_divergence(lambda u: 2**0.5 - jnp.sqrt(3 - u))


def test_transforms(pairs):
  mine = pairs["jensen_shannon"][0]

  def columns(u, t, log_p, log_q):
    return jnp.stack(
      [
        *(mine.f(u), mine.f_prime(u), mine.f_second(u)),
        *(mine.f_prime_inverse(t), mine.conjugate(t), mine.activation(t)),
        mine.term(log_p, log_q),
      ]
    )

  u = np.array([[0.3, 1.0, 4.0], [0.1, 0.9, 1.2]])
  t = np.array([[-3.0, -0.4, 0.1], [-1.7, -0.9, 0.5]])
  helpers.assert_transforms(columns, u, t, np.log(u / 5), np.log(u[::-1] / 6))
