# SPDX-License-Identifier: Apache-2.0
"""Dynamic programming for functionals of the return other than its mean.

A policy that is best for `E f(c_0 + G)`, G being the discounted return of H
steps, needs to know what has been earned. The stock `c_t = (c_0 + G_t) / g^t`,
with `G_t = sum_{i<t} g^i r_i`, carries it: `c_{t+1} = (c_t + r_t) / g`. The
pairs of state and return so far that can be reached are enumerated once, on
the host and without rounding them to a grid; they serve every f and every c_0.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks
from jaxalign.exact import mdp as processes
from jaxalign.exact import sequences
from jaxalign.rl import scoring

__all__ = (
  "CVaRSolution",
  "ReturnLaws",
  "RiskSolution",
  "StockGraph",
  "StockValues",
  "distributional_value_iteration",
  "minimize_risk",
  "optimal_cvar",
  "reachable_stocks",
  "stock_value_iteration",
)

Scalar = float | jax.Array
Utility = Callable[[jax.Array], jax.Array]


class StockGraph(NamedTuple):
  """What can be reached from every state, time by time.

  Node n of time t is a state with a return so far. The first S nodes of time 0
  are the states, with return 0; at time H only the return counts. N is the
  largest number of nodes at one time: where there are fewer, the last is
  repeated, with probability 0 of being reached or left.

  Attributes:
    returns: `[H + 1, N]`, the return so far, `g^t c_t - c_0`, in rising order.
    states: int32 `[H, N]`.
    probs: `[H, N, A, S]`, of the next state.
    successors: int32 `[H, N, A, S]`, nodes of time t + 1; 0 where the next
      state has probability 0.
  """

  returns: jax.Array
  states: jax.Array
  probs: jax.Array
  successors: jax.Array


class StockValues(NamedTuple):
  """Optimal values and actions at every node of a `StockGraph`.

  Attributes:
    values: `[H + 1, N]`, the best `E f(c_0 + G)` from there on; `values[0, s]`
      is that of starting in s.
    actions: int32 `[H, N]`, the first of the best actions.
  """

  values: jax.Array
  actions: jax.Array


class ReturnLaws(NamedTuple):
  """Laws of the return at every node of a `StockGraph`.

  Attributes:
    atoms: `[N]`, every return that any policy can have.
    probs: `[H + 1, N, N]`, probabilities of the atoms as the node's final
      return; `probs[0, s]` is the law of starting in s.
    actions: int32 `[H, N]`.
  """

  atoms: jax.Array
  probs: jax.Array
  actions: jax.Array


class CVaRSolution(NamedTuple):
  """The best CVaR and the outer problem that it solves.

  Attributes:
    value: `[]`, the largest CVaR of the return.
    threshold: `[]`, the b that attains it: `-b` is the optimal stock c_0.
    objectives: `[N]`, `max_policy b + E min(G - b, 0) / tau` at every b in the
      last `returns` of the graph.
  """

  value: jax.Array
  threshold: jax.Array
  objectives: jax.Array


class RiskSolution(NamedTuple):
  """The policy of least risk that a search over thresholds finds.

  Attributes:
    risk: `[]`, of the cost -G under that policy.
    threshold: the v for which the policy is optimal, in the measure's form.
    probs: `[N]`, the law of the return, on the last `returns` of the graph.
  """

  risk: jax.Array
  threshold: Any
  probs: jax.Array


# --- reachable pairs ---------------------------------------------------------


def _next_nodes(
  values: np.ndarray, states: np.ndarray, live: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Different pairs of return and state, and which of them each entry is.

  All arrays are `[N, A, S]`; only entries that are `live` count.
  """
  pairs = np.stack([values[live], states[live].astype(values.dtype)], -1)
  different, index = np.unique(pairs, axis=0, return_inverse=True)
  successors = np.zeros(live.shape, np.int32)
  successors[live] = index.ravel()
  return different[:, 0], different[:, 1].astype(np.int32), successors


