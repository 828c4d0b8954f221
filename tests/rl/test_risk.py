# SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import divergences
from jaxalign.exact import mdp as processes
from jaxalign.rl import risk
from tests import helpers

LEVEL = 0.7


def draws(seed, *shape):
  return 2 * jax.random.normal(jax.random.key(seed), shape)


# --- losses ------------------------------------------------------------------


def test_itakura_saito_loss_is_the_divergence_of_utilities():
  values, targets = draws(0, 50), draws(1, 50)
  utilities = [jnp.exp(-LEVEL * x)[:, None] for x in (targets, values)]
  helpers.assert_close(
    risk.itakura_saito_loss(values, targets, level=LEVEL),
    divergences.itakura_saito(*utilities) / LEVEL**2,
  )


def test_losses_are_least_at_the_certainty_equivalent():
  targets = draws(1, 50)
  best = risk.certainty_equivalent(targets, level=LEVEL)

  @jax.jit
  def slopes(value):
    return [
      jax.grad(
        lambda v, loss=loss: jnp.mean(
          loss(jnp.full_like(targets, v), targets, level=LEVEL)
        )
      )(value)
      for loss in (risk.itakura_saito_loss, risk.exponential_mse_loss)
    ]

  helpers.assert_close(slopes(best), [0.0, 0.0])
  assert all(s < -1e-3 for s in slopes(best - 0.1))
  assert all(s > 1e-3 for s in slopes(best + 0.1))


def test_a_small_level_gives_half_the_squared_error():
  gaps = draws(0, 50)
  level = 1e-3
  loss = risk.itakura_saito_loss(gaps, jnp.zeros(50), level=level)
  # What is left of the series of the exponential, e^x <= 2 here.
  bound = 2 * level * jnp.abs(gaps) ** 3 / 6
  assert jnp.all(jnp.abs(loss - gaps**2 / 2) <= bound)
  # In float32, where e^x - 1 - x as written would lose every digit.
  tiny = risk.itakura_saito_loss(
    jnp.float32(1), jnp.float32(0), level=np.float32(1e-4)
  )
  assert tiny.dtype == jnp.float32 and abs(tiny - 0.5) < 2e-5


def test_the_gradients_ratio_is_the_squared_utility():
  values, targets = draws(0, 20).at[0].set(-3.0), draws(1, 20)

  @jax.jit
  def ratio(values):
    of_mse, of_ours = (
      jax.grad(lambda v, loss=loss: loss(v, targets, level=LEVEL).sum())(values)
      for loss in (risk.exponential_mse_loss, risk.itakura_saito_loss)
    )
    return of_mse / of_ours

  helpers.assert_close(ratio(values), np.exp(-2 * LEVEL * values))
  assert round(float(ratio(values)[0]), 2) == 66.69


def test_beyond_the_limit_the_loss_is_its_tangent():
  loss = lambda v, limit: risk.itakura_saito_loss(
    v, jnp.zeros_like(v), level=LEVEL, max_exponent=limit
  )
  values = jnp.array([2.0, 4.0, 9.0])
  free = loss(values, 80.0)
  slope = (jnp.exp(2.0) - 1) / LEVEL
  at = 2 / LEVEL
  start = (jnp.exp(2.0) - 3) / LEVEL**2
  expected = jnp.where(values > at, start + slope * (values - at), free)
  helpers.assert_close(loss(values, 2.0), expected)
  far = jax.grad(lambda v: loss(v, 20.0))(jnp.float32(1e4))
  np.testing.assert_allclose(far, np.expm1(20) / LEVEL, rtol=1e-6)
  assert jnp.isfinite(loss(jnp.float32(1e4), 20.0))


def test_no_gradient_flows_into_targets():
  values, targets = draws(0, 4), draws(1, 4)

  @jax.jit
  def slopes(targets):
    return [
      jax.grad(lambda t, loss=loss: loss(values, t, level=LEVEL).sum())(targets)
      for loss in (risk.itakura_saito_loss, risk.exponential_mse_loss)
    ]

  np.testing.assert_array_equal(slopes(targets), 0)


