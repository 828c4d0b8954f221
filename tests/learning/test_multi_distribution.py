# SPDX-License-Identifier: Apache-2.0
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.stages.few_rounds import boosting
from jaxalign.learning import multi_distribution as library
from tests import helpers
from tests.experiments import conventions

K = 128


def test_parameters_have_the_printed_values():
  params = library.boost_params(64, 4, 0.1)
  conventions.assert_printed(params.theta, ".4809")
  conventions.assert_printed(params.bad_weight * 1e4, "6.30")
  theta = params.theta
  assert params.tolerance == 0.1 * theta / (1 + theta)
  np.testing.assert_allclose(
    np.exp(2 * params.alpha), 1 / params.bad_weight - 1, rtol=1e-12
  )


@pytest.mark.parametrize(
  ("k", "r", "printed"), [(64, 3, ".51"), (64, 4, ".49"), (256, 4, ".41")]
)
def test_the_potential_ends_below_one(k, r, printed):
  """Their range is printed: .41 to .51."""
  params = library.boost_params(k, r, 0.1)
  potential = k * (4 * params.bad_weight ** (1 - params.theta)) ** (r / 2)
  conventions.assert_printed(potential, printed)
  np.testing.assert_allclose(potential, 2 ** (-(1 - params.theta) * r / 2))


@pytest.mark.parametrize("k", [2, 16, 1000])
@pytest.mark.parametrize("r", [3, 7, 40])
def test_the_majority_errs_by_eps_and_the_margin_is_at_most_a_half(k, r):
  params = library.boost_params(k, r, 0.2)
  assert params.theta <= 0.5 and params.bad_weight < 0.5
  np.testing.assert_allclose((1 + 1 / params.theta) * params.tolerance, 0.2)


def test_an_adversary_within_its_weight_never_wins(key):
  rounds = 32
  params = library.boost_params(K, rounds, 0.1)
  # It has something to choose from: the weight of 3 distributions at first.
  assert params.bad_weight * K > 2
  keys = jax.random.split(key, 300)
  run = functools.partial(
    boosting.bad_counts, num_distributions=K, rounds=rounds
  )
  run = jax.vmap(run, (0, None, None))
  share = run(keys, params.alpha, params.bad_weight)[:, -1] / rounds
  assert 0 < share.max() and np.all(share <= (1 - params.theta) / 2)
  # More weight, and the bound is broken: it is not there for nothing.
  share = run(keys, params.alpha, 0.6)[:, -1] / rounds
  assert share.max() > (1 - params.theta) / 2


def test_the_vote_errs_by_three_tau_where_the_bound_is_tight():
  """8 rounds, theta = 1/2: six good hypotheses, two that are always wrong.

  Three disjoint regions of mass tau, each missed by two of the good ones; the
  truth is 0, so that a tie is an error.
  """
  tau, cells = 1 / 12, np.arange(12)
  wrong = np.ones((12, 8), int)
  wrong[:, :6] = cells[:, None] == np.arange(6) // 2
  assert np.all(wrong[:, :6].mean(0) == tau)
  error = np.mean(np.asarray(library.majority(jnp.asarray(wrong))))
  assert error == 3 * tau == 0.25
  np.testing.assert_allclose(error, (1 + 1 / 0.5) * tau)


def test_updates_are_the_formula_and_transform():
  rng = np.random.default_rng(0)
  q = rng.dirichlet(np.ones(5), 2)
  bad = np.array([[1, 0, 1, 0, 0], [0, 0, 0, 0, 1]]) == 1
  expected = q * np.exp(0.7 * (2 * bad - 1))
  expected /= expected.sum(-1, keepdims=True)

  def update(q, bad):
    return library.boost_update(q, bad, 0.7)

  found = update(jnp.asarray(q), jnp.asarray(bad))
  np.testing.assert_allclose(found, expected, rtol=1e-12)
  helpers.assert_transforms(update, jnp.asarray(q), jnp.asarray(bad))
  np.testing.assert_allclose(update(jnp.asarray(q), jnp.zeros((2, 5), bool)), q)


def test_votes_are_counted_and_ties_say_one():
  votes = np.array([[[0, 1, 1], [0, 0, 1]], [[1, 1, 1], [0, 0, 0]]])
  expected = votes.mean(-1) >= 0.5
  helpers.assert_transforms(library.majority, jnp.asarray(votes))
  np.testing.assert_array_equal(library.majority(jnp.asarray(votes)), expected)
  assert library.majority(jnp.array([True, False]))


def test_evaluation_sizes_are_the_formula():
  found = library.boost_evaluation_size(64, 4, tolerance=0.05, failure_prob=0.1)
  assert found == math.ceil(12 * math.log(2 * 64 * 4 / 0.1) / 0.05)


def test_bad_input():
  with pytest.raises(ValueError, match=r"3, was 2: for one or two rounds fit"):
    library.boost_params(64, 2, 0.1)
  with pytest.raises(ValueError, match="num_distributions must be at least 2"):
    library.boost_params(1, 4, 0.1)
  with pytest.raises(ValueError, match=r"eps must lie in \(0, 1\), was 1.5"):
    library.boost_params(64, 4, 1.5)
  with pytest.raises(AssertionError, match=r"bad \(3,\)"):
    library.boost_update(jnp.ones(2) / 2, jnp.zeros(3, bool), 0.1)
  with pytest.raises(AssertionError):
    library.boost_update(jnp.ones(2) / 2, jnp.zeros(2), 0.1)
  size = functools.partial(library.boost_evaluation_size, 4, 4)
  with pytest.raises(ValueError, match="tolerance must be above 0"):
    size(tolerance=0.0, failure_prob=0.1)
  with pytest.raises(ValueError, match="failure_prob must be below 1, was 1"):
    size(tolerance=0.1, failure_prob=1.0)
