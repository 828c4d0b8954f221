# SPDX-License-Identifier: Apache-2.0
"""Sampling from a causal model, with a cache of keys and values."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.models import transformer

__all__ = ("Samples", "sample", "sampling_log_probs")


class Samples(NamedTuple):
  """Completions of B prompts, of N tokens at most.

  Attributes:
    tokens: int32 `[B, N]`, 0 behind the first stop id.
    where: bool `[B, N]`, tokens that were drawn, the first stop id included.
    log_probs: `[B, N]`, nats, of these tokens in the distribution they were
      drawn from, with its temperature and truncation; 0 where none was drawn.
    policy_log_probs: `[B, N]`, nats, of these tokens in the model itself.
  """

  tokens: jax.Array
  where: jax.Array
  log_probs: jax.Array
  policy_log_probs: jax.Array


def _check_options(temperature, top_k, top_p):
  if temperature < 0:
    raise ValueError(f"temperature must be at least 0, was {temperature}")
  if top_k is not None and top_k < 1:
    raise ValueError(f"top_k must be at least 1 or None, was {top_k}")
  if top_p is not None and not 0 < top_p <= 1:
    raise ValueError(f"top_p must be in (0, 1] or None, was {top_p}")


def sampling_log_probs(
  logits: jax.Array,
  *,
  temperature: float = 1.0,
  top_k: int | None = None,
  top_p: float | None = None,
) -> jax.Array:
  """Log-probabilities after temperature and truncation, which are renormalised.

  `log softmax(logits / temperature)`; of these the `top_k` most probable; of
  the rest the fewest whose probability is `top_p` or more. Of equal logits the
  lower index comes first.

  Args:
    logits: `[..., V]`.
    temperature: at least 0; 0 takes the most probable token.
    top_k: at least 1, or `None` for all.
    top_p: in `(0, 1]`, or `None` for all.

  Returns:
    `[..., V]`, nats, -inf for what is never drawn.

  Raises:
    ValueError: an option is out of range.

  >>> logits = jnp.log(jnp.array([.5, .3, .2]))
  >>> print(jnp.exp(sampling_log_probs(logits, top_k=2)).round(4))
  [0.625 0.375 0.   ]

  Reference:
    The curious case of neural text degeneration (1904.09751), sections 3 and 5.
  """
  _check_options(temperature, top_k, top_p)
  logits = numerics.as_float(logits)
  if temperature == 0:
    best = jnp.argmax(logits, -1, keepdims=True)
    chosen = jnp.arange(logits.shape[-1]) == best
    return numerics.masked_log_softmax(jnp.zeros_like(logits), chosen)
  log_probs = numerics.masked_log_softmax(logits / temperature)
  # With a limit of 1 rounding of the sum would drop the improbable.
  top_p = None if top_p == 1 else top_p
  if top_k is None and top_p is None:
    return log_probs
  order = jnp.argsort(-log_probs, -1)
  rank = jnp.argsort(order, -1)
  if top_k is not None:
    log_probs = numerics.masked_log_softmax(log_probs, rank < top_k)
  if top_p is not None:
    ranked = jnp.take_along_axis(jnp.exp(log_probs), order, -1)
    needed = jnp.cumsum(ranked, -1) - ranked < top_p
    kept = jnp.take_along_axis(needed, rank, -1)
    log_probs = numerics.masked_log_softmax(log_probs, kept)
  return log_probs


class _State(NamedTuple):
  """Of the loop over tokens.

  Attributes:
    step: int32 `[]`, how many tokens were drawn.
    done: bool `[B]`, rows with a stop id.
    cache: of prompts and tokens but the last.
    samples: so far.
  """

  step: jax.Array
  done: jax.Array
  cache: transformer.KVCache
  samples: Samples


@functools.partial(
  jax.jit, static_argnames=("model", "max_new_tokens", "options", "stop_ids")
)
def _sample(
  model, params, prompts, where, key, *, max_new_tokens, options, stop_ids
):
  batch_size, length = prompts.shape
  head = transformer.head(params)
  extend = functools.partial(model.apply, {"params": params}, method="extend")

  def draw(state, hidden):
    logits = jnp.matmul(hidden, head, preferred_element_type=jnp.float32)
    drawn_from = sampling_log_probs(logits, **dict(options))
    tokens = jax.random.categorical(
      jax.random.fold_in(key, state.step), drawn_from
    )

    def of_tokens(log_probs):
      return jnp.take_along_axis(log_probs, tokens[:, None], 1)[:, 0]

    live = ~state.done
    new = Samples(
      tokens.astype(jnp.int32),
      live,
      of_tokens(drawn_from),
      of_tokens(numerics.masked_log_softmax(logits)),
    )
    samples = jax.tree.map(
      lambda old, x: old.at[:, state.step].set(
        jnp.where(live, x, jnp.zeros_like(x))
      ),
      state.samples,
      new,
    )
    done = state.done | jnp.isin(tokens, jnp.array(stop_ids, jnp.int32))
    return _State(state.step + 1, done, state.cache, samples)

  def proceed(state):
    last = state.samples.tokens[:, state.step - 1]
    exists = jnp.ones((batch_size, 1), bool)
    hidden, cache = extend(last[:, None], exists, state.cache)
    return draw(state._replace(cache=cache), hidden[:, 0])

  def unfinished(state):
    return (state.step < max_new_tokens) & ~jnp.all(state.done)

  cache = transformer.init_cache(
    model.config,
    batch_size=batch_size,
    num_slots=length + max_new_tokens - 1,
  )
  hidden, cache = extend(prompts, where, cache)
  last = jnp.max(jnp.where(where, jnp.arange(length), 0), 1)
  shape = batch_size, max_new_tokens
  empty = Samples(
    jnp.zeros(shape, jnp.int32),
    jnp.zeros(shape, bool),
    jnp.zeros(shape, jnp.float32),
    jnp.zeros(shape, jnp.float32),
  )
  state = _State(jnp.int32(0), jnp.zeros(batch_size, bool), cache, empty)
  state = draw(state, hidden[jnp.arange(batch_size), last])
  return jax.lax.while_loop(unfinished, proceed, state).samples


def sample(
  key: jax.Array,
  model: transformer.Transformer,
  params: Mapping[str, Any],
  prompts: jax.Array,
  *,
  where: jax.Array,
  max_new_tokens: int,
  temperature: float = 1.0,
  top_k: int | None = None,
  top_p: float | None = None,
  stop_ids: tuple[int, ...] = (),
) -> Samples:
  """Draws a completion for every prompt; compiled, once for each shape.

  It ends early where all rows have drawn a stop id.

  Args:
    key: consumed.
    model: causal.
    params: of the model.
    prompts: int `[B, P]`.
    where: bool `[B, P]`, tokens that exist, one in each row at least; padding
      on either side, which may hold anything.
    max_new_tokens: N, at least 1.
    temperature: see `sampling_log_probs`; 0 is greedy.
    top_k: see there.
    top_p: see there.
    stop_ids: tokens after which a row ends.

  Returns:
    `Samples`.

  Raises:
    AssertionError: prompts are not of rank 2, or unequal shapes.
    ValueError: an option is out of range, or the model is not causal.

  >>> config = transformer.TransformerConfig(5, 1, 4, 1, 1, 4, 4)
  >>> model, prompts = transformer.Transformer(config), jnp.ones((2, 3), int)
  >>> params = jax.jit(model.init)(jax.random.key(0), prompts)["params"]
  >>> sample(
  ...   jax.random.key(1), model, params, prompts, where=prompts > 0,
  ...   max_new_tokens=4).tokens.shape
  (2, 4)

  Reference:
    The curious case of neural text degeneration (1904.09751), section 3.
  """
  checks.check_rank(2, prompts=prompts)
  checks.check_same_shape(prompts=prompts, where=where)
  _check_options(temperature, top_k, top_p)
  if max_new_tokens < 1:
    raise ValueError(f"max_new_tokens must be at least 1, was {max_new_tokens}")
  options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
  return _sample(
    model,
    params,
    prompts,
    where,
    key,
    max_new_tokens=max_new_tokens,
    options=tuple(options.items()),
    stop_ids=tuple(stop_ids),
  )
