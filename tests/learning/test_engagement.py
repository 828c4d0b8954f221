# SPDX-License-Identifier: Apache-2.0
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.learning import engagement
from tests import helpers
from tests.experiments import conventions

LOGISTIC = dict(base=1.0, price=0.08, discount=0.9, friction=0.3)
GRID = np.arange(-8, 8.025, 0.05)


def logistic(y):
  return 1 / (1 + np.exp(-y))


def of_return(demand, discount, friction):
  """`E[g^rounds]`, summed over the rounds until the user takes part."""
  total, stays_away = demand * discount, 1 - demand
  for rounds in range(2, 2000):
    total += stays_away * (1 - friction) * demand * discount**rounds
    stays_away *= 1 - (1 - friction) * demand
  return total


# --- discounts and engagement ------------------------------------------------


def test_effective_discounts_have_the_printed_values():
  for f, g, phi, printed in (
    (0.7, 0.9, 0.5, ".834940"),
    (0.6, 0.8, 1.0, ".48"),
  ):
    found = engagement.effective_discount(
      jnp.array(f), discount=g, friction=phi
    )
    conventions.assert_printed(float(found), printed)


@pytest.mark.parametrize("friction", [0.0, 0.35, 1.0])
def test_effective_discount_is_that_of_the_next_round_taken_part_in(friction):
  f = np.array([0.0, 0.2, 0.9, 1.0])
  found = engagement.effective_discount(
    jnp.asarray(f), discount=0.9, friction=friction
  )
  np.testing.assert_allclose(found, of_return(f, 0.9, friction), atol=1e-15)
  assert np.all(found <= 0.9 + 1e-15) and np.all(np.diff(found) > 0)


def test_rounds_count_from_the_one_after_an_arm():
  """With friction 1 nobody returns: `g f`, not `g f / (1 - g (1 - f))`."""
  f = jnp.array([0.3, 0.8])
  never = engagement.effective_discount(f, discount=0.9, friction=1.0)
  np.testing.assert_allclose(never, 0.9 * f, rtol=1e-15)
  free = engagement.effective_discount(f, discount=0.9, friction=0.0)
  np.testing.assert_allclose(free, 0.9 * f / (1 - 0.9 * (1 - f)), rtol=1e-14)


def test_engagement_is_the_stationary_law_of_the_chain():
  f, phi = np.array([0.1, 0.5, 0.95]), 0.4
  for found, p in zip(
    engagement.stationary_engagement(jnp.asarray(f), friction=phi),
    f,
    strict=True,
  ):
    chain = np.array([[p, 1 - p], [(1 - phi) * p, 1 - (1 - phi) * p]])
    np.testing.assert_allclose(
      found, np.linalg.matrix_power(chain, 2000)[0, 0], rtol=1e-12
    )


def test_engagement_at_its_ends():
  def fn(f):
    return engagement.stationary_engagement(f, friction=1.0)

  ends = jnp.array([0.0, 0.9, 1.0])
  np.testing.assert_array_equal(fn(ends), [0, 0, 1])
  assert np.all(np.isfinite(jax.jit(jax.vmap(jax.grad(fn)))(ends)))


def test_discount_and_engagement_have_gradients_and_transform():
  def both(f, phi):
    return jnp.stack(
      [
        engagement.effective_discount(f, discount=0.9, friction=phi),
        engagement.stationary_engagement(f, friction=phi),
      ]
    )

  helpers.assert_gradient(
    lambda f, phi: jnp.sum(both(f, phi)), jnp.array(0.7), jnp.array(0.4)
  )
  f = np.random.default_rng(0).random((2, 3))
  helpers.assert_transforms(both, f, f[::-1].copy())


# --- targets and dynamic programs --------------------------------------------


def program(y, demand, *, max_step=math.inf, base, price, discount, friction):
  rewards = engagement.linear_rewards(
    y, base=base, price=price, max_step=max_step
  )
  discounts = engagement.effective_discount(
    demand, discount=discount, friction=friction
  )
  return engagement.value_iteration(rewards, discounts)


def test_closed_form_is_the_dynamic_program():
  y, f = jnp.asarray(GRID), jnp.asarray(logistic(GRID))
  best = engagement.optimal_target(y, f, **LOGISTIC)
  assert abs(best.y - 5) < 1e-12
  conventions.assert_printed(float(best.value), "9.5177")
  plan = program(y, f, **LOGISTIC)
  np.testing.assert_allclose(
    plan.values, LOGISTIC["price"] * GRID + best.value, atol=1e-12
  )
  np.testing.assert_allclose(GRID[plan.targets], best.y)
  # The first-order condition has its root within a step of the grid.
  slope = jax.vmap(
    jax.grad(
      lambda y: (
        1
        / (
          1
          - engagement.effective_discount(
            jax.nn.sigmoid(y), discount=0.9, friction=0.3
          )
        )
        - 0.08 * y
      )
    )
  )(best.y + jnp.array([-0.05, 0.05]))
  assert slope[0] > 0 > slope[1]


