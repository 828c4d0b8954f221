# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from jaxalign.divergences.bregman import (
  bregman,
  fermi_dirac,
  generalized_kl,
  itakura_saito,
  squared_euclidean,
)
from tests import helpers

X = np.array([[0.3, 0.8, 0.1], [0.6, 0.2, 0.9]])
Y = np.array([[0.5, 0.4, 0.7], [0.1, 0.3, 0.2]])
Z = np.array([[0.2, 0.9, 0.4], [0.7, 0.6, 0.8]])


def logit(x):
  return jnp.log(x) - jnp.log1p(-x)


# Name: (potential F, its conjugate F*, the divergence of points in (0, 1)).
TABLE = {
  "squared_euclidean": (
    lambda x: jnp.sum(x**2, -1) / 2,
    lambda t: jnp.sum(t**2, -1) / 2,
    squared_euclidean,
  ),
  "generalized_kl": (
    lambda x: jnp.sum(x * jnp.log(x) - x, -1),
    lambda t: jnp.sum(jnp.exp(t), -1),
    generalized_kl,
  ),
  "itakura_saito": (
    lambda x: -jnp.sum(jnp.log(x), -1),
    lambda t: -jnp.sum(jnp.log(-t) + 1, -1),
    itakura_saito,
  ),
  "fermi_dirac": (
    lambda x: jnp.sum(x * jnp.log(x) + (1 - x) * jnp.log1p(-x), -1),
    lambda t: jnp.sum(jax.nn.softplus(t), -1),
    lambda x, y: fermi_dirac(logit(x), logit(y)),
  ),
  "cubic": (
    lambda x: jnp.sum(x**3, -1),
    None,
    functools.partial(bregman, lambda x: jnp.sum(x**3, -1)),
  ),
}
LOGITS = (np.log(X / (1 - X)), np.log(Y / (1 - Y)))


def gradient(potential, x):
  return jax.grad(lambda x: potential(x).sum())(x)


# --- exact -------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLE)
def test_named_ones_are_bregman_of_their_potential(name):
  potential, _, divergence = TABLE[name]
  slope = gradient(potential, Y)
  written = potential(X) - potential(Y) - jnp.sum(slope * (X - Y), -1)
  helpers.assert_close(bregman(potential, X, Y), written)
  helpers.assert_close(divergence(X, Y), written)
  assert np.all(divergence(X, Y) > 0)
  helpers.assert_close(divergence(X, X), np.zeros(2), atol=1e-14)


def test_against_scipy_and_optax():
  zeros = np.array([0.0, 0.3, 0.0, 2.0])
  other = np.array([0.7, 0.3, 0.0, 0.0])
  expected = scipy.special.kl_div(zeros, other)
  value = generalized_kl(zeros[:, None], other[:, None])
  helpers.assert_close(value, expected)
  assert expected[-1] == np.inf
  helpers.assert_close(
    generalized_kl(X, Y), optax.losses.generalized_kl_divergence(np.log(Y), X)
  )
  binary = scipy.special.rel_entr(X, Y) + scipy.special.rel_entr(1 - X, 1 - Y)
  helpers.assert_close(fermi_dirac(*LOGITS), binary.sum(-1))
  helpers.assert_close(
    itakura_saito(X, Y), np.sum(X / Y - np.log(X / Y) - 1, -1)
  )
  helpers.assert_close(squared_euclidean(X, Y), np.sum((X - Y) ** 2, -1) / 2)


def test_dual_form_of_fermi_dirac():
  a, b = LOGITS
  softplus = functools.partial(np.logaddexp, 0)
  dual = softplus(b) - softplus(a) - scipy.special.expit(a) * (b - a)
  helpers.assert_close(fermi_dirac(a, b), dual.sum(-1))


# --- identities --------------------------------------------------------------


@pytest.mark.parametrize("name", TABLE)
def test_three_point_identity(name):
  potential, _, divergence = TABLE[name]
  slopes = gradient(potential, Y) - gradient(potential, Z)
  mixed = jnp.sum(slopes * (X - Y), -1)
  expected = divergence(X, Y) + divergence(Y, Z) + mixed
  helpers.assert_close(divergence(X, Z), expected)


