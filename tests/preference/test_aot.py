# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import numpy as np
import pytest

from jaxalign import preference
from tests import helpers
from tests.preference import golden

RNG = np.random.default_rng(0)
BATCH = preference.PairLogps(*RNG.normal(size=(4, 5)))
UNPAIRED = functools.partial(preference.aot_loss, paired=False)
SMOOTHED = functools.partial(preference.aot_loss, label_smoothing=0.1)


@pytest.mark.parametrize(
  ("loss", "expected"),
  [
    (preference.aot_loss, (0.895163, 0.562915)),
    (UNPAIRED, (0.754946, 0.678260)),
  ],
)
def test_golden_values(loss, expected):
  golden.assert_golden(loss(golden.PAIRS).loss, expected)


def test_three_kinds():
  golden.assert_three_kinds([preference.aot_loss, UNPAIRED, SMOOTHED])


def test_one_pair_has_the_loss_of_dpo():
  one = jax.tree.map(lambda x: x[:1], golden.PAIRS)
  for options in ({}, {"label_smoothing": 0.2}):
    expected = preference.dpo_loss(one, **options)
    for paired in (True, False):
      out = preference.aot_loss(one, paired=paired, **options)
      helpers.assert_close(out, expected, rtol=1e-14)


def test_each_sorted_argument_may_be_permuted():
  order = np.array([3, 0, 4, 1, 2])

  def permuted(*names):
    moved = {name: getattr(BATCH, name)[order] for name in names}
    return BATCH._replace(**moved)

  paired, unpaired = preference.aot_loss(BATCH).loss, UNPAIRED(BATCH).loss
  for names in (
    ("policy_chosen", "policy_rejected"),
    ("ref_chosen", "ref_rejected"),
  ):
    actual = preference.aot_loss(permuted(*names)).loss
    helpers.assert_close(actual, paired)
  for names in (
    ("policy_chosen", "ref_chosen"),
    ("policy_rejected", "ref_rejected"),
  ):
    helpers.assert_close(UNPAIRED(permuted(*names)).loss, unpaired)
  alone = permuted("policy_chosen")  # who is compared with whom matters here
  assert not np.allclose(preference.aot_loss(alone).loss, paired)


def test_refuses_what_is_no_batch():
  with pytest.raises(AssertionError, match="need rank 1"):
    preference.aot_loss(preference.PairLogps(*np.ones((4, 2, 3))))
  with pytest.raises(ValueError, match="label_smoothing must be in"):
    preference.aot_loss(golden.PAIRS, label_smoothing=0.7)
