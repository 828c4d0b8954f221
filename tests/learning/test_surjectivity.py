# SPDX-License-Identifier: Apache-2.0
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.learning import continuation, surjectivity
from tests import helpers

T, D, HIDDEN = 3, 4, 8
EPS = 1e-5


def attention(p, x):
  h = jax.nn.standardize(x, epsilon=EPS)
  query, key, value = (h @ p[name] for name in ("query", "key", "value"))
  seen = jnp.tri(len(x), dtype=bool)
  scores = jnp.where(seen, query @ key.T / math.sqrt(D), -jnp.inf)
  return jax.nn.softmax(scores) @ value @ p["out"]


def mlp(p, x):
  h = jax.nn.standardize(x, epsilon=EPS)
  return jax.nn.gelu(h @ p["up"], approximate=False) @ p["down"]


def weights(seed, scale):
  rng = np.random.default_rng(seed)
  shapes = {name: (D, D) for name in ("query", "key", "value", "out")}
  shapes |= {"up": (D, HIDDEN), "down": (HIDDEN, D)}
  return {
    name: scale * rng.normal(size=shape) / math.sqrt(shape[0])
    for name, shape in shapes.items()
  }


def blocks(p):
  return [functools.partial(block, p) for block in (attention, mlp)]


@jax.jit
def stack_inverse(p, y):
  return surjectivity.invert_preln(blocks(p), y)


@pytest.mark.parametrize("scale", [1, 3, 5])
def test_stacks_are_inverted(scale):
  p, rng = weights(scale, scale), np.random.default_rng(scale)
  y = 3 * rng.normal(size=(T, D))
  found = stack_inverse(p, y)
  assert found.ok and found.residual < 1e-6
  x = out = found.x
  for block in blocks(p):
    out = out + block(out)
  np.testing.assert_allclose(out, y, atol=1e-6)
  assert (found.steps > 0).all() and found.steps.shape == (2,)
  # Attention averages values; |gelu(x)| <= |x|.
  norms = {name: np.linalg.norm(w, 2) for name, w in p.items()}
  most = norms["value"] * norms["out"] + norms["up"] * norms["down"]
  lengths = np.linalg.norm(x - y, axis=-1)
  assert (lengths <= most * math.sqrt(D)).all()


def row_by_row(f):
  """A causal f of `[T, D]` in steps, whose carry is all rows so far."""

  def step(carry, row):
    x, t = carry
    x = x.at[t].set(row)
    return (x, t + 1), f(x)[t]

  return step, (jnp.zeros((T, D)), 0)


def test_token_by_token_is_the_whole():
  p, rng = weights(7, 4.0), np.random.default_rng(7)
  y = jnp.asarray(3 * rng.normal(size=(T, D)))
  step, init = row_by_row(functools.partial(attention, p))
  run = jax.jit(lambda y: surjectivity.causal_inverse(step, init, y))
  found = run(y)
  assert found.ok.all() and found.ok.shape == (T,)
  np.testing.assert_allclose(found.x + attention(p, found.x), y, atol=1e-8)
  # Later targets change no token before them.
  other = run(y.at[2].set(-5.0))
  np.testing.assert_array_equal(found.x[:2], other.x[:2])
  assert (found.x[2] != other.x[2]).all()


def test_a_token_that_is_not_found_ends_the_search():
  """The second one needs more steps than are allowed."""

  def step(carry, x):
    return carry, jnp.where(x > 100, 200 * jnp.sin(x), -2 * jnp.tanh(x))

  options = continuation.ContinuationOptions(max_steps=9)
  y = jnp.array([[4.0], [500.0], [4.0]])
  found = surjectivity.causal_inverse(step, 0, y, options)
  np.testing.assert_array_equal(found.ok, [True, False, False])
  np.testing.assert_array_equal(np.isnan(found.x[:, 0]), [0, 1, 1])
  assert found.residual[0] < 1e-9 and found.residual[1] > 1


def test_stacks_of_blocks_that_are_not_inverted():
  options = continuation.ContinuationOptions(max_steps=2)
  found = surjectivity.invert_preln(
    [lambda x: jnp.tanh(x), lambda x: 3 * jnp.sin(x)], jnp.ones(1), options
  )
  assert not found.ok and np.isnan(found.x).all()
  assert np.isnan(found.residual)


# --- layers ------------------------------------------------------------------


