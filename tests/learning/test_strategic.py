# SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.learning import strategic, strategic_subsets
from tests import helpers
from tests.experiments import conventions

SIZE, NUM = 6, 8
# Three features, and three that explain nothing: one shape compiles once.
SIGMA = np.eye(SIZE)
SIGMA[:3, :3] = [[1.0, -0.8, 0.5], [-0.8, 1.0, 0.0], [0.5, 0.0, 1.0]]
BETA = np.array([0.5, -0.5, -0.5, 0.0, 0.0, 0.0])
COSTS = np.array([2.0, 8.0, 1.0, 0.1, 0.1, 0.1])
# Feature sets, their penalty and their value, as printed.
TABLE = (
  ((0, 1, 2), ".22204", ".063739"),
  ((0, 1), ".03693", ".094443"),
  ((1, 2), ".05520", ".051516"),
  ((), "0", ".900000"),
  ((1,), ".02413", ".099769"),
  ((0, 2), ".42822", ".313066"),
  ((0,), ".15764", ".510183"),
  ((2,), ".10278", ".840684"),
)
SUBSETS = np.array(list(itertools.product((0.0, 1.0), repeat=SIZE)))


def mask_of(features):
  return np.isin(np.arange(SIZE), features).astype(float)


def draw(seed):
  """A correlation matrix, coefficients and log-normal costs."""
  rng = np.random.default_rng(seed)
  matrix = np.corrcoef(rng.normal(size=(SIZE, SIZE + 2)))
  beta = rng.normal(size=SIZE) / SIZE**0.5
  return matrix, beta, np.exp(rng.normal(size=SIZE))


PROBLEMS = [np.stack(x) for x in zip(*map(draw, range(NUM)), strict=True)]


@jax.jit
def every_subset(matrix, beta, costs):
  """Penalties, optima and decompositions of all subsets, `[2^d]`."""

  def one(mask):
    penalty = strategic.best_penalty(mask, matrix, beta, costs)
    return {
      "penalty": penalty,
      "theta": strategic.ridge_on_support(mask, penalty.lam, matrix, beta),
      "optimum": strategic.strategic_optimum(mask, matrix, beta, costs),
      "parts": strategic_subsets.decompose(mask, matrix, beta, costs),
    }

  return jax.vmap(one)(jnp.asarray(SUBSETS))


joint = jax.jit(strategic_subsets.joint_select)


def at(features):
  return int(sum(2 ** (SIZE - 1 - j) for j in features))


# --- the counterexample ------------------------------------------------------


def test_counterexample_has_the_printed_table():
  found = every_subset(SIGMA, BETA, COSTS)
  for features, lam, value in TABLE:
    i = at(features)
    assert abs(found["penalty"].lam[i] - float(lam)) < 1e-5, features
    assert abs(found["penalty"].value[i] - float(value)) < 1e-5, features
    conventions.assert_printed(float(found["penalty"].value[i]), value)
  parts = found["parts"]
  conventions.assert_printed(
    float(found["optimum"].value[at((0, 1, 2))]), ".040730"
  )
  conventions.assert_printed(float(parts.gap[at((0, 1, 2))]), ".023009")
  for part, printed in zip(parts, (".0275", ".021509", ".002507"), strict=True):
    conventions.assert_printed(float(part[at((1, 2))]), printed)


def test_counterexample_keeps_the_feature_that_every_cutoff_drops_first():
  cutoffs = strategic_subsets.cutoff_masks(jnp.asarray(COSTS))[3:]
  expected = [(0, 1, 2), (0, 1), (1,), ()]
  np.testing.assert_array_equal(cutoffs, [mask_of(s) for s in expected])
  found = joint(SIGMA, BETA, COSTS)
  np.testing.assert_array_equal(found.mask[:3], mask_of((1, 2))[:3])
  conventions.assert_printed(float(found.value), ".051516")
  conventions.assert_printed(float(found.lam), ".05520")


def test_one_feature_solves_its_cubic():
  one = jnp.ones(1)
  theta = strategic.strategic_optimum(one, jnp.eye(1), one, one / 2).theta[0]
  conventions.assert_printed(float(theta), ".417561")
  assert abs((theta - 1) + 2 * theta**3 / 0.5**2) < 1e-12


# --- optima and penalties ----------------------------------------------------


def test_error_is_that_of_manipulated_samples():
  """By its definition, on data whose moments are exactly the problem's."""
  matrix, beta, costs = draw(0)
  rng = np.random.default_rng(1)
  x = rng.normal(size=(50, SIZE))
  x -= x.mean(0)
  x = np.linalg.qr(x)[0] * 50**0.5 @ np.linalg.cholesky(matrix).T
  theta = rng.normal(size=SIZE) / 3
  shift = strategic.best_response(jnp.asarray(theta), jnp.asarray(costs))
  np.testing.assert_allclose(shift, theta / costs, rtol=1e-15)
  error = np.mean((x @ beta - (x + np.asarray(shift)) @ theta) ** 2)
  found = strategic.strategic_mse(theta, matrix, beta, costs, noise=0.3)
  np.testing.assert_allclose(found, error + 0.3, rtol=1e-12)


