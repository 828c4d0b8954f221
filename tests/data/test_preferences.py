# SPDX-License-Identifier: Apache-2.0
import gzip
import json

import pytest

from jaxalign import data
from jaxalign.checks import InputError

TURN = "\n\nAssistant:"
GOOD = {"prompt": "2+2=", "chosen": "4", "rejected": "5"}
OPENING = "\n\nHuman: Hello." + TURN + " Hello.\n\nHuman: Two and two?" + TURN


def write(path, rows):
  lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
  path.write_text("\n".join(lines))
  return path


@pytest.fixture
def path(tmp_path):
  return tmp_path / "pairs.jsonl"


def test_reads_triples_and_ignores_blank_lines_and_other_keys(path):
  empty_prompt = {"prompt": "", "chosen": " é\u2028", "rejected": "\n"}
  rows = [GOOD, "", {**empty_prompt, "rejected": "x", "score": 1}]
  found = data.read_preferences(write(path, rows))
  assert found.records == (
    data.Preference("2+2=", "4", "5"),
    data.Preference("", " é\u2028", "x"),
  )
  assert (found.num_lines, found.skipped) == (2, {})


def test_byte_order_mark_and_carriage_returns(path):
  path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n")
  assert data.read_preferences(path).records == (data.Preference(**GOOD),)


@pytest.mark.parametrize(
  ("chosen", "rejected", "prompt"),
  [
    (" Four.", " Five.", OPENING),
    # Only one dialogue goes on: its answer is longer than one turn.
    (" Four.", " Four!\n\nHuman: No." + TURN + " Five.", OPENING),
    # One dialogue is the beginning of the other.
    (" Four.", " Four.\n\nHuman: No." + TURN + " Five.", OPENING),
    # They part within the name of a turn, which is then not in both.
    (" Four.\n\nAssist me.", " Four." + TURN + " Five.", OPENING),
  ],
)
def test_dialogues_are_split_after_the_last_common_turn(
  path, chosen, rejected, prompt
):
  row = {"chosen": OPENING + chosen, "rejected": OPENING + rejected}
  (record,) = data.read_preferences(write(path, [row])).records
  assert record == data.Preference(prompt, chosen, rejected)
  swapped = {"chosen": row["rejected"], "rejected": row["chosen"]}
  (record,) = data.read_preferences(write(path, [swapped])).records
  assert record == data.Preference(prompt, rejected, chosen)


def test_dialogues_that_part_before_the_last_turn_of_both(path):
  later = "\n\nHuman: Sure?" + TURN + " Yes."
  rows = [
    {"chosen": OPENING + " 4" + later, "rejected": OPENING + " 5" + later}
  ]
  (record,) = data.read_preferences(write(path, rows)).records
  assert record == data.Preference(OPENING, " 4" + later, " 5" + later)


BAD = [
  ("{'a': 1}", "malformed JSON", "2, column 2: malformed JSON: Expecting prop"),
  ('{"prompt": "a', "malformed JSON", "2, column 12: malformed JSON: Untermin"),
  ("[" * 100_000, "malformed JSON", "2: malformed JSON: maximum recursion"),
  ('{"score": 1' + "0" * 5000 + "}", "malformed JSON", "2: malformed JSON: Ex"),
  ([1], "not an object", "2: expected a JSON object, was a list"),
  (
    {"chosen": "a"},
    "missing key",
    "expected a key 'rejected', found chosen",
  ),
  ({}, "missing key", "2: expected a key 'chosen', found none"),
  ({**GOOD, "chosen": 4}, "not a string", "'chosen', was a int"),
  ({**GOOD, "prompt": None}, "not a string", "'prompt', was a NoneType"),
  ({**GOOD, "chosen": "\ud800"}, "not a string", "half of a surrogate pair"),
  (
    {"chosen": "a", "rejected": "b"},
    "no common prompt",
    "expected a key 'prompt', or dialogues that agree up to",
  ),
  ({**GOOD, "chosen": " \n"}, "empty response", "response 'chosen' is empty"),
  ({**GOOD, "rejected": ""}, "empty response", "response 'rejected' is empty"),
  ({**GOOD, "rejected": "4"}, "equal responses", "responses are equal"),
  (
    {"chosen": OPENING + " 4", "rejected": OPENING + " 4"},
    "equal responses",
    "responses are equal",
  ),
  (
    {"chosen": OPENING, "rejected": OPENING + " 4"},
    "empty response",
    "response 'chosen' is empty",
  ),
]


