# SPDX-License-Identifier: Apache-2.0
"""Preference pairs as arrays of tokens: truncation, masks, a cache on disk.

A side of a pair is `BOS prompt answer EOS`, padded on the right to a length
that is fixed; BOS where the tokenizer has one. Prompt and answer are encoded
apart, so that both answers follow the same tokens. An answer ends with its
first EOS: one is appended unless the text holds one, and it belongs to the
answer. Lengths say what exists; no mask is read off a token, hence the padding
may be the EOS.
"""

import hashlib
import os
import pathlib
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxalign import checks
from jaxalign.data import preferences, tokenizers

__all__ = (
  "OUTCOMES",
  "TRUNCATIONS",
  "PairTokens",
  "pair_batch",
  "tokenize_pairs",
)

# What happens to a pair that is longer than the context.
TRUNCATIONS = ("error", "drop", "left_prompt", "right_completion")
# What happened to it. "equal": its answers have the same tokens.
OUTCOMES = ("whole", "truncated", "too long", "equal")
_WHOLE, _TRUNCATED, _TOO_LONG, _EQUAL = range(len(OUTCOMES))
_FORMAT = "1"  # of the cache; goes up when the same text gives other arrays


class PairTokens(NamedTuple):
  """N pairs as tokens, which are left of M records.

  Attributes:
    chosen_tokens: int32 `[N, T]`, prompt and preferred answer.
    rejected_tokens: int32 `[N, T]`, prompt and other answer.
    prompt_lengths: int32 `[N]`, tokens before either answer.
    chosen_lengths: int32 `[N]`, tokens of prompt and preferred answer.
    rejected_lengths: int32 `[N]`, tokens of prompt and other answer.
    outcomes: int8 `[M]`, for each record what happened, a place in `OUTCOMES`.
  """

  chosen_tokens: np.ndarray
  rejected_tokens: np.ndarray
  prompt_lengths: np.ndarray
  chosen_lengths: np.ndarray
  rejected_lengths: np.ndarray
  outcomes: np.ndarray

  @property
  def records(self) -> np.ndarray:
    """Int `[N]`: the record of each pair."""
    return np.flatnonzero(self.outcomes <= _TRUNCATED)

  @property
  def counts(self) -> Mapping[str, int]:
    """The number of records by outcome, zeros included."""
    counts = np.bincount(self.outcomes, minlength=len(OUTCOMES))
    return dict(zip(OUTCOMES, counts.tolist(), strict=True))


class _Ids(NamedTuple):
  """One pair; the lists hold tokens."""

  prompt: list[int]
  chosen: list[int]
  rejected: list[int]


def _encode(
  record: preferences.Preference, tokenizer: tokenizers.Tokenizer
) -> _Ids:
  def answer(text):
    ids = tokenizer.encode(text)
    if tokenizer.eos_id in ids:
      return ids[: ids.index(tokenizer.eos_id) + 1]
    return [*ids, tokenizer.eos_id]

  bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  prompt = bos + tokenizer.encode(record.prompt)
  return _Ids(prompt, answer(record.chosen), answer(record.rejected))


def _fit(
  ids: _Ids, max_length: int, truncate: str, num_bos: int
) -> tuple[_Ids, int]:
  """The pair as far as it fits, and what was done to it."""
  prompt, chosen, rejected = ids
  outcome = _WHOLE
  room = max_length - max(len(chosen), len(rejected))
  if len(prompt) > room:
    outcome = _TRUNCATED
    if truncate == "left_prompt" and room > num_bos:
      prompt = prompt[:num_bos] + prompt[len(prompt) - room + num_bos :]
    elif truncate == "right_completion" and len(prompt) < max_length:
      left = max_length - len(prompt)
      chosen, rejected = chosen[:left], rejected[:left]
    else:
      outcome = _TOO_LONG
  if outcome != _TOO_LONG and chosen == rejected:
    outcome = _EQUAL
  return _Ids(prompt, chosen, rejected), outcome


