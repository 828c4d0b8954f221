# SPDX-License-Identifier: Apache-2.0
"""Bias and spread of the estimates on unit Gaussians d apart.

Simulated, against closed forms: those of Schulman's table and, beyond it, of
more distances.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness, plotting
from experiments.stages.kl_estimators.kinds import KINDS, estimates

TABLE_SHIFTS = (0.1, 1.0)  # those of Schulman's table
SHIFTS = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.25, 1.5)
# What is simulated, in the order of `simulate`.
STATISTICS = tuple(
  f"{what} {kind}" for what in ("sd", "bias") for kind in KINDS
)
UNBIASED = ("bias k1", "bias k3")


def closed_forms(d: float) -> dict[str, float]:
  """What theory gives for N(0, 1) against N(d, 1), over its KL `d^2/2`."""
  kl = d**2 / 2
  return {
    "sd k1": 2 / d,
    "sd k2": np.sqrt(d**4 / 2 + d**6 / 4) / kl,
    "sd k3": np.sqrt(np.expm1(d**2) - d**2) / kl,
    "bias k1": 0.0,
    "bias k2": d**2 / 4,
    "bias k3": 0.0,
  }


@jax.jit
def samples(d, x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Estimates over the KL at samples x `[n]`, and what has their bias as mean.

  The bias of k2 is the mean of k2 - k3: k3 has none, and on the same samples
  the errors of the two all but cancel.
  """
  kl = d**2 / 2
  k1, k2, k3 = k = estimates(d**2 / 2 - x * d) / kl
  return k, jnp.stack([k1 - 1, k2 - k3, k3 - 1])


def standard_errors(d: float, count: int) -> dict[str, float]:
  """Of the same numbers when simulated; fourth moments by quadrature."""
  x, weight = np.polynomial.hermite_e.hermegauss(120)
  weight = weight / weight.sum()

  def moment(sample, power):
    centred = sample - (sample @ weight)[:, None]
    return centred**power @ weight

  k, excess = map(np.asarray, samples(d, jnp.asarray(x)))
  of_variance = np.sqrt((moment(k, 4) - moment(k, 2) ** 2) / count)
  of_sd = of_variance / (2 * np.sqrt(moment(k, 2)))
  of_bias = np.sqrt(moment(excess, 2) / count)
  return dict(zip(STATISTICS, [*of_sd, *of_bias], strict=True))


@jax.jit(static_argnames="draws")
def simulate(keys: jax.Array, shifts: jax.Array, *, draws: int) -> jax.Array:
  """Standard deviations and biases over the KL `[S, D, 2, 3]`, per seed."""

  def one_seed(key):
    x = jax.random.normal(key, (draws,))

    def one_shift(d):
      k, excess = samples(d, x)
      return jnp.stack([k.std(-1, ddof=1), excess.mean(-1)])

    return jax.lax.map(one_shift, shifts)

  return jax.lax.map(one_seed, keys)


def _table_claims(
  d: float,
  found: dict[str, np.ndarray],
  theory: dict[str, float],
  errors: dict[str, float],
) -> list[harness.Claim]:
  """One row of Schulman's table, from simulations `[S]` by statistic."""
  claims = []
  for name, values in found.items():
    if name in UNBIASED:
      continue
    what, kind = name.split()
    full = {"sd": "standard deviation", "bias": "bias"}[what]
    claims.append(
      harness.Claim(
        name=f"{what}_{kind}_at_d{d:g}",
        statement=f"{full} of {kind} over the KL, unit Gaussians {d:g} apart",
        theory=theory[name],
        measured=values.mean(),
        tolerance=harness.STANDARD_ERRORS * errors[name],
        interval=harness.confidence_interval(values),
      )
    )
  return claims


def _worse_far_away(found: dict[str, np.ndarray]) -> harness.Claim:
  """Of the simulations `[S]` at the largest distance."""
  ratios = found["sd k3"] / found["sd k1"]
  return harness.Claim(
    name="k3_is_worse_far_away",
    statement=f"standard deviation of k3 over that of k1 at {SHIFTS[-1]:g}"
    " apart, above 1",
    theory=1.0,
    measured=ratios.mean(),
    tolerance=0.0,
    relation=">=",
    interval=harness.confidence_interval(ratios),
  )


def gaussians(key: jax.Array, *, num_seeds: int, draws: int) -> harness.Part:
  """Claims, curves and a table of bias and spread against the distance.

  Args:
    key: of the samples.
    num_seeds: simulations.
    draws: samples of each simulation.
  """
  keys = jax.random.split(key, num_seeds)
  simulated = np.asarray(simulate(keys, jnp.array(SHIFTS), draws=draws))
  simulated = simulated.reshape(num_seeds, len(SHIFTS), len(STATISTICS))
  by_shift = [
    dict(zip(STATISTICS, values, strict=True))
    for values in np.moveaxis(simulated, 0, -1)
  ]
  claims, rows, standardised = [], [], []
  for d, found in zip(SHIFTS, by_shift, strict=True):
    theory = closed_forms(d)
    errors = standard_errors(d, num_seeds * draws)
    means = {name: values.mean() for name, values in found.items()}
    rows += [
      {"d": d, "": "theory"} | theory,
      {"d": d, "": "simulated"} | means,
    ]
    standardised += [means[name] / errors[name] for name in UNBIASED]
    if d in TABLE_SHIFTS:
      claims += _table_claims(d, found, theory, errors)
  claims += [
    harness.all_agree(
      "k1_k3_unbiased",
      "largest bias of k1 and k3 over all distances, in standard errors",
      standardised,
      tolerance=5.0,
    ),
    _worse_far_away(by_shift[-1]),
  ]
  return harness.Part(
    claims,
    {"shifts": np.array(SHIFTS), "gaussians": simulated},
    {"unit Gaussians d apart": rows},
  )


def plot(curves: dict[str, np.ndarray]):
  """Spread and bias against the distance, simulated and in theory."""
  figure, panels = plotting.figure(1, 2)
  shifts = curves["shifts"]
  means = dict(zip(STATISTICS, curves["gaussians"].mean(0).T, strict=True))
  fine = np.linspace(shifts.min(), shifts.max(), 200)
  theory = [closed_forms(d) for d in fine]
  for axes, what in zip(panels, ("sd", "bias"), strict=True):
    for kind in KINDS:
      name = f"{what} {kind}"
      (line,) = axes.plot(fine, [t[name] for t in theory], label=kind)
      axes.plot(shifts, means[name], "o", color=line.get_color())
    axes.set(xlabel="distance d of the unit Gaussians")
    axes.legend(title="line: theory, dots: simulation")
  spread, bias = panels
  spread.set(
    xscale="log",
    yscale="log",
    title="standard deviation / KL",
    ylabel="standard deviation of one sample / KL",
  )
  bias.set(title="bias / KL", ylabel="bias / KL")
  return figure
