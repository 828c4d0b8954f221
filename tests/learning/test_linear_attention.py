# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.learning import linear_attention
from tests import helpers

N, T, D = 50, 3, 4


def instances(seed):
  rng = np.random.default_rng(seed)
  a, b = rng.normal(size=(2, N, D, D)) / np.sqrt(D)
  return a, b, 2 * rng.normal(size=(N, T, D))


def test_the_map_is_its_definition():
  a, b, x = (z[0] for z in instances(0))
  expected = x.copy()
  for t in range(T):
    for s in range(t + 1):
      expected[t] += (x[t] @ a @ x[s]) * (b @ x[s])
  found = linear_attention.residual_linear_attention(
    *map(jnp.asarray, (x, a, b))
  )
  np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_random_instances_are_inverted():
  a, b, y = instances(1)
  found = jax.jit(jax.vmap(linear_attention.linear_attention_inverse))(a, b, y)
  assert found.ok.all()
  image = jax.vmap(linear_attention.residual_linear_attention)(found.x, a, b)
  errors = np.linalg.norm(image - y, axis=(1, 2))
  errors /= np.linalg.norm(y, axis=(1, 2))
  np.testing.assert_allclose(found.residual, errors, rtol=1e-6, atol=1e-14)
  assert np.median(errors) < 1e-12


def test_one_unknown_has_the_cubic_formula():
  """`x + a b x^3 = y` has one root for a b > 0."""
  y = np.linspace(-3, 3, 8)
  found = jax.vmap(linear_attention.linear_attention_inverse)(
    jnp.full((8, 1, 1), 2.0), jnp.full((8, 1, 1), 3.0), y[:, None, None]
  )
  roots = [np.roots([6, 0, 1, -v]) for v in y]
  expected = [r[np.argmin(np.abs(r.imag))].real for r in roots]
  np.testing.assert_allclose(found.x[:, 0, 0], expected, atol=1e-12)


def test_where_there_is_none():
  """`x_2 = y_2` and, as `x' A x = -1` then, `x_1 - x_1 = y_1`."""
  a, b = jnp.diag(jnp.array([0.0, -1.0])), jnp.diag(jnp.array([1.0, 0.0]))
  found = linear_attention.linear_attention_inverse(a, b, jnp.ones((1, 2)))
  assert not found.ok and np.isnan(found.x).all()
  assert not found.residual < 1e-3


def transformed(a, b, y):
  found = linear_attention.linear_attention_inverse(a, b, y)
  return found.x, found.ok


def test_transforms_and_gradient():
  a, b, y = instances(2)
  helpers.assert_transforms(transformed, a[:2], b[:2], y[:2], rtol=1e-8)
  helpers.assert_gradient(
    lambda x, a, b: jnp.sum(
      jnp.sin(linear_attention.residual_linear_attention(x, a, b))
    ),
    y[0],
    a[0],
    b[0],
  )


def test_leading_axes_are_sequences():
  a, b, y = instances(3)
  both = linear_attention.linear_attention_inverse(
    jnp.asarray(a[0]), jnp.asarray(b[0]), jnp.asarray(y[:2])
  )
  one = linear_attention.linear_attention_inverse(
    jnp.asarray(a[0]), jnp.asarray(b[0]), jnp.asarray(y[1])
  )
  assert both.ok.shape == (2,) and one.ok.shape == ()
  np.testing.assert_allclose(both.x[1], one.x, rtol=1e-9)


def test_bad_input():
  one = jnp.ones((1, 1))
  with pytest.raises(AssertionError, match=r"need \[D, D\]: b"):
    linear_attention.linear_attention_inverse(one, jnp.ones((1, 2)), one)
  with pytest.raises(ValueError, match=r"need \[..., T, D\], was of shape"):
    linear_attention.residual_linear_attention(jnp.ones(1), one, one)
  with pytest.raises(ValueError, match="tolerance must be above 0"):
    linear_attention.linear_attention_inverse(one, one, one, tolerance=0.0)
  with pytest.raises(AssertionError, match="need floats"):
    linear_attention.linear_attention_inverse(one, one, jnp.ones((1, 1), int))
