# SPDX-License-Identifier: Apache-2.0
"""Where Munchausen value iteration ends, with Shannon's and Tsallis' entropy.

The entropy that is left, `(1 - alpha) tau`, decides the limit; the KL widens
the action gaps. The greedy policy of order q takes one action alone from a gap
of `tau / (q - 1)` on. So MVI(q) takes one in every state from a temperature of
`(q - 1) gap / (1 - alpha)` on downwards, in both of its readings, gap being the
smallest of Q*. For q = 1 no temperature will do.
"""

import functools
import math

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from experiments.stages.mirror_descent import worlds
from jaxalign.exact import mdp as tables
from jaxalign.rl import mirror_descent

ALPHA, ITERATIONS = 0.9, 300  # .9^300 is 2e-14
WARM = 0.3  # of the random processes
COLD = 1e-3  # so cold that the next best actions have no share
NEAR = 0.02  # how near the threshold both sides are looked at
TAUS = np.geomspace(0.01, 3, 16)
ARMS = {
  "MVI(1)": (1.0, "log"),
  "MVI(1), gap": (1.0, "gap"),
  "MVI(2)": (2.0, "log"),
  "MVI(2), gap": (2.0, "gap"),
}
DENSE, SPARSE = ("MVI(1)", "MVI(1), gap"), ("MVI(2)", "MVI(2), gap")


@functools.partial(jax.jit, static_argnames=("q", "reading"))
def solve(
  mdps: tables.TabularMDP,
  taus: jax.Array,
  alphas: jax.Array,
  floors: jax.Array,
  *,
  q: float,
  reading: str,
) -> mirror_descent.RegularizedState:
  """Runs of all rows at once: `[N, S, A]`."""

  def one(mdp, tau, alpha, floor):
    return mirror_descent.munchausen_vi(
      mdp,
      num_iterations=ITERATIONS,
      tau=tau,
      alpha=alpha,
      floor=floor,
      q=q,
      reading=reading,
    )

  return jax.vmap(one)(mdps, taus, alphas, floors)


def _rows(*runs) -> tuple:
  """Rows of `solve` from tuples of processes, tau, alpha and floor."""
  columns = []
  for mdps, tau, alpha, floor in runs:
    size = len(mdps.rewards)
    numbers = (np.full(size, x) for x in (tau, alpha, floor))
    columns.append((mdps, *numbers))
  return jax.tree.map(lambda *xs: np.concatenate(xs), *columns)


def limits(*, seeds: range) -> harness.Part:
  """Claims on the limit with Shannon's entropy.

  Args:
    seeds: of random processes.
  """
  mdps = worlds.draw_several(seeds)
  printed = jax.tree.map(lambda x: x[:1], mdps)
  kappa = (1 - ALPHA) * WARM
  found = solve(
    *_rows(
      (mdps, WARM, ALPHA, -np.inf),
      (mdps, kappa, 0.0, -np.inf),
      (printed, COLD, ALPHA, -np.inf),
      (printed, 0.03, 0.9, -1.0),
    ),
    q=1.0,
    reading="log",
  )
  values = np.asarray(found.values)
  warm, entropy_alone = np.split(np.exp(found.log_policy)[:-2], 2)
  cold, published = values[-2:]
  best = worlds.optimum()
  true_gaps = best.values[:, None] - best.action_values
  bound = kappa * math.log(worlds.ACTIONS) / (1 - worlds.DISCOUNT)
  lost = best.values - worlds.value_of(worlds.draw(0), warm[0])
  claims = [
    harness.all_agree(
      "munchausen_limit",
      "the limit is the best policy with an entropy bonus of (1 - alpha) tau,"
      " whatever the KL: largest difference",
      [warm - entropy_alone],
      # Values of size 10 are divided by kappa.
      tolerance=1e-11,
    ),
    harness.Claim(
      name="munchausen_loss",
      statement="value that this policy loses, bounded by (1 - alpha) tau log A"
      " / (1 - g)",
      theory=bound,
      measured=lost.max(),
      tolerance=0.0,
      relation="<=",
    ),
    harness.all_agree(
      "munchausen_gaps",
      "temperature .001: the values are V*, less the action gaps of Q* over"
      " 1 - alpha",
      [cold - best.values[:, None] + true_gaps / (1 - ALPHA)],
      tolerance=1e-10,
    ),
    harness.all_agree(
      "munchausen_published",
      "alpha = .9, tau = .03, clip at -1: the greedy policy is that of Q*",
      [published.argmax(-1) - best.greedy],
      tolerance=0.0,
    ),
  ]
  return harness.Part(claims, {}, {})