@pytest.mark.parametrize("name", [n for n in TABLE if n != "cubic"])
def test_duality(name):
  potential, conjugate, divergence = TABLE[name]
  s, t = gradient(potential, X), gradient(potential, Y)
  helpers.assert_close(bregman(conjugate, t, s), divergence(X, Y))


@pytest.mark.parametrize("name", TABLE)
def test_mean_minimises_in_the_second_argument_only(name):
  _, _, divergence = TABLE[name]
  points = jnp.array(np.concatenate([X, Y, Z]))
  repeat = lambda x: jnp.broadcast_to(x, points.shape)
  second = jax.jit(lambda x: divergence(points, repeat(x)).mean())
  first = jax.jit(lambda x: divergence(repeat(x), points).mean())
  mean = points.mean(0)
  helpers.assert_close(jax.grad(second)(mean), np.zeros(3))
  for direction in np.random.default_rng(0).normal(size=(10, 3)):
    assert second(mean + 0.02 * direction) > second(mean)
  slope = jnp.abs(jax.grad(first)(mean)).max()
  if name == "squared_euclidean":
    assert slope < 1e-12
  else:
    assert slope > 1e-2


def test_invariances():
  helpers.assert_close(itakura_saito(7 * X, 7 * Y), itakura_saito(X, Y))
  helpers.assert_close(generalized_kl(7 * X, 7 * Y), 7 * generalized_kl(X, Y))
  helpers.assert_close(squared_euclidean(X + 7, Y + 7), squared_euclidean(X, Y))
  a, b = LOGITS
  helpers.assert_close(fermi_dirac(-a, -b), fermi_dirac(a, b))
  for _, _, divergence in TABLE.values():
    flipped = divergence(X[:, ::-1], Y[:, ::-1])
    helpers.assert_close(flipped, divergence(X, Y))


# --- gradients ---------------------------------------------------------------


@pytest.mark.parametrize("name", TABLE)
def test_gradients(name):
  fn = jax.jit(TABLE[name][2])
  helpers.assert_gradient(fn, X[0], Y[0])
  # grad_x = gF(x) - gF(y), and both vanish at equality.
  potential = TABLE[name][0]
  expected = gradient(potential, X[0]) - gradient(potential, Y[0])
  helpers.assert_close(jax.grad(fn)(X[0], Y[0]), expected)
  with jax.debug_nans(True):
    for g in jax.grad(fn, (0, 1))(X[0], X[0]):
      helpers.assert_close(g, np.zeros(3), atol=1e-14)


def test_fermi_dirac_gradients_in_logits():
  helpers.assert_gradient(jax.jit(fermi_dirac), *(z[0] for z in LOGITS))


# --- edges -------------------------------------------------------------------


def test_zeros():
  x = jnp.array([[0.0, 0.5], [0.5, 0.3], [0.0, 0.2]])
  y = jnp.array([[0.4, 0.5], [0.0, 0.3], [0.0, 0.2]])
  with jax.debug_nans(True):
    helpers.assert_close(generalized_kl(x, y), [0.4, np.inf, 0.0])
    helpers.assert_close(itakura_saito(x, y), [np.inf, np.inf, 0.0])
    slopes = jax.grad(lambda *z: generalized_kl(*z).sum(), (0, 1))(x, y)
    # At x = 0 the divergence is y, which has slope 1 also at y = 0.
    expected = ([[0, 0], [0, 0], [0, 0]], [[1, 0], [0, 0], [1, 0]])
    for slope, e in zip(slopes, expected, strict=True):
      helpers.assert_close(slope, np.array(e, float))
    for slope in jax.grad(lambda *z: itakura_saito(*z).sum(), (0, 1))(x, y):
      assert np.all(slope == 0)
    tangent = jax.jvp(generalized_kl, (x, y), (jnp.ones((3, 2)),) * 2)[1]
    helpers.assert_close(tangent, [1.0, 0.0, 1.0])


