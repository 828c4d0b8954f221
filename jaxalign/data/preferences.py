# SPDX-License-Identifier: Apache-2.0
"""Preference pairs as text: reader and writer, and the arrays of a batch.

A line of a JSONL file is an object with either

- the keys `prompt`, `chosen` and `rejected`, or
- two whole dialogues `chosen` and `rejected`, in which a turn begins with two
  line ends and `Assistant:`. The prompt is what both have up to and with the
  last such beginning. Where the dialogues part before the last turn of one of
  them, the answers are longer than one turn.

In both forms prompt + answer is the text that a model sees: nothing is
stripped. Other keys are ignored, and so are blank lines.
"""

import collections
import gzip
import json
import os
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxalign import checks

__all__ = (
  "PairBatch",
  "Preference",
  "Preferences",
  "read_preferences",
  "write_preferences",
)

_TURN = "\n\nAssistant:"
_KEYS = ("prompt", "chosen", "rejected")
_ROWS_AT_ONCE = 512  # three times as fast as row by row


class Preference(NamedTuple):
  """A prompt and two answers to it.

  Attributes:
    prompt: may be empty.
    chosen: the answer that was preferred, with its leading space if it has one.
    rejected: the other answer.
  """

  prompt: str
  chosen: str
  rejected: str


class Preferences(NamedTuple):
  """What a file holds.

  Attributes:
    records: N pairs, in the file's order.
    num_lines: lines that are not blank, N and those skipped.
    skipped: the number of skipped lines by reason, without zeros.
  """

  records: tuple[Preference, ...]
  num_lines: int
  skipped: Mapping[str, int]


class PairBatch(NamedTuple):
  """Pairs as tokens, padded on the right; the masks say what exists.

  Attributes:
    chosen_tokens: int32 `[B, T]`, prompt and preferred answer.
    rejected_tokens: int32 `[B, T]`, prompt and other answer.
    chosen_where: bool `[B, T]`, tokens of prompt and answer.
    rejected_where: bool `[B, T]`.
    chosen_completion: bool `[B, T]`, tokens of the answer, its EOS included.
    rejected_completion: bool `[B, T]`.
  """

  chosen_tokens: np.ndarray
  rejected_tokens: np.ndarray
  chosen_where: np.ndarray
  rejected_where: np.ndarray
  chosen_completion: np.ndarray
  rejected_completion: np.ndarray


class _BadLineError(ValueError):
  """Why a line is no pair: the reason to count, and the words of the error."""

  def __init__(self, reason: str, words: str, column: int | None = None):
    super().__init__(words)
    self.reason, self.column = reason, column


def _parse(line: bytes) -> object:
  try:
    return json.loads(line.decode("utf-8-sig"))
  except UnicodeDecodeError as error:
    raise _BadLineError(
      "malformed JSON", "malformed JSON: not UTF-8", error.start + 1
    ) from None
  except json.JSONDecodeError as error:
    raise _BadLineError(
      "malformed JSON", f"malformed JSON: {error.msg}", error.colno
    ) from None
  except (ValueError, RecursionError) as error:  # a huge number, deep nesting
    raise _BadLineError("malformed JSON", f"malformed JSON: {error}") from None


def _texts(row: object) -> dict[str, str]:
  """The strings under our keys; `prompt` may be absent."""
  if not isinstance(row, dict):
    raise _BadLineError(
      "not an object", f"expected a JSON object, was a {type(row).__name__}"
    )
  texts = {key: row[key] for key in _KEYS if key in row}
  for key in ("chosen", "rejected"):
    if key not in texts:
      raise _BadLineError(
        "missing key",
        f"expected a key {key!r}, found {', '.join(row) or 'none'}",
      )
  for key, text in texts.items():
    if not isinstance(text, str):
      raise _BadLineError(
        "not a string",
        f"expected a string in {key!r}, was a {type(text).__name__}",
      )
    try:
      text.encode()
    except (
      UnicodeEncodeError
    ):  # half of a surrogate pair: no tokenizer takes it
      raise _BadLineError(
        "not a string", f"{key!r} holds half of a surrogate pair"
      ) from None
  return texts


def _split(chosen: str, rejected: str) -> Preference:
  """Splits two dialogues after the last turn up to which they agree."""
  turn = chosen.rfind(_TURN)
  while turn >= 0 and not rejected.startswith(chosen[: turn + len(_TURN)]):
    turn = chosen.rfind(_TURN, 0, turn)
  if turn < 0:
    raise _BadLineError(
      "no common prompt",
      f"expected a key 'prompt', or dialogues that agree up to {_TURN!r}",
    )
  end = turn + len(_TURN)
  return Preference(chosen[:end], chosen[end:], rejected[end:])


def _preference(line: bytes | dict) -> Preference:
  texts = _texts(_parse(line) if isinstance(line, bytes) else line)
  record = Preference(**texts) if "prompt" in texts else _split(**texts)
  for key in ("chosen", "rejected"):
    if not getattr(record, key).strip():
      raise _BadLineError("empty response", f"the response {key!r} is empty")
  if record.chosen == record.rejected:
    raise _BadLineError("equal responses", "the two responses are equal")
  return record