def sparse() -> harness.Part:
  """Claims on zeros, and on the policy that all orders tend to."""
  mdp, best = worlds.draw(0), worlds.optimum()
  threshold = best.gap / (1 - ALPHA)
  taus = np.append(TAUS, threshold * np.array([1 - NEAR, 1 + NEAR]))
  copies = jax.tree.map(lambda x: np.stack([x] * len(taus)), mdp)
  rows = copies, taus, np.full(len(taus), ALPHA), np.full(len(taus), -np.inf)
  lost, actions = {}, {}
  for name, (q, reading) in ARMS.items():
    policy = np.exp(solve(*rows, q=q, reading=reading).log_policy)
    value = worlds.value_of(copies, policy)
    lost[name] = np.max(best.values - value, -1)
    actions[name] = np.max(np.sum(policy > 0, -1), -1)
  claims = [
    harness.all_agree(
      "mvi2_one_action",
      "MVI(2), both readings: one action in every state 2 % below the"
      " temperature gap / (1 - alpha), two in one state 2 % above",
      [actions[name][-2:] - np.array([1, 2]) for name in SPARSE],
      tolerance=0.0,
    ),
    harness.all_agree(
      "mvi2_greedy",
      "MVI(2), both readings: value lost at any temperature below that",
      [lost[name][taus < threshold] for name in SPARSE],
      # Rounding of values of size 10 by a linear system.
      tolerance=1e-12,
    ),
    harness.all_agree(
      "mvi1_greedy",
      "MVI(1), both readings: value lost at the temperature .01",
      [lost[name][0] for name in DENSE],
      # The next best action has a share of e^-gap/(1-alpha)/tau = 4e-23.
      tolerance=1e-12,
    ),
    harness.Claim(
      name="mvi1_all_actions",
      statement="MVI(1), both readings: actions taken in the state that takes"
      " most, least of all temperatures",
      theory=worlds.ACTIONS,
      measured=min(actions[name].min() for name in DENSE),
      tolerance=0.0,
    ),
  ]
  order = np.argsort(taus)
  table = harness.rows(
    temperature=taus[order],
    **{name.replace(" ", "_"): lost[name][order] for name in ARMS},
    actions=actions["MVI(2)"][order],
  )
  curves = {
    "mvi/arms": np.array(list(ARMS)),
    "mvi/taus": taus[order],
    "mvi/threshold": np.array(threshold),
    "mvi/lost": np.array([x[order] for x in lost.values()]),
    "mvi/actions": np.array([x[order] for x in actions.values()]),
  }
  title = "value that MVI(q) loses, and actions taken by MVI(2)"
  return harness.Part(claims, curves, {title: table[::2]})


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """What is lost, and how many actions are taken, over the temperature."""
  figure, (lost, actions) = plotting.figure(1, 2)
  for i, name in enumerate(curves["mvi/arms"]):
    style = {"color": f"C{i // 2}", "linestyle": ("-", "--")[i % 2]}
    # Rounding leaves nothing to show below 1e-14.
    shown = np.maximum(curves["mvi/lost"][i], 1e-14)
    lost.plot(curves["mvi/taus"], shown, label=name, **style)
    actions.plot(curves["mvi/taus"], curves["mvi/actions"][i], **style)
  for axes in (lost, actions):
    axes.axvline(curves["mvi/threshold"], color="k", linestyle=":")
    axes.set(xlabel="temperature")
    plotting.log_scale(axes, "x")
  plotting.log_scale(lost, "y")
  lost.set(ylabel="value lost, largest of states", title="MVI(q), alpha = .9")
  actions.set(
    ylabel="actions taken, most of any state",
    title="dotted: smallest gap of Q* / (1 - alpha)",
    yticks=range(1, 5),
  )
  lost.legend()
  return figure
