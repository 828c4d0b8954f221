# SPDX-License-Identifier: Apache-2.0
"""One policy over completions of at most two tokens out of three.

Token 0 ends a completion: 7 completions, 343 groups of three. The expected
gradient of a loss is a sum over them, not a simulation.
"""

import jax
import jax.numpy as jnp

from jaxalign.exact import completions, sequences

V, T, G = 3, 2, 3
COMPLETIONS = completions.enumerate_completions(V, T)
TOKENS, WHERE = COMPLETIONS


def logits():
  return sequences.random_table(jax.random.key(1), V, T)


def rewards():
  return jax.random.normal(jax.random.key(2), (len(TOKENS),))


def token_logp(table):
  """`[7, 2]`, 0 after the end."""
  return completions.completion_log_probs(table, COMPLETIONS)


def value(table, of):
  """The expectation of what is known for each completion."""
  return jnp.exp(jnp.sum(token_logp(table), -1)) @ of


def expected_gradient(loss, table, sampler=None):
  """Of the mean of `loss(logp, group)` over all groups of the sampler."""
  return jax.jit(
    lambda x: completions.expected_group_gradient(
      loss, x, COMPLETIONS, num_generations=G, sampler_logits=sampler
    )
  )(table)
