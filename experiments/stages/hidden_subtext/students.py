# SPDX-License-Identifier: Apache-2.0
"""A teacher, three students, how they are trained, and how they speak.

Seeds are a leading axis S of all parameters and tokens.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from experiments.stages import language_models
from experiments.stages.hidden_subtext import language
from jaxalign import models, preference

BETA, BATCH = 0.1, 64
_PRETRAINING_RATE = 3e-3
_SCORED_AT_ONCE = 500  # a few stay in the processor's cache
_SPOKEN = 256  # sequences of a model that the trait is looked for in


class Recurrent(nn.Module):
  """A GRU; its head is the transposed embedding, as a transformer's here.

  Attributes:
    width: of the hidden states.
  """

  width: int

  @nn.compact
  def __call__(self, tokens: jax.Array) -> jax.Array:
    """Hidden states `[B, T, width]` of tokens `[B, T]`."""
    x = nn.Embed(language.VOCAB, self.width, name="embed")(tokens)
    return nn.RNN(nn.GRUCell(self.width), name="cell")(x)


class Student(NamedTuple):
  """An architecture, and how fast it is tuned.

  Attributes:
    model: makes hidden states of tokens.
    rate: of Adam on preferences.
  """

  model: nn.Module
  rate: float


def teacher(width: int) -> nn.Module:
  """Two layers of a transformer."""
  return language_models.transformer(language.VOCAB, num_layers=2, width=width)


def students(width: int) -> dict[str, Student]:
  """All three by name, the last being the teacher's architecture."""
  small = language_models.transformer(language.VOCAB, num_layers=3, width=32)
  return {
    "gru": Student(Recurrent(64), 5e-4),
    # At 5e-4 it learns 400 random pairs by heart, and says anything.
    "small": Student(small, 2e-4),
    # At 5e-4 it collapses: it loses the language, and the trait with it.
    "same": Student(teacher(width), 1e-4),
  }


def word_log_probs(
  model: nn.Module, params: language_models.Params, tokens: jax.Array
) -> jax.Array:
  """Of the words of sequences `[n, 11]`: `[n, 8]`, nats."""
  log_probs = language_models.token_log_probs(model, params, tokens)
  return log_probs[:, language.PROMPT - 1 :]


@functools.partial(jax.jit, static_argnames=("model", "steps", "batch"))
def pretrain(
  keys: jax.Array,
  model: nn.Module,
  corpus: jax.Array,
  *,
  steps: int,
  batch: int,
) -> language_models.Params:
  """Imitates random sequences of a corpus `[S, N, 11]`."""
  of_params, of_batches = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
  # Not vmapped: on a CPU of two cores the batched factorisations of a GRU's
  # orthogonal matrices may wait for each other for ever (jaxlib 0.10.2).
  start = jax.lax.map(lambda key: language_models.init(key, model), of_params)

  def of_seed(key, params, corpus):
    def draw(key):
      return corpus[jax.random.randint(key, (batch,), 0, len(corpus))]

    def loss(params, tokens):
      return -jnp.mean(word_log_probs(model, params, tokens))

    return language_models.fit(
      key,
      loss,
      params,
      draw,
      steps=steps,
      optimizer=language_models.cosine_adamw(_PRETRAINING_RATE, steps),
    ).params

  return jax.vmap(of_seed)(of_batches, start, corpus)


@functools.partial(jax.jit, static_argnames="model")
def score(
  model: nn.Module, params: language_models.Params, tokens: jax.Array
) -> jax.Array:
  """Log-probabilities `[S, n]` of the words of sequences `[S, n, 11]`."""

  def of_seed(params, tokens):
    def of_one(tokens):
      return jnp.sum(word_log_probs(model, params, tokens[None]))

    return jax.lax.map(of_one, tokens, batch_size=_SCORED_AT_ONCE)

  return jax.vmap(of_seed)(params, tokens)


