# SPDX-License-Identifier: Apache-2.0
"""From tokenised pairs to batches: held-out split, shuffled and ordered passes.

grain shuffles and repeats the numbers of the pairs; the arrays stay whole in
memory, and a batch is one look-up. Batch k holds the same pairs for any number
of processes, each of which takes its part of it, so that a run continues on
more or fewer processes from the state of any of them.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from jaxalign import checks
from jaxalign.data import batches, preferences

if TYPE_CHECKING:
  import grain

_Batch = TypeVar("_Batch")

__all__ = ("held_out_mask", "ordered_batches", "shuffled_batches")


def held_out_mask(
  records: Sequence[preferences.Preference],
  fraction: float,
  *,
  by: str = "prompt",
) -> np.ndarray:
  """Which records to keep for evaluation, decided by what they say.

  A record is held out if the hash of its text, as a number in [0, 1), is below
  `fraction`: neither its place nor the other records matter, and with a larger
  fraction those that were held out remain so.

  Args:
    records: M pairs.
    fraction: of the texts, between 0 and 1.
    by: "prompt", by which all pairs of one prompt stay together, or "pair", by
      which equal pairs do, also if their answers are exchanged.

  Returns:
    bool `[M]`.

  Raises:
    InputError: all or none of the records are held out.
    ValueError: an option is out of its range.

  >>> from jaxalign.data import preferences
  >>> records = [preferences.Preference(p, "yes", "no") for p in "abcd"]
  >>> held_out_mask(records, .5)
  array([...])

  Reference:
    The usual guard against training on what is tested.
  """
  checks.check_choice("by", by, ("prompt", "pair"))
  if not 0 < fraction < 1:
    raise ValueError(f"fraction must be between 0 and 1, was {fraction}")

  def place(record):
    texts = [record.prompt]
    if by == "pair":
      texts += sorted((record.chosen, record.rejected))
    digest = hashlib.sha256(repr(texts).encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64

  mask = np.array([place(record) < fraction for record in records], bool)
  if mask.all() or not mask.any():
    raise checks.InputError(
      f"a held-out fraction of {fraction:g} by {by} takes {mask.sum()} of"
      f" {len(mask)} pairs: choose another fraction"
      + (" or by='pair'" if by == "prompt" else "")
    )
  return mask


def _check_size(batch_size: int, num_pairs: int) -> None:
  if batch_size < 1:
    raise ValueError(f"batch_size must be at least 1, was {batch_size}")
  if batch_size > num_pairs:
    raise checks.InputError(
      f"a batch of {batch_size} needs as many pairs, there are {num_pairs}"
    )


def shuffled_batches(
  take: Callable[[np.ndarray], _Batch],
  num_pairs: int,
  *,
  batch_size: int,
  seed: int,
  num_epochs: int | None = None,
  shard_index: int = 0,
  shard_count: int = 1,
) -> "grain.DatasetIterator[_Batch]":
  """Batches for training, in an order that the seed decides.

  Each epoch has its own order and leaves out the `N mod batch_size` pairs that
  stand last in it.

  Args:
    take: makes a batch of the numbers of its pairs, integers `[B]`; such as
      `functools.partial(pair_batch, pairs)`.
    num_pairs: N, from which the numbers are.
    batch_size: B, pairs of a batch, of all processes together.
    seed: of the order, from 0 to 2**32 - 1.
    num_epochs: passes over the pairs; None goes on for ever.
    shard_index: this process, of which each takes `B / shard_count` consecutive
      rows of every batch.
    shard_count: processes.

  Returns:
    An iterator of what `take` makes. Its `get_state()` is a small dictionary of
    numbers; `set_state` of it continues with the batch that would have come.

  Raises:
    InputError: a batch needs more pairs than there are.
    ValueError: an option is out of its range.
    ImportError: grain is not installed.

  >>> numbers = np.arange(10, 14)
  >>> stream = shuffled_batches(numbers.take, 4, batch_size=2, seed=0)
  >>> sorted([*next(stream).tolist(), *next(stream).tolist()])
  [10, 11, 12, 13]

  Reference:
    grain's `MapDataset`; the order is a permutation by a block cipher.
  """
  _check_size(batch_size, num_pairs)
  if shard_count < 1 or batch_size % shard_count:
    raise ValueError(
      f"batch_size {batch_size} must be a multiple of shard_count {shard_count}"
    )
  if not 0 <= shard_index < shard_count:
    raise ValueError(
      f"shard_index must be from 0 to {shard_count - 1}, was {shard_index}"
    )
  if not 0 <= seed < 2**32:
    raise ValueError(f"seed must be from 0 to 2**32 - 1, was {seed}")
  try:
    import grain
  except ImportError as error:
    raise ImportError(
      'shuffled_batches needs grain: pip install "jaxalign[data]"'
    ) from error
  size = batch_size // shard_count
  mine = slice(shard_index * size, (shard_index + 1) * size)
  rows = grain.MapDataset.range(num_pairs).seed(seed).shuffle()
  # What is left out differs between epochs, as it is cut off after shuffling.
  rows = rows[: num_pairs - num_pairs % batch_size].repeat(num_epochs)
  stream = rows.batch(batch_size, drop_remainder=True).map(
    lambda rows: take(rows[mine])
  )
  # All is in memory: threads would only wait for each other.
  options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  return iter(stream.to_iter_dataset(options))


def ordered_batches(
  pairs: batches.PairTokens, *, batch_size: int
) -> Iterator[preferences.PairBatch]:
  """One pass over all pairs, for evaluation.

  Args:
    pairs: N pairs.
    batch_size: B; the last batch is filled with rows in which nothing exists,
      whose masks are false everywhere.

  Returns:
    An iterator of `ceil(N / B)` batches.

  Raises:
    ValueError: `batch_size` is below 1.

  >>> from jaxalign.data import preferences, tokenizers
  >>> records = [preferences.Preference(p, "yes", "no") for p in "abc"]
  >>> pairs = batches.tokenize_pairs(
  ...   records, tokenizers.byte_tokenizer(), max_length=6)
  >>> [int(batch.chosen_where.any(-1).sum())
  ...  for batch in ordered_batches(pairs, batch_size=2)]
  [2, 1]

  Reference:
    Batches of one shape compile once.
  """
  if batch_size < 1:
    raise ValueError(f"batch_size must be at least 1, was {batch_size}")
  num_pairs = len(pairs.chosen_tokens)
  for start in range(0, num_pairs, batch_size):
    rows = np.arange(start, start + batch_size)
    yield batches.pair_batch(pairs, np.where(rows < num_pairs, rows, -1))
