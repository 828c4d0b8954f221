# SPDX-License-Identifier: Apache-2.0
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import checks
from jaxalign.learning import online_calibration as online
from tests import helpers

M, N, T = 6, 3, 40


def sequence(seed, rounds=T):
  rng = np.random.default_rng(seed)
  return rng.random((rounds, N)), (rng.random(rounds) < 0.6).astype(float)


def test_no_outcome_exploits_a_forecast():
  """The lemma `E[c(p) (p - y)] <= max|c| / m`, exactly, also at its edges."""
  rng = np.random.default_rng(0)
  c = rng.normal(size=(400, M + 1))
  c[:100] = np.round(c[:100])  # with zeros, and equal entries
  c[100:120] = np.abs(c[100:120])
  c[120:140] = -np.abs(c[120:140])
  c[140] = 0
  probs = np.asarray(online.forecast_probabilities(jnp.asarray(c)))
  np.testing.assert_allclose(probs.sum(-1), 1, rtol=1e-15)
  assert np.all(probs >= 0) and np.all((probs > 0).sum(-1) <= 2)
  grid = np.arange(M + 1) / M
  for y in (0, 1):
    value = np.sum(probs * c * (grid - y), -1)
    assert np.all(value <= np.abs(c).max(-1) / M + 1e-15)


def test_forecasts_are_drawn_with_their_probabilities():
  c = jnp.array([-4.0, -3.0, 1.0, 2.0])
  keys = jax.random.split(jax.random.key(0), 20_000)
  drawn = jax.vmap(online.forecast_rule, (0, None))(keys, c)
  share = np.bincount(drawn, minlength=4) / len(keys)
  np.testing.assert_array_equal(share[[0, 3]], 0)
  # Five standard deviations.
  assert abs(share[1] - 0.25) < 5 * math.sqrt(0.25 * 0.75 / len(keys))
  for c, place in (([1.0, -1.0, 1.0], 0), ([-1.0, 0.5, -1.0], 2)):
    assert online.forecast_rule(jax.random.key(1), jnp.array(c)) == place


def active(tests):
  """`[V, M + 1]`: whether the test of place v is active at p_i."""
  places = np.arange(M + 1)
  if tests == "steps":
    return (places[:, None] >= places).astype(float)
  return np.eye(M + 1)


@pytest.mark.parametrize("tests", ["steps", "cells"])
def test_weights_are_those_of_two_sided_hedge(tests):
  """Experts +/- for every test, each with its own weight exp(+-eta S)."""
  rng = np.random.default_rng(1)
  eta = 0.3
  for scale in (1e-4, 1.0, 20.0):
    sums, g = scale * rng.normal(size=(N, M + 1)), rng.random(N)
    up, down = np.exp(eta * sums), np.exp(-eta * sums)
    total = np.sum(up + down)
    margin = np.einsum("k,kv,vi->i", g, (up - down) / total, active(tests))
    found = online.auditor_weights(
      jnp.asarray(sums), jnp.asarray(g), eta=eta, tests=tests
    )
    ratio = np.abs(margin).max() / np.abs(found).max()
    # Explicit weights cancel where sums are small, ours do not.
    np.testing.assert_allclose(
      found * ratio, margin, atol=1e-10 * np.abs(margin).max()
    )


@pytest.mark.parametrize("tests", ["steps", "cells"])
def test_a_run_is_its_rounds(tests):
  g, y = sequence(2)
  key, eta = jax.random.key(3), 0.2
  found = online.online_calibrate(
    key, jnp.asarray(g), jnp.asarray(y), M, eta, tests=tests
  )
  step = jax.jit(
    functools.partial(online.online_calibration_step, eta=eta, tests=tests)
  )
  sums = np.zeros((N, M + 1))
  for t in range(T):
    each = jax.random.fold_in(key, t)
    after, place = step(each, jnp.asarray(sums), g[t], y[t])
    np.testing.assert_allclose(found.predictions[t], place / M, rtol=1e-15)
    shape = active(tests)[:, int(place)]
    sums = sums + g[t][:, None] * shape * (place / M - y[t])
    np.testing.assert_allclose(after, sums, atol=1e-13)
  np.testing.assert_allclose(found.sums, sums, atol=1e-12)


