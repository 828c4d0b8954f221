# SPDX-License-Identifier: Apache-2.0
"""Samplers of masked diffusion: ancestral, random order, by confidence.

A denoiser maps int `[..., L]`, with `mask_id` for masks, to logits
`[..., L, V]`. A sampler fills the positions that `where` selects: whatever
stood there is masked first, and the rest (a prompt) is never touched. Leading
axes are sequences that go through the denoiser together.

Which positions a step reveals is drawn, or counted, before the denoiser is
asked; a step that reveals nothing runs no forward. So `num_forwards` counts the
steps that changed z: for n steps of a linear schedule and one sequence of l
tokens its mean is `n (1 - (1 - 1/n)^l)`. (Caching the last prediction, which
must predict before it knows, takes `1 + (n - 1) (1 - (1 - 1/n)^l)` forwards.)
Under `vmap` XLA computes what is skipped too, though the count is that of each
sequence alone; with leading axes a step is skipped where no sequence needs it.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics

__all__ = (
  "MaskedSamples",
  "Reveal",
  "ancestral_probs",
  "ancestral_sample",
  "confidence_sample",
  "random_order_sample",
  "reveal_counts",
  "reveal_tokens",
  "top_positions",
)

Denoiser = Callable[[jax.Array], jax.Array]


class MaskedSamples(NamedTuple):
  """Samples, and what they cost.

  Attributes:
    tokens: int `[..., L]`, without masks where a token was to be generated.
    num_forwards: int32 `[]`, how often the denoiser ran.
    num_revealed: int32 `[..., steps]`, tokens revealed, in order of the steps.
  """

  tokens: jax.Array
  num_forwards: jax.Array
  num_revealed: jax.Array


class Reveal(NamedTuple):
  """What a denoiser puts in the place of masks.

  Attributes:
    tokens: int `[..., L]`, a token for every position; 0 without a forward.
    log_probs: `[..., L]`, nats: what the denoiser gives these tokens, before
      any temperature; 0 without a forward.
    num_forwards: int32 `[]`, 1 or 0.
  """

  tokens: jax.Array
  log_probs: jax.Array
  num_forwards: jax.Array


# --- parts -------------------------------------------------------------------


def check_alphas(alphas: jax.Array) -> jax.Array:
  """The schedule `[T + 1]`, of a type to compute in; refuses what is none."""
  checks.check_rank(1, alphas=alphas)
  checks.check_float(alphas=alphas)
  if alphas.shape[0] < 2:
    raise ValueError(
      f"alphas must have two entries or more, was {alphas.shape}"
    )
  if not isinstance(alphas, jax.core.Tracer):
    a = np.asarray(alphas)
    # A cosine schedule ends at 0 but for rounding.
    if a[0] != 1 or abs(a[-1]) > 1e-6 or not np.all(np.diff(a) <= 0):
      raise ValueError(f"alphas must go down from 1 to 0, was {a.tolist()}")
  return numerics.as_float(alphas)


def ancestral_probs(alphas: jax.Array) -> jax.Array:
  """Probability that a masked token is revealed in the step from t to s.

  `(alpha_s - alpha_t) / (1 - alpha_t)`; 1 where `alpha_t` is 1.

  Args:
    alphas: `[T + 1]`, share of visible tokens at times `0, 1/T, ..., 1`: from 1
      down to 0.

  Returns:
    `[T]`, in the order of the times: the last entry is the first step.

  Raises:
    AssertionError: not of rank 1.
    ValueError: fewer than two alphas, or not from 1 down to 0.

  >>> print(ancestral_probs(jnp.array([1., .5, 0.])))
  [1.  0.5]

  Reference:
    MDLM (2406.07524), section 3.2.
  """
  alphas = check_alphas(alphas)
  masked = 1 - alphas[1:]
  revealed = alphas[:-1] - alphas[1:]
  return jnp.where(masked > 0, revealed / jnp.where(masked > 0, masked, 1), 1)


def reveal_counts(num_masked: jax.Array, *, num_steps: int) -> jax.Array:
  """How many tokens each step reveals, as evenly as possible.

  `floor(M / S) + 1[i < M mod S]`.

  Args:
    num_masked: M, integers `[...]`.
    num_steps: S, at least 1.

  Returns:
    int32 `[..., S]`, which sums to M.

  Raises:
    ValueError: S is below 1.

  >>> print(reveal_counts(jnp.array(5), num_steps=3))
  [2 2 1]

  Reference:
    LLaDA (2502.09992), released sampling code.
  """
  if num_steps < 1:
    raise ValueError(f"num_steps must be at least 1, was {num_steps}")
  chex.assert_type(num_masked, int)
  num_masked = jnp.asarray(num_masked, jnp.int32)[..., None]
  more = jnp.arange(num_steps) < num_masked % num_steps
  return num_masked // num_steps + more.astype(jnp.int32)


def top_positions(
  scores: jax.Array, where: jax.Array, count: jax.Array
) -> jax.Array:
  """The positions of the highest scores among those that a mask selects.

  Args:
    scores: `[..., L]`, anything at all (also NaN) where `where` is false.
    where: bool `[..., L]`.
    count: how many, integers `[...]`; all that there are where it is more.

  Returns:
    bool `[..., L]`. Equal scores are taken from the left.

  Raises:
    AssertionError: unequal shapes.

  >>> where = jnp.array([True, True, False])
  >>> print(top_positions(jnp.array([.1, .2, .3]), where, jnp.array(1)))
  [False  True False]

  Reference:
    LLaDA (2502.09992), low-confidence remasking.
  """
  checks.check_same_shape(scores=scores, where=where)
  chex.assert_shape(count, scores.shape[:-1])
  # By `where` first, so that no score can put a position before the selected.
  order = jnp.lexsort((-scores, ~where), axis=-1)
  return where & (jnp.argsort(order, -1) < count[..., None])


def _predict(denoiser: Denoiser, z: jax.Array, mask_id: int) -> jax.Array:
  """Logits `[..., L, V]`; checks them."""
  logits = numerics.as_float(denoiser(z))
  chex.assert_shape(logits, (*z.shape, None))
  if logits.shape[-1] > mask_id:
    raise ValueError(
      f"mask_id must be outside the vocabulary of {logits.shape[-1]} tokens,"
      f" was {mask_id}"
    )
  return logits


def token_log_probs(logits: jax.Array, tokens: jax.Array) -> jax.Array:
  """Log-probabilities `[..., L]` of given tokens, nats."""
  log_probs = numerics.masked_log_softmax(logits)
  return jnp.take_along_axis(log_probs, tokens[..., None], -1)[..., 0]


def reveal_tokens(
  key: jax.Array,
  denoiser: Denoiser,
  z: jax.Array,
  needed: jax.Array,
  *,
  mask_id: int,
  temperature: float = 1.0,
) -> Reveal:
  """Draws tokens from a denoiser, if anybody needs them.

  Independently by position from `softmax(logits / temperature)`, by the maximum
  of `logits + temperature * Gumbel noise`: in the logits' own type nothing
  underflows. Temperature 0 takes the most likely token.

  Args:
    key: a typed key.
    denoiser: maps int `[..., L]` to logits `[..., L, V]`.
    z: int `[..., L]`, with `mask_id` for masks.
    needed: bool `[]`: without it the denoiser does not run.
    mask_id: the number of the mask, at least V.
    temperature: at least 0.

  Returns:
    `Reveal`.

  Raises:
    AssertionError: the logits are not `[..., L, V]`.
    ValueError: temperature below 0, or the mask is a token.

  >>> denoiser = lambda z: jnp.log(jnp.array([[0., 1.], [1., 0.]]))
  >>> z, needed = jnp.array([2, 2]), jnp.array(True)
  >>> found = reveal_tokens(jax.random.key(0), denoiser, z, needed, mask_id=2)
  >>> print(found.tokens)
  [1 0]

  Reference:
    LLaDA (2502.09992), released sampling code, in log-space.
  """
  if not temperature >= 0:
    raise ValueError(f"temperature must be at least 0, was {temperature}")

  def draw(z):
    logits = _predict(denoiser, z, mask_id)
    noisy = logits
    if temperature > 0:
      noise = jax.random.gumbel(key, logits.shape, logits.dtype)
      noisy = logits + temperature * noise
    tokens = jnp.argmax(noisy, -1)
    log_probs = token_log_probs(logits, tokens)
    return Reveal(tokens.astype(z.dtype), log_probs, jnp.int32(1))

  def skip(z):
    dtype = jax.eval_shape(draw, z).log_probs.dtype
    zeros = jnp.zeros(z.shape, dtype)
    return Reveal(jnp.zeros_like(z), zeros, jnp.int32(0))

  return jax.lax.cond(needed, draw, skip, z)


# --- samplers ----------------------------------------------------------------


def masked_prompt(
  tokens: jax.Array, where: jax.Array, mask_id: int
) -> jax.Array:
  """The prompt `[..., L]`, with masks where tokens are to be generated."""
  chex.assert_type([tokens, where], [int, bool])
  checks.check_same_shape(tokens=tokens, where=where)
  return jnp.where(where, jnp.asarray(mask_id, tokens.dtype), tokens)


def _samples(z: jax.Array, forwards: jax.Array, revealed: jax.Array):
  """From what `lax.scan` has stacked over its steps."""
  return MaskedSamples(z, jnp.sum(forwards), jnp.moveaxis(revealed, 0, -1))


def ancestral_sample(
  key: jax.Array,
  denoiser: Denoiser,
  tokens: jax.Array,
  where: jax.Array,
  alphas: jax.Array,
  *,
  mask_id: int,
  temperature: float = 1.0,
) -> MaskedSamples:
  """Reverse diffusion in T steps.

  In the step from t to s every masked position is revealed with probability
  `(alpha_s - alpha_t) / (1 - alpha_t)`, independently of the others and all
  from one prediction. Its law is `exact.t_step_log_prob`. No forward where
  nothing is revealed.

  Args:
    key: a typed key.
    denoiser: maps int `[..., L]` to logits `[..., L, V]`.
    tokens: int `[..., L]`, the prompt; not read where `where` is true.
    where: bool `[..., L]`, tokens to generate.
    alphas: `[T + 1]`, share of visible tokens at times `0, 1/T, ..., 1`: from 1
      down to 0.
    mask_id: the number of the mask, at least V.
    temperature: of the tokens; 0 takes the most likely.

  Returns:
    `MaskedSamples` of T steps.

  Raises:
    AssertionError: shapes or types.
    ValueError: alphas not from 1 down to 0, temperature below 0, or the mask is
      a token.

  >>> denoiser = lambda z: jnp.log(jnp.array([[0., 1.], [1., 0.]]))
  >>> prompt, where = jnp.zeros(2, int), jnp.ones(2, bool)
  >>> alphas = jnp.linspace(1., 0., 65)
  >>> key = jax.random.key(0)
  >>> found = ancestral_sample(key, denoiser, prompt, where, alphas, mask_id=2)
  >>> print(found.tokens, found.num_forwards)
  [1 0] 2

  Reference:
    MDLM (2406.07524), section 3.2; RADD (2406.03736), section 3.3, for the
    number of forwards.
  """
  probs = ancestral_probs(alphas)
  start = masked_prompt(tokens, where, mask_id)

  def step(z, inputs):
    i, reveal_prob = inputs
    pick, draw = jax.random.split(jax.random.fold_in(key, i))
    chosen = jax.random.uniform(pick, z.shape, probs.dtype) < reveal_prob
    chosen &= where & (z == mask_id)
    found = reveal_tokens(
      draw,
      denoiser,
      z,
      jnp.any(chosen),
      mask_id=mask_id,
      temperature=temperature,
    )
    count = jnp.sum(chosen, -1, dtype=jnp.int32)
    return jnp.where(chosen, found.tokens, z), (found.num_forwards, count)

  steps = (jnp.arange(len(probs)), probs[::-1])
  z, (forwards, revealed) = jax.lax.scan(step, start, steps)
  return _samples(z, forwards, revealed)


def block_numbers(where: jax.Array, num_blocks: int) -> jax.Array:
  """The block of each token to generate, from the left, int32 `[..., L]`."""
  rank = jnp.cumsum(where, -1, dtype=jnp.int32) - 1
  total = jnp.sum(where, -1, keepdims=True, dtype=jnp.int32)
  return rank * num_blocks // jnp.maximum(total, 1)


def _sample_by_score(
  key, denoiser, tokens, where, score, mask_id, temperature, steps, blocks
) -> MaskedSamples:
  """Reveals in each step those masks of a block that score highest.

  `score(key, log_probs [..., L]) -> [..., L]`, the rest as the public samplers
  name it.
  """
  start = masked_prompt(tokens, where, mask_id)
  steps = start.shape[-1] if steps is None else steps
  if blocks < 1 or steps < 1 or steps % blocks:
    raise ValueError(
      "num_steps must be a positive multiple of num_blocks, was"
      f" {steps} steps for {blocks} blocks"
    )
  block = block_numbers(where, blocks)
  # Tokens of a block are spread over its own steps: [..., blocks, steps each].
  member = where[..., None, :] & (block[..., None, :] == np.c_[:blocks])
  sizes = jnp.sum(member, -1, dtype=jnp.int32)
  counts = reveal_counts(sizes, num_steps=steps // blocks)
  counts = counts.reshape(*start.shape[:-1], steps)

  def step(z, inputs):
    i, count = inputs
    pick, draw = jax.random.split(jax.random.fold_in(key, i))
    needed = jnp.any(count > 0)
    found = reveal_tokens(
      draw, denoiser, z, needed, mask_id=mask_id, temperature=temperature
    )
    hidden = where & (z == mask_id) & (block == i // (steps // blocks))
    chosen = top_positions(score(pick, found.log_probs), hidden, count)
    return jnp.where(chosen, found.tokens, z), found.num_forwards

  inputs = (jnp.arange(steps), jnp.moveaxis(counts, -1, 0))
  z, forwards = jax.lax.scan(step, start, inputs)
  return MaskedSamples(z, jnp.sum(forwards), counts)


def random_order_sample(
  key: jax.Array,
  denoiser: Denoiser,
  tokens: jax.Array,
  where: jax.Array,
  *,
  mask_id: int,
  temperature: float = 1.0,
  num_steps: int | None = None,
  num_blocks: int = 1,
) -> MaskedSamples:
  """Reveals tokens in a random order, by default one at a time.

  Its law, one at a time and in one block, is `exact.any_order_log_prob`. With
  fewer steps a step reveals a random set from one prediction, of the size that
  `reveal_counts` says.

  Args:
    key: a typed key.
    denoiser: maps int `[..., L]` to logits `[..., L, V]`.
    tokens: int `[..., L]`, the prompt; not read where `where` is true.
    where: bool `[..., L]`, tokens to generate.
    mask_id: the number of the mask, at least V.
    temperature: of the tokens; 0 takes the most likely.
    num_steps: S, a multiple of num_blocks; L by default, of which those past
      the last token cost nothing.
    num_blocks: runs of tokens to generate, of equal length but for one, filled
      from left to right in S / num_blocks steps each.

  Returns:
    `MaskedSamples` of S steps.

  Raises:
    AssertionError: shapes or types.
    ValueError: S is no multiple of num_blocks, temperature below 0, or the mask
      is a token.

  >>> denoiser = lambda z: jnp.log(jnp.array([[0., 1.], [1., 0.]]))
  >>> prompt, where = jnp.zeros(2, int), jnp.ones(2, bool)
  >>> key = jax.random.key(0)
  >>> found = random_order_sample(key, denoiser, prompt, where, mask_id=2)
  >>> print(found.tokens, found.num_revealed)
  [1 0] [1 1]

  Reference:
    RADD (2406.03736), section 4; LLaDA (2502.09992), random remasking.
  """

  def score(key, log_probs):
    return jax.random.uniform(key, log_probs.shape)

  return _sample_by_score(
    key,
    denoiser,
    tokens,
    where,
    score,
    mask_id,
    temperature,
    num_steps,
    num_blocks,
  )


def confidence_sample(
  key: jax.Array,
  denoiser: Denoiser,
  tokens: jax.Array,
  where: jax.Array,
  *,
  mask_id: int,
  temperature: float = 0.0,
  num_steps: int | None = None,
  num_blocks: int = 1,
) -> MaskedSamples:
  """Low-confidence remasking: keeps the tokens that are predicted surest.

  Each step draws a token for every mask and keeps, in the current block, the
  `reveal_counts` of them to which the denoiser gives most probability (before
  any temperature). This is no sampler of the law that the denoiser's bounds
  describe, not even with perfect conditionals, one token at a time and
  temperature 1: only `random_order_sample` is.

  Args:
    key: a typed key; without effect at temperature 0.
    denoiser: maps int `[..., L]` to logits `[..., L, V]`.
    tokens: int `[..., L]`, the prompt; not read where `where` is true.
    where: bool `[..., L]`, tokens to generate.
    mask_id: the number of the mask, at least V.
    temperature: of the tokens; 0 takes the most likely.
    num_steps: S, a multiple of num_blocks; L by default, of which those past
      the last token cost nothing.
    num_blocks: runs of tokens to generate, of equal length but for one, filled
      from left to right in S / num_blocks steps each (semi-autoregressive).

  Returns:
    `MaskedSamples` of S steps.

  Raises:
    AssertionError: shapes or types.
    ValueError: S is no multiple of num_blocks, temperature below 0, or the mask
      is a token.

  >>> denoiser = lambda z: jnp.log(jnp.array([[.4, .6], [.9, .1]]))
  >>> prompt, where = jnp.zeros(2, int), jnp.ones(2, bool)
  >>> key = jax.random.key(0)
  >>> confidence_sample(key, denoiser, prompt, where, mask_id=2).tokens
  Array([1, 0], dtype=int32)

  Reference:
    LLaDA (2502.09992), algorithm 5 and released sampling code.
  """

  def score(key, log_probs):
    return log_probs

  return _sample_by_score(
    key,
    denoiser,
    tokens,
    where,
    score,
    mask_id,
    temperature,
    num_steps,
    num_blocks,
  )
