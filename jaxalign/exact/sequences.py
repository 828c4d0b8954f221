# SPDX-License-Identifier: Apache-2.0
"""Autoregressive laws over all sequences of T tokens out of V, as tables.

A table is an array `logits [num_prefixes(V, T), V]`: one row of next-token
logits for each prefix shorter than T, each row normalised by its reader. Rows
stand in the order of a V-ary heap: row 0 is the empty prefix, and the prefix of
row i followed by token x has row `V i + 1 + x`. T is known from the number of
rows. Logits of -inf are tokens of probability 0; a row needs one finite logit.

Sequences are enumerated in lexicographic order and lie on the *leading* axis,
N = V**T of them, so that what is computed for each of them (tokens `[N, T]`,
log-probabilities `[N, T]`, gradients `[N, rows, V]`) is averaged over that axis
by `expectation`. All is differentiable with respect to the table, which makes
an estimator's expected gradient a sum and not a simulation:

  E = expectation(stop_gradient(logits), vmap(grad(loss))(sequences))

A world in which token EOS ends a sequence is the same table with the mask
`until_eos`, which drops what follows the first EOS: the suffixes are summed out
exactly. And `enumerate_sequences(N, G)` lists all groups of G samples out of N.
"""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics

__all__ = (
  "MAX_SIZE",
  "conditional_log_probs",
  "enumerate_sequences",
  "expectation",
  "num_prefixes",
  "prefix_index",
  "random_table",
  "regularized_table",
  "sample_sequences",
  "sequence_log_probs",
  "token_log_probs",
  "until_eos",
)

# Sequences, or rows of a table, beyond which enumeration is the wrong tool.
MAX_SIZE = 2**20


def _check_world(vocab_size: int, length: int) -> None:
  for name, value in (("vocab_size", vocab_size), ("length", length)):
    if value < 1:
      raise ValueError(f"{name} must be at least 1, was {value}")


def _check_size(count: int, what: str) -> None:
  if count > MAX_SIZE:
    number = count if count < 10**15 else f"about 10^{math.log10(count):.0f}"
    raise ValueError(f"{number} {what}: the limit is {MAX_SIZE}")


def num_prefixes(vocab_size: int, length: int) -> int:
  """The number of rows of a table, one for each prefix.

  `sum_{t < T} V^t`.

  Args:
    vocab_size: V, at least 1.
    length: T, at least 1.

  Returns:
    The count, a Python integer.

  Raises:
    ValueError: V or T is below 1, or the count is above `MAX_SIZE`.

  >>> num_prefixes(3, 2)  # the empty prefix and three of one token
  4

  Reference:
    A geometric sum.
  """
  _check_world(vocab_size, length)
  count = sum(vocab_size**t for t in range(length))
  _check_size(count, f"prefixes of {vocab_size} tokens, length {length}")
  return count


def _length(logits: jax.Array) -> int:
  """T, from the number of rows; checks the table."""
  checks.check_rank(2, logits=logits)
  checks.check_float(logits=logits)
  rows, vocab_size = logits.shape
  count, length = 0, 0
  while count < rows:
    count, length = count * vocab_size + 1, length + 1
  if count != rows or rows == 0:
    raise ValueError(
      f"logits has {rows} rows: a table over {vocab_size} tokens has "
      f"num_prefixes({vocab_size}, T) of them"
    )
  return length


def random_table(key: jax.Array, vocab_size: int, length: int) -> jax.Array:
  """A table with independent standard normal logits.

  Args:
    key: a typed key.
    vocab_size: V, at least 1.
    length: T, at least 1.

  Returns:
    `[num_prefixes(V, T), V]`, of the default floating-point type. Multiply to
    make it more peaked.

  Raises:
    ValueError: V or T is below 1, or the table has too many rows.

  >>> random_table(jax.random.key(0), vocab_size=3, length=2).shape
  (4, 3)

  Reference:
    The chain rule `p(x) = prod_t p(x_t | x_<t)`: any table is a law, and any
    law has a table.
  """
  rows = num_prefixes(vocab_size, length)
  return jax.random.normal(key, (rows, vocab_size))


def enumerate_sequences(vocab_size: int, length: int) -> jax.Array:
  """All sequences of T tokens out of V, in lexicographic order.

  Args:
    vocab_size: V, at least 1.
    length: T, at least 1.

  Returns:
    int32 `[V**T, T]`.

  Raises:
    ValueError: V or T is below 1, or V**T is above `MAX_SIZE`; states both.

  >>> enumerate_sequences(2, 2)
  Array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=int32)

  Reference:
    Numbers 0 to V**T - 1 written to the base V.
  """
  _check_world(vocab_size, length)
  count = vocab_size**length
  _check_size(count, f"sequences of {vocab_size} tokens, length {length}")
  place = vocab_size ** np.arange(length)[::-1]
  digits = np.arange(count)[:, None] // place % vocab_size
  return jnp.asarray(digits, jnp.int32)


