# SPDX-License-Identifier: Apache-2.0
"""What `align` trains on: tokens of pairs, held-out pairs, reference values."""

import hashlib
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from jaxalign import checks, data, exact


class Batch(NamedTuple):
  """Pairs, and what the reference says of them.

  Attributes:
    pairs: `PairBatch`, arrays `[B, T]`.
    ref_logps: float32 `[B, 2]`, of chosen and rejected answer.
  """

  pairs: data.PairBatch
  ref_logps: np.ndarray


class Split(NamedTuple):
  """Pairs that are trained on, or those that are not.

  Attributes:
    tokens: `PairTokens` of N pairs.
    ref_logps: float32 `[N, 2]`; 0 before the reference was asked.
  """

  tokens: data.PairTokens
  ref_logps: np.ndarray

  @property
  def size(self) -> int:
    """N."""
    return len(self.ref_logps)

  def first(self, most: int) -> "Split":
    """The first pairs."""
    split = _select(self.tokens, np.arange(min(most, self.size)))
    return split._replace(ref_logps=self.ref_logps[:most])

  def batch(self, rows: np.ndarray) -> Batch:
    """The given pairs."""
    return Batch(data.pair_batch(self.tokens, rows), self.ref_logps[rows])

  def passes(self, batch_size: int) -> Iterator[Batch]:
    """One pass in order; the last batch is filled up with the first pairs.

    Not with empty rows: some losses compare all pairs of a batch.
    """
    for start in range(0, self.size, batch_size):
      yield self.batch(np.arange(start, start + batch_size) % self.size)

  def shuffled(self, batch_size: int, seed: int) -> Iterator[Batch]:
    """Batches for training, this process's rows of them."""
    return data.shuffled_batches(
      self.batch,
      self.size,
      batch_size=batch_size,
      seed=seed,
      shard_index=jax.process_index(),
      shard_count=jax.process_count(),
    )


class Data(NamedTuple):
  """All that is read.

  Attributes:
    train: pairs to learn from.
    held_out: pairs that are never learned from.
    tokenizer: theirs.
    world: where they were generated, else `None`.
    words: all words of that world, as chosen answers; else `None`.
    summary: what became of the records, by name.
  """

  train: Split
  held_out: Split
  tokenizer: data.Tokenizer
  world: data.WordWorld | None
  words: data.PairTokens | None
  summary: dict[str, int]

  @property
  def digest(self) -> str:
    """Names the pairs: a run resumes on equal ones only."""
    digest = hashlib.sha256()
    for split in (self.train, self.held_out):
      for array in split.tokens:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]


def _select(tokens: data.PairTokens, rows: np.ndarray) -> Split:
  """Some of the pairs; none of those that were left out is remembered."""
  arrays = [x[rows] for x in tokens[:-1]]
  outcomes = np.zeros(len(rows), np.int8)
  return Split(
    data.PairTokens(*arrays, outcomes), np.zeros((len(rows), 2), np.float32)
  )


def _trimmed(tokens: data.PairTokens) -> data.PairTokens:
  """Without the padding that every row has."""
  length = max(tokens.chosen_lengths.max(), tokens.rejected_lengths.max())
  return tokens._replace(
    chosen_tokens=tokens.chosen_tokens[:, :length],
    rejected_tokens=tokens.rejected_tokens[:, :length],
  )


def _cache_dir() -> pathlib.Path:
  cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
  return pathlib.Path(cache) / "jaxalign" / "tokens"


def _tokenizer(path: str) -> data.Tokenizer:
  return data.load_tokenizer(path) if path else data.byte_tokenizer()


def load(
  path: str,
  *,
  tokenizer: str,
  max_length: int,
  truncate: str,
  on_bad_line: str,
  held_out: float,
) -> Data:
  """Reads pairs from a file or a TFDS directory.

  Args:
    path: of the file or the directory.
    tokenizer: path of a `tokenizer.json`; empty for bytes.
    max_length: the longest prompt with answer, in tokens.
    truncate: what happens to longer ones.
    on_bad_line: "error" or "skip".
    held_out: the share of prompts that is kept for evaluation.

  Raises:
    InputError: nothing can be made of it.
  """
  made = _tokenizer(tokenizer)
  found = data.read_preferences(path, on_bad_line=on_bad_line)
  tokens = _trimmed(
    data.tokenize_pairs(
      found.records,
      made,
      max_length=max_length,
      truncate=truncate,
      cache_dir=_cache_dir(),
    )
  )
  away = data.held_out_mask(found.records, held_out)[tokens.records]
  summary = {"lines": found.num_lines}
  summary |= {f"skipped, {why}": n for why, n in found.skipped.items()}
  summary |= tokens.counts
  return Data(*_splits(tokens, away), made, None, None, summary)


def _splits(tokens: data.PairTokens, away: np.ndarray) -> list[Split]:
  sizes = np.sum(~away), np.sum(away)
  if not all(sizes):
    raise checks.InputError(
      f"{sizes[0]} pairs to train on and {sizes[1]} held out are left: choose"
      " another held_out, or truncate so that fewer are left out"
    )
  return [_select(tokens, np.flatnonzero(x)) for x in (~away, away)]


def generate(
  key: jax.Array, *, num_pairs: int, word_length: int, held_out: float
) -> Data:
  """Makes pairs of words whose reward is known.

  Args:
    key: of words and labels.
    num_pairs: of training and held-out pairs together.
    word_length: letters of a word.
    held_out: the share of pairs of words that is kept for evaluation.
  """
  world = data.word_world(word_length)
  tokenizer = data.byte_tokenizer()
  records = [
    # The prompt says nothing, and every step would pay for it.
    record._replace(prompt="")
    for record in data.word_preferences(key, world, num_pairs)
  ]
  texts = data.word_texts(
    world, exact.enumerate_sequences(len(world.letters), word_length)
  )
  all_words = [
    data.Preference("", *pair)
    for pair in zip(texts, texts[1:] + texts[:1], strict=True)
  ]
  length = word_length + 2  # BOS and EOS
  tokens, words = (
    data.tokenize_pairs(x, tokenizer, max_length=length)
    for x in (records, all_words)
  )
  # All have one prompt: words that are compared are kept together instead.
  away = data.held_out_mask(records, held_out, by="pair")
  summary = {"generated": num_pairs}
  return Data(*_splits(tokens, away), tokenizer, world, words, summary)
