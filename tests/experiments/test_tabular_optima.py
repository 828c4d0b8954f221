# SPDX-License-Identifier: Apache-2.0
import functools

import numpy as np
import pytest

from experiments import tabular_optima
from experiments.stages.tabular_optima import labelled, pairwise, rows
from jaxalign import preference
from tests.experiments import conventions

WORLDS = rows.draw(0, 2)


def test_claims_reproduce():
  results = conventions.assert_reproduces(tabular_optima)
  # What the abstract of the list says: to rounding, not only to the bound.
  assert max(float(gap) for gap in results.curves.values()) < 1e-13


def test_worlds_are_laws_and_batches_in_their_proportions():
  worlds = rows.draw(1, 3)
  for law in (np.exp(worlds.log_ref), worlds.sampling, worlds.good):
    np.testing.assert_allclose(law.sum(-1), 1, rtol=1e-14)
  for law, batch in (
    (worlds.good, worlds.good_batch),
    (worlds.bad, worlds.bad_batch),
  ):
    for w in range(3):
      counts = np.bincount(batch[w], minlength=rows.OUTCOMES)
      np.testing.assert_allclose(law[w], counts / rows.BATCH)
      assert counts.min() >= 2
  assert not np.array_equal(worlds.rewards, rows.draw(2, 3).rewards)


@pytest.mark.parametrize(
  ("loss", "optimum"),
  [
    # Another strength, labels that were not flipped, a reference that is not
    # the policy's: each must show.
    (functools.partial(preference.dpo_loss, beta=0.4), pairwise.soft),
    (
      functools.partial(preference.robust_dpo_loss, beta=rows.BETA, eps=0.2),
      pairwise.soft,
    ),
    (
      functools.partial(preference.dpo_loss, beta=rows.BETA),
      labelled.consistent,
    ),
  ],
)
def test_a_wrong_loss_or_formula_fails(loss, optimum):
  row = rows.Row("wrong", "", pairwise.population(loss), rows.policy, optimum)
  (claim,) = rows.part("wrong", [row], WORLDS).claims
  assert not claim.holds and claim.measured > 1e-2
