# SPDX-License-Identifier: Apache-2.0
"""What rows the model sees: of entities known from the start, and of new ones.

Rows come in two lengths, which are kept apart: padded to the longest, most of a
batch would be padding. All draws of a batch are one array of uniform numbers
`[R, 3 + K]`, a row for each row: every generator more takes longer to compile.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign.learning import knowledge

# The one that no finetuning has.
TEST_TEMPLATE = 2


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Of a world, and of a model that lives in it.

  Attributes:
    vocab: how many names and facts there are.
    num_base: entities of pretraining.
    num_new: entities of finetuning, at most as many.
    num_layers: of the model.
    width: of the model.
    pretrain_steps: updates of pretraining.
    pretrain_rows: rows of each.
    finetune_steps: updates of finetuning.
    new_rows: rows of each on new entities.
    replay_rows: rows of each as in pretraining.
  """

  vocab: knowledge.KnowledgeVocab
  num_base: int
  num_new: int
  num_layers: int
  width: int
  pretrain_steps: int
  pretrain_rows: int
  finetune_steps: int
  new_rows: int
  replay_rows: int


class Format(NamedTuple):
  """How facts on new entities are put; data, hence one program for all.

  Attributes:
    documents: whether in documents, else in questions.
    num_templates: of questions, from template 0 on.
    shuffled: whether documents have their facts in any order.
    rows: of each update on new entities; the others do not count.
  """

  documents: bool | jax.Array
  num_templates: int | jax.Array
  shuffled: bool | jax.Array
  rows: int | jax.Array


class Batch(NamedTuple):
  """Rows of an update.

  Attributes:
    short: questions and comparisons.
    long: documents, and whatever is on new entities.
  """

  short: knowledge.TokenRows
  long: knowledge.TokenRows


def draw_world(key: jax.Array, sizes: Sizes) -> dict[str, knowledge.Entities]:
  """`base` and `new` entities, no two of one name."""
  everyone = knowledge.draw_entities(
    key, sizes.vocab, num_entities=sizes.num_base + sizes.num_new
  )
  return {
    "base": jax.tree.map(lambda x: x[: sizes.num_base], everyone),
    "new": jax.tree.map(lambda x: x[sizes.num_base :], everyone),
  }


def select(entities: knowledge.Entities, at: jax.Array) -> knowledge.Entities:
  """The entities of some indices."""
  return jax.tree.map(lambda x: x[at], entities)


def _concatenate(*parts: knowledge.TokenRows) -> knowledge.TokenRows:
  return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


# --- what rows state ---------------------------------------------------------


class Facts(NamedTuple):
  """What rows state.

  Attributes:
    entity: int `[R]`.
    attribute: int `[R]` of questions, `[R, K]` of documents in their order.
    template: int `[R]`, of questions.
  """

  entity: jax.Array
  attribute: jax.Array
  template: jax.Array


def uniforms(key: jax.Array, sizes: Sizes, rows: int) -> jax.Array:
  """All that is random in some rows."""
  shape = rows, 3 + sizes.vocab.num_attributes
  return jax.random.uniform(key, shape, jnp.float32)


def _below(uniform: jax.Array, limit: int | jax.Array) -> jax.Array:
  """Integers in `[0, limit)`."""
  return (uniform * limit).astype(jnp.int32)


def asked(
  uniform: jax.Array,
  sizes: Sizes,
  num_entities: int,
  num_templates: int | jax.Array,
) -> Facts:
  """Any attribute of any entity, in the first templates."""
  return Facts(
    _below(uniform[:, 0], num_entities),
    _below(uniform[:, 1], sizes.vocab.num_attributes),
    _below(uniform[:, 2], num_templates),
  )


def told(
  uniform: jax.Array, num_entities: int, shuffled: bool | jax.Array
) -> Facts:
  """Any entity, with its attributes in any order or in theirs."""
  any_order = jnp.argsort(uniform[:, 3:], -1)
  order = jnp.where(shuffled, any_order, jnp.arange(any_order.shape[1]))
  entity = _below(uniform[:, 0], num_entities)
  return Facts(entity, order, jnp.zeros_like(entity))


