# SPDX-License-Identifier: Apache-2.0
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import checks
from jaxalign.learning import sample_reuse, step_calibration
from tests.learning import bed

K, FIXED = 3, 8


def test_samples_grow_as_the_schemes_say():
  """Logarithms aside: they are worth less than .2 in the exponent."""
  for scheme, power in (("fresh", 4), ("counted", 4), ("noisy", 3)):
    found = [
      sample_reuse.patching_plan(eps, K, FIXED, scheme=scheme).num_samples
      for eps in (1e-5, 1e-6)
    ]
    exponent = math.log10(found[1] / found[0])
    assert power <= exponent < power + 0.2, scheme


def test_noise_pays_for_small_errors():
  for eps, better in ((0.1, False), (0.005, True)):
    counted, noisy = (
      sample_reuse.patching_plan(eps, K, FIXED, scheme=s).num_samples
      for s in ("counted", "noisy")
    )
    assert (noisy < counted) == better


@pytest.mark.parametrize("eps", [0.3, 0.1, 0.013])
def test_plans_add_up_to_eps(eps):
  """What each source of error may take, from the plan's own numbers."""
  fresh, counted, noisy = (
    sample_reuse.patching_plan(eps, K, FIXED, scheme=s)
    for s in ("fresh", "counted", "noisy")
  )
  m, audits = noisy.m, noisy.max_patches + 1
  assert 1 / m <= eps / 2 and noisy.max_patches == m**2 / 4
  B = K * (m + 1 + FIXED)
  failure = eps / 20
  # Noise: probabilities that any of the audits is off by more.
  value = noisy.threshold - 1 / m
  off = 2 * audits * math.exp(-((value / noisy.value_scale) ** 2) / 2)
  select = noisy.selection_scale * math.log(2 * B * audits / failure)
  np.testing.assert_allclose(off, failure / 2, rtol=1e-9)
  n = noisy.num_samples
  rho = audits * 2 / n**2
  rho *= 1 / noisy.selection_scale**2 + 1 / noisy.value_scale**2
  spread = math.sqrt(2 * rho + 2 * math.log(2 * B) / n)
  assert noisy.threshold + value + select + failure + spread <= eps
  known = audits * math.log(2 * B + 1) + math.log(2 * B)
  spread = math.sqrt(2 * known / counted.num_samples)
  assert counted.threshold + spread <= eps * (1 + 1e-12)
  each = fresh.num_samples / fresh.num_batches
  spread = fresh.threshold - 1 / m
  off = audits * 2 * B * math.exp(-each * spread**2 / 2)
  assert off <= failure and fresh.threshold + spread + failure <= eps + 1e-12


def test_choosing_by_noise_tells_as_little_as_claimed():
  """`KL <= (2 d/s)^2 / 8`, d being what one sample changes, at every order."""
  rng = np.random.default_rng(0)
  d, s, B = 0.02, 0.05, 30
  u = jnp.asarray(rng.random((200, B)))
  # The worst changes are at the ends of what is allowed.
  v = u + d * jnp.asarray(rng.choice([-1.0, 1.0], (200, B)))
  p, q = jax.nn.log_softmax(u / s), jax.nn.log_softmax(v / s)
  for order in (1.0001, 2.0, 8.0, 64.0):
    renyi = jax.nn.logsumexp(order * p + (1 - order) * q, -1) / (order - 1)
    assert renyi.max() <= order * (2 * d / s) ** 2 / 8


def population(seed):
  _, _, w, G, H, actions = bed.world(seed)
  G = np.round(G)
  # Far from the 1/2 that patching starts from, within a group.
  return 0.1 + 0.8 * G[1], w, G, H, actions


