# SPDX-License-Identifier: Apache-2.0
"""What the bounds of masked and Gaussian diffusion are, to rounding.

Paper: MDLM (2406.07524), RADD (2406.03736), LLaDA (2502.09992), SPG
(2510.09541), VDM (2107.00630), DDPM (2006.11239), Flow Matching (2210.02747).
Claims: (1) masked diffusion has one bound for all schedules; it is the mean
over orders, and its gap a divergence of orders. (2) T steps have a likelihood
and a bound of their own, tight for T = 1, at a distance of order 1/T from the
limit. (3) Four estimators have the bound as their mean; two have no variance;
times that lie evenly do no harm; counts from 0 miss a term. (4) SPG's upper
surrogate is a bound for powers of at least the length only, and its estimate is
biased. (5) For Gaussian data the losses of VDM, DDPM and flow matching are one
integral, and a flow's likelihood is exact.
Expected: identities to 1e-12 by enumeration, to 1e-10 by quadrature; simulation
within five standard errors. |ELBO_T - ELBO| falls with exponent -1. Upper
surrogate less log pi over random tables of three tokens: smallest -1.94, -.80,
-.19, +.16 for powers 1, 1.5, 2, 3; two tokens whose orders disagree .25 against
.41. Its estimate from 8 draws is low by .68 on average; that from one draw is
high where the denoiser is uniform. Forwards 7.06, 14.26, 442.8. Diffusion loss
of 4, 16, 64, 1024 and infinitely many steps 55.05, 8.23, 5.638, 5.056, 5.0205.
Likelihood of a flow in 5 and 10 steps: errors 6.7e-5 and 1.9e-6. Which of the
two estimators with a variance has less depends on the table.
Command: `python -m experiments.elbo_identities`
About 40 seconds on 2 cores.
"""

import dataclasses

import jax
from absl import app

from experiments import harness, plotting
from experiments.stages.elbo_identities import (
  any_order,
  chains,
  estimators,
  even_times,
  flow_bounds,
  forwards,
  gaussian_bounds,
  t_steps,
  upper_surrogate,
)

PAPER = (
  "MDLM (2406.07524), RADD (2406.03736), LLaDA (2502.09992), SPG (2510.09541),"
  " VDM (2107.00630), DDPM (2006.11239), Flow Matching (2210.02747)"
)


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """How many random denoisers and draws."""

  num_seeds: int = harness.field(
    5, smoke=2, full=32, help="random denoisers for each identity"
  )
  num_tables: int = harness.field(
    200,
    smoke=50,
    full=2000,
    least=50,
    help="random denoisers for the surrogate",
  )
  draws: int = harness.field(
    500_000,
    smoke=50_000,
    full=2_000_000,
    least=10_000,
    help="draws of each estimator",
  )


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Measures every identity."""
  del progress  # A few compiled programs: there is nothing to follow.
  first = config.seed * config.num_tables
  seeds = range(first, first + config.num_seeds)
  keys = jax.random.split(config.key(), 4)
  parts = (
    any_order.any_order(seeds=seeds),
    t_steps.t_steps(seeds=seeds),
    estimators.estimators(seeds=seeds, key=keys[0], num_draws=config.draws),
    even_times.even_times(seeds=seeds, key=keys[1], num_draws=config.draws),
    forwards.forwards(key=keys[2]),
    upper_surrogate.upper_surrogate(seeds=seeds, num_tables=config.num_tables),
    gaussian_bounds.gaussian_bounds(seed=config.seed),
    flow_bounds.flow_bounds(seed=config.seed),
    chains.chains(seed=config.seed, key=keys[3], num_draws=config.draws),
  )
  return harness.collect("elbo_identities", PAPER, parts)


def plot(results: harness.Results) -> dict:
  """Masked bounds, their estimators, Gaussian losses."""
  curves = results.curves
  masked, (left, right) = plotting.figure(1, 2)
  t_steps.plot(left, curves)
  upper_surrogate.plot(right, curves)
  spread, (axes,) = plotting.figure()
  estimators.plot(axes, curves)
  gaussian, (left, right) = plotting.figure(1, 2)
  gaussian_bounds.plot(left, curves)
  flow_bounds.plot(right, curves)
  return {"masked": masked, "estimators": spread, "gaussian": gaussian}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
