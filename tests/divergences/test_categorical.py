# SPDX-License-Identifier: Apache-2.0
"""Divergences of categoricals: values, slopes, zeros, masks, inequalities."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rlax
import scipy.special

from jaxalign.divergences import categorical, generators
from tests import helpers

INF = math.inf
L2 = math.log(2)


def _of(fn, **options):
  return functools.partial(fn, **options)


# name: function, golden value, value on partly different supports (to 6 digits)
FUNCTIONS = {
  "kl": (categorical.kl, 0.718414, INF),
  "reverse_kl": (categorical.reverse_kl, 0.797684, INF),
  "jensen_shannon": (categorical.jensen_shannon, 0.168023, 0.454454),
  "jensen_shannon(0.3)": (
    _of(categorical.jensen_shannon, weight=0.3),
    0.141185,
    0.386554,
  ),
  "jeffreys": (categorical.jeffreys, 1.516098, INF),
  "total_variation": (categorical.total_variation, 0.5, 0.75),
  "pearson_chi2": (categorical.pearson_chi2, 2.03125, INF),
  "neyman_chi2": (categorical.neyman_chi2, 2.953333, INF),
  "squared_hellinger": (categorical.squared_hellinger, 0.177891, 0.646447),
  "le_cam": (categorical.le_cam, 0.304444, 0.666667),
  # 0.75 / 0.4 + 0.5 / 0.6 beside the common support.
  "alpha(0.4)": (
    _of(categorical.alpha_divergence, alpha=0.4),
    0.720630,
    0.75 / 0.4 + 0.5 / 0.6 - 0.25 * (2**0.4 - 1.4) / 0.24,
  ),
  "alpha(1.5)": (
    _of(categorical.alpha_divergence, alpha=1.5),
    0.812268,
    INF,
  ),
  "hockey_stick(1.7)": (_of(categorical.hockey_stick, gamma=1.7), 0.33, 0.575),
  # The affinity is sqrt(1/8) there.
  "renyi(0.5)": (_of(categorical.renyi, alpha=0.5), 0.391764, math.log(8)),
  "renyi(2)": (_of(categorical.renyi, alpha=2.0), 1.108975, INF),
  "tsallis(1.5)": (_of(categorical.tsallis, q=1.5), 1.218402, INF),
  # <p,q> = 1/8, <p,p> = 1/2, <q,q> = 5/8.
  "cauchy_schwarz": (
    categorical.cauchy_schwarz,
    0.637054,
    0.5 * math.log(0.5 * 0.625) + math.log(8),
  ),
}
NAMES = tuple(FUNCTIONS)
# Those that are f-divergences, by the generator's name and options.
ROWS = {
  "jensen_shannon(0.3)": ("jensen_shannon", {"weight": 0.3}),
  "alpha(0.4)": ("alpha", {"alpha": 0.4}),
  "alpha(1.5)": ("alpha", {"alpha": 1.5}),
  "hockey_stick(1.7)": ("hockey_stick", {"gamma": 1.7}),
}
ROWS = {
  name: generators.f_divergence(*row[:1], **row[1])
  for name in NAMES
  if name.split("(")[0] not in ("renyi", "tsallis", "cauchy_schwarz")
  for row in [ROWS.get(name, (name, {}))]
}


def _values(p, q, where=None):
  """Every divergence, `[names, ...]`."""
  return jnp.stack([fn(p, q, where=where) for fn, *_ in FUNCTIONS.values()])


def _slopes(p, q, where=None):
  """Of every divergence, `[names, ..., V]` for each of the arguments."""
  slopes = [
    jax.grad(lambda *x, fn=fn: fn(*x, where=where).sum(), (0, 1))(p, q)
    for fn, *_ in FUNCTIONS.values()
  ]
  return [jnp.stack(x) for x in zip(*slopes, strict=True)]


VALUES = jax.jit(_values)
SLOPES = jax.jit(_slopes)
CS = jax.jit(categorical.cauchy_schwarz)
GJS = jax.jit(categorical.generalized_jensen_shannon)


def _padded(p, q, where):
  """One shape for (almost) all tests, and thereby one compilation."""
  p, q = np.asarray(p), np.asarray(q)
  rows, outcomes = (8, 1000) if p.dtype == np.float32 else (12_000, 7)
  where = np.ones(p.shape, bool) if where is None else np.asarray(where)
  batch, v = p.shape[:-1], p.shape[-1]
  n = math.prod(batch)

  def pad(x):
    out = np.zeros((rows, outcomes), x.dtype)
    out[:n, :v] = x.reshape(n, v)
    return out

  return pad(p), pad(q), pad(where), batch


def every(p, q, where=None):
  """Every divergence by name, each `[...]`."""
  *arguments, batch = _padded(p, q, where)
  values = np.asarray(VALUES(*arguments))[:, : math.prod(batch)]
  values = values.reshape(-1, *batch)
  return dict(zip(FUNCTIONS, values, strict=True))


def every_slope(p, q, where=None):
  """Its gradients by name, each `[2, ..., V]`."""
  *arguments, batch = _padded(p, q, where)
  slopes = np.stack(SLOPES(*arguments), 1)
  slopes = slopes[:, :, : math.prod(batch), : np.shape(p)[-1]]
  slopes = slopes.reshape(-1, 2, *np.shape(p))
  return dict(zip(FUNCTIONS, slopes, strict=True))


P = np.array([0.5, 0.3, 0.15, 0.05])
Q = np.array([0.1, 0.2, 0.3, 0.4])
HALF = 0.5e-6  # half a unit of the sixth digit


def _log(p):
  with np.errstate(divide="ignore"):
    return np.log(p)


# --- values ------------------------------------------------------------------


def test_golden_values_and_support_mismatch():
  p, q = np.array([0.5, 0.5, 0, 0]), np.array([0, 0.25, 0.75, 0])
  values = every(_log(np.stack([P, Q, p])), _log(np.stack([Q, P, q])))
  for name, (_, golden, mismatch) in FUNCTIONS.items():
    value = values[name]
    helpers.assert_close(value[0], golden, rtol=0, atol=HALF)
    helpers.assert_close(value[2], mismatch, rtol=0, atol=HALF)
  swapped = values["jensen_shannon(0.3)"][1]
  helpers.assert_close(swapped, 0.145510, rtol=0, atol=HALF)
  hockey = categorical.hockey_stick(_log(P), _log(Q), gamma=1.5)
  helpers.assert_close(hockey, 0.35, rtol=0, atol=HALF)


def test_golden_values_of_three():
  # A fifth, masked outcome and three equal rows: the shapes of other tests.
  fifth = [*_log(P), np.nan], [*_log(Q), np.nan], [0.0] * 5
  three = [np.tile(x, (3, 1)) for x in fifth]
  keep = np.tile(np.arange(5) < 4, (4, 1))
  value = CS(*three, where=keep[:3])
  helpers.assert_close(value, [0.817169] * 3, rtol=0, atol=HALF)
  four = np.tile(np.array(fifth)[:, None], (1, 4, 1))
  value = GJS(four, np.ones(3) / 3, where=keep)
  helpers.assert_close(value, [0.113605] * 4, rtol=0, atol=HALF)


def test_categorical_f_divergence_is_what_the_names_give():
  p = _log(np.stack([P, [0.5, 0.5, 0, 0]]))
  q = _log(np.stack([Q, [0, 0.25, 0.75, 0]]))
  by_object = jax.jit(
    lambda p, q: {
      name: (categorical.categorical_f_divergence(div, p, q), div.f(P / Q))
      for name, div in ROWS.items()
    }
  )(p, q)
  values = every(p, q)
  for name, (value, f) in by_object.items():
    helpers.assert_close(value, values[name], rtol=1e-14)
    helpers.assert_close(np.sum(Q * f), value[0], rtol=1e-12)


def test_bounds_on_disjoint_supports():
  p, q = _log(np.array([0.3, 0.7, 0, 0])), _log(np.array([0, 0, 0.6, 0.4]))
  h = scipy.special.entr([0.3, 0.7]).sum()
  bounds = {"jensen_shannon": L2, "jensen_shannon(0.3)": h, "le_cam": 1}
  bounds |= {
    "total_variation": 1,
    "squared_hellinger": 1,
    "alpha(0.4)": 1 / 0.24,
  }
  bounds |= {"hockey_stick(1.7)": 1}
  for name, value in every(p, q).items():
    helpers.assert_close(value, bounds.get(name, INF), rtol=1e-12)


def test_oracles(key):
  """scipy and rlax, with zeros where they hold."""
  logits, other = 2 * jax.random.normal(key, (2, 5, 7))
  p, q = (np.array(jax.nn.softmax(x)) for x in (logits, other))
  rel_entr = scipy.special.rel_entr
  values = every(logits, other)
  helpers.assert_close(values["kl"], rel_entr(p, q).sum(-1))
  helpers.assert_close(values["reverse_kl"], rel_entr(q, p).sum(-1))
  m = (p + q) / 2
  js = (rel_entr(p, m) + rel_entr(q, m)).sum(-1) / 2
  helpers.assert_close(values["jensen_shannon"], js)
  p, q = np.array([0.4, 0.6, 0]), np.array([0.3, 0.5, 0.2])
  both = every(_log(p), _log(q))
  helpers.assert_close(both["kl"], rel_entr(p, q).sum())
  helpers.assert_close(both["reverse_kl"], rel_entr(q, p).sum())
  assert both["reverse_kl"] == INF

  p, q = jnp.array([1, 0.5, -INF, -0.3]), jnp.array([0.2, 0.1, -INF, 0.9])
  parity = 0.31577340832156087
  helpers.assert_close(categorical.kl(p, q), parity, rtol=1e-14)
  helpers.assert_close(rlax.categorical_kl_divergence(p, q), parity, rtol=1e-14)
  ours = jax.grad(categorical.kl, (0, 1))(p, q)
  theirs = jax.grad(rlax.categorical_kl_divergence, (0, 1))(p, q)
  assert np.all(np.isfinite(ours))
  helpers.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)


def test_optax_counter_examples():
  """What `optax.losses.kl_divergence` does at zeros, and what ours does.

  If the first assertions fail, optax has been mended.
  """
  zero, finite = jnp.array([0.0, 1.0]), jnp.log(jnp.array([0.5, 0.5]))
  shared = jnp.array([-INF, 0.0])
  theirs = optax.losses.kl_divergence
  assert np.isnan(theirs(shared, zero))
  assert np.isnan(jax.grad(theirs, 1)(shared, zero)).any()
  assert np.isnan(jax.grad(theirs, 1)(finite, zero)).any()
  with jax.debug_nans(True):
    assert categorical.kl(shared, shared) == 0
    helpers.assert_close(categorical.kl(shared, finite), L2)
    for q in (shared, finite):
      helpers.assert_close(
        jax.grad(categorical.kl)(shared, q), jnp.zeros(2), atol=0
      )


# --- slopes ------------------------------------------------------------------


def test_closed_form_gradients_in_both_arguments(key):
  """`p (f'(u) - E_P f')` and `q (k - E_Q k)`, `k = f - u f'`."""
  logits, other = np.asarray(1.5 * jax.random.normal(key, (2, 3, 6)))
  p, q = scipy.special.softmax([logits, other], -1)
  slopes = every_slope(logits, other)
  columns = jax.jit(
    lambda u: {n: (d.f(u), d.f_prime(u)) for n, d in ROWS.items()}
  )(p / q)
  for name, (f, slope) in columns.items():
    in_p, in_q = slopes[name]
    expected = p * (slope - (p * slope).sum(-1, keepdims=True))
    helpers.assert_close(in_p, expected, atol=1e-14)
    k = f - p / q * slope
    expected = q * (k - (q * k).sum(-1, keepdims=True))
    helpers.assert_close(in_q, expected, atol=1e-14)
  # KL in p: p (l - KL).
  log_u = np.log(p / q)
  expected = p * (log_u - (p * log_u).sum(-1, keepdims=True))
  helpers.assert_close(slopes["kl"][0], expected, atol=1e-14)


def test_numerical_gradients(key):
  """Central differences of all, near equality and far from it, in one batch."""
  scale = np.array([0.3, 1.0, 6.0])[:, None]
  p, q = np.asarray(jax.random.normal(key, (2, 3, 7))) * scale
  slopes = every_slope(p, q)
  step = 1e-5 * np.eye(7)[:, None]
  for argument, moves in enumerate(([1, 0], [0, 1])):
    ahead, behind = (
      every(
        *(x + move * sign * step for x, move in zip((p, q), moves, strict=True))
      )
      for sign in (1, -1)
    )
    for name, slope in slopes.items():
      numeric = np.moveaxis(ahead[name] - behind[name], 0, -1) / 2e-5
      # Differences lose 1e-15 / 1e-5 of the value, which is up to 1e4.
      size = 1 + np.max(np.abs(ahead[name]), 0)[:, None]
      helpers.assert_close(
        slope[argument] / size, numeric / size, rtol=1e-6, atol=1e-9
      )


def test_gradients_beside_the_table(key):
  p, q = np.asarray(jax.random.normal(key, (2, 4)))

  def others(p, q):
    return (
      3 * categorical.renyi(p, q, alpha=INF)
      + 2 * categorical.renyi(p, q, alpha=1.0)
      + categorical.jensen_shannon(p, q, weight=0.3, rescale=True)
    )

  helpers.assert_gradient(jax.jit(others), p, q)


def test_gradients_of_generalized_ones(key):
  logits = np.asarray(jax.random.normal(key, (3, 4)))

  def both(logits, weights):
    gjs = categorical.generalized_jensen_shannon(logits, weights)
    return gjs + 2 * categorical.cauchy_schwarz(*logits)

  helpers.assert_gradient(jax.jit(both), logits, np.array([0.2, 0.5, 0.3]))


def test_second_derivatives(key):
  """Hessians against differences of gradients."""
  p, q, direction = np.asarray(jax.random.normal(key, (3, 7)))
  names = ("kl", "jensen_shannon", "alpha(0.4)")

  @jax.jit
  def bends(p, q):
    out = {}
    for name in names:
      slope = jax.grad(FUNCTIONS[name][0], (0, 1))
      out[name] = jax.jvp(slope, (p, q), (direction, -direction))[1]
    return out

  move = 1e-5 * direction
  ahead, behind = (
    every_slope(p + move, q - move),
    every_slope(p - move, q + move),
  )
  for name, bend in bends(p, q).items():
    numeric = (ahead[name] - behind[name]) / 2e-5
    helpers.assert_close(jnp.stack(bend), numeric, rtol=1e-6, atol=1e-9)


# --- zeros -------------------------------------------------------------------

WITH_ZEROS = np.array([0.3, -INF, 1.2, -0.4, -INF])
OTHER_ZEROS = np.array([-0.5, -INF, 0.1, 0.8, -INF])


def test_zeros_and_masks_are_deleted_outcomes():
  """NaN under the mask changes nothing; a row without outcomes gives 0."""
  where = np.array([[True] * 5, [True, False, True, True, False], [False] * 5])
  nan = np.nan
  p = np.array([WITH_ZEROS, [0.3, nan, 1.2, -0.4, INF], [nan] * 5])
  q = np.array([OTHER_ZEROS, [-0.5, 2.0, 0.1, 0.8, nan], [INF] * 5])
  values, slopes = every(p, q, where), every_slope(p, q, where)
  kept = np.array([0, 2, 3])
  deleted = np.asarray(VALUES(WITH_ZEROS[kept], OTHER_ZEROS[kept]))
  deleted_slopes = every_slope(WITH_ZEROS[kept], OTHER_ZEROS[kept])
  for i, (name, value) in enumerate(values.items()):
    slope = slopes[name]
    helpers.assert_close(value, [deleted[i], deleted[i], 0])
    for row in (0, 1):
      kept_slope = slope[:, row, kept]
      helpers.assert_close(kept_slope, deleted_slopes[name], atol=1e-15)
    assert np.all(slope[:, :2, [1, 4]] == 0) and np.all(slope[:, 2] == 0)
  for alpha in (0.0, 1.0, INF):
    fn = jax.jit(_of(categorical.renyi, alpha=alpha))
    sliced = fn(p[0, kept], q[0, kept])
    helpers.assert_close(fn(p, q, where=where), [sliced, sliced, 0.0])


# One for each form of a term: the powers share theirs.
@pytest.mark.parametrize(
  "name",
  [
    *("kl", "jensen_shannon", "jeffreys", "total_variation", "le_cam"),
    *("squared_hellinger", "alpha(0.4)", "hockey_stick(1.7)", "renyi(2)"),
    *("cauchy_schwarz", "renyi(inf)", "renyi(0)", "generalized"),
  ],
)
def test_no_nan_inside_at_zeros_and_masks(name):
  """Operation by operation, in value and both gradients; equal to jit."""

  def generalized(p, q, where):
    logits, weights = jnp.stack([p, q, p]), jnp.array([0.4, 0.6, 0.0])
    return categorical.generalized_jensen_shannon(logits, weights, where=where)

  fn = {
    # Row by row, so that the shapes are those of the others.
    "generalized": lambda *x, where: jnp.stack(
      [generalized(*(a[i] for a in (*x, where))) for i in range(3)]
    ),
    "renyi(inf)": _of(categorical.renyi, alpha=INF),
    "renyi(0)": _of(categorical.renyi, alpha=0.0),
  }.get(name) or FUNCTIONS[name][0]
  p = jnp.array([WITH_ZEROS, WITH_ZEROS, [0, 1, 0, -INF, -INF]])
  q = jnp.array([OTHER_ZEROS, OTHER_ZEROS, [-INF, 1, 0, 2, -INF]])
  where = jnp.array([[True] * 5, [False] * 5, [True] * 5])
  with jax.debug_nans(True):
    value, pull = jax.vjp(lambda p, q: fn(p, q, where=where), p, q)
    slopes = pull(jnp.ones(3))
  assert value[1] == 0 and not np.isnan(value[2])
  for slope in slopes:
    assert np.all(np.isfinite(slope)) and np.all(slope[1] == 0)
    assert np.all(slope[0, [1, 4]] == 0)
  if name in FUNCTIONS:
    helpers.assert_close(value, every(p, q, where)[name])
    helpers.assert_close(
      jnp.stack(slopes), every_slope(p, q, where)[name], atol=1e-15
    )


def test_gradient_is_finite_whenever_the_value_is(key):
  """Random supports: +inf where infinite, never NaN, finite slopes."""
  keys = jax.random.split(key, 3)
  p, q = np.array(jax.random.normal(keys[0], (2, 200, 6)))
  p[np.array(jax.random.bernoulli(keys[1], 0.3, p.shape))] = -INF
  q[np.array(jax.random.bernoulli(keys[2], 0.3, q.shape))] = -INF
  p[:, 0], q[:, 5] = 0.3, 0.1
  in_p, in_q = p > -INF, q > -INF
  covered, covering = np.all(in_q | ~in_p, -1), np.all(in_p | ~in_q, -1)
  disjoint = ~np.any(in_p & in_q, -1)
  infinite = {
    "jeffreys": ~(covered & covering),
    "renyi(0.5)": disjoint,
    "cauchy_schwarz": disjoint,
  }
  for name in ("kl", "pearson_chi2", "alpha(1.5)", "renyi(2)", "tsallis(1.5)"):
    infinite[name] = ~covered
  for name in ("reverse_kl", "neyman_chi2"):
    infinite[name] = ~covering
  slopes = every_slope(p, q)
  for name, value in every(p, q).items():
    assert not np.isnan(value).any() and np.all(value > -1e-15)
    np.testing.assert_array_equal(np.isinf(value), infinite.get(name, False))
    # A violation of the support is a constant: its slope is finite as well.
    assert np.all(np.isfinite(slopes[name]))
    assert np.all(slopes[name][0, ~in_p] == 0)
    assert np.all(slopes[name][1, ~in_q] == 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_logits(dtype):
  """No NaN at 1e4, -1e30 or the type's lowest number; finite slopes."""
  low = float(np.finfo(dtype).min)
  p = [[1e4, 0, -1e4], [0, -1e30, -1e30], [0, low, low], [0, 0.5, -200]]
  q = [[-1e4, 0, 1e4], [0.5, 0.3, -1e30], [0.5, low, 0.3], [0, -130, 0.5]]
  p, q = np.array(p, dtype), np.array(q, dtype)
  p, q = np.concatenate([p, q]), np.concatenate([q, p])
  named, slopes = every(p, q), every_slope(p, q)
  for name, value in named.items():
    assert value.dtype == dtype and not np.isnan(value).any()
    assert np.isfinite(slopes[name][:, np.isfinite(value)]).all(), name
  # Far logits act like zeros, or as linearly as the formulas say.
  eps = 4 * np.finfo(dtype).eps
  for name, bound in (("jensen_shannon", L2), ("total_variation", 1)):
    helpers.assert_close(named[name][0], bound, rtol=eps)
  helpers.assert_close(named["kl"][0], 2e4, rtol=eps)
  helpers.assert_close(named["renyi(0.5)"][0], 2e4 - 2 * math.log(3), rtol=eps)
  helpers.assert_close(named["cauchy_schwarz"][0], 2e4 - math.log(3), rtol=eps)
  # -log softmax(.5, .3)[0] of a point mass.
  gap = math.log1p(math.exp(-0.2))
  helpers.assert_close(named["kl"][1:3], [gap, gap], rtol=4e-7)
  # An order-2 Renyi divergence whose exponentials overflow float32.
  shares = np.exp([0, 0.5]) / (1 + math.exp(0.5))
  log_q = np.array([-0.5 - math.log1p(math.exp(-0.5)), -130.5])
  log_q[1] -= math.log1p(math.exp(-0.5))
  mix = 2 * np.log(shares) - log_q
  helpers.assert_close(named["renyi(2)"][3], np.logaddexp(*mix), rtol=1e-6)


