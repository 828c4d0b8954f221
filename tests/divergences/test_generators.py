# SPDX-License-Identifier: Apache-2.0
"""Every column of the table against formulas written differently in NumPy."""

import decimal
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxalign.divergences import generators
from tests import helpers

INF = math.inf
L2 = math.log(2)


class Row(NamedTuple):
  """What the literature gives for one generator, in NumPy."""

  options: dict
  f: Callable
  f_prime: Callable
  f_second: Callable
  inverse: Callable | None
  conjugate: Callable
  f_zero: float
  f_prime_inf: float
  sup: float
  partner: tuple[str, dict] | None

  def div(self, name):
    return generators.f_divergence(name.split("(")[0], **self.options)


def _skew(w):
  def inverse(v):
    s = np.exp(v / w)
    return (1 - w) * s / (1 - w * s)

  return Row(
    {"weight": w},
    lambda u: w * u * np.log(u) - (w * u + 1 - w) * np.log(w * u + 1 - w),
    lambda u: w * np.log(u / (w * u + 1 - w)),
    lambda u: w * (1 - w) / (u * (w * u + 1 - w)),
    inverse,
    lambda t: (1 - w) * (np.log(1 - w) - np.log(1 - w * np.exp(t / w))),
    -(1 - w) * math.log(1 - w),
    -w * math.log(w),
    -w * math.log(w),
    ("jensen_shannon", {"weight": 1 - w}),
  )


def _order(al):
  def base(v):
    return np.maximum(1 + (al - 1) * v, 0)

  return Row(
    {"alpha": al},
    lambda u: (u**al - al * u - (1 - al)) / (al * (al - 1)),
    lambda u: (u ** (al - 1) - 1) / (al - 1),
    lambda u: u ** (al - 2),
    lambda v: base(v) ** (1 / (al - 1)),
    lambda t: (base(t) ** (al / (al - 1)) - 1) / al,
    1 / al if al > 0 else INF,
    1 / (1 - al) if al < 1 else INF,
    1 / (1 - al) if al < 1 else INF,
    ("alpha", {"alpha": 1 - al}),
  )