# --- rows --------------------------------------------------------------------


def _question_rows(
  sizes: Sizes, entities: knowledge.Entities, facts: Facts
) -> knowledge.TokenRows:
  of = select(entities, facts.entity)
  return knowledge.question_rows(
    sizes.vocab, of, facts.attribute, facts.template
  )


def _document_rows(
  sizes: Sizes, entities: knowledge.Entities, facts: Facts
) -> knowledge.TokenRows:
  of = select(entities, facts.entity)
  return knowledge.document_rows(sizes.vocab, of, facts.attribute)


def test_rows(
  sizes: Sizes, entities: knowledge.Entities
) -> knowledge.TokenRows:
  """All questions `[E, K]` in the template of the test."""
  shape = len(entities.names), sizes.vocab.num_attributes
  entity, attribute = jnp.indices(shape)
  template = jnp.full(shape, TEST_TEMPLATE)
  return _question_rows(sizes, entities, Facts(entity, attribute, template))


def comparison_rows(
  uniform: jax.Array, sizes: Sizes, entities: knowledge.Entities
) -> knowledge.TokenRows:
  """Comparisons of two different entities, any two, in any number."""
  vocab, size = sizes.vocab, len(entities.names)
  one = _below(uniform[:, 0], size)
  other = (one + 1 + _below(uniform[:, 1], size - 1)) % size
  return knowledge.comparison_rows(
    vocab,
    select(entities, one),
    select(entities, other),
    vocab.num_categorical + _below(uniform[:, 2], vocab.num_numerical),
  )


def pretraining_batch(
  uniform: jax.Array, sizes: Sizes, entities: knowledge.Entities
) -> Batch:
  """Of five rows three are questions, one a document, one a comparison."""
  rows, size = len(uniform), len(entities.names)
  fifth = round(rows / 5)
  questions, documents, comparisons = jnp.split(
    uniform, [rows - 2 * fifth, rows - fifth]
  )
  questions = asked(questions, sizes, size, knowledge.NUM_TEMPLATES)
  return Batch(
    _concatenate(
      _question_rows(sizes, entities, questions),
      comparison_rows(comparisons, sizes, entities),
    ),
    _document_rows(sizes, entities, told(documents, size, True)),
  )


def finetuning_batch(
  uniform: jax.Array,
  sizes: Sizes,
  base: knowledge.Entities,
  new: knowledge.Entities,
  how: Format,
) -> Batch:
  """Rows on new entities in one format, and some as in pretraining."""
  replay = pretraining_batch(uniform[sizes.new_rows :], sizes, base)
  uniform = uniform[: sizes.new_rows]
  documents = _document_rows(
    sizes, new, told(uniform, sizes.num_new, how.shuffled)
  )
  questions = _question_rows(
    sizes, new, asked(uniform, sizes, sizes.num_new, how.num_templates)
  )
  size = documents.tokens.shape[-1] - questions.tokens.shape[-1]
  questions = jax.tree.map(lambda x: jnp.pad(x, [(0, 0), (0, size)]), questions)
  rows = jax.tree.map(
    lambda x, y: jnp.where(how.documents, x, y), documents, questions
  )
  counts = jnp.arange(sizes.new_rows) < how.rows
  rows = rows._replace(where=rows.where & counts[:, None])
  return replay._replace(long=_concatenate(rows, replay.long))


def exposures(uniform: jax.Array, sizes: Sizes, how: Format) -> jax.Array:
  """How often the rows of an update state each new fact, int `[E, K]`."""
  facts = asked(
    uniform[: sizes.new_rows], sizes, sizes.num_new, how.num_templates
  )
  every = jnp.arange(sizes.vocab.num_attributes)
  stated = how.documents | (facts.attribute[:, None] == every)
  counts = jnp.arange(sizes.new_rows) < how.rows
  return knowledge.fact_exposures(
    facts.entity, stated & counts[:, None], num_entities=sizes.num_new
  )
