# SPDX-License-Identifier: Apache-2.0
"""All groups of three completions of at most two tokens out of three.

Token 0 ends a completion: 7 completions, 343 groups. The expected gradient of a
loss is a sum over them, not a simulation.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.exact import sequences

V, T, G = 3, 2, 3
_ALL = np.asarray(sequences.enumerate_sequences(V, T))
_KEPT = np.asarray(sequences.until_eos(jnp.asarray(_ALL)))
# What follows EOS is summed out: one representative of each completion.
_ONE = np.all(_KEPT | (_ALL == 0), -1)
TOKENS, WHERE = _ALL[_ONE], _KEPT[_ONE]
GROUPS = np.asarray(sequences.enumerate_sequences(len(TOKENS), G))


def logits():
  return sequences.random_table(jax.random.key(1), V, T)


def rewards():
  return jax.random.normal(jax.random.key(2), (len(TOKENS),))


def token_logp(table):
  """`[7, 2]`, 0 after the end."""
  return jnp.where(WHERE, sequences.token_log_probs(table, TOKENS), 0)


def value(table, of):
  """The expectation of what is known for each completion."""
  return jnp.exp(jnp.sum(token_logp(table), -1)) @ of


def expected_gradient(loss, table, sampler=None):
  """Gradient at `table` of the mean of `loss(logp, group)` over all groups.

  Args:
    loss: of token log-probabilities `[G, T]` and indices of completions `[G]`.
    table: the policy.
    sampler: the table that groups are drawn from; the policy by default.
  """
  drawn = token_logp(table if sampler is None else sampler)
  weights = jnp.exp(jnp.sum(drawn[GROUPS], (1, 2)))

  def mean(x):
    logp = token_logp(x)
    each = jax.vmap(lambda group: loss(logp[group], group))(jnp.array(GROUPS))
    return weights @ each

  return jax.jit(jax.grad(mean))(table)