def _pad(
  layers: list[np.ndarray], size: int, *, mode: Literal["constant", "edge"]
) -> np.ndarray:
  """Stacks arrays `[N_t, ...]` that are made equally long."""
  return np.stack(
    [
      np.pad(x, [(0, size - len(x))] + [(0, 0)] * (x.ndim - 1), mode=mode)
      for x in layers
    ]
  )


def reachable_stocks(mdp: processes.TabularMDP, *, horizon: int) -> StockGraph:
  """Enumerates states with the returns so far that can be reached. Host only.

  Histories that lead to the same state with the same return (to the last bit)
  share a node: what is best for a utility of the return is the same for both.

  Args:
    mdp: the process, of concrete arrays; a discount of 1 is allowed.
    horizon: H, at least 1.

  Returns:
    `StockGraph`, of the rewards' type.

  Raises:
    ValueError: the horizon is below 1, the tables do not fit, or there are more
      than `exact.MAX_SIZE` nodes at a time.

  >>> mdp = processes.TabularMDP(jnp.ones((1, 2, 1)), jnp.array([[0., 1.]]), 1.)
  >>> print(reachable_stocks(mdp, horizon=2).returns[2])
  [0. 1. 2.]

  Reference:
    Optimising return distributions with dynamic programming (2501.13028), the
    stock; kept as the return so far, so that one enumeration serves all c_0.
  """
  checks.check_positive(horizon=horizon)
  transitions, rewards = np.asarray(mdp.transitions), np.asarray(mdp.rewards)
  num_states, num_actions = rewards.shape
  if transitions.shape != (num_states, num_actions, num_states):
    raise ValueError(
      f"need transitions [S, A, S] and rewards [S, A]: were"
      f" {transitions.shape} and {rewards.shape}"
    )
  returns, states = np.zeros(num_states), np.arange(num_states, dtype=np.int32)
  layers, visited, moves, links = [returns], [], [], []
  for t in range(horizon):
    gains = float(mdp.discount) ** t * rewards[states].astype(np.float64)
    probs = transitions[states]
    after = np.broadcast_to((returns[:, None] + gains)[..., None], probs.shape)
    # What state the last step leads to makes no difference.
    which = np.arange(num_states) if t + 1 < horizon else np.zeros(num_states)
    visited.append(states)
    returns, states, successors = _next_nodes(
      after, np.broadcast_to(which, probs.shape), probs > 0
    )
    if len(returns) > sequences.MAX_SIZE:
      raise ValueError(
        f"{len(returns)} states with returns at time {t + 1}: the limit is"
        f" {sequences.MAX_SIZE}"
      )
    layers.append(returns)
    moves.append(probs)
    links.append(successors)
  size = max(map(len, layers))
  return StockGraph(
    returns=jnp.asarray(_pad(layers, size, mode="edge"), rewards.dtype),
    states=jnp.asarray(_pad(visited, size, mode="edge")),
    probs=jnp.asarray(_pad(moves, size, mode="constant")),
    successors=jnp.asarray(_pad(links, size, mode="constant")),
  )


# --- dynamic programming -----------------------------------------------------


