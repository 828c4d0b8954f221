# SPDX-License-Identifier: Apache-2.0
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxalign.rl import flow_critics
from tests import helpers

TARGETS, PROBS = np.array([-1.0, 2.0]), np.array([0.3, 0.7])
STD = 0.1


def towards(y):
  """The best velocity of a deterministic target."""
  return lambda z, t: (y - z) / (1 - t)


def stochastic(z, t):
  return flow_critics.discrete_velocity(TARGETS, PROBS, source_std=STD)(z, t)


# --- the source --------------------------------------------------------------


def test_source_is_a_tenth_of_the_range_of_returns():
  found = flow_critics.source_interval(-2.0, 3.0, discount=0.9)
  helpers.assert_close(np.array(found), np.array([-2.0, 3.0]))
  assert isinstance(found, flow_critics.SourceInterval)
  wide = flow_critics.source_interval(0.0, 1.0, discount=0.0, scale=2.0)
  assert wide == (0.0, 2.0)


# --- deterministic targets ---------------------------------------------------


@pytest.mark.parametrize("num_steps", [1, 2, 8, 64])
def test_a_deterministic_target_is_reached_from_anywhere(num_steps):
  z0 = jnp.array([-1e3, -1.0, 0.0, 1e-3, 50.0])
  end = flow_critics.flow_endpoints(towards(0.7), z0, num_steps=num_steps)
  # A rounding of the largest |z|.
  helpers.assert_close(end, jnp.full(5, 0.7), rtol=0, atol=1e-12)
  value = flow_critics.flow_critic_values(towards(0.7), z0, num_steps=num_steps)
  helpers.assert_close(value, 0.7, rtol=0, atol=1e-12)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_the_last_steps_recover_from_a_stale_field(share):
  """Also from one of an arbitrary form; without the last step nothing does."""

  def partly(t):
    return lambda z, now: jnp.where(
      now < t, jnp.sin(9 * z) - 4, towards(2.0)(z, now)
    )

  z0 = jnp.array([-1.0, 0.0, 3.0])
  end = flow_critics.flow_endpoints(partly(share), z0, num_steps=8)
  helpers.assert_close(end, jnp.full(3, 2.0), atol=1e-13)
  stale = flow_critics.flow_endpoints(partly(1.0), z0, num_steps=8)
  assert np.all(np.abs(stale - 2) > 1)


# --- random targets ----------------------------------------------------------


def test_few_steps_are_biased_on_random_targets():
  """K = 1 and K to infinity give the mean, what lies between does not."""
  ranks = (jnp.arange(100_000) + 0.5) / 100_000
  z0 = STD * jax.scipy.special.ndtri(ranks)
  # Draws for the two figures in print, which carry a sampling error of .004.
  draws = STD * jnp.asarray(np.random.RandomState(0).randn(200_000))

  def value(z0, num_steps):
    return flow_critics.flow_critic_values(stochastic, z0, num_steps=num_steps)

  # Ranks miss where the noise divides by half a cell, times the jump of 3.
  np.testing.assert_allclose(value(z0, 1), 1.1, atol=1e-12)
  np.testing.assert_allclose(value(z0, 8), 1.5516, atol=7e-5)
  np.testing.assert_allclose(value(z0, 64), 1.1366, atol=7e-5)
  np.testing.assert_allclose(value(draws, 1), 1.100, atol=5e-4)
  np.testing.assert_allclose(value(draws, 8), 1.556, atol=5e-4)
  np.testing.assert_allclose(value(draws, 64), 1.140, atol=5e-4)
  # The bias falls nearly as 1/K: a quarter of it at four times the steps.
  assert abs((value(z0, 256) - 1.1) / (value(z0, 64) - 1.1) - 0.25) < 0.02


def test_where_the_noise_divides_agrees_with_plain_numpy():
  """The values of K = 8 by bisection of the one point that matters."""

  def end(z):
    for i in range(8):
      t = i / 8
      # The posterior odds of 2 against -1.
      square = (z - t * np.array([-1.0, 2.0])) ** 2
      odds = (square[0] - square[1]) / (2 * ((1 - t) * STD) ** 2)
      mean = -1 + 3 * scipy.special.expit(odds + math.log(7 / 3))
      z = z + (mean - z) / (1 - t) / 8
    return z

  low, high = -3 * STD, 3 * STD
  for _ in range(60):
    middle = (low + high) / 2
    low, high = (middle, high) if end(middle) < 0.5 else (low, middle)
  upper = scipy.stats.norm.sf(low / STD)
  # Between the two values lie the end points of next to no noise.
  assert abs(-1 + 3 * upper - 1.5516) < 1e-3


