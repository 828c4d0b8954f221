# SPDX-License-Identifier: Apache-2.0
"""Retraining without real data: the reward rises and the model collapses.

The gain of a round against its bound and its enumeration; the mass outside the
best outcomes against the rate at which it vanishes.
"""

import math
from collections.abc import Sequence

import numpy as np

from experiments import harness, plotting
from experiments.stages import enumeration
from experiments.stages.curation import loops
from experiments.stages.curation.loops import EXACT, P, R


def _tilts(rounds: int) -> np.ndarray:
  """`p_0 e^(t r)`, normalised, `[rounds + 1, V]`."""
  times = np.arange(rounds + 1)[:, None]
  logits = np.log(P) + times * np.array(R)
  tilts = np.exp(logits - logits.max(1, keepdims=True))
  return tilts / tilts.sum(1, keepdims=True)


def _gain_claims(
  trajectories: Sequence[tuple[loops.Problems, dict]], k: int
) -> tuple[harness.Claim, harness.Claim]:
  """The first gain of the example, and the bound of every gain."""
  mean = loops.one_loop(trajectories[0][1], "pure")["mean"]
  law = enumeration.best_of_n(P, R, k, 1.0)
  return (
    harness.Claim(
      name="first_gain",
      statement="gain of E e^r in the first round, by enumeration of all draws",
      theory=float((law - np.array(P)) @ np.exp(R)),
      measured=mean[1] - mean[0],
      tolerance=EXACT,
    ),
    harness.none_exceeds(
      "gain_bound",
      "without real data the gain of E e^r in a round is at least its bound:"
      " largest lack over bases, K and rounds",
      [
        loops.entries(
          trajectories,
          lambda _, x: x["gain_bound"][:-1] - np.diff(x["mean"], axis=0),
          real=False,
        )
      ],
      tolerance=EXACT,
    ),
  )


def _collapse_claims(
  found: dict[str, np.ndarray], k: int
) -> list[harness.Claim]:
  """Where the loops of the example end, and how fast."""
  pure, many, tied = (
    loops.one_loop(found, name) for name in ("pure", "many", "tied")
  )
  rounds = len(pure["mean"]) - 1
  best, second = np.sort(R)[::-1][:2]
  ratio = math.exp(second - best)
  rate = k * ratio / (k - 1 + ratio)
  left = rate**rounds
  best_two = np.exp(tied["log_p"][:, :2])
  shares = best_two[:, 0] / best_two.sum(1)
  return [
    harness.none_exceeds(
      "collapse",
      "without real data the mass outside the best outcomes falls in every"
      " round: largest change of its logarithm",
      [np.diff(loop["log_outside"]) for loop in (pure, many, tied)],
      tolerance=0.0,
    ),
    harness.Claim(
      name="collapse_rate",
      statement="without real data the mass outside the best outcome shrinks,"
      " in the last round, by K w/(K-1+w)",
      theory=rate,
      measured=math.exp(np.diff(pure["log_outside"])[-1]),
      # What the rate leaves out is of the order of the mass outside: with K = 2
      # (1 - rate) times it, which tends to 12 left, and less with larger K.
      tolerance=20 * left + 1e-9,
    ),
    harness.Claim(
      name="variance_vanishes",
      statement="without real data the variance of e^r vanishes",
      theory=0.0,
      measured=pure["variance"][-1],
      tolerance=(10 * left + EXACT) * np.exp(best) ** 2,
    ),
    harness.all_agree(
      "best_outcomes_keep_their_odds",
      "of several best outcomes each keeps its share of them: largest"
      " change over rounds",
      [shares - shares[0]],
      tolerance=EXACT,
    ),
    harness.all_agree(
      "many_samples_tilt",
      "for K to infinity the model is p_0 e^(t r): largest difference"
      " over rounds",
      [np.exp(many["log_p"]) - _tilts(rounds)],
      tolerance=EXACT,
    ),
  ]


def _rows(pure: dict[str, np.ndarray]) -> list[dict[str, float]]:
  last = len(pure["mean"]) - 1
  return [
    {
      "round": t,
      "E e^r": pure["mean"][t],
      "least gain": pure["gain_bound"][t],
      "variance": pure["variance"][t],
      "KL(p_inf||p_t)": -math.log1p(-math.exp(pure["log_outside"][t])),
    }
    for t in sorted({0, 1, 2, 3, 5, 10, 20, 30, last})
    if t <= last
  ]


def collapse(
  trajectories: Sequence[tuple[loops.Problems, dict]], *, k: int
) -> harness.Part:
  """Claims, curves and a table on the loops without real data.

  Args:
    trajectories: the example and what was found on it; then random loops.
    k: samples among which one is kept in the example.
  """
  (_, found), *random = trajectories
  pure = loops.one_loop(found, "pure")
  first_gain, gain_bound = _gain_claims(trajectories, k)
  numbers = ("log_p", "mean", "variance", "log_outside", "gain_bound")
  return harness.Part(
    claims=[first_gain, *_collapse_claims(found, k), gain_bound],
    curves={f"pure_{name}": pure[name] for name in numbers}
    | {
      "random_gain": loops.entries(
        random, lambda _, x: np.diff(x["mean"], axis=0), real=False
      ),
      "random_gain_bound": loops.entries(
        random, lambda _, x: x["gain_bound"][:-1], real=False
      ),
    },
    tables={"without real data": _rows(pure)},
  )


def plot(curves: dict[str, np.ndarray]):
  """Model, reward, and what vanishes, in the first rounds."""
  figure, (models, reward, vanishing) = plotting.figure(1, 3)
  few = slice(0, 31)
  p = np.exp(curves["pure_log_p"][few])
  t = np.arange(len(p))
  for x, r in enumerate(R):
    models.plot(t, p[:, x], label=f"outcome {x}, reward {r:g}")
  models.set(ylabel="probability", title="model")
  reward.plot(t, curves["pure_mean"][few])
  reward.axhline(np.exp(max(R)), color="black", linestyle="--", label="e^max r")
  reward.set(ylabel="E e^r", title="reward")
  outside = curves["pure_log_outside"][few]
  vanishing.plot(t, -np.log1p(-np.exp(outside)), label="KL(p_inf||p_t)")
  vanishing.plot(t, curves["pure_variance"][few], label="variance of e^r")
  gain = np.diff(curves["pure_mean"])[few]
  vanishing.plot(t[: gain.size], gain[: t.size], label="gain of E e^r")
  bound = curves["pure_gain_bound"][few]
  vanishing.plot(t, bound, "k--", label="least gain")
  vanishing.set(ylabel="nats, and units of e^r", yscale="log", title="collapse")
  for axes in (models, reward, vanishing):
    axes.set(xlabel="round")
    axes.legend()
  return figure