def prefix_index(tokens: jax.Array, vocab_size: int) -> jax.Array:
  """The rows of the table that sequences visit.

  `i_0 = 0`, `i_{t+1} = V i_t + 1 + x_t`.

  Args:
    tokens: integers `[..., T]` in `[0, V)`.
    vocab_size: V, at least 1.

  Returns:
    int32 `[..., T]`: the row of the prefix `x_<t`, for each t.

  Raises:
    ValueError: V or T is below 1, or the table has too many rows.

  >>> prefix_index(jnp.array([2, 0]), vocab_size=3)
  Array([0, 3], dtype=int32)

  Reference:
    Positions of children in a V-ary heap.
  """
  chex.assert_type(tokens, int)
  length = tokens.shape[-1]
  num_prefixes(vocab_size, length)
  # Unrolled, the recursion is i_t = sum_{s < t} (x_s + 1) V^(t-1-s).
  gap = np.arange(length) - np.arange(length)[:, None] - 1
  power = np.where(gap >= 0, vocab_size ** np.maximum(gap, 0), 0)
  return (tokens.astype(jnp.int32) + 1) @ jnp.asarray(power, jnp.int32)


def conditional_log_probs(logits: jax.Array, tokens: jax.Array) -> jax.Array:
  """The next-token distributions that sequences visit.

  `log p(. | x_<t)` for each t.

  Args:
    logits: `[num_prefixes(V, T), V]`, a table.
    tokens: integers `[..., S]` in `[0, V)`, with `S <= T`.

  Returns:
    `[..., S, V]`, nats.

  Raises:
    AssertionError: rank or type.
    ValueError: not a table, or more tokens than it has.

  >>> logits, tokens = jnp.zeros((3, 2)), jnp.array([0, 1])
  >>> print(jnp.exp(conditional_log_probs(logits, tokens)))
  [[0.5 0.5]
   [0.5 0.5]]

  Reference:
    The chain rule of probability.
  """
  length = _length(logits)
  if tokens.shape[-1] > length:
    raise ValueError(
      f"tokens {tokens.shape} are longer than the table's sequences, {length}"
    )
  rows = prefix_index(tokens, logits.shape[-1])
  return jax.nn.log_softmax(numerics.as_float(logits))[rows]


def token_log_probs(logits: jax.Array, tokens: jax.Array) -> jax.Array:
  """The log-probability of each token given those before it.

  `log p(x_t | x_<t)`.

  Args:
    logits: `[num_prefixes(V, T), V]`, a table.
    tokens: integers `[..., S]` in `[0, V)`, with `S <= T`.

  Returns:
    `[..., S]`, nats.

  Raises:
    AssertionError: rank or type.
    ValueError: not a table, or more tokens than it has.

  >>> logits = jnp.log(jnp.array([[.5, .5], [.25, .75], [1., 0.]]))
  >>> print(jnp.exp(token_log_probs(logits, jnp.array([0, 1]))))
  [0.5  0.75]

  Reference:
    The chain rule of probability.
  """
  log_probs = conditional_log_probs(logits, tokens)
  return jnp.take_along_axis(log_probs, tokens[..., None], -1)[..., 0]


def sequence_log_probs(logits: jax.Array, tokens: jax.Array) -> jax.Array:
  """The log-probability of whole sequences, or of prefixes.

  `log p(x) = sum_t log p(x_t | x_<t)`.

  Args:
    logits: `[num_prefixes(V, T), V]`, a table.
    tokens: integers `[..., S]` in `[0, V)`, with `S <= T`.

  Returns:
    `[...]`, nats; -inf where a token has probability 0.

  Raises:
    AssertionError: rank or type.
    ValueError: not a table, or more tokens than it has.

  >>> logits = jnp.log(jnp.array([[.5, .5], [.25, .75], [1., 0.]]))
  >>> print(jnp.exp(sequence_log_probs(logits, enumerate_sequences(2, 2))))
  [0.125 0.375 0.5   0.   ]

  Reference:
    The chain rule of probability.
  """
  return jnp.sum(token_log_probs(logits, tokens), -1)


