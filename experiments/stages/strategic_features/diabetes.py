# SPDX-License-Identifier: Apache-2.0
"""Progression of diabetes from ten features, some easily manipulated."""

import numpy as np
from matplotlib.axes import Axes

from experiments import harness, plotting
from experiments.stages.strategic_features import problems
from jaxalign import checks

# Of a shift by one standard deviation.
COSTS = {"age": 1e3, "sex": 1e3, "bmi": 0.2, "bp": 0.2} | {
  "s1": 0.05,
  "s2": 0.05,
  "s3": 0.05,
  "s4": 0.05,
  "s5": 0.1,
  "s6": 0.1,
}
PLAIN = 1e-3  # the penalty of ridge that does not expect manipulation
MEDIAN, SPREAD = 0.1, 1.25  # of random costs: log-normal
BETTER = 1e-9  # above roundings
ARMS = ("ridge", "all", "cut-off", "joint", "optimum")


def load() -> tuple[np.ndarray, np.ndarray]:
  """Standardised features `[442, 10]` and targets `[442]`.

  Raises:
    InputError: scikit-learn, which has the data, is not installed.
  """
  try:
    from sklearn import datasets
  except ImportError:
    raise checks.InputError(
      "the diabetes data are those of scikit-learn, which is not installed:"
      " install it, or leave them out by --nodiabetes"
    ) from None
  found = datasets.load_diabetes()
  if tuple(found.feature_names) != tuple(COSTS):
    raise checks.InputError(
      f"the diabetes data have features {', '.join(found.feature_names)},"
      f" expected {', '.join(COSTS)}"
    )
  return tuple(map(problems.standardised, (found.data, found.target)))


def _errors(
  x: np.ndarray, y: np.ndarray, theta: np.ndarray, costs: np.ndarray
) -> tuple[float, float]:
  """Mean squared errors before and after everybody shifts by `theta / h`."""
  before, after = x @ theta, (x + theta / costs) @ theta
  return np.mean((y - before) ** 2), np.mean((y - after) ** 2)


def _coefficients(
  problem: problems.Problem, solution: problems.Solution
) -> dict[str, np.ndarray]:
  """Of every arm, `[d]`, from the first of a batch of solutions."""
  right = problem.covariance @ problem.beta
  size = problem.beta.size

  def ridge(kept, lam):
    theta = np.zeros(size)
    matrix = problem.covariance[np.ix_(kept, kept)] + lam * np.eye(len(kept))
    theta[kept] = np.linalg.solve(matrix, right[kept])
    return theta

  cutoff = int(solution.cutoffs.value[0].argmin())
  kept = np.sort(np.argsort(problem.costs, kind="stable")[cutoff:])
  thetas = (
    ridge(np.arange(size), PLAIN),
    ridge(np.arange(size), solution.cutoffs.lam[0, 0]),
    ridge(kept, solution.cutoffs.lam[0, cutoff]),
    solution.theta[0],
    solution.optimum.theta[0],
  )
  return dict(zip(ARMS, thetas, strict=True))


def _claims(errors: dict, excess: dict) -> list[harness.Claim]:
  after = {arm: error[1] for arm, error in errors.items()}
  gain = excess["all"] - excess["joint"]
  return [
    harness.Claim(
      name="diabetes_joint",
      statement="diabetes: manipulated test error of joint selection less that"
      " of all features with their best penalty",
      theory=0.0,
      measured=after["joint"] - after["all"],
      tolerance=0.0,
      relation="<=",
    ),
    harness.Claim(
      name="diabetes_plain",
      statement="diabetes: manipulated test error of joint selection less a"
      " tenth of that of ridge which expects no manipulation",
      theory=0.0,
      measured=after["joint"] - after["ridge"] / 10,
      tolerance=0.0,
      relation="<=",
    ),
    harness.Claim(
      name="diabetes_costs",
      statement="diabetes, random costs: mean error of all features less that"
      " of joint selection",
      theory=0.0,
      measured=gain.mean(),
      tolerance=0.0,
      relation=">=",
      interval=harness.confidence_interval(gain),
    ),
    harness.none_exceeds(
      "diabetes_cutoffs",
      "diabetes, random costs: joint selection never exceeds the best cut-off:"
      " largest excess",
      [excess["joint"] - excess["cut-off"]],
      tolerance=BETTER,
    ),
  ]


def diabetes(rng: np.random.Generator, *, num_costs: int) -> harness.Part:
  """The case study on a random half, then random costs.

  Args:
    rng: of the split and of the costs.
    num_costs: draws of costs.
  """
  x, y = load()
  fit, test = np.split(rng.permutation(len(y)), [len(y) // 2])
  costs = np.array(list(COSTS.values()))
  problem = problems.fitted(x[fit], y[fit], costs)
  drawn = MEDIAN * np.exp(SPREAD * rng.normal(size=(num_costs, len(costs))))
  batch = problems.stacked(
    [problem, *(problem._replace(costs=row) for row in drawn)]
  )
  solution = problems.solve(batch)
  thetas = _coefficients(problem, solution)
  errors = {
    arm: _errors(x[test], y[test], theta, costs)
    for arm, theta in thetas.items()
  }
  values = {
    "all": solution.cutoffs.value[:, 0],
    "cut-off": solution.cutoffs.value.min(1),
    "joint": solution.joint.value,
  }
  best = solution.optimum.value
  excess = {arm: (value - best)[1:] for arm, value in values.items()}
  strictly = excess["joint"] < excess["cut-off"] - BETTER
  closest = values["cut-off"][1:] / values["joint"][1:] - 1
  names = np.array(list(COSTS))
  tables = {
    "diabetes: errors on the test half": harness.rows(
      coefficients=np.array(ARMS),
      features=[" ".join(names[theta != 0]) for theta in thetas.values()],
      before=[error[0] for error in errors.values()],
      manipulated=[error[1] for error in errors.values()],
    ),
    "diabetes: excess over the optimum, random costs": harness.rows(
      choice=np.array(list(excess)),
      mean=[x.mean() for x in excess.values()],
      largest=[x.max() for x in excess.values()],
      joint_strictly_better=[
        np.mean(excess["joint"] < x - BETTER) for x in excess.values()
      ],
    ),
  }
  curves = {
    "diabetes/errors": np.array(list(errors.values())),
    "diabetes/strictly": strictly,
    "diabetes/closest": closest,
    **{f"diabetes/excess/{arm}": x for arm, x in excess.items()},
  }
  return harness.Part(_claims(errors, excess), curves, tables)


def plot_errors(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Before and after manipulation."""
  before, after = curves["diabetes/errors"].T
  at = np.arange(len(ARMS))
  axes.bar(at - 0.2, before, 0.4, label="before")
  axes.bar(at + 0.2, after, 0.4, label="manipulated")
  axes.set_xticks(at, ARMS)
  plotting.log_scale(axes, "y")
  axes.set(ylabel="test error", title="diabetes (test half)")
  axes.legend()


def plot_excess(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Of every draw of costs, sorted by that of all features."""
  order = np.argsort(curves["diabetes/excess/all"])
  for arm, marker in (("all", "o"), ("cut-off", "s"), ("joint", "+")):
    axes.plot(
      curves[f"diabetes/excess/{arm}"][order],
      marker,
      label=arm,
      markerfacecolor="none",
    )
  axes.set(
    xlabel="draw of costs, sorted",
    ylabel="excess over the optimum",
    title="diabetes, random costs",
  )
  axes.xaxis.get_major_locator().set_params(integer=True)
  axes.legend()
