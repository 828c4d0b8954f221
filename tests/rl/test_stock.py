# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.stages.risk import history_policies, worlds
from jaxalign.rl import risk, scoring, stock
from tests import helpers

START = jnp.array([1.0, 0.0, 0.0])  # where the listed policies start


def shortfall(x):
  return jnp.minimum(x, 0)


@functools.cache
def world():
  """A process of S = 3, A = 2, g = .9, its graph for H = 3, all policies."""
  with jax.enable_x64(True):
    (mdp,) = worlds.random_processes((1,), discount=0.9)
    graph = stock.reachable_stocks(mdp, horizon=3)
    listed = history_policies.history_policies(mdp, first=0, horizon=3)
  return mdp, graph, listed


# --- the graph ---------------------------------------------------------------


def test_reachable_returns_are_those_of_all_policies():
  mdp, graph, _ = world()
  returns = [
    history_policies.history_policies(mdp, first=s, horizon=3).returns
    for s in range(3)
  ]
  # Sums in another order differ by roundings.
  np.testing.assert_allclose(
    graph.returns[-1], np.unique(np.round(returns, 12)), atol=1e-11
  )
  graph, mdp = jax.tree.map(np.asarray, (graph, mdp))
  for t, size in enumerate((3, 18, 108)):
    probs, links = graph.probs[t], graph.successors[t]
    np.testing.assert_allclose(probs[:size].sum(-1), 1)
    assert not np.any(probs[size:])
    gain = graph.returns[t + 1][links] - graph.returns[t][:, None, None]
    expected = 0.9**t * mdp.rewards[graph.states[t]]
    np.testing.assert_allclose(
      gain[:size],
      np.broadcast_to(expected[:size, :, None], gain[:size].shape),
      atol=1e-12,
    )
    if t < 2:
      np.testing.assert_array_equal(
        graph.states[t + 1][links[:size]],
        np.broadcast_to(np.arange(3), links[:size].shape),
      )


def test_equal_returns_share_a_node_and_the_impossible_has_none():
  mdp, _ = worlds.gamble()
  graph = stock.reachable_stocks(mdp, horizon=3)
  # From the two first states to the common one with 1 or -1.
  at_common = graph.returns[1][graph.states[1] == 2]
  np.testing.assert_array_equal(at_common, [-1, 1])
  # There are eight nodes at time 2; at the end the last of seven is repeated.
  np.testing.assert_array_equal(
    graph.returns[-1], [-2, -1, 0, 0.5, 1, 1.5, 2.5, 2.5]
  )


# --- against all policies ----------------------------------------------------


def test_value_iteration_is_the_best_of_all_policies():
  _, graph, listed = world()
  utilities = {
    "shortfall": shortfall,
    "exponential": lambda x: -jnp.exp(-2 * x),
    "reach": lambda x: jnp.where(x >= 0.5, 1.0, 0.0),
  }
  for utility in utilities.values():
    for c in (-0.5, 0.3):
      solved = stock.stock_value_iteration(graph, utility, c)
      laws = stock.distributional_value_iteration(graph, utility, c)
      expected = np.sum(listed.probs * utility(c + listed.returns), -1).max()
      helpers.assert_close(solved.values[0, 0], expected)
      # The law that distributional value iteration keeps has that value.
      law = np.asarray(laws.probs[0, 0])
      np.testing.assert_allclose(law.sum(), 1)
      helpers.assert_close(law @ utility(c + laws.atoms), expected)
      np.testing.assert_array_equal(solved.actions, laws.actions)


@pytest.mark.parametrize("tau", [0.1, 0.5, 1.0])
def test_optimal_cvar_is_the_best_of_all_policies(tau):
  mdp, graph, listed = world()
  tails = history_policies.lower_tails(listed.returns, listed.probs, (tau,))
  found = stock.optimal_cvar(graph, START, tau=tau)
  helpers.assert_close(found.value, tails.max())
  # The policy of the stock -b has this CVaR, on its own law.
  laws = stock.distributional_value_iteration(
    graph, shortfall, -found.threshold
  )
  law = laws.probs[0, 0]
  helpers.assert_close(scoring.cvar(laws.atoms, law, tau=tau), found.value)
  assert found.objectives.max() == found.value
  if tau == 1:
    values = np.zeros(3)
    for _ in range(3):
      values = np.max(mdp.rewards + 0.9 * mdp.transitions @ values, -1)
    helpers.assert_close(found.value, values[0])


def test_exponential_utility_needs_no_stock():
  mdp, graph, _ = world()
  solved = stock.stock_value_iteration(graph, lambda x: -jnp.exp(-2 * x), 0.0)
  helpers.assert_close(
    risk.exponential_optimal_values(mdp, level=2.0, horizon=3)[0],
    -jnp.log(-solved.values[0, :3]) / 2,
  )


@pytest.mark.parametrize(
  ("name", "parameters"),
  [("variance", {}), ("expected_shortfall", {"alpha": 0.6})],
)
def test_least_risk_is_that_of_the_best_policy(name, parameters):
  _, graph, listed = world()
  measure = scoring.scoring_function(name, **parameters)
  best = measure.risk(-jnp.asarray(listed.returns), jnp.asarray(listed.probs))
  thresholds = -graph.returns[-1][::12]
  found = stock.minimize_risk(graph, START, measure, thresholds, num_rounds=4)
  helpers.assert_close(found.risk, best.min(), rtol=1e-9)
  helpers.assert_close(
    measure.risk(-graph.returns[-1], found.probs), found.risk
  )