TABLE = {
  "kl": Row(
    {},
    lambda u: u * np.log(u),
    lambda u: np.log(u) + 1,
    lambda u: 1 / u,
    lambda v: np.exp(v - 1),
    lambda t: np.exp(t - 1),
    0,
    INF,
    INF,
    ("reverse_kl", {}),
  ),
  "reverse_kl": Row(
    {},
    lambda u: -np.log(u),
    lambda u: -1 / u,
    lambda u: u**-2,
    lambda v: -1 / v,
    lambda t: -1 - np.log(-t),
    INF,
    0,
    0,
    ("kl", {}),
  ),
  "jensen_shannon": Row(
    {},
    lambda u: (u * np.log(u) - (u + 1) * np.log((u + 1) / 2)) / 2,
    lambda u: np.log(2 * u / (1 + u)) / 2,
    lambda u: 1 / (2 * u * (1 + u)),
    lambda v: np.exp(2 * v) / (2 - np.exp(2 * v)),
    lambda t: -np.log(2 - np.exp(2 * t)) / 2,
    L2 / 2,
    L2 / 2,
    L2 / 2,
    ("jensen_shannon", {}),
  ),
  "jensen_shannon(0.3)": _skew(0.3),
  "jeffreys": Row(
    {},
    lambda u: (u - 1) * np.log(u),
    lambda u: np.log(u) + 1 - 1 / u,
    lambda u: 1 / u + u**-2,
    lambda v: 1 / scipy.special.lambertw(np.exp(1 - v)).real,
    lambda t: (w := scipy.special.lambertw(np.exp(1 - t)).real) + 1 / w + t - 2,
    INF,
    INF,
    INF,
    ("jeffreys", {}),
  ),
  "total_variation": Row(
    {},
    lambda u: abs(u - 1) / 2,
    lambda u: np.sign(u - 1) / 2,
    lambda u: 0 * u,
    None,
    lambda t: np.maximum(t, -0.5),
    0.5,
    0.5,
    0.5,
    ("total_variation", {}),
  ),
  "pearson_chi2": Row(
    {},
    lambda u: (u - 1) ** 2,
    lambda u: 2 * (u - 1),
    lambda u: 2 + 0 * u,
    lambda v: np.maximum(1 + v / 2, 0),
    lambda t: np.where(t >= -2, t + t**2 / 4, -1),
    1,
    INF,
    INF,
    ("neyman_chi2", {}),
  ),
  "neyman_chi2": Row(
    {},
    lambda u: (u - 1) ** 2 / u,
    lambda u: 1 - u**-2,
    lambda u: 2 * u**-3,
    lambda v: (1 - v) ** -0.5,
    lambda t: 2 - 2 * np.sqrt(1 - t),
    INF,
    1,
    1,
    ("pearson_chi2", {}),
  ),
  "squared_hellinger": Row(
    {},
    lambda u: (np.sqrt(u) - 1) ** 2 / 2,
    lambda u: (1 - u**-0.5) / 2,
    lambda u: u**-1.5 / 4,
    lambda v: (1 - 2 * v) ** -2,
    lambda t: t / (1 - 2 * t),
    0.5,
    0.5,
    0.5,
    ("squared_hellinger", {}),
  ),
  "le_cam": Row(
    {},
    lambda u: (1 - u) ** 2 / (2 * (1 + u)),
    lambda u: 0.5 - 2 / (1 + u) ** 2,
    lambda u: 4 / (1 + u) ** 3,
    lambda v: np.maximum(2 / np.sqrt(1 - 2 * v) - 1, 0),
    lambda t: np.where(t >= -1.5, 2 - t - 2 * np.sqrt(1 - 2 * t), -0.5),
    0.5,
    0.5,
    0.5,
    ("le_cam", {}),
  ),
  "alpha(0.4)": _order(0.4),
  "alpha(1.5)": _order(1.5),
  "alpha(-0.7)": _order(-0.7),
  "hockey_stick": Row(
    {"gamma": 1.7},
    lambda u: np.maximum(u - 1.7, 0),
    lambda u: (u > 1.7) * 1.0,
    lambda u: 0 * u,
    None,
    lambda t: np.maximum(1.7 * t, 0),
    0,
    1,
    1,
    None,
  ),
}
DIVS = {name: row.div(name) for name, row in TABLE.items()}
SMOOTH = [name for name, row in TABLE.items() if row.inverse]
# Even in number and symmetric in the logarithm: 1 and 1.7 are not among them.
U = np.geomspace(0.05, 20, 40)


@pytest.fixture(scope="module")
def at_u():
  """Columns of all rows at U, in one compiled call."""

  def columns(u):
    out = {}
    for name, div in DIVS.items():
      slope = jax.vmap(jax.grad(div.f))
      out[name] = {
        "f": div.f(u),
        "f_prime": div.f_prime(u),
        "f_second": div.f_second(u),
        "autodiff": slope(u),
        "autodiff_second": jax.vmap(jax.grad(div.f_prime))(u),
        "conjugate": div.conjugate(div.f_prime(u)),
        "partner": u * div.f(1 / u),
      }
      if TABLE[name].inverse:
        t = div.f_prime(u)
        out[name] |= {
          "inverse": div.f_prime_inverse(t),
          "conjugate_slope": jax.vmap(jax.grad(div.conjugate))(t),
        }
    return out

  with jax.enable_x64(True):
    return jax.jit(columns)(jnp.array(U))


@pytest.mark.parametrize("name", TABLE)
def test_columns(name, at_u):
  row, div, values = TABLE[name], DIVS[name], at_u[name]
  # f of the formulas cancels near u = 1, by 1e-16 of terms of size 1.
  helpers.assert_close(values["f"], row.f(U), rtol=1e-12, atol=1e-14)
  helpers.assert_close(values["f_prime"], row.f_prime(U), atol=1e-14)
  helpers.assert_close(values["f_second"], row.f_second(U))
  helpers.assert_close(values["autodiff"], values["f_prime"], atol=1e-14)
  second = row.f_second(U)
  helpers.assert_close(values["autodiff_second"], second, rtol=1e-9, atol=1e-14)
  helpers.assert_close(
    (
      div.f_zero,
      div.f_prime_inf,
      div.conjugate_sup,
      float(div.f(jnp.zeros(()))),
    ),
    (row.f_zero, row.f_prime_inf, row.sup, row.f_zero),
    rtol=1e-14,
  )
  one = jnp.ones(())
  assert abs(div.f(one)) < 1e-30 and div.f_prime(one) == div.f_prime_one
  assert div.name == {"hockey_stick": "hockey_stick(1.7)"}.get(name, name)


