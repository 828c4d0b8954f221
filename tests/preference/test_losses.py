# SPDX-License-Identifier: Apache-2.0
import pytest

from jaxalign import preference
from tests import helpers
from tests.preference import golden


def test_a_named_loss_is_its_function():
  named = preference.pair_loss("dpo", beta=0.3)(golden.PAIRS)
  helpers.assert_close(named, preference.dpo_loss(golden.PAIRS, beta=0.3))


def test_refusals_come_before_data():
  with pytest.raises(ValueError, match="unknown loss 'dop': choose one of"):
    preference.pair_loss("dop")
  with pytest.raises(ValueError, match="takes no option 'tau': it takes beta"):
    preference.pair_loss("dpo", tau=1.0)
  with pytest.raises(ValueError, match="beta must be above 0, was 0"):
    preference.pair_loss("dpo", beta=0)


@pytest.mark.parametrize("name", preference.PAIR_LOSSES)
def test_every_loss_names_what_it_lacks(name):
  if name == "f_dpo":
    pytest.skip("needs its divergence")
  lacking = preference.PairLogps(*golden.PAIRS[:2])
  with pytest.raises(ValueError, match=f"{name} needs .* of PairLogps"):
    preference.pair_loss(name)(lacking)