# --- masks, axes, types ------------------------------------------------------


def test_axis(key):
  keys = jax.random.split(key)
  p, q = np.asarray(jax.random.normal(keys[0], (2, 6, 4, 5)))
  where = np.asarray(jax.random.bernoulli(keys[1], 0.7, p.shape))
  for axis in (0, -2):
    last = [np.moveaxis(x, axis, -1) for x in (p, q, where)]
    expected = every(*last)
    for name, (fn, *_) in FUNCTIONS.items():
      moved = _of(fn, where=where, axis=axis)
      assert jax.eval_shape(moved, p, q).shape == expected[name].shape
      if axis == 0 and name in ("kl", "cauchy_schwarz"):  # both ways to move
        helpers.assert_close(jax.jit(moved)(p, q), expected[name])


def test_invariances(key):
  p, q = np.asarray(jax.random.normal(key, (2, 3, 6)))
  values, exchanged = every(p, q), every(q, p)
  order = np.array([4, 2, 0, 5, 1, 3])
  helpers.assert_close(every(p[:, order], q[:, order]), values)
  helpers.assert_close(every(p + 3, q - 2), values)
  partners = {"kl": "reverse_kl", "pearson_chi2": "neyman_chi2"}
  partners |= {
    name: name
    for name in ("jensen_shannon", "jeffreys", "total_variation", "le_cam")
  }
  partners |= {n: n for n in ("squared_hellinger", "cauchy_schwarz")}
  for name, partner in partners.items():
    helpers.assert_close(exchanged[name], values[partner])
  # The mixture of P with itself is P to rounding, squared in the divergence.
  for value in every(p, p).values():
    assert np.all(np.abs(value) < 1e-30)