def test_the_velocity_is_the_conditional_mean_of_its_target():
  """`E[(v(z_t) - (y - z_0)) h(z_t)] = 0` for any h, by quadrature."""
  nodes = np.linspace(-9, 9, 2001)  # equal weights: the tails are below 1e-17
  density = np.exp(-(nodes**2) / 2)
  z0 = jnp.asarray(STD * 8 * nodes)
  law = (density / density.sum())[:, None] * PROBS
  velocity = flow_critics.discrete_velocity(TARGETS, PROBS, source_std=8 * STD)
  z0, y = jnp.broadcast_arrays(z0[:, None], TARGETS)
  t = jnp.full(z0.shape, 0.3)

  def loss(size):
    moved = lambda z, t: velocity(z, t) + size * (jnp.cos(z) + 2 * z)
    return jnp.sum(law * flow_critics.flow_critic_loss(moved, y, t, z0))

  np.testing.assert_allclose(jax.grad(loss)(0.0), 0, atol=1e-12)
  assert loss(0.1) > loss(0.0) < loss(-0.1)


# --- the loss and the targets ------------------------------------------------


def test_the_loss_is_its_definition(key):
  y, z0, other = jax.random.normal(key, (3, 2, 4))
  t = jax.nn.sigmoid(other)
  velocity = lambda z, t: jnp.sin(z) + t
  loss = flow_critics.flow_critic_loss(velocity, y, t, z0)
  z = (1 - t) * z0 + t * y
  helpers.assert_close(loss, (jnp.sin(z) + t - (y - z0)) ** 2)
  exact = flow_critics.flow_critic_loss(towards(1.5), 0 * y + 1.5, t, z0)
  helpers.assert_close(exact, jnp.zeros((2, 4)), atol=1e-24)


def test_targets_are_averaged_discounted_constants():
  z0 = jnp.array([[0.0, 1.0], [2.0, 3.0]])
  rewards, discounts = jnp.array([1.0, -1.0]), jnp.array([0.5, 0.0])

  def targets(shift):
    # One Euler step: the noise moved by `shift`.
    return flow_critics.flow_critic_targets(
      lambda z, t: shift + 0 * z, rewards, discounts, z0, num_steps=1
    )

  helpers.assert_close(targets(4.0), jnp.array([1 + 0.5 * 4.5, -1.0]))
  assert jax.grad(lambda s: targets(s).sum())(4.0) == 0

  def loss(y):
    zero = jnp.zeros(2)
    return flow_critics.flow_critic_loss(towards(1.0), y, zero, zero).sum()

  np.testing.assert_array_equal(jax.grad(loss)(rewards), jnp.zeros(2))


def test_values_are_differentiable_in_the_velocity():
  z0 = jnp.array([-0.4, 0.1, 0.3])

  def value(w):
    field = lambda z, t: jnp.tanh(w[0] * z) + w[1] * t
    return flow_critics.flow_critic_values(field, z0, num_steps=3)

  helpers.assert_gradient(value, jnp.array([0.7, -0.3]))


def test_transforms(key):
  y, z0 = jax.random.normal(key, (2, 2, 3))
  t = jnp.array([[0.0, 0.3, 1.0], [0.2, 0.5, 0.9]])

  def everything(y, t, z0):
    field = lambda z, t: jnp.sin(z) + t
    return (
      flow_critics.flow_critic_loss(field, y, t, z0),
      flow_critics.flow_critic_targets(field, y[0], t[0], z0, num_steps=3),
      flow_critics.hl_gauss_embedding(z0, -1.0, 1.0, num_bins=4),
      flow_critics.discrete_velocity(y, t, source_std=0.5)(z0, t / 2),
    )

  helpers.assert_transforms(everything, y, t, z0)


