# SPDX-License-Identifier: Apache-2.0
"""What a step of Nash-MD leaves of KL(pi*||pi).

Against the one-step inequality, the bound for decreasing steps, and the
exponent and constant at which the KL in fact falls when they decrease.
"""

import numpy as np

from experiments import harness
from experiments.stages.nash import runs
from experiments.stages.nash.worlds import RANDOM


def _bound(tau: float, steps: np.ndarray) -> np.ndarray:
  """Of the KL after so many decreasing steps."""
  return 8 / (tau**2 * (steps + 1))


def _inequalities(found: runs.Found, tau: float) -> list[harness.Claim]:
  """The one-step inequality and the bound of decreasing steps."""
  t = np.arange(found.steps)
  constant = np.repeat(found.solution.etas[:, None], found.steps, 1)
  falling = np.broadcast_to(
    2 / (tau * (t[:, None] + 2)), (*constant.shape[:2], 1)
  )
  etas = np.concatenate([constant, falling], -1)
  kl = found.kl[..., found.index["nash_md"] + found.index["decreasing"]]
  excess = kl[:, 1:] - (1 - etas * tau) * kl[:, :-1]
  return [
    harness.Claim(
      name="one_step_inequality",
      statement="a step of Nash-MD leaves KL(pi*||pi) below (1 - eta tau) KL +"
      " 2 eta^2: largest excess over 2 eta^2",
      theory=1.0,
      measured=np.max(excess / (2 * etas**2)),
      tolerance=0.0,
      relation="<=",
    ),
    harness.Claim(
      name="decreasing_steps_bound",
      statement="with steps 2/(tau (t + 2)) KL(pi*||pi_T) <= 8/(tau^2 (T + 1)):"
      " largest ratio",
      theory=1.0,
      measured=np.max(kl[:, 1:, -1] / _bound(tau, t + 1)),
      tolerance=0.0,
      relation="<=",
    ),
  ]


def _power_law(found: runs.Found) -> list[harness.Claim]:
  """Exponent and constant of decreasing steps on the random games."""
  (run,) = found.index["decreasing"]
  paths = found.kl[RANDOM, :, run]
  exponents = runs.fitted_exponents(paths)
  ratios = paths[:, -1] * found.steps**2 / found.constants[RANDOM]
  # The next order is a few dozen over T of the leading one.
  tolerance = 0.01
  return [
    harness.Claim(
      name="decreasing_steps_exponent",
      statement="with steps 2/(tau (t + 2)) the KL falls like T^-2: exponent,"
      " mean over random games",
      theory=-2.0,
      measured=exponents.mean(),
      tolerance=tolerance,
      interval=harness.confidence_interval(exponents),
    ),
    harness.Claim(
      name="decreasing_steps_constant",
      statement="with steps 2/(tau (t + 2)) T^2 KL over the linearisation's"
      " constant: mean over random games",
      theory=1.0,
      measured=ratios.mean(),
      tolerance=tolerance,
      interval=harness.confidence_interval(ratios),
    ),
  ]


def contraction(found: runs.Found, *, tau: float) -> harness.Part:
  """Claims on the steps of Nash-MD; the bound that `convergence` plots."""
  return harness.Part(
    claims=[*_inequalities(found, tau), *_power_law(found)],
    curves={"bound": _bound(tau, found.shown_steps)},
    tables={},
  )
