# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import numpy as np
import pytest

from experiments import harness, mirror_descent
from experiments.stages.mirror_descent import (
  explicit,
  mdvi,
  munchausen,
  worlds,
  zeros,
)
from tests.experiments import conventions

SMOKE = mirror_descent.Config.from_preset("smoke")
SEEDS = range(SMOKE.num_seeds)


def test_claims_reproduce():
  conventions.assert_reproduces(mirror_descent)


def mdvi_errors(key):
  """With the shapes of the smoke preset, whose program is compiled."""
  keys = jax.random.split(key, SMOKE.num_seeds)
  world = worlds.draw(0), worlds.optimum().values
  run = mdvi.run(keys, *world, num_samples=1, iterations=SMOKE.iterations)
  return np.asarray(run)


def test_the_printed_rates():
  curves = conventions.smoke(mirror_descent).curves
  conventions.assert_printed(float(curves["mdvi/constant"]), "79.8")
  printed = {
    (2, 200): 0.418,
    (2, 800): 0.148,
    (2, 3200): 0.040,
    (1, 200): (0.24 + 0.31) / 2,
    (1, 800): (0.24 + 0.31) / 2,
    (0, 200): (0.55 + 0.74) / 2,
    (0, 800): (0.55 + 0.74) / 2,
  }
  errors = mdvi_errors(SMOKE.key())
  for (i, k), value in printed.items():
    runs = errors[i, :, k - 1]
    # Means of 16 runs here and there: two standard errors add up.
    spread = np.sqrt(2) * runs.std(ddof=1) / np.sqrt(len(runs))
    assert abs(runs.mean() - value) < harness.STANDARD_ERRORS * spread, (i, k)


def test_the_constant_is_a_limit():
  """From the recursion itself, in NumPy."""
  mdp, best = worlds.draw(0), worlds.optimum().values
  scores = np.zeros((worlds.STATES, worlds.ACTIONS))
  before = last = np.zeros(worlds.STATES)
  for _ in range(800):
    ahead = mdp.transitions @ (last - before)
    scores = scores + mdp.rewards + worlds.DISCOUNT * ahead
    before, last = last, scores.max(-1)
  np.testing.assert_allclose(
    800 * np.max(np.abs(last / 800 - best)), mdvi.constant(), rtol=1e-9
  )


def test_another_seed_draws_other_samples():
  errors = mdvi_errors(jax.random.key(1))
  np.testing.assert_array_equal(errors, mdvi_errors(jax.random.key(1)))
  assert not np.array_equal(errors, mdvi_errors(SMOKE.key()))
  first, other = (worlds.draw_several(range(i, i + 2)) for i in (0, 2))
  np.testing.assert_array_equal(first.rewards[0], other.rewards[0])
  assert not np.any(first.rewards[1:] == other.rewards[1:])


def test_memory_the_wrong_way_round_fails(monkeypatch):
  real = mdvi.run
  monkeypatch.setattr(mdvi, "run", lambda *x, **y: real(*x, **y)[::-1])
  part = mdvi.mdvi(
    key=SMOKE.key(), num_runs=SMOKE.num_seeds, iterations=SMOKE.iterations
  )
  assert conventions.failed(part.claims) == {
    "mdvi_exact_rate",
    "mdvi_sampled_rate",
    "mdvi_without_memory",
    "mdvi_some_memory",
  }


def test_a_bonus_left_out_fails(monkeypatch):
  wrong = explicit.mirror_descent.munchausen_step

  def without(*args, alpha, **options):
    return wrong(*args, alpha=0.0 * alpha, **options)

  monkeypatch.setattr(explicit.mirror_descent, "munchausen_step", without)
  failed = conventions.failed(explicit.explicit(seeds=SEEDS).claims)
  assert failed == {"munchausen_explicit"}


def test_no_share_of_the_bonus_fails(monkeypatch):
  real = munchausen.solve

  def solve(mdps, taus, alphas, floors, **options):
    return real(mdps, taus, 0 * alphas, floors, **options)

  monkeypatch.setattr(munchausen, "solve", solve)
  failed = conventions.failed(munchausen.limits(seeds=SEEDS).claims)
  # With all the entropy the policy loses more than with a tenth of it.
  assert failed == {"munchausen_limit", "munchausen_loss", "munchausen_gaps"}
  # Without it the temperature must be as much lower.
  failed = conventions.failed(munchausen.sparse().claims)
  assert {"mvi2_one_action", "mvi2_greedy"} <= failed


def test_a_dense_policy_fails(monkeypatch):
  real = munchausen.solve
  monkeypatch.setattr(
    munchausen, "solve", lambda *x, q, reading: real(*x, q=1.0, reading=reading)
  )
  failed = conventions.failed(munchausen.sparse().claims)
  assert failed == {"mvi2_one_action", "mvi2_greedy"}


def test_a_policy_without_zeros_fails(monkeypatch):
  real = zeros._measure

  def measure(*args):
    found = real(*args)
    policies = 0.999 * found["policies"] + 0.001 / zeros.SIZE
    return found | {"policies": policies}

  monkeypatch.setattr(zeros, "_measure", measure)
  failed = conventions.failed(zeros.zeros(seeds=SEEDS).claims)
  assert failed == {"tsallis_sparsemax", "tsallis_one_action"}


def test_the_threshold_is_that_of_the_closest_pair():
  """A bonus of -tau for the next best action widens its gap to tau."""
  gap = worlds.optimum().gap
  tau = float(conventions.smoke(mirror_descent).curves["mvi/threshold"])
  np.testing.assert_allclose(gap + munchausen.ALPHA * tau, tau)
  conventions.assert_printed(tau, ".517")


def test_slope_of_a_power():
  k = np.arange(1, 3201)
  assert abs(mdvi.slope((3.0 / k)[None]) + 1) < 1e-3  # windows of integers
  assert mdvi.shown(3200) == [200, 800, 3200]
  assert mdvi.shown(12799) == [200, 800, 3200]
  config = functools.partial(mirror_descent.Config.from_preset, "smoke")
  with pytest.raises(ValueError, match="iterations must be at least 800"):
    config(iterations=200)
