# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import numpy as np
import pytest

from experiments import distribution_matching as experiment
from experiments.stages.distribution_matching import (
  exact,
  projection,
  variance,
)
from jaxalign import divergences, preference
from tests.experiments import conventions

pytestmark = pytest.mark.usefixtures("optimised")


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


def test_another_seed_gives_other_targets():
  conventions.assert_seed_matters(
    experiment, "exact/full", "exact/tied", "gdc/excess", "variance/groups"
  )


def test_divergences_that_are_exchanged_and_a_step_that_stays_fail(monkeypatch):
  right = preference.fdpg_surrogate
  swapped = {"kl": "reverse_kl", "reverse_kl": "kl"}

  def wrong(div, *args):
    name = swapped.get(div.name, div.name)
    return right(divergences.f_divergence(name), *args)

  monkeypatch.setattr(preference, "fdpg_surrogate", wrong)
  monkeypatch.setattr(exact, "DECAY", 1e12)
  jax.clear_caches()
  failed = conventions.failed(exact.exact(seeds=range(1)).claims)
  jax.clear_caches()
  assert failed == {"each_limit_its_own", "total_variation_needs_decay"}


def test_a_dual_that_is_not_solved_fails(monkeypatch):
  early = functools.partial(preference.gdc_target, num_steps=2)
  monkeypatch.setattr(preference, "gdc_target", early)
  failed = conventions.failed(projection.projection(seeds=range(1)).claims)
  assert failed == {"gdc_moments", "gdc_pythagoras", "gdc_primal"}


def test_a_brain_without_its_baseline_fails(monkeypatch):
  def without(logp, target, proposal):
    weights = jax.nn.softmax(target - proposal)
    return -(weights * logp).sum(-1)

  monkeypatch.setattr(preference, "brain_loss", without)
  jax.clear_caches()
  failed = conventions.failed(variance.variance(seeds=range(1)).claims)
  jax.clear_caches()
  assert failed == {"brain_at_target", "brain_ratio", "brain_order"}


def test_traces_of_one_sample_are_those_of_the_definition():
  log_pi, targets, *_ = variance.problem(3)
  probs, tilt = np.exp(log_pi), 4
  found = variance.of_one_sample(log_pi, targets)[tilt]
  log_t = log_pi - targets[tilt]
  for d, f_prime in enumerate((-np.exp(-log_t), log_t + 1)):
    for j, baseline in enumerate((0.0, probs @ f_prime)):
      gradients = (f_prime - baseline)[:, None] * (np.eye(50) - probs)
      off = gradients - probs @ gradients
      expected = probs @ np.sum(off**2, -1)
      np.testing.assert_allclose(found[d, j], expected, rtol=1e-11)


def test_small_tilts_have_the_variance_of_a_sample_covariance():
  """Against all groups of two of a policy cut to three outcomes."""
  log_pi, _, scores, _ = variance.problem(4)
  log_pi = log_pi[:3] - np.log(np.exp(log_pi[:3]).sum())
  probs, r, eye = np.exp(log_pi), scores[:3], np.eye(3)
  groups, chance = [], []
  for i, j in np.ndindex(3, 3):
    middle = (r[i] + r[j]) / 2
    groups.append(((r[i] - middle) * eye[i] + (r[j] - middle) * eye[j]) / 2)
    chance.append(probs[i] * probs[j])
  groups, chance = np.array(groups), np.array(chance)
  off = groups - chance @ groups
  expected = chance @ np.sum(off**2, -1)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(variance, "N", 3)
    patch.setattr(variance, "GROUP", 2)
    found = variance.small_tilt(log_pi, r)
  np.testing.assert_allclose(found, expected, rtol=1e-13)
