# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import overoptimisation as experiment
from experiments.stages.overoptimisation import (
  adversary,
  one_pair,
  random_worlds,
)
from jaxalign import preference
from tests.experiments import conventions

pytestmark = pytest.mark.usefixtures("optimised")


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


def test_one_pair_has_the_printed_values():
  (rows,) = one_pair.one_pair().tables.values()
  at = {(row["loss"], row["updates"]): row for row in rows}
  dpo, rpo = at["DPO", 4000], at["RPO, eta 0.2", 4000]
  conventions.assert_printed(dpo["unseen"], "1.000")
  conventions.assert_printed(dpo["chosen"], "0.000")
  for name, printed in zip(
    one_pair.ACTIONS, (".3256", ".2412", ".4332"), strict=False
  ):
    conventions.assert_printed(rpo[name], printed)
  later = at["RPO, eta 0.2", 40_000]
  for name, printed in zip(
    one_pair.ACTIONS, (".552", ".075", ".373"), strict=False
  ):
    conventions.assert_printed(later[name], printed)


def test_another_seed_gives_other_worlds():
  conventions.assert_seed_matters(experiment, "random/reward", "random/unseen")


def test_without_the_likelihood_the_unseen_action_wins(monkeypatch):
  """DPO in the place of RPO."""
  monkeypatch.setitem(one_pair.LOSSES, "RPO, eta 0.2", one_pair.LOSSES["DPO"])
  jax.clear_caches()
  failed = conventions.failed(one_pair.one_pair().claims)
  jax.clear_caches()
  assert failed == {"rpo_chosen"}


def test_a_game_with_another_weight_fails(monkeypatch):
  """The other form of RPO: of averages, and not times beta."""
  loss = functools.partial(preference.rpo_loss, average=True)

  def averaged(logps, **options):
    ones = jnp.ones_like(logps.policy_chosen)
    one_token = logps._replace(chosen_length=ones, rejected_length=ones)
    return loss(one_token, **options)

  monkeypatch.setattr(adversary.preference, "rpo_loss", averaged)
  jax.clear_caches()
  failed = conventions.failed(adversary.adversary(seeds=range(2)).claims)
  jax.clear_caches()
  assert failed == {"adversary", "saddle"}


def test_worlds_compare_only_what_is_seen():
  _, rewards, pairs = random_worlds.worlds(range(40))
  assert pairs.max() == random_worlds.SEEN - 1 and pairs.min() == 0
  assert np.all(pairs[..., 0] != pairs[..., 1])
  world = np.arange(40)[:, None]
  gap = rewards[world, pairs[..., 0]] - rewards[world, pairs[..., 1]]
  # The better one wins with the probability that Bradley and Terry give.
  wins, expected = gap > 0, 1 / (1 + np.exp(-np.abs(gap)))
  error = np.sqrt(np.sum(expected * (1 - expected))) / gap.size
  assert abs(wins.mean() - expected.mean()) < 5 * error
