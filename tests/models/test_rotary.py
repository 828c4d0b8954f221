# SPDX-License-Identifier: Apache-2.0

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.models import rotary
from tests import helpers

LLAMA = rotary.RopeScaling(8.0, 1.0, 4.0, 64)


def published_frequency(i, scaling):
  """As the Llama 3.1 release has it, with its cases of wave lengths."""
  frequency = 100.0 ** (-2 * i / 16)
  if scaling is None:
    return frequency
  length = 2 * math.pi / frequency
  context = scaling.original_positions
  if length < context / scaling.high:
    return frequency
  if length > context / scaling.low:
    return frequency / scaling.factor
  smooth = context / length - scaling.low
  smooth /= scaling.high - scaling.low
  return (1 - smooth) * frequency / scaling.factor + smooth * frequency


@pytest.mark.parametrize("scaling", [None, LLAMA])
def test_angles(scaling):
  positions = np.array([[0, 1, 5], [7, 7, 90]])
  found = rotary.rotation(positions, head_dim=16, theta=100.0, scaling=scaling)
  frequencies = np.array([published_frequency(i, scaling) for i in range(8)])
  if scaling is not None:
    kinds = frequencies / [published_frequency(i, None) for i in range(8)]
    assert kinds.max() == 1 and kinds.min() == 1 / 8
    assert np.any((kinds < 1) & (kinds > 1 / 8))
  angles = positions[..., None] * frequencies
  for x, expected in zip(found, (np.cos(angles), np.sin(angles)), strict=True):
    assert x.dtype == jnp.float32
    # An angle of 90 is known to 4e-6 in float32.
    np.testing.assert_allclose(x, expected, atol=1e-5)


def turned(x, position):
  at = rotary.rotation(np.array([position]), head_dim=4, theta=10.0)
  return np.asarray(rotary.rotate(jnp.array(x)[None, None], *at))[0, 0]


def test_products_depend_on_the_distance_alone():
  query, key = np.random.default_rng(0).normal(size=(2, 4))
  products = [turned(query, m) @ turned(key, m - 3) for m in (3, 8, 20)]
  np.testing.assert_allclose(products, products[0], rtol=1e-5)
  other = turned(query, 8) @ turned(key, 6)
  assert abs(other - products[0]) > 1e-3
  np.testing.assert_allclose(turned(query, 0), query)


def test_pairs_are_entries_of_the_halves():
  angle = 3 * 10.0 ** np.array([0, -0.5])
  found = turned([1.0, 2.0, 0.0, 0.0], 3)
  expected = [np.cos(angle), np.sin(angle)] * np.array([1, 2])
  np.testing.assert_allclose(found, expected.ravel(), rtol=1e-5)


def test_types_are_kept():
  at = rotary.rotation(np.arange(2), head_dim=4, theta=10.0)
  for dtype in (jnp.bfloat16, jnp.float32, jnp.float64):
    assert rotary.rotate(jnp.ones((2, 1, 4), dtype), *at).dtype == dtype


def test_transforms():
  x = np.random.default_rng(1).normal(size=(2, 3, 2, 4))
  positions = np.array([[0, 1, 2], [4, 4, 9]])

  def fn(x, positions):
    at = rotary.rotation(positions, head_dim=4, theta=10.0)
    return rotary.rotate(x, *at)

  helpers.assert_transforms(fn, x, positions)


def test_gradient():
  at = rotary.rotation(np.arange(2), head_dim=4, theta=10.0)
  x, weight = np.random.default_rng(2).normal(size=(2, 2, 1, 4))
  helpers.assert_gradient(lambda x: jnp.sum(weight * rotary.rotate(x, *at)), x)