def _check_pair(number: int, ids: _Ids, max_length: int, truncate: str) -> None:
  if not ids.prompt:
    raise checks.InputError(
      f"record {number} has no prompt and the tokenizer no BOS: nothing"
      " predicts the first token of the answers"
    )
  length = len(ids.prompt) + max(len(ids.chosen), len(ids.rejected))
  if truncate == "error" and length > max_length:
    raise checks.InputError(
      f"record {number} has {length} tokens ({len(ids.prompt)} of the prompt),"
      f" the context {max_length}: raise max_length or choose truncate, one of"
      f" {', '.join(TRUNCATIONS[1:])}"
    )


def _padded(rows: Sequence[list[int]], max_length: int, pad: int) -> np.ndarray:
  tokens = np.full((len(rows), max_length), pad, np.int32)
  for row, ids in zip(tokens, rows, strict=True):
    row[: len(ids)] = ids
  return tokens


def _tokenize(
  records: Sequence[preferences.Preference],
  tokenizer: tokenizers.Tokenizer,
  max_length: int,
  truncate: str,
) -> PairTokens:
  kept: list[_Ids] = []
  outcomes = np.zeros(len(records), np.int8)
  num_bos = int(tokenizer.bos_id is not None)
  for number, record in enumerate(records):
    ids = _encode(record, tokenizer)
    _check_pair(number, ids, max_length, truncate)
    ids, outcomes[number] = _fit(ids, max_length, truncate, num_bos)
    if outcomes[number] <= _TRUNCATED:
      kept.append(ids)
  chosen = [ids.prompt + ids.chosen for ids in kept]
  rejected = [ids.prompt + ids.rejected for ids in kept]
  return PairTokens(
    chosen_tokens=_padded(chosen, max_length, tokenizer.pad_id),
    rejected_tokens=_padded(rejected, max_length, tokenizer.pad_id),
    prompt_lengths=np.array([len(ids.prompt) for ids in kept], np.int32),
    chosen_lengths=np.array([len(row) for row in chosen], np.int32),
    rejected_lengths=np.array([len(row) for row in rejected], np.int32),
    outcomes=outcomes,
  )


def _cache_key(
  records: Sequence[preferences.Preference], *options: object
) -> str:
  """Names the arrays: equal text, tokenizer and options, and only they."""
  digest = hashlib.sha256()
  for text in (_FORMAT, *map(str, options)):
    digest.update(f"{len(text)}:{text}".encode())
  for record in records:
    for text in record:
      # With its length, or "a", "bc" and "ab", "c" would be one.
      digest.update(f"{len(text)}:{text}".encode())
  return digest.hexdigest()


def _read_cache(path: pathlib.Path, key: str) -> PairTokens | None:
  """The arrays, or None if they are absent, of another key or damaged."""
  try:
    with np.load(path) as arrays:
      if str(arrays["key"]) != key:
        return None
      return PairTokens(*(arrays[name] for name in PairTokens._fields))
  except (OSError, ValueError, KeyError, EOFError):
    return None
  except (zipfile.BadZipFile, zlib.error):  # a check sum of the archive
    return None


def _write_cache(path: pathlib.Path, key: str, pairs: PairTokens) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  # A name of its own: several processes may write at once.
  with tempfile.NamedTemporaryFile(
    dir=path.parent, suffix=".partial", delete=False
  ) as stream:
    partial = pathlib.Path(stream.name)
    try:
      np.savez(stream, key=np.array(key), **pairs._asdict())
    except BaseException:
      partial.unlink()
      raise
  partial.replace(path)


