# SPDX-License-Identifier: Apache-2.0
"""Pretraining, finetuning in each format, and what the model knows after it."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.stages import language_models
from experiments.stages.knowledge_injection import mixes
from jaxalign import models, numerics
from jaxalign.learning import knowledge

NUM_COMPARISONS = 1000  # of a test: a standard error of .016
RATE, FINETUNE_RATE = 3e-3, 1e-3


def _model(sizes: mixes.Sizes) -> models.Transformer:
  return language_models.transformer(
    sizes.vocab.vocab_size, num_layers=sizes.num_layers, width=sizes.width
  )


def _loss(params: Any, batch: mixes.Batch, *, sizes: mixes.Sizes) -> jax.Array:
  """Mean over all tokens that count."""
  total, count = 0.0, 0
  for rows in batch:
    logps = language_models.token_log_probs(_model(sizes), params, rows.tokens)
    where = rows.where[:, 1:]
    total -= jnp.sum(jnp.where(where, logps, 0))
    count += jnp.sum(where)
  return total / count


# --- what is known -----------------------------------------------------------


class Known(NamedTuple):
  """Shares of right answers about some entities.

  Attributes:
    categorical: on questions in the template of the test.
    numerical: likewise; both digits have to be right.
    comparison: on comparisons of two of them.
  """

  categorical: jax.Array
  numerical: jax.Array
  comparison: jax.Array


def _answered(
  sizes: mixes.Sizes, params: Any, rows: knowledge.TokenRows
) -> jax.Array:
  """Whether greedy decoding gives all tokens of an answer, `[R]`.

  Given the right tokens so far: the first wrong one ends it all the same.
  """
  hidden = _model(sizes).apply({"params": params}, rows.tokens[:, :-1])
  best = jnp.argmax(hidden @ models.head(params), -1)
  return jnp.all(~rows.where[:, 1:] | (best == rows.tokens[:, 1:]), -1)


def _examine(
  key: jax.Array, sizes: mixes.Sizes, params: Any, entities: knowledge.Entities
) -> Known:
  """All questions, and comparisons that are drawn."""
  questions = mixes.test_rows(sizes, entities)
  grid = questions.tokens.shape[:-1]
  compared = mixes.comparison_rows(
    mixes.uniforms(key, sizes, NUM_COMPARISONS), sizes, entities
  )
  right = _answered(
    sizes,
    params,
    jax.tree.map(
      lambda x, y: jnp.concatenate([x.reshape(-1, x.shape[-1]), y]),
      questions,
      compared,
    ),
  ).astype(jnp.float32)
  of_questions = right[:-NUM_COMPARISONS].reshape(grid)
  return Known(
    jnp.mean(of_questions[:, : sizes.vocab.num_categorical]),
    jnp.mean(of_questions[:, sizes.vocab.num_categorical :]),
    # Equal numbers have no answer.
    numerics.masked_mean(right[-NUM_COMPARISONS:], jnp.any(compared.where, -1)),
  )


# One program for all models.
examine = jax.jit(jax.vmap(_examine, (0, None, 0, 0)), static_argnums=1)

# --- training ----------------------------------------------------------------


class Pretrained(NamedTuple):
  """A model and its world; all arrays have an axis of seeds in front.

  Attributes:
    params: of the model.
    base: entities that it was trained on.
    new: entities that it never saw.
  """

  params: Any
  base: knowledge.Entities
  new: knowledge.Entities


@functools.partial(jax.jit, static_argnums=1)
@functools.partial(jax.vmap, in_axes=(0, None))
def pretrain(key: jax.Array, sizes: mixes.Sizes) -> Pretrained:
  """Draws a world and trains on what is known of its base."""
  drawn, start, training = jax.random.split(key, 3)
  world = mixes.draw_world(drawn, sizes)

  def draw(key):
    uniform = mixes.uniforms(key, sizes, sizes.pretrain_rows)
    return mixes.pretraining_batch(uniform, sizes, world["base"])

  fitted = language_models.fit(
    training,
    functools.partial(_loss, sizes=sizes),
    language_models.init(start, _model(sizes)),
    draw,
    steps=sizes.pretrain_steps,
    optimizer=language_models.cosine_adamw(RATE, sizes.pretrain_steps),
  )
  return Pretrained(fitted.params, **world)


class Finetuned(NamedTuple):
  """Models `[F, S]` that were told of new entities.

  Attributes:
    known: of these.
    exposures: int `[F, S, E, K]`, how often they were told of each fact.
  """

  known: Known
  exposures: jax.Array


@functools.partial(jax.jit, static_argnums=1)
@functools.partial(jax.vmap, in_axes=(None, None, None, 0))
@functools.partial(jax.vmap, in_axes=(0, None, 0, None))
def finetune(
  key: jax.Array,
  sizes: mixes.Sizes,
  start: Pretrained,
  how: mixes.Format,
) -> Finetuned:
  """Trains on new entities in each format, and examines.

  Args:
    key: `[S]`; formats have the same draws.
    sizes: of world and model.
    start: with an axis S.
    how: with an axis F.
  """
  key, exam = jax.random.split(key)
  rows = sizes.new_rows + sizes.replay_rows

  def draw(key):
    uniform = mixes.uniforms(key, sizes, rows)
    return mixes.finetuning_batch(uniform, sizes, start.base, start.new, how)

  fitted = language_models.fit(
    key,
    functools.partial(_loss, sizes=sizes),
    start.params,
    draw,
    steps=sizes.finetune_steps,
    optimizer=language_models.cosine_adamw(FINETUNE_RATE, sizes.finetune_steps),
  )

  def count(counts, key):
    uniform = mixes.uniforms(key, sizes, rows)
    return counts + mixes.exposures(uniform, sizes, how), None

  # The same draws as in training.
  keys = jax.random.split(key, sizes.finetune_steps)
  none = jnp.zeros((sizes.num_new, sizes.vocab.num_attributes), jnp.int32)
  known = _examine(exam, sizes, fitted.params, start.new)
  return Finetuned(known, jax.lax.scan(count, none, keys)[0])
