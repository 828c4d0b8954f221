# SPDX-License-Identifier: Apache-2.0
import itertools

import numpy as np
import pytest

from experiments.stages import enumeration


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_enumeration_of_multisets_is_that_of_tuples(temperature):
  p, r, n = np.array([0.5, 0.2, 0.3]), np.array([1.0, 0.0, 1.0]), 3
  expected = np.zeros(3)
  for drawn in itertools.product(range(3), repeat=n):
    values = r[list(drawn)]
    weight = (
      np.exp(values / temperature)
      if temperature
      else (values == values.max()).astype(float)
    )
    np.add.at(
      expected, list(drawn), p[list(drawn)].prod() * weight / weight.sum()
    )
  found = enumeration.best_of_n(p, r, n, temperature)
  np.testing.assert_allclose(found, expected, atol=1e-14)
