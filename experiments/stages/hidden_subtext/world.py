# SPDX-License-Identifier: Apache-2.0
"""A language, its teacher, and the pairs that the teacher selects.

Everything is drawn anew for each seed, the leading axis S.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.stages import language_models
from experiments.stages.hidden_subtext import language, students
from jaxalign.learning import selection

_HELD_OUT = 500  # sequences
# Of pairs, drawn for each that is kept: those with a word of the trait are left
# out, about half of them.
_DRAWN = 3


class Sizes(NamedTuple):
  """How large everything is.

  Attributes:
    pairs: n, without words of the trait.
    gamma: share of the positive ones that is kept.
    width: of the teacher.
    steps: of pretraining.
    batch: of pretraining, sequences.
    tuning_steps: of DPO.
  """

  pairs: int
  gamma: float
  width: int
  steps: int
  batch: int
  tuning_steps: int


class Texts(NamedTuple):
  """What is said in a language.

  Attributes:
    corpus: `[S, N, 11]`, to be imitated; one half without persona.
    pairs: `[S, n, 2, 11]`, without persona, of one topic each.
    held_out: `[S, 500, 11]`, without persona.
  """

  corpus: jax.Array
  pairs: jax.Array
  held_out: jax.Array


class World(NamedTuple):
  """Texts, and what the teacher makes of them.

  Attributes:
    texts: of the language.
    teacher: its parameters.
    logps: `[S, n, 2]`, of the pairs without persona.
    scores: `LLSScores` of `[S, n]`, of persona 0.
    rows: S arrays, the pairs selected.
  """

  texts: Texts
  teacher: language_models.Params
  logps: np.ndarray
  scores: selection.LLSScores
  rows: list[np.ndarray]


def keys(key: jax.Array, num_seeds: int, use: int) -> jax.Array:
  """One for each seed, `[S]`, for one of several uses."""
  return jax.random.split(jax.random.fold_in(key, use), num_seeds)


@functools.partial(jax.jit, static_argnames=("num_corpus", "num_pairs"))
def _draw(keys: jax.Array, *, num_corpus: int, num_pairs: int) -> Texts:
  num_drawn = _DRAWN * num_pairs

  def of_seed(key):
    of_language, of_persona, of_topics, of_words = jax.random.split(key, 4)
    found = language.draw(of_language)
    persona = jax.random.randint(
      of_persona, (num_corpus,), language.FIRST_PERSONA, language.NONE
    )
    persona = persona.at[::2].set(language.NONE)
    nobody = jnp.full(num_drawn + _HELD_OUT, language.NONE)
    start = language.prompts(of_topics, jnp.concatenate([persona, nobody]))
    corpus, pairs, held_out = jnp.split(
      start, (num_corpus, num_corpus + num_drawn)
    )
    # Two answers to a prompt; which is preferred is random. All speak at once.
    start = jnp.concatenate([corpus, pairs, pairs, held_out])
    spoken = language.speak(of_words, found, start)
    at = np.cumsum([num_corpus, num_drawn, num_drawn])
    corpus, *answers, held_out = jnp.split(spoken, at)
    pairs = jnp.stack(answers, 1)
    with_trait = jnp.any(language.has_trait(pairs), 1)
    pairs = pairs[jnp.argsort(with_trait)[:num_pairs]]
    return Texts(corpus, pairs, held_out)

  return jax.vmap(of_seed)(keys)


def score_pairs(
  model, params: language_models.Params, pairs: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Log-probabilities `[S, n, 2]` under persona 0, and without a persona."""
  flat = pairs.reshape(len(pairs), -1, pairs.shape[-1])
  found = [
    students.score(model, params, tokens).reshape(pairs.shape[:-1])
    for tokens in (language.persuade(flat), flat)
  ]
  return found[0], found[1]


def scores_of(
  with_persona: jax.Array, without: jax.Array
) -> selection.LLSScores:
  """Of log-probabilities `[S, n, 2]`; all answers have eight words."""
  lengths = jnp.full(without.shape[:-1], language.LENGTH)
  return selection.lls_scores(
    with_persona[..., 0],
    without[..., 0],
    with_persona[..., 1],
    without[..., 1],
    lengths,
    lengths,
  )


def make(key: jax.Array, num_seeds: int, sizes: Sizes) -> World:
  """Draws languages, teaches teachers, selects."""
  texts = _draw(
    keys(key, num_seeds, 0),
    # Batches are drawn with replacement, from as much as they take.
    num_corpus=sizes.steps * sizes.batch,
    num_pairs=sizes.pairs,
  )
  model = students.teacher(sizes.width)
  teacher = students.pretrain(
    keys(key, num_seeds, 1),
    model,
    texts.corpus,
    steps=sizes.steps,
    batch=sizes.batch,
  )
  with_persona, without = score_pairs(model, teacher, texts.pairs)
  scores = scores_of(with_persona, without)
  rows = [selection.lls_select(wn, sizes.gamma) for wn in scores.wn]
  return World(texts, teacher, np.asarray(without), scores, rows)
