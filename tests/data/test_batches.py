# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from jaxalign import data
from jaxalign.checks import InputError

BYTES = data.byte_tokenizer()
BOS, EOS, PAD = BYTES.bos_id, BYTES.eos_id, BYTES.pad_id


def tokens(text):
  return list(text.encode())


def tokenize(*records, max_length=12, tokenizer=BYTES, **options):
  records = [data.Preference(*record) for record in records]
  return data.tokenize_pairs(
    records, tokenizer, max_length=max_length, **options
  )


def assert_equal(actual, expected):
  for x, y in zip(actual, expected, strict=True):
    np.testing.assert_array_equal(x, y)
    assert x.dtype == y.dtype


def test_layout_and_masks():
  pairs = tokenize(("hi", "a", "bcd"), ("", "é", "x"), max_length=8)
  batch = data.pair_batch(pairs, np.arange(2))
  np.testing.assert_array_equal(
    batch.chosen_tokens,
    [
      [BOS, *tokens("hia"), EOS, PAD, PAD, PAD],
      [BOS, *tokens("é"), EOS, PAD, PAD, PAD, PAD],
    ],
  )
  np.testing.assert_array_equal(
    batch.rejected_tokens,
    [
      [BOS, *tokens("hibcd"), EOS, PAD],
      [BOS, *tokens("x"), EOS, *[PAD] * 5],
    ],
  )
  places = np.arange(8)
  for where, completion, ends, starts in (
    (batch.chosen_where, batch.chosen_completion, (5, 4), (3, 1)),
    (batch.rejected_where, batch.rejected_completion, (7, 3), (3, 1)),
  ):
    for i in range(2):
      np.testing.assert_array_equal(where[i], places < ends[i])
      np.testing.assert_array_equal(
        completion[i], (places < ends[i]) & (places >= starts[i])
      )
  assert [x.dtype for x in batch] == [np.int32] * 2 + [np.bool_] * 4


def test_rows_in_any_order_and_empty_rows():
  pairs = tokenize(("p", "a", "bb"), ("q", "ccc", "d"))
  batch = data.pair_batch(pairs, np.array([1, -1, 0, 1]))
  single = data.pair_batch(pairs, np.array([1]))
  for field, one in zip(batch, single, strict=True):
    np.testing.assert_array_equal(field[0], one[0])
    np.testing.assert_array_equal(field[3], one[0])
  assert not any(mask[1].any() for mask in batch[2:])
  assert all(mask[2].any() for mask in batch[2:])


def test_the_eos_is_in_the_mask_also_where_it_pads():
  padded = BYTES._replace(pad_id=EOS)
  plain, same = (
    data.pair_batch(tokenize(("p", "ab", "c"), tokenizer=t), np.array([0]))
    for t in (BYTES, padded)
  )
  assert_equal(same[2:], plain[2:])
  last = np.flatnonzero(same.chosen_completion[0])[-1]
  assert same.chosen_tokens[0, last] == EOS
  assert (same.chosen_tokens[0, last:] == EOS).all()


def test_an_answer_ends_with_its_first_eos():
  """As where the text of the answer has the EOS written out, once or more."""

  def encode(text):
    return [EOS if x == ord("#") else x for x in tokens(text)]

  tokenizer = BYTES._replace(encode=encode)
  pairs = tokenize(("p#q", "a#", "b#c#"), tokenizer=tokenizer)
  batch = data.pair_batch(pairs, np.array([0]))
  prompt = [BOS, ord("p"), EOS, ord("q")]
  for row, where, answer in (
    (batch.chosen_tokens, batch.chosen_where, "a"),
    (batch.rejected_tokens, batch.rejected_where, "b"),
  ):
    assert row[0][where[0]].tolist() == [*prompt, ord(answer), EOS]
  # What follows the first EOS makes no difference.
  with pytest.raises(InputError, match=r"no pair is left .* \(1 equal\)"):
    tokenize(("p", "a#b", "a#c"), tokenizer=tokenizer)


# Of 12 tokens: BOS, five of the prompt, four and two of the answers, EOS.
LONG = ("12345", "wxyz", "ab")