@pytest.mark.parametrize("name", SMOOTH)
def test_fenchel_equality(name, at_u):
  values = at_u[name]
  # f*(f'(u)) = u f'(u) - f(u) at the maximiser (f')^{-1}(f'(u)) = u = f*'. The
  # argument f'(u) is rounded, which u f''(u) of 1/8000 (Neyman) amplifies.
  expected = U * values["f_prime"] - values["f"]
  helpers.assert_close(values["conjugate"], expected, rtol=1e-11, atol=1e-13)
  helpers.assert_close(values["inverse"], U, rtol=1e-11)
  helpers.assert_close(values["conjugate_slope"], U, rtol=1e-11)


@pytest.mark.parametrize("name", [n for n in TABLE if TABLE[n].partner])
def test_partner(name, at_u):
  partner, options = TABLE[name].partner
  other = generators.f_divergence(partner, **options)
  other_values = np.array(jax.jit(other.f)(jnp.array(U)))
  helpers.assert_close(at_u[name]["partner"], other_values, atol=1e-14)
  helpers.assert_close(other.f_zero, DIVS[name].f_prime_inf, rtol=1e-15)
  helpers.assert_close(other.f_prime_inf, DIVS[name].f_zero, rtol=1e-15)


def test_strengths():
  expected = {"jensen_shannon": 0.25, "jensen_shannon(0.3)": 0.21}
  expected |= dict.fromkeys(("jeffreys", "pearson_chi2", "neyman_chi2"), 2)
  expected |= {"squared_hellinger": 0.25, "le_cam": 0.5}
  for name in SMOOTH:
    strength = DIVS[name].f_second(jnp.array(1.0))
    helpers.assert_close(strength, expected.get(name, 1.0), rtol=1e-15)


def test_bounds_on_disjoint_supports():
  h = -0.3 * math.log(0.3) - 0.7 * math.log(0.7)
  bounds = {"jensen_shannon": L2, "jensen_shannon(0.3)": h}
  bounds |= dict.fromkeys(("total_variation", "squared_hellinger"), 1)
  bounds |= {"le_cam": 1, "alpha(0.4)": 1 / 0.24, "hockey_stick": 1}
  for name, div in DIVS.items():
    bound = div.f_zero + div.f_prime_inf
    helpers.assert_close(bound, bounds.get(name, INF), rtol=1e-15)


@pytest.fixture(scope="module")
def conjugates():
  """f* and its slope from far below f'(0) to above the supremum."""
  grids = {}
  for name, row in TABLE.items():
    top = row.f_prime(np.array(30.0)) if row.inverse else row.sup
    grids[name] = np.linspace(-6, min(float(top), 6), 97)
  out = jax.jit(
    lambda grids: {
      name: (
        div.conjugate(grids[name]),
        jax.vmap(jax.grad(div.conjugate))(grids[name]),
        div.conjugate(div.conjugate_sup + jnp.array([1e-9, 0.5, 40.0])),
      )
      for name, div in DIVS.items()
    }
  )
  with jax.enable_x64(True):
    return grids, out(grids)


