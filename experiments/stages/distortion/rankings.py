# SPDX-License-Identifier: Apache-2.0
"""What voting rules make of complete rankings.

From a file in PrefLib's format, or of a made-up profile with a majority cycle.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.stages.distortion import rules
from jaxalign import checks, data
from jaxalign import social_choice as sc

PROFILE = """# ALTERNATIVE NAME 1: ship on Monday
# ALTERNATIVE NAME 2: ship on Friday
# ALTERNATIVE NAME 3: test for a week
# ALTERNATIVE NAME 4: rewrite it
40: 1,2,3,4
35: 2,3,1,4
25: 3,1,4,2
"""


def read(path: str) -> data.Rankings:
  """Rankings from a file on which every rule is defined.

  Args:
    path: of a `.soc` file; empty for the profile above.

  Raises:
    InputError: the file is unusable, or an alternative beats none or all of
      the others with every voter.
  """
  profile = data.read_preflib(path) if path else data.parse_preflib(PROFILE)
  if len(profile.names) < 2:
    raise checks.InputError(f"{path}: expected at least two alternatives")
  win, _ = _measure(profile)
  try:
    sc.check_connected(win, np.ones(win.shape))
  except checks.InputError as error:
    raise checks.InputError(f"{path}: {error}") from None
  return profile


@jax.jit
def _wins_and_utility(orders: jax.Array, counts: jax.Array) -> tuple:
  utility = sc.average_utility(
    counts / jnp.sum(counts), sc.linear_utilities(orders)
  )
  return sc.ranking_win_matrix(orders, counts), utility


def _measure(profile: data.Rankings) -> tuple[np.ndarray, np.ndarray]:
  """The win matrix, and average linear utilities."""
  counts = np.asarray(profile.counts, float)
  found = _wins_and_utility(np.asarray(profile.orders), counts)
  return tuple(map(np.asarray, found))


def rankings(profile: data.Rankings) -> harness.Part:
  """Rules on complete rankings, and how well they do for linear utilities."""
  win, utility = _measure(profile)
  found = jax.tree.map(np.asarray, rules.solve(win))
  borda, scores, policy = found.borda, found.scores, found.policy
  wins = np.sum(win > 0.5, 1)
  rows = [
    {
      "alternative": profile.names[x],
      "Borda": float(borda[x]),
      "Bradley-Terry": float(scores[x]),
      "maximal lottery": float(policy[x]),
      "majorities won": int(wins[x]),
      "average utility": float(utility[x]),
    }
    for x in np.argsort(-borda, stable=True)
  ]
  best = np.max(utility)
  chosen = {
    "Borda": utility[np.argmax(borda)],
    "Bradley-Terry": utility[np.argmax(scores)],
    "maximal lottery": policy @ utility,
    "uniform": np.mean(utility),
  }
  ratios = [
    {
      "rule": rule,
      "average utility": float(value),
      "best over it": float(best / value),
    }
    for rule, value in chosen.items()
  ]
  tables = {
    "rankings: alternatives": rows,
    "rankings: rules with linear utilities": ratios,
  }
  return harness.Part(
    rules.claims("rankings", found), {"profile/win": win}, tables
  )
