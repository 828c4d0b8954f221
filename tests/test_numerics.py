# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxalign import numerics
from tests import helpers

MASK = np.array([[True, True, False, True], [False, False, False, False]])
DIRTY = np.array([[1.0, 4.0, np.nan, 2.0], [np.nan, np.inf, -np.inf, np.nan]])


@pytest.mark.parametrize(
  ("fn", "expected"),
  [
    (numerics.masked_sum, [7.0, 0.0]),
    (numerics.masked_mean, [7 / 3, 0.0]),
    (numerics.masked_var, [np.var([1, 4, 2]), 0.0]),
    (numerics.masked_logsumexp, [np.log(np.exp([1, 4, 2]).sum()), -np.inf]),
  ],
)
def test_masked_reductions_select(fn, expected):
  value = fn(jnp.array(DIRTY), jnp.array(MASK), -1)
  helpers.assert_close(value, np.array(expected))
  gradient = jax.grad(lambda x: fn(x, jnp.array(MASK), -1)[0])(DIRTY)
  assert np.all(np.isfinite(gradient)) and np.all(gradient[~MASK] == 0)
  helpers.assert_transforms(
    lambda x, m: fn(x, m, -1),
    jnp.stack([DIRTY, 2 * DIRTY]),
    jnp.stack([MASK, MASK]),
  )


def test_masked_var_edges():
  x = jnp.array([3.0, jnp.nan, 5.0])
  one = jnp.array([True, False, False])
  assert numerics.masked_var(x, one, ddof=1) == 0
  two = jnp.array([True, False, True])
  helpers.assert_close(numerics.masked_var(x, two, ddof=1), 2.0)
  # Two passes: equal rewards have variance exactly 0, whatever their size.
  equal = jnp.full((64,), 12345.678, jnp.float32)
  assert numerics.masked_var(equal, jnp.ones(64, bool)) < 1e-5


def test_masked_log_softmax_equals_slice():
  logits = jnp.array([0.3, jnp.nan, -jnp.inf, 1.2])
  mask = jnp.array([True, False, True, True])
  value = numerics.masked_log_softmax(logits, mask)
  sliced = jax.nn.log_softmax(logits[mask])
  helpers.assert_close(value[mask], sliced)
  assert value[1] == -jnp.inf
  with jax.debug_nans(True):
    gradient = jax.grad(lambda x: numerics.masked_log_softmax(x, mask)[0])(
      jnp.array([0.3, 0.0, -jnp.inf, 1.2])
    )
  assert gradient[1] == 0 and gradient[2] == 0
  nothing = numerics.masked_log_softmax(logits, jnp.zeros(4, bool))
  assert np.all(nothing == -jnp.inf)


@pytest.mark.parametrize("enabled", [True, False])
def test_zero_log_zero(enabled):
  with jax.debug_nans(enabled):
    zero = jnp.zeros(())
    assert numerics.xlogy(zero, zero) == 0
    assert jax.grad(numerics.xlogy, (0, 1))(zero, zero) == (0, 0)
    assert jax.jvp(numerics.xlogy, (zero, zero), (1.0, 1.0)) == (0, 0)
    gone = jnp.array(-jnp.inf)
    assert numerics.plogp(gone) == 0 and jax.grad(numerics.plogp)(gone) == 0
    assert jax.jvp(numerics.plogp, (gone,), (1.0,)) == (0, 0)


def test_elementary_forms_against_scipy():
  x = np.linspace(0.01, 4, 50)
  helpers.assert_close(numerics.xlogy(x, x), scipy.special.xlogy(x, x))
  helpers.assert_close(numerics.plogp(np.log(x)), scipy.special.xlogy(x, x))
  log_x = -np.geomspace(1e-18, 700, 200)
  helpers.assert_close(
    numerics.log1mexp(log_x), np.log(-np.expm1(log_x)), rtol=1e-12
  )
  assert numerics.log1mexp(-np.inf) == 0 and numerics.log1mexp(0.0) == -np.inf
  assert jax.grad(numerics.log1mexp)(-np.inf) == 0
  real = np.linspace(-50, 300, 400)
  helpers.assert_close(
    numerics.wright_omega(real), scipy.special.wrightomega(real), rtol=1e-13
  )
  helpers.assert_gradient(lambda x: numerics.wright_omega(x), np.array(1.3))
  helpers.assert_gradient(lambda x: numerics.log1mexp(x), np.array(-0.3))


def test_exp_diff_keeps_relative_accuracy():
  x = np.concatenate(
    [np.geomspace(1e-12, 50, 200), -np.geomspace(1e-12, 50, 200)]
  )
  value = numerics.exp_diff(jnp.array(x), jnp.zeros_like(x))
  helpers.assert_close(value, np.expm1(x), rtol=1e-14)
  tiny = jnp.float32(1e-6)
  np.testing.assert_allclose(
    numerics.exp_diff(tiny, jnp.float32(0)), 1e-6, rtol=1e-5
  )


def test_log_ratio_is_exact_to_rounding():
  y = np.geomspace(1e-300, 1e300, 7)[:, None]
  for x in (
    1 + np.geomspace(1e-12, 1e4, 50),
    1 - np.geomspace(1e-12, 0.99, 50),
  ):
    # What rounding leaves of x is known, and so is its logarithm.
    value = numerics.log_ratio(jnp.array(x * 2.0), jnp.full(x.shape, 2.0))
    expected = np.log(x.astype(np.longdouble)).astype(float)
    helpers.assert_close(value, expected, rtol=1e-14, atol=0)
    scaled = numerics.log_ratio(jnp.array(1e4 * y), jnp.array(y))
    helpers.assert_close(scaled, np.full_like(y, np.log(1e4)), rtol=1e-12)
  grads = jax.grad(numerics.log_ratio, (0, 1))(jnp.array(0.3), jnp.array(0.2))
  helpers.assert_close(grads, (1 / 0.3, -1 / 0.2))
  pair = np.array([0.2, 0.3])
  helpers.assert_transforms(numerics.log_ratio, pair, pair[::-1])


def test_gradient_only_has_no_value():
  x = jnp.array([0.3, -2.0])
  value, gradient = jax.value_and_grad(
    lambda x: jnp.sum(numerics.gradient_only(x**2))
  )(x)
  assert value == 0
  helpers.assert_close(gradient, 2 * x)
  helpers.assert_transforms(numerics.gradient_only, x)


def test_bisect_root_side_and_gradients():
  targets = jnp.array([0.2, 3.0, 40.0])

  def root(a):
    return numerics.bisect(
      lambda x: x**3 + x - a, jnp.zeros_like(a), jnp.full_like(a, 10)
    )

  x = root(targets)
  helpers.assert_close(x**3 + x, targets)
  assert np.all(x**3 + x <= targets)
  expected = 1 / (3 * x**2 + 1)
  helpers.assert_close(jax.grad(lambda a: root(a).sum())(targets), expected)
  helpers.assert_close(jax.jvp(root, (targets,), (jnp.ones(3),))[1], expected)
  helpers.assert_transforms(root, jnp.stack([targets, targets + 1]))


def test_wider_types_are_kept():
  assert numerics.as_float(np.zeros(1, np.float16)).dtype == jnp.float32
  assert numerics.as_float(np.zeros(1, np.float64)).dtype == jnp.float64
  helpers.assert_keeps_float32(numerics.xlogy, np.ones(3), np.ones(3))
  helpers.assert_keeps_float32(numerics.wright_omega, np.ones(3))
  helpers.assert_keeps_float32(numerics.log1mexp, -np.ones(3))
