# SPDX-License-Identifier: Apache-2.0
"""What voting rules and alignment methods make of real preferences.

The part of the `distortion` experiment that reads files: complete rankings in
PrefLib's format and leaderboards of ratings. Without files it uses a profile
with a majority cycle and a leaderboard of six models, both made up.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from jaxalign import checks, data
from jaxalign import social_choice as sc
from jaxalign.divergences import kl

PROFILE = """# ALTERNATIVE NAME 1: ship on Monday
# ALTERNATIVE NAME 2: ship on Friday
# ALTERNATIVE NAME 3: test for a week
# ALTERNATIVE NAME 4: rewrite it
40: 1,2,3,4
35: 2,3,1,4
25: 3,1,4,2
"""
RATINGS = data.Ratings(
  names=("alpha", "bravo", "charlie", "delta", "echo", "foxtrot"),
  scores=np.array([1400.0, 1375.0, 1300.0, 1290.0, 1180.0, 1000.0]),
  votes=np.array([900, 400, 1600, 250, 800, 1200]),
)


def _uniform_pairs(size: int) -> jax.Array:
  return jnp.full((size, size), 1 / size**2)


_fit = jax.jit(sc.bradley_terry_mle)
_lottery = jax.jit(sc.maximal_lottery)


def _inversions(scores: np.ndarray, other: np.ndarray) -> int:
  """Pairs that two lists of scores put in opposite orders."""
  gaps = scores[:, None] - scores, other[:, None] - other
  # Ties, which rounding breaks, are the fit's stopping rule wide.
  signs = [np.where(np.abs(gap) > 1e-10, np.sign(gap), 0) for gap in gaps]
  return int(np.sum(signs[0] * signs[1] < 0)) // 2


def _bradley_terry_claims(name: str, win: jax.Array) -> tuple:
  """Borda scores, the fit, and the two facts that tie them together."""
  size = win.shape[0]
  mu = jnp.full(size, 1 / size)
  pairs = _uniform_pairs(size)
  borda = sc.borda_scores(win, mu)
  fit = _fit(win, pairs)
  modelled = jax.nn.sigmoid(fit.scores[:, None] - fit.scores) @ mu
  claims = [
    harness.Claim(
      name=f"{name}: Borda identity",
      statement=f"{name}: the fitted model reproduces every Borda score",
      theory=0.0,
      measured=jnp.max(jnp.abs(modelled - borda)),
      tolerance=1e-10,  # the fit's stopping rule
    ),
    harness.Claim(
      name=f"{name}: Borda order",
      statement=f"{name}: pairs that Bradley-Terry and Borda order differently",
      theory=0,
      measured=_inversions(np.asarray(borda), np.asarray(fit.scores)),
      tolerance=0,
    ),
  ]
  return borda, fit.scores, claims


def _lottery_claim(name: str, residual: jax.Array) -> harness.Claim:
  return harness.Claim(
    name=f"{name}: maximal lottery",
    statement=f"{name}: what the best reply to the maximal lottery gains",
    theory=0.0,
    measured=residual,
    tolerance=1e-12,  # roundings of margins of order 1
    relation="<=",
  )


def rankings_section(path: str) -> tuple[list, dict, dict]:
  """Rules on complete rankings: claims, tables and curves.

  Args:
    path: of a `.soc` file; empty for the profile above.

  Raises:
    InputError: the file is unusable, or an alternative beats none or all of
      the others with every voter.
  """
  profile = data.read_preflib(path) if path else data.parse_preflib(PROFILE)
  if len(profile.names) < 2:
    raise checks.InputError(f"{path}: expected at least two alternatives")
  orders, counts = jnp.asarray(profile.orders), jnp.asarray(profile.counts)
  win = sc.ranking_win_matrix(orders, counts.astype(float))
  try:
    sc.check_connected(np.asarray(win), np.ones(win.shape))
  except checks.InputError as error:
    raise checks.InputError(f"{path}: {error}") from None
  weights = counts / jnp.sum(counts)
  utility = sc.average_utility(weights, sc.linear_utilities(orders))
  borda, scores, claims = _bradley_terry_claims("rankings", win)
  lottery = _lottery(win)
  claims.append(_lottery_claim("rankings", lottery.residual))
  policy = jnp.exp(lottery.log_policy)
  wins = jnp.sum(win > 0.5, 1)
  rows = [
    {
      "alternative": profile.names[x],
      "Borda": float(borda[x]),
      "Bradley-Terry": float(scores[x]),
      "maximal lottery": float(policy[x]),
      "majorities won": int(wins[x]),
      "average utility": float(utility[x]),
    }
    for x in np.argsort(-np.asarray(borda), stable=True)
  ]
  best = jnp.max(utility)
  chosen = {
    "Borda": utility[jnp.argmax(borda)],
    "Bradley-Terry": utility[jnp.argmax(scores)],
    "maximal lottery": policy @ utility,
    "uniform": jnp.mean(utility),
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
  return claims, tables, {"profile/win": np.asarray(win)}


@jax.jit
def _outcomes(log_ref, win, utility, budgets) -> dict[str, dict]:
  """KL, value and largest mass of each method's policy; `[T]` for T budgets."""
  pairs = _uniform_pairs(win.shape[0])

  def outcomes(tau):
    best = sc.kl_ball_value(log_ref, utility, tau)
    log_policies = {
      "NLHF": sc.kl_ball_nash(log_ref, win, tau).log_policy,
      "RLHF": sc.rlhf_policy(win, pairs, log_ref, tau),
      "DPO": sc.dpo_policy(win, pairs, log_ref, tau).log_policy,
    }
    return {
      method: {
        "KL": kl(log_policy, log_ref),
        "average utility": jnp.exp(log_policy) @ utility,
        "best in the ball over it": best / (jnp.exp(log_policy) @ utility),
        "first model": jnp.argmax(log_policy),
        "its mass": jnp.exp(jnp.max(log_policy)),
      }
      for method, log_policy in log_policies.items()
    }

  # Not vmapped: the loops of all budgets would take as long as the longest.
  return jax.lax.map(outcomes, budgets)