def test_best_responses_are_best():
  theta, costs = jnp.array([0.3, -0.7]), jnp.array([0.5, 2.0])
  gain = lambda a: theta @ a - a @ (costs * a) / 2
  best = strategic.best_response(theta, costs)
  np.testing.assert_allclose(jax.grad(gain)(best), 0, atol=1e-15)
  never = strategic.best_response(theta, jnp.full(2, jnp.inf))
  np.testing.assert_array_equal(never, 0)


def test_ridge_is_ridge_on_the_submatrix():
  matrix, beta, _ = draw(2)
  kept = np.array([0, 2, 5])
  expected = np.zeros(SIZE)
  expected[kept] = np.linalg.solve(
    matrix[np.ix_(kept, kept)] + 0.3 * np.eye(3), (matrix @ beta)[kept]
  )
  found = strategic.ridge_on_support(mask_of(kept), 0.3, matrix, beta)
  np.testing.assert_allclose(found, expected, atol=1e-14)


def test_gates_are_penalties_of_their_own():
  matrix, beta, _ = draw(3)
  gates = np.linspace(0.2, 0.9, SIZE)
  found = strategic.ridge_on_support(gates, 0.3, matrix, beta)
  expected = np.linalg.solve(matrix + np.diag(0.3 / gates**2), matrix @ beta)
  np.testing.assert_allclose(found, expected, atol=1e-13)


def test_optima_are_stationary_and_parts_are_not_negative():
  slope = jax.jit(
    jax.vmap(jax.grad(strategic.strategic_mse), (0, None, None, None))
  )
  for i in range(NUM):
    problem = [x[i] for x in PROBLEMS]
    found = every_subset(*problem)
    optimum, parts = found["optimum"], found["parts"]
    gradient = SUBSETS * slope(optimum.theta, *problem)
    np.testing.assert_allclose(gradient, 0, atol=1e-12)
    np.testing.assert_allclose(
      optimum.tau, np.sum(optimum.theta**2 / problem[2], -1), atol=1e-13
    )
    # With all features nothing is missed, with one a penalty does everything.
    assert abs(parts.prediction[-1]) < 1e-14
    few = SUBSETS.sum(1) <= 1
    assert np.all(np.abs(parts.gap)[few] < 1e-8)
    for part in parts:
      assert np.all(part >= -1e-10)
    excess = found["penalty"].value - optimum.value[-1]
    total = parts.prediction - parts.manipulation[-1] + parts.manipulation
    np.testing.assert_allclose(excess, total + parts.gap, atol=1e-13)


def test_best_penalties_are_the_best_of_many():
  """Against a dense grid, on the eigenvectors of the submatrix, in NumPy."""
  problem = [x[0] for x in PROBLEMS]
  found = every_subset(*problem)["penalty"]
  matrix, beta, costs = problem
  lams = np.concatenate([[0], np.logspace(-8, 3, 20001)])
  for i in (21, 42, 63):
    kept = np.flatnonzero(SUBSETS[i])
    roots, vectors = np.linalg.eigh(matrix[np.ix_(kept, kept)])
    right = vectors.T @ (matrix @ beta)[kept]
    theta = np.zeros((lams.size, SIZE))
    theta[:, kept] = right / (roots + lams[:, None]) @ vectors.T
    error = theta - beta
    values = np.sum(error @ matrix * error, 1)
    values += np.sum(theta**2 / costs, 1) ** 2
    assert found.value[i] <= values.min() + 1e-14
    assert found.value[i] > values.min() - 1e-6  # spacing .13 %, flat there


def test_penalties_follow_the_units():
  """Of x, with `beta / c`, `c^2 Sigma` and shifts in its units: `h / c^2`."""
  ones = np.ones(SIZE)
  penalty = jax.jit(strategic.best_penalty)
  matrix, beta, costs = (x[1] for x in PROBLEMS)
  base = penalty(ones, matrix, beta, costs)
  for c in (1e-4, 1e3):
    other = penalty(ones, c**2 * matrix, beta / c, costs / c**2)
    np.testing.assert_allclose(other.value, base.value, rtol=1e-12)
    # A minimiser is known to the root of a rounding.
    np.testing.assert_allclose(other.lam, c**2 * base.lam, rtol=1e-6)


