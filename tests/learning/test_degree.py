# SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxalign.learning import degree
from tests import helpers


def cubic_like(x):
  """Of degree 1: three preimages between its turning points, else one."""
  return -3 * jnp.tanh(x)


def run(y):
  return degree.signed_preimages(
    jax.random.key(0), cubic_like, y, radius=3.0, num_starts=64
  )


def test_preimages_of_one_unknown_are_all_found():
  y = jnp.array([[0.0], [0.3], [2.0], [-2.0]])
  found = jax.jit(jax.vmap(run))(y)
  np.testing.assert_array_equal(found.count, [3, 3, 1, 1])
  np.testing.assert_array_equal(found.degree, 1)
  top = np.arccosh(np.sqrt(3))  # where the slope 1 - 3 / cosh^2 is 0
  for i, level in enumerate(np.asarray(y[:, 0])):
    error = lambda x, level=level: x - 3 * np.tanh(x) - level
    edges = (-9, -top, top, 9)
    roots = [
      optimize.brentq(error, a, b, xtol=1e-14)
      for a, b in itertools.pairwise(edges)
      if error(a) * error(b) < 0
    ]
    own = np.asarray(found.where[i])
    order = np.argsort(found.x[i, own, 0])
    np.testing.assert_allclose(found.x[i, own, 0][order], roots, atol=1e-9)
    slopes = 1 - 3 / np.cosh(roots) ** 2
    np.testing.assert_array_equal(found.sign[i, own][order], np.sign(slopes))


def test_two_dimensions_multiply():
  """A product map: 3 x 3 preimages, 5 of sign +1 and 4 of sign -1."""
  found = degree.signed_preimages(
    jax.random.key(1), cubic_like, jnp.full(2, 0.1), radius=4.3, num_starts=256
  )
  assert (found.count, found.degree) == (9, 1)
  signs = np.asarray(found.sign)[np.asarray(found.where)]
  assert sorted(signs.tolist()) == [-1] * 4 + [1] * 5


def test_the_absolute_value_has_degree_zero():
  f = lambda x: jnp.abs(x) - x
  search = lambda y: degree.signed_preimages(
    jax.random.key(2), f, y, radius=3.0, num_starts=32
  )
  found = jax.vmap(search)(jnp.array([[1.0], [-1.0]]))
  np.testing.assert_array_equal(found.count, [2, 0])
  np.testing.assert_array_equal(found.degree, 0)
  assert not found.where[1].any() and not found.sign[1].any()


def test_transforms():
  helpers.assert_transforms(run, np.array([[0.3], [1.0]]))


def test_bad_input(key):
  with pytest.raises(ValueError, match="radius must be above 0, was 0"):
    degree.signed_preimages(key, cubic_like, jnp.ones(1), radius=0)
  with pytest.raises(ValueError, match="num_starts must be above 0, was 0"):
    degree.signed_preimages(
      key, cubic_like, jnp.ones(1), radius=1.0, num_starts=0
    )
  with pytest.raises(AssertionError, match=r"need rank 1: y \(2, 2\)"):
    degree.signed_preimages(key, cubic_like, jnp.ones((2, 2)), radius=1.0)
