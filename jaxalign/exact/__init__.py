# SPDX-License-Identifier: Apache-2.0
"""Worlds small enough to enumerate, in which estimators are proved."""

from jaxalign.exact.games import (
  cyclic_game,
  enumerate_maximal_lotteries,
  random_preferences,
  rock_paper_scissors,
)
from jaxalign.exact.sequences import (
  MAX_SIZE,
  conditional_log_probs,
  enumerate_sequences,
  expectation,
  num_prefixes,
  prefix_index,
  random_table,
  sample_sequences,
  sequence_log_probs,
  token_log_probs,
)

__all__ = (
  "MAX_SIZE",
  "conditional_log_probs",
  "cyclic_game",
  "enumerate_maximal_lotteries",
  "enumerate_sequences",
  "expectation",
  "num_prefixes",
  "prefix_index",
  "random_preferences",
  "random_table",
  "rock_paper_scissors",
  "sample_sequences",
  "sequence_log_probs",
  "token_log_probs",
)
