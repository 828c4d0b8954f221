# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.exact import sequences
from jaxalign.rl import soups
from tests import helpers

V, T = 3, 2


def tables(key, number=2):
  keys = jax.random.split(key, number)
  return [sequences.random_table(k, V, T) for k in keys]


def law(table):
  tokens = sequences.enumerate_sequences(V, T)
  return np.exp(sequences.sequence_log_probs(table, tokens))


def test_averages_are_weighted_sums(key):
  one, two, three = tables(key, 3)
  found = soups.model_soup([one, two, three], [0.5, 0.75, -0.25])
  expected = 0.5 * one + 0.75 * two - 0.25 * three
  np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-14)
  mean = soups.model_soup([one, two])
  np.testing.assert_allclose(mean, (one + two) / 2, rtol=1e-15)
  np.testing.assert_array_equal(soups.model_soup([one, two], [1, 0]), one)


def test_trees_keep_structure_and_types():
  one = {"a": jnp.ones(2, jnp.bfloat16), "b": (jnp.zeros(()),)}
  two = {"a": jnp.full(2, 3, jnp.bfloat16), "b": (jnp.ones(()),)}
  found = soups.model_soup([one, two], [0.25, 0.75])
  assert found["a"].dtype == jnp.bfloat16
  np.testing.assert_array_equal(found["a"].astype(float), 2.5)
  assert found["b"] == (0.75,)


def test_tables_mix_geometrically_prefix_by_prefix(key):
  one, two = tables(key)
  soup = soups.model_soup([one, two])
  p, q = (np.exp(jax.nn.log_softmax(x)) for x in (one, two))
  mixture = np.sqrt(p * q)
  mixture /= mixture.sum(-1, keepdims=True)
  found = np.exp(jax.nn.log_softmax(soup))
  np.testing.assert_allclose(found, mixture, rtol=1e-12)
  # Which is not the geometric mixture of laws of sequences.
  whole = np.sqrt(law(one) * law(two))
  assert np.abs(law(soup) - whole / whole.sum()).max() > 1e-3


def test_the_optimum_is_the_tilted_soup(key):
  """A stationary point of `E r - beta KL(pi || soup)`, and its closed form."""
  one, two = tables(key)
  soup, beta = soups.model_soup([one, two]), 0.4
  rewards = jnp.linspace(-1, 1, V**T) ** 2
  tokens = sequences.enumerate_sequences(V, T)
  best = sequences.regularized_table(soup, rewards, beta)
  tilted = law(soup) * np.exp(rewards / beta)
  np.testing.assert_allclose(law(best), tilted / tilted.sum(), rtol=1e-12)

  def objective(table):
    gap = sequences.sequence_log_probs(table, tokens)
    gap -= sequences.sequence_log_probs(soup, tokens)
    return sequences.expectation(table, rewards - beta * gap)

  slope = jax.jit(jax.grad(objective))(best)
  np.testing.assert_allclose(slope, 0, atol=1e-13)


def test_transforms_and_gradient(key):
  one, two = tables(key)
  pairs = jnp.stack([one, two]), jnp.stack([two, one])
  helpers.assert_transforms(
    lambda x, y: soups.model_soup([x, y], [0.3, 0.7]), *pairs
  )
  weights = jnp.array([[0.3, 0.7], [0.5, 0.5]])
  traced = jax.jit(lambda w: soups.model_soup([one, two], w))(weights[0])
  helpers.assert_close(traced, soups.model_soup([one, two], [0.3, 0.7]))
  helpers.assert_gradient(
    lambda x, y, w: jnp.sum(soups.model_soup([x, y], w) ** 2),
    one[0],
    two[0],
    weights[0],
  )


def test_bad_input():
  x = jnp.zeros(2)
  with pytest.raises(ValueError, match="at least one model"):
    soups.model_soup([])
  with pytest.raises(ValueError, match="weights must sum to 1, sum to 2"):
    soups.model_soup([x, x], [1, 1])
  with pytest.raises(ValueError, match="one entry for each of 2 models"):
    soups.model_soup([x, x], [1.0])
  with pytest.raises(AssertionError):
    soups.model_soup([x, jnp.zeros(3)])
  with pytest.raises(AssertionError, match="need floats: params"):
    soups.model_soup([jnp.zeros(2, int)] * 2)
