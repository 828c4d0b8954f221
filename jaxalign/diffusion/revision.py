# SPDX-License-Identifier: Apache-2.0
"""Samplers that redraw tokens given the whole string, and parity.

Two rounds of revision sample the uniform law on even-parity strings, which no
number of plain rounds does with predictors that see fewer than all the other
bits.
"""

import chex
import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.diffusion import samplers

__all__ = (
  "parity_denoiser",
  "parity_sample",
  "revision_log_prob",
  "revision_step",
)


def revision_step(
  key: jax.Array,
  denoiser: samplers.Denoiser,
  tokens: jax.Array,
  where: jax.Array,
  *,
  mask_id: int,
  temperature: float = 1.0,
) -> jax.Array:
  """Redraws tokens, visible or not, at once and given the string as it is.

  Args:
    key: a typed key.
    denoiser: maps int `[..., L]` to logits `[..., L, V]` of what shall stand
      there next; it must say so for visible tokens too.
    tokens: int `[..., L]`, with `mask_id` for masks.
    where: bool `[..., L]`, positions to redraw.
    mask_id: the number of the mask, at least V.
    temperature: of the tokens; 0 takes the most likely.

  Returns:
    int `[..., L]`.

  Raises:
    AssertionError: shapes or types.
    ValueError: temperature below 0, or the mask is a token.

  >>> swap = lambda z: jax.nn.one_hot(1 - z, 2) * 100
  >>> tokens, where = jnp.array([0, 1]), jnp.ones(2, bool)
  >>> print(revision_step(jax.random.key(0), swap, tokens, where, mask_id=2))
  [1 0]

  Reference:
    DLMs are Provably Optimal Parallel Samplers (2512.25014), revision.
  """
  chex.assert_type([tokens, where], [int, bool])
  checks.check_same_shape(tokens=tokens, where=where)
  found = samplers.reveal_tokens(
    key,
    denoiser,
    tokens,
    jnp.any(where),
    mask_id=mask_id,
    temperature=temperature,
  )
  return jnp.where(where, found.tokens, tokens)


def revision_log_prob(
  logits: jax.Array, tokens: jax.Array, tokens_next: jax.Array, where: jax.Array
) -> jax.Array:
  """The likelihood of a revision step.

  `sum_{l in where} log p(x'_l | x)`, and -inf where another position changes.

  Args:
    logits: `[..., L, V]`, the denoiser's of `tokens`; not read (NaN is allowed)
      where `where` is false.
    tokens: int `[..., L]`.
    tokens_next: int `[..., L]`; below V where `where` is true.
    where: bool `[..., L]`, positions that are redrawn.

  Returns:
    `[...]`, nats.

  Raises:
    AssertionError: unequal shapes.

  >>> x, where = jnp.array([0, 1]), jnp.array([True, False])
  >>> print(f"{revision_log_prob(jnp.zeros((2, 2)), x, x, where):.4f}")
  -0.6931

  Reference:
    DLMs are Provably Optimal Parallel Samplers (2512.25014), revision.
  """
  checks.check_float(logits=logits)
  checks.check_same_shape(tokens=tokens, tokens_next=tokens_next, where=where)
  chex.assert_shape(logits, (*tokens.shape, None))
  logits = jnp.where(where[..., None], numerics.as_float(logits), 0)
  new = jnp.where(where, tokens_next, 0)
  log_probs = jnp.where(where, samplers.token_log_probs(logits, new), 0)
  possible = where | (tokens == tokens_next)
  return jnp.sum(jnp.where(possible, log_probs, -jnp.inf), -1)


def parity_denoiser(z: jax.Array) -> jax.Array:
  """Two rounds to the uniform law on strings of even parity.

  A masked bit is fair; a visible bit is revised to `b_i xor b_{i-1}`, with
  indices in a ring. Every prediction sees two bits. The map from b to the
  revised string is two to one, so each even string of n bits comes with
  probability `2^-(n-1)`.

  Args:
    z: int `[..., n]` of 0, 1 and, for a mask, 2; all masks or none.

  Returns:
    `[..., n, 2]`, log-probabilities.

  Raises:
    AssertionError: not of integers.

  >>> print(parity_denoiser(jnp.array([1, 0, 0])))
  [[-inf   0.]
   [-inf   0.]
   [  0. -inf]]

  Reference:
    The project's own, for the claim of DLMs are Provably Optimal Parallel
    Samplers (2512.25014).
  """
  chex.assert_type(z, int)
  revised = (z + jnp.roll(z, 1, -1)) % 2
  is_next = revised[..., None] == jnp.arange(2)
  certain = jnp.where(is_next, 0.0, -jnp.inf)
  return jnp.where((z == 2)[..., None], -jnp.log(2.0), certain)


def parity_sample(
  key: jax.Array, shape: tuple[int, ...]
) -> samplers.MaskedSamples:
  """Strings of even parity, uniformly, in two rounds.

  Two revision steps by `parity_denoiser`, from masks.

  Args:
    key: a typed key.
    shape: of the result, `(..., n)`.

  Returns:
    `MaskedSamples` of two steps.

  Raises:
    ValueError: no axis of bits, or no bits.

  >>> found = parity_sample(jax.random.key(0), (100, 8))
  >>> print(jnp.any(jnp.sum(found.tokens, -1) % 2), found.num_forwards)
  False 2

  Reference:
    The project's own, for the claim of DLMs are Provably Optimal Parallel
    Samplers (2512.25014).
  """
  if not shape or shape[-1] < 1:
    raise ValueError(f"shape must end in a number of bits, was {shape}")
  where = jnp.ones(shape, bool)
  first, second = jax.random.split(key)
  z = jnp.full(shape, 2, jnp.int32)
  z = revision_step(first, parity_denoiser, z, where, mask_id=2)
  z = revision_step(second, parity_denoiser, z, where, mask_id=2)
  revealed = jnp.full((*shape[:-1], 2), shape[-1], jnp.int32)
  return samplers.MaskedSamples(z, jnp.int32(2), revealed)