def tokenize_pairs(
  records: Sequence[preferences.Preference],
  tokenizer: tokenizers.Tokenizer,
  *,
  max_length: int,
  truncate: str = "error",
  cache_dir: str | os.PathLike | None = None,
) -> PairTokens:
  """Pairs as right-padded tokens of one fixed length.

  Pairs whose answers have the same tokens say nothing and are left out.

  Args:
    records: M pairs.
    tokenizer: see `load_tokenizer` and `byte_tokenizer`.
    max_length: T, the context, at least 2.
    truncate: what happens to a pair that is longer. "error": refused. "drop":
      left out. "left_prompt": the prompt loses its first tokens until the
      longer answer fits; left out if none would remain. "right_completion": the
      answers lose their last tokens and with them their EOS; left out if the
      prompt alone fills the context.
    cache_dir: keeps the tokens, in a file that is named by what they are made
      of: the text, the tokenizer and the options. A damaged file is remade.

  Returns:
    `PairTokens`; its `counts` say what became of the records.

  Raises:
    InputError: a pair is too long and `truncate="error"`, the answers of a pair
      follow nothing (no prompt, no BOS), or no pair is left.
    ValueError: an option is out of its range.

  >>> from jaxalign.data import preferences, tokenizers
  >>> records = [preferences.Preference("2+2=", "4", "five")]
  >>> tokenizer = tokenizers.byte_tokenizer()
  >>> pairs = tokenize_pairs(records, tokenizer, max_length=12)
  >>> pairs.prompt_lengths, pairs.chosen_lengths, pairs.rejected_lengths
  (array([5], dtype=int32), array([7], dtype=int32), array([10], dtype=int32))

  Reference:
    Rafailov et al., Direct Preference Optimization (2305.18290), section 4.
  """
  checks.check_choice("truncate", truncate, TRUNCATIONS)
  if max_length < 2:
    raise ValueError(f"max_length must be at least 2, was {max_length}")
  if cache_dir is None:
    pairs = _tokenize(records, tokenizer, max_length, truncate)
  else:
    key = _cache_key(records, tokenizer.fingerprint, max_length, truncate)
    path = pathlib.Path(cache_dir) / f"pairs-{key[:32]}.npz"
    pairs = _read_cache(path, key)
    if pairs is None:
      pairs = _tokenize(records, tokenizer, max_length, truncate)
      _write_cache(path, key, pairs)
  if not len(pairs.chosen_tokens):
    counts = ", ".join(f"{n} {what}" for what, n in pairs.counts.items() if n)
    raise checks.InputError(
      f"no pair is left to train on within {max_length} tokens"
      f" ({counts or 'no records'})"
    )
  return pairs


def pair_batch(pairs: PairTokens, rows: np.ndarray) -> preferences.PairBatch:
  """The given pairs with their masks.

  Args:
    pairs: N pairs.
    rows: int `[B]`, below N; -1 for a row in which nothing exists.

  Returns:
    `PairBatch` of `[B, T]`.

  >>> from jaxalign.data import preferences, tokenizers
  >>> records = [preferences.Preference("?", "yes", "no")]
  >>> pairs = tokenize_pairs(records, tokenizers.byte_tokenizer(), max_length=7)
  >>> batch = pair_batch(pairs, np.array([0]))
  >>> batch.rejected_completion.astype(int)  # after BOS and "?": "no", EOS
  array([[0, 0, 1, 1, 1, 0, 0]])

  Reference:
    Rafailov et al., Direct Preference Optimization (2305.18290), section 4.
  """
  rows = np.asarray(rows)
  places = np.arange(pairs.chosen_tokens.shape[-1])
  after_prompt = places >= pairs.prompt_lengths[rows][:, None]

  def masks(lengths):
    where = places < np.where(rows >= 0, lengths[rows], 0)[:, None]
    return where, where & after_prompt

  chosen_where, chosen_completion = masks(pairs.chosen_lengths)
  rejected_where, rejected_completion = masks(pairs.rejected_lengths)
  return preferences.PairBatch(
    chosen_tokens=pairs.chosen_tokens[rows],
    rejected_tokens=pairs.rejected_tokens[rows],
    chosen_where=chosen_where,
    rejected_where=rejected_where,
    chosen_completion=chosen_completion,
    rejected_completion=rejected_completion,
  )
