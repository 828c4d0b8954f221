# SPDX-License-Identifier: Apache-2.0
"""Small language models for experiments: one to begin with, one loop to train.

A model is a linen module that makes hidden states `[B, T, width]` of tokens
`[B, T]` and whose parameters `models.head` knows how to read a head from. The
transformers are `jaxalign.models.Transformer`: where a paper has pre-LN blocks
with learned positions, these have an RMS norm before each block, rotary
positions, a gated MLP, and a head tied to the embedding.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxalign import models

Params = Any


def transformer(
  vocab_size: int, *, num_layers: int, width: int, num_heads: int = 2
) -> models.Transformer:
  """A small causal transformer.

  Args:
    vocab_size: V.
    num_layers: L.
    width: of the hidden states; twice `num_heads` divides it.
    num_heads: of queries, keys and values alike.
  """
  config = models.TransformerConfig(
    vocab_size=vocab_size,
    num_layers=num_layers,
    width=width,
    num_heads=num_heads,
    num_kv_heads=num_heads,
    head_dim=width // num_heads,
    # A gated MLP of 8/3 times the width has as many parameters as the usual
    # one of 4 times.
    mlp_width=8 * width // 3,
  )
  return models.Transformer(config)


def init(key: jax.Array, model: nn.Module) -> Params:
  """Random parameters."""
  return model.init(key, jnp.zeros((1, 1), jnp.int32))["params"]


def token_log_probs(
  model: nn.Module, params: Params, tokens: jax.Array
) -> jax.Array:
  """Log-probability of each token but the first, given those before it.

  Args:
    model: see the module.
    params: of the model.
    tokens: int `[B, T]`; whatever stands behind a token does not change it, so
      padding on the right needs no mask here, only in what sums these.

  Returns:
    `[B, T - 1]`, nats.
  """
  hidden = model.apply({"params": params}, tokens[:, :-1])
  head = models.head(params)
  return models.token_logprobs(hidden, head, tokens[:, 1:]).logps


def cosine_adamw(
  rate: float, steps: int, *, weight_decay: float = 1e-4
) -> optax.GradientTransformation:
  """AdamW whose rate falls from `rate` to 0 along half a cosine."""
  schedule = optax.cosine_decay_schedule(rate, steps)
  return optax.adamw(schedule, weight_decay=weight_decay)


class Fitted(NamedTuple):
  """What `fit` returns.

  Attributes:
    params: after the last step.
    losses: `[steps]`, of each step's batch before it.
  """

  params: Params
  losses: jax.Array


def fit(
  key: jax.Array,
  loss_fn: Callable[[Params, Any], jax.Array],
  params: Params,
  draw: Callable[[jax.Array], Any],
  *,
  steps: int,
  optimizer: optax.GradientTransformation,
) -> Fitted:
  """Trains in one loop, to be called under `jit` and, for seeds, `vmap`.

  Args:
    key: consumed, one part of it in each step.
    loss_fn: `(params, batch) -> []`, what is minimised.
    params: where to start.
    draw: makes a batch of a key.
    steps: how many.
    optimizer: makes updates of gradients.
  """

  def step(carry, key):
    params, state = carry
    loss, slope = jax.value_and_grad(loss_fn)(params, draw(key))
    updates, state = optimizer.update(slope, state, params)
    return (optax.apply_updates(params, updates), state), loss

  start = params, optimizer.init(params)
  (params, _), losses = jax.lax.scan(step, start, jax.random.split(key, steps))
  return Fitted(params, losses)
