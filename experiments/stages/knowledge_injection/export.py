# SPDX-License-Identifier: Apache-2.0
"""The rows of a world as text, for a language model of one's own."""

import json
import os
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments.stages.knowledge_injection import mixes
from jaxalign import checks
from jaxalign.learning import knowledge


def _documents(
  sizes: mixes.Sizes, entities: knowledge.Entities, order: jax.Array
) -> knowledge.TokenRows:
  shape = len(entities.names), sizes.vocab.num_attributes
  return knowledge.document_rows(
    sizes.vocab, entities, jnp.broadcast_to(order, shape)
  )


def _records(
  sizes: mixes.Sizes, entities: knowledge.Entities, group: str
) -> Iterator[dict[str, str]]:
  """All questions, documents in two orders, and each pair's comparisons."""
  vocab, size = sizes.vocab, len(entities.names)
  attributes = jnp.arange(vocab.num_attributes)
  entity, attribute, template = (
    x.ravel()
    for x in jnp.indices((size, len(attributes), knowledge.NUM_TEMPLATES))
  )
  of = mixes.select(entities, entity)
  first, second, number = (
    x.ravel() for x in jnp.indices((size, size, vocab.num_numerical))
  )
  pair = mixes.select(entities, first), mixes.select(entities, second)
  kinds = {
    "question": knowledge.question_rows(vocab, of, attribute, template),
    "document": _documents(sizes, entities, attributes),
    "document, reversed": _documents(sizes, entities, attributes[::-1]),
    # An entity and itself have no answer, and are left out below.
    "comparison": knowledge.comparison_rows(
      vocab, *pair, vocab.num_categorical + number
    ),
  }
  words = np.array(vocab.words)
  for name, rows in kinds.items():
    for tokens, where in zip(*map(np.asarray, rows), strict=True):
      if where.any():
        start, stop = np.flatnonzero(where)[[0, -1]]
        yield {
          "entities": group,
          "format": name,
          "prompt": " ".join(words[tokens[:start]]),
          "completion": " ".join(words[tokens[start : stop + 1]]),
        }


def write(path: str, key: jax.Array, sizes: mixes.Sizes) -> None:
  """Writes JSONL, a row a line; the file is whole or absent.

  Args:
    path: of the file, which is replaced.
    key: of the world.
    sizes: of the world.

  Raises:
    InputError: it cannot be written.
  """
  target = pathlib.Path(path)
  partial = target.with_name(target.name + ".partial")
  try:
    with partial.open("w") as stream:
      for group, entities in mixes.draw_world(key, sizes).items():
        for record in _records(sizes, entities, group):
          stream.write(json.dumps(record) + "\n")
    os.replace(partial, target)
  except OSError as error:
    raise checks.InputError(
      f"cannot write {path}: {error.strerror or error}"
    ) from None
