# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import preference
from tests import helpers
from tests.preference import golden

GOLDEN = [
  (preference.nca_pair_loss, (1.321565, 1.491382)),
  (preference.bco_pair_loss, (1.251215, 1.580886)),
  (preference.sppo_hard_loss, (25.94, 94.69)),
  (preference.apo_zero_loss, (0.930116, 1.092141)),
  (preference.apo_down_loss, (0.967884, 1.029282)),
]


@pytest.mark.parametrize(("loss", "expected"), GOLDEN)
def test_golden_values(loss, expected):
  golden.assert_golden(loss(golden.PAIRS).loss, expected)


def test_three_kinds():
  golden.assert_three_kinds([loss for loss, _ in GOLDEN])


def test_optima_over_free_rewards():
  """From the marginals of winners and losers alone."""
  beta, weights = 0.4, golden.WEIGHTS
  losses = (
    preference.nca_pair_loss,
    preference.bco_pair_loss,
    preference.sppo_hard_loss,
  )
  found = golden.minimisers(
    [(functools.partial(loss, beta=beta), weights) for loss in losses],
    normalised=False,
  )
  win, lose = weights.sum(1), weights.sum(0)
  expected = np.stack(
    [
      np.log(2 * win / (win + lose)) / beta,
      np.log(win / lose) / beta,
      (win - lose) / (win + lose) / (2 * beta),
    ]
  )
  helpers.assert_close(found, expected, rtol=0, atol=1e-13)


def test_which_way_anchored_losses_push():
  def slopes(loss, chosen, rejected):
    def total(h):
      logps = preference.PairLogps(h[:1], h[1:], np.zeros(1), np.zeros(1))
      return loss(logps, beta=0.1).loss[0]

    return jax.grad(total)(jnp.array([chosen, rejected]))

  zero = slopes(preference.apo_zero_loss, 1.0, -2.0)
  assert zero[0] < 0 < zero[1]
  at_ref = slopes(preference.apo_down_loss, 0.0, 0.0)
  np.testing.assert_allclose(at_ref, [0, 0.1 / 4], rtol=0, atol=1e-17)
  apart = slopes(preference.apo_down_loss, 0.0, -10.0)
  np.testing.assert_allclose(apart, [0.00534, 0.01966], rtol=0, atol=5e-6)


@pytest.mark.parametrize(("loss", "_"), GOLDEN)
def test_refuses_what_it_cannot_use(loss, _):
  with pytest.raises(ValueError, match="beta must be above 0"):
    loss(golden.PAIRS, beta=0.0)
  with pytest.raises(AssertionError, match=r"ref_chosen \(3,\)"):
    loss(golden.PAIRS._replace(ref_chosen=np.zeros(3)))
