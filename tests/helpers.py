# SPDX-License-Identifier: Apache-2.0
"""What every function of the library must survive, said once."""

import chex
import jax
import jax.numpy as jnp
import numpy as np


def assert_close(actual, expected, *, rtol=1e-10, atol=1e-12):
  """Compares two trees of arrays; NaN equals nothing, inf equals inf."""
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(
      a, e, rtol=rtol, atol=atol, equal_nan=False
    ),
    actual,
    expected,
  )


def assert_transforms(fn, *args, rtol=1e-10, atol=1e-12):
  """Checks eager = jit = vmap = pmap, one trace, and float32 in, float32 out.

  Args:
    fn: takes the arrays without their leading axis.
    *args: arrays `[2, ...]` in float64 (or of other types, which are kept).
    rtol: relative tolerance between the variants.
    atol: absolute tolerance between the variants.
  """
  rows = [fn(*(a[i] for a in args)) for i in range(2)]
  expected = jax.tree.map(lambda *xs: jnp.stack(xs), *rows)
  chex.clear_trace_counter()
  counted = jax.jit(chex.assert_max_traces(fn, n=1))
  jitted = [counted(*(a[i] for a in args)) for i in range(2)]
  jitted = jax.tree.map(lambda *xs: jnp.stack(xs), *jitted)
  assert_close(jitted, expected, rtol=rtol, atol=atol)
  # Compiled: one program, not one for each operation.
  vmapped = jax.jit(jax.vmap(fn))(*args)
  assert_close(vmapped, expected, rtol=rtol, atol=atol)
  assert_close(
    jax.pmap(fn, devices=jax.devices()[:2])(*args),
    expected,
    rtol=rtol,
    atol=atol,
  )
  assert_keeps_float32(lambda *a: fn(*(x[0] for x in a)), *args)


def assert_keeps_float32(fn, *args):
  """Float32 arguments give float32 results, even where x64 is enabled."""

  def cast(x):
    x = jnp.asarray(x)
    return x.astype(jnp.float32) if x.dtype == jnp.float64 else x

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
