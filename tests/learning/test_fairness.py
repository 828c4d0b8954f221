# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxalign.learning import fairness
from tests import helpers

RNG = np.random.default_rng(0)
GROUPS = np.repeat([0.0, 1.0], [40, 60])
PREDICTIONS = np.repeat([1.0, 0.0, 1.0, 0.0], [12, 28, 36, 24])
A, B, SHARE = 12 / 40, 36 / 60, 0.6
project = jax.jit(fairness.entropic_projection)


def constraints(impact):
  return fairness.impact_constraints(PREDICTIONS, GROUPS, impact=impact)


def test_impact_is_the_ratio_of_rates():
  rates = fairness.group_rates(PREDICTIONS, GROUPS)
  np.testing.assert_allclose(rates, [A, B], rtol=1e-15)
  assert fairness.disparate_impact(PREDICTIONS, GROUPS) == A / B
  weights = RNG.random(100)
  zero, one = GROUPS == 0, GROUPS == 1
  expected = [
    np.average(PREDICTIONS[g], weights=weights[g]) for g in (zero, one)
  ]
  found = fairness.group_rates(PREDICTIONS, GROUPS, weights)
  np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_impact_without_positives_or_groups():
  impact = fairness.disparate_impact
  assert impact(np.array([1, 0]), np.array([0, 1])) == np.inf
  assert np.isnan(impact(np.array([1, 0]), np.array([1, 1])))
  assert impact(np.array([0, 1]), np.array([0, 1])) == 0


def test_projection_is_the_constrained_minimum():
  features = RNG.normal(size=(12, 2))
  target = np.array([0.3, -0.2])
  found = project(features, target)
  np.testing.assert_allclose(found.weights.sum(), 1, rtol=1e-14)
  np.testing.assert_allclose(found.weights @ features, target, atol=1e-13)
  assert found.residual < 1e-13

  def objective(log_weights):
    weights = np.exp(log_weights)
    return np.sum(weights * (log_weights + np.log(12)))

  best = scipy.optimize.minimize(
    objective,
    np.full(12, -np.log(12)),
    method="SLSQP",
    constraints={
      "type": "eq",
      "fun": lambda x: np.append(
        np.exp(x) @ features - target, np.exp(x).sum() - 1
      ),
    },
    options={"ftol": 1e-14, "maxiter": 300},
  )
  np.testing.assert_allclose(found.kl, best.fun, rtol=0, atol=1e-8)
  np.testing.assert_allclose(found.weights, np.exp(best.x), rtol=0, atol=1e-5)
  # The divergence of the weights, and Lagrange's form of it.
  kl = np.sum(found.weights * np.log(12 * found.weights))
  np.testing.assert_allclose(found.kl, kl, rtol=1e-12)


def test_projection_of_impact_is_the_problem_in_one_unknown():
  for impact in (0.8, 1.0, 1.4):
    found = project(*constraints(impact))
    reached = fairness.disparate_impact(PREDICTIONS, GROUPS, found.weights)
    np.testing.assert_allclose(reached, impact, rtol=1e-13)
    np.testing.assert_allclose(found.weights @ GROUPS, SHARE, rtol=1e-13)
    rates = fairness.entropic_rates(jnp.array([A, B]), SHARE, impact=impact)
    np.testing.assert_allclose(rates.kl, found.kl, rtol=1e-11)
    weighted = fairness.group_rates(PREDICTIONS, GROUPS, found.weights)
    np.testing.assert_allclose(rates[:2], weighted, rtol=1e-12)


def test_without_the_shares_the_impact_is_another():
  features, target = constraints(0.8)
  found = project(features[:, :1], target[:1])
  assert found.residual < 1e-13
  reached = fairness.disparate_impact(PREDICTIONS, GROUPS, found.weights)
  assert abs(reached - 0.8) > 0.01


def test_projection_where_nothing_is_to_be_done_and_where_it_cannot_be():
  features = RNG.normal(size=(12, 2))
  found = project(features, features.mean(0))
  np.testing.assert_allclose(found.weights, 1 / 12, rtol=1e-12)
  np.testing.assert_allclose(found.kl, 0, atol=1e-15)
  # Dependent features have no single multiplier, but one projection.
  twice = np.stack([features[:, 0], 2 * features[:, 0]], 1)
  once = project(twice, np.array([0.3, 0.6]))
  alone = fairness.entropic_projection(twice[:, :1], np.array([0.3]))
  np.testing.assert_allclose(once.weights, alone.weights, rtol=1e-9)
  # Outside of the hull.
  assert project(features, np.array([9.0, 9.0])).residual > 1