def _opener(path: pathlib.Path) -> Callable[[pathlib.Path, str], Any]:
  return gzip.open if path.suffix == ".gz" else open


def _lines(path: pathlib.Path) -> Iterator[tuple[str, bytes]]:
  try:
    with _opener(path)(path, "rb") as stream:
      for number, line in enumerate(stream, 1):
        if line.strip():
          yield f"line {number}", line
  except (gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise checks.InputError(f"{path}: broken gzip file: {error}") from None


def _rows(path: pathlib.Path) -> Iterator[tuple[str, dict]]:
  """The split `train` of a prepared TFDS directory."""
  import tensorflow_datasets as tfds  # half a second, and most files are JSONL

  try:
    builder = tfds.builder_from_directory(path)
    source: Any = builder.as_data_source(split="train")
    for start in range(0, len(source), _ROWS_AT_ONCE):
      numbers = range(start, min(start + _ROWS_AT_ONCE, len(source)))
      rows = source.__getitems__(list(numbers))
      for number, row in zip(numbers, rows, strict=True):
        yield f"row {number + 1}", {k: _as_text(v) for k, v in row.items()}
  except Exception as error:  # of any type: each of its libraries has its own
    first = (str(error).splitlines() or [type(error).__name__])[0]
    raise checks.InputError(
      f"{path}: not a TFDS directory in array_record format with a split"
      f" 'train', or damaged: {first}"
    ) from None


def _as_text(value: object) -> object:
  """What is not UTF-8 stays bytes, and is then refused as no string."""
  try:
    return value.decode() if isinstance(value, bytes) else value
  except UnicodeDecodeError:
    return value


def read_preferences(
  path: str | os.PathLike, *, on_bad_line: str = "error"
) -> Preferences:
  """Reads preference pairs from JSONL, JSONL in gzip, or a TFDS directory.

  Args:
    path: of a JSONL file, which is unpacked if it ends in `.gz`, or of a
      prepared TFDS directory (the one with `dataset_info.json`), of which the
      split `train` is read.
    on_bad_line: "error", or "skip", which counts. A line is bad if it is not
      JSON, not an object, lacks a key, holds something else than strings, has
      no prompt that both dialogues share, or has an empty response or two
      equal ones.

  Returns:
    `Preferences`.

  Raises:
    InputError: no file, a bad line (with file, line and column), or no pair.
    ValueError: an unknown value of `on_bad_line`.

  >>> import pathlib, tempfile
  >>> path = pathlib.Path(tempfile.mkdtemp()) / "pairs.jsonl"
  >>> _ = path.write_text('{"prompt": "2+2=", "chosen": "4", "rejected": "5"}')
  >>> read_preferences(path).records
  (Preference(prompt='2+2=', chosen='4', rejected='5'),)

  Reference:
    The dialogues are those of Bai et al., Training a Helpful and Harmless
    Assistant (2204.05862).
  """
  checks.check_choice("on_bad_line", on_bad_line, ("error", "skip"))
  path = pathlib.Path(path)
  if not path.exists():
    raise checks.InputError(f"{path}: no such file")
  records: list[Preference] = []
  skipped: collections.Counter[str] = collections.Counter()
  for place, line in _rows(path) if path.is_dir() else _lines(path):
    try:
      records.append(_preference(line))
    except _BadLineError as error:
      if on_bad_line == "error":
        column = f", column {error.column}" if error.column else ""
        raise checks.InputError(f"{path}, {place}{column}: {error}") from None
      skipped[error.reason] += 1
  if not records:
    reasons = ", ".join(f"{count} {what}" for what, count in skipped.items())
    raise checks.InputError(
      f"{path}: expected preference pairs, found none"
      + (f" (skipped: {reasons})" if reasons else "")
    )
  return Preferences(
    tuple(records), len(records) + skipped.total(), dict(skipped)
  )


def write_preferences(
  path: str | os.PathLike, records: Iterable[Preference]
) -> None:
  """Writes a file that `read_preferences` reads back exactly.

  Args:
    path: of the file, which is packed if it ends in `.gz`.
    records: what to write.

  Returns:
    None.

  Raises:
    InputError: the file exists.

  >>> import pathlib, tempfile
  >>> path = pathlib.Path(tempfile.mkdtemp()) / "pairs.jsonl.gz"
  >>> write_preferences(path, [Preference("2+2=", "4", "5")])
  >>> read_preferences(path).num_lines
  1

  Reference:
    JSON Lines, with the keys `prompt`, `chosen` and `rejected`.
  """
  path = pathlib.Path(path)
  if path.exists():
    raise checks.InputError(f"{path} exists: choose another file or remove it")
  partial = path.with_name(path.name + ".partial")
  with _opener(path)(partial, "wb") as stream:
    for record in records:
      text = json.dumps(record._asdict(), ensure_ascii=False)
      stream.write(f"{text}\n".encode())
  partial.replace(path)