def test_one_sample_without_noise_is_audit_and_patch():
  f, w, G, H, actions = population(1)
  plan = sample_reuse.patching_plan(0.1, K, FIXED, scheme="counted")
  found = sample_reuse.patch_on_samples(
    jax.random.key(0), *map(jnp.asarray, (f[None], w[None], G, H, actions)),
    plan,
  )  # fmt: skip
  level, grid = np.full(12, plan.m // 2), np.arange(plan.m + 1) / plan.m
  steps = 0
  while True:
    p = grid[level]
    tests = [g * (p <= v) for g in G for v in grid]
    tests += [g * (h <= a) for g in G for h in H for a in actions]
    missed = np.array(tests) @ (w * (f - p))
    worst = np.argmax(np.abs(missed))
    if np.abs(missed[worst]) <= plan.threshold:
      break
    move = np.sign(missed[worst]) * tests[worst]
    level = np.clip(level + move.astype(int), 0, plan.m)
    steps += 1
  assert 3 < steps == found.steps <= plan.max_patches and found.converged
  np.testing.assert_allclose(found.predictions, p, rtol=1e-15)
  error = step_calibration.step_calibration_error(
    found.predictions, *map(jnp.asarray, (f, w, G, H, actions))
  )
  assert error <= plan.threshold + 1e-12


def draw(rng, f, w, sizes):
  """Mean outcomes and shares of points in samples of the given sizes."""
  cells = np.stack([w * (1 - f), w * f], -1).ravel()
  counts = np.array([rng.multinomial(n, cells) for n in sizes])
  counts = counts.reshape(len(sizes), -1, 2)
  total = counts.sum(-1)
  return counts[..., 1] / np.maximum(total, 1), total / np.sum(total, 1)[
    :, None
  ]


@pytest.mark.parametrize("scheme", ["fresh", "counted", "noisy"])
def test_planned_samples_reach_eps(scheme):
  eps = 0.2
  f, w, G, H, actions = population(2)
  plan = sample_reuse.patching_plan(eps, K, FIXED, scheme=scheme)
  rng = np.random.default_rng(3)
  each = plan.num_samples // plan.num_batches
  errors = []

  @jax.jit
  def run(key, means, shares):
    found = sample_reuse.patch_on_samples(
      key, means, shares, G, H, actions, plan
    )
    error = step_calibration.step_calibration_error(
      found.predictions, f, w, G, H, actions
    )
    return found, error

  for seed in range(6):
    means, shares = draw(rng, f, w, [each] * plan.num_batches)
    found, error = run(jax.random.key(seed), means, shares)
    assert found.converged
    grid = found.predictions * plan.m
    np.testing.assert_allclose(grid, np.round(grid), atol=1e-12)
    errors.append(error)
  assert np.mean(errors) <= eps


def test_noise_is_what_the_plan_says():
  """Of 2000 first audits at one point: its measured violation and its end."""
  plan = sample_reuse.PatchingPlan(1, 1, 4, 0, 0.1, 0.0, 0.05)
  f, w = jnp.array([[0.6]]), jnp.ones((1, 1))
  none = jnp.zeros((0, 1)), jnp.zeros(0)

  def run(key):
    return sample_reuse.patch_on_samples(
      key, f, w, jnp.ones((1, 1)), *none, plan
    )

  found = jax.vmap(run)(jax.random.split(jax.random.key(0), 2000))
  # |.1 + N(0, .05^2)| > .1 half of the time, within 5 standard deviations.
  assert abs(np.mean(found.converged) - 0.5) < 5 * 0.5 / math.sqrt(2000)


def test_batches_are_used_in_turn():
  """The second audit sees the second batch, in which all is well."""
  plan = sample_reuse.PatchingPlan(2, 2, 4, 4, 0.1, 0.0, 0.0)
  f, w = jnp.array([[1.0, 0.0], [0.75, 0.5]]), jnp.array([[1.0, 0.0]] * 2)
  found = sample_reuse.patch_on_samples(
    jax.random.key(0), f, w, jnp.array([[1.0, 0.0]]), jnp.zeros((0, 2)),
    jnp.zeros(0), plan,
  )  # fmt: skip
  np.testing.assert_array_equal(found.predictions, [0.75, 0.5])
  assert found.steps == 1 and found.converged


def test_bad_input():
  f, w, G, H, actions = map(jnp.asarray, population(4))
  plan = sample_reuse.patching_plan(0.2, K, FIXED)
  run = sample_reuse.patch_on_samples
  key = jax.random.key(0)
  with pytest.raises(checks.InputError, match="groups as sets"):
    run(key, f[None], w[None], G / 2, H, actions, plan)
  with pytest.raises(checks.InputError, match="w must sum to 1"):
    run(key, f[None], 2 * w[None], G, H, actions, plan)
  with pytest.raises(AssertionError):
    run(key, f, w, G, H, actions, plan)
  for eps in (0.0, 1.0):
    with pytest.raises(ValueError, match="eps must be between 0 and 1"):
      sample_reuse.patching_plan(eps, K, FIXED)
  with pytest.raises(ValueError, match="unknown scheme 'reuse'"):
    sample_reuse.patching_plan(0.1, K, FIXED, scheme="reuse")