def test_bounded_steps_never_exceed_the_closed_form():
  y, f = jnp.asarray(GRID), jnp.asarray(logistic(GRID))
  best = engagement.optimal_target(y, f, **LOGISTIC)
  plan = program(y, f, max_step=1.0, **LOGISTIC)
  assert np.all(plan.values <= 0.08 * GRID + best.value + 1e-12)
  conventions.assert_printed(float(plan.values[160]), "9.0046")
  assert np.max(np.abs(GRID[plan.targets] - GRID)) < 1 + 1e-9


def test_levels_need_only_their_left_ends():
  starts = np.array([-8.0, -3.0, -1.0, 0.0, 1.5, 3.0])
  levels = np.array([0.05, 0.2, 0.5, 0.7, 0.85, 0.95])
  best = engagement.optimal_target(
    jnp.asarray(starts), jnp.asarray(levels), **LOGISTIC
  )
  assert best.y == 3
  conventions.assert_printed(float(best.value), "9.154755")
  everywhere = np.arange(-64, 65) / 8
  demand = levels[np.searchsorted(starts, everywhere, side="right") - 1]
  fine = engagement.optimal_target(
    jnp.asarray(everywhere), jnp.asarray(demand), **LOGISTIC
  )
  assert fine.y == best.y and fine.value == best.value


def test_friction_lowers_revenue_and_raises_engagement():
  y, f = jnp.array([0.0, 1.0]), jnp.array([0.5, 0.95])
  for phi, at, value, share in (
    (0.0, 0, "5.5", ".5"),
    (0.9, 1, "3.047722", ".655172"),
  ):
    model = dict(base=1.0, price=5.0, discount=0.9, friction=phi)
    best = engagement.optimal_target(y, f, **model)
    assert best.y == at
    conventions.assert_printed(float(best.value), value)
    found = engagement.stationary_engagement(f[at], friction=phi)
    conventions.assert_printed(float(found), share)
    plan = program(y, f, **model)
    np.testing.assert_allclose(plan.values[0], best.value, rtol=1e-13)


def test_programs_of_other_menus_solve_their_equation():
  """Random arms, of which some moves are missing; every state has one."""
  rng = np.random.default_rng(1)
  rewards = np.where(rng.random((2, 6, 6)) < 0.5, rng.normal(size=(6, 6)), -1e9)
  rewards[rewards == -1e9] = -np.inf
  rewards[:, np.arange(6), np.arange(6)] = 0.3
  discounts = rng.random((2, 6)) * 0.9
  discounts[:, 2] = 0
  plan = engagement.value_iteration(
    jnp.asarray(rewards[0]), jnp.asarray(discounts[0])
  )
  options = rewards[0] + discounts[0] * plan.values
  np.testing.assert_allclose(plan.values, options.max(1), rtol=1e-14)
  np.testing.assert_array_equal(plan.targets, options.argmax(1))
  # The values of the plan, followed forever.
  own = rewards[0][np.arange(6), plan.targets]
  moves = np.eye(6)[np.asarray(plan.targets)] * discounts[0]
  np.testing.assert_allclose(
    np.linalg.solve(np.eye(6) - moves, own), plan.values, rtol=1e-13
  )
  helpers.assert_transforms(engagement.value_iteration, rewards, discounts)


def test_where_no_arm_can_be_shown():
  rewards = jnp.array([[-jnp.inf, -jnp.inf], [1.0, 0.0]])
  plan = engagement.value_iteration(rewards, jnp.array([0.3, 0.5]))
  assert plan.values[0] == -jnp.inf
  assert plan.values[1] < 1e-15 and plan.targets[1] == 1
  # Who never comes back can be sent there.
  plan = engagement.value_iteration(rewards, jnp.array([0.0, 0.5]))
  np.testing.assert_array_equal(plan.values, [-np.inf, 1])


def test_targets_are_batched_and_differentiable():
  rng = np.random.default_rng(2)
  y, f = rng.normal(size=(2, 4)), rng.random((2, 4))

  def value(y, f):
    return engagement.optimal_target(y, f, **LOGISTIC).value

  helpers.assert_transforms(value, y, f)
  helpers.assert_gradient(value, jnp.asarray(y[0]), jnp.asarray(f[0]))
  rows = engagement.optimal_target(jnp.asarray(y), jnp.asarray(f), **LOGISTIC)
  for i in range(2):
    one = engagement.optimal_target(
      jnp.asarray(y[i]), jnp.asarray(f[i]), **LOGISTIC
    )
    assert rows.y[i] == one.y and rows.value[i] == one.value


