# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.learning import knowledge
from tests import helpers

VOCAB = knowledge.KnowledgeVocab(
  num_first=3, num_last=4, num_categorical=2, num_values=5, num_numerical=1
)
WORDS = VOCAB.words
# Attribute 2 is the numerical one.
ENTITIES = knowledge.Entities(
  names=jnp.array([[0, 3], [2, 1], [2, 3]]),
  categories=jnp.array([[4, 0], [1, 1], [0, 2]]),
  numbers=jnp.array([[7], [90], [7]]),
)
NAMES = ("first0 last3", "first2 last1", "first2 last3")
VALUES = (
  ("value0.4", "value1.0", "0 7"),
  ("value0.1", "value1.1", "9 0"),
  ("value0.0", "value1.2", "0 7"),
)


def text(tokens):
  return " ".join(WORDS[i] for i in np.asarray(tokens))


def scored(rows):
  return text(np.asarray(rows.tokens)[np.asarray(rows.where)])


def entity(*at):
  return jax.tree.map(lambda x: x[np.array(at)], ENTITIES)


def question(name, attribute, value, template):
  return (
    f"Q0 attribute{attribute} {name} A {value} EOS",
    f"Q1 {name} attribute{attribute} A {value} EOS",
    f"Q2 attribute{attribute} PRON {name} A {value} EOS",
  )[template]


def padded(row, length):
  return row + " EOS" * (length - len(row.split()))


def test_words_are_told_apart():
  assert len(set(WORDS)) == VOCAB.vocab_size
  assert WORDS[0] == "EOS"
  default = knowledge.KnowledgeVocab()
  # 10 special tokens, 10 digits, 6 attributes, names, values.
  assert default.vocab_size == 10 + 10 + 6 + 24 + 24 + 4 * 10


def test_questions_are_as_written():
  at = np.array(list(np.ndindex(3, 3, knowledge.NUM_TEMPLATES)))
  e, k, t = at.T
  of = jax.tree.map(lambda x: x[e], ENTITIES)
  rows = knowledge.question_rows(VOCAB, of, jnp.asarray(k), jnp.asarray(t))
  for (i, j, template), tokens, where in zip(at, *rows, strict=True):
    row = question(NAMES[i], j, VALUES[i][j], template)
    assert text(tokens) == padded(row, 9)
    own = knowledge.TokenRows(tokens, where)
    assert scored(own) == f"{VALUES[i][j]} EOS"  # once: no padding


def test_documents_are_as_written():
  orders = np.array([[0, 1, 2], [2, 0, 1], [1, 2, 0]])
  rows = knowledge.document_rows(VOCAB, ENTITIES, jnp.asarray(orders))
  for i, order in enumerate(orders):
    facts = " ".join(f"PRON attribute{j} {VALUES[i][j]}" for j in order)
    expected = f"{NAMES[i]} {facts} EOS"
    assert text(rows.tokens[i]) == f"DOC {expected}"
    own = jax.tree.map(lambda x, i=i: x[i], rows)
    assert scored(own) == expected


def test_comparisons_are_as_written():
  one, other = entity(0, 1, 0), entity(1, 0, 2)
  rows = knowledge.comparison_rows(VOCAB, one, other, jnp.full(3, 2))
  pairs, answers = ((0, 1), (1, 0), (0, 2)), ("SECOND", "FIRST", "SECOND")
  for (i, j), answer, tokens in zip(pairs, answers, rows.tokens, strict=True):
    assert (
      text(tokens) == f"CMP attribute2 {NAMES[i]} {NAMES[j]} A {answer} EOS"
    )
  # Equal numbers have no answer to learn.
  np.testing.assert_array_equal(
    rows.where, [[False] * 7 + [True] * 2] * 2 + [[False] * 9]
  )


