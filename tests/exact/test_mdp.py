# SPDX-License-Identifier: Apache-2.0
"""Decision processes against lists of trajectories, of policies, and series."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.exact import mdp as tables
from tests import helpers

S, A, G = 3, 2, 0.9


@pytest.fixture(scope="module")
def world():
  """A process, a policy that leaves one action out, and a first state."""
  rng = np.random.default_rng(0)
  transitions = rng.dirichlet(np.ones(S), (S, A))
  transitions[0, 0] = [0, 1, 0]
  rewards = rng.normal(size=(S, A))
  policy = np.array([[0.25, 0.75], [1.0, 0.0], [0.4, 0.6]])
  mdp = tables.TabularMDP(transitions, rewards, G)
  return mdp, policy, np.array([0.2, 0.5, 0.3])


def power_series(mdp, policy, *, num_terms=400):
  """`sum_t g^t P_pi^t r_pi`, and the sums of `g^t P_pi^t`, in NumPy."""
  moves = np.einsum("sa,sat->st", policy, mdp.transitions)
  total, term = np.zeros((S, S)), np.eye(S)
  for _ in range(num_terms):  # .9^400 is 5e-19.
    total, term = total + term, mdp.discount * term @ moves
  return total @ np.sum(policy * mdp.rewards, -1), total


def test_values_and_occupancy_are_power_series(world):
  mdp, policy, start = world
  values, visits = power_series(mdp, policy)
  helpers.assert_close(tables.policy_values(mdp, policy), values)
  shares = tables.occupancy(mdp, policy, start)
  helpers.assert_close(shares, (1 - G) * (start @ visits)[:, None] * policy)
  helpers.assert_close(shares.sum(), 1.0)
  helpers.assert_close(jnp.sum(shares * mdp.rewards), (1 - G) * start @ values)
  # Whoever enters a state leaves it: the flow is conserved.
  flow = (1 - G) * start + G * np.einsum("sa,sat->t", shares, mdp.transitions)
  helpers.assert_close(shares.sum(-1), flow)
  q = tables.action_values(mdp, values)
  helpers.assert_close(np.sum(policy * q, -1), values)


def test_a_list_of_all_trajectories(world):
  """Written as nested loops; sums over it are values of a finite horizon."""
  mdp, policy, start = world
  found = tables.enumerate_trajectories(mdp, policy, start, 2)
  assert found.states.shape == (S * (A * S) ** 2, 3)
  rows = zip(found.states, found.actions, found.probs, strict=True)
  found_probs = {
    (*map(int, states), *map(int, actions)): float(p)
    for states, actions, p in rows
  }
  assert len(found_probs) == len(found.probs)
  moves = mdp.transitions
  for path in itertools.product(*(range(S),) * 3, *(range(A),) * 2):
    s0, s1, s2, a0, a1 = path
    p = start[s0] * policy[s0, a0] * moves[s0, a0, s1]
    p *= policy[s1, a1] * moves[s1, a1, s2]
    helpers.assert_close(found_probs[path], p, atol=1e-16)
  chosen = policy[found.states[:, :-1], found.actions]
  helpers.assert_close(jnp.exp(found.log_probs), chosen, atol=0)
  helpers.assert_close(
    found.rewards, mdp.rewards[found.states[:, :-1], found.actions]
  )
  # E sum_t g^t r_t, and the rest of the infinite sum from the last state.
  values = tables.policy_values(mdp, policy)
  returns = found.rewards @ np.array([1, G]) + G**2 * values[found.states[:, 2]]
  helpers.assert_close(found.probs @ returns, start @ values)


def test_the_policy_gradient_is_a_sum_over_trajectories(world):
  """`E[G sum_t grad log pi]`, also where the policy leaves actions out."""
  mdp, policy, start = world
  horizon = 2

  @jax.jit
  def both(policy):
    def expected(policy):
      found = tables.enumerate_trajectories(mdp, policy, start, horizon)
      return found.probs @ found.rewards.sum(-1)

    def score(policy):
      found = tables.enumerate_trajectories(mdp, policy, start, horizon)
      probs = jax.lax.stop_gradient(found.probs)
      terms = jnp.where(probs > 0, found.log_probs.sum(-1), 0)
      return probs @ (found.rewards.sum(-1) * terms)

    return jax.grad(expected)(policy), jax.grad(score)(policy)

  exact, by_score = both(jnp.asarray(policy))
  # A ratio's derivative at 0 cannot be seen by whoever never takes the action.
  helpers.assert_close(by_score, np.where(policy > 0, exact, 0))
  assert np.all(np.isfinite(exact)) and exact[1, 1] != 0


def test_optimal_values_against_all_policies(world):
  mdp, _, start = world
  values, visits = [], []
  for actions in itertools.product(range(A), repeat=S):
    policy = np.eye(A)[list(actions)]
    values.append(power_series(mdp, policy)[0])
    visits.append(tables.occupancy(mdp, policy, start))
  best = tables.optimal_values(mdp)
  helpers.assert_close(best, np.max(values, 0))
  q = tables.action_values(mdp, best)
  helpers.assert_close(jnp.max(q, -1), best)
  greedy = tables.greedy_policy(q)
  helpers.assert_close(tables.policy_values(mdp, greedy), best)
  # The linear programme over occupancies has the same optimum.
  gains = [np.sum(shares * mdp.rewards) for shares in visits]
  helpers.assert_close(np.max(gains), (1 - G) * start @ best)


def test_ties_and_rewards_of_no_interest_end():
  """Policy iteration must not go round among equal policies."""
  still = tables.TabularMDP(np.full((S, A, S), 1 / S), np.ones((S, A)), 0.999)
  for dtype in (jnp.float32, jnp.float64):
    mdp = tables.TabularMDP(*(jnp.asarray(x, dtype) for x in still))
    values = tables.optimal_values(mdp)
    assert values.dtype == dtype
    # The system's condition number is 2000.
    tolerance = 4000 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(values, np.full(S, 1000.0), rtol=tolerance)


def test_gradients(world):
  mdp, policy, start = world
  weights = np.arange(1.0, S + 1)

  @jax.jit
  def scalar(transitions, rewards, policy, start):
    mdp = tables.TabularMDP(transitions, rewards, G)
    values = tables.policy_values(mdp, policy)
    shares = tables.occupancy(mdp, policy, start)
    q = tables.action_values(mdp, values)
    return weights @ values + jnp.sum(shares**2) + jnp.sum(q**3)

  helpers.assert_gradient(scalar, mdp.transitions, mdp.rewards, policy, start)
  # Unlike a deterministic policy's choice, its value has a derivative.
  corner = np.eye(A)[[0, 1, 0]]
  helpers.assert_gradient(
    lambda p: weights @ tables.policy_values(mdp, p), corner
  )


def test_transforms(world, key):
  mdp, policy, start = world

  def all_of_it(transitions, rewards, policy, start):
    mdp = tables.TabularMDP(transitions, rewards, G)
    values = tables.policy_values(mdp, policy)
    return (
      values,
      tables.optimal_values(mdp),
      tables.greedy_policy(tables.action_values(mdp, values)),
      tables.occupancy(mdp, policy, start),
      tables.enumerate_trajectories(mdp, policy, start, 1),
    )

  other = tables.random_mdp(key, S, A, discount=G)
  helpers.assert_transforms(
    all_of_it,
    np.stack([mdp.transitions, other.transitions]),
    np.stack([mdp.rewards, other.rewards]),
    np.stack([policy, np.full((S, A), 1 / A)]),
    np.stack([start, np.eye(S)[0]]),
  )


def test_random_mdp(key):
  mdp = tables.random_mdp(key, 40, 50, discount=G, concentration=0.5)
  helpers.assert_close(mdp.transitions.sum(-1), np.ones((40, 50)))
  assert np.all(mdp.transitions >= 0) and mdp.discount == G
  # A Dirichlet entry's variance: (1/S)(1 - 1/S)/(S c + 1); 8e4 entries, whose
  # fourth moment makes the error of the estimate about 2 %.
  share = 1 / 40
  expected = share * (1 - share) / (40 * 0.5 + 1)
  np.testing.assert_allclose(np.var(mdp.transitions), expected, rtol=0.1)
  rewards = np.asarray(mdp.rewards)
  assert 0 <= rewards.min() and rewards.max() < 1
  # 2000 draws: five standard errors of the mean of U[0, 1].
  assert abs(rewards.mean() - 0.5) < 5 / np.sqrt(12 * 2000)


def test_bad_input(world):
  mdp, policy, start = world
  with pytest.raises(AssertionError, match="need rank 3: transitions"):
    tables.policy_values(mdp._replace(transitions=np.eye(S)), policy)
  with pytest.raises(ValueError, match=r"rewards \[S, A\]: were .3, 2, 3."):
    tables.optimal_values(mdp._replace(rewards=np.ones((A, S))))
  with pytest.raises(ValueError, match="need transitions"):
    tables.action_values(mdp._replace(rewards=np.ones(S)), start)
  with pytest.raises(AssertionError, match="policy"):
    tables.occupancy(mdp, policy.T, start)
  with pytest.raises(ValueError, match="the limit is"):
    tables.enumerate_trajectories(mdp, policy, start, 9)
  with pytest.raises(ValueError, match="concentration must be above 0, was 0"):
    tables.random_mdp(jax.random.key(0), S, A, discount=G, concentration=0.0)
