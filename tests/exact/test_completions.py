# SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.exact import completions, sequences
from tests import helpers

V, T = 3, 2
ALL = completions.enumerate_completions(V, T)


def test_every_completion_once():
  texts = [tuple(x[m]) for x, m in zip(*map(np.asarray, ALL), strict=True)]
  expected = {(0,), *((a, b) for a in (1, 2) for b in range(3))}
  assert len(texts) == 7 and set(texts) == expected
  for size, length in ((2, 3), (3, 3), (4, 2)):
    count = sum((size - 1) ** t for t in range(length)) + (size - 1) ** length
    assert len(completions.enumerate_completions(size, length).tokens) == count
  last = completions.enumerate_completions(2, 2, eos=1)
  np.testing.assert_array_equal(last.tokens, [[0, 0], [0, 1], [1, 1]])


def test_log_probs_are_a_law(key):
  table = sequences.random_table(key, V, T)
  log_probs = completions.completion_log_probs(table, ALL)
  helpers.assert_close(jnp.exp(log_probs.sum(-1)).sum(), 1.0)
  # Merged from the law over all sequences, suffixes summed out.
  whole = jnp.exp(
    sequences.sequence_log_probs(table, sequences.enumerate_sequences(V, T))
  )
  helpers.assert_close(jnp.exp(log_probs[0].sum()), whole[:3].sum())
  helpers.assert_close(jnp.exp(log_probs[1:].sum(-1)), whole[3:])


def test_expected_gradient_against_a_loop(key):
  first, second, third = jax.random.split(key, 3)
  table, sampler = (sequences.random_table(k, V, T) for k in (first, second))
  rewards = jax.random.normal(third, (7,))

  def loss(logp, group):
    weight = rewards[group] - jnp.max(rewards[group])
    return jnp.sum(weight * jnp.sum(logp, -1) ** 2)

  actual = completions.expected_group_gradient(
    loss,
    table,
    ALL,
    num_generations=2,
    sampler_logits=sampler,
  )
  drawn = np.exp(completions.completion_log_probs(sampler, ALL).sum(-1))

  @jax.jit
  def slope(group):
    return jax.grad(
      lambda x: loss(completions.completion_log_probs(x, ALL)[group], group)
    )(table)

  total = sum(
    drawn[i] * drawn[j] * slope(jnp.array([i, j]))
    for i, j in itertools.product(range(7), repeat=2)
  )
  helpers.assert_close(actual, total)
  on_policy = completions.expected_group_gradient(
    lambda logp, group: jnp.sum(logp), table, ALL, num_generations=2
  )
  helpers.assert_close(on_policy, jnp.zeros_like(table), atol=1e-15)


def test_what_cannot_be_drawn_has_no_say():
  table = jnp.zeros((4, 3)).at[0, 2].set(-jnp.inf)
  with jax.debug_nans(True):
    gradient = completions.expected_group_gradient(
      lambda logp, group: jnp.sum(jnp.where(logp > -1e9, logp, 0)),
      table,
      ALL,
      num_generations=1,
    )
  helpers.assert_close(gradient[:3], jnp.zeros((3, 3)), atol=1e-15)


def test_transforms(key):
  tables = jnp.stack(
    [sequences.random_table(k, V, T) for k in jax.random.split(key)]
  )
  helpers.assert_transforms(
    lambda x: (
      completions.completion_log_probs(x, ALL),
      completions.expected_group_gradient(
        lambda logp, group: jnp.sum(logp) ** 2, x, ALL, num_generations=2
      ),
    ),
    tables,
  )
  helpers.assert_gradient(
    lambda x: jnp.sum(completions.completion_log_probs(x, ALL) ** 2), tables[0]
  )


def test_bad_input():
  with pytest.raises(ValueError, match="length must be at least 1"):
    completions.enumerate_completions(2, 0)
  with pytest.raises(ValueError, match="sequences of 7 tokens, length 9"):
    completions.expected_group_gradient(
      lambda logp, group: 0.0, jnp.zeros((4, 3)), ALL, num_generations=9
    )
  with pytest.raises(ValueError, match="longer than the table"):
    completions.completion_log_probs(jnp.zeros((1, 3)), ALL)