def test_bfloat16_is_computed_in_float32(key):
  p, q = jax.random.normal(key, (2, 3, 7)).astype(jnp.bfloat16)
  values = VALUES(p, q)
  assert values.dtype == jnp.float32
  wide = [np.asarray(x).astype(np.float64) for x in (p, q)]
  exact = np.stack(list(every(*wide).values()))
  # The rounding of float32, far below bfloat16's 4e-3.
  helpers.assert_close(values, exact, rtol=1e-5)
  mixed = jax.eval_shape(categorical.kl, p, q.astype(jnp.float32))
  assert mixed.dtype == jnp.float32
  wider = jax.eval_shape(categorical.kl, p, q.astype(jnp.float64))
  assert wider.dtype == jnp.float64
  gjs = categorical.generalized_jensen_shannon
  assert jax.eval_shape(gjs, p, jnp.ones(3) / 3).dtype == jnp.float32


def test_transforms(key):
  p, q = jax.random.normal(key, (2, 2, 4))
  where = jnp.array([[True, False, True, True], [True, True, True, False]])

  # Operation by operation is `test_no_nan_inside_at_zeros_and_masks`.
  @jax.jit
  def everything(p, q, where):
    div = generators.f_divergence("jensen_shannon")
    values = [
      categorical.categorical_f_divergence(div, p, q, where=where),
      categorical.generalized_jensen_shannon(
        jnp.stack([p, q, p + q]),
        jnp.array([0.2, 0.3, 0.5], p.dtype),
        where=where,
      ),
      categorical.cauchy_schwarz(p, q, p + q, p - q, where=where),
    ]
    for alpha in (0.0, 1.0, INF):
      values.append(categorical.renyi(p, q, alpha=alpha, where=where))
    for fn in (
      *(FUNCTIONS[n][0] for n in ROWS if "(" not in n),
      _of(categorical.alpha_divergence, alpha=0.4),
      _of(categorical.hockey_stick, gamma=1.7),
      _of(categorical.renyi, alpha=2.0),
      _of(categorical.tsallis, q=1.5),
    ):
      values.append(fn(p, q, where=where))
    return jnp.stack(values)

  helpers.assert_transforms(lambda *x: everything(*x), p, q, where)


