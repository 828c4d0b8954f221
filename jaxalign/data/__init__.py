# SPDX-License-Identifier: Apache-2.0
"""Data: rankings, ratings, rewards, preference pairs; tokens and batches.

The builder of TFDS data sets is loaded on use, as TFDS takes half a second.
"""

import importlib

from jaxalign.data.batches import (
  OUTCOMES,
  TRUNCATIONS,
  PairTokens,
  pair_batch,
  tokenize_pairs,
)
from jaxalign.data.generated import (
  WordOptimum,
  WordValues,
  WordWorld,
  word_log_probs,
  word_optimum,
  word_preferences,
  word_rewards,
  word_texts,
  word_values,
  word_world,
)
from jaxalign.data.loader import (
  held_out_mask,
  ordered_batches,
  shuffled_batches,
)
from jaxalign.data.preferences import (
  PairBatch,
  Preference,
  Preferences,
  read_preferences,
  write_preferences,
)
from jaxalign.data.preflib import (
  Rankings,
  parse_preflib,
  read_preflib,
)
from jaxalign.data.ratings import (
  Ratings,
  read_ratings,
)
from jaxalign.data.rewards import (
  Rewards,
  read_rewards,
  write_rewards,
)
from jaxalign.data.tokenizers import (
  Tokenizer,
  byte_tokenizer,
  check_vocab,
  load_tokenizer,
)

__all__ = (
  "OUTCOMES",
  "TRUNCATIONS",
  "PairBatch",
  "PairTokens",
  "Preference",
  "PreferencePairs",
  "Preferences",
  "Rankings",
  "Ratings",
  "Rewards",
  "Tokenizer",
  "WordOptimum",
  "WordValues",
  "WordWorld",
  "byte_tokenizer",
  "check_vocab",
  "held_out_mask",
  "load_tokenizer",
  "ordered_batches",
  "pair_batch",
  "parse_preflib",
  "read_preferences",
  "read_preflib",
  "read_ratings",
  "read_rewards",
  "shuffled_batches",
  "tokenize_pairs",
  "word_log_probs",
  "word_optimum",
  "word_preferences",
  "word_rewards",
  "word_texts",
  "word_values",
  "word_world",
  "write_preferences",
  "write_rewards",
)


def __getattr__(name: str):
  if name == "PreferencePairs":
    return importlib.import_module(f"{__name__}.builders").PreferencePairs
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
