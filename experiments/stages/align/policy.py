# SPDX-License-Identifier: Apache-2.0
"""Models by name or from a directory, and what they say of answers."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, data, divergences, models

# Smaller than the library's sizes: learns short words in seconds.
_NANO = models.TransformerConfig(264, 1, 32, 2, 2, 16, 64)
# The usual alpha = 2 rank.
_LORA_SCALE = 2.0

Params = Any


class Policy(NamedTuple):
  """A model whose trained parameters stand beside those it started from.

  Trained are `{"weights": ...}`, all parameters or adapters of them, and for a
  reward model `"score" [width]` too. Where it started is kept whole.

  Attributes:
    model: `Transformer`.
    lora: whether the weights are adapters.
  """

  model: models.Transformer
  lora: bool

  def merged(self, trained: Params, start: Params) -> Params:
    """The model's parameters."""
    if not self.lora:
      return trained["weights"]
    return models.apply_lora(start, trained["weights"], scale=_LORA_SCALE)

  def hidden(self, params: Params, tokens: jax.Array, where: jax.Array):
    """Hidden states `[B, T, width]`."""
    return self.model.apply({"params": params}, tokens, where=where)

  def logps(
    self,
    params: Params,
    tokens: jax.Array,
    where: jax.Array,
    completion: jax.Array,
  ) -> jax.Array:
    """Log-probabilities of answers, `[B]`, of arrays `[B, T]`."""
    hidden = self.hidden(params, tokens, where)
    # The state at t - 1 predicts the token at t.
    out = models.token_logprobs(
      hidden[:, :-1],
      models.head(params),
      tokens[:, 1:],
      mask=completion[:, 1:],
    )
    return jnp.sum(out.logps, -1)

  def score(
    self, params: Params, score: jax.Array, tokens: jax.Array, where: jax.Array
  ) -> jax.Array:
    """Rewards `[B]`, read off the last token's state."""
    hidden = self.hidden(params, tokens, where)
    last = jnp.maximum(jnp.sum(where, -1) - 1, 0)
    state = jnp.take_along_axis(hidden, last[:, None, None], 1)[:, 0]
    return state.astype(jnp.float32) @ score

  def token_kl(
    self,
    params: Params,
    ref: Params,
    tokens: jax.Array,
    where: jax.Array,
    completion: jax.Array,
  ) -> jax.Array:
    """KL to a reference at each token of answers, `[B, T - 1]`."""
    hidden, ref_hidden = (
      self.hidden(p, tokens, where)[:, :-1] for p in (params, ref)
    )
    return models.chunked_divergence(
      divergences.f_divergence("kl"),
      hidden,
      models.head(params),
      ref_hidden,
      models.head(ref),
      mask=completion[:, 1:],
    )


def both(batch: data.PairBatch) -> list[jax.Array]:
  """Tokens and both masks `[2B, T]`; a pair's answers stay neighbours.

  So they stay on the device that has the pair.
  """
  sides = zip(batch[::2], batch[1::2], strict=True)
  return [jnp.stack(pair, 1).reshape(-1, pair[0].shape[-1]) for pair in sides]


def apart(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Of chosen and of rejected answers, `[B]` each."""
  return x[::2], x[1::2]


# --- where to start ----------------------------------------------------------


def _config(name: str) -> models.TransformerConfig:
  if name == "nano":
    return _NANO
  return models.TransformerConfig.named(name)


def _in_float32(config: models.TransformerConfig):
  """Trained are float32 copies; what is computed has the files' type."""
  return dataclasses.replace(config, param_dtype="float32")


def _check_same(
  directory: str, found: models.TransformerConfig, name: str
) -> None:
  wanted = _in_float32(_config(name))
  for field in dataclasses.fields(wanted):
    values = [getattr(x, field.name) for x in (found, wanted)]
    if values[0] != values[1]:
      raise checks.InputError(
        f"{directory} is of another model: its {field.name} is {values[0]},"
        f" that of {name} {values[1]}"
      )


def load(
  key: jax.Array, name: str, *, init_from: str
) -> tuple[models.TransformerConfig, Params]:
  """A configuration and parameters on the host.

  Args:
    key: for random parameters.
    name: "nano", "tiny", "small", or a directory as Hugging Face has them.
    init_from: output directory of a former stage; empty for none.

  Raises:
    InputError: no such model, a damaged one, or one of another configuration.
  """
  named = name in ("nano", "tiny", "small")
  if not named and not pathlib.Path(name).is_dir():
    raise checks.InputError(
      f"unknown model {name!r}: choose nano, tiny, small, or the directory of a"
      " Hugging Face checkpoint"
    )
  if named and not init_from:
    config = _config(name)
    start = jnp.zeros((1, 1), jnp.int32)
    params = jax.jit(models.Transformer(config).init)(key, start)["params"]
    return config, jax.device_get(params)
  directory = name
  if init_from:
    directory = str(pathlib.Path(init_from) / "model")
    if not pathlib.Path(directory).is_dir():
      raise checks.InputError(
        f"{init_from}: no finished stage wrote its model there"
      )
  config, params = models.load_hf(directory)
  config = _in_float32(config)
  if named:
    _check_same(directory, config, name)
  return config, jax.tree.map(lambda x: np.asarray(x, np.float32), params)


def check_fits(
  config: models.TransformerConfig, tokenizer: data.Tokenizer, length: int
) -> None:
  """Raises unless the model knows all tokens and positions."""
  data.check_vocab(tokenizer, config.vocab_size)
  if length > config.max_positions:
    raise checks.InputError(
      f"answers with prompts take {length} tokens, the model's context is"
      f" {config.max_positions}: choose max_length accordingly"
    )


def trainable(
  key: jax.Array,
  config: models.TransformerConfig,
  start: Params,
  *,
  lora_rank: int,
  with_score: bool,
) -> Params:
  """What is trained: a copy of all parameters, or adapters; and the score."""
  if lora_rank:
    try:
      weights = models.init_lora(key, start, rank=lora_rank)
    except ValueError as error:
      raise checks.InputError(f"lora_rank: {error}") from None
  else:
    weights = jax.tree.map(np.copy, start)
  score = {"score": np.zeros(config.width, np.float32)} if with_score else {}
  return {"weights": weights, **score}
