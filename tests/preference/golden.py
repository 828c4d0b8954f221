# SPDX-License-Identifier: Apache-2.0
"""Two pairs whose losses are known to six digits, for all preference tests."""

import numpy as np

from jaxalign import preference

PAIRS = preference.PairLogps(
  policy_chosen=np.array([-12.0, -30.5]),
  policy_rejected=np.array([-14.2, -25.0]),
  ref_chosen=np.array([-13.5, -28.0]),
  ref_rejected=np.array([-12.9, -26.2]),
  chosen_length=np.array([5.0, 12.0]),
  rejected_length=np.array([6.0, 9.0]),
)


def assert_golden(loss, expected):
  """The losses `[2]` are the printed ones, to half a unit of the last digit."""
  np.testing.assert_allclose(loss, expected, rtol=0, atol=5.0001e-7)
