# SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import numpy as np
import pytest

from experiments import gflownet
from experiments.stages.gflownet import (
  few_examples,
  identities,
  modes,
  training,
)
from tests.experiments import conventions

pytestmark = pytest.mark.usefixtures("optimised")
SEEDS = range(2)


def test_claims_reproduce():
  conventions.assert_reproduces(gflownet)


def test_another_seed_gives_other_worlds_and_draws():
  conventions.assert_seed_matters(
    gflownet, "modes/law", "modes/target", "examples/pass"
  )


def test_a_residual_of_the_wrong_sign_fails(monkeypatch):
  right = training.gflownet.tb_loss
  monkeypatch.setattr(
    identities.gflownet,
    "tb_loss",
    lambda z, log_pf, log_r, **kw: right(z, log_pf, -log_r, **kw),
  )
  jax.clear_caches()
  failed = conventions.failed(identities.identities(seeds=SEEDS).claims)
  jax.clear_caches()
  assert failed == {"identity_flows", "identity_large", "identity_tb"}


def test_a_variance_around_nothing_fails(monkeypatch):
  """Without the group's mean VarGrad is trajectory balance with Z = 1."""

  def without_mean(log_pf, log_rewards, **kw):
    zeros = jax.numpy.zeros_like(log_rewards)
    return training.gflownet.tb_loss(zeros, log_pf, log_rewards, **kw)

  monkeypatch.setattr(identities.gflownet, "vargrad_loss", without_mean)
  jax.clear_caches()
  failed = conventions.failed(identities.identities(seeds=SEEDS).claims)
  jax.clear_caches()
  assert failed == {"identity_flows", "identity_vargrad"}


def test_policies_that_learned_nothing_fail():
  log_rewards, which = modes.worlds(SEEDS)
  size = training.NUM_SEQUENCES
  uniform = training.Path(
    np.full((len(training.ARMS), len(SEEDS), 1, size), 1 / size),
    np.full((len(training.ARMS), len(SEEDS), 1), 1e-5),
  )
  claims = modes.modes(uniform, log_rewards, which).claims
  # A mode has about an eighth of its share.
  assert conventions.failed(claims) == {claim.name for claim in claims}


def test_a_policy_that_keeps_one_strategy_fails():
  log_rewards, unseen = few_examples.worlds(SEEDS)
  laws = np.exp(log_rewards - np.log(np.exp(log_rewards).sum(-1))[:, None])
  laws = np.stack([laws] * len(training.ARMS))
  # The strategy that solves the fewest, for VarGrad; REINFORCE keeps them all.
  worst = unseen.sum(1).argmin(-1)
  laws[list(training.ARMS).index("VarGrad")] = np.eye(64)[worst]
  claims = few_examples.few_examples(laws, unseen).claims
  assert conventions.failed(claims) == {claim.name for claim in claims}


def test_problems_are_as_described():
  """The shared strategies with the printed accuracy of the first policy."""
  common, rare = few_examples.problems()
  base = 1 / np.arange(1, 65)
  base /= base.sum()
  k = list(few_examples.SAMPLES)
  found = few_examples.pass_at(base[None], common[None])[0]
  for count, printed in ((1, ".399"), (4, ".826"), (16, ".993")):
    conventions.assert_printed(found[k.index(count)], printed)
  found = few_examples.pass_at(base[None], rare[None])[0]
  conventions.assert_printed(found[k.index(64)], ".649")
  assert np.all(rare.sum(1) == 2)
  _, unseen = few_examples.worlds(SEEDS)
  assert unseen.shape == (2, 81, 64)


def test_figures_by_enumeration():
  """Two samples out of 64: all pairs."""
  rng = np.random.default_rng(0)
  law = rng.dirichlet(np.ones(64))
  solved = rng.uniform(size=(3, 64)) < 0.3
  passed, different = np.zeros(3), np.zeros(3)
  for first, second in itertools.product(range(64), repeat=2):
    weight = law[first] * law[second]
    passed += weight * (solved[:, first] | solved[:, second])
    different += weight * solved[:, first]
    different += weight * (solved[:, second] if second != first else 0)
  at = list(few_examples.SAMPLES).index(2)
  found = few_examples.pass_at(law[None], solved[None])[0, at]
  np.testing.assert_allclose(found, passed.mean())
  found = few_examples.distinct(law[None], solved[None])[0, at]
  np.testing.assert_allclose(found, different.mean())


def test_the_loss_bounds_the_residual_of_the_whole_trajectory():
  """`d_0n^2 <= factor * loss`, for any residuals of the steps."""
  rng = np.random.default_rng(0)
  steps = rng.standard_normal((1000, training.T))
  sums = np.pad(steps.cumsum(1), ((0, 0), (1, 0)))
  whole = sums[:, -1] ** 2
  db = (steps**2).mean(1)
  pairs = [(i, j) for j in range(4) for i in range(j)]
  weights = np.array([0.9 ** (j - i) for i, j in pairs])
  squares = np.array([(sums[:, j] - sums[:, i]) ** 2 for i, j in pairs])
  subtb = weights @ squares / weights.sum()
  assert np.all(whole <= modes.FACTORS["DB"] * db)
  assert np.all(whole <= modes.FACTORS["SubTB"] * subtb)
