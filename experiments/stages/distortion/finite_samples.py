# SPDX-License-Identifier: Apache-2.0
"""The majority of finitely many answers: its exact law, and electorates."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.stages.distortion import rules
from jaxalign import social_choice as sc

BETA = 5.0
USERS = (10, 100, 1000, 10_000, 100_000)
SIMULATED = 1000  # users of a simulated electorate


@jax.jit
def _problem() -> tuple[sc.Instance, jax.Array]:
  """An instance and its average utilities."""
  instance = sc.instance_ml(BETA, eps=0.05, xi=1.2)
  return instance, sc.average_utility(instance.weights, instance.utilities)


def finite_samples(
  key: jax.Array, *, num_seeds: int, electorates: int
) -> harness.Part:
  """The exact law, and electorates drawn at random beside it.

  Args:
    key: of the electorates.
    num_seeds: independent repetitions.
    electorates: simulated in each of them.
  """
  instance, utility = _problem()
  exact_law = jax.jit(sc.finite_sample_distortion, static_argnums=2)
  law = [float(exact_law(instance, BETA, n)) for n in USERS]
  population = float(rules.distortion(instance, BETA, "maximal_lottery"))

  def elect(key):
    counts = sc.simulate_comparisons(key, instance, BETA, num_users=SIMULATED)
    margin = sc.pairwise_margins(counts.astype(float))[1, 0]
    chosen = jnp.where(margin == 0, 0.5, margin > 0)
    return chosen * utility[1] + (1 - chosen) * utility[0]

  @jax.jit
  def means_of_seeds(key):
    keys = jax.random.split(key, (num_seeds, electorates))
    return jnp.mean(jax.vmap(jax.vmap(elect))(keys), 1)

  means = np.asarray(means_of_seeds(key))
  utilities = np.asarray(utility)
  low, high = harness.confidence_interval(means)
  exact = float(np.max(utilities)) / law[USERS.index(SIMULATED)]
  # Two outcomes: the standard error follows from the exact mean.
  gap = float(np.ptp(utilities))
  chance = (exact - float(np.min(utilities))) / gap
  total = num_seeds * electorates
  error = gap * (chance * (1 - chance) / total) ** 0.5
  claims = [
    harness.Claim(
      name="finite samples",
      statement="average utility of the lottery on 1000 simulated users",
      theory=exact,
      measured=float(np.mean(means)),
      tolerance=4 * error,
      interval=(low, high),
    ),
    harness.Claim(
      name="finite samples converge",
      statement="relative gap of the law at 100000 users to the population",
      theory=0.0,
      measured=abs(law[-1] / population - 1),
      tolerance=1e-6,  # the chance that so many users err
    ),
  ]
  columns = ([*USERS, "all"], [*law, population])
  rows = [
    {"users": users, "distortion": value}
    for users, value in zip(*columns, strict=True)
  ]
  curves = {
    "finite/users": np.array(USERS),
    "finite/distortion": np.array(law),
    "finite/population": np.array(population),
    "finite/seeds": means,
  }
  return harness.Part(claims, curves, {"finite samples": rows})


def plot(axes, curves: dict[str, np.ndarray]) -> None:
  """The law against the number of users."""
  users = curves["finite/users"]
  axes.plot(users, curves["finite/distortion"], "o-", label="exact law")
  axes.axhline(
    float(curves["finite/population"]),
    color="black",
    linestyle="--",
    linewidth=1,
    label="population",
  )
  axes.set(
    xscale="log",
    xlabel="users",
    ylabel="distortion",
    title=f"Majority of finitely many answers, beta = {BETA:g}",
  )
  axes.legend()