def sample_sequences(
  key: jax.Array, logits: jax.Array, num_samples: int
) -> jax.Array:
  """Independent sequences, drawn token by token.

  `x_t ~ p(. | x_<t)`.

  Args:
    key: a typed key.
    logits: `[num_prefixes(V, T), V]`, a table.
    num_samples: how many.

  Returns:
    int32 `[num_samples, T]`.

  Raises:
    AssertionError: rank or type.
    ValueError: not a table.

  >>> logits = jnp.log(jnp.array([[0., 1.], [.5, .5], [1., 0.]]))
  >>> sample_sequences(jax.random.key(0), logits, 2)
  Array([[1, 0], [1, 0]], dtype=int32)

  Reference:
    Ancestral sampling.
  """
  keys = jax.random.split(key, _length(logits))

  def extend(row, key):
    token = jax.random.categorical(key, logits[row]).astype(jnp.int32)
    return logits.shape[-1] * row + 1 + token, token

  root = jnp.zeros(num_samples, jnp.int32)
  return jax.lax.scan(extend, root, keys)[1].T


def expectation(logits: jax.Array, values: jax.Array) -> jax.Array:
  """The exact expectation of what is known for every sequence.

  `sum_x p(x) f(x)`; where `p(x) = 0`, anything at all may stand in f.
  Differentiable in both: stop the gradient of `logits` for the expected
  gradient of a surrogate, whose samples do not move with the policy.

  Args:
    logits: `[num_prefixes(V, T), V]`, a table.
    values: `[V**T, ...]`, in the order of `enumerate_sequences`; bool for the
      probability of an event.

  Returns:
    `[...]`.

  Raises:
    AssertionError: rank or type.
    ValueError: not a table, `values` has another leading axis than V**T, or
      V**T is above `MAX_SIZE`.

  >>> ends_with_one = enumerate_sequences(2, 2)[:, -1] == 1
  >>> print(expectation(jnp.zeros((3, 2)), ends_with_one))
  0.5

  Reference:
    The definition.
  """
  tokens = enumerate_sequences(logits.shape[-1], _length(logits))
  values = numerics.as_float(values)
  if values.shape[:1] != tokens.shape[:1]:
    raise ValueError(
      f"values {values.shape} need one row for each of {len(tokens)} sequences"
    )
  probs = jnp.exp(sequence_log_probs(logits, tokens))
  probs = probs.reshape(-1, *(1,) * (values.ndim - 1))
  return jnp.sum(probs * jnp.where(probs > 0, values, 0), 0)


def until_eos(tokens: jax.Array, eos: int = 0) -> jax.Array:
  """The tokens up to the first EOS, which is kept.

  `m_t = 1[EOS not in x_<t]`.

  Args:
    tokens: integers `[..., T]`.
    eos: the token that ends a sequence.

  Returns:
    bool `[..., T]`; all true without an EOS.

  Raises:
    AssertionError: tokens are not integers.

  >>> print(until_eos(jnp.array([2, 0, 1])))
  [ True  True False]

  Reference:
    The usual mask of a completion.
  """
  chex.assert_type(tokens, int, custom_message="need integers: tokens")
  ended = jnp.cumsum(tokens == eos, -1) - (tokens == eos)
  return ended == 0


def regularized_table(
  ref_logits: jax.Array, rewards: jax.Array, beta: jax.typing.ArrayLike
) -> jax.Array:
  """The table of `argmax_pi E r - beta KL(pi || ref)`, by soft values.

  `pi(x) = ref(x) exp(r(x) / beta) / Z`, token by token: with the soft value
  `V(x) = r(x) / beta` of a whole sequence, and of a prefix
  `V(x_<t) = log sum_v ref(v | x_<t) exp V(x_<t v)`, logits are
  `log ref(v | x_<t) + V(x_<t v)`. The value of the empty prefix is `log Z`.

  Args:
    ref_logits: `[num_prefixes(V, T), V]`, a table.
    rewards: `[V**T]`, in the order of `enumerate_sequences`.
    beta: scalar above 0.

  Returns:
    `[num_prefixes(V, T), V]`: log-probabilities.

  Raises:
    AssertionError: rank or type.
    ValueError: not a table, or not one reward for each sequence.

  >>> table = regularized_table(jnp.zeros((1, 2)), jnp.array([0., 1.]), .5)
  >>> print(f"{jnp.exp(table)[0, 1]:.4f}")
  0.8808

  Reference:
    Levine, Reinforcement Learning and Control as Probabilistic Inference
    (1805.00909), section 2.
  """
  length, vocab_size = _length(ref_logits), ref_logits.shape[-1]
  log_ref = jax.nn.log_softmax(numerics.as_float(ref_logits))
  values = numerics.as_float(rewards) / beta
  if values.shape != (vocab_size**length,):
    raise ValueError(
      f"rewards {values.shape} need one entry for each of"
      f" {vocab_size**length} sequences"
    )
  levels, end = [], len(log_ref)
  for depth in reversed(range(length)):
    start = end - vocab_size**depth
    level = log_ref[start:end] + values.reshape(-1, vocab_size)
    values, end = jax.nn.logsumexp(level, -1), start
    levels.append(level - values[:, None])
  return jnp.concatenate(levels[::-1])
