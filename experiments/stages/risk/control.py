# SPDX-License-Identifier: Apache-2.0
"""Dynamic programming with a stock, against every policy there is.

Random processes of three states, two actions, three steps and discount .9; the
policies may depend on all that has been seen. Exact sums, no sampling.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness
from experiments.stages.risk import history_policies, worlds
from jaxalign.exact import mdp as processes
from jaxalign.rl import risk, scoring, stock

DISCOUNT, HORIZON, FIRST = 0.9, 3, 0
TAUS = (0.1, 0.25, 0.5, 1.0)
NESTED_TAU = 0.25
LEVELS = (0.5, 2.0)
STOCKS = (-0.5, 0.5)
UTILITIES = (  # of NumPy's arrays as of JAX's
  lambda x: x * (x < 0),
  lambda x: -(np.e ** (-2 * x)),
  lambda x: -(x**2),
  lambda x: 1.0 * (x >= 0),
)
EVERY, NUM_ROUNDS = 6, 6
MEASURES = {
  "asymmetric variance": scoring.scoring_function(
    "asymmetric_variance", alpha=0.7
  ),
  "mean and variance": scoring.mean_risk(
    scoring.scoring_function("variance"), weight=0.5
  ),
}


def mean_values(mdp: processes.TabularMDP) -> jax.Array:
  """The largest expected returns `[S]`, by dynamic programming."""
  values = jnp.zeros(len(mdp.rewards))
  for _ in range(HORIZON):
    values = jnp.max(processes.action_values(mdp, values), -1)
  return values


def nested_cvar(
  mdp: processes.TabularMDP, tau: float, *, horizon: int
) -> jax.Array:
  """The best CVaR of the CVaR of the next step, and so on `[S]`.

  `V(s) = max_a R + g CVaR_tau(V(s'))`: risk of one step at a time, nested.
  """

  def step(_, values):
    after = jnp.broadcast_to(values, mdp.transitions.shape)
    tail = scoring.cvar(after, mdp.transitions, tau=tau)
    return jnp.max(mdp.rewards + mdp.discount * tail, -1)

  start = jnp.zeros(len(mdp.rewards))
  return jax.lax.fori_loop(0, horizon, step, start)


def least_risk(
  graph: stock.StockGraph, start: jax.Array, measure: scoring.ScoringFunction
) -> jax.Array:
  """By alternation from a sixth of all returns."""
  thresholds = -graph.returns[-1, ::EVERY]
  return stock.minimize_risk(
    graph, start, measure, thresholds, num_rounds=NUM_ROUNDS
  ).risk


def _expected_utilities(returns: np.ndarray, probs: np.ndarray) -> np.ndarray:
  """`E f(c + G)` `[utilities x stocks, ...]` of laws `[..., N]`."""
  pairs = [(utility, c) for utility in UTILITIES for c in STOCKS]
  return np.array([np.sum(probs * f(c + returns), -1) for f, c in pairs])


def _best_utilities(graph: stock.StockGraph) -> np.ndarray:
  """What distributional value iteration finds, by utility and stock."""
  laws = [
    stock.distributional_value_iteration(graph, utility, c).probs[0, FIRST]
    for utility in UTILITIES
    for c in STOCKS
  ]
  found = _expected_utilities(np.asarray(graph.returns[-1]), np.array(laws))
  return np.diagonal(found)  # each law under its own utility


@jax.jit
def _without_stock(mdp: processes.TabularMDP) -> dict[str, jax.Array]:
  """What needs no stock: certainty equivalents, nested risk and the mean."""
  entropic = jax.vmap(
    lambda a: risk.exponential_optimal_values(mdp, level=a, horizon=HORIZON)
  )(jnp.array(LEVELS))
  return {
    "entropic": entropic[:, 0, FIRST],
    "mean": mean_values(mdp)[FIRST],
    "nested": nested_cvar(mdp, NESTED_TAU, horizon=HORIZON)[FIRST],
  }


def find(mdp: processes.TabularMDP) -> dict[str, np.ndarray]:
  """What dynamic programming finds."""
  graph = stock.reachable_stocks(mdp, horizon=HORIZON)
  start = jnp.array([1.0, 0.0, 0.0])
  cvars = [stock.optimal_cvar(graph, start, tau=tau).value for tau in TAUS]
  risks = [least_risk(graph, start, m) for m in MEASURES.values()]
  found = jax.tree.map(np.asarray, _without_stock(mdp))
  return found | {
    "cvar": np.array(cvars),
    "utility": _best_utilities(graph),
    "risk": np.array(risks),
  }


def search(mdp: processes.TabularMDP) -> dict[str, np.ndarray]:
  """The best of all policies."""
  listed = history_policies.history_policies(mdp, first=FIRST, horizon=HORIZON)
  returns, probs = listed.returns, listed.probs
  measures = MEASURES.values()
  of_all = [history_policies.cvars(listed, tau) for tau in TAUS]
  neutral = np.argmax(of_all[TAUS.index(1.0)])
  utility = np.max(_expected_utilities(returns, probs), -1)
  entropic = [
    np.max(-np.log(np.sum(probs * np.exp(-a * returns), -1)) / a)
    for a in LEVELS
  ]
  return {
    "cvar": np.max(of_all, -1),
    "markov": np.max(np.array(of_all)[:, listed.markov], -1),
    "neutral": np.array(of_all)[:, neutral],
    "utility": utility,
    "entropic": np.array(entropic),
    "risk": np.array([np.min(m.risk(-returns, probs)) for m in measures]),
  }


def _claims(found: dict, best: dict) -> list[harness.Claim]:
  return [
    harness.all_agree(
      "cvar",
      "optimal CVaR of .1, .25, .5 and all of the returns, by stocks, against"
      " the best of 8192 policies",
      [found["cvar"] - best["cvar"]],
      tolerance=1e-12,
    ),
    harness.all_agree(
      "cvar_of_all",
      "optimal CVaR of all returns against the largest mean by ordinary dynamic"
      " programming",
      [found["cvar"][:, TAUS.index(1.0)] - found["mean"]],
      tolerance=1e-12,
    ),
    harness.all_agree(
      "entropic",
      "optimal certainty equivalents, levels a g^t for a of .5 and 2, against"
      " the best of 8192 policies",
      [found["entropic"] - best["entropic"]],
      tolerance=1e-12,
    ),
    harness.all_agree(
      "scoring",
      "least asymmetric variance and mean with variance, by an outer search"
      " over the threshold, against the best of 8192 policies",
      [found["risk"] - best["risk"]],
      tolerance=1e-12,
    ),
    harness.all_agree(
      "distributional",
      "distributional value iteration for shortfall, exponential, quadratic and"
      " threshold utilities against the best of 8192 policies",
      [found["utility"] - best["utility"]],
      tolerance=1e-12,
    ),
    harness.Claim(
      name="nested",
      statement="best nested CVaR of .25, step by step, is another objective:"
      " its smallest distance from the best static one",
      theory=0.0,
      measured=np.min(
        np.abs(found["nested"] - best["cvar"][:, TAUS.index(NESTED_TAU)])
      ),
      # Far above the 1e-12 to which equal objectives agree.
      tolerance=-1e-6,
      relation=">=",
    ),
  ]


def control(*, seeds: range) -> harness.Part:
  """Claims that dynamic programming finds the best of all policies.

  Args:
    seeds: of the processes.
  """
  mdps = worlds.random_processes(seeds, discount=DISCOUNT)
  solved, searched = map(find, mdps), map(search, mdps)
  found, best = (
    jax.tree.map(lambda *xs: np.stack(xs), *each) for each in (solved, searched)
  )
  curves = {
    "control/tau": np.array(TAUS),
    "control/cvar": found["cvar"],
    "control/markov": best["markov"],
    "control/neutral": best["neutral"],
  }
  table = harness.rows(
    tau=TAUS,
    with_stock=found["cvar"].mean(0),
    state_and_time=best["markov"].mean(0),
    best_mean=best["neutral"].mean(0),
  )
  title = "random processes: CVaR by what a policy sees or maximises"
  return harness.Part(_claims(found, best), curves, {title: table})


def plot(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """What is lost without the stock, by tau."""
  labels = {
    "control/markov": "sees state and time alone",
    "control/neutral": "maximises the mean",
  }
  for name, label in labels.items():
    gap = curves[name] - curves["control/cvar"]
    axes.plot(curves["control/tau"], gap.mean(0), "o-", label=label)
  axes.axhline(0, color="0.5", linewidth=1)
  axes.set(
    xlabel="tau",
    ylabel="CVaR minus that of the stock's policy",
    title="Random processes, mean",
  )
  axes.legend()