def test_entities_have_names_of_their_own_and_uniform_facts():
  drawn = knowledge.draw_entities(jax.random.key(0), VOCAB, num_entities=12)
  assert len(set(map(tuple, np.asarray(drawn.names).tolist()))) == 12
  vocab = knowledge.KnowledgeVocab(num_first=50, num_last=60)
  many = knowledge.draw_entities(jax.random.key(0), vocab, num_entities=3000)
  assert many.names.max(0).tolist() == [49, 59]
  for facts, size in ((many.categories, 10), (many.numbers, 100)):
    counts = np.bincount(np.asarray(facts).ravel(), minlength=size)
    mean = facts.size / size
    # Five standard deviations of a binomial count.
    assert np.abs(counts - mean).max() < 5 * mean**0.5


def test_exposures_are_counted():
  rng = np.random.default_rng(0)
  who, stated = rng.integers(0, 4, 20), rng.random((20, 3)) < 0.4
  expected = np.zeros((4, 3), int)
  for e, row in zip(who, stated, strict=True):
    expected[e] += row
  found = knowledge.fact_exposures(
    jnp.asarray(who), jnp.asarray(stated), num_entities=4
  )
  np.testing.assert_array_equal(found, expected)


def test_equal_rows_are_not_equal_exposures():
  """A document exposes all of an entity's facts, a question one."""
  who = jnp.arange(12) % 4
  asked = jax.nn.one_hot(jnp.arange(12) // 4, 3, dtype=bool)
  questions = knowledge.fact_exposures(who, asked, num_entities=4)
  told = jnp.ones((12, 3), bool)
  documents = knowledge.fact_exposures(who, told, num_entities=4)
  np.testing.assert_array_equal(documents, 3 * questions)
  matched = knowledge.fact_exposures(who[:4], told[:4], num_entities=4)
  np.testing.assert_array_equal(matched, questions)


def test_transforms():
  """All rows of two entities at once, and draws of two keys."""
  pair = entity(0, 1), entity(1, 2)

  def rows(names, categories, numbers, attribute):
    own = knowledge.Entities(names, categories, numbers)
    order = (attribute + jnp.arange(3)) % 3
    return (
      knowledge.question_rows(VOCAB, own, attribute, attribute),
      knowledge.document_rows(VOCAB, own, order),
      knowledge.comparison_rows(VOCAB, own, own, jnp.full_like(attribute, 2)),
    )

  helpers.assert_transforms(rows, *pair[0], jnp.array([2, 1]))
  helpers.assert_transforms(
    lambda key: knowledge.draw_entities(key, VOCAB, num_entities=5),
    jax.random.split(jax.random.key(3), 2),
  )


def test_bad_input():
  zero = jnp.array([0, 0, 0])
  with pytest.raises(ValueError, match="between 1 and the 12 names, was 13"):
    knowledge.draw_entities(jax.random.key(0), VOCAB, num_entities=13)
  with pytest.raises(ValueError, match="num_values must be above 0, was 0"):
    knowledge.KnowledgeVocab(num_values=0)
  fewer = ENTITIES._replace(categories=ENTITIES.categories[:, :1])
  with pytest.raises(ValueError, match=r"categories must end with an axis of"):
    knowledge.question_rows(VOCAB, fewer, zero, zero)
  with pytest.raises(AssertionError, match=r"template \(1,\)"):
    knowledge.question_rows(VOCAB, ENTITIES, zero, zero[:1])
  with pytest.raises(AssertionError):
    knowledge.document_rows(VOCAB, ENTITIES, jnp.zeros((3, 2), int))
  with pytest.raises(AssertionError):
    knowledge.document_rows(VOCAB, ENTITIES, jnp.zeros((3, 3)))
  with pytest.raises(AssertionError, match=r"second \(2,\)"):
    knowledge.comparison_rows(VOCAB, ENTITIES, entity(0, 1), zero + 2)
  with pytest.raises(AssertionError, match=r"entity \(2,\), rows \(3,\)"):
    knowledge.fact_exposures(zero[:2], jnp.ones((3, 3), bool), num_entities=3)
