# SPDX-License-Identifier: Apache-2.0
"""Preference pairs from a known reward, whose optimum is known exactly.

The answers are words of L letters. The reference draws letters independently;
the reward counts letters and pairs of neighbours,

  r(x) = sum_t u[x_t] + sum_{t > 1} b[x_{t-1}, x_t],

and of two different words the first is preferred with the probability of the
Bradley-Terry model, `sigmoid(r(x) - r(y))`. What maximises
`E r - beta KL(pi || ref)` is `pi = ref exp(r / beta) / Z`. With
`A(tau) = log sum ref exp(tau r)`, at `tau = 1 / beta`:

  log Z = A,   E_pi r = A',   KL(pi || ref) = tau A' - A,

and as r couples neighbours only, A is a product of L matrices. It is also small
enough to enumerate: `exact.enumerate_sequences(V, L)` are all words.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, divergences, exact, numerics
from jaxalign.data import preferences

__all__ = (
  "WordOptimum",
  "WordValues",
  "WordWorld",
  "word_log_probs",
  "word_optimum",
  "word_preferences",
  "word_rewards",
  "word_texts",
  "word_values",
  "word_world",
)

_PROMPT = "Word:"


class WordWorld(NamedTuple):
  """Words of L letters out of V, their reference and their reward.

  Attributes:
    letters: V different characters.
    length: L.
    log_probs: `[V]`, of a letter under the reference, nats.
    letter_rewards: `[V]`, u.
    bigram_rewards: `[V, V]`, b: first letter, then the one that follows.
  """

  letters: str
  length: int
  log_probs: jax.Array
  letter_rewards: jax.Array
  bigram_rewards: jax.Array


class WordOptimum(NamedTuple):
  """`pi = ref exp(r / beta) / Z`.

  Attributes:
    log_partition: `[]`, log Z.
    reward: `[]`, `E_pi r`.
    kl: `[]`, `KL(pi || ref)`, nats.
  """

  log_partition: jax.Array
  reward: jax.Array
  kl: jax.Array


class WordValues(NamedTuple):
  """What a policy is worth, given that it writes a word.

  Attributes:
    reward: `[...]`, expected.
    kl: `[...]`, to the reference, nats.
    log_mass: `[...]`, log-probability that it writes a word at all.
  """

  reward: jax.Array
  kl: jax.Array
  log_mass: jax.Array


def word_world(length: int = 4) -> WordWorld:
  """Words over abcd; each d earns 1/2, each b that follows an a earns 1.

  The reference draws them with probabilities .4, .3, .2, .1.

  Args:
    length: L, at least 1.

  Returns:
    `WordWorld`.

  Raises:
    ValueError: L is below 1.

  >>> world = word_world()
  >>> print(word_rewards(world, jnp.array([0, 1, 3, 3])))  # "abdd"
  2.0

  Reference:
    The project's own.
  """
  if length < 1:
    raise ValueError(f"length must be at least 1, was {length}")
  bigram_rewards = np.zeros((4, 4))
  bigram_rewards[0, 1] = 1
  return WordWorld(
    letters="abcd",
    length=length,
    log_probs=jnp.asarray(np.log([0.4, 0.3, 0.2, 0.1])),
    letter_rewards=jnp.array([0.0, 0.0, 0.0, 0.5]),
    bigram_rewards=jnp.asarray(bigram_rewards),
  )


def word_rewards(world: WordWorld, tokens: jax.Array) -> jax.Array:
  """The reward of words, `sum_t u[x_t] + sum_{t > 1} b[x_{t-1}, x_t]`.

  Args:
    world: V letters.
    tokens: integers `[..., L]` below V.

  Returns:
    `[...]`.

  >>> print(word_rewards(word_world(), jnp.array([[0, 1, 0, 1], [3, 0, 0, 0]])))
  [2.  0.5]

  Reference:
    The project's own; see the module.
  """
  letters = jnp.asarray(world.letter_rewards)[tokens]
  bigrams = jnp.asarray(world.bigram_rewards)
  pairs = bigrams[tokens[..., :-1], tokens[..., 1:]]
  return letters.sum(-1) + pairs.sum(-1)


def word_log_probs(world: WordWorld, tokens: jax.Array) -> jax.Array:
  """The reference's log-probability of words, `sum_t log p[x_t]`.

  Args:
    world: V letters.
    tokens: integers `[..., L]` below V.

  Returns:
    `[...]`, nats.

  >>> print(jnp.exp(word_log_probs(word_world(2), jnp.array([0, 1]))))
  0.12

  Reference:
    The project's own; see the module.
  """
  return jnp.asarray(world.log_probs)[tokens].sum(-1)


def word_optimum(world: WordWorld, beta: jax.typing.ArrayLike) -> WordOptimum:
  """Log-partition, expected reward and KL of the regularised optimum.

  Differentiable in the world's arrays and in beta.

  Args:
    world: V letters.
    beta: scalar above 0, the price of a nat; inf gives the reference itself.

  Returns:
    `WordOptimum` of scalars.

  Raises:
    AssertionError: beta is no scalar.
    ValueError: beta is not above 0.

  >>> optimum = word_optimum(word_world(), beta=.5)
  >>> print(f"{optimum.reward:.4f} {optimum.kl:.4f}")
  1.1754 0.6224

  Reference:
    Peters and Schaal (2007); Rafailov et al., Direct Preference Optimization
    (2305.18290), equation 4.
  """
  beta = numerics.as_float(beta)
  checks.check_rank(0, beta=beta)
  checks.check_positive(beta=beta)

  def log_partition(tau):
    letters = world.log_probs + tau * world.letter_rewards

    def extend(sums, _):
      moves = sums[:, None] + tau * world.bigram_rewards
      return jax.nn.logsumexp(moves, 0) + letters, None

    sums, _ = jax.lax.scan(extend, letters, length=world.length - 1)
    return jax.nn.logsumexp(sums)

  value, reward = jax.value_and_grad(log_partition)(1 / beta)
  return WordOptimum(value, reward, reward / beta - value)


def word_values(world: WordWorld, log_probs: jax.Array) -> WordValues:
  """Expected reward and KL to the reference of any policy.

  Args:
    world: V letters, L of them in a word.
    log_probs: `[..., V**L]`, of all words in the order of
      `exact.enumerate_sequences`. They need not sum to 1: what a policy writes
      else is left out, and its log-mass told.

  Returns:
    `WordValues` of `[...]`.

  Raises:
    ValueError: not one log-probability for each word.

  >>> world = word_world(2)
  >>> words = exact.enumerate_sequences(4, 2)
  >>> values = word_values(world, word_log_probs(world, words))
  >>> print(f"{values.reward:.2f} {values.kl:.2f}")  # 2 * .1 / 2 + .4 * .3
  0.22 0.00

  Reference:
    The definitions.
  """
  words = exact.enumerate_sequences(len(world.letters), world.length)
  log_probs = numerics.as_float(log_probs)
  if log_probs.shape[-1:] != words.shape[:1]:
    raise ValueError(
      f"log_probs {log_probs.shape} need one entry for each of"
      f" {len(words)} words"
    )
  log_policy = numerics.masked_log_softmax(log_probs)
  ref = jnp.broadcast_to(word_log_probs(world, words), log_probs.shape)
  return WordValues(
    reward=jnp.sum(jnp.exp(log_policy) * word_rewards(world, words), -1),
    kl=divergences.kl(log_policy, ref),
    log_mass=jax.nn.logsumexp(log_probs, -1),
  )


def word_texts(world: WordWorld, tokens: jax.Array) -> list[str]:
  """Words as text.

  Args:
    world: V letters.
    tokens: integers `[N, L]` below V.

  Returns:
    N strings.

  >>> word_texts(word_world(), jnp.array([[0, 1, 2, 3]]))
  ['abcd']

  Reference:
    The project's own; see the module.
  """
  letters = np.array(list(world.letters))
  return ["".join(word) for word in letters[np.asarray(tokens)].tolist()]


def _draw(key: jax.Array, world: WordWorld, num_pairs: int) -> jax.Array:
  """Two words each, `[num_pairs, 2, L]`, the preferred one first."""
  word_key, label_key = jax.random.split(key)
  shape = (num_pairs, 2, world.length)
  tokens = jax.random.categorical(word_key, world.log_probs, shape=shape)
  rewards = word_rewards(world, tokens)
  first = jax.random.bernoulli(
    label_key, jax.nn.sigmoid(rewards[:, 0] - rewards[:, 1])
  )
  return jnp.where(first[:, None, None], tokens, tokens[:, ::-1])


def word_preferences(
  key: jax.Array, world: WordWorld, num_pairs: int
) -> tuple[preferences.Preference, ...]:
  """Pairs of different words from the reference, with Bradley-Terry labels.

  Two equal words are drawn again: the difference of any two rewards can still
  be told from the labels, hence the optimum is what it was.

  Args:
    key: a typed key.
    world: at least two letters have a probability above 0.
    num_pairs: how many, at least 1.

  Returns:
    `num_pairs` records with one prompt.

  Raises:
    ValueError: an argument is out of its range.

  >>> word_preferences(jax.random.key(0), word_world(), 1)
  (Preference(prompt='Word:', chosen='...', rejected='...'),)

  Reference:
    Bradley and Terry (1952).
  """
  if num_pairs < 1:
    raise ValueError(f"num_pairs must be at least 1, was {num_pairs}")
  if np.isfinite(world.log_probs).sum() < 2:
    raise ValueError("world needs two letters of a probability above 0")
  draw = jax.jit(lambda key: _draw(key, world, num_pairs))
  records: list[preferences.Preference] = []
  draws = 0
  while len(records) < num_pairs:
    tokens = np.asarray(draw(jax.random.fold_in(key, draws)))
    tokens = tokens[(tokens[:, 0] != tokens[:, 1]).any(-1)]
    chosen, rejected = (word_texts(world, tokens[:, i]) for i in (0, 1))
    records += [
      preferences.Preference(_PROMPT, *answers)
      for answers in zip(chosen, rejected, strict=True)
    ]
    draws += 1
  return tuple(records[:num_pairs])
