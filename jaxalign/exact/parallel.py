# SPDX-License-Identifier: Apache-2.0
"""What it costs to reveal tokens at once, exactly.

A plain sampler with a fixed schedule reveals positions in rounds, an ordered
partition that does not depend on the string; the tokens of a round are drawn
independently given those of earlier rounds, of which a predictor of limited
fan-in sees only some. Its law is a product of one factor for each position,
picked from the array `[..., 2**L, L]` of `exact.masked`.

A law over sequences is an array `log_joint [..., V**L]` in the order of
`enumerate_sequences`.
"""

import itertools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics
from jaxalign.exact import masked

__all__ = (
  "fixed_schedule_log_prob",
  "ordered_partitions",
  "parallel_costs",
  "perfect_log_probs",
  "seen_before",
  "subset_marginals",
  "total_correlation",
)

Rounds = Sequence[Sequence[int]]


def ordered_partitions(length: int) -> Iterator[tuple[tuple[int, ...], ...]]:
  """All ways to reveal positions in rounds.

  Args:
    length: L, at least 0.

  Returns:
    An iterator of ordered partitions: tuples of rounds, which are tuples of
    positions.

  >>> list(ordered_partitions(2))
  [((0,), (1,)), ((1,), (0,)), ((0, 1),)]

  Reference:
    Ordered set partitions; the Fubini numbers count them: 1, 3, 13, 75, 541.
  """

  def of(left: tuple[int, ...]):
    if not left:
      yield ()
    for size in range(1, len(left) + 1):
      for first in itertools.combinations(left, size):
        rest = tuple(i for i in left if i not in first)
        for later in of(rest):
          yield (first, *later)

  return of(tuple(range(length)))


def _check_rounds(rounds: Rounds, length: int) -> None:
  if sorted(i for now in rounds for i in now) != list(range(length)):
    raise ValueError(
      f"rounds must reveal each of {length} positions once, was {rounds}"
    )


def seen_before(rounds: Rounds) -> np.ndarray:
  """What a predictor of unlimited fan-in sees: all earlier rounds.

  Args:
    rounds: an ordered partition of the positions.

  Returns:
    bool `[L, L]`: whether the predictor of position l sees position i.

  Raises:
    ValueError: not a partition.

  >>> seen_before([(0, 2), (1,)]).astype(int).tolist()
  [[0, 0, 0], [1, 0, 1], [0, 0, 0]]

  Reference:
    The definition.
  """
  length = sum(len(now) for now in rounds)
  _check_rounds(rounds, length)
  when = np.zeros(length, int)
  for number, now in enumerate(rounds):
    when[list(now)] = number
  return when[:, None] > when


def fixed_schedule_log_prob(
  log_probs: jax.Array, seen: np.ndarray
) -> jax.Array:
  """The likelihood of revealing positions by schedules fixed in advance.

  `sum_l log p(x_l | x_{seen l})`.

  Args:
    log_probs: `[..., 2**L, L]`, from `subset_log_probs` or `perfect_log_probs`.
    seen: bool `[*S, L, L]`, for each schedule which positions the predictor of
      l sees: earlier ones, as in `seen_before`.

  Returns:
    `[..., *S]`, nats.

  Raises:
    ValueError: not of these shapes, or positions see each other.

  >>> log_probs = jnp.log(jnp.array([[.5, .5], [1., .9], [.9, 1.], [1., 1.]]))
  >>> seen = np.stack([np.zeros((2, 2), bool), seen_before([(0,), (1,)])])
  >>> print(jnp.exp(fixed_schedule_log_prob(log_probs, seen)).round(4))
  [0.25 0.45]

  Reference:
    The chain rule, with independence within a round.
  """
  checks.check_float(log_probs=log_probs)
  seen = np.asarray(seen, bool)
  length = seen.shape[-1]
  if log_probs.shape[-2:] != (2**length, length) or seen.shape[-2] != length:
    raise ValueError(
      "log_probs must be [..., 2**L, L] and seen [..., L, L], were"
      f" {log_probs.shape} and {seen.shape}"
    )
  # Without a cycle there are no walks of L steps.
  if np.any(np.linalg.matrix_power(seen.astype(int), length)):
    raise ValueError("positions must not see each other, in a ring of seen")
  rows = seen @ (1 << np.arange(length))
  terms = numerics.as_float(log_probs)[..., rows, np.arange(length)]
  return jnp.sum(terms, -1)


# --- perfect conditionals ----------------------------------------------------


def _length(log_joint: jax.Array, vocab_size: int) -> int:
  """L, from the number of sequences; checks it."""
  checks.check_float(log_joint=log_joint)
  size, length = log_joint.shape[-1], 0
  while vocab_size > 1 and vocab_size**length < size:
    length += 1
  if length < 1 or vocab_size**length != size:
    raise ValueError(
      f"log_joint must be [..., V**L] for V = {vocab_size}, at least 2, was"
      f" {log_joint.shape}"
    )
  return length