def test_infinite_logits():
  inf, soft = np.inf, np.logaddexp(0, 0.7)
  cases = [
    (-inf, 0.7, soft),
    (inf, 0.7, soft - 0.7),
    (0.7, -inf, inf),
    (0.7, inf, inf),
    (-inf, -inf, 0.0),
    (inf, inf, 0.0),
    (-inf, inf, inf),
    (inf, -inf, inf),
  ]
  a, b, expected = (
    jnp.array(column)[:, None] for column in zip(*cases, strict=True)
  )
  with jax.debug_nans(True):
    helpers.assert_close(fermi_dirac(a, b), expected[:, 0])
    slopes = jax.grad(lambda *z: fermi_dirac(*z).sum(), (0, 1))(a, b)
  assert np.all(np.isfinite(slopes[0])) and np.all(slopes[0][:2] == 0)
  # At x in {0, 1} the slope in b is that of the loss of a classifier.
  sigma = scipy.special.expit(0.7)
  helpers.assert_close(slopes[1][:2, 0], [sigma, sigma - 1])
  assert np.all(slopes[1][2:] == 0) and np.all(slopes[0][4:] == 0)


def test_float32_near_equality():
  rng = np.random.default_rng(0)
  x = np.exp(3 * rng.normal(size=(200, 1))).astype(np.float32)
  y = x * np.exp(1e-3 * rng.normal(size=(200, 1))).astype(np.float32)
  t = (x.astype(np.float64) - y) / y
  spread = t - np.log1p(t)  # known to 1e-16 / 1e-3
  # Differences of 1e-3 are known to 1e-4 in float32, a few of which are small.
  kept = np.abs(t[:, 0]) > 1e-4
  close = functools.partial(helpers.assert_close, rtol=1e-4, atol=0)
  close(itakura_saito(x, y)[kept], spread[kept, 0])
  back = -t / (1 + t)
  close(generalized_kl(x, y)[kept], (x * (back - np.log1p(back)))[kept, 0])
  a = rng.normal(size=(200, 1)).astype(np.float32)
  b = a + np.float32(1e-3)
  delta = b.astype(np.float64) - a
  sigma = scipy.special.expit(a.astype(np.float64))
  # log(1 - s + s e^d) - s d; one logarithm of each is known to 6e-8.
  exact = np.log1p(sigma * np.expm1(delta)) - sigma * delta
  close(fermi_dirac(a, b), exact[:, 0], rtol=1e-3)


def test_float32_extremes():
  # The ratio of these does not fit into float32.
  tiny, large = np.float32([1e-37]), np.float32([100.0])
  close = functools.partial(np.testing.assert_allclose, rtol=1e-6)
  with jax.debug_nans(True):
    close(generalized_kl(tiny, large), 100.0)
    close(generalized_kl(large, tiny), 100 * np.log(1e39) - 100)
    close(itakura_saito(tiny, large), np.log(1e39) - 1)
    close(fermi_dirac(np.float32([-40.0]), np.float32([300.0])), 300)
    for fn in (generalized_kl, itakura_saito):
      slopes = jax.grad(fn, (0, 1))(np.float32([1e-30]), large)
      assert np.all(np.isfinite(slopes))


# --- transforms and errors ---------------------------------------------------


@pytest.mark.parametrize("name", TABLE)
def test_transforms(name):
  fn = TABLE[name][2]
  helpers.assert_transforms(lambda x, y: fn(x, y), X, Y)


def test_fermi_dirac_transforms():
  helpers.assert_transforms(fermi_dirac, *LOGITS)


@pytest.mark.parametrize("name", TABLE)
def test_bfloat16_computes_in_float32(name):
  low = [jnp.asarray(z, jnp.bfloat16) for z in (X, Y)]
  fn = TABLE[name][2] if name != "fermi_dirac" else fermi_dirac
  value = fn(*low)
  assert value.dtype == jnp.float32
  helpers.assert_close(value, fn(*(z.astype(jnp.float32) for z in low)), rtol=0)


def test_errors():
  for fn in (generalized_kl, itakura_saito, squared_euclidean):
    with pytest.raises(AssertionError, match=r"x \(2, 3\), y \(3,\)"):
      fn(X, Y[0])
    with pytest.raises(AssertionError, match="need floats"):
      fn(np.ones(3, int), np.ones(3, int))
  with pytest.raises(AssertionError, match=r"x_logits \(2, 3\), y_logits"):
    fermi_dirac(X, Y[0])
  with pytest.raises(AssertionError, match=r"x \(2, 3\), y \(3,\)"):
    bregman(lambda x: jnp.sum(x, -1), X, Y[0])
  with pytest.raises(AssertionError, match="potential must map"):
    bregman(lambda x: x**2, X, Y)