# --- float32 near equality ---------------------------------------------------


def test_float32_near_equality(key):
  """Relative errors at V = 1000 and KL = 5e-7, where plain forms lose all."""
  keys = jax.random.split(key)
  logits = np.asarray(jax.random.normal(keys[0], (8, 1000)))
  p = logits + 1e-3 * np.asarray(jax.random.normal(keys[1], (8, 1000)))
  p, q = p.astype(np.float32), logits.astype(np.float32)
  keep = np.ones(p.shape, bool)
  exact = VALUES(p.astype(float), q.astype(float), keep)
  exact = dict(zip(FUNCTIONS, np.asarray(exact), strict=True))
  assert np.all((exact["kl"] > 4e-7) & (exact["kl"] < 6e-7))
  values = every(p, q)
  assert values["kl"].dtype == np.float32
  # At a threshold of 1.7 all outcomes are below it.
  assert np.all(values.pop("hockey_stick(1.7)") == 0)
  errors = {n: np.max(np.abs(x / exact[n] - 1)) for n, x in values.items()}
  # Differences near 1e-3 of logarithms near 7, which are rounded to 2.4e-7:
  # 3e-4 for an outcome and, over a thousand, 1e-5.
  assert max(errors.values()) < 1e-4, errors

  @jax.jit
  def of_three(p, q):
    three, weights = jnp.stack([p, q, q]), jnp.array([0.3, 0.3, 0.4])
    return jnp.stack(
      [
        categorical.generalized_jensen_shannon(three, weights.astype(p.dtype)),
        categorical.cauchy_schwarz(p, q, q),
      ]
    )

  error = of_three(p, q) / of_three(p.astype(float), q.astype(float)) - 1
  assert np.max(np.abs(error)) < 1e-4

  @jax.jit
  def plain(p, q):
    a, b = jax.nn.log_softmax(p), jax.nn.log_softmax(q)
    m = jnp.logaddexp(a, b) - L2
    lse = jax.nn.logsumexp
    return {
      "kl": jnp.sum(jnp.exp(a) * (a - b), -1),
      "jensen_shannon": (
        jnp.sum(jnp.exp(a) * (a - m) + jnp.exp(b) * (b - m), -1) / 2
      ),
      "squared_hellinger": -jnp.expm1(lse((a + b) / 2, -1)),
      "pearson_chi2": jnp.expm1(lse(2 * a - b, -1)),
      "cauchy_schwarz": (lse(2 * a, -1) + lse(2 * b, -1)) / 2 - lse(a + b, -1),
    }

  for name, value in plain(p, q).items():
    assert value.dtype == np.float32
    error = np.max(np.abs(value / exact[name] - 1))
    assert error > 1e-3, (name, error)


