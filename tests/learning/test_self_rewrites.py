# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxalign.learning import self_rewrites
from tests import helpers

RNG = np.random.default_rng(0)


def test_mean_token_nll_is_that_of_the_selected():
  logps = -RNG.random((2, 4))
  where = np.array([[True, True, False, True], [False] * 4])
  padded = np.where(where, logps, np.nan)
  found, pull = jax.vjp(
    lambda x: self_rewrites.mean_token_nll(x, where=where), padded
  )
  np.testing.assert_allclose(found, [-logps[0][where[0]].mean(), 0])
  (slope,) = pull(np.ones(2))
  np.testing.assert_allclose(slope, np.where(where, -1 / 3, 0))


def test_correlation_and_interval_are_those_of_scipy():
  x, y = RNG.normal(size=(2, 30))
  y = y + x
  found = self_rewrites.pearson_correlation(x, y)
  expected = scipy.stats.pearsonr(x, y)
  low, high = expected.confidence_interval(0.95)
  np.testing.assert_allclose(found.value, expected.statistic, rtol=1e-13)
  # 1.96 is the 97.5 % point to five digits.
  np.testing.assert_allclose(found[1:], [low, high], rtol=1e-4)


def test_a_constant_has_no_correlation():
  found = self_rewrites.pearson_correlation(jnp.ones(5), jnp.arange(5.0))
  assert np.isnan(found.value)


def test_transforms_and_gradients():
  x, y = RNG.normal(size=(2, 2, 5))
  helpers.assert_transforms(self_rewrites.pearson_correlation, x, y)
  helpers.assert_gradient(
    lambda x, y: self_rewrites.pearson_correlation(x, y).lower, x[0], y[0]
  )
  helpers.assert_transforms(
    lambda x: self_rewrites.mean_token_nll(x, where=jnp.arange(5) < 3), x
  )


def test_bad_input():
  with pytest.raises(ValueError, match="at least 4 pairs, was 3"):
    self_rewrites.pearson_correlation(jnp.zeros(3), jnp.zeros(3))
  with pytest.raises(AssertionError, match=r"y \(5,\)"):
    self_rewrites.pearson_correlation(jnp.zeros(4), jnp.zeros(5))
  with pytest.raises(AssertionError, match=r"where \(3,\)"):
    self_rewrites.mean_token_nll(jnp.zeros(4), where=jnp.ones(3, bool))
