# SPDX-License-Identifier: Apache-2.0
import jax
import numpy as np
import pytest
import scipy.special

from jaxalign import preference
from tests import helpers
from tests.preference import golden

RNG = np.random.default_rng(0)
ARRAYS = RNG.normal(size=(3, 2, 4, 5))  # policy, target, behaviour
LOGP, TARGET, BEHAVIOR = ARRAYS[:, 0]


def total(logp, target=TARGET, behavior=BEHAVIOR):
  return preference.brain_loss(logp, target, behavior).sum()


def test_the_divergence_and_its_gradient():
  a = scipy.special.softmax(TARGET - BEHAVIOR, -1)
  b = scipy.special.softmax(LOGP - BEHAVIOR, -1)
  loss = preference.brain_loss(LOGP, TARGET, BEHAVIOR)
  helpers.assert_close(loss, np.sum(a * np.log(a / b), -1))
  helpers.assert_close(jax.grad(total)(LOGP), b - a)
  helpers.assert_gradient(total, LOGP)


def test_no_gradient_at_the_target_on_any_samples():
  target = LOGP + RNG.normal(size=(4, 1))  # up to a constant
  value, gradient = jax.value_and_grad(total)(LOGP, target)
  assert abs(value) < 1e-14 and np.all(np.abs(gradient) < 1e-15)


def test_two_samples_of_the_reference_are_dpo():
  pairs = golden.PAIRS
  loss = preference.brain_loss(
    np.stack([pairs.policy_chosen, pairs.policy_rejected], -1),
    np.array([[0.0, -np.inf]] * 2),
    np.stack([pairs.ref_chosen, pairs.ref_rejected], -1),
  )
  helpers.assert_close(loss, preference.dpo_loss(pairs, beta=1.0).loss)


def test_samples_without_mass():
  none = np.array([[-np.inf, 0.0, 1.0]])
  zero = np.zeros((1, 3))
  assert preference.brain_loss(none, zero, zero) == np.inf
  # Excluded by the target: only the others' masses are matched.
  value, gradient = jax.value_and_grad(total)(zero, none, zero)
  assert np.isfinite(value) and gradient[0, 0] > 0
  value, gradient = jax.value_and_grad(total)(none, none, zero)
  assert value == 0 and np.all(np.abs(gradient) < 1e-15)


def test_only_the_policy_is_differentiated_and_transforms():
  gradients = jax.grad(total, (1, 2))(LOGP, TARGET, BEHAVIOR)
  assert not np.any(gradients)
  helpers.assert_transforms(preference.brain_loss, *ARRAYS)


def test_bad_input():
  with pytest.raises(AssertionError, match=r"behavior_logp \(5,\)"):
    preference.brain_loss(LOGP, TARGET, BEHAVIOR[0])
  with pytest.raises(AssertionError, match="target_logp int"):
    preference.brain_loss(LOGP, np.zeros((4, 5), int), BEHAVIOR)
