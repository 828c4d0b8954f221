# SPDX-License-Identifier: Apache-2.0
"""What a network comes to predict, by which tokens it learned from."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness, plotting
from experiments.stages.spectrum_tuning import coins


def _agrees(
  distance: dict[str, np.ndarray], trials: int, tolerance: float
) -> list[harness.Claim]:
  """Where a flip is scored its prediction is the posterior predictive."""
  statements = {
    "first": "the second flip, if that alone is scored",
    "last": "the last flip, if that alone is scored",
    "all": "any flip, if all are scored, the first included",
  }
  scored = {"first": slice(1, 2), "last": slice(trials, None), "all": slice(0)}
  scored["all"] = slice(None)
  return [
    harness.Claim(
      name=f"scored_{name}",
      statement=f"mean |p - (h + 1)/(n + 2)| of {statements[name]}",
      theory=0.0,
      measured=distance[name][:, scored[name]].mean(),
      tolerance=tolerance,
      interval=harness.confidence_interval(
        distance[name][:, scored[name]].mean(1)
      ),
    )
    for name in statements
  ]


def learning(
  key: jax.Array,
  *,
  num_seeds: int,
  num_flips: int,
  rows: int,
  steps: int,
  tolerance: float,
) -> harness.Part:
  """Claims on the posterior predictive, and on ablations of the mask.

  Args:
    key: of all draws.
    num_seeds: networks of each arm.
    num_flips: T, of a sequence.
    rows: sequences of an update.
    steps: updates.
    tolerance: what a mean distance may be of.
  """
  keys = jax.random.split(key, num_seeds)
  found = coins.train(keys, coins.masks(num_flips), num_flips, rows, steps)
  found = jax.tree.map(lambda x: np.asarray(x, np.float64), found)
  distance = dict(zip(coins.SCORED, found["distance"], strict=True))
  rest = {name: x[:, 1:].mean(1) for name, x in distance.items()}
  least = float(jnp.mean(coins.bayes_nll(num_flips)[1:]))
  excess = found["divergence"][..., 1:].mean(-1)
  claims = [
    harness.Claim(
      name="predictive",
      statement="trained on outputs alone, |p - (h + 1)/(n + 2)| after one flip"
      " and more: mean",
      theory=0.0,
      measured=rest["outputs"].mean(),
      tolerance=tolerance,
      interval=harness.confidence_interval(rest["outputs"]),
    ),
    harness.Claim(
      name="nll",
      statement="trained on outputs alone: mean loss of a flip, in nats, is"
      " that of the posterior predictive",
      theory=least,
      measured=least + excess[0].mean(),
      # The mean of (dp)^2/(2 p (1 - p)), of a normal dp, whose square is 1.6
      # times that of its mean size, and with 8 for 1/(p (1 - p)).
      tolerance=6.4 * tolerance**2,
      interval=tuple(least + x for x in harness.confidence_interval(excess[0])),
    ),
    *_agrees(distance, num_flips - 1, tolerance),
    *(
      harness.Claim(
        name=f"elsewhere_{name}",
        statement="what one flip alone teaches is not the posterior predictive"
        f" of the others: mean distance with the {name} scored, less that with"
        " all outputs",
        theory=0.0,
        measured=(rest[name] - rest["outputs"]).mean(),
        tolerance=0.0,
        relation=">=",
        interval=harness.confidence_interval(rest[name] - rest["outputs"]),
      )
      for name in ("first", "last")
    ),
  ]
  table = harness.rows(
    scored=list(coins.SCORED),
    distance=[x.mean() for x in rest.values()],
    loss=least + excess.mean(1),
    Bayes=least,
    distance_at_first=[x[:, 0].mean() for x in distance.values()],
  )
  curves = {f"coins/{name}": x for name, x in distance.items()}
  return harness.Part(claims, curves, {"by what is scored": table})


def plot(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """The distance of each flip's prediction."""
  for i, name in enumerate(coins.SCORED):
    x = curves[f"coins/{name}"]
    plotting.band(
      axes, np.arange(x.shape[1]), x, name, **plotting.line_style(i)
    )
  plotting.log_scale(axes, "y")
  # Bands of few networks reach below 0.
  least = min(x.mean(0).min() for x in curves.values())
  axes.set_ylim(least / 3, 0.5)
  axes.set(
    xlabel="flips seen",
    ylabel="mean |p - (h + 1)/(n + 2)|",
    title="distance to the posterior, by what is scored",
  )
  axes.legend(ncols=4, loc="upper center")