# --- Hedge -------------------------------------------------------------------


def adversary(rounds, policies):
  """A gain goes to the policy that Hedge believes in least."""
  total = np.zeros(policies)
  for _ in range(rounds):
    row = np.eye(policies)[np.argmin(total)]
    total += row
    yield row


def test_competitive_rate_solves_its_equation():
  eta = engagement.competitive_rate()
  conventions.assert_printed(eta, "1.2564312")
  assert abs(eta / math.expm1(eta) - 0.5) < 1e-15
  bound = engagement.hedge_guarantee(jnp.array(0.0), 3, eta=eta)
  conventions.assert_printed(float(-bound / math.log(3)), ".3979525")


def test_hedge_is_its_definition():
  gains = np.random.default_rng(3).random((7, 3))
  run = engagement.hedge_competitive(jnp.asarray(gains), eta=0.7)
  total, earned = np.zeros(3), 0.0
  for t, row in enumerate(gains):
    weights = np.exp(0.7 * total) / np.exp(0.7 * total).sum()
    np.testing.assert_allclose(run.weights[t], weights, rtol=1e-13)
    earned += weights @ row
    total += row
  np.testing.assert_allclose(run.gain, earned, rtol=1e-14)
  np.testing.assert_allclose(run.best, total.max(), rtol=1e-15)
  helpers.assert_transforms(
    lambda g: engagement.hedge_competitive(g, eta=0.7),
    np.random.default_rng(4).random((2, 5, 3)),
  )


def test_hedge_earns_what_is_guaranteed():
  """On random, skewed, sparse, drifting and adversarial gains."""
  rng, rounds, policies = np.random.default_rng(5), 120, 5
  uniform = rng.random((40, rounds, policies))
  sparse = (rng.random((40, rounds, policies)) < 0.05).astype(float)
  skewed = uniform * np.linspace(0.1, 1, policies)
  blocks = np.repeat(np.eye(policies), rounds // policies, 0)
  chosen = np.stack([blocks, blocks[::-1], [*adversary(rounds, policies)]])
  gains = jnp.asarray(np.concatenate([uniform, sparse, skewed, chosen]))

  @jax.jit
  def slacks(gains, eta):
    run = jax.vmap(lambda g: engagement.hedge_competitive(g, eta=eta))(gains)
    bound = engagement.hedge_guarantee(run.best, policies, eta=eta)
    return run.gain - bound, run.gain - run.best

  eta = engagement.competitive_rate()
  slack, _ = slacks(gains, eta)
  assert np.all(slack > 0)
  slack, regret = slacks(gains, math.sqrt(8 * math.log(policies) / rounds))
  assert np.all(slack > 0)
  assert np.all(regret >= -math.sqrt(rounds * math.log(policies) / 2))


def test_bad_input():
  y, f = jnp.zeros(2), jnp.full(2, 0.5)
  with pytest.raises(ValueError, match=r"demand must be in \[0, 1\]"):
    engagement.effective_discount(2 * y + 2, discount=0.9, friction=0.0)
  with pytest.raises(ValueError, match="discount must be above 0"):
    engagement.effective_discount(f, discount=0.0, friction=0.0)
  with pytest.raises(ValueError, match=r"friction must be in .*was 1.5"):
    engagement.stationary_engagement(f, friction=1.5)
  with pytest.raises(AssertionError, match=r"demand \(3,\)"):
    engagement.optimal_target(y, jnp.zeros(3), **LOGISTIC)
  with pytest.raises(ValueError, match="price must be above 0"):
    engagement.optimal_target(y, f, **{**LOGISTIC, "price": 0.0})
  with pytest.raises(ValueError, match="price must be above 0"):
    engagement.linear_rewards(y, base=1.0, price=-1.0)
  with pytest.raises(AssertionError, match=r"discounts \(2,\)"):
    engagement.value_iteration(jnp.zeros((2, 3)), f)
  with pytest.raises(ValueError, match="one_less_discounts must be above 0"):
    engagement.value_iteration(jnp.zeros((2, 2)), jnp.ones(2))
  with pytest.raises(ValueError, match=r"gains must be in \[0, 1\]"):
    engagement.hedge_competitive(jnp.full((2, 2), -0.1))
  with pytest.raises(ValueError, match="eta must be above 0"):
    engagement.hedge_competitive(jnp.zeros((2, 2)), eta=0.0)
  with pytest.raises(ValueError, match="num_policies must be above 0"):
    engagement.hedge_guarantee(jnp.array(1.0), 0, eta=1.0)
