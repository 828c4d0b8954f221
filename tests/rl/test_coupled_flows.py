# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.rl import coupled_flows
from tests import helpers

# Laws on four points, as multiples of a tenth: samples that are exactly them.
EXPERT, POLICY = np.array([1, 2, 3, 4]), np.array([4, 1, 3, 2])
ON_EXPERT, ON_POLICY = (np.repeat(np.arange(4), n) for n in (EXPERT, POLICY))
KL = float(EXPERT / 10 @ np.log(EXPERT / POLICY))


def densities(tables, where):
  """What tables `[2, 4]` of log-densities say of points."""
  return coupled_flows.LogDensities(*(table[where] for table in tables))


def loss_of(tables):
  return coupled_flows.coupled_flow_loss(
    densities(tables, ON_EXPERT), densities(tables, ON_POLICY)
  )


def test_the_minimum_is_the_divergence_at_the_log_ratio():
  """`-KL(E||pi)`, whatever both models have in common."""
  shared = jnp.array([0.3, -2.0, 1.0, 5.0])
  for constant in (0.0, 3.0):
    tables = jnp.stack(
      [shared + jnp.log(EXPERT / 10) + constant, shared + jnp.log(POLICY / 10)]
    )
    loss, gradient = jax.value_and_grad(loss_of)(tables)
    helpers.assert_close(loss, -KL)
    helpers.assert_close(gradient, jnp.zeros((2, 4)), atol=1e-15)
    rewards = coupled_flows.coupled_flow_rewards(
      densities(tables, np.arange(4))
    )
    helpers.assert_close(rewards, np.log(EXPERT / POLICY) + constant)


def test_no_ratio_is_below_the_minimum_and_descent_finds_it(key):
  tables = 2 * jax.random.normal(key, (20, 2, 4))
  losses = jax.vmap(loss_of)(tables)
  assert np.all(losses > -KL)

  def step(tables, _):
    return tables - 0.5 * jax.grad(loss_of)(tables), None

  found, _ = jax.lax.scan(step, tables[0], length=2000)
  # Gradient descent on a strictly convex function, up to a constant.
  np.testing.assert_allclose(loss_of(found), -KL, atol=1e-9)
  ratio = found[0] - found[1]
  expected = np.log(EXPERT / POLICY)
  np.testing.assert_allclose(
    ratio - ratio[0], expected - expected[0], atol=1e-4
  )


def test_masked_samples_change_nothing(key):
  tables = jax.random.normal(key, (2, 4))
  plain = densities(tables, ON_EXPERT)
  padded = coupled_flows.LogDensities(
    *(jnp.concatenate([x, jnp.array([jnp.nan])]) for x in plain)
  )
  where = jnp.arange(11) < 10
  on_policy = densities(tables, ON_POLICY)
  found = coupled_flows.coupled_flow_loss(padded, on_policy, where_expert=where)
  helpers.assert_close(found, loss_of(tables))
  found = coupled_flows.coupled_flow_loss(
    plain, padded, where_policy=where & (jnp.arange(11) < 3)
  )
  short = coupled_flows.LogDensities(*(x[:3] for x in plain))
  helpers.assert_close(found, coupled_flows.coupled_flow_loss(plain, short))


def test_gradient_and_transforms(key):
  tables = jax.random.normal(key, (2, 2, 4))
  helpers.assert_gradient(loss_of, tables[0])

  def both(tables):
    rewards = coupled_flows.coupled_flow_rewards(densities(tables, ON_POLICY))
    return loss_of(tables), rewards

  helpers.assert_transforms(both, tables)
  constant = jax.grad(lambda tables: both(tables)[1].sum())(tables[0])
  np.testing.assert_array_equal(constant, jnp.zeros((2, 4)))


def test_bad_input_is_refused():
  good = coupled_flows.LogDensities(jnp.ones(3), jnp.ones(3))
  with pytest.raises(AssertionError, match="expert"):
    coupled_flows.coupled_flow_rewards(good._replace(policy=jnp.ones(2)))
  with pytest.raises(AssertionError, match="floats"):
    coupled_flows.coupled_flow_loss(
      good._replace(expert=jnp.ones(3, int)), good
    )
  with pytest.raises(AssertionError, match="where"):
    coupled_flows.coupled_flow_loss(good, good, where_expert=jnp.ones(2, bool))
