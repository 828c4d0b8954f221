# SPDX-License-Identifier: Apache-2.0
"""Logits of a few tokens, or of a few outcomes, at a time.

What is spread over devices stays so: tokens are cut along their own axis,
unless there are more rows than a chunk has tokens, and outcomes within each of
as many strides as divide the vocabulary.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = ()  # for what reduces the logits

_STRIDES = 16  # so many devices along V need not talk for a block of outcomes


# --- logits ------------------------------------------------------------------


class Head(NamedTuple):
  """What turns hidden states into logits.

  Attributes:
    kernel: `[H, V]`.
    bias: `[V]`, or `None`.
  """

  kernel: jax.Array
  bias: jax.Array | None


class Options(NamedTuple):
  """What is static; as in `token_logprobs`."""

  chunk_size: int
  temperature: float
  soft_cap: float | None
  entropy: bool = False


def products(hidden: jax.Array, kernel: jax.Array) -> jax.Array:
  """`[N, V]` of `[N, H]`, in float32 or wider."""
  dtype = jnp.promote_types(hidden.dtype, kernel.dtype)
  dtype = jnp.promote_types(dtype, jnp.float32)
  return jnp.matmul(hidden, kernel, preferred_element_type=dtype)


def finish(
  logits: jax.Array, bias: jax.Array | None, options: Options
) -> jax.Array:
  """Bias, cap and temperature `[N, V]`."""
  if bias is not None:
    logits += jnp.where(jnp.isneginf(bias), 0, bias)
  if options.soft_cap is not None:
    logits = options.soft_cap * jnp.tanh(logits / options.soft_cap)
  logits /= options.temperature
  if bias is not None:
    # After the cap, which would bring the outcomes back.
    removed = jnp.where(jnp.isneginf(bias), -jnp.inf, 0)
    logits += removed.astype(logits.dtype)
  return logits


def logits(hidden: jax.Array, head: Head, options: Options) -> jax.Array:
  """`[N, V]` of `[N, H]`, in float32 or wider."""
  return finish(products(hidden, head.kernel), head.bias, options)


def select(mask: jax.Array | None, x: jax.Array) -> jax.Array:
  """0 where masked; `x` may have axes beyond the mask's."""
  if mask is None:
    return x
  return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), x, 0)


# --- a few tokens at a time --------------------------------------------------


def by_chunks(
  function: Callable, arrays: tuple, batch: tuple[int, ...], chunk_size: int
):
  """Applies a function of tokens to a few of them at a time.

  Args:
    function: maps arrays `[N, *]` to a tree of `[N]`.
    arrays: a tree of `[..., T, *]`.
    batch: their leading axes `[..., T]`.
    chunk_size: the most tokens at a time.

  Returns:
    The tree of `[..., T]`.
  """
  rows, length = math.prod(batch[:-1]), batch[-1]
  if rows > chunk_size:
    rows, length = 1, rows * length
  # Equal chunks, so that few tokens are added to fill the last.
  num_chunks = max(1, math.ceil(length / (chunk_size // max(1, rows))))
  size = math.ceil(length / num_chunks)

  def split(x):
    rest = x.shape[len(batch) :]
    x = x.reshape(rows, length, *rest)
    added = ((0, 0), (0, num_chunks * size - length), *((0, 0) for _ in rest))
    x = jnp.pad(x, added).reshape(rows, num_chunks, size, *rest)
    return jnp.moveaxis(x, 1, 0).reshape(num_chunks, rows * size, *rest)

  def join(x):
    x = jnp.moveaxis(x.reshape(num_chunks, rows, size), 0, 1)
    return x.reshape(rows, num_chunks * size)[:, :length].reshape(batch)

  chunks = jax.tree.map(split, arrays)
  return jax.tree.map(join, jax.lax.map(lambda x: function(*x), chunks))


# --- a few outcomes at a time ------------------------------------------------


class Blocks(NamedTuple):
  """Cuts `V = strides * length` outcomes, in each stride at the same places.

  Attributes:
    strides: how often V is divided before it is cut.
    length: outcomes of a stride.
    num: number of blocks.
    size: outcomes of a block in each stride.
  """

  strides: int
  length: int
  num: int
  size: int

  @property
  def overlap(self) -> bool:
    """Whether the last block has outcomes of the one before it."""
    return self.num * self.size > self.length

  def start(self, k: jax.Array) -> jax.Array:
    """Where block k begins in each stride."""
    return jnp.minimum(k * self.size, self.length - self.size)

  def outcomes(self, k: jax.Array) -> jax.Array:
    """`[strides * size]`, which outcomes block k has."""
    first = self.length * jnp.arange(self.strides)[:, None]
    return (first + self.start(k) + jnp.arange(self.size)).reshape(-1)

  def new(self, k: jax.Array) -> jax.Array:
    """Bool `[strides * size]`, those that no block before k has."""
    return self.outcomes(k) % self.length >= k * self.size

  def take(self, x: jax.Array, k: jax.Array) -> jax.Array:
    """Block k `[..., strides * size]` of `[..., V]`."""
    x = x.reshape(*x.shape[:-1], self.strides, self.length)
    x = jax.lax.dynamic_slice_in_dim(x, self.start(k), self.size, -1)
    return x.reshape(*x.shape[:-2], -1)

  def add(self, x: jax.Array, block: jax.Array, k: jax.Array) -> jax.Array:
    """`x` with something added to block k; x is 0 where the block is new."""
    parts = x.reshape(*x.shape[:-1], self.strides, self.length)
    sums = self.take(x, k) + block if self.overlap else block
    sums = sums.reshape(*x.shape[:-1], self.strides, self.size)
    start = self.start(k)
    parts = jax.lax.dynamic_update_slice_in_dim(parts, sums, start, -1)
    return parts.reshape(x.shape)


def cut(vocab: int, num_tokens: int, chunk_size: int) -> Blocks:
  """With half the logits of a chunk of tokens in a block, beside slopes."""
  strides = math.gcd(vocab, _STRIDES)
  length = vocab // strides
  share = min(1, chunk_size / max(1, 2 * num_tokens))
  size = max(1, math.ceil(length * share))
  return Blocks(strides, length, math.ceil(length / size), size)
