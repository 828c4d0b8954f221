# SPDX-License-Identifier: Apache-2.0
"""Hugging Face's `config.json` of Llama, Qwen2 and Qwen3, and our own."""

from collections.abc import Mapping
from typing import Any

from jaxalign import checks
from jaxalign.models import rotary, transformer

__all__ = ("config_from_hf", "config_to_hf")

_TYPES = ("bfloat16", "float16", "float32")
# What they need to be, where they are given: our models have nothing else.
_FIXED = {
  "hidden_act": "silu",
  "mlp_bias": False,
  "use_sliding_window": False,
}
_FAMILIES = {
  "llama": ("LlamaForCausalLM", {"attention_bias": False}),
  "qwen2": ("Qwen2ForCausalLM", {}),
  "qwen3": ("Qwen3ForCausalLM", {"attention_bias": False}),
}


def _rope(entries: Mapping[str, Any]) -> tuple[float, Any]:
  """Base of the frequencies, and their `RopeScaling` or `None`."""
  # One entry in new files, two in old ones.
  rope = entries.get("rope_parameters") or entries.get("rope_scaling") or {}
  theta = rope.get("rope_theta") or entries.get("rope_theta") or 10_000.0
  kind = rope.get("rope_type") or rope.get("type") or "default"
  if kind == "default":
    return theta, None
  if kind != "llama3":
    raise checks.InputError(
      f"rope_type is {kind!r}: only 'default' and 'llama3' are supported"
    )
  return theta, rotary.RopeScaling(
    rope["factor"],
    rope["low_freq_factor"],
    rope["high_freq_factor"],
    rope["original_max_position_embeddings"],
  )


def config_from_hf(entries: Mapping[str, Any]) -> transformer.TransformerConfig:
  """The configuration of a model that a `config.json` describes.

  Args:
    entries: of the file.

  Returns:
    `TransformerConfig`; both types are that of the tensors.

  Raises:
    InputError: another family, an entry that is missing, or something that
      our models do not have.

  >>> config_from_hf({"model_type": "gpt2"})
  Traceback (most recent call last):
  ...
  jaxalign.checks.InputError: model_type is 'gpt2': choose one of llama, qwen2,
  qwen3

  Reference:
    transformers, LlamaConfig, Qwen2Config and Qwen3Config.
  """
  family = entries.get("model_type")
  if family not in _FAMILIES:
    raise checks.InputError(
      f"model_type is {family!r}: choose one of {', '.join(_FAMILIES)}"
    )
  for name, value in {**_FIXED, **_FAMILIES[family][1]}.items():
    if entries.get(name, value) != value:
      raise checks.InputError(
        f"{name} is {entries[name]!r}: only {value!r} is supported"
      )
  dtype = entries.get("dtype") or entries.get("torch_dtype") or "float32"
  if dtype not in _TYPES:
    raise checks.InputError(
      f"dtype is {dtype!r}: choose one of {', '.join(_TYPES)}"
    )
  try:
    theta, scaling = _rope(entries)
    heads = entries["num_attention_heads"]
    width = entries["hidden_size"]
    return transformer.TransformerConfig(
      vocab_size=entries["vocab_size"],
      num_layers=entries["num_hidden_layers"],
      width=width,
      num_heads=heads,
      num_kv_heads=entries.get("num_key_value_heads") or heads,
      head_dim=entries.get("head_dim") or width // heads,
      mlp_width=entries["intermediate_size"],
      rope_theta=theta,
      rope_scaling=scaling,
      max_positions=entries.get("max_position_embeddings", 2048),
      norm_eps=entries.get("rms_norm_eps", 1e-6),
      tied=entries.get("tie_word_embeddings", False),
      qk_norm=family == "qwen3",
      qkv_bias=family == "qwen2",
      dtype=dtype,
      param_dtype=dtype,
    )
  except KeyError as error:
    raise checks.InputError(f"no entry {error.args[0]!r}") from None


def config_to_hf(config: transformer.TransformerConfig) -> dict[str, Any]:
  """The entries of a `config.json` that describe a model.

  Args:
    config: of the model: with `qk_norm` a Qwen3, with `qkv_bias` a Qwen2, else
      a Llama.

  Returns:
    The entries by name.

  Raises:
    ValueError: none of the families has such a model.

  >>> config_to_hf(transformer.SIZES["tiny"])["model_type"]
  'llama'

  Reference:
    transformers, LlamaConfig, Qwen2Config and Qwen3Config.
  """
  if not config.causal or (config.qk_norm and config.qkv_bias):
    raise ValueError(
      "only causal models with qk_norm or qkv_bias, not both, have a Hugging"
      f" Face layout, was {config}"
    )
  family = (
    "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else "llama"
  )
  architecture, fixed = _FAMILIES[family]
  scaling = config.rope_scaling
  return {
    "architectures": [architecture],
    "model_type": family,
    "vocab_size": config.vocab_size,
    "num_hidden_layers": config.num_layers,
    "hidden_size": config.width,
    "num_attention_heads": config.num_heads,
    "num_key_value_heads": config.num_kv_heads,
    "head_dim": config.head_dim,
    "intermediate_size": config.mlp_width,
    "rope_theta": config.rope_theta,
    "rope_scaling": scaling
    and {
      "rope_type": "llama3",
      "factor": scaling.factor,
      "low_freq_factor": scaling.low,
      "high_freq_factor": scaling.high,
      "original_max_position_embeddings": scaling.original_positions,
    },
    "max_position_embeddings": config.max_positions,
    "rms_norm_eps": config.norm_eps,
    "tie_word_embeddings": config.tied,
    "torch_dtype": config.param_dtype,
    "hidden_act": "silu",
    **fixed,
  }
