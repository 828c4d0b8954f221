# SPDX-License-Identifier: Apache-2.0
"""Synthetic knowledge: facts on made-up entities, in questions and documents.

What does finetuning on one format teach about another? Entities have a name of
two tokens, categorical attributes (one token of their own) and numerical ones
(00 to 99, two digits). Rows of tokens state these facts:

- a question in template 0: `Q0 attribute name A value EOS`,
  in template 1: `Q1 name attribute A value EOS`,
  in template 2: `Q2 attribute PRON name A value EOS`;
- a document: `DOC name (PRON attribute value)... EOS`, all attributes;
- a comparison: `CMP attribute name name A FIRST|SECOND EOS`, which of two has
  the larger number.

The loss is on what follows `A`, and on all of a document but `DOC`. To compare
formats, match how often each fact is stated (`fact_exposures`), not rows: a
document states as many facts as there are attributes, a question one.
"""

import dataclasses
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxalign import checks

__all__ = (
  "NUM_TEMPLATES",
  "Entities",
  "KnowledgeVocab",
  "TokenRows",
  "comparison_rows",
  "document_rows",
  "draw_entities",
  "fact_exposures",
  "question_rows",
)

NUM_TEMPLATES = 3
_SPECIAL = ("EOS", "A", "PRON", "DOC", "CMP", "FIRST", "SECOND", "Q0")
_EOS, _A, _PRON, _DOC, _CMP, _FIRST, _SECOND, _Q0 = range(len(_SPECIAL))
_DIGIT = _Q0 + NUM_TEMPLATES
_ATTRIBUTE = _DIGIT + 10


@dataclasses.dataclass(frozen=True)
class KnowledgeVocab:
  """How much there is of what; hashable, hence static under `jit`.

  Ids are in this order: special tokens (0 is `EOS`, which also pads), digits,
  attributes (the categorical ones first), first names, last names, values.

  Attributes:
    num_first: first names.
    num_last: last names.
    num_categorical: C, categorical attributes.
    num_values: of each categorical attribute, with tokens of its own.
    num_numerical: N, numerical attributes.
  """

  num_first: int = 24
  num_last: int = 24
  num_categorical: int = 4
  num_values: int = 10
  num_numerical: int = 2

  def __post_init__(self):
    checks.check_positive(**dataclasses.asdict(self))

  @property
  def num_attributes(self) -> int:
    """K = C + N."""
    return self.num_categorical + self.num_numerical

  @property
  def words(self) -> tuple[str, ...]:
    """The text of each token."""
    return (
      *_SPECIAL,
      *(f"Q{i}" for i in range(1, NUM_TEMPLATES)),
      *(str(i) for i in range(10)),
      *(f"attribute{i}" for i in range(self.num_attributes)),
      *(f"first{i}" for i in range(self.num_first)),
      *(f"last{i}" for i in range(self.num_last)),
      *(
        f"value{i}.{j}"
        for i in range(self.num_categorical)
        for j in range(self.num_values)
      ),
    )

  @property
  def vocab_size(self) -> int:
    """V, how many tokens there are."""
    return len(self.words)


class Entities(NamedTuple):
  """Names and facts of E entities.

  Attributes:
    names: int32 `[..., E, 2]`, a first and a last name.
    categories: int32 `[..., E, C]`, in `[0, num_values)`.
    numbers: int32 `[..., E, N]`, in `[0, 100)`.
  """

  names: jax.Array
  categories: jax.Array
  numbers: jax.Array


class TokenRows(NamedTuple):
  """Tokens to train on.

  Attributes:
    tokens: int32 `[..., T]`, padded on the right with `EOS`.
    where: bool `[..., T]`, tokens whose loss counts.
  """

  tokens: jax.Array
  where: jax.Array


def draw_entities(
  key: jax.Array, vocab: KnowledgeVocab, *, num_entities: int
) -> Entities:
  """Entities of different names, with facts that are independent and uniform.

  Args:
    key: consumed.
    vocab: how much there is of what.
    num_entities: E, at most the number of names.

  Returns:
    `Entities`.

  Raises:
    ValueError: there are fewer names.

  >>> vocab = KnowledgeVocab(num_first=2, num_last=2)
  >>> drawn = draw_entities(jax.random.key(0), vocab, num_entities=4)
  >>> sorted(map(tuple, drawn.names.tolist()))
  [(0, 0), (0, 1), (1, 0), (1, 1)]

  Reference:
    From Style to Facts (2503.05919), fictional entities; the generator is ours.
  """
  num_names = vocab.num_first * vocab.num_last
  if not 1 <= num_entities <= num_names:
    raise ValueError(
      f"num_entities must be between 1 and the {num_names} names, was"
      f" {num_entities}"
    )
  names, categories, numbers = jax.random.split(key, 3)
  drawn = jax.random.permutation(names, num_names)[:num_entities]
  return Entities(
    names=jnp.stack(jnp.divmod(drawn, vocab.num_last), -1).astype(jnp.int32),
    categories=jax.random.randint(
      categories, (num_entities, vocab.num_categorical), 0, vocab.num_values
    ).astype(jnp.int32),
    numbers=jax.random.randint(
      numbers, (num_entities, vocab.num_numerical), 0, 100
    ).astype(jnp.int32),
  )