def test_huge_sums_stay_finite():
  sums = jnp.array([[1e5, -1e5, 3.0]])
  found = online.auditor_weights(sums, jnp.ones(1), eta=1.0, tests="cells")
  np.testing.assert_allclose(found, [0.5, -0.5, 0.0])


def test_equal_groups_are_one():
  _, y = sequence(4)
  run = functools.partial(
    online.online_calibrate, jax.random.key(5), y=jnp.asarray(y), m=M, eta=0.3
  )
  one, three = run(Gx=jnp.ones((T, 1))), run(Gx=jnp.ones((T, N)))
  np.testing.assert_array_equal(one.predictions, three.predictions)
  np.testing.assert_allclose(three.sums, one.sums.repeat(N, 0), rtol=1e-15)


@pytest.mark.parametrize("tests", ["steps", "cells"])
def test_expected_errors_stay_below_the_bound(tests):
  rounds, seeds = 400, 16
  found = [sequence(seed, rounds) for seed in range(seeds)]
  g, y = (jnp.stack([jnp.asarray(x[i]) for x in found]) for i in (0, 1))
  eta = math.sqrt(math.log(2 * N * (M + 1)) / rounds)
  sums = jax.vmap(
    lambda key, g, y: online.online_calibrate(key, g, y, M, eta, tests=tests)
  )(jax.random.split(jax.random.key(6), seeds), g, y).sums
  worst = np.abs(sums).max((1, 2))
  bound = online.online_calibration_bound(rounds, M, N)
  assert worst.mean() < bound


def test_bounds_and_rounds_fit():
  bound = 1000 / 20 + 2 * math.sqrt(1000 * math.log(2 * 4 * 21))
  np.testing.assert_allclose(
    online.online_calibration_bound(1000, 20, 4), bound, rtol=1e-12
  )
  for eps, m in ((0.1, 20), (0.02, 60)):
    rounds = online.online_calibration_rounds(eps, m, 4)
    bounds = [
      online.online_calibration_bound(t, m, 4) / t for t in (rounds, rounds - 1)
    ]
    assert bounds[0] <= eps < bounds[1]


def test_steps_transform():
  rng = np.random.default_rng(7)
  keys = jax.random.split(jax.random.key(8), 2)
  arrays = (rng.normal(size=(2, N, M + 1)), rng.random((2, N)), np.ones(2))

  def step(key, sums, g, y):
    return online.online_calibration_step(key, sums, g, y, eta=0.3)

  helpers.assert_transforms(step, keys, *arrays)


def test_bad_input():
  key, g, y = jax.random.key(0), jnp.ones((T, N)), jnp.ones(T)
  with pytest.raises(ValueError, match=r"too coarse .* m of at least 21"):
    online.online_calibration_rounds(0.05, 20, 1)
  with pytest.raises(ValueError, match=r"as many rounds.*\(40, 3\).*\(39,\)"):
    online.online_calibrate(key, g, y[1:], M, 0.1)
  with pytest.raises(checks.InputError, match=r"Gx must be within \[0, 1\]"):
    online.online_calibrate(key, 2 * g, y, M, 0.1)
  with pytest.raises(checks.InputError, match="y must be within .* was 2"):
    online.online_calibrate(key, g, 2 * y, M, 0.1)
  with pytest.raises(ValueError, match="unknown tests 'step'"):
    online.online_calibrate(key, g, y, M, 0.1, tests="step")
  with pytest.raises(ValueError, match="eta must be above 0"):
    online.online_calibrate(key, g, y, M, 0.0)
  with pytest.raises(ValueError, match="must weigh 3 groups"):
    online.auditor_weights(jnp.zeros((N, M)), jnp.ones(2), eta=1.0)
  with pytest.raises(ValueError, match="at least two places"):
    online.forecast_probabilities(jnp.ones(1))
