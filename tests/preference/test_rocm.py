# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import divergences, preference
from tests import helpers

RNG = np.random.default_rng(0)
N, D = 2, 3
MEAN, REF_MEAN = RNG.normal(size=(2, N, D))
SCALE = np.array([0.8, 1.7])
SQUARES = np.sum((MEAN - REF_MEAN) ** 2, -1) / SCALE**2
NAMES = tuple(preference.ROCM_REGULARIZERS)
CLOSED = {
  "fisher": lambda m: m / SCALE**2,
  "jeffreys": lambda m: m,
  "kl": lambda m: m / 2,
  "neyman_chi2": np.expm1,
  "pearson_chi2": np.expm1,
  "renyi": lambda m: m / 4,
  "reverse_kl": lambda m: m / 2,
  "squared_hellinger": lambda m: -np.expm1(-m / 8),
}


def every(mean, ref_mean, scale):
  """All of them, in the order of `NAMES`."""
  return [
    preference.rocm_regularizer(name)(mean, ref_mean, scale) for name in NAMES
  ]


def values():
  return dict(zip(NAMES, jax.jit(every)(MEAN, REF_MEAN, SCALE), strict=True))


def test_closed_forms_and_quadrature():
  """On the line between the means, where all the difference is."""
  found = values()
  for name, form in CLOSED.items():
    np.testing.assert_allclose(found[name], form(SQUARES), rtol=1e-12)
  x = np.linspace(-12, 16, 400_001)  # a kink costs the square of the spacing
  dx = 28 / 400_000  # not x[1] - x[0], which is rounded
  q = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
  for i, m in enumerate(SQUARES):
    log_u = np.sqrt(m) * x - m / 2
    p = q * np.exp(log_u)
    for name in set(NAMES) - {"fisher", "renyi"}:
      f = divergences.f_divergence(name).f
      area = dx * np.sum(q * np.asarray(f(np.exp(log_u))))
      np.testing.assert_allclose(found[name][i], area, rtol=1e-8, err_msg=name)
    order_half = -2 * np.log(dx * np.sum(np.sqrt(p * q)))
    np.testing.assert_allclose(found["renyi"][i], order_half, rtol=1e-10)
    # grad log p - grad log q is the root of m, over s, everywhere.
    fisher = dx * np.sum(p * m) / SCALE[i] ** 2
    np.testing.assert_allclose(found["fisher"][i], fisher, rtol=1e-10)


def test_they_are_functions_of_the_distance_alone():
  rotation = np.linalg.qr(RNG.normal(size=(D, D)))[0]
  moved = jax.jit(every)(MEAN @ rotation + 5, REF_MEAN @ rotation + 5, SCALE)
  helpers.assert_close(list(values().values()), moved, rtol=1e-9)


def test_jensen_shannon_near_and_far():
  jensen_shannon = preference.rocm_regularizer("jensen_shannon")
  one = np.ones(1)

  @jax.jit
  def of_distance(distance):
    return jensen_shannon(distance * one, 0 * one, jnp.ones(()))

  slope = jax.jit(jax.grad(of_distance))
  for distance, rtol in ((1e-4, 1e-8), (1e-8, 1e-7)):  # rounding over it
    np.testing.assert_allclose(
      of_distance(distance), distance**2 / 8, rtol=rtol
    )
    np.testing.assert_allclose(slope(distance), distance / 4, rtol=1e-8)
  assert of_distance(0.0) == 0 and slope(0.0) == 0
  for distance in (30.0, 1e3):
    np.testing.assert_allclose(of_distance(distance), np.log(2), rtol=1e-13)
    assert abs(slope(distance)) < 1e-13


def test_transforms_and_gradients():
  def total(*args):
    return jnp.stack(every(*args))

  helpers.assert_transforms(total, MEAN, REF_MEAN, SCALE)

  def first(mean, scale):
    return jnp.sum(total(mean, REF_MEAN[0], scale))

  helpers.assert_gradient(first, MEAN[0], SCALE[0])
  in_mean, in_ref = jax.jit(jax.jacrev(total, (0, 1)))(
    REF_MEAN[0], REF_MEAN[0], SCALE[0]
  )
  assert not np.any(in_mean) and not np.any(in_ref)  # nor NaN


def test_renyi_takes_its_order():
  renyi = preference.rocm_regularizer("renyi", alpha=3.0)
  actual = renyi(MEAN, REF_MEAN, SCALE)
  np.testing.assert_allclose(actual, 1.5 * SQUARES, rtol=1e-12)


def test_refusals():
  with pytest.raises(ValueError, match="unknown divergence 'le_cam'"):
    preference.rocm_regularizer("le_cam")
  with pytest.raises(ValueError, match="'kl' takes no option 'alpha'"):
    preference.rocm_regularizer("kl", alpha=0.5)
  regularizer = preference.rocm_regularizer("kl")
  with pytest.raises(AssertionError, match=r"ref_mean \(3,\)"):
    regularizer(MEAN, REF_MEAN[0], SCALE)
  with pytest.raises(AssertionError, match=r"scale \(2, 3\)"):
    regularizer(MEAN, REF_MEAN, np.ones((2, 3)))
