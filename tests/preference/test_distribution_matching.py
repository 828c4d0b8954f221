# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import divergences, preference
from tests import helpers

RNG = np.random.default_rng(0)
LOGITS, TARGET, PROPOSAL = RNG.normal(size=(3, 6))
CUSTOM = divergences.custom_f_divergence(
  lambda u: (jnp.sqrt(u) - 1) ** 2 + u * jnp.log(u) - u + 1, f_zero=2.0
)
DIVS = {
  name: divergences.f_divergence(name)
  for name in (
    "reverse_kl",
    "kl",
    "jensen_shannon",
    "total_variation",
    "neyman_chi2",
    "pearson_chi2",
    "squared_hellinger",
    "le_cam",
    "jeffreys",
  )
} | {
  "alpha": divergences.f_divergence("alpha", alpha=0.3),
  "custom": CUSTOM,
}
# f' of the sheet's six, up to a constant, and how often ours goes into it.
SHEET = {
  "reverse_kl": lambda t: -1 / t,
  "kl": lambda t: np.log(t) + 1,
  "jensen_shannon": lambda t: (np.log(2) - np.log1p(1 / t)) / 2,
  "total_variation": lambda t: np.sign(np.log(t)) / 2,
  "neyman_chi2": lambda t: 1 - t**-2.0,
  "pearson_chi2": lambda t: 2 * (t - 1),
}


@functools.cache
def gradients():
  """Of the expected surrogates of all divergences, and of the divergences."""
  log_p, log_q = (jax.nn.log_softmax(x) for x in (TARGET, PROPOSAL))

  def expected(div, logits, baseline):
    logp = jax.nn.log_softmax(logits)
    found = preference.fdpg_surrogate(div, logp, log_p, log_q, baseline)
    return jnp.exp(log_q) @ found.loss

  def divergence(div, logits):
    return divergences.categorical_f_divergence(div, logits, TARGET)

  @jax.jit
  def both(logits):
    return {
      name: (
        jax.grad(functools.partial(expected, div))(logits, 0.0),
        jax.grad(functools.partial(expected, div))(logits, 1.7),
        jax.grad(functools.partial(divergence, div))(logits),
      )
      for name, div in DIVS.items()
    }

  return both(LOGITS)


@pytest.mark.parametrize("name", DIVS)
def test_the_expected_gradient_is_the_divergence_s(name):
  plain, with_baseline, exact = gradients()[name]
  np.testing.assert_allclose(plain, exact, rtol=0, atol=1e-14)
  np.testing.assert_allclose(with_baseline, exact, rtol=0, atol=1e-14)
  assert np.abs(exact).max() > 1e-3


@pytest.mark.parametrize("name", SHEET)
def test_slopes_are_the_printed_ones(name):
  log_pi, log_p = (np.asarray(jax.nn.log_softmax(x)) for x in (LOGITS, TARGET))
  found = preference.fdpg_surrogate(DIVS[name], log_pi, log_p, log_pi)
  printed = SHEET[name](np.exp(log_pi - log_p)) - SHEET[name](1.0)
  np.testing.assert_allclose(found.slope, printed, rtol=1e-12, atol=1e-14)


def test_far_from_the_target_nothing_overflows():
  log_p = np.zeros(2, np.float32)
  logp = np.array([-300.0, 0.0], np.float32)
  far = np.array([0.0, -300.0], np.float32)  # t = e^-300 and e^300
  for name, expected in {
    "kl": [-300.0, 300.0],
    "jensen_shannon": [(np.log(2) - 300) / 2, np.log(2) / 2],
    "total_variation": [-0.5, 0.5],
    "reverse_kl": [-np.inf, 1.0],
  }.items():
    found = preference.fdpg_surrogate(DIVS[name], logp, far, logp)
    np.testing.assert_allclose(found.slope, expected, rtol=1e-6)
  # A likely sample of the proposal and the target, all but lost by the policy.
  found = preference.fdpg_surrogate(DIVS["reverse_kl"], logp, log_p, log_p)
  np.testing.assert_allclose(found.loss[0], 300, rtol=1e-6)  # -1 * -300


def test_outcomes_without_mass():
  log_pi, log_p = np.log([0.5, 0.5, 1e-300]), np.log([0.5, 1e-300, 0.5])
  log_pi[2] = log_p[1] = -np.inf
  log_q = np.log(np.full(3, 1 / 3))
  for name, slope in {"kl": np.inf, "total_variation": 0.5}.items():

    def loss(x, div=DIVS[name]):
      return preference.fdpg_surrogate(div, x, log_p, log_q)

    found = loss(log_pi)
    np.testing.assert_array_equal(found.slope[1:], [slope, 0])
    assert found.loss[2] == 0
    gradient = jax.grad(lambda x: jnp.sum(loss(x).loss))(log_pi)
    np.testing.assert_allclose(gradient, [0, 1.5 * slope, 0])


def test_surrogate_transforms():
  def both(logp, target, proposal, baseline):
    return tuple(
      preference.fdpg_surrogate(DIVS[n], logp, target, proposal, baseline)
      for n in ("kl", "jensen_shannon", "total_variation")
    )

  rows = RNG.normal(size=(4, 2, 3))
  helpers.assert_transforms(both, *rows)