def ratings_section(path: str, budgets: tuple) -> tuple[list, dict, dict]:
  """Rules and aligned policies on a leaderboard: claims, tables and curves.

  Ratings are Bradley-Terry scores of one average voter, so utilities are the
  scores scaled to [0, 1] and beta is their range.

  Args:
    path: of a CSV file; empty for the leaderboard above.
    budgets: KL radii in nats around the uniform reference.

  Raises:
    InputError: the file is unusable, or its ratings are all equal.
  """
  ratings = data.read_ratings(path) if path else RATINGS
  if np.ptp(ratings.scores) == 0:
    raise checks.InputError(f"{path}: expected ratings that are not all equal")
  truth = jnp.asarray(ratings.logits)
  beta = jnp.ptp(truth)
  utility = (truth - jnp.min(truth)) / beta
  win = sc.win_matrix(jnp.ones(1), utility[None], beta)
  borda, scores, claims = _bradley_terry_claims("ratings", win)
  lottery = _lottery(win)
  claims.append(_lottery_claim("ratings", lottery.residual))
  claims.append(
    harness.Claim(
      name="ratings: recovered",
      statement="ratings: the fit of their own win matrix returns them",
      theory=0.0,
      measured=jnp.max(jnp.abs(scores - truth)),
      tolerance=1e-8,  # the fit's stopping rule over the flattest curvature
    )
  )
  size = truth.shape[0]
  log_ref = jnp.full(size, -np.log(size))
  bound = float(sc.distortion_bound(beta))
  rows: list[dict[str, Any]] = []
  outcomes = jax.tree.map(
    np.asarray, _outcomes(log_ref, win, utility, jnp.array(budgets, float))
  )
  for i, tau in enumerate(budgets):
    for method, columns in outcomes.items():
      row = {name: values[i].item() for name, values in columns.items()}
      row["first model"] = ratings.names[row["first model"]]
      rows.append({"KL budget": tau, "method": method} | row)

  def worst(method: str) -> float:
    column = "best in the ball over it"
    return float(
      np.max([row[column] for row in rows if row["method"] == method])
    )

  claims += [
    harness.Claim(
      name="ratings: RLHF is optimal for one voter",
      statement="ratings: RLHF's worst ratio to the best policy in the ball",
      theory=1.0,
      measured=worst("RLHF"),
      tolerance=1e-8,  # utilities enter through a fit with this error
    ),
    harness.Claim(
      name="ratings: NLHF within its bound",
      statement="ratings: NLHF's worst ratio is at most D*(beta)",
      theory=bound,
      measured=worst("NLHF"),
      tolerance=1e-9,  # roundings
      relation="<=",
    ),
    harness.Claim(
      name="ratings: budgets are kept",
      statement="ratings: largest excess of a policy's KL over its budget",
      theory=0.0,
      measured=np.max([row["KL"] - row["KL budget"] for row in rows]),
      tolerance=1e-9,  # roundings
      relation="<=",
    ),
  ]
  top = np.argsort(-np.asarray(truth), stable=True)[:15]
  leaders = [
    {
      "model": ratings.names[x],
      "score": float(ratings.scores[x]),
      "Borda": float(borda[x]),
      "Bradley-Terry": float(scores[x]),
      "maximal lottery": float(jnp.exp(lottery.log_policy[x])),
      "average utility": float(utility[x]),
    }
    for x in top
  ]
  tables = {
    "ratings: first fifteen models": leaders,
    "ratings: policies in KL balls around the uniform reference": rows,
  }
  curves = {
    "ratings/budgets": np.array(budgets),
    **{
      f"ratings/{method}": np.array(
        [row["average utility"] for row in rows if row["method"] == method]
      )
      for method in ("NLHF", "RLHF", "DPO")
    },
  }
  return claims, tables, curves