@pytest.mark.parametrize("name", TABLE)
def test_conjugate_is_the_supremum_over_the_half_line(name, conjugates):
  row, (grids, values) = TABLE[name], conjugates
  t, (value, slope, above) = grids[name], values[name]
  u = np.append(np.geomspace(1e-9, 1e5, 200_001), [1, 1.7])
  best = np.max(t[:, None] * u - row.f(u), 1)
  if math.isfinite(row.f_zero):
    best = np.maximum(best, -row.f_zero)
  # A maximum on a grid of relative spacing 1.6e-4 is short by at most
  # (u 8e-5)^2 f''/2 <= 1e-5 u / 2 for u f'' <= 3, reached at u = 54 by chi2.
  assert np.all(value - best > -1e-9)
  helpers.assert_close(value, best, rtol=1e-7, atol=1e-8)
  if row.inverse:
    helpers.assert_close(value, row.conjugate(t), atol=1e-13)
  # Its slope is the maximiser: never negative, never NaN.
  assert np.all(slope >= 0) and np.all(np.isfinite(slope))
  assert np.all(above == INF) if math.isfinite(row.sup) else True


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ends_of_domains(dtype):
  """At the supremum, also where a critic saturates: limits, never NaN."""
  closed = {"neyman_chi2": 2.0, "le_cam": 1.5, "total_variation": 0.5}
  closed |= {"hockey_stick": 1.7, "alpha(-0.7)": 1 / 0.7}
  divs = dict(DIVS)
  for w in (0.05, 0.1, 0.45, 0.7, 0.9):
    divs[f"js({w})"] = generators.f_divergence("jensen_shannon", weight=w)
  for al in (0.05, 0.1, 0.3, 0.7, 0.95):
    divs[f"al({al})"] = generators.f_divergence("alpha", alpha=al)
  divs = {n: d for n, d in divs.items() if math.isfinite(d.conjugate_sup)}

  @jax.jit
  def ends(big):
    out = {}
    for name, div in divs.items():
      sup = jnp.full((), div.conjugate_sup, dtype)
      inverse = (sup,) * 2
      if not name.startswith(("total", "hockey")):
        inverse = jax.value_and_grad(div.f_prime_inverse)(sup)
        inverse += (div.f_prime_inverse(sup + 1), div.f_prime_inverse(-big))
      saturated = div.activation(big)
      out[name] = (div.conjugate(sup), div.conjugate(saturated), inverse)
    return out

  for name, (at_sup, saturated, inverse) in ends(dtype(300)).items():
    for value in (at_sup, saturated):
      if name in closed:
        # Neyman's and Le Cam's f* end like the root of the distance to the
        # supremum, alpha's like its power 0.7/1.7: so does a rounding of it.
        helpers.assert_close(value, closed[name], rtol=4e-3)
      else:
        # The pole itself, or one rounding below it.
        assert value > 7
    if len(inverse) == 4:
      assert inverse[0] == INF and inverse[1] == 0 and inverse[2] == INF
      assert 0 <= inverse[3] < 1


def test_activation_is_increasing_and_stays_in_the_domain():
  v = np.linspace(-8, 8, 65)
  values = jax.jit(
    lambda v: {
      name: (div.activation(v), div.conjugate(div.activation(v)))
      for name, div in DIVS.items()
    }
  )(v)
  exact = {
    "reverse_kl": -np.exp(-v),
    "jensen_shannon": L2 / 2 - np.log1p(np.exp(-v)) / 2,
    "jensen_shannon(0.3)": -0.3 * (np.log(0.3) + np.log1p(np.exp(-v))),
    "total_variation": np.tanh(v) / 2,
    "neyman_chi2": 1 - np.exp(-v),
    "squared_hellinger": (1 - np.exp(-v)) / 2,
    "le_cam": (1 - np.exp(-v)) / 2,
    "alpha(0.4)": (1 - np.exp(-v)) / 0.6,
    "alpha(-0.7)": (1 - np.exp(-v)) / 1.7,
    "hockey_stick": 1 / (1 + np.exp(-v)),
  }
  for name, (activation, conjugate) in values.items():
    helpers.assert_close(activation, exact.get(name, v), atol=1e-14)
    assert np.all(np.diff(activation) > 0)
    assert np.all(activation < DIVS[name].conjugate_sup)
    assert np.all(np.isfinite(conjugate))


