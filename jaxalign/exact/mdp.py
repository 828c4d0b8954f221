# SPDX-License-Identifier: Apache-2.0
"""Markov decision processes as tables, with their exact solutions.

A policy is a table of action probabilities `[S, A]`. Values are solutions of
linear systems, not of iterations; and for a short horizon every trajectory can
be listed, which turns any expectation over trajectories into a sum.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.exact import sequences

__all__ = (
  "TabularMDP",
  "Trajectories",
  "action_values",
  "enumerate_trajectories",
  "greedy_policy",
  "occupancy",
  "optimal_values",
  "policy_values",
  "random_mdp",
)

_EXACT = jax.lax.Precision.HIGHEST


class TabularMDP(NamedTuple):
  """A Markov decision process of S states and A actions.

  Attributes:
    transitions: `[S, A, S]`, `P(s' | s, a)`; the last axis sums to 1.
    rewards: `[S, A]`.
    discount: scalar in `[0, 1)`; 1 for `enumerate_trajectories` alone.
  """

  transitions: jax.Array
  rewards: jax.Array
  discount: float | jax.Array


class Trajectories(NamedTuple):
  """All trajectories of one length, the first axis being the sum's.

  Attributes:
    states: int32 `[N, H + 1]`.
    actions: int32 `[N, H]`.
    rewards: `[N, H]`.
    log_probs: `[N, H]`, log pi of the actions, differentiable in the policy;
      -inf, with gradient 0, for actions that it never takes.
    probs: `[N]`, of the whole trajectory; they sum to 1.
  """

  states: jax.Array
  actions: jax.Array
  rewards: jax.Array
  log_probs: jax.Array
  probs: jax.Array


def _check(mdp: TabularMDP, **policies: jax.Array) -> None:
  checks.check_rank(3, transitions=mdp.transitions)
  states, actions, after = mdp.transitions.shape
  if states != after or jnp.shape(mdp.rewards) != (states, actions):
    raise ValueError(
      f"need transitions [S, A, S] and rewards [S, A]: were"
      f" {mdp.transitions.shape} and {jnp.shape(mdp.rewards)}"
    )
  checks.check_same_shape(rewards=mdp.rewards, **policies)


def _moves(mdp: TabularMDP, policy: jax.Array) -> jax.Array:
  """`P_pi`, `[S, S]`: from state to state under a policy."""
  return jnp.einsum("sa,sat->st", policy, mdp.transitions, precision=_EXACT)


def random_mdp(
  key: jax.Array,
  num_states: int,
  num_actions: int,
  *,
  discount: float,
  concentration: float = 0.3,
) -> TabularMDP:
  """Dirichlet transitions and uniform rewards.

  `P(. | s, a) ~ Dirichlet(c, ..., c)`, `R(s, a) ~ U[0, 1]`, independent.

  Args:
    key: a typed key.
    num_states: S.
    num_actions: A.
    discount: in `[0, 1)`.
    concentration: c, above 0; small for nearly deterministic transitions.

  Returns:
    `TabularMDP`.

  Raises:
    ValueError: the concentration is not positive.

  >>> mdp = random_mdp(jax.random.key(0), 3, 2, discount=.9)
  >>> mdp.transitions.shape, mdp.rewards.shape
  ((3, 2, 3), (3, 2))

  Reference:
    Archibald, McKinnon and Thomas, On the generation of Markov decision
    processes (1995), for random processes as test problems.
  """
  checks.check_positive(concentration=concentration)
  first, second = jax.random.split(key)
  weights = jnp.full(num_states, concentration)
  shape = (num_states, num_actions)
  transitions = jax.random.dirichlet(first, weights, shape)
  return TabularMDP(transitions, jax.random.uniform(second, shape), discount)


def action_values(mdp: TabularMDP, values: jax.Array) -> jax.Array:
  """What each action is worth if values V follow it.

  `Q(s, a) = R(s, a) + g sum_s' P(s' | s, a) V(s')`.

  Args:
    mdp: the process.
    values: `[S]`.

  Returns:
    `[S, A]`.

  Raises:
    AssertionError: transitions are not of rank 3.
    ValueError: the tables do not fit.

  >>> mdp = TabularMDP(jnp.ones((1, 2, 1)), jnp.array([[0., 1.]]), .5)
  >>> print(action_values(mdp, jnp.array([2.])))
  [[1. 2.]]

  Reference:
    Bellman, Dynamic Programming (1957).
  """
  _check(mdp)
  # Accelerators would otherwise round the factors to fewer bits.
  ahead = jnp.matmul(mdp.transitions, values, precision=_EXACT)
  return mdp.rewards + mdp.discount * ahead


def policy_values(mdp: TabularMDP, policy: jax.Array) -> jax.Array:
  """The exact value of a policy in each state.

  `V = (I - g P_pi)^-1 r_pi`. Differentiable in everything.

  Args:
    mdp: the process.
    policy: `[S, A]`, probabilities.

  Returns:
    `[S]`.

  Raises:
    AssertionError: shapes differ.
    ValueError: the tables do not fit.

  >>> mdp = TabularMDP(jnp.ones((1, 2, 1)), jnp.array([[0., 1.]]), .5)
  >>> print(policy_values(mdp, jnp.array([[.5, .5]])))
  [1.]

  Reference:
    Puterman, Markov Decision Processes (1994), theorem 6.1.1.
  """
  _check(mdp, policy=policy)
  moves = _moves(mdp, policy)
  system = jnp.eye(len(moves), dtype=moves.dtype) - mdp.discount * moves
  return jnp.linalg.solve(system, jnp.sum(policy * mdp.rewards, -1))


def greedy_policy(values: jax.Array) -> jax.Array:
  """The policy that takes the first of the best actions.

  `pi(a | s) = 1[a = argmax_b Q(s, b)]`.

  Args:
    values: `[..., A]`, action values.

  Returns:
    `[..., A]`, probabilities 0 and 1.

  >>> print(greedy_policy(jnp.array([1., 3., 3.])))
  [0. 1. 0.]

  Reference:
    Puterman, Markov Decision Processes (1994), section 6.2.
  """
  values = numerics.as_float(values)
  best = jnp.argmax(values, -1)
  return jax.nn.one_hot(best, values.shape[-1], dtype=values.dtype)


def optimal_values(mdp: TabularMDP) -> jax.Array:
  """The optimal value of each state, by policy iteration until it rests.

  Each policy is evaluated by a linear solve, so that the result is exact to the
  solve's rounding. A policy gives way only to one that is better by more than
  that rounding; hence the iteration ends.

  Args:
    mdp: the process.

  Returns:
    `[S]`; `argmax action_values(mdp, V)` is an optimal policy.

  Raises:
    AssertionError: transitions are not of rank 3.
    ValueError: the tables do not fit.

  >>> mdp = TabularMDP(jnp.ones((1, 2, 1)), jnp.array([[0., 1.]]), .5)
  >>> print(optimal_values(mdp))
  [2.]

  Reference:
    Howard, Dynamic Programming and Markov Processes (1960).
  """
  _check(mdp)
  start = policy_values(mdp, greedy_policy(mdp.rewards))
  rounding = 100 * jnp.finfo(start.dtype).eps

  def improve(state):
    values, _ = state
    policy = greedy_policy(action_values(mdp, values))
    new = policy_values(mdp, policy)
    scale = rounding * (1 + jnp.max(jnp.abs(new)))
    return jnp.maximum(new, values), jnp.any(new > values + scale)

  return jax.lax.while_loop(lambda s: s[1], improve, (start, True))[0]


def occupancy(
  mdp: TabularMDP, policy: jax.Array, start: jax.Array
) -> jax.Array:
  """The discounted share of time that a policy spends on each pair.

  `d(s, a) = (1 - g) sum_t g^t P(s_t = s, a_t = a)`: sums to 1, and
  `sum d R = (1 - g) E_start V`.

  Args:
    mdp: the process.
    policy: `[S, A]`, probabilities.
    start: `[S]`, probabilities of the first state.

  Returns:
    `[S, A]`.

  Raises:
    AssertionError: shapes differ.
    ValueError: the tables do not fit.

  >>> mdp = TabularMDP(jnp.ones((1, 2, 1)), jnp.array([[0., 1.]]), .5)
  >>> print(occupancy(mdp, jnp.array([[.25, .75]]), jnp.ones(1)))
  [[0.25 0.75]]

  Reference:
    Puterman, Markov Decision Processes (1994), section 6.9.
  """
  _check(mdp, policy=policy)
  moves = _moves(mdp, policy)
  system = jnp.eye(len(moves), dtype=moves.dtype) - mdp.discount * moves.T
  states = (1 - mdp.discount) * jnp.linalg.solve(system, start)
  return states[:, None] * policy


def enumerate_trajectories(
  mdp: TabularMDP, policy: jax.Array, start: jax.Array, horizon: int
) -> Trajectories:
  """Every trajectory of H actions, impossible ones included.

  `P = start(s_0) prod_t pi(a_t | s_t) P(s_{t+1} | s_t, a_t)`.

  Args:
    mdp: the process.
    policy: `[S, A]`, probabilities.
    start: `[S]`, probabilities of the first state.
    horizon: H, at least 1.

  Returns:
    `Trajectories`, N = S (A S)^H.

  Raises:
    AssertionError: shapes differ.
    ValueError: the tables do not fit, or too many trajectories.

  >>> mdp = TabularMDP(jnp.ones((1, 2, 1)), jnp.array([[0., 1.]]), 1.)
  >>> all_of_them = enumerate_trajectories(
  ...   mdp, jnp.array([[.25, .75]]), jnp.ones(1), horizon=2)
  >>> print(all_of_them.rewards.sum(-1), all_of_them.probs)
  [0. 1. 1. 2.] [0.0625 0.1875 0.1875 0.5625]

  Reference:
    The chain rule of probability.
  """
  _check(mdp, policy=policy)
  num_states, num_actions = mdp.rewards.shape
  # A step is a digit of base S A: the action, then the state it leads to.
  steps = sequences.enumerate_sequences(num_states * num_actions, horizon)
  count = len(steps)
  first = jnp.repeat(jnp.arange(num_states, dtype=jnp.int32), count)
  steps = jnp.tile(steps, (num_states, 1))
  actions = steps // num_states
  states = jnp.concatenate([first[:, None], steps % num_states], 1)
  before, after = states[:, :-1], states[:, 1:]
  moves = jnp.asarray(mdp.transitions)[before, actions, after]
  rewards = jnp.asarray(mdp.rewards)[before, actions]
  chosen = jnp.asarray(policy)[before, actions]
  probs = jnp.asarray(start)[first] * jnp.prod(moves * chosen, -1)
  taken = chosen > 0
  log_probs = jnp.where(taken, jnp.log(jnp.where(taken, chosen, 1)), -jnp.inf)
  return Trajectories(states, actions, rewards, log_probs, probs)
