# SPDX-License-Identifier: Apache-2.0
"""Tokenizers: bytes, which need no file, or a `tokenizer.json`."""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxalign import checks

__all__ = ("Tokenizer", "byte_tokenizer", "check_vocab", "load_tokenizer")


class Tokenizer(NamedTuple):
  """Two functions and what must be known about them.

  Attributes:
    encode: from a string to a list of tokens, without BOS and EOS.
    decode: from tokens to a string; what is no text is left out.
    vocab_size: all tokens are below it.
    eos_id: the token that ends an answer.
    pad_id: the token that fills up. May be the EOS: masks say what exists.
    bos_id: the token before each prompt, or None.
    fingerprint: differs where tokens may differ; part of the cache's key.
  """

  encode: Callable[[str], list[int]]
  decode: Callable[[Sequence[int]], str]
  vocab_size: int
  eos_id: int
  pad_id: int
  bos_id: int | None
  fingerprint: str


def byte_tokenizer() -> Tokenizer:
  """UTF-8 bytes as tokens 0 to 255; then PAD, BOS and EOS.

  Returns:
    `Tokenizer` of 259 tokens.

  >>> tokenizer = byte_tokenizer()
  >>> tokenizer.encode("día")
  [100, 195, 173, 97]
  >>> tokenizer.decode([100, 195, 173, 97, tokenizer.eos_id])
  'día'

  Reference:
    ByT5 (2105.13626), section 3.
  """

  def decode(ids: Sequence[int]) -> str:
    # A model may well write bytes that are not UTF-8.
    return bytes(i for i in ids if i < 256).decode(errors="replace")

  return Tokenizer(
    encode=lambda text: list(text.encode()),
    decode=decode,
    vocab_size=259,
    eos_id=258,
    pad_id=256,
    bos_id=257,
    fingerprint="bytes, PAD 256, BOS 257, EOS 258",
  )


def _read_config(path: pathlib.Path) -> dict:
  """`tokenizer_config.json` beside the file, or nothing."""
  path = path.with_name("tokenizer_config.json")
  if not path.is_file():
    return {}
  try:
    config = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise checks.InputError(f"{path}: malformed JSON: {error}") from None
  if not isinstance(config, dict):
    raise checks.InputError(f"{path}: expected a JSON object")
  return config


def _special_ids(
  path: pathlib.Path,
  token_to_id: Callable[[str], int | None],
  eos_token: str | None,
) -> dict[str, int]:
  """EOS, PAD and BOS, as far as they are stated."""
  config = _read_config(path)
  names = {}
  for role in ("eos", "pad", "bos"):
    entry = config.get(f"{role}_token")
    names[role] = entry.get("content") if isinstance(entry, dict) else entry
  names["eos"] = eos_token or names["eos"]
  if config.get("add_bos_token") is False:
    names["bos"] = None
  if names["eos"] is None:
    raise checks.InputError(
      f"{path}: no EOS token is named: give eos_token, or put"
      " tokenizer_config.json beside it"
    )
  ids = {}
  for role, name in names.items():
    if name is None:
      continue
    token = token_to_id(name)
    if token is None:
      raise checks.InputError(
        f"{path}: the {role.upper()} token {name!r} is not in it"
      )
    ids[role] = token
  return ids


def load_tokenizer(
  path: str | os.PathLike, *, eos_token: str | None = None
) -> Tokenizer:
  """Loads a `tokenizer.json` of the Hugging Face library.

  EOS, PAD and BOS are those that `tokenizer_config.json` beside it names. No
  PAD: the EOS fills up. No BOS, or `"add_bos_token": false`: none is put before
  the prompt. Special tokens written out in a text are read as such.

  Args:
    path: of the file.
    eos_token: the text of the EOS token, where no file beside it names one or
      another one is wanted.

  Returns:
    `Tokenizer`.

  Raises:
    InputError: no file, a malformed one, no EOS, or a token it does not have.
    ImportError: the library tokenizers is not installed.

  >>> load_tokenizer("absent.json")
  Traceback (most recent call last):
  ...
  jaxalign.checks.InputError: absent.json: no such file

  Reference:
    The format of the library tokenizers.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise checks.InputError(f"{path}: no such file")
  try:
    import tokenizers
  except ImportError as error:
    raise ImportError(
      'load_tokenizer needs tokenizers: pip install "jaxalign[data]"'
    ) from error
  contents = path.read_bytes()
  try:
    library = tokenizers.Tokenizer.from_str(contents.decode())
  except Exception as error:  # the library raises no narrower type
    raise checks.InputError(f"{path}: not a tokenizer: {error}") from None
  library.no_truncation()
  library.no_padding()
  ids = _special_ids(path, library.token_to_id, eos_token)
  digest = hashlib.sha256(contents).hexdigest()
  return Tokenizer(
    encode=lambda text: library.encode(text, add_special_tokens=False).ids,
    decode=lambda ids: library.decode(list(ids)),
    vocab_size=max(library.get_vocab().values()) + 1,
    eos_id=ids["eos"],
    pad_id=ids.get("pad", ids["eos"]),
    bos_id=ids.get("bos"),
    fingerprint=f"{digest} {sorted(ids.items())}",
  )


def check_vocab(tokenizer: Tokenizer, vocab_size: int) -> None:
  """Raises unless the model knows every token.

  Args:
    tokenizer: whose tokens the model will see.
    vocab_size: the model's, which may be larger.

  Returns:
    None.

  Raises:
    InputError: states both sizes.

  >>> check_vocab(byte_tokenizer(), vocab_size=256)
  Traceback (most recent call last):
  ...
  jaxalign.checks.InputError: the tokenizer has 259 tokens, the model 256: ...

  Reference:
    A token's number is its row of the embedding.
  """
  if tokenizer.vocab_size > vocab_size:
    raise checks.InputError(
      f"the tokenizer has {tokenizer.vocab_size} tokens, the model"
      f" {vocab_size}: use the model's own tokenizer or a larger vocabulary"
    )
