# SPDX-License-Identifier: Apache-2.0
"""Language models: a transformer, its sampler, Hugging Face checkpoints."""

from jaxalign.models.hf_config import (
  config_from_hf,
  config_to_hf,
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
  "Transformer",
  "TransformerConfig",
  "config_from_hf",
  "config_to_hf",
  "head",
  "init_cache",
  "load_hf",
  "rotate",
  "rotation",
  "sample",
  "sampling_log_probs",
  "save_hf",
)
