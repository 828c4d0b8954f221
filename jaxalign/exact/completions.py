# SPDX-License-Identifier: Apache-2.0
"""All completions of a policy that may stop, and all groups of them.

A table of `exact.sequences` with a token EOS is a law over completions of at
most T tokens. Few of them make few groups, so that the expected gradient of a
loss of groups is a sum and not a simulation, baselines, deviations and clips
included.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.exact import sequences

__all__ = (
  "Completions",
  "completion_log_probs",
  "enumerate_completions",
  "expected_group_gradient",
)


class Completions(NamedTuple):
  """Every completion once.

  Attributes:
    tokens: int32 `[N, T]`, EOS after the end.
    where: bool `[N, T]`, tokens up to the first EOS, which is kept.
  """

  tokens: jax.Array
  where: jax.Array


def enumerate_completions(
  vocab_size: int, length: int, *, eos: int = 0
) -> Completions:
  """All completions of at most T tokens; T without EOS is one as well.

  There are `1 + (V-1) + ... + (V-1)^(T-1)` that end and `(V-1)^T` that do not.

  Args:
    vocab_size: V, at least 1.
    length: T, at least 1.
    eos: the token that ends a completion.

  Returns:
    `Completions`, in lexicographic order of their tokens.

  Raises:
    ValueError: V or T is below 1, or V**T is too large.

  >>> tokens, where = enumerate_completions(2, 2)
  >>> print(tokens, where.sum(-1))
  [[0 0]
   [1 0]
   [1 1]] [1 2 2]

  Reference:
    A geometric sum.
  """
  tokens = sequences.enumerate_sequences(vocab_size, length)
  where = sequences.until_eos(tokens, eos)
  # Of all that may follow EOS, one stands for the completion.
  once = np.asarray(jnp.all(where | (tokens == eos), -1))
  return Completions(tokens[once], where[once])


def completion_log_probs(
  logits: jax.Array, completions: Completions
) -> jax.Array:
  """The log-probability of each token of each completion.

  `log p(x_t | x_<t)`; their sums over t are a law.

  Args:
    logits: `[num_prefixes(V, T), V]`, a table.
    completions: of the same V and T.

  Returns:
    `[N, T]`, nats; 0 after the end.

  Raises:
    AssertionError: rank or type.
    ValueError: not a table, or completions are longer than it.

  >>> completions = enumerate_completions(2, 2)
  >>> log_probs = completion_log_probs(jnp.zeros((3, 2)), completions)
  >>> print(jnp.exp(log_probs.sum(-1)))
  [0.5  0.25 0.25]

  Reference:
    The chain rule of probability.
  """
  log_probs = sequences.token_log_probs(logits, completions.tokens)
  return jnp.where(completions.where, log_probs, 0)


def expected_group_gradient(
  loss: Callable[[jax.Array, jax.Array], jax.Array],
  logits: jax.Array,
  completions: Completions,
  *,
  num_generations: int,
  sampler_logits: jax.Array | None = None,
) -> jax.Array:
  """The exact expected gradient of a loss of one group.

  `sum_g P(g) grad loss(log pi(y_g1), ..., log pi(y_gG))` over all N**G groups
  of independent completions.

  Args:
    loss: of log-probabilities `[G, T]` and of the completions' indices `[G]`;
      a scalar.
    logits: `[num_prefixes(V, T), V]`, the policy.
    completions: of the same V and T.
    num_generations: G.
    sampler_logits: of the policy that drew the groups, the shape of `logits`;
      the policy itself by default.

  Returns:
    `[num_prefixes(V, T), V]`.

  Raises:
    AssertionError: rank or type.
    ValueError: not a table, or too many groups.

  >>> completions = enumerate_completions(2, 1)
  >>> reward = jnp.array([0., 1.])
  >>> print(expected_group_gradient(  # pi (r - J) of two coins
  ...   lambda logp, group: jnp.mean(logp[:, 0] * reward[group]),
  ...   jnp.zeros((1, 2)), completions, num_generations=2))
  [[-0.25  0.25]]

  Reference:
    The definition.
  """
  groups = sequences.enumerate_sequences(
    len(completions.tokens), num_generations
  )
  sampler = logits if sampler_logits is None else sampler_logits
  drawn = jnp.sum(completion_log_probs(sampler, completions), -1)
  probs = jnp.exp(jnp.sum(drawn[groups], -1))[:, None, None]
  # By the chain rule: first what each group asks of its log-probabilities.
  log_probs, to_logits = jax.vjp(
    lambda x: completion_log_probs(x, completions), logits
  )
  wanted = jax.vmap(jax.grad(loss))(log_probs[groups], groups)
  # A group that cannot be drawn may ask for anything.
  wanted = jnp.where(probs > 0, probs * wanted, 0)
  return to_logits(jnp.zeros_like(log_probs).at[groups].add(wanted))[0]