# --- rows --------------------------------------------------------------------


def _pack(*columns: list, length: int) -> TokenRows:
  """Tokens `[...]` side by side, without those that do not exist.

  Args:
    *columns: tokens, whether they exist, and whether they are learned from.
    length: of the rows.
  """
  tokens, exists, learned = jnp.broadcast_arrays(
    *(jnp.stack(jnp.broadcast_arrays(*x), -1) for x in columns)
  )
  order = jnp.argsort(~exists, -1, stable=True)[..., :length]
  return TokenRows(
    *(
      jnp.take_along_axis(x, order, -1)
      for x in (
        jnp.where(exists, tokens, _EOS).astype(jnp.int32),
        exists & learned,
      )
    )
  )


def _check(vocab: KnowledgeVocab, entities: Entities) -> None:
  chex.assert_type(list(entities), int)
  sizes = 2, vocab.num_categorical, vocab.num_numerical
  for name, x, size in zip(entities._fields, entities, sizes, strict=True):
    if x.ndim < 1 or x.shape[-1] != size:
      raise ValueError(
        f"{name} must end with an axis of {size}, as the vocabulary has it:"
        f" shape was {x.shape}"
      )


def _name(vocab: KnowledgeVocab, entities: Entities) -> list[jax.Array]:
  first = _ATTRIBUTE + vocab.num_attributes
  last = first + vocab.num_first
  return [first + entities.names[..., 0], last + entities.names[..., 1]]


