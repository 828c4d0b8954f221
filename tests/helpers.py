# SPDX-License-Identifier: Apache-2.0
"""What every function of the library must survive, said once."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from tests import programs


def assert_close(actual, expected, *, rtol=1e-10, atol=1e-12):
  """Compares two trees of arrays; NaN equals nothing, inf equals inf."""
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(
      a, e, rtol=rtol, atol=atol, equal_nan=False
    ),
    actual,
    expected,
  )


def _row(arrays, i):
  return [jnp.asarray(a[i]) for a in arrays]


def assert_transforms(fn, *args, rtol=1e-10, atol=1e-12):
  """Checks eager = jit = vmap = pmap, one trace, and float32 in, float32 out.

  Compiling takes the time: eager is every operation of the first row, jit a
  program that serves both rows, vmap and pmap one in which two devices have
  the two rows, each in another order.

  Args:
    fn: takes the arrays without their leading axis.
    *args: arrays `[2, ...]` in float64 (or of other types, which are kept).
    rtol: relative tolerance between the variants.
    atol: absolute tolerance between the variants.
  """
  close = functools.partial(assert_close, rtol=rtol, atol=atol)
  args = [a if _is_key(a) else np.asarray(a) for a in args]
  chex.clear_trace_counter()
  counted = jax.jit(chex.assert_max_traces(fn, n=1))
  first, second = (counted(*_row(args, i)) for i in range(2))
  with programs.op_by_op():
    close(fn(*_row(args, 0)), first)
  swapped = [(jnp if _is_key(a) else np).stack([a, a[::-1]]) for a in args]
  mapped = jax.pmap(jax.vmap(fn), devices=jax.devices()[:2])(*swapped)
  mapped = jax.tree.map(np.asarray, mapped)
  rows = ((first, second), (second, first))
  for i, j in np.ndindex(2, 2):
    close(jax.tree.map(lambda x, at=(i, j): x[at], mapped), rows[i][j])
  assert_keeps_float32(fn, *(a[0] for a in args))


def _is_key(x):
  return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def assert_keeps_float32(fn, *args):
  """Float32 arguments give float32 results, even where x64 is enabled."""

  def cast(x):
    double = not _is_key(x) and x.dtype == np.float64
    return jax.ShapeDtypeStruct(x.shape, np.float32 if double else x.dtype)

  for leaf in jax.tree.leaves(jax.eval_shape(fn, *(cast(a) for a in args))):
    if jnp.issubdtype(leaf.dtype, jnp.floating):
      assert leaf.dtype == jnp.float32, f"float32 in, {leaf.dtype} out"


def numerical_gradient(fn, x, *, step=1e-5):
  """Central differences of a scalar function at `x`, entry by entry."""
  x = np.asarray(x, np.float64)
  gradient = np.zeros_like(x)
  for i in np.ndindex(x.shape):
    shift = np.zeros_like(x)
    shift[i] = step
    gradient[i] = (float(fn(x + shift)) - float(fn(x - shift))) / (2 * step)
  return gradient


def assert_gradient(fn, *args, rtol=1e-6, atol=1e-8, step=1e-5):
  """Autodiff of a scalar function equals central differences, by argument."""
  fn = fn if hasattr(fn, "lower") else jax.jit(fn)
  gradients = jax.jit(jax.grad(fn, tuple(range(len(args)))))(*args)
  for i, gradient in enumerate(gradients):

    def at(x, i=i):
      return fn(*args[:i], jnp.asarray(x), *args[i + 1 :])

    numeric = numerical_gradient(at, args[i], step=step)
    assert_close(gradient, numeric, rtol=rtol, atol=atol)
