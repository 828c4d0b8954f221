# SPDX-License-Identifier: Apache-2.0
"""The project's transformer on embeddings that need be those of no token.

The model's own modules do all of it. What stands in the place of tokens, or is
left out, is exchanged where the module is called (`nn.intercept_methods`).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxalign import models

Params = Any

KINDS = ("attention", "mlp")
# What a layer adds comes out of these: 0 switches a sub-block off.
_LAST = {"attention": "out", "mlp": "down"}


def in_float64(
  config: models.TransformerConfig, params: Params
) -> tuple[models.TransformerConfig, Params]:
  """The same model in float64; of attention the softmax stays in float32."""
  config = dataclasses.replace(config, dtype="float64", param_dtype="float64")
  return config, jax.tree.map(lambda x: np.asarray(x, np.float64), params)


def _exchange(embeddings: jax.Array, *, normed: bool):
  """An interceptor: embeddings for tokens, and no final norm if not asked."""

  def interceptor(call, args, kwargs, context):
    if context.method_name == "__call__":
      if context.module.name == "embed":
        return embeddings
      if context.module.name == "final_norm" and not normed:
        return args[0]
    return call(*args, **kwargs)

  return nn.intercept_methods(interceptor)


def states(
  model: models.Transformer, params: Params, x: jax.Array, *, normed: bool
) -> jax.Array:
  """Hidden states of embeddings, both `[T, width]`.

  Args:
    model: the transformer.
    params: its parameters.
    x: what stands in the place of tokens' embeddings.
    normed: whether the final norm is applied.
  """
  with _exchange(x[None], normed=normed):
    tokens = jnp.zeros((1, len(x)), jnp.int32)
    return model.apply({"params": params}, tokens)[0]


def extend(
  model: models.Transformer, params: Params, x: jax.Array, cache: models.KVCache
) -> tuple[jax.Array, models.KVCache]:
  """The state `[width]` of one more embedding, before the final norm."""
  one = jnp.zeros((1, 1), jnp.int32)
  with _exchange(x[None, None], normed=False):
    hidden, cache = model.apply(
      {"params": params},
      one,
      jnp.ones_like(one, bool),
      cache,
      method=models.Transformer.extend,
    )
  return hidden[0, 0], cache


def sub_block_model(config: models.TransformerConfig) -> models.Transformer:
  """A model of one layer and of one token, which is never used."""
  config = dataclasses.replace(config, num_layers=1, vocab_size=1, tied=True)
  return models.Transformer(config)


def sub_block_params(params: Params, layer: int, kind: str) -> Params:
  """One layer with one of its sub-blocks switched off.

  Of one shape for every layer and both kinds: one program serves them all.
  """
  own = jax.tree.map(lambda x: x[layer : layer + 1], params["layers"])
  (other,) = (name for name in KINDS if name != kind)
  last = own[other][_LAST[other]]
  silent = own[other] | {_LAST[other]: jax.tree.map(np.zeros_like, last)}
  unused = np.zeros_like(params["embed"]["embedding"][:1])
  return {
    "layers": own | {other: silent},
    "embed": {"embedding": unused},
  }
