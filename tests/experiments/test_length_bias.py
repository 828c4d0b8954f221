# SPDX-License-Identifier: Apache-2.0
import jax
import numpy as np
import pytest

from experiments import length_bias
from experiments.stages.length_bias import draws, training
from jaxalign import preference
from tests.experiments import conventions

pytestmark = pytest.mark.usefixtures("optimised")


def test_claims_reproduce():
  conventions.assert_reproduces(length_bias)


def test_another_seed_gives_other_worlds():
  conventions.assert_seed_matters(length_bias, "length", "quality", "two_draws")


def test_margins_have_the_printed_values():
  policy = np.random.default_rng(0).standard_normal((1, 2, 50))
  whole, drawn = draws.margins(jax.random.key(0), policy)
  conventions.assert_printed(whole[0], "4.0")
  conventions.assert_printed(drawn[0], "0.0")


def test_drawing_anew_for_the_reference_fails(monkeypatch):
  """The authors' program; closed forms are of deviations, and still hold."""
  once = preference.sampo_logratio

  def twice(key, tokens):
    policy, ref = (once(k, tokens) for k in jax.random.split(key))
    return policy._replace(
      ref_chosen=ref.ref_chosen, ref_rejected=ref.ref_rejected
    )

  monkeypatch.setattr(preference, "sampo_logratio", twice)
  jax.clear_caches()
  part = draws.draws(jax.random.key(0), range(2))
  jax.clear_caches()
  assert conventions.failed(part.claims) == {"constant_ratio_sampo"}


def test_who_prefers_shorter_ones_gets_shorter_ones(monkeypatch):
  monkeypatch.setattr(training, "BONUS", -2.0)
  part = training.training(jax.random.key(0), range(2), steps=200)
  failed = conventions.failed(part.claims)
  assert "dpo_lengthens" in failed
