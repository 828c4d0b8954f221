# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import numpy as np

from experiments import reward_divergence_frontier as experiment
from experiments.stages.reward_divergence_frontier import (
  frontier,
  gaussian_fit,
  minimisers,
)
from jaxalign import divergences, preference
from tests.experiments import conventions


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


def test_fits_have_the_printed_values():
  (rows,) = gaussian_fit.gaussian_fit().tables.values()
  printed = {1.0: ("-.331", "2.019"), 0.6: ("-1.926", ".857")}
  found = {row["alpha"]: row for row in rows}
  for alpha, (mean, scale) in printed.items():
    conventions.assert_printed(found[alpha]["mean"], mean)
    conventions.assert_printed(found[alpha]["scale"], scale)


def test_another_seed_gives_other_worlds():
  conventions.assert_seed_matters(
    experiment, "frontier/kl", "frontier/entropy", "frontier/rewards"
  )


def test_policies_have_the_reward_asked_for():
  curves = conventions.smoke(experiment).curves
  rewards, log_refs = frontier.worlds(range(10))
  base = np.sum(np.exp(log_refs) * rewards, -1)[:, None]
  share = (curves["frontier/rewards"] - base) / (
    rewards.max(-1)[:, None] - base
  )
  expected = np.broadcast_to(frontier.SHARES, share.shape)
  np.testing.assert_allclose(share, expected, rtol=0, atol=1e-12)


def test_a_policy_of_another_divergence_is_not_minimal(monkeypatch):
  """The same policies, said to be of another divergence each."""
  solve, divs = frontier.solve, list(frontier.DIVERGENCES.values())
  other = dict(zip(divs, divs[1:] + divs[:1], strict=True))
  monkeypatch.setattr(frontier, "solve", lambda div, *a: solve(other[div], *a))
  claims = frontier.frontier(seeds=range(10)).claims
  failed = {name for name in conventions.failed(claims) if "minimal" in name}
  assert failed == {f"minimal_{i}" for i in range(len(divs))}


def test_a_loss_of_another_divergence_ends_elsewhere(monkeypatch):
  js = divergences.f_divergence("jensen_shannon")
  f_dpo = preference.f_dpo_loss
  monkeypatch.setattr(
    minimisers.preference,
    "f_dpo_loss",
    lambda logps, *, div, beta: f_dpo(logps, div=js, beta=beta),
  )
  jax.clear_caches()
  part = minimisers.minimisers(seeds=range(2))
  jax.clear_caches()
  assert conventions.failed(part.claims) == {"minimisers"}
  excess = [row["largest excess"] for row in next(iter(part.tables.values()))]
  assert [x < 1e-12 for x in excess] == [False, False, True, False, True]


def test_an_optimum_is_below_every_other_policy():
  """Of the losses that the claim compares with the labels' entropy."""
  (rewards,), (log_ref,) = frontier.worlds(range(1))
  sampling = np.full(frontier.OUTCOMES, 1 / frontier.OUTCOMES)
  weights = preference.pair_weights(rewards, sampling)
  div = frontier.DIVERGENCES["Jensen-Shannon"]
  best = divergences.regularized_maximizer(
    div, rewards, log_ref, minimisers.BETA
  )
  loss = functools.partial(preference.f_dpo_loss, div=div, beta=minimisers.BETA)
  value = jax.jit(
    lambda log_pi: preference.population_loss(loss, log_pi, log_ref, weights)
  )
  noise = np.random.default_rng(0).normal(size=(5, frontier.OUTCOMES))
  for change in noise:
    assert value(jax.nn.log_softmax(best + 0.1 * change)) > value(best)
