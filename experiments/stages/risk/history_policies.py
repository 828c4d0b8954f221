# SPDX-License-Identifier: Apache-2.0
"""Every deterministic policy that may depend on all states seen so far.

Nothing is solved: all policies are listed, with the return along every path of
states. NumPy on the host, for horizons of three or so.
"""

import itertools
from typing import NamedTuple

import numpy as np

from jaxalign.exact import mdp as processes


class HistoryPolicies(NamedTuple):
  """P policies and the N paths of states that they may see.

  Attributes:
    returns: `[P, N]`, the discounted return of a policy along a path.
    probs: `[P, N]`, of the path under the policy.
    markov: bool `[P]`, whether the actions depend on time and state alone.
  """

  returns: np.ndarray
  probs: np.ndarray
  markov: np.ndarray


def _decisions(num_states: int, horizon: int) -> np.ndarray:
  """Time and last state `[points, 2]` at each point of decision.

  A point is what has been seen since the first state, shorter histories first.
  """
  return np.array(
    [
      (t, history[-1] if history else -1)
      for t in range(horizon)
      for history in itertools.product(range(num_states), repeat=t)
    ]
  )


def _is_markov(policies: np.ndarray, decisions: np.ndarray) -> np.ndarray:
  _, same = np.unique(decisions, axis=0, return_inverse=True)
  same = same.ravel()
  first = np.array([np.flatnonzero(same == k)[0] for k in same])
  return np.all(policies == policies[:, first], -1)


def history_policies(
  mdp: processes.TabularMDP, *, first: int, horizon: int
) -> HistoryPolicies:
  """Lists them all.

  Args:
    mdp: the process.
    first: the state that every path starts in.
    horizon: H; there are `A^(1 + S + ... + S^(H-1))` policies.
  """
  transitions, rewards = np.asarray(mdp.transitions), np.asarray(mdp.rewards)
  num_states, num_actions = rewards.shape
  decisions = _decisions(num_states, horizon)
  policies = np.array(
    list(itertools.product(range(num_actions), repeat=len(decisions)))
  )
  paths = np.array(
    list(itertools.product(range(num_states), repeat=horizon - 1))
  ).reshape(-1, horizon - 1)
  states = np.concatenate([np.full((len(paths), 1), first), paths], 1)
  returns = np.zeros((len(policies), len(paths)))
  probs = np.ones_like(returns)
  start, history = 0, np.zeros(len(paths), int)
  for t in range(horizon):
    actions = policies[:, start + history]
    returns += float(mdp.discount) ** t * rewards[states[:, t], actions]
    if t + 1 < horizon:
      probs *= transitions[states[:, t], actions, states[:, t + 1]]
      start += num_states**t
      history = history * num_states + states[:, t + 1]
  return HistoryPolicies(returns, probs, _is_markov(policies, decisions))


def cvars(policies: HistoryPolicies, tau: float) -> np.ndarray:
  """CVaR `[P]` of every policy, by listing every threshold as well."""
  returns, probs = policies.returns, policies.probs
  short = np.minimum(returns[:, None, :] - returns[:, :, None], 0)
  return np.max(returns + np.einsum("pbn,pn->pb", short, probs) / tau, -1)