def test_the_example_of_gambling_when_behind():
  mdp, start = worlds.gamble()
  graph = stock.reachable_stocks(mdp, horizon=3)
  found = stock.optimal_cvar(graph, start, tau=0.5)
  assert abs(found.value + 0.5) < 1e-12
  solved = stock.stock_value_iteration(graph, shortfall, -found.threshold)
  at_common = np.asarray(graph.states[1]) == 2
  np.testing.assert_array_equal(graph.returns[1][at_common], [-1, 1])
  np.testing.assert_array_equal(solved.actions[1][at_common], [1, 0])
  # Policies that see the state alone: never gamble, always gamble.
  returns = jnp.array([[1.0, 1.0, -1.0, -1.0], [2.5, 0.0, 0.5, -2.0]])
  probs = jnp.array([[0.25, 0.25, 0.25, 0.25], [0.3, 0.2, 0.3, 0.2]])
  values = scoring.cvar(returns, probs, tau=0.5)
  np.testing.assert_allclose(values, [-1, -0.7], atol=1e-12)


# --- the paper's recursion ---------------------------------------------------


def stock_recursion(mdp, utility, state, c, steps):
  """`W_n(s, c) = max_a g E W_{n-1}(s', (c + r) / g)`, as it is printed."""
  if steps == 0:
    return float(utility(c))
  g, rewards, transitions = (
    mdp.discount,
    np.asarray(mdp.rewards),
    np.asarray(mdp.transitions),
  )
  return max(
    g
    * sum(
      p
      * stock_recursion(
        mdp, utility, after, (c + rewards[state, a]) / g, steps - 1
      )
      for after, p in enumerate(transitions[state, a])
    )
    for a in range(rewards.shape[1])
  )


def test_the_factor_g_needs_positive_homogeneity():
  mdp, graph, _ = world()
  low = lambda x: np.minimum(x, 0)
  found = stock.stock_value_iteration(graph, shortfall, 0.2).values[0, 1]
  helpers.assert_close(found, stock_recursion(mdp, low, 1, 0.2, 3))
  exponential = lambda x: -np.exp(-2 * x)
  found = stock.stock_value_iteration(graph, lambda x: -jnp.exp(-2 * x), 0.2)
  printed = stock_recursion(mdp, exponential, 1, 0.2, 3)
  assert abs(found.values[0, 1] - printed) > 1e-2
  undiscounted = mdp._replace(discount=1.0)
  graph = stock.reachable_stocks(undiscounted, horizon=3)
  found = stock.stock_value_iteration(graph, lambda x: -jnp.exp(-2 * x), 0.2)
  printed = stock_recursion(undiscounted, exponential, 1, 0.2, 3)
  helpers.assert_close(found.values[0, 1], printed)


# --- zeros, gradients, transforms, input -------------------------------------


def test_what_cannot_happen_may_be_infinitely_bad():
  mdp, _ = worlds.gamble()
  graph = stock.reachable_stocks(mdp, horizon=3)
  utility = lambda x: jnp.where(x < -1.5, -jnp.inf, x)
  solved = stock.stock_value_iteration(graph, utility, 0.0)
  laws = stock.distributional_value_iteration(graph, utility, 0.0)
  helpers.assert_close(solved.values[0, :2], jnp.array([1.5, -1.0]))
  # Behind, the gamble could end at -2: not so ahead.
  helpers.assert_close(laws.probs[0, :2] @ laws.atoms, solved.values[0, :2])


def test_values_are_differentiable_in_the_stock():
  _, graph, _ = world()
  helpers.assert_gradient(
    lambda c: (
      stock.stock_value_iteration(graph, jnp.sin, c).values[0, :3].sum()
    ),
    jnp.array(0.2),
  )


def test_transforms():
  mdp, start = worlds.gamble()
  graphs = {
    dtype: stock.reachable_stocks(
      jax.tree.map(lambda x, d=dtype: jnp.asarray(x, d), mdp), horizon=3
    )
    for dtype in (jnp.float32, jnp.float64)
  }

  def fn(start):
    graph = graphs[start.dtype.type]
    return (
      stock.optimal_cvar(graph, start, tau=0.5),
      stock.distributional_value_iteration(graph, shortfall, start[0]),
    )

  helpers.assert_transforms(fn, jnp.stack([start, 1 / 6 + 0 * start]))


def test_bad_input(monkeypatch):
  mdp, graph, _ = world()
  with pytest.raises(ValueError, match="horizon must be above 0"):
    stock.reachable_stocks(mdp, horizon=0)
  with pytest.raises(ValueError, match=r"need transitions \[S, A, S\]"):
    stock.reachable_stocks(mdp._replace(rewards=mdp.rewards[:2]), horizon=1)
  with pytest.raises(ValueError, match="tau must be above 0 and at most 1"):
    stock.optimal_cvar(graph, START, tau=1.5)
  with pytest.raises(ValueError, match=r"shape \(3,\), was \(2,\)"):
    stock.optimal_cvar(graph, START[:2], tau=0.5)
  measure = scoring.scoring_function("variance")
  with pytest.raises(ValueError, match="num_rounds must be above 0"):
    stock.minimize_risk(graph, START, measure, jnp.zeros(1), num_rounds=0)
  with pytest.raises(ValueError, match="start"):
    stock.minimize_risk(graph, START[:2], measure, jnp.zeros(1), num_rounds=1)
  monkeypatch.setattr(stock.sequences, "MAX_SIZE", 10)
  with pytest.raises(ValueError, match="18 states with returns at time 1"):
    stock.reachable_stocks(mdp, horizon=2)