def test_projection_has_its_gradient():
  features, target = RNG.normal(size=(6, 2)), np.array([0.1, 0.2])

  def entry(features, target):
    return fairness.entropic_projection(features, target).weights[0]

  helpers.assert_gradient(entry, features, target, rtol=1e-5)
  slope = jax.grad(lambda t: fairness.entropic_projection(features, t).kl)
  found = fairness.entropic_projection(features, target)
  np.testing.assert_allclose(slope(target), found.multipliers, rtol=1e-10)


def test_balanced_rates_reach_the_impact_but_are_not_the_closest():
  rates = jnp.array([A, B])
  for impact in (0.8, 1.0):
    found = fairness.balanced_rates(rates, SHARE, impact=impact)
    np.testing.assert_allclose(
      found.disadvantaged / found.advantaged, impact, rtol=1e-14
    )
    np.testing.assert_allclose(
      found.disadvantaged - A, B - found.advantaged, rtol=1e-13
    )
    best = fairness.entropic_rates(rates, SHARE, impact=impact)
    assert found.kl > best.kl + 1e-5
  # Its longer expression: what both rates move by, as weights of the sample.
  same = fairness.balanced_rates(rates, SHARE, impact=A / B)
  np.testing.assert_allclose(same[:2], [A, B], rtol=1e-14)
  np.testing.assert_allclose(same.kl, 0, atol=1e-15)


def test_flips_are_the_fewest_that_reach_the_impact(key):
  flip = jax.jit(fairness.flip_predictions)
  for impact, flips in ((0.8, 8), (1.0, 12), (0.81, 8), (0.4, 0), (9.0, 28)):
    found = flip(key, PREDICTIONS, GROUPS, impact=impact)
    changed = np.asarray(found) != PREDICTIONS
    assert changed.sum() == flips
    assert np.all(GROUPS[changed] == 0) and np.all(found[changed] == 1)
    reached = fairness.disparate_impact(found, GROUPS)
    if 0.5 < impact < 9:
      assert reached >= impact - 1e-12
      assert (12 + flips - 1) / 40 / B < impact
  again = flip(jax.random.key(1), PREDICTIONS, GROUPS, impact=0.8)
  found = flip(key, PREDICTIONS, GROUPS, impact=0.8)
  assert not np.array_equal(found, again)


def test_transforms(key):
  rates = np.array([[0.3, 0.6], [0.2, 0.5]])

  def forms(rates):
    return (
      fairness.entropic_rates(rates, 0.6, impact=0.8),
      fairness.balanced_rates(rates, 0.6, impact=0.8),
    )

  helpers.assert_transforms(forms, rates)
  helpers.assert_gradient(
    lambda r: fairness.entropic_rates(r, 0.6, impact=0.8).kl, rates[0]
  )
  order = RNG.permutation(100)
  both = (np.stack([x, x[order]]) for x in (PREDICTIONS, GROUPS))

  def whole(key, predictions, groups):
    arguments = fairness.impact_constraints(predictions, groups, impact=0.8)
    found = fairness.entropic_projection(*arguments, num_steps=8)
    return (
      found.weights,
      fairness.disparate_impact(predictions, groups, found.weights),
      fairness.flip_predictions(key, predictions, groups, impact=0.8),
    )

  helpers.assert_transforms(whole, jax.random.split(key, 2), *both)


def test_bad_input(key):
  with pytest.raises(AssertionError, match=r"groups \(2,\)"):
    fairness.disparate_impact(PREDICTIONS, GROUPS[:2])
  with pytest.raises(AssertionError, match=r"weights \(2,\)"):
    fairness.group_rates(PREDICTIONS, GROUPS, jnp.ones(2))
  with pytest.raises(AssertionError, match=r"target \(3,\)"):
    fairness.entropic_projection(jnp.zeros((4, 2)), jnp.zeros(3))
  with pytest.raises(ValueError, match="num_steps must be above 0"):
    fairness.entropic_projection(jnp.zeros((4, 2)), jnp.zeros(2), num_steps=0)
  with pytest.raises(ValueError, match="impact must be above 0"):
    constraints(0.0)
  with pytest.raises(ValueError, match="impact must be above 0"):
    fairness.flip_predictions(key, PREDICTIONS, GROUPS, impact=-1.0)
  with pytest.raises(AssertionError):
    fairness.entropic_rates(jnp.zeros(3), 0.5, impact=0.8)
  with pytest.raises(ValueError, match="impact must be above 0"):
    fairness.balanced_rates(jnp.zeros(2), 0.5, impact=0.0)
