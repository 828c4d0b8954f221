# SPDX-License-Identifier: Apache-2.0
"""Which pairs are scored: without filter words or long prompts, cut short."""

import collections
from collections.abc import Sequence
from typing import NamedTuple

import jax

from jaxalign import checks, data

_WORD_LENGTH = 3
# What a decoder writes for the bytes of a character that was cut apart.
_NO_CHARACTER = "\ufffd"


class Prepared(NamedTuple):
  """Pairs as they are scored and written.

  Attributes:
    records: with answers cut short.
    counts: what became of the records that were read, by name.
  """

  records: tuple[data.Preference, ...]
  counts: dict[str, int]


def read(
  key: jax.Array, path: str, *, on_bad_line: str, num_pairs: int
) -> data.Preferences:
  """Pairs of a file, or generated words where none is named.

  Raises:
    InputError: the file cannot be used.
  """
  if path:
    return data.read_preferences(path, on_bad_line=on_bad_line)
  world = data.word_world(_WORD_LENGTH)
  return data.Preferences(
    data.word_preferences(key, world, num_pairs), num_pairs, {}
  )


def shorten(text: str, tokenizer: data.Tokenizer, most: int) -> str:
  """The text of the first tokens, without a character that is cut apart."""
  tokens = tokenizer.encode(text)
  if len(tokens) <= most:
    return text
  return tokenizer.decode(tokens[:most]).rstrip(_NO_CHARACTER)


def _outcome(
  record: data.Preference,
  short: data.Preference,
  tokenizer: data.Tokenizer,
  words: Sequence[str],
  max_prompt_tokens: int,
) -> str:
  whole = "\n".join(record).lower()
  if any(word in whole for word in words):
    return "left out: filter word"
  if len(tokenizer.encode(record.prompt)) > max_prompt_tokens:
    return "left out: long prompt"
  if not (short.chosen.strip() and short.rejected.strip()):
    return "left out: empty when cut"
  if short.chosen == short.rejected:
    return "left out: equal when cut"
  return "scored"


def prepare(
  found: data.Preferences,
  tokenizer: data.Tokenizer,
  *,
  filter_words: str,
  max_prompt_tokens: int,
  max_response_tokens: int,
) -> Prepared:
  """Leaves pairs out and cuts answers short.

  Args:
    found: pairs, as they were read.
    tokenizer: counts the tokens.
    filter_words: separated by commas; a pair is left out if its prompt or an
      answer, whole, holds one of them, in whatever case, also within a word.
    max_prompt_tokens: longer prompts are left out.
    max_response_tokens: what follows in an answer is cut.

  Raises:
    InputError: no pair is left.
  """
  words = [w.strip().lower() for w in filter_words.split(",") if w.strip()]
  kept, counts = [], collections.Counter()
  for record in found.records:
    short = record._replace(
      chosen=shorten(record.chosen, tokenizer, max_response_tokens),
      rejected=shorten(record.rejected, tokenizer, max_response_tokens),
    )
    outcome = _outcome(record, short, tokenizer, words, max_prompt_tokens)
    counts[outcome] += 1
    if outcome == "scored":
      kept.append(short)
  if not kept:
    why = ", ".join(f"{n} {what}" for what, n in counts.items())
    raise checks.InputError(f"no pair is left to score: {why}")
  skipped = {f"skipped, {why}": n for why, n in found.skipped.items()}
  return Prepared(tuple(kept), {"lines": found.num_lines, **skipped, **counts})