def test_equal_costs_make_ridge_optimal():
  matrix, beta, _ = (x[2] for x in PROBLEMS)
  for cost in (0.2, 3.0):
    found = every_subset(matrix, beta, np.full(SIZE, cost))
    assert np.all(np.abs(found["parts"].gap) < 1e-8)
    lam = 2 * found["optimum"].tau / cost
    theta = jax.vmap(strategic.ridge_on_support, (0, 0, None, None))(
      jnp.asarray(SUBSETS), lam, jnp.asarray(matrix), jnp.asarray(beta)
    )
    np.testing.assert_allclose(theta, found["optimum"].theta, atol=1e-12)


def test_without_manipulation_nothing_is_penalised():
  matrix, beta, _ = (x[3] for x in PROBLEMS)
  found = every_subset(matrix, beta, np.full(SIZE, np.inf))
  assert found["penalty"].lam[-1] < 1e-9
  np.testing.assert_allclose(found["theta"][-1], beta, rtol=1e-8)


# --- joint selection ---------------------------------------------------------


def test_joint_selection_finds_the_best_subset():
  """Not a theorem: on these instances, where cut-offs alone do not."""
  missed = 0
  for i in range(NUM):
    problem = [x[i] for x in PROBLEMS]
    best = every_subset(*problem)["penalty"].value
    found = joint(*problem)
    np.testing.assert_allclose(found.value, best.min(), rtol=1e-12)
    np.testing.assert_array_equal(found.mask, SUBSETS[best.argmin()])
    cutoffs = strategic_subsets.cutoff_masks(jnp.asarray(problem[2]))
    which = (cutoffs @ 2.0 ** np.arange(SIZE)[::-1]).astype(int)
    np.testing.assert_allclose(found.cutoff, best[which].min(), rtol=1e-12)
    assert found.value <= found.cutoff
    missed += bool(found.cutoff > best.min() + 1e-9)
  assert missed > 0


def test_a_relaxation_ranks_by_costs_alone():
  """Gates in proportion to sqrt(h) give the optimum of any coefficients."""
  for i in range(3):
    matrix, beta, costs = (x[i] for x in PROBLEMS)
    optimum = strategic.strategic_optimum(np.ones(SIZE), matrix, beta, costs)
    gates = 0.9 * np.sqrt(costs / costs.max())
    lam = 2 * optimum.tau * 0.9**2 / costs.max()
    theta = strategic.ridge_on_support(gates, lam, matrix, beta)
    np.testing.assert_allclose(theta, optimum.theta, atol=1e-12)


def test_functions_transform():
  problem = [x[:2] for x in PROBLEMS]
  masks = np.stack([mask_of((0, 3, 4)), np.ones(SIZE)])

  # Of ridge, optimum and best penalty: its value, since a minimiser is known
  # to the root of a rounding alone.
  helpers.assert_transforms(strategic_subsets.decompose, masks, *problem)


def test_gradients():
  matrix, beta, costs = (jnp.asarray(x[0]) for x in PROBLEMS)
  mask = jnp.asarray(mask_of((0, 3, 4)))
  helpers.assert_gradient(
    lambda b, h: strategic.strategic_optimum(mask, matrix, b, h).value,
    beta,
    costs,
  )


# --- bad input ---------------------------------------------------------------


def test_bad_input():
  good = [jnp.asarray(x) for x in (SIGMA, BETA, COSTS)]
  ones = jnp.ones(SIZE)
  for costs in (COSTS * mask_of((0, 2)), -COSTS, COSTS * np.nan):
    with pytest.raises(ValueError, match="costs must be above 0"):
      strategic.strategic_optimum(ones, *good[:2], jnp.asarray(costs))
    with pytest.raises(ValueError, match="costs must be above 0"):
      strategic.best_response(ones, jnp.asarray(costs))
    with pytest.raises(ValueError, match="costs must be above 0"):
      strategic_subsets.cutoff_masks(jnp.asarray(costs))
  singular = jnp.eye(SIZE).at[0, 1].set(1.0).at[1, 0].set(1.0)
  for matrix, words in (
    (singular, "covariance is singular"),
    (jnp.zeros((SIZE, SIZE)), "covariance is singular"),
    (good[0].at[0, 1].set(0.3), "covariance must be symmetric"),
  ):
    with pytest.raises(ValueError, match=words):
      strategic.best_penalty(ones, matrix, *good[1:])
    with pytest.raises(ValueError, match=words):
      strategic_subsets.joint_select(matrix, *good[1:])
    with pytest.raises(ValueError, match=words):
      strategic.ridge_on_support(ones, 1.0, matrix, good[1])
  with pytest.raises(AssertionError, match=r"costs \(2,\)"):
    strategic_subsets.decompose(ones, *good[:2], jnp.ones(2))
  with pytest.raises(AssertionError, match=r"mask \(2,\)"):
    strategic.best_penalty(jnp.ones(2), *good)
  with pytest.raises(AssertionError, match=r"theta \(2,\)"):
    strategic.strategic_mse(jnp.ones(2), *good)
