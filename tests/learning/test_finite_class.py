# SPDX-License-Identifier: Apache-2.0
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxalign.learning import finite_class as library
from tests import helpers


def worlds(seed, hypotheses=6, k=3, n=400):
  rng = np.random.default_rng(seed)
  chance = rng.random((hypotheses, k, 1))
  return chance[..., 0], (rng.random((hypotheses, k, n)) < chance) * 1.0


def value_of(losses):
  """The least largest loss `max_i mixture @ losses` of any mixture."""
  size, k = losses.shape
  solved = optimize.linprog(
    np.eye(size + 1)[-1],
    A_ub=np.c_[losses.T, -np.ones(k)],
    b_ub=np.zeros(k),
    A_eq=[[1] * size + [0]],
    b_eq=[1],
    bounds=(0, 1),
  )
  return solved.fun


erm = jax.jit(
  library.lazy_hedge_erm, static_argnames=("budget", "steps", "region")
)


@pytest.mark.parametrize("region", ["box", "ellipsoid"])
def test_the_mixture_is_the_best_against_the_worst_data_set(region):
  steps, budget = 1500, 100
  _, losses = worlds(0)
  found = erm(jnp.asarray(losses), budget=budget, steps=steps, region=region)
  assert np.all(found.missing == 0) and 1 <= found.rounds <= 5
  samples = np.asarray(found.samples)
  np.testing.assert_allclose(found.mixture.sum(), 1)
  # In the data that were stored in the end, which are more than at first.
  stored = np.stack(
    [losses[:, i, :n].mean(-1) for i, n in enumerate(samples)], 1
  )
  worst = (np.asarray(found.mixture) @ stored).max()
  optimum = value_of(stored)
  # Hedge's regret, and what the first few samples missed: five deviations.
  slack = 9 / 8 * math.sqrt(math.log(3) / steps) + 5 * 0.5 / budget**0.5 / 2
  assert optimum - 1e-9 <= worst <= optimum + slack
  assert worst < stored.max(1).min() + slack


def test_what_a_mask_hides_does_not_matter():
  _, losses = worlds(1, n=40)
  rng = np.random.default_rng(2)
  options = {"budget": 10, "steps": 50, "region": "box"}
  plain = erm(jnp.asarray(losses), np.ones((3, 40), bool), **options)
  # The same samples in the same order, among others that are not there.
  where = np.zeros((3, 60), bool)
  padded = np.full((6, 3, 60), np.nan)
  for i in range(3):
    at = np.sort(rng.choice(60, 40, replace=False))
    where[i, at], padded[:, i, at] = True, losses[:, i]
  hidden = erm(jnp.asarray(padded), where, **options)
  helpers.assert_close(hidden, plain)


def test_data_that_run_out_are_reported():
  _, losses = worlds(3, n=30)
  few = np.arange(30) < np.array([[30], [30], [4]])
  found = erm(jnp.asarray(losses), few, budget=12, steps=50, region="box")
  assert found.samples[2] == 4 and found.missing[2] > 0
  assert found.missing[0] == 0


def test_finite_classes_transform():
  losses = np.stack([worlds(seed, n=20)[1] for seed in (4, 5)])

  def run(losses):
    return library.lazy_hedge_erm(losses, budget=8.0, steps=20)

  helpers.assert_transforms(run, losses)


def test_erm_is_the_first_of_least_loss():
  losses, _ = worlds(6)
  weights = np.random.default_rng(6).dirichlet(np.ones(3), 2)
  stacked = np.stack([losses, losses[::-1]])
  found = library.finite_class_erm(jnp.asarray(weights), jnp.asarray(stacked))
  expected = np.einsum("bnk,bk->bn", stacked, weights).argmin(-1)
  np.testing.assert_array_equal(found, expected)
  assert library.finite_class_erm(jnp.ones(1), jnp.ones((3, 1))) == 0


def test_bad_input():
  losses = jnp.zeros((2, 3, 4))
  run = functools.partial(library.lazy_hedge_erm, budget=1.0, steps=2)
  with pytest.raises(AssertionError):
    run(losses[0])
  with pytest.raises(AssertionError, match=r"where \(3, 5\)"):
    run(losses, jnp.ones((3, 5), bool))
  with pytest.raises(ValueError, match="samples_of_each_data_set must be"):
    run(losses, jnp.ones((3, 4), bool).at[1].set(False))
  with pytest.raises(ValueError, match="budget must be above 0"):
    library.lazy_hedge_erm(losses, budget=0.0, steps=2)
