# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from jaxalign import preference
from tests.preference import golden

GOLDEN = [
  (preference.dpo_loss, {}, (0.562915, 0.895163)),
  (preference.dpo_loss, {"label_smoothing": 0.1}, (0.590915, 0.858163)),
  (preference.hinge_loss, {}, (0.72, 1.37)),
]


@pytest.mark.parametrize(("loss", "options", "expected"), GOLDEN)
def test_golden_values(loss, options, expected):
  golden.assert_golden(loss(golden.PAIRS, **options).loss, expected)


def test_dpo_at_the_reference():
  zero = np.zeros(1)
  out = preference.dpo_loss(preference.PairLogps(zero, zero, zero, zero))
  np.testing.assert_allclose(out.loss, np.log(2), rtol=1e-15)