def _value(
  vocab: KnowledgeVocab, entities: Entities, attribute: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The tokens of a value, and whether the second one exists."""
  numerical = attribute >= vocab.num_categorical
  values = jnp.concatenate([entities.categories, entities.numbers], -1)
  value = jnp.take_along_axis(values, attribute[..., None], -1)[..., 0]
  start = len(vocab.words) - vocab.num_categorical * vocab.num_values
  word = start + attribute * vocab.num_values + value
  tens, ones = jnp.divmod(value, 10)
  return jnp.where(numerical, _DIGIT + tens, word), _DIGIT + ones, numerical


def question_rows(
  vocab: KnowledgeVocab,
  entities: Entities,
  attribute: jax.Array,
  template: jax.Array,
) -> TokenRows:
  """A question on one attribute of each entity, and its answer.

  Args:
    vocab: how much there is of what.
    entities: arrays `[..., *]`, whom to ask about.
    attribute: int `[...]`, which; numerical from C on.
    template: int `[...]`, in `[0, 3)`.

  Returns:
    `TokenRows` of 9 tokens; the loss counts from the answer on.

  Raises:
    AssertionError: no integers, or shapes do not fit.
    ValueError: facts are not as many as the vocabulary has.

  >>> vocab = KnowledgeVocab()
  >>> one = draw_entities(jax.random.key(1), vocab, num_entities=1)
  >>> rows = question_rows(vocab, one, jnp.array([5]), jnp.array([2]))
  >>> " ".join(vocab.words[i] for i in rows.tokens[0])
  'Q2 attribute5 PRON first... last... A ... EOS'
  >>> rows.where[0].astype(int)
  Array([0, 0, 0, 0, 0, 0, 1, 1, 1], dtype=int32)

  Reference:
    From Style to Facts (2503.05919), question answering; the templates are
    ours.
  """
  _check(vocab, entities)
  chex.assert_type([attribute, template], int)
  checks.check_same_shape(
    attribute=attribute, template=template, entities=entities.names[..., 0]
  )
  first, second, two = _value(vocab, entities, attribute)
  name = _name(vocab, entities)
  asked = _ATTRIBUTE + attribute
  after = template == 1  # the attribute comes after the name
  tokens = [_Q0 + template, asked, _PRON, *name, asked, _A]
  exists = [True, ~after, template == 2, True, True, after, True]
  return _pack(
    [*tokens, first, second, _EOS],
    [*exists, True, two, True],
    [False] * len(tokens) + [True] * 3,
    length=9,
  )


def document_rows(
  vocab: KnowledgeVocab, entities: Entities, order: jax.Array
) -> TokenRows:
  """A document with all facts on each entity.

  Args:
    vocab: how much there is of what.
    entities: arrays `[..., *]`, whom to write about.
    order: int `[..., K]`, the attributes in the order of their facts, each
      once.

  Returns:
    `TokenRows` of `4 + 3 C + 4 N` tokens; the loss counts from token 1 on.

  Raises:
    AssertionError: no integers, or shapes do not fit.
    ValueError: facts are not as many as the vocabulary has.

  >>> vocab = KnowledgeVocab(num_categorical=1, num_numerical=1)
  >>> one = draw_entities(jax.random.key(1), vocab, num_entities=1)
  >>> rows = document_rows(vocab, one, jnp.array([[1, 0]]))
  >>> " ".join(vocab.words[i] for i in rows.tokens[0])
  'DOC first... last... PRON attribute1 ... PRON attribute0 value0... EOS'

  Reference:
    From Style to Facts (2503.05919), articles; the form of the documents is
    ours.
  """
  _check(vocab, entities)
  chex.assert_type(order, int)
  names = entities.names
  chex.assert_shape(order, (*names.shape[:-1], vocab.num_attributes))
  tokens, exists = [_DOC, *_name(vocab, entities)], [True] * 3
  for k in range(vocab.num_attributes):
    first, second, two = _value(vocab, entities, order[..., k])
    tokens += [_PRON, _ATTRIBUTE + order[..., k], first, second]
    exists += [True, True, True, two]
  where = [False] + [True] * len(tokens)
  length = 4 + 3 * vocab.num_categorical + 4 * vocab.num_numerical
  return _pack([*tokens, _EOS], [*exists, True], where, length=length)


def comparison_rows(
  vocab: KnowledgeVocab,
  first: Entities,
  second: Entities,
  attribute: jax.Array,
) -> TokenRows:
  """Which of two entities has the larger number.

  Args:
    vocab: how much there is of what.
    first: arrays `[..., *]`.
    second: of the shapes of `first`.
    attribute: int `[...]`, in `[C, C + N)`.

  Returns:
    `TokenRows` of 9 tokens; the loss counts from the answer on, and nowhere if
    the numbers are equal.

  Raises:
    AssertionError: no integers, or shapes do not fit.
    ValueError: facts are not as many as the vocabulary has.

  >>> vocab = KnowledgeVocab()
  >>> two = Entities(jnp.array([[0, 1], [2, 3]]), jnp.zeros((2, 4), int),
  ...                jnp.array([[7, 0], [50, 0]]))
  >>> small, large = (jax.tree.map(lambda x: x[i], two) for i in (0, 1))
  >>> rows = comparison_rows(vocab, small, large, jnp.array(4))
  >>> " ".join(vocab.words[i] for i in rows.tokens)
  'CMP attribute4 first0 last1 first2 last3 A SECOND EOS'

  Reference:
    From Style to Facts (2503.05919), multi-step evaluation; this form is ours.
  """
  _check(vocab, first)
  _check(vocab, second)
  chex.assert_type(attribute, int)
  checks.check_same_shape(
    attribute=attribute, first=first.names[..., 0], second=second.names[..., 0]
  )
  at = (attribute - vocab.num_categorical)[..., None]
  one, other = (
    jnp.take_along_axis(x.numbers, at, -1)[..., 0] for x in (first, second)
  )
  names = [*_name(vocab, first), *_name(vocab, second)]
  answer = jnp.where(one > other, _FIRST, _SECOND)
  tokens = [_CMP, _ATTRIBUTE + attribute, *names, _A, answer, _EOS]
  where = [False] * 7 + [one != other] * 2
  return _pack(tokens, [True] * 9, where, length=9)


# --- exposures ---------------------------------------------------------------


def fact_exposures(
  entity: jax.Array, stated: jax.Array, *, num_entities: int
) -> jax.Array:
  """How often each fact is stated in the rows that are trained on.

  `counts[e, k] = #{rows on e that state attribute k}`. Formats are compared
  at equal exposures per fact, as neither rows nor tokens are equal in what
  they say.

  Args:
    entity: int `[R]`, whom each row is about, in `[0, E)`.
    stated: bool `[R, K]`, the facts that it states: one of a question
      (`jax.nn.one_hot(attribute, K, dtype=bool)`), all of a document.
    num_entities: E.

  Returns:
    int32 `[E, K]`.

  Raises:
    AssertionError: ranks, types or numbers of rows do not fit.

  >>> stated = jnp.array([[True, False], [True, True], [True, False]])
  >>> fact_exposures(jnp.array([0, 1, 0]), stated, num_entities=2)
  Array([[2, 0],
         [1, 1]], dtype=int32)

  Reference:
    From Style to Facts (2503.05919); that exposures be matched per fact is
    ours.
  """
  checks.check_rank(1, entity=entity)
  checks.check_rank(2, stated=stated)
  chex.assert_type([entity, stated], [int, bool])
  checks.check_same_shape(entity=entity, rows=stated[:, 0])
  counts = jnp.zeros((num_entities, stated.shape[1]), jnp.int32)
  return counts.at[entity].add(stated.astype(jnp.int32))
