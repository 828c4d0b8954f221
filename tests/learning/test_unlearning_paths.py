# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.learning import unlearning_paths
from tests import helpers

D, STAGES, ROWS = 20, 3, 5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(STAGES, ROWS, D))
Y = RNG.normal(size=(STAGES, ROWS))
START = RNG.normal(size=D)
ETA = 0.01
learn = jax.jit(unlearning_paths.stagewise_least_squares)


def test_a_stage_moves_to_the_closest_weights_that_fit():
  path = np.asarray(learn(START, X, Y))
  before = START
  for x, y, after in zip(X, Y, path, strict=True):
    np.testing.assert_allclose(x @ after, y, rtol=0, atol=1e-12)
    # Least norm: the change lies in the span of the rows.
    step = after - before
    inside = x.T @ np.linalg.lstsq(x.T, step, rcond=None)[0]
    np.testing.assert_allclose(step, inside, rtol=0, atol=1e-12)
    before = after


def test_a_stage_of_more_rows_than_weights_is_least_squares():
  x, y = RNG.normal(size=(1, 7, 3)), RNG.normal(size=(1, 7))
  found = unlearning_paths.stagewise_least_squares(np.ones(3), x, y)
  expected = np.linalg.lstsq(x[0], y[0], rcond=None)[0]
  np.testing.assert_allclose(found[0], expected, rtol=1e-12)


def test_paths_drift_apart_by_the_formula():
  order = [1, 0, 2]
  first = learn(START, X, Y)[-1]
  second = learn(START, X[order], Y[order])[-1]
  forget = X[0], Y[0]
  ascend = jax.jit(
    lambda w: unlearning_paths.least_squares_ascent(
      w, *forget, step_size=ETA, num_steps=50
    )
  )
  apart = np.asarray(ascend(first) - ascend(second))
  start = np.asarray(first - second)
  grow = np.eye(D) + ETA * X[0].T @ X[0]
  distance = jax.jit(
    lambda d, t: unlearning_paths.linear_path_divergence(
      d, X[0], step_size=ETA, num_steps=t
    )
  )
  for t in (1, 10, 50):
    power = np.linalg.matrix_power(grow, t)
    np.testing.assert_allclose(
      apart[t - 1],
      power @ start,
      rtol=0,
      atol=1e-11 * np.abs(apart[t - 1]).max(),
    )
    np.testing.assert_allclose(
      distance(start, t), np.linalg.norm(power @ start), rtol=1e-12
    )
  np.testing.assert_allclose(distance(start, 0), np.linalg.norm(start))


def test_what_was_learned_last_is_not_forgotten():
  last = learn(START, X, Y)[-1]
  slope = jax.grad(lambda w: jnp.sum((X[-1] @ w - Y[-1]) ** 2) / 2)(last)
  # Exactly 0 but for the rounding of the fit.
  np.testing.assert_allclose(slope, 0, atol=1e-12)
  path = unlearning_paths.least_squares_ascent(
    last, X[-1], Y[-1], step_size=ETA, num_steps=3
  )
  np.testing.assert_allclose(path[-1], last, rtol=0, atol=1e-12)
  # In integers nothing is rounded, and the gradient is 0.
  x, w = np.array([[1.0, 2.0], [3.0, -1.0]]), np.array([4.0, 5.0])
  path = unlearning_paths.least_squares_ascent(
    w, x, x @ w, step_size=1.0, num_steps=5
  )
  np.testing.assert_array_equal(path, np.tile(w, (5, 1)))


def quadratic(i, w):
  return jnp.sum((X[i] @ w - Y[i]) ** 2) / 2


def test_the_order_of_two_steps_matters_by_the_commutator():
  def step(i, w):
    return w - ETA * X[i].T @ (X[i] @ w - Y[i])

  expected = step(1, step(0, START)) - step(0, step(1, START))
  found = unlearning_paths.order_commutator(
    lambda w: quadratic(0, w),
    lambda w: quadratic(1, w),
    START,
    step_size=ETA,
  )
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
  h0, h1 = (x.T @ x for x in X[:2])
  b0, b1 = (x.T @ y for x, y in zip(X[:2], Y[:2], strict=True))
  of_sheet = ETA**2 * (h1 @ (h0 @ START - b0) - h0 @ (h1 @ START - b1))
  np.testing.assert_allclose(found, of_sheet, rtol=0, atol=1e-12)


def test_the_commutator_leads_for_other_losses_and_trees():
  def first(w):
    return jnp.sum(jnp.exp(w["a"])) + w["b"] ** 4

  def second(w):
    return jnp.sum(w["a"] ** 3) * w["b"]

  start = {"a": jnp.array([0.3, -0.2]), "b": jnp.array(0.7)}

  def error(eta):
    def step(loss, w):
      return jax.tree.map(lambda x, g: x - eta * g, w, jax.grad(loss)(w))

    one, two = (
      step(second, step(first, start)),
      step(first, step(second, start)),
    )
    found = unlearning_paths.order_commutator(
      first, second, start, step_size=eta
    )
    gaps = jax.tree.map(lambda x, y, z: jnp.abs(x - y - z), one, two, found)
    return max(float(jnp.max(g)) for g in jax.tree.leaves(gaps))

  # Of order eta^3: an eighth of it at half the step.
  np.testing.assert_allclose(error(1e-3) / error(5e-4), 8, rtol=0.02)


def test_transforms_and_gradients():
  x, d = X[:2, :3, :4], RNG.normal(size=(2, 4))

  def divergence(d, x):
    return unlearning_paths.linear_path_divergence(
      d, x, step_size=0.1, num_steps=3
    )

  helpers.assert_transforms(divergence, d, x)
  helpers.assert_gradient(divergence, d[0], x[0], rtol=1e-5)

  def ascent(w, x, y):
    learned = unlearning_paths.stagewise_least_squares(w, x[None], y[None])
    return unlearning_paths.least_squares_ascent(
      learned[-1] + w, x, y, step_size=0.1, num_steps=2
    )

  helpers.assert_transforms(ascent, d, x, Y[:2, :3], rtol=1e-9)


def test_bad_input():
  with pytest.raises(AssertionError, match="columns"):
    unlearning_paths.stagewise_least_squares(jnp.zeros(3), X, Y)
  with pytest.raises(AssertionError, match="rows"):
    unlearning_paths.least_squares_ascent(
      START, X[0], Y[0, :2], step_size=0.1, num_steps=1
    )
  with pytest.raises(ValueError, match="num_steps must be above 0"):
    unlearning_paths.least_squares_ascent(
      START, X[0], Y[0], step_size=0.1, num_steps=0
    )
  with pytest.raises(ValueError, match="step_size must be above 0"):
    unlearning_paths.linear_path_divergence(
      START, X[0], step_size=-1.0, num_steps=1
    )
  with pytest.raises(ValueError, match="step_size must be above 0"):
    unlearning_paths.order_commutator(
      jnp.sum, jnp.sum, jnp.zeros(2), step_size=0.0
    )