def test_normalised_rows_are_shorter_than_the_root_of_their_size():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(200, 7)) * 10.0 ** rng.integers(-8, 9, (200, 1))
  x = jnp.asarray(np.concatenate([x, np.zeros((1, 7)), np.full((1, 7), 3.0)]))
  for norm in (
    functools.partial(jax.nn.standardize, epsilon=EPS),
    functools.partial(surjectivity.rms_norm, eps=EPS),
  ):
    lengths = np.linalg.norm(norm(x), axis=-1)
    # 1e-15: the last digit of sqrt 7.
    assert lengths.max() <= math.sqrt(7) * (1 + 1e-15)
    assert lengths.max() > 0.999 * math.sqrt(7)


def test_rms_norm_is_inverted_where_its_image_is():
  rng = np.random.default_rng(1)
  x, scale = rng.normal(size=(5, D)), np.array([1.0, -2.0, 0.5, 3.0])
  y = scale * surjectivity.rms_norm(jnp.asarray(x), eps=0.1)
  found = surjectivity.rms_norm_inverse(y, scale=scale, eps=0.1)
  assert found.ok.all()
  np.testing.assert_allclose(found.x, x, rtol=1e-12)
  far = surjectivity.rms_norm_inverse(2 * y, scale=scale, eps=0.1)
  assert not far.ok.any() and np.isnan(far.x).all()
  np.testing.assert_allclose(far.square, 4 * found.square, rtol=1e-12)


def test_a_scale_of_zero_reaches_zero_alone():
  scale = jnp.array([1.0, 0.0])
  y = jnp.array([[0.5, 0.0], [0.5, 0.1]])
  found = surjectivity.rms_norm_inverse(y, scale=scale, eps=1.0)
  np.testing.assert_array_equal(found.ok, [True, False])
  assert found.x[0, 1] == 0 and np.isnan(found.x[1]).all()


def test_square_leaky_layers_are_inverted():
  rng = np.random.default_rng(2)
  layers = [(rng.normal(size=(D, D)), rng.normal(size=D)) for _ in range(3)]
  x = rng.normal(size=(2, 3, D))
  y = x
  for w, b in layers:
    y = np.asarray(jax.nn.leaky_relu(y @ w + b, 0.1))
  for w, b in layers[::-1]:
    y = surjectivity.leaky_relu_inverse(
      jnp.asarray(y), jnp.asarray(w), jnp.asarray(b), slope=0.1
    )
  np.testing.assert_allclose(y, x, rtol=1e-9)


def layer_values(y, w, b):
  normed = surjectivity.rms_norm(y, eps=0.5)
  back = surjectivity.rms_norm_inverse(0.9 * normed, scale=b, eps=0.5)
  return normed, back, surjectivity.leaky_relu_inverse(y, w, b, slope=0.3)


def test_layers_transform_and_differentiate():
  rng = np.random.default_rng(3)
  y, w = rng.normal(size=(2, 3, 2)), rng.normal(size=(2, 2, 2))
  b = 1 + rng.random((2, 2))
  helpers.assert_transforms(layer_values, y, w, b)

  def total(y, w, b):
    normed, back, before = layer_values(y, w, b)
    return jnp.sum(jnp.sin(normed)) + jnp.sum(back.x) + jnp.sum(before**2)

  helpers.assert_gradient(total, y[0], w[0], b[0])


def test_bad_input():
  with pytest.raises(ValueError, match="blocks must be one or more, was none"):
    surjectivity.invert_preln([], jnp.ones(1))
  with pytest.raises(AssertionError, match=r"need rank 2: y \(3,\)"):
    surjectivity.causal_inverse(lambda c, x: (c, x), 0, jnp.ones(3))
  with pytest.raises(ValueError, match="eps must be above 0, was 0"):
    surjectivity.rms_norm(jnp.ones(3), eps=0.0)
  with pytest.raises(AssertionError, match="need floats: y int"):
    surjectivity.rms_norm_inverse(jnp.ones(3, int), scale=jnp.ones(3), eps=0.1)
  with pytest.raises(AssertionError, match=r"need \[D\]: scale"):
    surjectivity.rms_norm_inverse(jnp.ones(3), scale=jnp.ones(2), eps=0.1)
  with pytest.raises(ValueError, match="slope must be above 0, was 0"):
    surjectivity.leaky_relu_inverse(
      jnp.ones(2), jnp.eye(2), jnp.ones(2), slope=0.0
    )
  with pytest.raises(AssertionError, match=r"need \[D, D\]: weight"):
    surjectivity.leaky_relu_inverse(jnp.ones(2), jnp.ones((2, 3)), jnp.ones(2))
