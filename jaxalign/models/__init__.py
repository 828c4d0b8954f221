# SPDX-License-Identifier: Apache-2.0
"""Models, their heads, and adapters."""

from jaxalign.models.hf_config import (
  config_from_hf,
  config_to_hf,
)
from jaxalign.models.logprobs import (
  TokenLogprobs,
  chunked_divergence,
  token_logprobs,
)
from jaxalign.models.lora import (
  apply_lora,
  init_lora,
)
from jaxalign.models.rotary import (
  RopeScaling,
  rotate,
  rotation,
)
from jaxalign.models.safetensors import (
  load_hf,
  save_hf,
)
from jaxalign.models.sampling import (
  Samples,
  sample,
  sampling_log_probs,
)
from jaxalign.models.transformer import (
  SIZES,
  KVCache,
  Transformer,
  TransformerConfig,
  head,
  init_cache,
)

__all__ = (
  "SIZES",
  "KVCache",
  "RopeScaling",
  "Samples",
  "TokenLogprobs",
  "Transformer",
  "TransformerConfig",
  "apply_lora",
  "chunked_divergence",
  "config_from_hf",
  "config_to_hf",
  "head",
  "init_cache",
  "init_lora",
  "load_hf",
  "rotate",
  "rotation",
  "sample",
  "sampling_log_probs",
  "save_hf",
  "token_logprobs",
)
