# SPDX-License-Identifier: Apache-2.0
"""Random problems of six features, with every subset enumerated."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.stages.strategic_features import problems
from jaxalign.learning import strategic

SIZE = 6
EXACT = 1e-10  # solutions of well-conditioned systems in float64
GAP = 1e-8  # a difference of minima that two searches found
FOUND = 1e-9  # two values of one subset
# Joint selection is no exact algorithm: it may miss one instance in twenty.
MISSES = 0.05


def draw(rng: np.random.Generator, number: int) -> problems.Problem:
  """Correlations of 8 normal rows, coefficients, and log-normal costs."""
  return problems.Problem(
    np.array(
      [np.corrcoef(rng.normal(size=(SIZE, SIZE + 2))) for _ in range(number)]
    ),
    rng.normal(size=(number, SIZE)) / SIZE**0.5,
    np.exp(rng.normal(size=(number, SIZE))),
  )


def _cubic() -> harness.Claim:
  """One feature: Sigma = beta = 1."""
  cost = 0.5
  one = jnp.ones(1)
  optimum = jax.jit(strategic.strategic_optimum)
  found = optimum(one, jnp.eye(1), one, cost * one)
  roots = np.roots([2 / cost**2, 0, 1, -1])
  return harness.Claim(
    name="one_feature",
    statement="one feature of cost .5: the optimum solves (t - 1) + 2 t^3/h^2"
    " = 0",
    theory=roots[np.argmin(np.abs(roots.imag))].real,
    measured=found.theta[0],
    tolerance=EXACT,
  )


def _decomposition(found: dict, equal: dict) -> list[harness.Claim]:
  values, best = found["penalty"].value, found["optimum"].value
  prediction, manipulation, gap = found["parts"]
  total = prediction - (manipulation[:, -1:] - manipulation) + gap
  few = problems.subsets(SIZE).sum(1) <= 1
  return [
    harness.all_agree(
      "optimum",
      "random instances: the error's gradient on the support vanishes at the"
      " strategic optimum: largest entry",
      [found["slope"]],
      tolerance=EXACT,
    ),
    harness.all_agree(
      "decomposition",
      "random instances: a subset's excess over the optimum on all features is"
      " Lpred - (Gamma(all) - Gamma) + Gap: largest difference",
      [values - best[:, -1:] - total],
      tolerance=EXACT,
    ),
    harness.none_exceeds(
      "parts",
      "random instances: Lpred, Gamma and Gap are not negative: largest"
      " shortfall",
      [-prediction, -manipulation, -gap],
      tolerance=GAP,
    ),
    harness.all_agree(
      "no_gap",
      "random instances: Gap is 0 for equal costs and for at most one feature:"
      " largest",
      [equal["parts"].gap, gap[:, few]],
      tolerance=GAP,
    ),
    harness.all_agree(
      "equal_costs",
      "random instances: with equal costs h, ridge with the penalty 2 tau/h is"
      " the optimum: largest difference of coefficients",
      [equal["ridge"] - equal["optimum"].theta],
      tolerance=EXACT,
    ),
  ]


def _cutoffs(costs: np.ndarray) -> np.ndarray:
  """The places of the cut-offs by manipulability among all subsets."""
  order = np.argsort(costs)
  dropped = [order[:k] for k in range(SIZE + 1)]
  bits = 2 ** np.arange(SIZE)[::-1]  # the first feature changes last
  return np.array([bits.sum() - bits[rows].sum() for rows in dropped])


def instances(rng: np.random.Generator, *, number: int) -> harness.Part:
  """Claims on the theory's identities and on joint selection.

  Args:
    rng: of the instances.
    number: of them.
  """
  batch = draw(rng, number)
  equal = batch._replace(costs=np.repeat(batch.costs[:, :1], SIZE, 1))
  found, alike = map(problems.enumerate_subsets, (batch, equal))
  selection = problems.select(batch)
  values = found["penalty"].value
  best, joint = values.min(1), selection.value
  cutoff = np.array(
    [v[_cutoffs(h)].min() for v, h in zip(values, batch.costs, strict=True)]
  )
  optimal = joint <= best + FOUND
  claims = [
    _cubic(),
    *_decomposition(found, alike),
    harness.none_exceeds(
      "joint",
      "random instances: joint selection never exceeds all features or a"
      " cut-off: largest excess",
      [joint - cutoff],
      tolerance=EXACT,
    ),
    harness.Claim(
      name="joint_optimal",
      statement="random instances: share in which joint selection finds the"
      " best of all subsets",
      theory=1.0,
      measured=optimal.mean(),
      tolerance=MISSES,
      relation=">=",
    ),
  ]
  which = {
    "all features": values[:, -1],
    "best cut-off": cutoff,
    "joint": joint,
    "best subset": best,
  }
  tables = {
    f"random instances of {SIZE} features": harness.rows(
      choice=np.array(list(which)),
      mean_SMSE=[x.mean() for x in which.values()],
      best_subset_found=[np.mean(x <= best + FOUND) for x in which.values()],
    )
  }
  curves = {"instances/joint": joint, "instances/best": best}
  return harness.Part(claims, curves, tables)
