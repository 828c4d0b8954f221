# SPDX-License-Identifier: Apache-2.0
"""Features of which none says anything about the label, or of which some do."""

import functools
import math
import statistics
from typing import NamedTuple

import jax
import numpy as np
from matplotlib.axes import Axes

from experiments import harness, plotting
from jaxalign.learning import adaptive_holdout

NUM_EXAMPLES, NUM_FEATURES = 2000, 4000  # of each of three sets
NUM_TRUE, SHIFT = 20, 6.0  # features that say something, in 1/sqrt(n)
VOTES = {"noise": (10, 30, 100, 300), "signal": (10, 20, 50, 150)}
CHOSEN = {"noise": 100, "signal": NUM_TRUE}
WAYS = ("naive", "Thresholdout")


class Split(NamedTuple):
  """One of the three sets.

  Attributes:
    features: `[n, D]`.
    labels: `[n]`, 1 or -1.
  """

  features: np.ndarray
  labels: np.ndarray

  def correlations(self) -> np.ndarray:
    """Mean of feature times standardised label, `[D]`."""
    centred = (self.labels - self.labels.mean()) / self.labels.std()
    return centred.astype(self.features.dtype) @ self.features / len(centred)

  def accuracy(self, signs: np.ndarray) -> float:
    """Of the vote of features with these signs."""
    votes = np.flatnonzero(signs)
    score = self.features[:, votes] @ signs[votes].astype(self.features.dtype)
    return float(np.mean(np.where(score >= 0, 1, -1) == self.labels))


def thresholds(number: int) -> dict[str, float]:
  """Thresholdout's threshold and noise for n examples."""
  return {
    "threshold": 4 / math.sqrt(number),
    "scale": 1 / (4 * math.sqrt(number)),
  }


def made_up(rng: np.random.Generator) -> dict[str, list[Split]]:
  """Three sets without signal, and the same with it."""
  found = {"noise": [], "signal": []}
  for _ in range(3):
    labels = np.where(rng.random(NUM_EXAMPLES) < 0.5, 1.0, -1.0)
    noise = rng.standard_normal((NUM_EXAMPLES, NUM_FEATURES), np.float32)
    found["noise"].append(Split(noise, labels))
    signal = noise.copy()
    signal[:, :NUM_TRUE] += SHIFT / math.sqrt(NUM_EXAMPLES) * labels[:, None]
    found["signal"].append(Split(signal, labels))
  return found


@functools.partial(jax.jit, static_argnames="number")
def _answers(key, train, holdout, *, number):
  """Thresholdout's, with a budget that does not run out."""
  found = adaptive_holdout.thresholdout(
    key, train, holdout, **thresholds(number), budget=train.size
  )
  return found.answers


def reports(
  key: jax.Array, splits: list[Split], votes: tuple[int, ...]
) -> np.ndarray:
  """What each way reports of each vote, and new data: `[ways, votes, 2]`.

  The naive way asks the holdout set itself, both for correlations and for the
  accuracy of the vote.
  """
  training, holdout, fresh = splits
  number = len(training.labels)
  keys = jax.random.split(key, len(votes) + 1)
  train, held = training.correlations(), holdout.correlations()
  train, held = train.astype(np.float64), held.astype(np.float64)
  answers = {
    "naive": held,
    "Thresholdout": _answers(keys[0], train, held, number=number),
  }
  found = np.zeros((len(WAYS), len(votes), 2))
  for i, way in enumerate(WAYS):
    for j, most in enumerate(votes):
      signs = np.asarray(
        adaptive_holdout.agreeing_signs(
          train, answers[way], bound=1 / math.sqrt(number), num_features=most
        )
      )
      reported = holdout.accuracy(signs)
      if way == "Thresholdout":
        pair = np.array([training.accuracy(signs)]), np.array([reported])
        reported = _answers(keys[j + 1], *pair, number=number)[0]
      found[i, j] = reported, fresh.accuracy(signs)
  return found


def _tolerance(num_seeds: int) -> float:
  """Of the mean of accuracies on a set, answered with noise of variance 2 s^2.

  In standard errors that a normal error exceeds once in a million times.
  """
  noise = 2 * thresholds(NUM_EXAMPLES)["scale"] ** 2
  variance = 0.25 / NUM_EXAMPLES + noise
  return harness.STANDARD_ERRORS * math.sqrt(variance / num_seeds)