def test_gradients_of_losses():
  # Nor do differences flow into targets, which are constants for `fn`.
  targets = draws(1, 4)
  for loss in (risk.itakura_saito_loss, risk.exponential_mse_loss):
    helpers.assert_gradient(
      lambda v, loss=loss: loss(v, targets, level=LEVEL).sum(), draws(0, 4)
    )


# --- certainty equivalents ---------------------------------------------------


def test_certainty_equivalent_is_the_definition():
  returns = np.asarray(draws(0, 3, 5))
  weights = np.abs(np.asarray(draws(1, 3, 5)))
  p = weights / weights.sum(-1, keepdims=True)
  fn = jax.jit(risk.certainty_equivalent)
  helpers.assert_close(
    fn(returns, weights, level=LEVEL),
    -np.log(np.sum(p * np.exp(-LEVEL * returns), -1)) / LEVEL,
  )
  # Small levels give the mean, large ones the least return: up to half the
  # level times the variance, and to the weight's logarithm over the level.
  mean = np.sum(p * returns, -1)
  np.testing.assert_allclose(fn(returns, weights, level=1e-7), mean, atol=1e-6)
  least = fn(returns, weights, level=1e4)
  np.testing.assert_allclose(least, returns.min(-1), atol=1e-3)


def test_discounting_scales_the_level():
  returns, discount = draws(0, 5), 0.8
  helpers.assert_close(
    risk.certainty_equivalent(0.3 + discount * returns, level=LEVEL),
    0.3 + discount * risk.certainty_equivalent(returns, level=discount * LEVEL),
  )


def test_returns_of_no_weight_do_not_count():
  returns = jnp.array([1.0, jnp.nan, -jnp.inf, 2.0])
  weights = jnp.array([1.0, 0.0, 0.0, 3.0])
  both = jax.jit(
    jax.value_and_grad(
      lambda r, w: risk.certainty_equivalent(r, w, level=LEVEL), (0, 1)
    )
  )
  value, slopes = both(returns, weights)
  expected, kept = both(returns[::3], weights[::3])
  helpers.assert_close(value, expected)
  for slope, of_kept in zip(slopes, kept, strict=True):
    np.testing.assert_array_equal(slope[1:3], 0)
    helpers.assert_close(slope[::3], of_kept)


def test_gradient_of_the_certainty_equivalent():
  helpers.assert_gradient(
    lambda r, w: risk.certainty_equivalent(r, w, level=LEVEL),
    draws(0, 4),
    1 + jnp.abs(draws(1, 4)),
  )


def test_transforms():
  def fn(values, targets):
    return (
      risk.itakura_saito_loss(values, targets, level=LEVEL),
      risk.exponential_mse_loss(values, targets, level=LEVEL),
      risk.certainty_equivalent(values, level=LEVEL),
      risk.certainty_equivalent(values, jnp.abs(targets), level=LEVEL),
    )

  helpers.assert_transforms(fn, draws(0, 2, 4), draws(1, 2, 4))


# --- tabular processes -------------------------------------------------------


def world(discount):
  mdp = processes.random_mdp(jax.random.key(3), 3, 2, discount=discount)
  policy = jax.nn.softmax(draws(4, 3, 2))
  return mdp._replace(rewards=3 * mdp.rewards - 1), policy


def test_the_recursion_is_what_trajectories_give():
  mdp, policy = world(0.8)

  @jax.jit
  def listed(start):
    paths = processes.enumerate_trajectories(mdp, policy, start, horizon=3)
    returns = paths.rewards @ 0.8 ** jnp.arange(3.0)
    return -jnp.log(jnp.sum(paths.probs * jnp.exp(-1.5 * returns))) / 1.5

  recursion = jax.jit(
    risk.exponential_policy_values, static_argnames=("horizon",)
  )
  values = recursion(mdp, policy, level=1.5, horizon=3)
  assert values.shape == (4, 3) and not np.any(values[-1])
  helpers.assert_close(values[0], jnp.stack([listed(s) for s in jnp.eye(3)]))
  # From time 1 on it is the problem of one step less, at the level a g.
  later = recursion(mdp, policy, level=1.5 * 0.8, horizon=2)
  helpers.assert_close(values[1:], later)


