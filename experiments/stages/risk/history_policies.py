# SPDX-License-Identifier: Apache-2.0
"""Every deterministic policy that may depend on all states seen so far.

Nothing is solved: all policies are listed, with the return along every path of
states. NumPy on the host, for horizons of three or four.
"""

import functools
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


class _Plans(NamedTuple):
  """What the policies do, whatever the process.

  Attributes:
    paths: `[N, H - 1]`, the states after the first.
    actions: `[H, P, N]`, of a policy at each time of a path.
    markov: as in `HistoryPolicies`.
  """

  paths: np.ndarray
  actions: np.ndarray
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


@functools.cache  # the same for every process of a size
def _plans(num_states: int, num_actions: int, horizon: int) -> _Plans:
  decisions = _decisions(num_states, horizon)
  digits = (num_actions,) * len(decisions)
  policies = np.stack(
    np.unravel_index(np.arange(num_actions ** len(decisions)), digits), -1
  )
  paths = np.array(
    list(itertools.product(range(num_states), repeat=horizon - 1))
  ).reshape(-1, horizon - 1)
  actions = []
  start, history = 0, np.zeros(len(paths), int)
  for t in range(horizon):
    actions.append(policies[:, start + history])
    start += num_states**t
    if t + 1 < horizon:
      history = history * num_states + paths[:, t]
  return _Plans(paths, np.array(actions), _is_markov(policies, decisions))


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
  plans = _plans(*rewards.shape, horizon)
  states = np.insert(plans.paths, 0, first, axis=1)
  returns = np.zeros(plans.actions.shape[1:])
  probs = np.ones_like(returns)
  for t, actions in enumerate(plans.actions):
    returns += float(mdp.discount) ** t * rewards[states[:, t], actions]
    if t + 1 < horizon:
      probs *= transitions[states[:, t], actions, states[:, t + 1]]
  return HistoryPolicies(returns, probs, plans.markov)


def lower_tails(
  returns: np.ndarray, probs: np.ndarray, taus: tuple[float, ...]
) -> np.ndarray:
  """CVaR `[taus, ...]` of laws `[..., N]`, by listing every threshold as well.

  The largest `b + E min(G - b, 0) / tau`, with every return as b.
  """
  short = np.minimum(returns[..., None, :] - returns[..., :, None], 0)
  expected = np.einsum("...bn,...n->...b", short, probs)
  return np.array([np.max(returns + expected / tau, -1) for tau in taus])