# --- the embedding -----------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.75, 16.0])
def test_the_embedding_is_a_truncated_normal(sigma):
  z = jnp.array([-1.9, 0.0, 0.3, 3.0])
  found = jax.jit(
    lambda z: flow_critics.hl_gauss_embedding(z, -2.0, 3.0, sigma=sigma)
  )(z)
  edges = np.linspace(-2, 3, 52)
  cdf = scipy.stats.norm.cdf(edges, np.asarray(z)[:, None], sigma * 5 / 51)
  expected = np.diff(cdf) / (cdf[:, -1:] - cdf[:, :1])
  assert found.shape == (4, 51)
  helpers.assert_close(found, expected, rtol=1e-9, atol=1e-14)


def test_the_embedding_far_outside_is_the_nearest_bin():
  weights = jnp.arange(3.0)

  @jax.jit
  def embed(z):
    def one(x):
      found = flow_critics.hl_gauss_embedding(
        x, 0.0, 1.0, num_bins=3, sigma=1.0
      )
      return found @ weights, found

    return jax.vmap(jax.value_and_grad(one, has_aux=True))(z)

  (_, found), slope = embed(jnp.array([-1e4, 1e4, 0.3], jnp.float32))
  np.testing.assert_array_equal(found[:2], np.eye(3)[[0, 2]])
  np.testing.assert_array_equal(slope[:2], [0, 0])
  # Inside, against central differences; also on an edge and in a bin's middle.
  step = 1e-5
  for z in (0.3, 1 / 3, 0.5):
    ((low, high, _), _), slope = embed(jnp.array([z - step, z + step, z]))
    helpers.assert_close(slope[2], (high - low) / (2 * step), rtol=1e-8)


def test_the_embedding_does_not_know_the_unit():
  x = jnp.array([0.1, 0.6, -0.2, 1.1])

  @jax.jit
  def both(x):
    return (
      flow_critics.hl_gauss_embedding(x, 0.0, 1.0, sigma=16.0),
      flow_critics.hl_gauss_embedding(1000 * x, 0.0, 1000.0, sigma=16.0),
    )

  helpers.assert_close(*both(x), rtol=1e-9)


# --- refusals ----------------------------------------------------------------


def test_bad_input_is_refused():
  ones = jnp.ones(2)
  with pytest.raises(ValueError, match="discount must be in"):
    flow_critics.source_interval(0.0, 1.0, discount=1.0)
  with pytest.raises(ValueError, match="scale must be above 0"):
    flow_critics.source_interval(0.0, 1.0, discount=0.5, scale=0.0)
  with pytest.raises(AssertionError, match="targets"):
    flow_critics.flow_critic_loss(towards(1.0), jnp.ones(3), ones, ones)
  with pytest.raises(AssertionError, match="floats"):
    flow_critics.flow_endpoints(towards(1.0), jnp.ones(2, int))
  with pytest.raises(ValueError, match="num_steps"):
    flow_critics.flow_endpoints(towards(1.0), ones, num_steps=0)
  with pytest.raises(AssertionError, match="velocity"):
    flow_critics.flow_endpoints(lambda z, t: z[:1], ones)
  for empty in (jnp.ones(()), jnp.ones((2, 0))):
    with pytest.raises(ValueError, match="z0 must be"):
      flow_critics.flow_critic_values(towards(1.0), empty)
  with pytest.raises(AssertionError, match="rewards"):
    flow_critics.flow_critic_targets(towards(1.0), ones, ones, ones)
  with pytest.raises(AssertionError, match="targets"):
    flow_critics.discrete_velocity(ones, jnp.ones(3), source_std=1.0)
  with pytest.raises(ValueError, match="source_std"):
    flow_critics.discrete_velocity(ones, ones / 2, source_std=0.0)
  with pytest.raises(ValueError, match="num_bins"):
    flow_critics.hl_gauss_embedding(ones, 0.0, 1.0, num_bins=0)
  with pytest.raises(ValueError, match="low must be below high"):
    flow_critics.hl_gauss_embedding(ones, 1.0, 1.0)
  with pytest.raises(ValueError, match="sigma"):
    flow_critics.hl_gauss_embedding(ones, 0.0, 1.0, sigma=0.0)
