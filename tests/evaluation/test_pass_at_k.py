# SPDX-License-Identifier: Apache-2.0
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxalign.evaluation.pass_at_k import (
  pass_at_k,
  pass_at_k_slope,
  success_at_k,
)
from tests import helpers


def exact(n, c, k):
  """With integers."""
  return 1 - math.comb(n - c, k) / math.comb(n, k)


def test_estimate_is_a_ratio_of_binomials():
  for n, k in ((1, 1), (5, 2), (7, 7)):
    c = np.arange(n + 1)
    expected = [exact(n, i, k) for i in c]
    helpers.assert_close(pass_at_k(n, c.astype(float), k), np.array(expected))


def test_estimate_is_that_of_all_subsets():
  outcomes = (1, 0, 0, 1, 0)
  hits = [any(s) for s in itertools.combinations(outcomes, 3)]
  helpers.assert_close(pass_at_k(5, 2.0, 3), np.mean(hits))


def test_estimate_is_unbiased_and_the_plug_in_is_not():
  n, k, p = 10, 4, 0.23
  c = np.arange(n + 1)
  law = scipy.stats.binom.pmf(c, n, p)
  estimates = pass_at_k(n, c.astype(float), k)
  truth = 1 - (1 - p) ** k
  helpers.assert_close(law @ estimates, truth)
  plug_in = law @ (1 - (1 - c / n) ** k)
  np.testing.assert_allclose(
    [plug_in, truth], [0.5875, 0.6485], rtol=0, atol=0.5e-4
  )


@pytest.mark.parametrize(("n", "c", "k"), [(10**6, 3, 1000), (4000, 900, 50)])
def test_large_numbers(n, c, k):
  helpers.assert_close(pass_at_k(n, float(c), k), exact(n, c, k), rtol=1e-9)
  # In float32 as well: no difference of large logarithms is formed.
  single = pass_at_k(n, jnp.float32(c), k)
  assert single.dtype == jnp.float32
  np.testing.assert_allclose(single, exact(n, c, k), rtol=1e-5)


def test_several_numbers_of_attempts():
  n, c = jnp.array([4.0, 6.0, 2.0]), jnp.array([1.0, 2.0, 1.0])
  found = jax.jit(lambda n, c: pass_at_k(n, c, 3))(n, c)
  helpers.assert_close(found[:2], np.array([exact(4, 1, 3), exact(6, 2, 3)]))
  assert np.isnan(found[2])  # two attempts say nothing about three


def test_success():
  p = np.array([0.0, 1e-12, 0.3, 1.0])
  with jax.debug_nans(True):
    for k in (1, 2, 5):
      value = success_at_k(p, k=k)
      expected = [0.0, k * 1e-12, 1 - 0.7**k, 1.0]
      helpers.assert_close(value, np.array(expected), rtol=1e-10)
      slope = jax.grad(lambda p, k=k: success_at_k(p, k=k).sum())(p)
      helpers.assert_close(slope, k * (1 - p) ** (k - 1))
  helpers.assert_gradient(
    lambda p: success_at_k(p, k=5).sum(), np.array([0.2, 0.7])
  )


def test_slope():
  ks = np.array([1, 4, 16, 64])
  rates = np.array([[0.1, 0.3, 0.35, 0.6], [0.5, 0.5, 0.5, 0.5]])
  expected = [np.polyfit(np.log(ks), row, 1)[0] for row in rates]
  helpers.assert_close(pass_at_k_slope(rates, ks), np.array(expected))
  helpers.assert_gradient(lambda x: pass_at_k_slope(x, ks), rates[0])


def test_transforms():
  ks = np.array([1, 4])

  def everything(c, rates):
    return (
      pass_at_k(5, c, 2),
      success_at_k(rates, k=3),
      pass_at_k_slope(rates, ks),
    )

  c = np.array([[0.0, 2.0], [4.0, 5.0]])
  helpers.assert_transforms(everything, c, np.array([[0.1, 0.2], [0.7, 0.9]]))


def test_bad_input():
  for k in (0, 6):
    with pytest.raises(ValueError, match="k must be"):
      pass_at_k(5, jnp.zeros(2), k)
  with pytest.raises(ValueError, match="at least 1"):
    success_at_k(jnp.zeros(2), k=0)
  with pytest.raises(AssertionError, match="n "):
    pass_at_k(jnp.ones(3), jnp.zeros(2), 1)
  with pytest.raises(AssertionError, match="ks"):
    pass_at_k_slope(jnp.zeros((2, 3)), jnp.ones(2))
