# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import remasking as experiment
from experiments.stages.remasking import (
  chains,
  confidence,
  quality,
  sampling,
  shares,
)
from jaxalign.diffusion import remasking, samplers
from tests.experiments import conventions

SEEDS = range(1)


def failed(part, **options):
  """Names of the claims of a part, compiled anew, that do not hold."""
  jax.clear_caches()
  names = conventions.failed(part(seeds=SEEDS, **options).claims)
  jax.clear_caches()
  return names


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


@pytest.fixture(autouse=True)
def _short_runs(request, monkeypatch):
  if request.function not in (
    test_claims_reproduce,
    test_another_seed_gives_other_problems,
  ):
    monkeypatch.setattr(chains, "STEPS", (1, 2, 4, 8))
    monkeypatch.setattr(chains, "ENDS", np.cumsum(chains.STEPS) - 1)


def test_another_seed_gives_other_problems():
  conventions.assert_seed_matters(
    experiment, "perfect/distance", "blind at first/distance"
  )


# --- the chain that remembers ------------------------------------------------


def test_histories():
  row, drawn_at, source, target = confidence.histories()
  tokens = chains.STATES[row]
  assert len(np.unique(np.c_[tokens, drawn_at], axis=0)) == len(row)
  assert row[0] == chains.START and np.all(target < len(row))
  # A token was drawn in sight of a mask in its own place.
  visible = tokens < chains.V
  own = chains.STATES[drawn_at][:, np.arange(3), np.arange(3)]
  assert np.all(own[visible] == chains.V)
  # What stays has its memory, what comes has seen what was there.
  stays = visible[source] & visible[target]
  assert np.all((drawn_at[source] == drawn_at[target])[stays])
  comes = ~visible[source] & visible[target]
  seen = np.broadcast_to(row[source][:, None], comes.shape)
  assert np.all(drawn_at[target][comes] == seen[comes])
  # From each state every mask goes 4 ways and every token 2.
  ways = np.prod(np.where(visible, 2, 4), -1)
  np.testing.assert_array_equal(np.bincount(source), ways)


def test_the_chain_that_remembers_is_the_other_without_remasking():
  (table,) = chains.tables(SEEDS)
  steps = chains.steps_of("ancestral")
  found = confidence.laws(table, steps)
  np.testing.assert_allclose(found, chains.laws(table, steps), atol=1e-14)


def test_denoisers_are_perfect():
  """Their conditionals are those of the target, by sums over it."""
  (table,) = chains.tables(SEEDS)
  cube = np.asarray(chains.target(table)).reshape(3, 3, 3)
  # The table counts the first position fastest: (mask, 1, mask) is row 55.
  logits = jax.nn.log_softmax(table[3 + 4 * 1 + 16 * 3])
  given = cube[:, 1] / cube[:, 1].sum()
  np.testing.assert_allclose(np.exp(logits[0]), given.sum(1), atol=1e-12)
  np.testing.assert_allclose(np.exp(logits[2]), given.sum(0), atol=1e-12)


# --- wrong versions ----------------------------------------------------------


def test_remasking_without_more_reveals_fails(monkeypatch):
  original = remasking.remasking_probs

  def fewer(alphas, sigmas):
    found = original(alphas, sigmas)
    return found._replace(reveal=samplers.ancestral_probs(alphas))

  monkeypatch.setattr(remasking, "remasking_probs", fewer)
  wrong = [n.replace("-", "_") for n in chains.SCHEDULES if n != "ancestral"]
  assert failed(shares.shares) == {
    "sigma_max",
    *(f"{kind}_{name}" for name in wrong for kind in ("shares", "noising")),
  }


def test_a_sigma_that_is_not_looked_at_fails(monkeypatch):
  original = remasking.remasking_probs
  monkeypatch.setattr(remasking, "remasking_probs", jax.jit(original))
  assert failed(shares.shares) == {"sigma_refused"}


def test_confidence_that_is_not_spread_fails(monkeypatch):
  monkeypatch.setattr(
    remasking,
    "sigma_confidence",
    lambda sigma, log_probs, where: jnp.where(where, sigma, 0.0),
  )
  jax.clear_caches()
  claims = {claim.name: claim for claim in shares.shares(seeds=SEEDS).claims}
  jax.clear_caches()
  assert conventions.failed(claims.values()) == {"shares_conf"}
  conventions.assert_printed(claims["shares_conf"].theory, ".307")


def test_tokens_taken_back_by_the_ancestral_sampler_fail(monkeypatch):
  wrong = {**chains.SCHEDULES, "ancestral": chains.SCHEDULES["rescale"]}
  monkeypatch.setattr(chains, "SCHEDULES", wrong)
  assert failed(shares.shares) == {"no_remasking"}


def test_a_denoiser_of_no_law_fails(monkeypatch):
  rough = 4 * np.random.default_rng(0).standard_normal((1, 64, 3, 3))
  monkeypatch.setattr(chains, "tables", lambda seeds: jnp.asarray(rough))
  # The law of one token at a time is still that of any order.
  assert failed(quality.quality) == {"one_step_product"}


def test_a_target_of_another_law_fails(monkeypatch):
  original = chains.target
  monkeypatch.setattr(chains, "target", lambda table: original(table)[::-1])
  assert failed(quality.quality) == {
    "one_step_product",
    "ancestral_bound",
    "ancestral_rate",
  }


def test_samples_of_another_schedule_fail(monkeypatch, key):
  original = sampling.sampled

  def other(table, key, schedule, *, num, conf):
    plain = schedule._replace(sigmas=0 * schedule.sigmas)
    return original(table, key, plain, num=num, conf=conf)

  monkeypatch.setattr(sampling, "sampled", other)
  part = functools.partial(sampling.sampling, key=key, num_draws=50_000)
  assert failed(part) == {"sampled_rescale", "sampled_conf"}
