# SPDX-License-Identifier: Apache-2.0
import json
import sys

import numpy as np
import pytest

from jaxalign import data
from jaxalign.checks import InputError

RECORDS = (
  data.Preference("", " día 🙂", "\n\n\x00"),
  data.Preference("2+2=", "4", "5"),
  # More than are fetched at once.
  *(data.Preference("n", str(i), str(i + 1)) for i in range(600)),
)


@pytest.fixture
def path(tmp_path):
  path = tmp_path / "pairs.jsonl"
  data.write_preferences(path, RECORDS)
  return path


def test_writes_and_reads_back(path, tmp_path):
  builder = data.PreferencePairs(path=path, data_dir=tmp_path / "tfds")
  builder.download_and_prepare()
  found = data.read_preferences(builder.data_dir)
  assert found.records == RECORDS  # in the file's order
  assert found.num_lines == len(RECORDS)
  assert "tensorflow" not in sys.modules
  # And again from the prepared data, as a user of TFDS would.
  source = builder.as_data_source(split="train[:2]")
  assert [row["prompt"].decode() for row in source] == ["", "2+2="]


def test_a_bad_line_leaves_no_data_set(path, tmp_path):
  with path.open("a") as stream:
    stream.write('{"prompt": "p", "chosen": "a", "rejected": "a"}\n')
  builder = data.PreferencePairs(path=path, data_dir=tmp_path / "tfds")
  with pytest.raises(InputError, match="line 603: the two responses are equal"):
    builder.download_and_prepare()
  assert not list((tmp_path / "tfds").rglob("*.array_record*"))
  skipping = data.PreferencePairs(
    path=path, on_bad_line="skip", data_dir=tmp_path / "tfds"
  )
  skipping.download_and_prepare()
  assert data.read_preferences(skipping.data_dir).records == RECORDS


def test_data_sets_of_others(tmp_path):
  """Whole dialogues, other features, bad rows; and no split to train on."""
  import tensorflow_datasets as tfds

  turn = "\n\nHuman: ?\n\nAssistant:"
  rows = [
    {"chosen": turn + " a", "rejected": turn + " b", "score": 1},
    {"chosen": turn + " a", "rejected": turn, "score": 2},
  ]

  class Dialogues(data.PreferencePairs):
    split = "train"

    def _info(self):
      text = tfds.features.Text()
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(
          {"chosen": text, "rejected": text, "score": np.int32}
        ),
        disable_shuffling=True,
      )

    def _split_generators(self, dl_manager):
      return {self.split: enumerate(rows)}

  def prepare(name):
    builder = Dialogues(path="unused", data_dir=tmp_path / name)
    builder.download_and_prepare()
    return builder.data_dir

  folder = prepare("dialogues")
  with pytest.raises(InputError, match=r"row 2: the response 'rejected' is em"):
    data.read_preferences(folder)
  found = data.read_preferences(folder, on_bad_line="skip")
  assert found.records == (data.Preference(turn, " a", " b"),)
  assert found.skipped == {"empty response": 1}
  Dialogues.split = "test"
  with pytest.raises(InputError, match="with a split 'train'"):
    data.read_preferences(prepare("test"))


def test_damaged_data_sets(path, tmp_path):
  builder = data.PreferencePairs(path=path, data_dir=tmp_path / "tfds")
  builder.download_and_prepare()
  (shard,) = (tmp_path / "tfds").rglob("*.array_record*")
  info = shard.with_name("dataset_info.json")
  stated = json.loads(info.read_text())
  shard_bytes, info_text = shard.read_bytes(), info.read_text()
  for damaged, contents in (
    (info, json.dumps({**stated, "fileFormat": "tfrecord"}).encode()),
    (info, b"{"),
    (shard, shard_bytes[:-100]),
    (shard, b""),
    (shard, shard_bytes[:300] + bytes(50) + shard_bytes[350:]),
  ):
    damaged.write_bytes(contents)
    with pytest.raises(InputError, match="array_record .* or damaged: "):
      data.read_preferences(builder.data_dir)
    shard.write_bytes(shard_bytes)
    info.write_text(info_text)
  assert data.read_preferences(builder.data_dir).records == RECORDS
  shard.unlink()
  with pytest.raises(InputError, match="array_record .* or damaged: "):
    data.read_preferences(builder.data_dir)
