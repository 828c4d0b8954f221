# SPDX-License-Identifier: Apache-2.0
"""Dynamic programming with a stock, against every policy there is.

Processes with a safe and a risky action: two states, two actions, four steps
and discount .9. A policy may depend on all that has been seen: there are 32768.
Exact sums, no sampling. What has been earned is random when the third action is
taken, and the state does not tell it: memory matters.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness, plotting
from experiments.stages.risk import history_policies, worlds
from jaxalign.exact import mdp as processes
from jaxalign.rl import risk, scoring, stock

DISCOUNT, HORIZON, FIRST = 0.9, 4, 0
TAUS = (0.25, 0.5, 1.0)
LEVELS = (0.5, 2.0)
STOCK = -2.0  # around minus the returns
UTILITIES = (  # of NumPy's arrays as of JAX's
  lambda x: x * (x < 0),
  lambda x: -(np.e ** (-2 * x)),
  lambda x: -(x**2),
  lambda x: 1.0 * (x >= 0),
)
MEASURE = scoring.mean_risk(scoring.scoring_function("variance"), weight=0.5)
EVERY, NUM_ROUNDS = 8, 6
GRID = np.linspace(0.05, 1, 20)
# Equal objectives agree to 1e-12: a million times as much is a difference.
DIFFERENT = 1e-6


def _best_mean(mdp: processes.TabularMDP) -> np.ndarray:
  """The largest expected return, by ordinary dynamic programming."""
  values = np.zeros(len(mdp.rewards))
  for _ in range(HORIZON):
    q = (
      np.asarray(mdp.rewards) + DISCOUNT * np.asarray(mdp.transitions) @ values
    )
    values = np.max(q, -1)
  return values[FIRST]


def nested_cvar(
  mdp: processes.TabularMDP, tau: float, *, horizon: int
) -> np.ndarray:
  """The best CVaR of the CVaR of the next step, and so on `[S]`.

  `V(s) = max_a R + g CVaR_tau(V(s'))`: risk of one step at a time, nested.
  """
  probs, rewards = np.asarray(mdp.transitions), np.asarray(mdp.rewards)
  values = np.zeros(len(rewards))
  for _ in range(horizon):
    after = np.broadcast_to(values, probs.shape)
    (tails,) = history_policies.lower_tails(after, probs, (tau,))
    values = np.max(rewards + float(mdp.discount) * tails, -1)
  return values


def _expected_utilities(returns: np.ndarray, probs: np.ndarray) -> np.ndarray:
  """`E f(c + G)` `[utilities, ...]` of laws `[..., N]`."""
  return np.array([np.sum(probs * f(STOCK + returns), -1) for f in UTILITIES])


@jax.jit
def _solve(
  mdp: processes.TabularMDP, graph: stock.StockGraph, start: jax.Array
) -> dict[str, jax.Array]:
  """What needs the stock, and certainty equivalents: one program."""

  def law(k):
    found = stock.distributional_value_iteration(
      graph, lambda x: jnp.stack([f(x) for f in UTILITIES])[k], STOCK
    )
    return found.probs[0, FIRST]

  def equivalent(level):
    return risk.exponential_optimal_values(mdp, level=level, horizon=HORIZON)

  least = stock.minimize_risk(
    graph, start, MEASURE, -graph.returns[-1, ::EVERY], num_rounds=NUM_ROUNDS
  )
  cvars = [stock.optimal_cvar(graph, start, tau=tau).value for tau in TAUS]
  return {
    "cvar": jnp.stack(cvars),
    "laws": jax.vmap(law)(jnp.arange(len(UTILITIES))),
    "entropic": jax.vmap(equivalent)(jnp.array(LEVELS))[:, 0, FIRST],
    "risk": least.risk,
  }


def find(mdp: processes.TabularMDP) -> dict[str, np.ndarray]:
  """What dynamic programming finds."""
  graph = stock.reachable_stocks(mdp, horizon=HORIZON)
  found = jax.tree.map(np.asarray, _solve(mdp, graph, jnp.array([1.0, 0.0])))
  utilities = _expected_utilities(
    np.asarray(graph.returns[-1]), found.pop("laws")
  )
  return found | {
    "utility": np.diagonal(utilities),  # each law under its own utility
    "mean": _best_mean(mdp),
    "nested": nested_cvar(mdp, TAUS[0], horizon=HORIZON)[FIRST],
  }


def search(mdp: processes.TabularMDP) -> dict[str, np.ndarray]:
  """The best of all policies."""
  listed = history_policies.history_policies(mdp, first=FIRST, horizon=HORIZON)
  returns, probs = listed.returns, listed.probs
  means = np.sum(probs * returns, -1)
  variances = np.sum(probs * (returns - means[:, None]) ** 2, -1)
  tails = history_policies.lower_tails(returns, probs, (*TAUS, *GRID))
  kinds = {
    "cvar": np.max(tails, -1),
    "markov": np.max(tails[:, listed.markov], -1),
    "neutral": tails[:, np.argmax(means)],
  }
  entropic = [
    np.max(-np.log(np.sum(probs * np.exp(-a * returns), -1)) / a)
    for a in LEVELS
  ]
  return {
    **{name: x[: len(TAUS)] for name, x in kinds.items()},
    **{f"{name} by tau": x[len(TAUS) :] for name, x in kinds.items()},
    "utility": np.max(_expected_utilities(returns, probs), -1),
    "entropic": np.array(entropic),
    "risk": np.min(0.5 * -means + 0.5 * variances),
  }


def compare(seeds: range) -> tuple[dict, dict]:
  """What is found and what is best, of all processes."""
  mdps = worlds.safe_or_risky(seeds, discount=DISCOUNT)
  solved, searched = map(find, mdps), map(search, mdps)
  found, best = (
    jax.tree.map(lambda *xs: np.stack(xs), *each) for each in (solved, searched)
  )
  return found, best


def _agreements(found: dict, best: dict) -> list[harness.Claim]:
  statements = {
    "cvar": "optimal CVaR of a quarter, half and all of the returns, by stocks,"
    " against the best of 32768 policies",
    "entropic": "optimal certainty equivalents, levels a g^t for a of .5 and 2,"
    " against the best of 32768 policies",
    "risk": "least mean with variance of the cost, by an outer search over the"
    " threshold, against the best of 32768 policies",
    "utility": "distributional value iteration for shortfall, exponential,"
    " quadratic and threshold utilities against the best of 32768 policies",
  }
  names = {"risk": "scoring", "utility": "distributional"}
  return [
    harness.all_agree(
      names.get(key, key), text, [found[key] - best[key]], tolerance=1e-12
    )
    for key, text in statements.items()
  ] + [
    harness.all_agree(
      "cvar_of_all",
      "optimal CVaR of all returns against the largest mean by ordinary dynamic"
      " programming",
      [found["cvar"][:, TAUS.index(1.0)] - found["mean"]],
      tolerance=1e-12,
    )
  ]


def claims(found: dict, best: dict) -> list[harness.Claim]:
  """What is claimed of `compare`."""
  part = slice(TAUS.index(1.0))  # of returns: not the mean
  differences = {
    "memory": (
      "CVaR of a quarter and half of the returns: what stocks gain over the"
      " best policy that sees state and time alone, least of all processes:"
      " more than a millionth",
      found["cvar"] - best["markov"],
    ),
    "aversion": (
      "CVaR of a quarter and half of the returns: what stocks gain over the"
      " policy of the largest mean, least of all processes: more than a"
      " millionth",
      found["cvar"] - best["neutral"],
    ),
    "nested": (
      "best nested CVaR of a quarter, step by step, is another objective: its"
      " smallest distance from the best static one is more than a millionth",
      np.abs(found["nested"] - best["cvar"][:, 0])[:, None],
    ),
  }
  return _agreements(found, best) + [
    harness.Claim(
      name=name,
      statement=text,
      theory=DIFFERENT,
      measured=np.min(gains[:, part]),
      tolerance=0.0,
      relation=">=",
    )
    for name, (text, gains) in differences.items()
  ]


def control(*, seeds: range) -> harness.Part:
  """Claims that dynamic programming finds the best of all policies.

  Args:
    seeds: of the processes.
  """
  found, best = compare(seeds)
  curves = {"control/tau": GRID} | {
    f"control/{name}": best[f"{name} by tau"]
    for name in ("cvar", "markov", "neutral")
  }
  table = harness.rows(
    tau=TAUS,
    with_stock=found["cvar"].mean(0),
    state_and_time=best["markov"].mean(0),
    best_mean=best["neutral"].mean(0),
  )
  title = "safe or risky: CVaR by what a policy sees or maximises"
  return harness.Part(claims(found, best), curves, {title: table})


def plot(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """What is lost without memory, by tau."""
  labels = {
    "control/neutral": "maximises the mean",
    "control/markov": "sees state and time alone",
  }
  for name, label in labels.items():
    loss = curves["control/cvar"] - curves[name]
    plotting.band(axes, curves["control/tau"], loss, label)
  axes.set(
    xlabel="tau",
    ylabel="best CVaR of all minus the policy's",
    title="Safe or risky: what memory gains",
  )
  axes.legend()