def test_local_behaviour(key):
  """`D -> f''(1)/2 sum (p - q)^2/q`."""
  q, direction = np.asarray(jax.random.normal(key, (2, 6)))
  step = 1e-4
  p = q + step * direction
  values = every(p, q)
  a, b = scipy.special.softmax([p, q], -1)
  for name, div in ROWS.items():
    strength = float(div.f_second(jnp.ones(())))
    if strength > 0:
      # The next order is of relative size step.
      expected = strength / 2 * np.sum((a - b) ** 2 / b)
      helpers.assert_close(values[name], expected, rtol=5 * step)


# --- inequalities ------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs():
  """12 000 pairs with 2 to 7 outcomes, from flat to very peaked, and mixtures.

  One array of 7 outcomes, the absent ones masked: one compilation.
  """
  rng = np.random.default_rng(0)
  shape = (12_000, 7)
  where = np.arange(7) < np.repeat(np.arange(2, 8), 2_000)[:, None]
  concentration = 10 ** rng.uniform(-1.2, 1, (2, shape[0], 1))
  mass = np.maximum(rng.gamma(concentration, size=(2, *shape)), 1e-200) * where
  p, q = mass / mass.sum(-1, keepdims=True)
  with jax.enable_x64(True):
    return p, q, where, every(_log(p), _log(q), where)


def test_inequalities(pairs):
  d = pairs[3]
  kl, js, tv = d["kl"], d["jensen_shannon"], d["total_variation"]
  h2, lc, chi2 = d["squared_hellinger"], d["le_cam"], d["pearson_chi2"]
  entropy = scipy.special.entr
  h = entropy(0.3) + entropy(0.7)
  one = 1 - h2
  # Both forms of Bretagnolle and Huber bound TV; they are not ordered.
  chains = {
    "pinsker": (tv, np.sqrt(kl / 2)),
    "bretagnolle_huber": (tv, np.sqrt(-np.expm1(-kl))),
    "bretagnolle_huber_2": (tv, 1 - np.exp(-kl) / 2),
    "chi2": (kl, np.log1p(chi2), chi2),
    "hellinger_tv": (h2, tv, np.sqrt(h2 * (2 - h2))),
    "hellinger_kl": (2 * h2, -2 * np.log(one), kl),
    "js_hellinger": (L2 * h2, js, h2),
    "js_le_cam": (lc / 2, js, L2 * lc),
    "le_cam_hellinger": (h2, lc, 2 * h2),
    "le_cam_tv": (tv**2, lc, tv),
    "chi2_tv": (4 * tv**2, chi2),
    "js_tv": (tv**2 / 2, js, L2 * tv),
    "js_entropy": (L2 - entropy((1 - tv) / 2) - entropy((1 + tv) / 2), js),
    "skew_js_tv": (d["jensen_shannon(0.3)"], h * tv),
    "renyi": (d["renyi(0.5)"], kl, d["renyi(2)"]),
    "renyi_1/2": (-2 * np.log(one), d["renyi(0.5)"], -2 * np.log(one)),
  }
  for name, chain in chains.items():
    for lower, upper in itertools.pairwise(chain):
      # 1 - H2 as small as 1e-3 amplifies rounding where its log is taken.
      slack = 1e-11 * (1 + np.where(np.isfinite(upper), np.abs(upper), 0))
      violated = lower > upper + slack
      assert not violated.any(), (
        name,
        lower[violated][:3],
        upper[violated][:3],
      )
  # The draw is hard enough: ratios between 1e-4 and 1e4 and more occur.
  assert tv.min() < 1e-2 and tv.max() > 0.999 and kl.max() > 50


