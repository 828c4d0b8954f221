# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import preference
from tests import helpers
from tests.preference import golden

AVERAGE = functools.partial(preference.rpo_loss, average=True, eta=0.2)


@pytest.mark.parametrize(
  ("loss", "expected"),
  [
    (preference.dpop_loss, (0.562915, 12.870003)),
    (preference.rpo_loss, (0.568915, 0.910413)),
    (AVERAGE, (0.562915 + 0.2 * 12 / 5, 0.895163 + 0.2 * 30.5 / 12)),
  ],
)
def test_golden_values(loss, expected):
  golden.assert_golden(loss(golden.PAIRS).loss, expected)


def test_three_kinds():
  golden.assert_three_kinds(
    [preference.dpop_loss, preference.rpo_loss, AVERAGE]
  )


def test_dpop_starts_as_dpo():
  at_ref = np.zeros(1)

  def slopes(loss):
    def total(chosen, rejected):
      logps = preference.PairLogps(chosen, rejected, at_ref, at_ref)
      return loss(logps).loss[0]

    return jax.grad(total, (0, 1))(at_ref, at_ref)

  helpers.assert_close(
    slopes(preference.dpop_loss), slopes(preference.dpo_loss)
  )


def test_an_empty_completion_leaves_the_comparison():
  length = golden.PAIRS.chosen_length * np.array([0, 1])
  empty = golden.PAIRS._replace(chosen_length=length)
  compared, likelihood = (
    preference.dpo_loss(empty).loss[0],
    AVERAGE(golden.PAIRS).loss[1],
  )
  helpers.assert_close(AVERAGE(empty).loss, jnp.stack([compared, likelihood]))


@pytest.mark.parametrize(
  ("loss", "option"),
  [(preference.dpop_loss, "lam"), (preference.rpo_loss, "eta")],
)
def test_refuses_what_it_cannot_use(loss, option):
  with pytest.raises(ValueError, match=f"{option} must be above 0"):
    loss(golden.PAIRS, **{option: 0.0})
  with pytest.raises(AssertionError, match="need floats"):
    loss(golden.PAIRS._replace(policy_chosen=np.array([-1, -2])))
