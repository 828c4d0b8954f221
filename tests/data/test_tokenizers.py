# SPDX-License-Identifier: Apache-2.0
import json
import sys

import pytest

from jaxalign import data
from jaxalign.checks import InputError

TEXTS = ["", "plain", "día 🙂 \x00\n\n", "a</s>b"]


def test_byte_tokenizer():
  tokenizer = data.byte_tokenizer()
  for text in TEXTS:
    ids = tokenizer.encode(text)
    assert ids == list(text.encode())
    special = [tokenizer.bos_id, *ids, tokenizer.eos_id, tokenizer.pad_id]
    assert tokenizer.decode(special) == text
  specials = {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id}
  assert specials == {256, 257, 258} and tokenizer.vocab_size == 259
  assert tokenizer.decode([0xC3]) == "�"  # what a model may write


@pytest.fixture
def path(tmp_path):
  """A byte-level tokenizer: 256 bytes, two merges, three special tokens."""
  tokenizers = pytest.importorskip("tokenizers")
  alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  vocab = {token: i for i, token in enumerate([*alphabet, "ab", "abc"])}
  library = tokenizers.Tokenizer(
    tokenizers.models.BPE(vocab, [("a", "b"), ("ab", "c")])
  )
  library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False
  )
  library.decoder = tokenizers.decoders.ByteLevel()
  library.add_special_tokens(["<s>", "</s>", "<pad>"])
  library.post_processor = tokenizers.processors.TemplateProcessing(
    single="<s> $A </s>", special_tokens=[("<s>", 258), ("</s>", 259)]
  )
  # Both must be switched off: batches are padded and cut elsewhere.
  library.enable_truncation(4)
  library.enable_padding(length=8)
  path = tmp_path / "tokenizer.json"
  library.save(str(path))
  return path


def config(path, **entries):
  path.with_name("tokenizer_config.json").write_text(json.dumps(entries))


def test_load_tokenizer(path):
  config(
    path,
    bos_token="<s>",
    eos_token={"content": "</s>", "lstrip": False},
    pad_token="<pad>",
  )
  tokenizer = data.load_tokenizer(path)
  ids = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
  assert ids == (258, 259, 260)
  assert tokenizer.vocab_size == 261
  for text in TEXTS[:3]:
    assert tokenizer.decode(tokenizer.encode(text)) == text
  assert len(tokenizer.encode("abc abc abc")) == 5  # neither cut nor padded
  # A special token that is written out is read as one.
  assert tokenizer.encode("abc</s>") == [257, 259]


def test_special_tokens_may_be_absent(path):
  config(path, eos_token="</s>", bos_token="<s>", add_bos_token=False)
  tokenizer = data.load_tokenizer(path)
  assert tokenizer.bos_id is None
  assert tokenizer.pad_id == tokenizer.eos_id == 259
  other = data.load_tokenizer(path, eos_token="<pad>")
  assert other.eos_id == 260
  assert other.fingerprint != tokenizer.fingerprint
  assert data.load_tokenizer(path).fingerprint == tokenizer.fingerprint


def test_tokenizer_files_that_cannot_be_used(path, tmp_path):
  with pytest.raises(InputError, match="no EOS token is named: give eos_token"):
    data.load_tokenizer(path)
  with pytest.raises(InputError, match="the EOS token '<end>' is not in it"):
    data.load_tokenizer(path, eos_token="<end>")
  config(path, bos_token="<begin>", eos_token="</s>")
  with pytest.raises(InputError, match="the BOS token '<begin>' is not in it"):
    data.load_tokenizer(path)
  for text in ("[]", "{"):
    path.with_name("tokenizer_config.json").write_text(text)
    with pytest.raises(InputError, match="tokenizer_config.json: "):
      data.load_tokenizer(path)
  for contents in (b"{}", b"", b"\xff"):
    path.write_bytes(contents)
    with pytest.raises(InputError, match="tokenizer.json: not a tokenizer: "):
      data.load_tokenizer(path)
  with pytest.raises(InputError, match="no such file"):
    data.load_tokenizer(tmp_path)


def test_without_the_library(path, monkeypatch):
  monkeypatch.setitem(sys.modules, "tokenizers", None)
  with pytest.raises(ImportError, match=r'pip install "jaxalign\[data\]"'):
    data.load_tokenizer(path)


def test_check_vocab():
  tokenizer = data.byte_tokenizer()
  data.check_vocab(tokenizer, 259)
  with pytest.raises(InputError, match="has 259 tokens, the model 258: use"):
    data.check_vocab(tokenizer, 258)
