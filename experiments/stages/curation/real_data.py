# SPDX-License-Identifier: Apache-2.0
"""Retraining with real data: the loop stays near it and keeps its variance.

Drift, reward and variance against their bounds, over all loops; the last model
of one loop against its fixed point, which Newton's method finds.
"""

from collections.abc import Sequence

import numpy as np

from experiments import harness, plotting
from experiments.stages.curation import loops
from experiments.stages.curation.loops import EXACT, PAIR, P, R


def _bounds(
  trajectories: Sequence[tuple[loops.Problems, dict]],
) -> list[harness.Claim]:
  """What never fails, over all loops."""

  def none_exceeds(name, statement, excess):
    excesses = loops.entries(trajectories, excess, real=True)
    return harness.none_exceeds(name, statement, [excesses], tolerance=EXACT)

  return [
    none_exceeds(
      "kl_bound",
      "with real data KL from it is at most -log(1 - lam (K-1)): largest excess"
      " over bases, K, lam and rounds",
      lambda _, x: x["kl"] - x["kl_bound"],
    ),
    none_exceeds(
      "gain_over_real_data",
      "with real data the gain of E e^r over it is at least its bound: largest"
      " lack over bases, K, lam and rounds",
      lambda _, x: x["mean"][0] + x["ref_gain_bound"][1:] - x["mean"][1:],
    ),
    none_exceeds(
      "variance_kept",
      "with real data the variance of e^r is at least 1/(1+lam) of its own:"
      " largest lack over bases, K, lam and rounds",
      lambda problems, x: x["variance"][0] / (1 + problems.lam) - x["variance"],
    ),
  ]


def pair_fixed_point() -> tuple[np.ndarray, float]:
  """Where the loop with K = lam = 2 rests, by Newton; its contraction rate.

  With two samples `H(x) = sum_y p(y) 2 e^r(x) / (e^r(x) + e^r(y))`.
  """
  ref, weight = np.array(P), np.exp(R)
  share = PAIR / (1 + PAIR)
  better = 2 * weight[:, None] / (weight[:, None] + weight)

  def jacobian(p):
    return share * (np.diag(better @ p) + p[:, None] * better)

  def step(p):
    p = (1 - share) * ref + share * p * (better @ p)
    return p / p.sum()

  p = ref
  for _ in range(20):  # into the region where Newton converges
    p = step(p)
  for _ in range(20):
    excess = p - (1 - share) * ref - share * p * (better @ p)
    p = p - np.linalg.solve(np.eye(p.size) - jacobian(p), excess)
  # On differences of probabilities, which sum to 0.
  basis = np.linalg.svd(np.ones((1, p.size)))[2][1:]
  rate = np.abs(np.linalg.eigvals(basis @ jacobian(p) @ basis.T)).max()
  return p, float(rate)


def _fixed_point(found: dict[str, np.ndarray]) -> list[harness.Claim]:
  """The last model of the loop with K = lam = 2."""
  p, rate = pair_fixed_point()
  pair = loops.one_loop(found, "pair")
  rounds = len(pair["mean"]) - 1
  return [
    harness.Claim(
      name=f"fixed_point_{name}",
      statement=f"{text} after the last round, K = 2, lam = 2, is that of the"
      " fixed point",
      theory=theory,
      measured=pair[what][-1],
      # Both start within 3 of it; every round multiplies that by the rate.
      tolerance=10 * rate**rounds + EXACT,
    )
    for what, name, text, theory in (
      ("mean", "reward", "E e^r", float(p @ np.exp(R))),
      ("kl", "kl", "KL from the real data", float(p @ np.log(p / np.array(P)))),
    )
  ]


def real_data(
  trajectories: Sequence[tuple[loops.Problems, dict]],
  *,
  k: int,
  lam: Sequence[float],
) -> harness.Part:
  """Claims, curves and a table on the loops with real data.

  Args:
    trajectories: the example and what was found on it; then random loops.
    k: samples among which one is kept in the example.
    lam: curated samples per real one in the example.
  """
  (_, found), *random = trajectories
  first = len(loops.FIXED_ROWS)
  mixed = {name: x[:, first : first + len(lam)] for name, x in found.items()}
  rows = [
    {
      "K": k,
      "lam": x,
      "E e^r": mixed["mean"][-1, i],
      "least": mixed["mean"][0, i] + mixed["ref_gain_bound"][-1, i],
      "KL": mixed["kl"][-1, i],
      "largest KL": mixed["kl_bound"][-1, i],
      "variance": mixed["variance"][-1, i],
      "least variance": mixed["variance"][0, i] / (1 + x),
    }
    for i, x in enumerate(lam)
  ]
  return harness.Part(
    claims=[*_bounds(trajectories), *_fixed_point(found)],
    curves={"lam": np.array(lam)}
    | {f"mixed_{name}": mixed[name] for name in ("mean", "kl", "variance")}
    | {
      f"random_{name}": loops.entries(
        random, lambda _, x, name=name: x[name][:-1], real=True
      )
      for name in ("kl", "kl_bound")
    },
    tables={"with real data, after the last round": rows},
  )


def plot(curves: dict[str, np.ndarray]):
  """Reward, drift and variance in the first rounds, one line a lam."""
  figure, panels = plotting.figure(1, 3, height=3.6)
  for axes, what, title in zip(
    panels,
    ("mean", "kl", "variance"),
    ("E e^r", "KL from the real data, nats", "variance of e^r"),
    strict=True,
  ):
    values = curves[f"mixed_{what}"][:31]
    for i, lam in enumerate(curves["lam"]):
      axes.plot(values[:, i], label=f"lam = {lam:g}")
    if what != "kl":
      pure = curves[f"pure_{what}"][:31]
      axes.plot(pure, "k--", label="no real data")
    axes.set(xlabel="round", ylabel=title, title=title)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
  return figure