def test_partition_is_the_mean_of_all_weights():
  log_target, log_q = RNG.normal(size=(2, 5))
  where = np.array([True, True, False, True, True])
  log_target[1], log_q[2] = -np.inf, np.nan
  state = preference.partition_init()
  none = np.zeros(2, bool)
  update = preference.partition_update
  state = update(state, log_target[:2], log_q[:2], where=none)
  assert state.log_z == -np.inf and state.count == 0
  state = update(state, log_target[:3], log_q[:3], where=where[:3])
  state = update(state, log_target[3:], log_q[3:])
  expected = np.mean(np.exp(log_target - log_q)[where])
  np.testing.assert_allclose(np.exp(state.log_z), expected, rtol=1e-14)
  assert state.count == 4


def test_partition_of_a_far_target_and_transforms():
  log_target, log_q = RNG.normal(size=(2, 2, 3)) - 1e4

  def update(log_z, count, log_target, log_q):
    state = preference.Partition(log_z, count)
    return preference.partition_update(state, log_target, log_q)

  found = update(np.zeros(()), np.zeros(()), log_target[0] + 1e4, log_q[0])
  assert np.isfinite(found.log_z)
  helpers.assert_transforms(
    update, np.array([-np.inf, 0.5]), np.array([0.0, 7.0]), log_target, log_q
  )


N, K = 7, 2
BASE, FEATURES = RNG.normal(size=(2, N)), RNG.normal(size=(2, N, K))


def moments_of(logits, features):
  probs = np.asarray(jax.nn.softmax(logits))
  return np.einsum("...n,...nk->...k", probs, features)


def test_gdc_is_the_projection():
  wanted = moments_of(RNG.normal(size=(2, N)), FEATURES)
  found = preference.gdc_target(BASE, FEATURES, wanted)
  assert np.all(found.valid) and np.all(found.residual < 1e-13)
  probs = np.exp(found.log_target)
  moments = np.einsum("...n,...nk->...k", probs, FEATURES)
  np.testing.assert_allclose(moments, wanted, rtol=0, atol=1e-13)
  # Exponential form: log p - log a - lam phi is one number.
  tilt = np.einsum("...nk,...k->...n", FEATURES, found.lam)
  np.testing.assert_allclose(
    np.ptp(found.log_target - BASE - tilt, axis=-1), 0, atol=1e-12
  )
  # Of all that meet the moments it is the closest: move within them.
  constraints = np.concatenate([np.ones((N, 1)), FEATURES[0]], -1)
  within = np.linalg.svd(constraints.T)[2][K + 1 :]
  log_base = np.asarray(jax.nn.log_softmax(BASE[0]))
  kl = lambda p: np.sum(p * (np.log(p) - log_base))
  for direction in within:
    for size in (1e-3, -1e-3):
      moved = probs[0] + size * direction
      assert moved.min() > 0 and kl(moved) > kl(probs[0])


def test_gdc_says_where_there_is_none():
  features = np.array([[0.0], [1.0], [2.0]])
  base = np.array([0.0, 0.0, -np.inf])
  found = preference.gdc_target(base, features, np.array([1.5]))
  assert not found.valid  # needs the outcome that the base does not have
  features[2] = np.nan  # which is not looked at
  found = preference.gdc_target(base, features, np.array([0.25]))
  np.testing.assert_allclose(
    np.exp(found.log_target), [0.75, 0.25, 0], rtol=0, atol=1e-14
  )
  assert found.valid


def test_gdc_with_a_constraint_said_twice():
  features = np.repeat(FEATURES[0, :, :1], 2, -1)
  wanted = moments_of(BASE[1], features)
  found = preference.gdc_target(BASE[0], features, wanted)
  assert found.valid
  once = preference.gdc_target(BASE[0], features[:, :1], wanted[:1])
  np.testing.assert_allclose(
    found.log_target, once.log_target, rtol=0, atol=1e-12
  )


def test_gdc_from_a_base_far_from_the_moments():
  features = np.arange(N)[:, None] * 1e3
  found = preference.gdc_target(-30.0 * np.arange(N), features, np.array([5e3]))
  assert found.valid
  np.testing.assert_allclose(
    np.exp(found.log_target) @ features, 5e3, rtol=1e-12
  )


def test_gdc_transforms():
  wanted = moments_of(BASE[::-1], FEATURES)
  # The residual is what rounding leaves, in any order.
  helpers.assert_transforms(preference.gdc_target, BASE, FEATURES, wanted)


def test_wrong_arguments_raise():
  kl = DIVS["kl"]
  with pytest.raises(AssertionError, match=r"target \(5,\)"):
    preference.fdpg_surrogate(kl, LOGITS, TARGET[:5], PROPOSAL)
  with pytest.raises(AssertionError, match="need floats: logp int"):
    preference.fdpg_surrogate(kl, np.zeros(6, int), TARGET, PROPOSAL)
  with pytest.raises(AssertionError, match=r"state.log_z \(2,\)"):
    preference.partition_update(
      preference.partition_init((2,)), TARGET, PROPOSAL
    )
  with pytest.raises(AssertionError, match=r"moments \(3,\)"):
    preference.gdc_target(BASE[0], FEATURES[0], np.zeros(3))
