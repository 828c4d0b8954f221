# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import checks
from jaxalign.learning import step_calibration as steps
from tests import helpers
from tests.learning import bed


def all_tests(p, G, H, actions):
  """Every `g c` that there is, `[B, N]`: one for each distinct step."""
  shapes = [p <= v for v in np.unique(p)]
  shapes += [h <= a for h in H for a in actions]
  return np.array([g * c for g in G for c in shapes])


def violations(p, f, w, G, H, actions):
  return all_tests(p, G, H, actions) @ (w * (f - p))


def test_violations_are_those_of_all_tests():
  for seed in range(3):
    world = bed.world(seed)
    found = steps.step_violations(*map(jnp.asarray, world))
    expected = violations(*world)
    # As sets: equal predictions give one test several times.
    gaps = np.abs(np.ravel(found)[:, None] - expected)
    assert gaps.min(0).max() < 1e-15 and gaps.min(1).max() < 1e-15
    error = steps.step_calibration_error(*map(jnp.asarray, world))
    np.testing.assert_allclose(error, np.abs(expected).max(), atol=1e-15)


def test_thresholds_between_predictions_are_those_below():
  world = [jnp.asarray(x) for x in bed.world(3)]
  grid = jnp.arange(0, 1.01, 0.05)
  found = steps.step_violations(*world, thresholds=grid)
  p, f, w, G, *_ = map(np.asarray, world)
  expected = G @ (w * (f - p) * (p <= np.asarray(grid)[:, None])).T
  np.testing.assert_allclose(found[:, : len(grid)], expected, atol=1e-15)


def test_an_audit_is_the_worst_test():
  world = [jnp.asarray(x) for x in bed.world(4)]
  audit = jax.jit(steps.step_calibration_audit)
  rng = np.random.default_rng(0)
  for _ in range(10):
    world[1] = jnp.asarray(rng.random(12))
    found = audit(*world)
    p, f, w, *rest = map(np.asarray, world)
    np.testing.assert_allclose(
      found.violation, found.test @ (w * (f - p)), atol=1e-15
    )
    worst = np.abs(violations(p, f, w, *rest)).max()
    np.testing.assert_allclose(abs(found.violation), worst, atol=1e-15)
    tests = all_tests(p, *rest)
    assert (np.abs(tests - found.test).max(1) < 1e-15).any()


def test_patching_is_the_loop_and_every_patch_pays():
  eps = 0.02
  p, f, w, G, H, actions = bed.world(5)
  p = np.full_like(p, 0.5)
  found = steps.patch_step_calibration(
    *map(jnp.asarray, (p, f, w, G, H, actions)), eps=eps
  )
  potentials = [w @ (p - f) ** 2]
  while True:
    missed = violations(p, f, w, G, H, actions)
    worst = np.argmax(np.abs(missed))
    if np.abs(missed[worst]) <= eps:
      break
    test = all_tests(p, G, H, actions)[worst]
    p = np.clip(p + eps * np.sign(missed[worst]) * test, 0, 1)
    potentials.append(w @ (p - f) ** 2)
  assert np.all(np.diff(potentials) <= -(eps**2))
  assert found.steps == len(potentials) - 1 > 5
  assert found.steps <= 1 / (4 * eps**2)
  np.testing.assert_allclose(found.predictions, p, atol=1e-13)
  np.testing.assert_allclose(found.error, np.abs(missed[worst]), atol=1e-13)
  assert found.converged


def test_a_sample_is_a_world():
  _, f, _, G, H, actions = bed.world(6, num_points=40)
  y = (np.random.default_rng(6).random(40) < f).astype(float)
  found = steps.patch_step_calibration(
    jnp.full(40, 0.3), jnp.asarray(y), jnp.full(40, 1 / 40), G, H, actions,
    eps=0.05,
  )  # fmt: skip
  assert found.converged and found.error <= 0.05
  assert found.steps <= np.mean((0.3 - y) ** 2) / 0.05**2


def test_calibrated_predictions_need_no_patch():
  _, f, w, G, H, actions = bed.world(7)
  found = steps.patch_step_calibration(f, f, w, G, H, actions, eps=1e-3)
  assert found.steps == 0 and found.error == 0


def test_order_and_splitting_of_points_do_not_matter():
  p, f, w, G, H, actions = bed.world(8)
  error = steps.step_calibration_error(*map(jnp.asarray, bed.world(8)))
  order = np.random.default_rng(0).permutation(12)
  again = steps.step_calibration_error(
    p[order], f[order], w[order], G[:, order], H[:, order], actions
  )
  np.testing.assert_allclose(again, error, atol=1e-15)
  twice = np.repeat(np.arange(12), 2)
  again = steps.step_calibration_error(
    p[twice], f[twice], w[twice] / 2, G[:, twice], H[:, twice], actions
  )
  np.testing.assert_allclose(again, error, atol=1e-15)


def test_errors_transform_and_have_their_gradient():
  arrays = bed.worlds(9, 2)
  helpers.assert_transforms(steps.step_calibration_error, *arrays)
  p, f, *rest = [x[0] for x in arrays]

  def error(f):
    return steps.step_calibration_error(p, f, *rest)

  helpers.assert_gradient(error, f)


def test_bad_input():
  p, f, w, G, H, actions = map(jnp.asarray, bed.world(10))
  error = steps.step_calibration_error
  with pytest.raises(checks.InputError, match="w must sum to 1, sums to 2"):
    error(p, f, 2 * w, G, H, actions)
  with pytest.raises(checks.InputError, match=r"p must be within \[0, 1\]"):
    error(p + 1, f, w, G, H, actions)
  with pytest.raises(checks.InputError, match=r"f must be within .* was nan"):
    error(p, f.at[0].set(jnp.nan), w, G, H, actions)
  with pytest.raises(checks.InputError, match=r"G must be within"):
    error(p, f, w, -G, H, actions)
  with pytest.raises(ValueError, match="H must have a column for each of 12"):
    error(p, f, w, G, H[:, 1:], actions)
  with pytest.raises(AssertionError, match=r"p \(12,\), f \(11,\)"):
    error(p, f[1:], w, G, H, actions)
  with pytest.raises(ValueError, match="eps must be above 0"):
    steps.patch_step_calibration(p, f, w, G, H, actions, eps=0.0)