def test_truncate_left_prompt():
  pairs = tokenize(LONG, ("1", "x", "y"), max_length=9, truncate="left_prompt")
  assert pairs.counts == {"whole": 1, "truncated": 1, "too long": 0, "equal": 0}
  assert pairs.prompt_lengths.tolist() == [4, 2]  # of both answers
  chosen = [BOS, *tokens("345wxyz"), EOS]
  rejected = [BOS, *tokens("345ab"), EOS, PAD, PAD]
  np.testing.assert_array_equal(pairs.chosen_tokens[0], chosen)
  np.testing.assert_array_equal(pairs.rejected_tokens[0], rejected)


def test_left_prompt_keeps_a_token_of_the_prompt():
  pairs = tokenize(LONG, max_length=7, truncate="left_prompt")
  np.testing.assert_array_equal(
    pairs.chosen_tokens, [[BOS, *tokens("5wxyz"), EOS]]
  )
  for length in (3, 6):
    pairs = tokenize(LONG, ("", "x", ""), max_length=length, truncate="drop")
    dropped = tokenize(
      *(LONG, ("", "x", "")), max_length=length, truncate="left_prompt"
    )
    assert dropped.counts == pairs.counts
    assert_equal(dropped[:5], pairs[:5])
  without = BYTES._replace(bos_id=None)
  pairs = tokenize(
    LONG, max_length=6, truncate="left_prompt", tokenizer=without
  )
  np.testing.assert_array_equal(pairs.chosen_tokens, [[*tokens("5wxyz"), EOS]])


def test_truncate_right_completion():
  pairs = tokenize(LONG, max_length=9, truncate="right_completion")
  assert pairs.counts["truncated"] == 1
  np.testing.assert_array_equal(
    pairs.chosen_tokens, [[BOS, *tokens("12345wxy")]]
  )
  np.testing.assert_array_equal(
    pairs.rejected_tokens, [[BOS, *tokens("12345ab"), EOS]]
  )
  batch = data.pair_batch(pairs, np.array([0]))
  assert not (batch.chosen_tokens[batch.chosen_completion] == EOS).any()
  # What is left may be equal, or nothing.
  records = [("12", "abcd", "abce"), ("12345", "a", "b"), ("1", "a", "b")]
  pairs = tokenize(*records, max_length=6, truncate="right_completion")
  assert pairs.counts == {"whole": 1, "truncated": 0, "too long": 1, "equal": 1}
  assert pairs.records.tolist() == [2]


def test_truncate_drop_and_error():
  pairs = tokenize(LONG, ("1", "x", "y"), max_length=10, truncate="drop")
  assert pairs.counts == {"whole": 1, "truncated": 0, "too long": 1, "equal": 0}
  assert pairs.outcomes.tolist() == [data.OUTCOMES.index("too long"), 0]
  assert pairs.records.tolist() == [1]
  message = r"record 1 has 11 tokens \(6 of the prompt\), the context 10: raise"
  with pytest.raises(InputError, match=message):
    tokenize(("1", "x", "y"), LONG, max_length=10)
  assert tokenize(LONG, max_length=11).counts["whole"] == 1


def test_pairs_that_cannot_be_used():
  with pytest.raises(InputError, match=r"no pair is left .* \(1 too long\)"):
    tokenize(LONG, max_length=5, truncate="drop")
  with pytest.raises(InputError, match=r"\(no records\)"):
    tokenize()
  with pytest.raises(InputError, match="record 0 has no prompt and the token"):
    tokenize(("", "a", "b"), tokenizer=BYTES._replace(bos_id=None))
  with pytest.raises(ValueError, match="unknown truncate 'left': choose one"):
    tokenize(LONG, truncate="left")
  with pytest.raises(ValueError, match="max_length must be at least 2, was 1"):
    tokenize(LONG, max_length=1)
  assert all(policy in data.TRUNCATIONS for policy in ("drop", "error"))


