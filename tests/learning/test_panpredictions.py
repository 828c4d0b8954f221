# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import checks
from jaxalign.learning import panpredictions, step_calibration
from tests import helpers
from tests.learning import bed

N, A, L, K, J = 60, 4, 8, 4, 4


def losses(seed, number=L):
  return np.random.default_rng(seed).random((number, A, 2))


def test_margins_of_best_responses_do_not_increase():
  p = jnp.linspace(0, 1, 1001)
  respond = jax.jit(jax.vmap(panpredictions.best_response_action, (0, None)))
  loss = losses(0, 50)
  action = respond(jnp.asarray(loss), p)
  margin = loss[..., 1] - loss[..., 0]
  phi = np.take_along_axis(margin, np.asarray(action), 1)
  assert np.all(np.diff(phi) <= 0)
  expected = (1 - p) * loss[..., :1] + p * loss[..., 1:]
  assert expected.shape == (50, A, 1001)
  best = np.take_along_axis(np.asarray(expected), action[:, None], 1)[:, 0]
  np.testing.assert_array_equal(best, expected.min(1))


def test_gaps_stay_below_their_bound():
  """500 random predictors, 8 losses, 4 groups and 4 hypotheses."""
  _, f, w, G, H, actions = bed.world(
    1, num_points=N, num_groups=K, num_hypotheses=J
  )
  loss = losses(1)
  p = np.random.default_rng(2).random((500, N))
  # From noise to nearly right, where the step calibration error is small.
  p = np.clip(f + np.linspace(0, 1, 500)[:, None] * (p - f), 0, 1)

  @jax.jit
  def gaps(p):
    return panpredictions.panprediction_gap(p, f, w, G, H, actions, loss)

  found = jax.vmap(gaps)(jnp.asarray(p))
  assert found.gap.shape == (500, L, K, J)
  ratio = found.gap[1:] / found.bound[1:, :, None, None]
  assert 0 < ratio.max() <= 0.25  # the sheet's figure for its 500
  # Where p = f, nothing is lost, and the bound is 0.
  assert found.gap[0].max() <= 1e-15 and found.bound[0].max() == 0


def test_gaps_are_differences_of_risks():
  p, f, w, G, H, actions = bed.world(3)
  loss = losses(3, 2)
  found = panpredictions.panprediction_gap(
    *map(jnp.asarray, (p, f, w, G, H, actions, loss))
  )
  for i, table in enumerate(loss):
    for k, group in enumerate(G):
      for j, h in enumerate(H):
        total = 0
        for x in range(len(p)):
          risks = [(1 - f[x]) * low + f[x] * high for low, high in table]
          seen = [(1 - p[x]) * low + p[x] * high for low, high in table]
          own = risks[int(np.argmin(seen))]
          rival = risks[list(actions).index(h[x])]
          total += w[x] * group[x] * (own - rival)
        np.testing.assert_allclose(found.gap[i, k, j], total, atol=1e-14)


def test_the_factor_is_that_of_steps():
  """`phi(p) - D(h)` is a sum of steps whose coefficients add up to it."""
  p = np.linspace(0, 1, 101)
  for table in losses(4):
    actions = panpredictions.best_response_action(
      jnp.asarray(table), jnp.asarray(p)
    )
    margin = table[:, 1] - table[:, 0]
    phi = margin[np.asarray(actions)]
    phi_part = abs(phi[-1]) + np.abs(np.diff(phi)).sum()
    assert phi_part <= 3
    rest = abs(margin[-1]) + np.abs(np.diff(margin)).sum()
    found = panpredictions.step_calibration_factor(
      jnp.asarray(table), jnp.asarray(bed.ACTIONS)
    )
    np.testing.assert_allclose(found, phi_part + rest, rtol=1e-12)


def test_omniprediction_and_multi_group_learning_are_special_cases():
  p, f, w, G, H, actions = map(jnp.asarray, bed.world(5))
  loss = jnp.asarray(losses(5))
  whole = panpredictions.panprediction_gap(p, f, w, G, H, actions, loss)
  omni = panpredictions.panprediction_gap(
    p, f, w, jnp.ones((1, 12)), H, actions, loss
  )
  # The first group of the world is everybody.
  np.testing.assert_allclose(omni.gap[:, 0], whole.gap[:, 0], atol=1e-15)
  assert np.all(omni.bound <= whole.bound)
  one = panpredictions.panprediction_gap(p, f, w, G, H, actions, loss[2:3])
  np.testing.assert_allclose(one.gap[0], whole.gap[2], atol=1e-15)
  error = step_calibration.step_calibration_error(p, f, w, G, H, actions)
  factor = panpredictions.step_calibration_factor(loss[2], actions)
  np.testing.assert_allclose(one.bound[0], factor * error, rtol=1e-12)


def test_gaps_transform_and_have_their_gradient():
  arrays = (*bed.worlds(6, 2), np.stack([losses(6, 2), losses(7, 2)]))
  helpers.assert_transforms(panpredictions.panprediction_gap, *arrays)
  p, f, *rest = [jnp.asarray(x[0]) for x in arrays]

  def total(f):
    return jnp.sum(panpredictions.panprediction_gap(p, f, *rest).gap)

  helpers.assert_gradient(total, f)


def test_bad_input():
  p, f, w, G, H, actions = map(jnp.asarray, bed.world(8))
  loss = jnp.asarray(losses(8))
  gap = panpredictions.panprediction_gap
  with pytest.raises(ValueError, match="4 actions, 2"):
    gap(p, f, w, G, H, actions, loss[:, 1:])
  with pytest.raises(checks.InputError, match=r"p must be within \[0, 1\]"):
    panpredictions.best_response_action(loss[0], jnp.array(1.5))
  with pytest.raises(ValueError, match=r"loss must be \[actions, 2\]"):
    panpredictions.best_response_action(loss[0, :, :1], p)
  # A hypothesis that takes no action has no risk.
  odd = gap(p, f, w, G, H.at[0, 0].set(0.3), actions, loss)
  assert np.isnan(odd.gap[:, :, 0]).all() and np.isfinite(odd.gap[..., 1]).all()