def test_data_processing_and_joint_convexity(pairs):
  p, q, where, d = pairs
  rng = np.random.default_rng(1)
  kernel = rng.dirichlet(np.full(7, 0.5), (*p.shape[:1], 7))
  coarse = [np.einsum("nv,nvw->nw", x, kernel) for x in (p, q)]
  keep_all = np.ones_like(where)
  processed = every(*map(_log, coarse), keep_all)
  # Pairs of the same number of outcomes are mixed with one weight.
  weight = rng.uniform(size=(p.shape[0], 1))
  shuffled = (np.arange(p.shape[0]) // 2_000) * 2_000 + rng.permutation(2_000)[
    np.arange(p.shape[0]) % 2_000
  ]
  mixed = [weight * x + (1 - weight) * x[shuffled] for x in (p, q)]
  mixtures = every(*map(_log, mixed), where)
  for name in FUNCTIONS:
    if name != "cauchy_schwarz":  # no f-divergence: neither law holds
      slack = 1e-12 * (1 + np.abs(d[name]))
      assert np.all(processed[name] <= d[name] + slack), name
    if name in ROWS or name.startswith("tsallis"):
      side = weight[:, 0] * d[name] + (1 - weight[:, 0]) * d[name][shuffled]
      assert np.all(mixtures[name] <= side * (1 + 1e-12) + 1e-13), name


def test_products(key):
  p1, q1, p2, q2 = scipy.special.log_softmax(
    np.asarray(jax.random.normal(key, (4, 3))), -1
  )
  p2, q2 = (scipy.special.log_softmax(x[:2]) for x in (p2, q2))
  joint = [(a[:, None] + b).reshape(-1) for a, b in ((p1, p2), (q1, q2))]
  first, second, both = every(p1, q1), every(p2, q2), every(*joint)
  for name in ("kl", "reverse_kl", "jeffreys", "renyi(0.5)", "renyi(2)"):
    helpers.assert_close(both[name], first[name] + second[name])
  one = 1 - first["squared_hellinger"]
  product = one * (1 - second["squared_hellinger"])
  helpers.assert_close(1 - both["squared_hellinger"], product)
  product = (1 + first["pearson_chi2"]) * (1 + second["pearson_chi2"])
  helpers.assert_close(1 + both["pearson_chi2"], product)
  # T(P x P') = T + T' + (q - 1) T T'
  t, other = first["tsallis(1.5)"], second["tsallis(1.5)"]
  helpers.assert_close(both["tsallis(1.5)"], t + other + 0.5 * t * other)
  # <p,q> factorises: so does the Cauchy-Schwarz affinity.
  total = first["cauchy_schwarz"] + second["cauchy_schwarz"]
  helpers.assert_close(both["cauchy_schwarz"], total)


def test_kl_has_a_chain_rule_and_jensen_shannon_has_not(key):
  joints = np.asarray(jax.random.normal(key, (2, 2, 3)))
  p, q = joints - scipy.special.logsumexp(joints, (1, 2), keepdims=True)
  marginals = [scipy.special.logsumexp(x, -1) for x in (p, q)]
  whole = every(p.reshape(-1), q.reshape(-1))
  marginal, conditional = every(*marginals), every(p, q)
  first, second = np.exp(marginals)
  chained = marginal["kl"] + np.sum(first * conditional["kl"])
  helpers.assert_close(chained, whole["kl"])
  for weights in (first, second, (first + second) / 2):
    conditional_js = np.sum(weights * conditional["jensen_shannon"])
    gap = marginal["jensen_shannon"] + conditional_js - whole["jensen_shannon"]
    assert abs(gap) > 1e-4


# --- orders ------------------------------------------------------------------