@pytest.mark.parametrize(("row", "reason", "message"), BAD)
def test_bad_lines_are_errors_or_counted(path, row, reason, message):
  write(path, [GOOD, row])
  with pytest.raises(InputError, match="pairs.jsonl, line 2") as info:
    data.read_preferences(path)
  assert message in str(info.value) and "\n" not in str(info.value)
  found = data.read_preferences(path, on_bad_line="skip")
  assert found.skipped == {reason: 1}
  assert (len(found.records), found.num_lines) == (1, 2)


def test_bytes_that_are_not_text(path):
  path.write_bytes(json.dumps(GOOD).encode() + b'\n{"prompt": "\xff"}\n')
  with pytest.raises(InputError, match="line 2, column 13: malformed JSON"):
    data.read_preferences(path)


def test_counts_by_reason(path):
  write(path, [row for row, _, _ in BAD] + [GOOD])
  found = data.read_preferences(path, on_bad_line="skip")
  assert (
    found.num_lines
    == len(BAD) + 1
    == len(found.records) + sum(found.skipped.values())
  )
  assert found.skipped["not a string"] == 3


def test_files_without_pairs(tmp_path, path):
  with pytest.raises(InputError, match="absent.jsonl: no such file"):
    data.read_preferences(tmp_path / "absent.jsonl")
  with pytest.raises(InputError, match="found none$"):
    data.read_preferences(write(path, [""]))
  with pytest.raises(InputError, match=r"none \(skipped: 2 missing key\)"):
    data.read_preferences(write(path, [{}, {}]), on_bad_line="skip")
  with pytest.raises(ValueError, match="unknown on_bad_line 'ignore': choose"):
    data.read_preferences(path, on_bad_line="ignore")


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz"])
def test_round_trip(tmp_path, name):
  records = (
    data.Preference("", "\u2028\r\n\t", "\\n\x00"),
    data.Preference("día", "🙂", "\ufeff"),
  )
  # A response of white space alone would be empty.
  records = tuple(r._replace(chosen=r.chosen + "x") for r in records)
  path = tmp_path / name
  data.write_preferences(path, records)
  assert data.read_preferences(path).records == records
  assert [p.name for p in tmp_path.iterdir()] == [name]
  with pytest.raises(InputError, match="exists: choose another file"):
    data.write_preferences(path, records)


@pytest.mark.parametrize("keep", [-1, -4, 12, 3])
def test_broken_gzip(tmp_path, keep):
  path = tmp_path / "pairs.jsonl.gz"
  path.write_bytes(gzip.compress(json.dumps(GOOD).encode() * 50)[:keep])
  with pytest.raises(InputError, match="pairs.jsonl.gz: broken gzip file"):
    data.read_preferences(path)
  path.write_text(json.dumps(GOOD))
  with pytest.raises(InputError, match="broken gzip file: Not a gzipped file"):
    data.read_preferences(path)


def test_folder_that_is_no_data_set(tmp_path):
  with pytest.raises(InputError, match="not a TFDS directory") as info:
    data.read_preferences(tmp_path)
  assert "\n" not in str(info.value)


def test_real_dialogues(real_data):
  path = real_data / "hh_rlhf_harmless_1800.jsonl.gz"
  with pytest.raises(InputError, match="line 87: the response 'chosen' is emp"):
    data.read_preferences(path)
  found = data.read_preferences(path, on_bad_line="skip")
  assert found.num_lines == 1800
  assert found.skipped == {"empty response": 4}
  with gzip.open(path) as stream:
    rows = [json.loads(line) for line in stream]
  rows = iter(rows)
  for record in found.records:  # each is a row; those between were skipped
    dialogue = record.prompt + record.chosen
    row = next(row for row in rows if row["chosen"] == dialogue)
    assert row["rejected"] == record.prompt + record.rejected
    assert record.prompt.endswith(TURN)
  later = [r for r in found.records if TURN in r.chosen + r.rejected]
  assert len(later) == 2  # of these the dialogues part before the last turn
