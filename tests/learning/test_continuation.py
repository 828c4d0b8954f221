# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxalign.learning import continuation, newton
from tests import helpers


def wavy(x):
  """Bounded; x + t wavy(x) = y has folds in t."""
  return -(2.5 + 2 * jnp.sin(3 * x))


def first_root(y):
  """Where `t(x) = (x - y) / (2.5 + 2 sin 3 x)` first is 1, and its folds."""
  x = np.linspace(y, y + 5, 100_001)
  t = (x - y) / -np.asarray(wavy(x))
  end = np.argmax(t >= 1)
  slopes = np.diff(t[: end + 1])
  folds = np.sum(slopes[1:] * slopes[:-1] < 0)
  root = optimize.brentq(
    lambda x: x - y - 2.5 - 2 * np.sin(3 * x), x[end - 1], x[end], xtol=1e-15
  )
  return root, folds


def inverse(y):
  return continuation.arclength_inverse(wavy, y)


def test_the_path_of_one_unknown_is_followed_through_its_folds():
  y = np.linspace(-1, 1, 9)[:, None]
  found = jax.jit(jax.vmap(inverse))(y)
  expected = [first_root(v) for v in y[:, 0]]
  assert max(folds for _, folds in expected) >= 2
  np.testing.assert_array_equal(found.folds, [folds for _, folds in expected])
  np.testing.assert_allclose(found.x[:, 0], [x for x, _ in expected], rtol=1e-9)
  assert found.ok.all() and (found.residual <= 1e-9).all()
  # sup |f| = 4.5.
  assert (jnp.abs(found.x - y) <= 4.5).all()


def test_the_event_is_the_whole_array():
  matrix = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2)))
  found = continuation.arclength_inverse(
    lambda x: jnp.tanh(matrix @ x), jnp.full((2, 3), 0.5)
  )
  assert found.x.shape == (2, 3) and found.ok.shape == ()
  image = found.x + jnp.tanh(matrix @ found.x)
  np.testing.assert_allclose(image, 0.5, atol=1e-9)


def test_transforms():
  helpers.assert_transforms(inverse, np.array([[0.1, 0.2], [-0.7, 0.4]]))


@pytest.mark.parametrize(
  "options",
  [
    {"max_steps": 3},
    {"smallest_step": 0.05, "first_step": 0.1, "num_newton": 1},
  ],
)
def test_a_path_that_is_given_up_gives_no_inverse(options):
  options = continuation.ContinuationOptions(**options)
  found = continuation.arclength_inverse(wavy, jnp.zeros(1), options)
  assert not found.ok and np.isnan(found.x).all()
  assert 0.1 < found.residual < np.inf  # of a point on the path


def test_a_bifurcation_is_not_passed():
  """From 0 under an odd f; next to it the path leads to one of three roots."""

  def run(y):
    return continuation.arclength_inverse(lambda x: -3 * jnp.tanh(x), y)

  found = jax.jit(jax.vmap(run))(jnp.array([[0.0], [1e-6]]))
  np.testing.assert_array_equal(found.ok, [False, True])
  assert np.isnan(found.x[0, 0]) and found.x[1, 0] > 2


def test_an_unbounded_map_need_not_have_one():
  """`x - 2 x` has; `x - x + 1` maps everything to 1."""
  options = continuation.ContinuationOptions(max_steps=100)
  found = continuation.arclength_inverse(lambda x: 1 - x, jnp.zeros(1), options)
  assert not found.ok and np.isnan(found.x).all()


def test_a_target_that_is_not_a_number_ends():
  found = inverse(jnp.array([jnp.nan]))
  assert not found.ok and np.isnan(found.x).all()


def test_newton_is_local():
  """On `x - 3 tanh x = 0` the start decides; at a turning point it stops."""

  def f(x):
    return -3 * jnp.tanh(x)

  roots = optimize.brentq(lambda x: x - 3 * np.tanh(x), 1, 4, xtol=1e-14)
  starts = jnp.array([[-2.0], [0.1], [2.0]])
  found = jax.vmap(lambda s: newton.newton_inverse(f, jnp.zeros(1), s))(starts)
  np.testing.assert_allclose(found.x[:, 0], [-roots, 0, roots], atol=1e-12)
  assert found.ok.all()
  # The only root of x + f(x) = 2 is above 4; before it stands a maximum of 1.3.
  stuck = newton.newton_inverse(f, jnp.full(1, 2.0), jnp.full(1, -1.5))
  assert not stuck.ok and stuck.residual > 0.1
  whole = continuation.arclength_inverse(f, jnp.full(1, 2.0))
  assert whole.ok and whole.x[0] > 4


def test_newton_never_moves_away():
  f = lambda x: 4 * jnp.sin(3 * x) + x**3 / 9
  starts = np.random.default_rng(0).normal(size=(50, 2, 1))
  y = jnp.ones((2, 1))

  def run(start):
    found = newton.newton_inverse(f, y, start, num_steps=3)
    before, after = (jnp.sum((x + f(x) - y) ** 2) for x in (start, found.x))
    return after - before, found.residual - jnp.max(
      jnp.abs(found.x + f(found.x) - y)
    )

  gain, difference = jax.jit(jax.vmap(run))(starts)
  assert (gain <= 0).all() and gain.min() < -1
  np.testing.assert_allclose(difference, 0, atol=1e-12)


def test_newton_transforms():
  helpers.assert_transforms(
    lambda y, start: newton.newton_inverse(jnp.tanh, y, start),
    np.array([[0.5, 1.0], [-0.5, 2.0]]),
    np.zeros((2, 2)),
  )


def test_bad_input():
  with pytest.raises(ValueError, match="first_step must be above 0, was 0"):
    continuation.arclength_inverse(
      wavy, jnp.zeros(1), continuation.ContinuationOptions(first_step=0)
    )
  with pytest.raises(AssertionError, match="need floats: y int"):
    continuation.arclength_inverse(wavy, jnp.zeros(1, int))
  with pytest.raises(AssertionError, match=r"y \(2,\), start \(1,\)"):
    newton.newton_inverse(wavy, jnp.zeros(2), jnp.zeros(1))
  with pytest.raises(ValueError, match="tolerance must be above 0"):
    newton.newton_inverse(wavy, jnp.zeros(1), jnp.zeros(1), tolerance=0)