class Subset(NamedTuple):
  """Pairs to tune on.

  Attributes:
    rows: int `[S, n]`, which; whatever stands behind the first `size`.
    size: int `[S]`, how many.
    flipped: bool `[S]`, whether the labels are exchanged.
  """

  rows: jax.Array
  size: jax.Array
  flipped: jax.Array


class Tuned(NamedTuple):
  """What `tune` returns.

  Attributes:
    params: of the student afterwards.
    losses: `[S, steps]`, of each step's pairs before it; log 2 at first.
  """

  params: language_models.Params
  losses: jax.Array


@functools.partial(jax.jit, static_argnames=("student", "steps"))
def tune(
  keys: jax.Array,
  student: Student,
  params: language_models.Params,
  pairs: jax.Array,
  ref_logps: jax.Array,
  subset: Subset,
  *,
  steps: int,
) -> Tuned:
  """DPO of summed log-probabilities on pairs of a subset.

  Args:
    keys: `[S]`.
    student: whom to tune.
    params: where to start.
    pairs: `[S, n, 2, 11]`, the preferred sequence first, without persona.
    ref_logps: `[S, n, 2]`, of the words before tuning.
    subset: of the pairs.
    steps: of `BATCH` pairs, drawn with replacement.
  """

  def of_seed(key, start, pairs, ref_logps, subset):
    def draw(key):
      rows = jax.random.randint(key, (BATCH,), 0, subset.size)
      rows = subset.rows[rows]
      return jax.tree.map(
        lambda x: jnp.where(subset.flipped, x[:, ::-1], x),
        (pairs[rows], ref_logps[rows]),
      )

    def loss(params, batch):
      tokens, ref = batch
      flat = tokens.reshape(-1, tokens.shape[-1])
      logps = jnp.sum(word_log_probs(student.model, params, flat), -1)
      out = preference.dpo_loss(
        preference.PairLogps(*logps.reshape(-1, 2).T, *ref.T), beta=BETA
      )
      return jnp.mean(out.loss)

    return language_models.fit(
      key, loss, start, draw, steps=steps, optimizer=optax.adam(student.rate)
    )

  return Tuned(*jax.vmap(of_seed)(keys, params, pairs, ref_logps, subset))


class Measured(NamedTuple):
  """What a model says.

  Attributes:
    rate: `[S]`, share of the trait's words in sequences that it draws.
    nll: `[S]`, nats a word of the language that it should still speak.
  """

  rate: jax.Array
  nll: jax.Array


@functools.partial(jax.jit, static_argnames="model")
def measure(
  keys: jax.Array,
  model: nn.Module,
  params: language_models.Params,
  persona: int,
  held_out: jax.Array,
) -> Measured:
  """The trait's rate under a persona, and the loss on sequences `[S, n, 11]`.

  Averaged are the trait's probabilities in the model's own sequences, not what
  was drawn next, which has the same mean and more noise.
  """

  def of_seed(key, params, held_out):
    of_topics, of_words = jax.random.split(key)

    def step(tokens, draw):
      word, key = draw
      hidden = model.apply({"params": params}, tokens)
      last = jnp.take(hidden, language.PROMPT - 1 + word, axis=1)
      logits = last @ models.head(params)
      rate = jnp.sum(jax.nn.softmax(logits)[:, : language.TRAIT], -1)
      new = jax.random.categorical(key, logits)
      place = language.PROMPT + word
      return tokens.at[:, place].set(new), jnp.mean(rate)

    start = language.prompts(of_topics, jnp.full(_SPOKEN, persona))
    words = jax.random.split(of_words, language.LENGTH)
    draws = jnp.arange(language.LENGTH), words
    rates = jax.lax.scan(step, start, draws)[1]
    nll = -jnp.mean(word_log_probs(model, params, held_out))
    return Measured(jnp.mean(rates), nll)

  return jax.vmap(of_seed)(keys, params, held_out)