def _best(
  probs: jax.Array, successors: jax.Array, values: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The best expected value of each node at one time, and its action."""
  # A utility may be infinite where the probability is 0.
  after = jnp.where(probs > 0, values[successors], 0)
  action_values = jnp.sum(probs * after, -1)
  actions = jnp.argmax(action_values, -1).astype(jnp.int32)
  return jnp.max(action_values, -1), actions


@jax.jit
def _solve(graph: StockGraph, last: jax.Array) -> StockValues:
  """Values and actions, from utilities `[N]` of the final returns."""

  def step(values, layer):
    probs, successors = layer
    best, actions = _best(probs, successors, values)
    return best, (best, actions)

  layers = graph.probs, graph.successors
  values, actions = jax.lax.scan(step, last, layers, reverse=True)[1]
  return StockValues(jnp.concatenate([values, last[None]]), actions)


@jax.jit
def _solve_laws(graph: StockGraph, utilities: jax.Array) -> ReturnLaws:
  """Laws and actions, from utilities `[N]` of the final returns."""

  def step(laws, layer):
    # A utility may be infinite where the probability is 0.
    expected = jnp.sum(laws * jnp.where(laws > 0, utilities, 0), -1)
    probs, successors = layer
    _, actions = _best(probs, successors, expected)
    chosen = jnp.arange(len(actions)), actions
    laws = jnp.einsum("ns,nsk->nk", probs[chosen], laws[successors[chosen]])
    return laws, (laws, actions)

  last = jnp.eye(len(utilities), dtype=graph.probs.dtype)
  layers = graph.probs, graph.successors
  laws, actions = jax.lax.scan(step, last, layers, reverse=True)[1]
  laws = jnp.concatenate([laws, last[None]])
  return ReturnLaws(graph.returns[-1], laws, actions)


@jax.jit
def _root_laws(
  graph: StockGraph, start: jax.Array, utilities: jax.Array
) -> jax.Array:
  """Laws of the return `[K, N]` for utilities of the same shape."""
  # One after the other: the laws of all nodes take the memory.
  return jax.lax.map(
    lambda row: start @ _solve_laws(graph, row).probs[0, : len(start)],
    utilities,
  )


def stock_value_iteration(
  graph: StockGraph, utility: Utility, stock: Scalar
) -> StockValues:
  """The largest `E f(c_0 + G)` of any policy, history-dependent ones included.

  `U_H(x) = f(x)`, `U_t(s, x) = max_a E U_{t+1}(s', x + g^t r)` with `x = c_0 +
  G_t = g^t c_t`. For a positively homogeneous f it is `g^t W(s, c_t)` with the
  paper's `W_n(s, c) = max_a g E W_{n-1}(s', (c + r) / g)`; in this form it
  holds for every f and every discount.

  Args:
    graph: from `reachable_stocks`.
    utility: f, `[...]` to `[...]`; may be -inf.
    stock: scalar, c_0.

  Returns:
    `StockValues`.

  >>> mdp = processes.TabularMDP(jnp.ones((1, 2, 1)), jnp.array([[0., 1.]]), 1.)
  >>> graph = reachable_stocks(mdp, horizon=2)
  >>> near_one = lambda x: 1 - jnp.abs(x)
  >>> print(stock_value_iteration(graph, near_one, -1.).values[0, 0])
  1.0

  Reference:
    Optimising return distributions with dynamic programming (2501.13028).
  """
  return _solve(graph, utility(stock + graph.returns[-1]))


def distributional_value_iteration(
  graph: StockGraph, utility: Utility, stock: Scalar
) -> ReturnLaws:
  """Value iteration that keeps whole laws of the return, exactly.

  At every node the action that is greedy in `E f(c_0 + G)` under the laws of
  the nodes that follow; its law is their mixture. Takes memory for `(H + S)
  N^2` numbers.

  Args:
    graph: from `reachable_stocks`.
    utility: f, `[...]` to `[...]`; may be -inf.
    stock: scalar, c_0.

  Returns:
    `ReturnLaws`.

  >>> mdp = processes.TabularMDP(jnp.ones((1, 2, 1)), jnp.array([[0., 1.]]), 1.)
  >>> graph = reachable_stocks(mdp, horizon=2)
  >>> laws = distributional_value_iteration(graph, lambda x: x, 0.)
  >>> print(laws.atoms, laws.probs[0, 0])
  [0. 1. 2.] [0. 0. 1.]

  Reference:
    Optimising return distributions with dynamic programming (2501.13028),
    distributional value iteration.
  """
  return _solve_laws(graph, utility(stock + graph.returns[-1]))


# --- risk of the return ------------------------------------------------------


def _check_start(graph: StockGraph, start: jax.Array) -> None:
  if start.shape != graph.probs.shape[-1:]:
    raise ValueError(
      f"start must have the shape {graph.probs.shape[-1:]}, was {start.shape}"
    )


def optimal_cvar(
  graph: StockGraph, start: jax.Array, *, tau: float
) -> CVaRSolution:
  """The largest CVaR of the return, over all policies.

  `max_b { b + max_policy E min(G - b, 0) / tau }`: the inner problem is that of
  the stock `c_0 = -b`. For each policy the objective is concave in b and
  piecewise linear, with kinks at returns; hence the returns suffice as b.

  Args:
    graph: from `reachable_stocks`.
    start: `[S]`, probabilities of the first state.
    tau: in `(0, 1]`, the share of the worst returns; 1 gives the mean.

  Returns:
    `CVaRSolution`; `stock_value_iteration(graph, lambda x: jnp.minimum(x, 0),
    -threshold)` has the policy.

  Raises:
    ValueError: tau is outside `(0, 1]`, or `start` is not `[S]`.

  >>> mdp = processes.TabularMDP(jnp.ones((1, 2, 1)), jnp.array([[0., 1.]]), 1.)
  >>> graph = reachable_stocks(mdp, horizon=2)
  >>> print(optimal_cvar(graph, jnp.ones(1), tau=.5).value)
  2.0

  Reference:
    Optimising return distributions with dynamic programming (2501.13028);
    Baeuerle and Ott, Markov decision processes with average-value-at-risk
    criteria (2011).
  """
  if not 0 < tau <= 1:
    raise ValueError(f"tau must be above 0 and at most 1, was {tau}")
  _check_start(graph, start)

  def objective(b):
    solved = stock_value_iteration(graph, lambda x: jnp.minimum(x, 0), -b)
    return b + start @ solved.values[0, : len(start)] / tau

  thresholds = graph.returns[-1]
  objectives = jax.vmap(objective)(thresholds)
  best = jnp.argmax(objectives)
  return CVaRSolution(objectives[best], thresholds[best], objectives)


def minimize_risk(
  graph: StockGraph,
  start: jax.Array,
  measure: scoring.ScoringFunction,
  thresholds: Any,
  *,
  num_rounds: int,
) -> RiskSolution:
  """Looks for the policy whose cost -G has the least risk.

  `min_v min_policy E f(-G, v)`: for a fixed v the policy is that of the utility
  `-f(-x, v)`, and for a fixed policy v is the measure's minimiser. From each
  start the two alternate; no round raises the risk, and what is left in the end
  is a policy's own risk. The outer problem is not convex: with few starts the
  result may be above the least risk, never below it.

  Args:
    graph: from `reachable_stocks`.
    start: `[S]`, probabilities of the first state.
    measure: of costs, from `scoring_function` or `mean_risk`.
    thresholds: `[K]`, the first v's; a pair of such arrays where v is one.
    num_rounds: alternations, at least 1; 1 is exact for the expected shortfall
      where the thresholds are minus the last `returns`.

  Returns:
    `RiskSolution`.

  Raises:
    ValueError: no rounds, or `start` is not `[S]`.

  >>> mdp = processes.TabularMDP(jnp.ones((1, 2, 1)), jnp.array([[0., 1.]]), 1.)
  >>> graph = reachable_stocks(mdp, horizon=2)
  >>> found = minimize_risk(
  ...   graph, jnp.ones(1), scoring.scoring_function("entropic", level=1.),
  ...   jnp.zeros(1), num_rounds=1)
  >>> print(found.risk, found.probs)
  -2.0 [0. 0. 1.]

  Reference:
    Risk-averse learning with convex scoring functions (2505.04553), the outer
    minimisation; its alternation is ours.
  """
  checks.check_positive(num_rounds=num_rounds)
  _check_start(graph, start)
  costs = -graph.returns[-1]
  num_starts = len(jax.tree.leaves(thresholds)[0])
  costs = jnp.broadcast_to(costs, (num_starts, len(costs)))

  def improve(_, carry):
    thresholds, _, _ = carry
    each = jax.tree.map(lambda v: v[:, None], thresholds)
    laws = _root_laws(graph, start, -measure.score(costs, each))
    laws = laws.astype(costs.dtype)
    return measure.minimizer(costs, laws), thresholds, laws

  # The laws are those of the thresholds before the last minimisation.
  given = jax.tree.map(lambda v: jnp.asarray(v, costs.dtype), thresholds)
  first = given, given, jnp.zeros_like(costs)
  _, used, laws = jax.lax.fori_loop(0, num_rounds, improve, first)
  risks = measure.risk(costs, laws)
  best = jnp.argmin(risks)
  threshold = jax.tree.map(lambda v: v[best], used)
  return RiskSolution(risks[best], threshold, laws[best])
