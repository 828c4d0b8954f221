# SPDX-License-Identifier: Apache-2.0
"""Residual causal linear attention and its exact inverse.

`y_t = x_t + sum_{s <= t} (x_t' A x_s) B x_s`: attention without softmax, where
A is the product of query and key matrices and B that of value and output ones.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.learning import newton

__all__ = (
  "LinearAttentionInverse",
  "linear_attention_inverse",
  "residual_linear_attention",
)

_INTERVALS, _BISECTIONS, _POLISH = 256, 56, 8


class LinearAttentionInverse(NamedTuple):
  """An input of linear attention.

  Attributes:
    x: `[..., T, D]`; NaN where none was found.
    ok: bool `[...]`, whether the residual is within the tolerance.
    residual: `[...]`, length of the error over that of the target.
  """

  x: jax.Array
  ok: jax.Array
  residual: jax.Array


def _check(x: jax.Array, **matrices: jax.Array) -> None:
  checks.check_float(x=x, **matrices)
  if jnp.ndim(x) < 2:
    raise ValueError(f"need [..., T, D], was of shape {jnp.shape(x)}")
  for name, matrix in matrices.items():
    chex.assert_shape(
      matrix, (x.shape[-1],) * 2, custom_message=f"need [D, D]: {name}"
    )


def residual_linear_attention(
  x: jax.Array, a: jax.Array, b: jax.Array
) -> jax.Array:
  """`y_t = x_t + sum_{s <= t} (x_t' A x_s) B x_s`.

  Args:
    x: `[..., T, D]`.
    a: `[D, D]`, A.
    b: `[D, D]`, B.

  Returns:
    `[..., T, D]`.

  Raises:
    AssertionError: shapes do not fit, or no floats.
    ValueError: x has fewer than two axes.

  >>> x, one = jnp.array([[1.], [2.]]), jnp.ones((1, 1))
  >>> print(residual_linear_attention(x, one, one)[:, 0])  # 2 + 2 (1 + 4)
  [ 2. 12.]

  Reference:
    Transformers are RNNs (2006.16236), equation 5 with the identity as feature
    map and without its normaliser.
  """
  _check(x, a=a, b=b)
  x, a, b = (numerics.as_float(z) for z in (x, a, b))
  scores = jnp.einsum("...ti,ij,...sj->...ts", x, a, x)
  return x + jnp.tril(scores) @ (x @ b.T)


def _number(u: jax.Array) -> jax.Array:
  """All reals, for u in (-1, 1)."""
  return u / (1 - u**2)


def _solve_token(
  y: jax.Array, past: jax.Array, a: jax.Array, b: jax.Array
) -> jax.Array:
  """Solves `M x + (x' A x) B x = y`, where M `[D, D]` is of the tokens before.

  x is `x(s) = (M + s B)^(-1) y` at a root of `g(s) = s - x(s)' A x(s)`. Times
  `det(M + s B)^2 >= 0` this is a polynomial of odd degree, negative on the far
  left: it changes its sign somewhere, but generically not at the poles of g.
  """

  def evaluate(u):
    x = jnp.linalg.solve(past + _number(u) * b, y)
    return x, _number(u) > x @ a @ x

  # Of several roots the shortest x: those near a pole are very long, and what
  # is computed from them has no digits left.
  inner = jnp.linspace(-1, 1, _INTERVALS + 1, dtype=y.dtype)[1:-1]
  x, above = jax.vmap(evaluate)(inner)
  above = jnp.concatenate([jnp.zeros(1, bool), above, jnp.ones(1, bool)])
  length = jnp.pad(jnp.linalg.norm(x, axis=-1), 1)  # 0 at infinity
  longer = jnp.maximum(length[:-1], length[1:])
  first = jnp.argmin(jnp.where(above[:-1] != above[1:], longer, jnp.inf))
  rising = above[first + 1]

  def halve(_, bounds):
    low, high = bounds
    middle = (low + high) / 2
    beyond = evaluate(middle)[1] == rising
    return jnp.where(beyond, low, middle), jnp.where(beyond, middle, high)

  edges = jnp.concatenate([-jnp.ones(1), inner, jnp.ones(1)]).astype(y.dtype)
  bounds = edges[first], edges[first + 1]
  low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, bounds)
  start, _ = evaluate((low + high) / 2)

  def rest(x):
    return past @ x + (x @ a @ x) * (b @ x) - x

  return newton.newton_inverse(rest, y, start, num_steps=_POLISH).x


def linear_attention_inverse(
  a: jax.Array, b: jax.Array, y: jax.Array, *, tolerance: float = 1e-6
) -> LinearAttentionInverse:
  """Finds x that `residual_linear_attention` maps to y, token by token.

  With the tokens before it given, token t solves `M x + (x' A x) B x = y_t`,
  where `M = 1 + sum_{s < t} (B x_s) (A x_s)'`: one scalar equation, which has a
  root for every regular B and generic y. By a grid, bisection and Newton's
  method; of several roots one is taken that gives a short x.

  Args:
    a: `[D, D]`, A.
    b: `[D, D]`, B, regular.
    y: `[..., T, D]`, the target.
    tolerance: of `ok`, above 0. Of x as long as |x| some `|x|^3` units of the
      last digit are lost.

  Returns:
    `LinearAttentionInverse`.

  Raises:
    AssertionError: shapes do not fit, or no floats.
    ValueError: y has fewer than two axes, or tolerance is not above 0.

  >>> y, one = jnp.array([[2.], [12.]]), jnp.ones((1, 1))
  >>> found = linear_attention_inverse(one, one, y, tolerance=1e-5)
  >>> print([f"{x:.3f}" for x in found.x[:, 0]])  # x + x^3 = 2, 2 x + x^3 = 12
  ['1.000', '2.000']

  Reference:
    On Surjectivity of Neural Networks (2508.19445), for the claim; the scalar
    equation and its solution are ours.
  """
  _check(y, a=a, b=b)
  checks.check_positive(tolerance=tolerance)
  a, b, y = (numerics.as_float(z) for z in (a, b, y))

  def sequence(y):
    def token(past, y):
      x = _solve_token(y, past, a, b)
      return past + jnp.outer(b @ x, a @ x), x

    return jax.lax.scan(token, jnp.eye(y.shape[-1], dtype=y.dtype), y)[1]

  x = jax.vmap(sequence)(y.reshape(-1, *y.shape[-2:])).reshape(y.shape)
  error = residual_linear_attention(x, a, b) - y
  residual = jnp.linalg.norm(error, axis=(-2, -1))
  length = jnp.linalg.norm(y, axis=(-2, -1))
  residual = residual / jnp.where(length > 0, length, 1)
  ok = residual <= tolerance
  x = jnp.where(ok[..., None, None], x, jnp.nan)
  return LinearAttentionInverse(x, ok, residual)