P = np.array([0.5, 0.3, 0.15, 0.05])
Q = np.array([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("name", SMOOTH)
def test_hockey_stick_mixture(name):
  """`int_1^inf f''(g) E_g(P||Q) + g^-3 f''(1/g) E_g(Q||P) dg = D_f(P||Q)`."""
  log_g = np.linspace(0, 12, 20_001)
  g = np.exp(log_g)

  def hockey_stick(p, q):
    return np.maximum(p - g[:, None] * q, 0).sum(1)

  f_second = jax.jit(DIVS[name].f_second)
  weight, swapped = f_second(jnp.array(g)), f_second(jnp.array(1 / g))
  integrand = weight * hockey_stick(P, Q) + swapped * hockey_stick(Q, P) / g**3
  mixture = np.trapezoid(np.asarray(integrand) * g, log_g)
  # The trapezoid rule at spacing 6e-4 is good for 1e-6.
  expected = np.sum(Q * TABLE[name].f(P / Q))
  helpers.assert_close(mixture, expected, rtol=1e-5)


# --- terms -------------------------------------------------------------------


def test_term_is_the_share_of_one_outcome(key):
  log_p, log_q = -10 * jax.random.uniform(key, (2, 400))
  log_q = log_q.at[:200].set(log_p[:200] + jnp.linspace(-0.9, 0.9, 200))

  def derivatives(term):
    ones = jnp.ones_like(log_p)

    def in_p(log_p, log_q):
      return jax.jvp(term, (log_p, log_q), (ones, 0 * ones))[1]

    def in_q(log_p, log_q):
      return jax.jvp(term, (log_p, log_q), (0 * ones, ones))[1]

    def both(log_p, log_q):
      second = jax.jvp(in_p, (log_p, log_q), (ones, 0 * ones))[1]
      mixed = jax.jvp(in_p, (log_p, log_q), (0 * ones, ones))[1]
      swapped = jax.jvp(in_q, (log_p, log_q), (ones, 0 * ones))[1]
      first = in_p(log_p, log_q), in_q(log_p, log_q)
      return term(log_p, log_q), *first, second, mixed, swapped

    return both

  @jax.jit
  def share_and_slopes(log_p, log_q):
    return {n: derivatives(d.term)(log_p, log_q) for n, d in DIVS.items()}

  p, q = np.exp(log_p), np.exp(log_q)
  u = p / q
  out = share_and_slopes(log_p, log_q)
  for name, (term, in_p, in_q, second, mixed, swapped) in out.items():
    row, one = TABLE[name], DIVS[name].f_prime_one
    f, slope = row.f(u), row.f_prime(u) - one
    # The expected side cancels: 1e-16 of p and q.
    size = 1e-14 * float(np.max(p + q * (1 + np.abs(f))))
    helpers.assert_close(term, q * f - one * (p - q), rtol=1e-12, atol=size)
    assert np.all(term >= 0)
    helpers.assert_close(in_p, p * slope, rtol=1e-12, atol=size)
    expected = q * (f - u * row.f_prime(u) + one)
    helpers.assert_close(in_q, expected, rtol=1e-12, atol=size)
    if row.inverse:
      bend = p * u * row.f_second(u)
      helpers.assert_close(second, bend + p * slope, rtol=1e-9, atol=size)
      helpers.assert_close(mixed, -bend, rtol=1e-9, atol=size)
      helpers.assert_close(swapped, -bend, rtol=1e-9, atol=size)


def _exact_power(order, u):
  """The Cressie-Read generator with 60 digits."""
  with decimal.localcontext(prec=60):
    al, u = decimal.Decimal(order), decimal.Decimal(u)
    if al == 1:
      return float(u * u.ln() - u + 1)
    if al == 0:
      return float(u - 1 - u.ln())
    return float(((al * u.ln()).exp() - al * u - 1 + al) / (al * (al - 1)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_power_term_keeps_relative_accuracy_at_every_order(dtype):
  """Near u = 1, near the orders 0 and 1, and at orders of size 40."""
  orders = [0.0, 1e-6, 1e-3, 0.4, 0.5, 1 - 1e-3, 1 - 1e-6, 1.0, 1 + 1e-6]
  orders += [1 + 1e-3, 2.0, -1.0, 3.7, 20.0, 40.0, -39.0, -1e-6]
  log_u = [s * x for s in (1, -1) for x in (1e-3, 0.01, 0.2, 0.49, 0.6, 2)]
  u = np.exp(np.array(log_u)).astype(dtype)
  divs = {al: generators.f_divergence("alpha", alpha=al) for al in orders}
  zero = jnp.zeros_like(u)
  terms = jax.jit(
    lambda x: {al: div.term(x, zero) for al, div in divs.items()}
  )(np.log(u))
  for order, term in terms.items():
    # log u is rounded to eps |log u|: the term, at least quadratic and at most
    # of power `order` in u, changes by (2 + |order log u|) eps. The rest is
    # rounding, up to the 1/0.12 of cancellation beyond |log u| = 1/2.
    exact = [_exact_power(order, np.exp(np.float64(x))) for x in np.log(u)]
    limit = 100 * (1 + np.abs(order * np.log(u))) * np.finfo(dtype).eps
    error = np.abs(np.asarray(term, np.float64) / exact - 1)
    assert np.all(error < limit), (order, error / limit)


def test_alpha_columns_are_continuous_at_orders_0_and_1():
  """No jump and no loss at 1e-6 and 1e-3, in float32 (limits to O(eps))."""
  v = np.array([-2.0, -0.5, 0.3, 0.8], np.float32)
  u = np.array([0.2, 0.9, 1.1, 5], np.float32)
  near = {e: generators.f_divergence("alpha", alpha=e) for e in (1e-6, 1e-3)}
  near |= {1 - e: generators.f_divergence("alpha", alpha=1 - e) for e in near}
  values = jax.jit(
    lambda: {
      al: (d.f(u), d.f_prime(u), d.f_prime_inverse(v), d.conjugate(v))
      for al, d in near.items()
    }
  )()
  for al, columns in values.items():
    if al < 0.5:
      limits = (u - 1 - np.log(u), 1 - 1 / u, 1 / (1 - v), -np.log1p(-v))
    else:
      limits = (u * np.log(u) - u + 1, np.log(u), np.exp(v), np.expm1(v))
    slack = 4 * min(al, 1 - al) + 1e-5
    helpers.assert_close(columns, limits, rtol=slack, atol=1e-7)


def test_jeffreys_far_out():
  """Where w + t cancels (float32), and where Lambert's argument underflows."""
  div = DIVS["jeffreys"]
  t = np.array([-1e3, -1e6, -1e8], np.float32)
  w = scipy.special.wrightomega(1 - t.astype(float))
  helpers.assert_close(div.conjugate(t), 1 / w - 1 - np.log(w), rtol=1e-6)
  for dtype in (np.float32, np.float64):
    big = np.array([60, 1000.0], dtype)
    for fn in (div.conjugate, div.f_prime_inverse):
      helpers.assert_close(fn(big), [math.exp(59), INF], rtol=1e-5)


# --- conventions -------------------------------------------------------------


@pytest.mark.parametrize("a", [-0.6, 0.3, 0.5, 1.7])
def test_f_dpo_convention(a):
  div = generators.f_divergence(
    "alpha", alpha=generators.alpha_order(a, convention="f_dpo")
  )
  assert generators.alpha_order(a, convention="dph_rl") == 1 - a
  written = (U ** (1 - a) - (1 - a) * U - a) / (a * (a - 1))
  helpers.assert_close(jax.jit(div.f)(U), written, atol=1e-14)
  helpers.assert_close(jax.jit(div.f_prime)(U), (1 - U**-a) / a, atol=1e-14)


@pytest.mark.parametrize("index", [-0.9, 0.0, 0.6])
def test_amari_convention(index):
  order = generators.alpha_order(index, convention="amari")
  div = generators.f_divergence("alpha", alpha=order)
  affinity = np.sum(P ** ((1 - index) / 2) * Q ** ((1 + index) / 2))
  expected = 4 / (1 - index**2) * (1 - affinity)
  helpers.assert_close(np.sum(Q * div.f(P / Q)), expected)


def test_trl_convention():
  """TRL implements f' = (u^(al-1) - 1)/(al-1), the order itself.

  The f-DPO parameter of the same value agrees only at 1/2.
  """
  for al in (0.3, 0.5, 0.8):
    order = generators.alpha_order(al, convention="cressie_read")
    trl = (U ** (al - 1) - 1) / (al - 1)
    slope = generators.f_divergence("alpha", alpha=order).f_prime(U)
    helpers.assert_close(slope, trl, atol=1e-14)
    other = generators.alpha_order(al, convention="f_dpo")
    f_dpo = generators.f_divergence("alpha", alpha=other).f_prime(U)
    assert np.allclose(slope, f_dpo) == (al == 0.5)
  assert generators.alpha_order(1.3, convention="renyi") == 1.3
  assert generators.alpha_order(1.3, convention="tsallis") == 1.3


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.0])
def test_renyi_and_tsallis_from_alpha(alpha):
  power = np.sum(P**alpha * Q ** (1 - alpha))
  divergence = np.sum(P * np.log(P / Q))
  renyi = tsallis = divergence
  if alpha != 1:
    divergence = (power - 1) / (alpha * (alpha - 1))
    renyi = np.log(power) / (alpha - 1)
    tsallis = (power - 1) / (alpha - 1)
  for fn, expected in (
    (generators.renyi_from_alpha, renyi),
    (generators.tsallis_from_alpha, tsallis),
  ):

    def convert(d, fn=fn):
      return fn(d, alpha=alpha)

    helpers.assert_close(convert(jnp.array(divergence)), expected)
    helpers.assert_gradient(convert, np.array(divergence))
    helpers.assert_transforms(convert, jnp.array([divergence, 0.1]))


# --- the object --------------------------------------------------------------


def test_names_limits_and_identity():
  assert set(generators.NAMES) == {n.split("(")[0] for n in TABLE}
  for name in TABLE:
    assert TABLE[name].div(name) is DIVS[name]
  kl = generators.f_divergence("kl")
  assert generators.f_divergence("alpha", alpha=1).name == kl.name
  assert generators.f_divergence("alpha", alpha=0.0).name == "reverse_kl"
  static = jax.jit(lambda div, u: div.f(u), static_argnums=0)
  for _ in range(2):
    static(generators.f_divergence("alpha", alpha=0.4), jnp.ones(2))
  assert static._cache_size() == 1


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("kullback", {}, "unknown divergence 'kullback': choose one of alpha, "),
    ("kl", {"alpha": 1.0}, "kl takes no parameter, alpha=1.0 was given"),
    ("alpha", {"weight": 0.1}, "alpha takes only alpha, weight=0.1 was given"),
    ("alpha", {}, "alpha needs alpha"),
    ("alpha", {"alpha": INF}, "alpha must be finite, was inf"),
    ("hockey_stick", {}, "hockey_stick needs gamma"),
    ("hockey_stick", {"gamma": 0.9}, "gamma must be at least 1, was 0.9"),
    ("jensen_shannon", {"weight": 1.0}, r"weight must be in \(0, 1\), was 1"),
  ],
)
def test_bad_names_and_parameters_raise(name, options, message):
  with pytest.raises(ValueError, match=message):
    generators.f_divergence(name, **options)