def subset_marginals(log_joint: jax.Array, *, vocab_size: int) -> jax.Array:
  """The probability of every part of every sequence.

  `log p(x_S)`.

  Args:
    log_joint: `[..., V**L]`, log-probabilities.
    vocab_size: V, at least 2.

  Returns:
    `[..., V**L, 2**L]`, nats: sets by the bits of their number.

  Raises:
    ValueError: not a law over sequences of V tokens.

  >>> log_joint = jnp.log(jnp.array([.5, .25, .25, 0.]))
  >>> marginals = jnp.exp(subset_marginals(log_joint, vocab_size=2))
  >>> print(marginals[1].round(4))
  [1.   0.75 0.25 0.25]

  Reference:
    Sums of probabilities.
  """
  length = _length(log_joint, vocab_size)
  batch, size = log_joint.shape[:-1], log_joint.shape[-1]
  cube = (*batch, *(vocab_size,) * length)
  parts = numerics.as_float(log_joint)[..., None]
  # One position after the other: each set, without it and with it.
  for place in range(length):
    parts = parts.reshape(*cube, 1, 2**place)
    axis = len(batch) + place
    without = numerics.masked_logsumexp(parts, jnp.ones((), bool), axis)
    without = jnp.broadcast_to(jnp.expand_dims(without, axis), parts.shape)
    parts = jnp.concatenate([without, parts], -2)
  return parts.reshape(*batch, size, 2**length)


def perfect_log_probs(log_joint: jax.Array, *, vocab_size: int) -> jax.Array:
  """What a perfect denoiser of a law predicts, of all sequences.

  `log p(x_l | x_S)`; uniform where `p(x_S) = 0`, where a sampler may come that
  reveals several tokens at once.

  Args:
    log_joint: `[..., V**L]`, log-probabilities.
    vocab_size: V, at least 2.

  Returns:
    `[..., V**L, 2**L, L]`, nats, as `subset_log_probs` gives it; 0 where l is
    in S.

  Raises:
    ValueError: not a law over sequences of V tokens.

  >>> log_joint = jnp.log(jnp.array([.5, .25, .25, 0.]))
  >>> probs = jnp.exp(perfect_log_probs(log_joint, vocab_size=2))
  >>> print(probs[2].round(4))
  [[0.25 0.75 ]
   [1. 1. ]
   [0.3333 1. ]
   [1. 1. ]]

  Reference:
    The definition of a conditional probability.
  """
  length = _length(log_joint, vocab_size)
  marginals = subset_marginals(log_joint, vocab_size=vocab_size)
  visible = masked.visible_sets(length)
  numbers = np.arange(2**length)[:, None]
  with_l = marginals[..., numbers | 1 << np.arange(length)]
  possible = marginals[..., None] > -jnp.inf
  without = jnp.where(possible, marginals[..., None], 0)
  unread = jnp.where(visible, 0.0, -np.log(vocab_size)).astype(with_l.dtype)
  return jnp.where(possible & ~visible, with_l - without, unread)


def _entropies(log_joint: jax.Array, vocab_size: int) -> jax.Array:
  """`H(x_S)` `[..., 2**L]`, nats."""
  marginals = subset_marginals(log_joint, vocab_size=vocab_size)
  log_joint = numerics.as_float(log_joint)[..., None]
  possible = log_joint > -jnp.inf
  weighted = jnp.exp(log_joint) * jnp.where(possible, marginals, 0)
  return -jnp.sum(jnp.where(possible, weighted, 0), -2)


def parallel_costs(
  log_joint: jax.Array, rounds: Rounds, *, vocab_size: int
) -> jax.Array:
  """What each round of a schedule costs a sampler with perfect conditionals.

  `E[TC(x_now | x_past)] = sum_{l in now} H(x_l | x_past) - H(x_now | x_past)`,
  total correlations; their sum is `KL(p || sampler)`, which no other predictors
  make smaller.

  Args:
    log_joint: `[..., V**L]`, log-probabilities.
    rounds: an ordered partition of the positions.
    vocab_size: V, at least 2.

  Returns:
    `[..., R]`, nats, at least 0.

  Raises:
    ValueError: not a law over sequences of V tokens, or not a partition.

  >>> same = jnp.log(jnp.array([.5, 0., 0., .5]))
  >>> print(parallel_costs(same, [(0,), (1,)], vocab_size=2))
  [0. 0.]

  Reference:
    Watanabe, Information theoretical analysis of multivariate correlation
    (1960), and the chain rule of KL.
  """
  _check_rounds(rounds, _length(log_joint, vocab_size))
  entropies = _entropies(log_joint, vocab_size)
  past, costs = 0, []
  for now in rounds:
    alone = sum(entropies[..., past | 1 << i] for i in now)
    after = past | sum(1 << i for i in now)
    spent = (len(now) - 1) * entropies[..., past]
    costs.append(alone - spent - entropies[..., after])
    past = after
  return jnp.stack(costs, -1)


def total_correlation(log_joint: jax.Array, *, vocab_size: int) -> jax.Array:
  """How far tokens are from independent.

  `TC = sum_l H(x_l) - H(x) = KL(p || prod_l p_l)`: the cost of one round.

  Args:
    log_joint: `[..., V**L]`, log-probabilities.
    vocab_size: V, at least 2.

  Returns:
    `[...]`, nats, at least 0.

  Raises:
    ValueError: not a law over sequences of V tokens.

  >>> same = jnp.log(jnp.array([.5, 0., 0., .5]))
  >>> print(f"{total_correlation(same, vocab_size=2):.4f}")
  0.6931

  Reference:
    Watanabe, Information theoretical analysis of multivariate correlation
    (1960).
  """
  length = _length(log_joint, vocab_size)
  rounds = [range(length)]
  return parallel_costs(log_joint, rounds, vocab_size=vocab_size)[..., 0]
