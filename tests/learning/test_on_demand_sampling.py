# SPDX-License-Identifier: Apache-2.0
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxalign.learning import on_demand_sampling as library
from tests import helpers

K, M, T = 16, 4, 2000


def hedge_by_hand(indices, region, *, growth=2.0):
  """Weights, caps and rounds of T steps on a hard instance, in NumPy."""
  eta = math.sqrt(math.log(K) / T)
  gains, peaks, caps = np.zeros(K), np.full(K, 1 / K), np.full(K, growth / K)
  rounds, path = 1, []
  for _ in range(T):
    w = np.exp(eta * gains)
    w /= w.sum()
    covered = {
      "box": np.all(w <= caps),
      "ellipsoid": np.sum(w**2 / caps) <= 1,
    }[region]
    peaks = np.maximum(peaks, w)
    if not covered:
      caps, rounds = growth * peaks, rounds + 1
    path.append((w, caps))
    values = w[indices] + np.arange(1, M + 1) / M**2
    gains[indices[values.argmin()]] += 1
  return path, rounds


@functools.cache
def found(region):
  instance = library.oods_hard_instance(jax.random.key(0), K, M)
  value = functools.partial(library.oods_value, instance)
  run = functools.partial(
    library.lazy_hedge, jax.grad(value), K, steps=T, region=region
  )
  return instance, jax.jit(lambda: run())()


@pytest.mark.parametrize(("region", "seen"), [("box", 5), ("ellipsoid", 2)])
def test_lazy_hedge_is_what_it_is_by_hand(region, seen):
  instance, result = found(region)
  path, rounds = hedge_by_hand(np.asarray(instance.indices), region)
  assert result.rounds == rounds
  weights, caps = map(np.array, zip(*path, strict=True))
  # Steps at which terms tie within rounding may go to either.
  np.testing.assert_allclose(result.average, weights.mean(0), atol=2 / T)
  np.testing.assert_allclose(result.caps, caps[-1], rtol=0.01)
  np.testing.assert_allclose(result.cost, result.caps.sum())
  assert np.all(np.diff(caps, axis=0) >= 0)
  assert rounds == seen  # as in longer runs
  assert rounds <= K * math.log2(K) + 1
  assert result.cost <= 4.3


@pytest.mark.parametrize("region", ["box", "ellipsoid"])
def test_the_average_is_near_the_maximum(region):
  instance, result = found(region)
  gap = instance.maximum - library.oods_value(instance, result.average)
  assert 0 <= gap <= 2 * math.sqrt(math.log(K) / T)


def test_the_maximum_of_a_hard_instance_is_that_of_a_linear_program(key):
  k, m = 6, 3
  instance = library.oods_hard_instance(key, k, m)
  # max v: v <= w_{i_j} + j/m^2, w on the simplex.
  rows = np.zeros((m, k + 1))
  rows[np.arange(m), np.asarray(instance.indices)] = -1
  rows[:, -1] = 1
  solved = optimize.linprog(
    np.eye(k + 1)[-1] * -1,
    A_ub=rows,
    b_ub=np.arange(1, m + 1) / m**2,
    A_eq=[[1] * k + [0]],
    b_eq=[1],
  )
  np.testing.assert_allclose(instance.maximum, -solved.fun, rtol=1e-9)
  assert len(set(np.asarray(instance.indices).tolist())) == m


def test_values_are_concave_and_their_gradient_is_a_supergradient(key):
  instance = library.oods_hard_instance(key, K, M)
  rng = np.random.default_rng(0)
  w, v = jnp.asarray(rng.dirichlet(np.full(K, 0.3), (2, 50)))
  value = functools.partial(library.oods_value, instance)
  slope = jax.vmap(jax.grad(value))(w)
  expected = w[:, instance.indices] + np.arange(1, M + 1) / M**2
  np.testing.assert_allclose(value(w), expected.min(-1), rtol=1e-15)
  assert np.all(value(v) <= value(w) + jnp.sum(slope * (v - w), -1) + 1e-12)
  helpers.assert_transforms(lambda x: value(x), w[:2])


def test_the_box_is_within_the_ellipsoid():
  rng = np.random.default_rng(1)
  w = rng.dirichlet(np.ones(4), 5000)
  caps = w * rng.uniform(0.7, 2.5, w.shape)
  inside = {
    region: np.asarray(library.in_region(w, caps, region=region))
    for region in ("box", "ellipsoid")
  }
  np.testing.assert_array_equal(inside["box"], (w <= caps).all(1))
  np.testing.assert_array_equal(inside["ellipsoid"], (w**2 / caps).sum(1) <= 1)
  assert not np.any(inside["box"] & ~inside["ellipsoid"])
  assert np.any(inside["ellipsoid"] & ~inside["box"])
  assert not np.all(inside["ellipsoid"])


def test_steps_transform_and_caps_never_decrease():
  rng = np.random.default_rng(2)
  gains = jnp.asarray(rng.normal(size=(2, 40, 3)) * 3)
  init = library.lazy_hedge_init(3, growth=1.5)

  def run(gains):
    def step(state, gain):
      state = library.lazy_hedge_expand(state, growth=1.5, region="ellipsoid")
      covered = library.in_region(
        jnp.exp(state.log_weights), state.caps, region="ellipsoid"
      )
      out = state.caps, covered, state.rounds
      return library.lazy_hedge_update(state, gain, eta=0.3), out

    state = jax.tree.map(
      lambda x: x.astype(gains.dtype) if x.dtype != jnp.int32 else x, init
    )
    return jax.lax.scan(step, state, gains)[1]

  helpers.assert_transforms(run, gains)
  caps, covered, rounds = jax.vmap(run)(gains)
  assert np.all(covered) and np.all(np.diff(caps, axis=1) >= 0)
  grown = np.any(np.diff(caps, axis=1) > 0, -1)
  np.testing.assert_array_equal(np.diff(rounds, axis=1), grown)
  assert rounds.max() >= 3


def test_the_step_size_balances_the_two_terms_of_hedges_regret():
  eta = library.hedge_step_size(K, T)
  bound = math.log(K) / (eta * T) + eta / 8
  np.testing.assert_allclose(bound, 9 / 8 * math.sqrt(math.log(K) / T))
  assert library.hedge_step_size(1, T) == 0


def test_bad_input(key):
  with pytest.raises(ValueError, match="m must lie in 1 to k = 4, was 5"):
    library.oods_hard_instance(key, 4, 5)
  run = functools.partial(library.lazy_hedge, lambda w: w)
  with pytest.raises(ValueError, match="steps must be above 0"):
    run(4, steps=0)
  with pytest.raises(ValueError, match="eta must be above 0"):
    run(4, steps=2, eta=0.0)
  with pytest.raises(ValueError, match=r"growth - 1 must be above 0, was 0.0"):
    run(4, steps=2, growth=1.0)
  with pytest.raises(ValueError, match="unknown region 'ball'"):
    run(4, steps=2, region="ball")
  with pytest.raises(ValueError, match="num_distributions must be above 0"):
    run(0, steps=2)
