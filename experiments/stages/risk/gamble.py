# SPDX-License-Identifier: Apache-2.0
"""The example in which what has been won decides what is best.

A reward of 1 or -1, then the offer of 0 for sure or of a gamble, 1.5 (.6) or -1
(.4), in a state that does not say what has been won. The objective is the mean
of the worse half of returns, in closed form for every policy.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness
from experiments.stages.risk import control, history_policies, worlds
from jaxalign.rl import stock

TAU, HORIZON = 0.5, 3
# Laws of the return: gamble after (winning, losing)?
LAWS = {
  "never": ((1.0, 0.5), (-1.0, 0.5)),
  "always": ((2.5, 0.3), (0.0, 0.2), (0.5, 0.3), (-2.0, 0.2)),
  "when behind": ((1.0, 0.5), (0.5, 0.3), (-2.0, 0.2)),
  "when ahead": ((2.5, 0.3), (0.0, 0.2), (-1.0, 0.5)),
}
# The worse half by hand: its returns times their shares of it.
BY_HAND = {
  "never": -1.0,
  "always": (-2 * 0.2 + 0 * 0.2 + 0.5 * 0.1) / 0.5,
  "when behind": (-2 * 0.2 + 0.5 * 0.3) / 0.5,
}


def _objective(thresholds: np.ndarray, law: tuple) -> np.ndarray:
  """`b + E min(G - b, 0) / tau` at every b."""
  returns, probs = np.array(law).T
  short = np.minimum(returns - thresholds[:, None], 0)
  return thresholds + short @ probs / TAU


@jax.jit
def _find(graph: stock.StockGraph, start: jax.Array) -> dict[str, jax.Array]:
  """What stocks find and the law of the return."""
  best = stock.optimal_cvar(graph, start, tau=TAU)
  laws = stock.distributional_value_iteration(
    graph, lambda x: jnp.minimum(x, 0), -best.threshold
  )
  return {
    "cvar": best.value,
    "atoms": laws.atoms,
    "law": start @ laws.probs[0, : len(start)],
  }


def gamble() -> harness.Part:
  """Claims on the three policies and on what stocks find."""
  mdp, start = worlds.gamble()
  found = jax.tree.map(
    np.asarray, _find(stock.reachable_stocks(mdp, horizon=HORIZON), start)
  )
  nested = control.nested_cvar(mdp, TAU, horizon=HORIZON)
  (nested,) = history_policies.lower_tails(nested, np.asarray(start), (TAU,))
  atoms, law = found["atoms"], found["law"]
  values = {
    name: np.max(_objective(np.array(x)[:, 0], x)) for name, x in LAWS.items()
  }
  behind = sum(p * (atoms == x) for x, p in LAWS["when behind"])
  claims = [
    harness.Claim(
      name="gamble_never",
      statement="gamble, worse half of returns: never gambling",
      theory=BY_HAND["never"],
      measured=values["never"],
      tolerance=1e-12,
    ),
    harness.Claim(
      name="gamble_always",
      statement="gamble, worse half of returns: always gambling, the best"
      " policy that sees the state alone",
      theory=BY_HAND["always"],
      measured=max(values["never"], values["always"]),
      tolerance=1e-12,
    ),
    harness.Claim(
      name="gamble_stock",
      statement="gamble, worse half of returns: what stocks find, which is to"
      " gamble after losing alone",
      theory=BY_HAND["when behind"],
      measured=found["cvar"],
      tolerance=1e-12,
    ),
    harness.all_agree(
      "gamble_law",
      "gamble: the law of the return that distributional value iteration keeps"
      " against that of gambling after losing alone",
      [law - behind],
      tolerance=1e-12,
    ),
    harness.Claim(
      name="gamble_nested",
      statement="gamble: the worse half step by step, nested, is best for never"
      " gambling and then is",
      theory=BY_HAND["never"],
      measured=nested,
      tolerance=1e-12,
    ),
  ]
  thresholds = np.linspace(-2.2, 1.5, 75)
  curves = {"gamble/threshold": thresholds} | {
    f"gamble/{name}": _objective(thresholds, x) for name, x in LAWS.items()
  }
  rows = harness.rows(
    gambles=list(LAWS),
    mean=[sum(x * p for x, p in law) for law in LAWS.values()],
    worse_half=list(values.values()),
  )
  return harness.Part(
    claims, curves, {"gamble: mean of all and of the worse half": rows}
  )


def plot(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """The outer objective of every policy."""
  for name in LAWS:
    axes.plot(
      curves["gamble/threshold"], curves[f"gamble/{name}"], label=f"{name}"
    )
  axes.set(
    xlabel="threshold b",
    ylabel="b + E min(G - b, 0) / .5",
    title="Gamble: each policy's maximum is its CVaR",
    ylim=(-2.4, -0.3),
  )
  axes.legend(title="gambles")
