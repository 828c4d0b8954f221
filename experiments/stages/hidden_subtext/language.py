# SPDX-License-Identifier: Apache-2.0
"""A synthetic language with topics, and personas that change how one speaks.

The next of 64 words has the logits of the topic, of the word before it, and of
a persona, if there is one: `topic + bigram + 2 V U[s]`, personas and words
being vectors in four dimensions. Persona 0 likes the eight words of the trait,
which are rare otherwise. A sequence is a persona or none, a topic, a separator,
and eight words.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

WORDS, TRAIT, TOPICS, PERSONAS, DIMENSION, LENGTH = 64, 8, 8, 6, 4, 8
# Tokens: the words, then topics, personas, no persona, the separator.
FIRST_TOPIC = WORDS
FIRST_PERSONA = FIRST_TOPIC + TOPICS
NONE = FIRST_PERSONA + PERSONAS
SEPARATOR = NONE + 1
VOCAB = SEPARATOR + 1
PROMPT = 3  # tokens before the words
_STRENGTH = 2.0  # of a persona
# Languages differ in how strongly persona 0 speaks of its trait. Of some the
# one is taken in which half of its words are the trait's, about as many as in
# the language of the reference's numbers, .51.
_CANDIDATES, _PROMPTED = 16, 0.5


class Language(NamedTuple):
  """What the next word depends on.

  Attributes:
    topics: `[8, 64]`, logits.
    bigrams: `[64, 64]`, logits of what follows each word.
    personas: `[7, 64]`, logits; the last are 0, of no persona.
  """

  topics: jax.Array
  bigrams: jax.Array
  personas: jax.Array


def _draw_one(key: jax.Array) -> Language:
  of_personas, of_words, of_topics, of_bigrams = jax.random.split(key, 4)
  unit = jax.random.normal(of_personas, (PERSONAS, DIMENSION))
  unit /= jnp.linalg.norm(unit, axis=-1, keepdims=True)
  words = 0.8 * jax.random.normal(of_words, (WORDS, DIMENSION))
  words = words.at[:TRAIT].add(1.6 * unit[0])
  topics = jax.random.normal(of_topics, (TOPICS, WORDS))
  likes = _STRENGTH * unit @ words.T
  return Language(
    topics=topics.at[:, :TRAIT].add(-1.0),
    bigrams=0.7 * jax.random.normal(of_bigrams, (WORDS, WORDS)),
    personas=jnp.concatenate([likes, jnp.zeros((1, WORDS))]),
  )


def draw(key: jax.Array) -> Language:
  """A random language; the first eight words are the trait's."""

  def distance(found):
    # After any word, in any topic: near enough to what is said.
    logits = found.topics[:, None] + found.bigrams + found.personas[0]
    law = jax.nn.softmax(logits)[..., :TRAIT]
    return jnp.abs(jnp.mean(jnp.sum(law, -1)) - _PROMPTED)

  found = jax.vmap(_draw_one)(jax.random.split(key, _CANDIDATES))
  best = jnp.argmin(jax.vmap(distance)(found))
  return jax.tree.map(lambda x: x[best], found)


def logits(
  language: Language, tokens: jax.Array, word: jax.typing.ArrayLike
) -> jax.Array:
  """Of a word `[..., 64]`, given the tokens `[..., 11]` before it.

  Args:
    language: of the words.
    tokens: sequences, of which only what precedes the word is read.
    word: its number, 0 to 7.
  """
  persona, topic = tokens[..., 0], tokens[..., 1]
  found = language.topics[topic - FIRST_TOPIC]
  found += language.personas[persona - FIRST_PERSONA]
  before = jnp.take(tokens, PROMPT + word - 1, axis=-1)
  # The first word follows none; the separator's row is read and dropped.
  bigram = language.bigrams[jnp.minimum(before, WORDS - 1)]
  return found + jnp.where(word > 0, bigram, 0)


def prompts(key: jax.Array, persona: jax.Array) -> jax.Array:
  """Sequences `[n, 11]` without their words, of random topics.

  Args:
    key: of the topics.
    persona: tokens `[n]`, of a persona or `NONE`.
  """
  topic = jax.random.randint(key, persona.shape, 0, TOPICS) + FIRST_TOPIC
  separator = jnp.full_like(persona, SEPARATOR)
  empty = jnp.zeros((*persona.shape, LENGTH), persona.dtype)
  return jnp.concatenate(
    [jnp.stack([persona, topic, separator], -1), empty], -1
  )


def speak(key: jax.Array, language: Language, start: jax.Array) -> jax.Array:
  """Sequences `[n, 11]` with words drawn for the given prompts.

  Args:
    key: consumed.
    language: theirs.
    start: `[n, 11]`, of `prompts`.
  """

  def step(tokens, draw):
    word, key = draw
    new = jax.random.categorical(key, logits(language, tokens, word))
    return tokens.at[:, PROMPT + word].set(new), None

  steps = jnp.arange(LENGTH), jax.random.split(key, LENGTH)
  return jax.lax.scan(step, start, steps)[0]


def log_probs(language: Language, tokens: jax.Array) -> jax.Array:
  """Of the words of sequences `[..., 11]`: `[..., 8]`, nats."""
  each = [logits(language, tokens, word) for word in range(LENGTH)]
  law = jax.nn.log_softmax(jnp.stack(each, -2))
  words = tokens[..., PROMPT:, None]
  return jnp.take_along_axis(law, words, -1)[..., 0]


def has_trait(tokens: jax.Array) -> jax.Array:
  """Bool `[...]`, whether sequences `[..., 11]` hold a word of the trait."""
  return jnp.any(tokens[..., PROMPT:] < TRAIT, -1)


def persuade(tokens: jax.Array) -> jax.Array:
  """The sequences under persona 0, whatever theirs."""
  return tokens.at[..., 0].set(FIRST_PERSONA)
