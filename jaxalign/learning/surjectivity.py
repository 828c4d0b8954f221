# SPDX-License-Identifier: Apache-2.0
"""Inputs that produce given outputs: stacks of blocks, and single layers.

`x + f(LN(x))` is onto for every continuous f, hence so are stacks of such
blocks over sequences. That says nothing about token sequences, whose embeddings
are a finite set. The normalisation itself is not onto.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.learning import continuation

__all__ = (
  "BlocksInverse",
  "CausalInverse",
  "RMSNormInverse",
  "causal_inverse",
  "invert_preln",
  "leaky_relu_inverse",
  "rms_norm",
  "rms_norm_inverse",
)

Map = Callable[[jax.Array], jax.Array]
Step = Callable[[Any, jax.Array], tuple[Any, jax.Array]]

_DEFAULTS = continuation.ContinuationOptions()


class BlocksInverse(NamedTuple):
  """An input of a stack of K blocks.

  Attributes:
    x: the shape of `y`; NaN where none was found.
    steps: int32 `[K]`, steps along each block's path, in order of the blocks.
    folds: int32 `[K]`, how often each path turned.
    ok: bool `[]`, whether every block was inverted.
    residual: `[]`, largest entry of `|stack(x) - y|`, by the forward pass; NaN
      where there is no x.
  """

  x: jax.Array
  steps: jax.Array
  folds: jax.Array
  ok: jax.Array
  residual: jax.Array


class CausalInverse(NamedTuple):
  """An input of a causal block, found token by token.

  Attributes:
    x: `[T, D]`; NaN from the first token on that was not found.
    steps: int32 `[T]`, steps along each token's path.
    folds: int32 `[T]`, how often each path turned.
    ok: bool `[T]`, whether the token and all before it were found.
    residual: `[T]`, largest entry of `|x + f(x) - y|` by token; of the path's
      last point for the first that was not found, and nothing after it.
  """

  x: jax.Array
  steps: jax.Array
  folds: jax.Array
  ok: jax.Array
  residual: jax.Array


# --- blocks ------------------------------------------------------------------


def invert_preln(
  blocks: Sequence[Map],
  y: jax.Array,
  options: continuation.ContinuationOptions = _DEFAULTS,
) -> BlocksInverse:
  """Finds x that a stack of blocks `x + f(x)` maps to y, last block first.

  A block of a transformer is two: attention and MLP, each with its norm inside
  f and its own residual connection.

  Args:
    blocks: the K functions f, first one first; each bounded, and each mapping
      arrays of the shape of `y` to such.
    y: `[...]`, the target as a whole, such as `[T, D]`. `vmap` takes many.
    options: of each block's path.

  Returns:
    `BlocksInverse`.

  Raises:
    AssertionError: y is not floating point.
    ValueError: no blocks, or an option is not above 0.

  >>> options = continuation.ContinuationOptions(tolerance=1e-5)  # of float32
  >>> blocks = [jnp.tanh, lambda x: -2 * jnp.tanh(x)]
  >>> found = invert_preln(blocks, jnp.array([4.]), options)
  >>> print(bool(found.ok), bool(found.residual < 1e-4))
  True True

  Reference:
    On Surjectivity of Neural Networks (2508.19445), stacks of pre-norm blocks.
  """
  if not blocks:
    raise ValueError("blocks must be one or more, was none")
  x, found = y, []
  for f in reversed(blocks):
    found.append(continuation.arclength_inverse(f, x, options))
    x = found[-1].x
  out = x
  for f in blocks:
    out = out + f(out)
  paths = jax.tree.map(lambda *a: jnp.stack(a[::-1]), *found)
  return BlocksInverse(
    x,
    paths.steps,
    paths.folds,
    jnp.all(paths.ok),
    jnp.max(jnp.abs(out - y)),
  )


def causal_inverse(
  step: Step,
  init: Any,
  y: jax.Array,
  options: continuation.ContinuationOptions = _DEFAULTS,
) -> CausalInverse:
  """Finds x that a causal block `x + f(x)` maps to y, token by token.

  Row t of f depends on rows up to t alone. Once the rows before are found, row
  t of x solves an equation in D unknowns, and the argument that it has a
  solution is the same. T paths in D dimensions cost far less than one in T D.

  Args:
    step: `(carry, row [D]) -> (carry, row of f [D])`, as of `lax.scan`, with f
      bounded. The carry is what later rows need of the earlier ones, such as
      keys and values.
    init: the carry before the first row.
    y: `[T, D]`, the target.
    options: of each token's path.

  Returns:
    `CausalInverse`.

  Raises:
    AssertionError: y is not floating point or not of rank 2.
    ValueError: an option is not above 0.

  >>> options = continuation.ContinuationOptions(tolerance=1e-5)  # of float32
  >>> def step(total, row):
  ...   return total + row, -2 * jnp.tanh(total + row)
  >>> y = jnp.array([[1.], [2.]])
  >>> causal_inverse(step, jnp.zeros(1), y, options).ok
  Array([ True,  True], dtype=bool)

  Reference:
    On Surjectivity of Neural Networks (2508.19445), applied to one token at a
    time, which is ours.
  """
  checks.check_rank(2, y=y)
  checks.check_float(y=y)
  y = numerics.as_float(y)

  def invert_token(carry, row):
    found = continuation.arclength_inverse(
      lambda x: step(carry, x)[1], row, options
    )
    # Not NaN, which would pass through masks into tokens that were found.
    carry, _ = step(carry, jnp.where(found.ok, found.x, 0))
    return carry, found

  _, found = jax.lax.scan(invert_token, init, y)
  ok = jnp.cumprod(found.ok).astype(bool)
  return CausalInverse(
    jnp.where(ok[:, None], found.x, jnp.nan),
    found.steps,
    found.folds,
    ok,
    found.residual,
  )


# --- layers ------------------------------------------------------------------


def rms_norm(x: jax.Array, *, eps: float) -> jax.Array:
  """Normalises by the root mean square, without a learned scale.

  `x / sqrt(mean x^2 + eps)`, shorter than `sqrt D` for every x. (With mean and
  variance it is `jax.nn.standardize`, and just as short.)

  Args:
    x: `[..., D]`.
    eps: above 0, or the function is not continuous at 0.

  Returns:
    `[..., D]`.

  Raises:
    AssertionError: x is not floating point.
    ValueError: eps is not above 0.

  >>> print(rms_norm(jnp.array([3., 4.]), eps=3.5))  # sqrt(12.5 + 3.5) = 4
  [0.75 1.  ]

  Reference:
    Root Mean Square Layer Normalization (1910.07467), equation 4.
  """
  checks.check_positive(eps=eps)
  checks.check_float(x=x)
  x = numerics.as_float(x)
  square = jnp.mean(x**2, -1, keepdims=True)
  return x * jax.lax.rsqrt(square + eps)


class RMSNormInverse(NamedTuple):
  """What a normalisation maps to a target.

  Attributes:
    x: `[..., D]`; NaN where nothing is mapped there.
    ok: bool `[...]`, whether the target is in reach.
    square: `[...]`, mean square of the target without its scale: in reach is
      what has less than 1.
  """

  x: jax.Array
  ok: jax.Array
  square: jax.Array


def rms_norm_inverse(
  y: jax.Array, *, scale: jax.Array, eps: float
) -> RMSNormInverse:
  """The x that `scale * rms_norm(x)` maps to y; there is one or none.

  `x = u sqrt(eps / (1 - q))` with `u = y / scale` and q the mean of `u^2`. With
  small eps the length of x rests on the last digits of `1 - q`: a target that
  was rounded to float32 may be out of reach or have an x of quite another
  length.

  Args:
    y: `[..., D]`, the target.
    scale: `[D]`; where it is 0 only 0 is in reach, and x is taken to be 0.
    eps: above 0.

  Returns:
    `RMSNormInverse`.

  Raises:
    AssertionError: shapes do not fit, or no floats.
    ValueError: eps is not above 0.

  >>> y = jnp.array([[.75, 1.], [2., 1.]])
  >>> found = rms_norm_inverse(y, scale=jnp.ones(2), eps=3.5)
  >>> print(found.x[0], found.ok)
  [3. 4.] [ True False]

  Reference:
    Root Mean Square Layer Normalization (1910.07467), equation 4, solved for x.
  """
  checks.check_positive(eps=eps)
  checks.check_float(y=y, scale=scale)
  chex.assert_shape(scale, y.shape[-1:], custom_message="need [D]: scale")
  y, scale = numerics.as_float(y), numerics.as_float(scale)
  used = scale != 0
  unit = jnp.where(used, y / jnp.where(used, scale, 1), 0)
  square = jnp.mean(unit**2, -1)
  ok = (square < 1) & jnp.all(used | (y == 0), -1)
  rest = jnp.where(ok, 1 - square, jnp.nan)
  x = unit * jnp.sqrt(eps / rest)[..., None]
  return RMSNormInverse(x, ok, square)


def leaky_relu_inverse(
  y: jax.Array, weight: jax.Array, bias: jax.Array, *, slope: float = 0.01
) -> jax.Array:
  """The input of a square layer `leaky_relu(x W + b)`.

  `x = (leaky_relu^(-1)(y) - b) W^(-1)`. Square random matrices are invertible
  with probability 1, hence almost every such network is onto; a ReLU in the
  last layer never gives a negative entry.

  Args:
    y: `[..., D]`, the layer's output.
    weight: `[D, D]`, W.
    bias: `[D]`, b.
    slope: of the negative half, above 0.

  Returns:
    `[..., D]`; not finite where W is singular.

  Raises:
    AssertionError: shapes do not fit, or no floats.
    ValueError: slope is not above 0.

  >>> weight, bias = jnp.array([[2., 0.], [0., 1.]]), jnp.array([1., 0.])
  >>> print(leaky_relu_inverse(jnp.array([3., -.5]), weight, bias, slope=.5))
  [ 1. -1.]

  Reference:
    On Surjectivity of Neural Networks (2508.19445), LeakyReLU networks.
  """
  checks.check_positive(slope=slope)
  checks.check_float(y=y, weight=weight, bias=bias)
  size = y.shape[-1]
  chex.assert_shape(weight, (size, size), custom_message="need [D, D]: weight")
  chex.assert_shape(bias, (size,), custom_message="need [D]: bias")
  y, weight, bias = (numerics.as_float(a) for a in (y, weight, bias))
  rows = jnp.where(y < 0, y / slope, y) - bias
  flat = rows.reshape(-1, rows.shape[-1])
  return jnp.linalg.solve(weight.T, flat.T).T.reshape(rows.shape)