def test_alpha_divergence_special_orders(key):
  p, q = 2 * jax.random.normal(key, (2, 5, 6))
  at, hockey = jax.jit(
    lambda p, q: (
      {
        a: categorical.alpha_divergence(p, q, alpha=a)
        for a in (1.0, 0.0, 2.0, -1.0, 0.5)
      },
      categorical.hockey_stick(p, q, gamma=1.0),
    )
  )(p, q)
  values = every(p, q)
  helpers.assert_close(at[1.0], values["kl"])
  helpers.assert_close(at[0.0], values["reverse_kl"])
  helpers.assert_close(2 * at[2.0], values["pearson_chi2"])
  helpers.assert_close(2 * at[-1.0], values["neyman_chi2"])
  helpers.assert_close(at[0.5], 4 * values["squared_hellinger"])
  helpers.assert_close(hockey, values["total_variation"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_orders_are_continuous_at_0_and_1(dtype, key):
  """No jump at 1e-6 and 1e-3, in value and slope."""
  p, q = np.asarray(jax.random.normal(key, (2, 4, 6))).astype(dtype)

  def alpha(order):
    return categorical.alpha_divergence(p, q, alpha=order)

  def renyi(order):
    return categorical.renyi(p, q, alpha=order)

  def slope(order):
    return jax.grad(
      lambda x: categorical.alpha_divergence(x, q, alpha=order).sum()
    )(p)

  cases = [(alpha, 1.0), (alpha, 0.0), (slope, 1.0), (slope, 0.0), (renyi, 1.0)]
  steps = (1e-6, -1e-6, 1e-3, -1e-3)
  out = jax.jit(
    lambda: [(fn(at), [fn(at + s) for s in steps]) for fn, at in cases]
  )()
  for (limit, values), (fn, at) in zip(out, cases, strict=True):
    scale = float(np.max(np.abs(limit)))
    for step, value in zip(steps, values, strict=True):
      # The derivative in the order is below 3 times the scale here.
      error = float(np.max(np.abs(value - limit))) / scale
      limit_error = 3 * abs(step) + 20 * np.finfo(dtype).eps
      assert error < limit_error, (fn.__name__, at, step, error)
    if dtype == np.float64:
      # The mean of both sides is closer, of second order.
      middle = (values[2] + values[3]) / 2
      helpers.assert_close(middle, limit, rtol=1e-5, atol=1e-5 * scale)


def test_renyi(key):
  p, q = np.array(2 * jax.random.normal(key, (2, 6, 5)))
  p[:, 0] = -INF
  r = q.copy()
  r[:, 0] = -INF
  orders = (0.0, 0.2, 0.5, 0.8, 1 - 1e-6, 1.0, 1 + 1e-6, 1.3, 2.0, 7.0, 60.0)
  orders += (INF,)
  at = jax.jit(
    lambda p, q: {a: categorical.renyi(p, q, alpha=a) for a in orders}
  )
  forward, inside, swapped = at(p, q), at(p, r), at(r, p)
  a, b = scipy.special.softmax([p, q], -1)
  for alpha in (0.2, 0.5, 0.8, 1.3, 2.0, 7.0, 60.0):
    power = (a[:, 1:] ** alpha * b[:, 1:] ** (1 - alpha)).sum(-1)
    helpers.assert_close(forward[alpha], np.log(power) / (alpha - 1), rtol=1e-9)
  values = every(p, q)
  one = 1 - values["squared_hellinger"]
  helpers.assert_close(forward[0.5], -2 * np.log(one))
  helpers.assert_close(forward[2.0], np.log1p(values["pearson_chi2"]))
  helpers.assert_close(forward[1.0], values["kl"])
  helpers.assert_close(forward[0.0], -np.log(b[:, 1:].sum(-1)))
  helpers.assert_close(forward[INF], np.log((a / b)[:, 1:].max(-1)))
  # Skew symmetry: R_al(P||Q) = al/(1-al) R_{1-al}(Q||P).
  helpers.assert_close(inside[0.2], 0.25 * swapped[0.8], rtol=1e-9)
  ladder = np.stack([forward[a] for a in orders])
  assert np.all(np.diff(ladder, axis=0) > -1e-12)
  # R_inf - log(1/p_max)/al <= R_al at large orders.
  helpers.assert_close(forward[60.0], forward[INF], rtol=0.1, atol=0.1)
  # Entropic risk: (1/lam) log E_Q exp(lam log(q/p)) = R_{1+lam}(Q||P).
  a, b = scipy.special.softmax([p, r], -1)[:, :, 1:]
  for lam in (1.0, 0.3):
    risk = np.log((b * np.exp(lam * np.log(b / a))).sum(-1)) / lam
    helpers.assert_close(swapped[1 + lam], risk)


def test_renyi_on_disjoint_and_uncovered_supports():
  p = np.array([[0.0, -INF, 0.0], [0.0, -INF, 0.0]])
  q = np.array([[-INF, 0.0, 1.0], [-INF, 0.0, -INF]])
  orders = (0.0, 0.5, 1.0, 2.0, INF)
  values = jax.jit(
    lambda: [categorical.renyi(p, q, alpha=alpha) for alpha in orders]
  )()
  for alpha, (uncovered, disjoint) in zip(orders, values, strict=True):
    assert np.isinf(uncovered) == (alpha >= 1), alpha
    assert disjoint == INF


def test_tsallis(key):
  p, q = np.asarray(jax.random.normal(key, (2, 5, 6)))
  a, b = scipy.special.softmax([p, q], -1)

  def ln(x, index):
    return (x ** (1 - index) - 1) / (1 - index)

  values = jax.jit(
    lambda: {i: categorical.tsallis(p, q, q=i) for i in (0.6, 1.0, 1.7)}
  )()
  for index in (0.6, 1.7):
    # Both conventions of the q-logarithm: E_P[-ln_q(Q/P)], E_P[ln_{2-q}(P/Q)].
    helpers.assert_close(values[index], -(a * ln(b / a, index)).sum(-1))
    helpers.assert_close(values[index], (a * ln(a / b, 2 - index)).sum(-1))
  helpers.assert_close(values[1.0], every(p, q)["kl"])


# --- mixtures ----------------------------------------------------------------


def _entropy_form(logits, w):
  p = scipy.special.softmax(logits, -1)
  entropy = scipy.special.entr
  mixture = entropy(np.tensordot(w, p, 1)).sum(-1)
  return mixture - np.tensordot(w, entropy(p).sum(-1), 1)


def test_generalized_jensen_shannon(key):
  logits = np.array(2 * jax.random.normal(key, (3, 4, 5)))
  logits[0, 0, 0], logits[1, 0, 1] = -INF, -INF
  w, keep = np.array([0.2, 0.5, 0.3]), np.ones((4, 5), bool)
  value = GJS(logits, w, where=keep)
  helpers.assert_close(value, _entropy_form(logits, w))
  bound = scipy.special.entr(w).sum()
  assert np.all(value >= 0) and np.all(value <= bound)
  # H(w) is attained on disjoint supports.
  disjoint = np.full((3, 4, 5), -INF)
  for k in range(3):
    disjoint[k, :, k] = 0
  helpers.assert_close(GJS(disjoint, w, where=keep), np.full(4, bound))
  # Order of the arguments, masks, a zero weight.
  order = np.array([2, 0, 1])
  helpers.assert_close(GJS(logits[order], w[order], where=keep), value)
  where = np.array([True, False, True, True, False])
  dirty = np.where(where, logits, np.nan)
  masked = GJS(dirty, w, where=np.broadcast_to(where, (4, 5)))
  helpers.assert_close(masked, _entropy_form(logits[..., where], w))
  assert np.all(GJS(dirty, w, where=~keep) == 0)
  two = np.array([0.4, 0.6, 0.0])
  stranger = logits.copy()
  stranger[2] = _log(np.array([0, 0, 0, 0, 1.0]))
  value = GJS(stranger, two, where=keep)
  helpers.assert_close(value, _entropy_form(logits[:2], two[:2]))
  binary = jax.jit(_of(categorical.jensen_shannon, weight=0.4))
  helpers.assert_close(value, binary(logits[0], logits[1]))


def test_generalized_jensen_shannon_slope_in_the_weights(key):
  """`d/dw_k = KL(P_k||M)` on the simplex, also where w_k = 0."""
  logits = np.asarray(jax.random.normal(key, (3, 4, 5)))
  w = np.array([0.4, 0.6, 0.0])
  slope = jax.jit(
    jax.jacrev(categorical.generalized_jensen_shannon, argnums=1)
  )(logits, w)
  m = np.tensordot(w, scipy.special.softmax(logits, -1), 1)
  kls = every(logits, np.broadcast_to(np.log(m), logits.shape))["kl"]
  helpers.assert_close(slope, kls.T)


def test_weight_of_jensen_shannon_is_continuous_at_its_ends():
  """`JS_w / (w (1-w))` tends to KL(P||Q), and JS_w itself to 0."""
  p, q = _log(P), _log(Q)
  weights = (1e-2, 1e-4, 1e-6)
  rescaled, ends, plain = jax.jit(
    lambda: [
      [
        categorical.jensen_shannon(p, q, weight=x, rescale=rescale)
        for x in weights_
      ]
      for weights_, rescale in (
        (weights, True),
        ([1 - w for w in weights], True),
        (weights, False),
      )
    ]
  )()
  both = every(p, q)
  kl, backward = both["kl"], both["reverse_kl"]
  # First order in w with slope KL - chi2/2 (from the expansion of KL(Q||M)).
  slope = kl - both["pearson_chi2"] / 2
  for w, value, end, small in zip(weights, rescaled, ends, plain, strict=True):
    assert abs(value - kl) < 1.2 * abs(slope) * w + 1e-10
    assert abs(end - backward) < 2 * w
    helpers.assert_close(small, value * w * (1 - w))
  helpers.assert_close((rescaled[1] - kl) / 1e-4, slope, rtol=1e-2)


def test_distillation_form_of_the_mixture():
  """GKD: `b KL(T||M) + (1-b) KL(S||M)`, `M = b T + (1-b) S`."""
  for b in (0.1, 0.5, 0.9):
    m = b * P + (1 - b) * Q
    expected = b * np.sum(P * np.log(P / m)) + (1 - b) * np.sum(
      Q * np.log(Q / m)
    )
    value = categorical.jensen_shannon(_log(P), _log(Q), weight=b)
    helpers.assert_close(value, expected)


def _hoelder(logits):
  m, mass = len(logits), np.exp(np.stack(logits))
  norms = (mass**m).sum(-1) ** (1 / m)
  with np.errstate(divide="ignore"):
    return -np.log(mass.prod(0).sum(-1) / norms.prod(0))


def test_cauchy_schwarz(key):
  logits = list(np.asarray(2 * jax.random.normal(key, (4, 3, 5))))
  keep = np.ones((3, 5), bool)
  for m in (2, 3, 4):
    value = CS(*logits[:m], where=keep)
    helpers.assert_close(value, _hoelder(logits[:m]))
    assert np.all(value >= 0)
    shifts = (3, -40, 7, 0)[:m]
    scaled = [x + s for x, s in zip(logits[:m], shifts, strict=True)]
    helpers.assert_close(CS(*scaled, where=keep), value, rtol=1e-12)
    swapped = CS(*logits[:m][::-1], where=keep)
    helpers.assert_close(swapped, value, rtol=1e-12)
    same = CS(*(logits[0] + k for k in range(m)), where=keep)
    assert np.all(np.abs(same) < 1e-15)
  # m = 2 is minus the log of a cosine.
  p, q = np.exp(np.stack(logits[:2]))
  cosine = (p * q).sum(-1) / np.linalg.norm(p, axis=-1)
  cosine /= np.linalg.norm(q, axis=-1)
  helpers.assert_close(CS(*logits[:2], where=keep), -np.log(cosine))


def test_cauchy_schwarz_of_three_at_zeros_and_masks(key):
  logits = list(np.asarray(2 * jax.random.normal(key, (3, 3, 5))))
  keep = np.ones((3, 5), bool)
  zeros = [x.copy() for x in logits]
  for k, x in enumerate(zeros):
    x[:, k] = -INF
  helpers.assert_close(CS(*zeros, where=keep), _hoelder(zeros))
  where = np.arange(5) != 2
  dirty = [np.where(where, x, np.nan) for x in logits]
  masked = CS(*dirty, where=np.broadcast_to(where, (3, 5)))
  helpers.assert_close(masked, _hoelder([x[:, where] for x in logits]))
  assert np.all(CS(*dirty, where=~keep) == 0)
  empty = np.full((3, 5), -INF)
  for arguments in ((logits[0], empty, empty), (*logits[:2], empty)):
    assert np.all(CS(*arguments, where=keep) == INF)


# --- refusals ----------------------------------------------------------------


@pytest.mark.parametrize(
  ("fn", "options", "message"),
  [
    (
      categorical.jensen_shannon,
      {"weight": 0.0},
      r"weight must be in \(0, 1\)",
    ),
    (categorical.hockey_stick, {"gamma": 0.5}, "gamma must be at least 1"),
    (categorical.renyi, {"alpha": -0.1}, "alpha must be at least 0, was -0.1"),
    (categorical.tsallis, {"q": 0.0}, "q must be above 0, was 0.0"),
    (categorical.alpha_divergence, {"alpha": INF}, "alpha must be finite"),
  ],
)
def test_bad_options_raise(fn, options, message):
  with pytest.raises(ValueError, match=message):
    fn(jnp.zeros(3), jnp.zeros(3), **options)


def test_one_argument_raises():
  with pytest.raises(ValueError, match="at least two arguments, got 1"):
    categorical.cauchy_schwarz(jnp.zeros(3))


@pytest.mark.parametrize("name", NAMES)
def test_wrong_shapes_and_types_raise(name):
  fn = FUNCTIONS[name][0]
  logits = "logits" if name == "cauchy_schwarz" else "p_logits"
  with pytest.raises(AssertionError, match=rf"need one shape: {logits}"):
    fn(jnp.zeros((2, 3)), jnp.zeros(3))
  with pytest.raises(AssertionError, match=r"need floats: .* int"):
    fn(jnp.zeros(3), jnp.zeros(3, int))
  with pytest.raises(AssertionError, match=r"need one shape: .* where \(3,\)"):
    fn(jnp.zeros((2, 3)), jnp.zeros((2, 3)), where=jnp.ones(3, bool))


def test_wrong_shapes_of_generalized_jensen_shannon_raise():
  gjs = categorical.generalized_jensen_shannon
  with pytest.raises(AssertionError, match=r"logits \(3,\), weights \(2,\)"):
    gjs(jnp.zeros((3, 4)), jnp.ones(2) / 2)
  with pytest.raises(AssertionError, match=r"need one shape: .* where \(3,\)"):
    gjs(jnp.zeros((3, 4)), jnp.ones(3) / 3, where=jnp.ones(3, bool))
  with pytest.raises(AssertionError, match="need floats: .* int"):
    gjs(jnp.zeros((3, 4)), jnp.ones(3, int))