def test_other_bad_options_raise():
  for name in ("total_variation", "hockey_stick"):
    with pytest.raises(ValueError, match=f"{name} has a piecewise constant f'"):
      DIVS[name].f_prime_inverse(jnp.zeros(1))
  with pytest.raises(ValueError, match="unknown convention 'trl': choose one"):
    generators.alpha_order(0.5, convention="trl")
  for fn in (generators.renyi_from_alpha, generators.tsallis_from_alpha):
    with pytest.raises(ValueError, match="alpha must be above 0, was 0"):
      fn(jnp.ones(()), alpha=0.0)


def test_transforms():
  """Every function at once; float32 stays float32 in every row."""

  def columns(divs, u, t, log_p, log_q):
    out = []
    for div in divs:
      out += [div.f(u), div.f_prime(u), div.f_second(u), div.conjugate(t)]
      out += [div.activation(t), div.term(log_p, log_q)]
      if not div.name.startswith(("total", "hockey")):
        out.append(div.f_prime_inverse(t))
    return jnp.stack(out)

  u = np.array([[0.3, 1.0, 4.0], [0.1, 0.9, 1.2]])
  t = np.array([[-3.0, -0.4, -0.1], [-1.7, -0.9, -0.01]])
  args = u, t, np.log(u / 5), np.log(u[::-1] / 6)
  names = ("jensen_shannon(0.3)", "jeffreys", "alpha(0.4)", "hockey_stick")
  some = jax.jit(lambda *x: columns([DIVS[n] for n in names], *x))
  helpers.assert_transforms(lambda *x: some(*x), *args)
  # Operation by operation, for one.
  helpers.assert_transforms(lambda *x: columns([DIVS["le_cam"]], *x), *args)
  helpers.assert_keeps_float32(lambda *x: columns(DIVS.values(), *x), *args)