def _claims(found: dict[str, np.ndarray], num_seeds: int) -> list:
  """Claims on `[S, ways, votes, 2]` of each world."""
  normal = statistics.NormalDist()
  tolerance = _tolerance(num_seeds)
  at = {k: VOTES[k].index(CHOSEN[k]) for k in VOTES}
  noise = found["noise"][:, :, at["noise"]].mean(0)
  signal = found["signal"][:, 1, at["signal"]].mean(0)
  # Correlations beyond 1/sqrt(n), in that unit, are normal given that they are
  # above 1: their mean is the inverse Mills ratio at 1.
  chosen = normal.pdf(1) / normal.cdf(-1)
  scale = math.sqrt(CHOSEN["noise"] / NUM_EXAMPLES)
  best = normal.cdf(SHIFT * math.sqrt(NUM_TRUE / NUM_EXAMPLES))

  def claim(name, statement, theory, measured, tolerance=tolerance):
    return harness.Claim(name, statement, theory, measured, tolerance)

  return [
    claim(
      "naive_report",
      "no feature says anything: accuracy of 100 votes that the holdout which"
      " chose them reports",
      normal.cdf(chosen * scale),
      noise[0, 0],
    ),
    claim(
      "naive_fresh",
      "no feature says anything: accuracy of these votes on new data",
      0.5,
      noise[0, 1],
    ),
    claim(
      "thresholdout_report",
      "no feature says anything: accuracy of 100 votes that Thresholdout"
      " reports",
      0.5,
      noise[1, 0],
    ),
    claim(
      "thresholdout_fresh",
      "no feature says anything: accuracy of these votes on new data",
      0.5,
      noise[1, 1],
    ),
    claim(
      "signal_fresh",
      "20 features say something: accuracy on new data of 20 votes chosen by"
      " Thresholdout",
      best,
      signal[1],
      # Each true feature that is missed costs .005; about one in five sets
      # misses one.
      tolerance + 0.01,
    ),
    claim(
      "signal_report",
      "20 features say something: accuracy that Thresholdout reports less that"
      " on new data",
      0.0,
      signal[0] - signal[1],
      # Of the difference of two sets.
      math.sqrt(2) * tolerance,
    ),
  ]


def part_of(found: dict[str, np.ndarray], votes: dict) -> harness.Part:
  """Curves and tables of `[S, ways, votes, 2]` for each world."""
  curves, rows = {}, []
  for world, values in found.items():
    curves[f"{world}/votes"] = np.array(votes[world])
    for i, way in enumerate(WAYS):
      for k, name in enumerate(("reported", "new data")):
        curves[f"{world}/{way}/{name}"] = values[:, i, :, k]
    for j, most in enumerate(votes[world]):
      mean = values[:, :, j].mean(0)
      rows.append(
        {"data": world, "votes": most}
        | {
          f"{way}, {name}": float(mean[i, k])
          for i, way in enumerate(WAYS)
          for k, name in enumerate(("reported", "new data"))
        }
      )
  return harness.Part([], curves, {"accuracy": rows})


def selection(
  *, seed: int, num_seeds: int, progress: bool = True
) -> harness.Part:
  """Claims on made-up data.

  Args:
    seed: of all draws.
    num_seeds: data sets of each kind.
    progress: whether to show progress on a terminal.
  """
  found = {world: [] for world in VOTES}
  seeds = range(seed * num_seeds, (seed + 1) * num_seeds)
  for s in harness.track(seeds, "data sets", progress=progress):
    data = made_up(np.random.default_rng(s))
    for world, splits in data.items():
      found[world].append(reports(jax.random.key(s), splits, VOTES[world]))
  found = {world: np.stack(values) for world, values in found.items()}
  return part_of(found, VOTES)._replace(claims=_claims(found, num_seeds))


def worlds(curves: dict[str, np.ndarray]) -> list[str]:
  """Names of the kinds of data that the curves are of."""
  return [k.split("/")[0] for k in curves if k.endswith("/votes")]


def plot(axes: Axes, curves: dict[str, np.ndarray], world: str) -> None:
  """Reported and true accuracies."""
  for i, way in enumerate(WAYS):
    for name, dashes in (("reported", "-"), ("new data", ":")):
      plotting.band(
        axes,
        curves[f"{world}/votes"],
        curves[f"{world}/{way}/{name}"],
        f"{way}, {name}",
        color=f"C{i}",
        linestyle=dashes,
        marker="o",
        markersize=3,
      )
  plotting.log_scale(axes, "x")
  axes.set(xlabel="features that vote", ylabel="accuracy", title=world)
  axes.legend()