def test_optimal_values_are_the_best_of_all_policies_by_time():
  mdp, _ = world(0.8)
  best = risk.exponential_optimal_values(mdp, level=1.5, horizon=2)
  choices = np.array(list(itertools.product(range(2), repeat=3)))

  @jax.jit
  def two_steps(choice):
    last = mdp.rewards[jnp.arange(3), choice]
    return risk.exponential_action_values(mdp, last, level=1.5)

  # Every second choice, and the first by its maximum.
  values = np.stack([two_steps(choice) for choice in choices])
  helpers.assert_close(best[0], values.max((0, 2)))


def test_a_constant_level_is_not_that_of_the_return():
  """Rewards 1 or -1, twice, independently: in closed form."""
  coin = processes.TabularMDP(
    jnp.full((2, 1, 2), 0.5), jnp.array([[1.0], [-1.0]]), 0.8
  )
  rewards, worth = coin.rewards[:, 0], lambda x: -np.log(np.cosh(x))
  values = risk.exponential_policy_values(
    coin, jnp.ones((2, 1)), level=1.0, horizon=2
  )[0]
  equivalent = jax.jit(risk.certainty_equivalent)
  right = equivalent(values, level=1.0)
  helpers.assert_close(right, worth(1.0) + worth(0.8))
  # The same recursion with V at the level a in the place of a g.
  later = equivalent(rewards, level=1.0)
  wrong = equivalent(rewards + 0.8 * later, level=1.0)
  helpers.assert_close(wrong, 1.8 * worth(1.0))
  assert wrong < right - 0.05


def test_gradient_of_policy_values():
  mdp, policy = world(0.8)

  def fn(policy, rewards):
    return risk.exponential_policy_values(
      mdp._replace(rewards=rewards), policy, level=1.5, horizon=2
    )[0].sum()

  helpers.assert_gradient(fn, policy, mdp.rewards)


def test_processes_transform():
  mdp, policy = world(0.8)

  def fn(rewards):
    process = mdp._replace(
      transitions=mdp.transitions.astype(rewards.dtype), rewards=rewards
    )
    return (
      risk.exponential_policy_values(
        process, policy.astype(rewards.dtype), level=LEVEL, horizon=2
      ),
      risk.exponential_optimal_values(process, level=LEVEL, horizon=2),
    )

  helpers.assert_transforms(fn, jnp.stack([mdp.rewards, -mdp.rewards]))


def test_bad_input():
  one, two = jnp.ones(1), jnp.ones(2)
  for loss in (risk.itakura_saito_loss, risk.exponential_mse_loss):
    with pytest.raises(AssertionError, match=r"values \(1,\), targets \(2,\)"):
      loss(one, two, level=1.0)
    with pytest.raises(ValueError, match="level must be above 0, was 0"):
      loss(one, one, level=0.0)
    with pytest.raises(AssertionError, match="floats"):
      loss(jnp.ones(1, int), one, level=1.0)
  with pytest.raises(ValueError, match="max_exponent must be above 0"):
    risk.itakura_saito_loss(one, one, level=1.0, max_exponent=0.0)
  with pytest.raises(AssertionError, match="weights"):
    risk.certainty_equivalent(one, two, level=1.0)
  with pytest.raises(ValueError, match="level"):
    risk.certainty_equivalent(one, level=-1.0)
  mdp, policy = world(0.8)
  with pytest.raises(ValueError, match="horizon must be above 0"):
    risk.exponential_optimal_values(mdp, level=1.0, horizon=0)
  with pytest.raises(AssertionError, match="policy"):
    risk.exponential_policy_values(mdp, policy[:2], level=1.0, horizon=1)
  with pytest.raises(ValueError, match="discount must be above 0"):
    risk.exponential_action_values(
      mdp._replace(discount=0.0), jnp.zeros(3), level=1.0
    )
