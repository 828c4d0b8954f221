# SPDX-License-Identifier: Apache-2.0
"""A transformer: causal as a language model, bidirectional as a denoiser.

The architecture of Llama, Qwen2 and Qwen3: normalisation before each block,
rotary positions, grouped-query attention and a gated MLP. It ends with hidden
states; `head` gives the matrix that makes logits of them.

Parameters have the layers stacked along a leading axis L, scanned or not:
`embed/embedding [V, width]`, `final_norm/scale [width]`, and for an untied head
`head [width, V]`; of the layers, `layers/attention_norm/scale [L, width]`,
`layers/attention/{query,key,value,out}/kernel [L, in, out]` (and `bias`),
`layers/attention/{query_norm,key_norm}/scale [L, head_dim]`,
`layers/mlp_norm/scale [L, width]`, `layers/mlp/{gate,up,down}/kernel`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxalign import checks
from jaxalign.models import rotary

__all__ = (
  "SIZES",
  "KVCache",
  "Transformer",
  "TransformerConfig",
  "head",
  "init_cache",
)

_REMAT = {
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "full": None,
}


# --- configuration -----------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """What a transformer is made of; hashable, hence static under `jit`.

  Attributes:
    vocab_size: V.
    num_layers: L.
    width: of the hidden states.
    num_heads: of the queries.
    num_kv_heads: of keys and values; divides `num_heads`.
    head_dim: even.
    mlp_width: inside the MLP.
    rope_theta: base of the rotary frequencies.
    rope_scaling: `RopeScaling` or `None`.
    max_positions: for how long a context the model is made. Nothing is cut.
    norm_eps: added to mean squares.
    tied: whether the head is the transposed embedding.
    causal: whether a token sees only itself and what precedes it.
    qk_norm: whether queries and keys are normalised, as in Qwen3.
    qkv_bias: whether queries, keys and values have biases, as in Qwen2.
    dtype: in which to compute; softmax and norms are in float32 anyway.
    param_dtype: of the parameters that `init` makes.
    remat: `none` keeps all for the backward pass, `dots` the products with
      parameters, `full` the input of each layer.
    scan_layers: a loop over layers, which compiles fast, or one long program.
  """

  vocab_size: int
  num_layers: int
  width: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_width: int
  rope_theta: float = 10_000.0
  rope_scaling: rotary.RopeScaling | None = None
  max_positions: int = 2048
  norm_eps: float = 1e-6
  tied: bool = True
  causal: bool = True
  qk_norm: bool = False
  qkv_bias: bool = False
  dtype: str = "float32"
  param_dtype: str = "float32"
  remat: str = "none"
  scan_layers: bool = True

  def __post_init__(self):
    checks.check_choice("remat", self.remat, ("none", *_REMAT))
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f"num_kv_heads must divide num_heads, was {self.num_kv_heads} for"
        f" {self.num_heads}"
      )
    if self.head_dim % 2:
      raise ValueError(f"head_dim must be even, was {self.head_dim}")

  @classmethod
  def named(cls, name: str, **changes: Any) -> "TransformerConfig":
    """The configuration of a size, with some entries changed.

    Args:
      name: one of `SIZES`.
      **changes: entries by name.

    Returns:
      `TransformerConfig`.

    Raises:
      ValueError: an unknown name.
    """
    checks.check_choice("size", name, SIZES)
    return dataclasses.replace(SIZES[name], **changes)


# For bytes and special tokens, 264 so that devices can share the vocabulary
# evenly; and two that are well known.
SIZES = {
  "tiny": TransformerConfig(264, 3, 128, 4, 2, 32, 256),
  "small": TransformerConfig(264, 6, 256, 8, 4, 32, 640),
  "qwen3-0.6b": TransformerConfig(
    vocab_size=151_936,
    num_layers=28,
    width=1024,
    num_heads=16,
    num_kv_heads=8,
    head_dim=128,
    mlp_width=3072,
    rope_theta=1e6,
    max_positions=40_960,
    qk_norm=True,
    dtype="bfloat16",
  ),
  "llama3-8b": TransformerConfig(
    vocab_size=128_256,
    num_layers=32,
    width=4096,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    mlp_width=14_336,
    rope_theta=5e5,
    max_positions=8192,
    norm_eps=1e-5,
    tied=False,
    dtype="bfloat16",
  ),
}


# --- keys and values of past tokens ------------------------------------------


class KVCache(NamedTuple):
  """Keys and values of S slots, of which the first `length` are filled.

  Attributes:
    keys: `[L, B, num_kv_heads, head_dim, S]`, rotated; in this order they are
      read without a copy.
    values: the shape of `keys`.
    where: bool `[B, S]`, slots that hold tokens.
    length: int32 `[]`.
  """

  keys: jax.Array
  values: jax.Array
  where: jax.Array
  length: jax.Array


def init_cache(
  config: TransformerConfig, *, batch_size: int, num_slots: int
) -> KVCache:
  """A cache without tokens.

  Args:
    config: of the model.
    batch_size: B.
    num_slots: S, room for all tokens to come, padding included.

  Returns:
    `KVCache`.

  >>> init_cache(SIZES["tiny"], batch_size=1, num_slots=5).keys.shape
  (3, 1, 2, 32, 5)

  Reference:
    Efficiently scaling transformer inference (2211.05102), section 2.
  """
  heads = config.num_kv_heads, config.head_dim
  shape = config.num_layers, batch_size, *heads, num_slots
  empty = jnp.zeros(shape, config.dtype)
  where = jnp.zeros((batch_size, num_slots), bool)
  return KVCache(empty, empty, where, jnp.int32(0))


# --- layers ------------------------------------------------------------------


class _Context(NamedTuple):
  """What all layers share.

  Attributes:
    rotation: cosines and sines `[B, T, head_dim / 2]`.
    allowed: bool `[B, T or 1, S]`, what each token sees.
    slot: int32 `[]`, where new tokens go in a cache; `None` without one.
  """

  rotation: tuple[jax.Array, jax.Array]
  allowed: jax.Array
  slot: jax.Array | None


def _dense(
  config: TransformerConfig, size: int, name: str, *, use_bias: bool = False
) -> nn.Dense:
  return nn.Dense(
    size,
    use_bias=use_bias,
    dtype=config.dtype,
    param_dtype=config.param_dtype,
    name=name,
  )


def _norm(config: TransformerConfig, name: str | None = None) -> nn.RMSNorm:
  return nn.RMSNorm(
    epsilon=config.norm_eps,
    dtype=config.dtype,
    param_dtype=config.param_dtype,
    name=name,
  )


class _Attention(nn.Module):
  config: TransformerConfig

  @nn.compact
  def __call__(self, x, cache, layer, context):
    c = self.config

    def project(name, heads):
      y = _dense(c, heads * c.head_dim, name, use_bias=c.qkv_bias)(x)
      return y.reshape(*x.shape[:-1], heads, c.head_dim)

    query = project("query", c.num_heads)
    key = project("key", c.num_kv_heads)
    value = project("value", c.num_kv_heads)
    if c.qk_norm:
      query = _norm(c, "query_norm")(query)
      key = _norm(c, "key_norm")(key)
    query = rotary.rotate(query, *context.rotation)
    key = rotary.rotate(key, *context.rotation)
    if cache is not None:
      # All layers' keys go along and change in place; as inputs and outputs of
      # the loop over layers they would be copied for every token.
      at = [jnp.int32(i) for i in (layer, 0, 0, 0, context.slot)]
      cache = jax.tree.map(
        lambda old, new: jax.lax.dynamic_update_slice(
          old, jnp.moveaxis(new, 1, -1)[None], at
        ),
        cache,
        (key, value),
      )
      key, value = (jnp.moveaxis(x[layer], -1, 1) for x in cache)
    # Softmax in float32. A token that sees nothing sees all of it equally,
    # which is finite; only padding can be such a token.
    mixed = jax.nn.dot_product_attention(
      query, key, value, mask=context.allowed[:, None]
    )
    out = _dense(c, c.width, "out")(mixed.reshape(*x.shape[:-1], -1))
    return out, cache


class _MLP(nn.Module):
  config: TransformerConfig

  @nn.compact
  def __call__(self, x):
    c = self.config
    gate = nn.silu(_dense(c, c.mlp_width, "gate")(x))
    up = _dense(c, c.mlp_width, "up")(x)
    return _dense(c, c.width, "down")(gate * up)


class _Layer(nn.Module):
  config: TransformerConfig

  @nn.compact
  def __call__(self, carry, layer, context):
    x, cache = carry
    normed = _norm(self.config, "attention_norm")(x)
    attention = _Attention(self.config, name="attention")
    mixed, cache = attention(normed, cache, layer, context)
    x = x + mixed
    normed = _norm(self.config, "mlp_norm")(x)
    x = x + _MLP(self.config, name="mlp")(normed)
    return (x, cache), None


def _stack(config: TransformerConfig) -> nn.Module:
  """All layers, as one module with stacked parameters."""
  layer = _Layer
  if config.remat != "none":
    # In a loop nothing can be shared with the forward pass; in one program
    # the compiler would undo the recomputation if it were let.
    layer = nn.remat(
      layer,
      policy=_REMAT[config.remat],
      prevent_cse=not config.scan_layers,
    )
  return nn.scan(
    layer,
    variable_axes={"params": 0},
    split_rngs={"params": True},
    in_axes=(0, nn.broadcast),
    length=config.num_layers,
    unroll=1 if config.scan_layers else config.num_layers,
  )(config)


class Transformer(nn.Module):
  """Hidden states of tokens, `[B, T]` to `[B, T, width]`.

  `model.init(key, tokens)["params"]` makes parameters, and
  `model.apply({"params": params}, tokens, where=where)` hidden states.

  Attributes:
    config: `TransformerConfig`.
  """

  config: TransformerConfig

  def setup(self):
    """Makes the parts."""
    c = self.config
    self.embed = nn.Embed(
      c.vocab_size, c.width, dtype=c.dtype, param_dtype=c.param_dtype
    )
    self.layers = _stack(c)
    self.final_norm = _norm(c)
    if not c.tied:
      init = nn.initializers.lecun_normal()
      shape = (c.width, c.vocab_size)
      self.head = self.param("head", init, shape, c.param_dtype)

  def __call__(
    self, tokens: jax.Array, *, where: jax.Array | None = None
  ) -> jax.Array:
    """Hidden states after the final norm.

    Padding may be on either side and hold anything: no token sees it, and
    positions count the tokens that exist.

    Args:
      tokens: int `[B, T]`.
      where: bool `[B, T]`, tokens that exist; all by default.

    Returns:
      `[B, T, width]`, 0 at padding.

    Raises:
      AssertionError: not of rank 2, or unequal shapes.
    """
    where = jnp.ones_like(tokens, bool) if where is None else where
    checks.check_rank(2, tokens=tokens)
    checks.check_same_shape(tokens=tokens, where=where)
    allowed = where[:, None, :]
    if self.config.causal:
      allowed &= jnp.tri(tokens.shape[1], dtype=bool)
    hidden, _ = self._run(tokens, where, allowed)
    return hidden

  def extend(
    self, tokens: jax.Array, where: jax.Array, cache: KVCache
  ) -> tuple[jax.Array, KVCache]:
    """Hidden states of tokens that follow those of a cache; causal.

    Args:
      tokens: int `[B, T]`.
      where: bool `[B, T]`, tokens that exist.
      cache: with T free slots at least.

    Returns:
      `[B, T, width]`, 0 at padding, and the cache with these tokens.

    Raises:
      AssertionError: not of rank 2, or unequal shapes.
      ValueError: the model is not causal.
    """
    checks.check_rank(2, tokens=tokens)
    checks.check_same_shape(tokens=tokens, where=where)
    if not self.config.causal:
      raise ValueError("only a causal model can be extended: was bidirectional")
    slots = jnp.arange(cache.where.shape[1])
    own = cache.length + jnp.arange(tokens.shape[1])
    before = jnp.sum(cache.where, 1, keepdims=True)
    filled = jax.lax.dynamic_update_slice_in_dim(
      cache.where, where, cache.length, axis=1
    )
    allowed = filled[:, None, :] & (slots <= own[:, None])
    hidden, (keys, values) = self._run(
      tokens, where, allowed, before, cache.length, (cache.keys, cache.values)
    )
    length = cache.length + tokens.shape[1]
    return hidden, KVCache(keys, values, filled, length)

  def _run(self, tokens, where, allowed, before=0, slot=None, cache=None):
    positions = jnp.maximum(before + jnp.cumsum(where, 1) - 1, 0)
    rotation = rotary.rotation(
      positions,
      head_dim=self.config.head_dim,
      theta=self.config.rope_theta,
      scaling=self.config.rope_scaling,
    )
    # Ids outside the vocabulary would be embedded as NaN.
    x = self.embed(jnp.where(where, tokens, 0))
    (x, cache), _ = self.layers(
      (x, cache),
      jnp.arange(self.config.num_layers),
      _Context(rotation, allowed, slot),
    )
    return jnp.where(where[..., None], self.final_norm(x), 0), cache


def head(params: Mapping[str, Any]) -> jax.Array:
  """The matrix that makes logits of hidden states.

  Args:
    params: of a `Transformer`.

  Returns:
    `[width, V]`: its own, or the transposed embedding if there is none.

  >>> head({"embed": {"embedding": jnp.zeros((5, 2))}}).shape
  (2, 5)

  Reference:
    Using the output embedding to improve language models (1608.05859).
  """
  if "head" in params:
    return params["head"]
  return params["embed"]["embedding"].T