class Counting:
  """A tokenizer that knows how many texts it was given."""

  def __init__(self):
    self.texts = 0

  def tokenizer(self, **fields):
    def encode(text):
      self.texts += 1
      return BYTES.encode(text)

    return BYTES._replace(encode=encode, **fields)


def test_cache_spares_tokenizing(tmp_path):
  counting = Counting()
  first, second = (
    tokenize(
      *(LONG, ("1", "x", "y"), ("123456789", "x", "y")),
      max_length=11,
      truncate="drop",
      tokenizer=counting.tokenizer(),
      cache_dir=tmp_path / "cache",
    )
    for _ in range(2)
  )
  assert counting.texts == 9
  assert_equal(second, first)
  assert second.counts["too long"] == 1
  assert len(list((tmp_path / "cache").iterdir())) == 1


def test_cache_is_keyed_by_all_that_matters(tmp_path):
  counting = Counting()

  def again(record=LONG, max_length=10, truncate="left_prompt", **fields):
    before = counting.texts
    tokenize(
      record,
      max_length=max_length,
      truncate=truncate,
      tokenizer=counting.tokenizer(**fields),
      cache_dir=tmp_path,
    )
    return counting.texts > before

  assert again() and not again()
  assert again(truncate="right_completion")
  assert again(max_length=9)
  assert again(fingerprint="other")
  assert again(("1234", "5wxyz", "ab"))  # the same characters in a row
  assert again(("12345", "ab", "wxyz"))
  assert not again()


def test_damaged_and_stale_caches_are_remade(tmp_path):
  counting = Counting()

  def again(record=LONG):
    return tokenize(record, tokenizer=counting.tokenizer(), cache_dir=tmp_path)

  expected = again()
  (path,) = tmp_path.iterdir()
  good = path.read_bytes()
  again(("another", "a", "b"))
  (other,) = set(tmp_path.iterdir()) - {path}
  middle = good.index(np.int32(ord("w")).tobytes())  # within the tokens
  flipped = good[:middle] + b"v" + good[middle + 1 :]
  for bad in (
    b"",
    b"junk",
    good[:-30],
    good[:200],
    flipped,
    other.read_bytes(),
  ):
    path.write_bytes(bad)
    before = counting.texts
    assert_equal(again(), expected)
    assert counting.texts == before + 3
    assert path.read_bytes() == good
  assert len(list(tmp_path.iterdir())) == 2


def test_a_cache_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
  def fail(stream, **arrays):
    stream.write(b"half")
    raise OSError("no space left")

  monkeypatch.setattr(np, "savez", fail)
  with pytest.raises(OSError, match="no space left"):
    tokenize(LONG, cache_dir=tmp_path)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("truncate", data.TRUNCATIONS[1:])
def test_real_pairs(real_data, truncate):
  records = data.read_preferences(
    real_data / "hh_rlhf_harmless_1800.jsonl.gz", on_bad_line="skip"
  ).records
  pairs = data.tokenize_pairs(records, BYTES, max_length=512, truncate=truncate)
  assert (
    pairs.counts
    == {
      "drop": {"whole": 756, "truncated": 0, "too long": 1040, "equal": 0},
      "left_prompt": {
        "whole": 756,
        "truncated": 819,
        "too long": 221,
        "equal": 0,
      },
      "right_completion": {
        **{"whole": 756, "truncated": 400, "too long": 637, "equal": 3}
      },
    }[truncate]
  )
  batch = data.pair_batch(pairs, np.arange(len(pairs.records)))
  for row, record in enumerate(pairs.records):
    if pairs.outcomes[record] != 0:
      continue
    prompt, chosen, rejected = records[record]
    for ids, where, completion, answer in (
      (
        *(batch.chosen_tokens, batch.chosen_where),
        *(batch.chosen_completion, chosen),
      ),
      (
        *(batch.rejected_tokens, batch.rejected_where),
        *(batch.rejected_completion, rejected),
      ),
    ):
      assert BYTES.decode(ids[row][where[row]].tolist()) == prompt + answer
      last = ids[row][completion[row]].tolist()
      assert BYTES.decode(last) == answer and last[-1] == EOS
