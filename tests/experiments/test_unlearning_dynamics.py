# SPDX-License-Identifier: Apache-2.0
import jax
import numpy as np
import pytest

from experiments import unlearning_dynamics as experiment
from experiments.stages.unlearning_dynamics import laws, world
from jaxalign import preference
from tests.experiments import conventions

pytestmark = pytest.mark.usefixtures("optimised")


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


def test_another_seed_gives_other_worlds():
  conventions.assert_seed_matters(experiment, "world/forgotten", "world/kept")


def test_the_law_is_a_solution_and_has_the_printed_value():
  for beta, start in ((0.1, 0.0), (0.5, 0.0), (2.5, -0.5)):
    for t in (0.0, 3.0, 200.0):
      x = laws.law(beta, t, start)
      left, right = (
        np.exp(-beta * y) / beta - y for y in (x, np.float64(start))
      )
      np.testing.assert_allclose(left, right + 2 * t, rtol=1e-13)
  h = np.asarray(laws.by_beta()[0])
  conventions.assert_printed(h[laws.BETAS.index(0.5), laws.SHOWN], "-10.553")
  np.testing.assert_allclose(laws.times()[laws.SHOWN], 200, rtol=1e-13)


def test_an_npo_of_half_the_size_fails(monkeypatch):
  right = preference.npo_loss
  monkeypatch.setattr(
    preference, "npo_loss", lambda *x, beta: right(*x, beta=beta) / 2
  )
  jax.clear_caches()
  failed = conventions.failed(laws.laws().claims)
  jax.clear_caches()
  assert failed == {
    "npo_law",
    "npo_at_200",
    "npo_asymptote",
    "npo_length",
    "length_laws",
  }


def test_a_simnpo_of_sums_fails(monkeypatch):
  right = preference.simnpo_loss
  monkeypatch.setattr(
    preference,
    "simnpo_loss",
    lambda logps, lengths, beta: right(logps, lengths * 0 + 1, beta=beta),
  )
  jax.clear_caches()
  failed = conventions.failed(laws.laws().claims)
  jax.clear_caches()
  assert failed == {"simnpo_length", "length_laws"}


def test_losses_that_do_not_hold_back_fail(monkeypatch):
  ascent = lambda logps, *_, **__: preference.ga_loss(logps)
  monkeypatch.setattr(preference, "npo_loss", ascent)
  monkeypatch.setattr(preference, "simnpo_loss", ascent)
  # Pushes at what is to be kept as well.
  monkeypatch.setattr(preference, "grad_diff_loss", lambda x, y: x + y)
  jax.clear_caches()
  part = world.world(seeds=range(16))
  jax.clear_caches()
  assert conventions.failed(part.claims) == {c.name for c in part.claims}


def test_matched_takes_the_first_time_below():
  forgotten = np.array([[[0.9, 0.4, 0.6, 0.1], [0.9, 0.9, 0.9, 0.9]]])
  kept = np.array([[[1.0, 0.8, 0.7, 0.5], [1.0, 1.0, 1.0, 1.0]]])
  np.testing.assert_array_equal(
    world.matched(forgotten, kept, 0.5), [[0.8, np.nan]]
  )
