# SPDX-License-Identifier: Apache-2.0
import functools
import json
import sys

import numpy as np
import pytest

from jaxalign import data
from jaxalign.checks import InputError

NUM_PAIRS = 11
RECORDS = [
  data.Preference(f"prompt {i}", f"yes {i}", "no") for i in range(NUM_PAIRS)
]


@pytest.fixture(scope="module")
def pairs():
  pytest.importorskip("grain")
  return data.tokenize_pairs(RECORDS, data.byte_tokenizer(), max_length=20)


def batches(pairs, **options):
  options = {"batch_size": 4, "seed": 3, **options}
  take = functools.partial(data.pair_batch, pairs)
  size = len(pairs.chosen_tokens)
  return data.shuffled_batches(take, size, **options)


def take(stream, count):
  return [next(stream) for _ in range(count)]


def rows(batch, pairs):
  """Which pairs are in the batch."""
  same = batch.chosen_tokens[:, None] == pairs.chosen_tokens
  return np.argmax(same.all(-1), -1).tolist()


def assert_equal(actual, expected):
  for batch, other in zip(actual, expected, strict=True):
    for x, y in zip(batch, other, strict=True):
      np.testing.assert_array_equal(x, y)


def test_epochs(pairs):
  found = [rows(b, pairs) for b in batches(pairs, num_epochs=12)]
  assert len(found) == 24 and all(len(batch) == 4 for batch in found)
  epochs = [found[i] + found[i + 1] for i in range(0, 24, 2)]
  assert all(len(set(epoch)) == 8 for epoch in epochs)  # no pair twice
  assert len({tuple(epoch) for epoch in epochs}) == 12
  # Each epoch leaves out others.
  assert set().union(*epochs) == set(range(NUM_PAIRS))


def test_batches_are_those_of_the_pairs(pairs):
  batch = next(batches(pairs))
  expected = data.pair_batch(pairs, np.array(rows(batch, pairs)))
  assert_equal([batch], [expected])


def test_the_seed_decides_the_order(pairs):
  first, again, other = (
    take(batches(pairs, seed=seed), 5) for seed in (3, 3, 4)
  )
  assert_equal(again, first)
  orders = [[rows(b, pairs) for b in part] for part in (first, other)]
  assert orders[0] != orders[1]
  # The seed is no number of an epoch: seed 4 is not seed 3, an epoch later.
  assert orders[1][:2] != orders[0][2:4]


@pytest.mark.parametrize("consumed", [0, 1, 2, 5])
def test_a_state_continues_exactly(pairs, consumed):
  stream = batches(pairs)
  take(stream, consumed)
  state = json.loads(json.dumps(stream.get_state()))  # as a checkpoint has it
  expected = take(stream, 6)
  resumed = batches(pairs)
  take(resumed, 3)
  resumed.set_state(state)
  assert_equal(take(resumed, 6), expected)
  assert resumed.get_state() == stream.get_state()


@pytest.mark.parametrize("shard_count", [2, 4])
def test_shards_are_the_parts_of_one_batch(pairs, shard_count):
  whole = take(batches(pairs), 5)
  shards = [
    batches(pairs, shard_index=i, shard_count=shard_count)
    for i in range(shard_count)
  ]
  parts = zip(*(take(shard, 5) for shard in shards), strict=True)
  joined = [
    data.PairBatch(*map(np.concatenate, zip(*part, strict=True)))
    for part in parts
  ]
  assert_equal(joined, whole)
  # One process continues where several were.
  alone = batches(pairs)
  alone.set_state(shards[-1].get_state())
  stream = batches(pairs)
  take(stream, 5)
  assert_equal(take(alone, 2), take(stream, 2))


def test_ordered_batches_hold_every_pair_once(pairs):
  found = list(data.ordered_batches(pairs, batch_size=4))
  assert [batch.chosen_where.any(-1).tolist() for batch in found] == [
    *([True] * 4, [True] * 4, [True] * 3 + [False])
  ]
  kept = [x[:3] for x in found[-1]]
  assert_equal([kept], [data.pair_batch(pairs, np.arange(8, 11))])
  assert not any(mask[3].any() for mask in found[-1][2:])
  (single,) = data.ordered_batches(pairs, batch_size=16)
  assert single.chosen_where.any(-1).sum() == NUM_PAIRS


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"batch_size": 0}, "batch_size must be at least 1, was 0"),
    ({"batch_size": 12}, "a batch of 12 needs as many pairs, there are 11"),
    ({"shard_count": 3}, "batch_size 4 must be a multiple of shard_count 3"),
    ({"shard_count": 0}, "must be a multiple of shard_count 0"),
    ({"shard_index": 1}, "shard_index must be from 0 to 0, was 1"),
    ({"seed": -1}, r"seed must be from 0 to 2\*\*32 - 1, was -1"),
  ],
)
def test_bad_options(pairs, options, message):
  with pytest.raises(ValueError, match=message):
    batches(pairs, **options)


def test_bad_batch_size_of_an_ordered_pass(pairs):
  with pytest.raises(ValueError, match="batch_size must be at least 1, was 0"):
    list(data.ordered_batches(pairs, batch_size=0))


def test_without_grain(pairs, monkeypatch):
  monkeypatch.setitem(sys.modules, "grain", None)
  with pytest.raises(ImportError, match=r'pip install "jaxalign\[data\]"'):
    batches(pairs)


MANY = [
  data.Preference(f"prompt {i % 500}", f"yes {i}", "no") for i in range(1000)
]


def test_held_out_does_not_depend_on_place_or_company():
  mask = data.held_out_mask(MANY, 0.2)
  order = np.random.default_rng(0).permutation(len(MANY))
  moved = data.held_out_mask([MANY[i] for i in order], 0.2)
  np.testing.assert_array_equal(moved, mask[order])
  np.testing.assert_array_equal(data.held_out_mask(MANY[:700], 0.2), mask[:700])
  # A larger share keeps what was held out.
  assert data.held_out_mask(MANY, 0.3)[mask].all()


def test_held_out_share():
  for by, count in (("prompt", 500), ("pair", 1000)):
    share = data.held_out_mask(MANY, 0.2, by=by).mean()
    # Four standard errors of a fair draw for each text.
    assert abs(share - 0.2) < 4 * np.sqrt(0.2 * 0.8 / count)


def test_held_out_keeps_together_what_belongs_together():
  mask = data.held_out_mask(MANY, 0.5)
  np.testing.assert_array_equal(mask[:500], mask[500:])
  by_pair = data.held_out_mask(MANY, 0.5, by="pair")
  assert (by_pair[:500] != by_pair[500:]).any()
  turned = [r._replace(chosen=r.rejected, rejected=r.chosen) for r in MANY]
  np.testing.assert_array_equal(
    data.held_out_mask(turned, 0.5, by="pair"), by_pair
  )


def test_held_out_errors():
  alike = [r._replace(prompt="one") for r in MANY]
  with pytest.raises(InputError, match="of 1000 pairs: .* or by='pair'"):
    data.held_out_mask(alike, 0.2)
  assert 100 < data.held_out_mask(alike, 0.2, by="pair").sum() < 300
  with pytest.raises(InputError, match="takes 0 of 3 pairs: choose another f"):
    data.held_out_mask(MANY[:3], 1e-9, by="pair")
  for fraction in (0, 1, -0.1, float("nan")):
    with pytest.raises(ValueError, match="fraction must be between 0 and 1"):
      data.held_out_mask(MANY, fraction)
  with pytest.raises(ValueError, match="unknown by 'answer': choose one of"):
    data.held_out_mask(MANY, 0.1, by="answer")
