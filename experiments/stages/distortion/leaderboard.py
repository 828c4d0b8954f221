# SPDX-License-Identifier: Apache-2.0
"""What voting rules and aligned policies make of a leaderboard of ratings.

From a CSV file, or of six made-up models.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness, plotting
from experiments.stages.distortion import rules
from jaxalign import checks, data
from jaxalign import social_choice as sc
from jaxalign.divergences import kl

RATINGS = data.Ratings(
  names=("alpha", "bravo", "charlie", "delta", "echo", "foxtrot"),
  scores=np.array([1400.0, 1375.0, 1300.0, 1290.0, 1180.0, 1000.0]),
  votes=np.array([900, 400, 1600, 250, 800, 1200]),
)


_win_matrix = jax.jit(sc.win_matrix)


@jax.jit
def _outcomes(log_ref, win, utility, budgets) -> dict[str, dict]:
  """KL, value and largest mass of each method's policy; `[T]` for T budgets."""
  pairs = rules.uniform_pairs(win.shape[0])

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


def read(path: str) -> data.Ratings:
  """A leaderboard from a file.

  Args:
    path: of a CSV file; empty for the leaderboard above.

  Raises:
    InputError: the file is unusable, or its ratings are all equal.
  """
  ratings = data.read_ratings(path) if path else RATINGS
  if np.ptp(ratings.scores) == 0:
    raise checks.InputError(f"{path}: expected ratings that are not all equal")
  return ratings


def leaderboard(
  ratings: data.Ratings, *, budgets: Sequence[float]
) -> harness.Part:
  """Rules and aligned policies on a leaderboard.

  Ratings are Bradley-Terry scores of one average voter, so utilities are the
  scores scaled to [0, 1] and beta is their range.

  Args:
    ratings: of models.
    budgets: KL radii in nats around the uniform reference.
  """
  truth = np.asarray(ratings.logits, float)
  beta = np.ptp(truth)
  utility = (truth - np.min(truth)) / beta
  win = np.asarray(_win_matrix(np.ones(1), utility[None], beta))
  found = jax.tree.map(np.asarray, rules.solve(win))
  claims = rules.claims("ratings", found)
  claims.append(
    harness.Claim(
      name="ratings: recovered",
      statement="ratings: the fit of their own win matrix returns them",
      theory=0.0,
      measured=np.max(np.abs(found.scores - truth)),
      tolerance=1e-8,  # the fit's stopping rule over the flattest curvature
    )
  )
  size = truth.shape[0]
  log_ref = np.full(size, -np.log(size))
  bound = float(sc.distortion_bound(beta))
  rows: list[dict[str, Any]] = []
  outcomes = jax.tree.map(
    np.asarray, _outcomes(log_ref, win, utility, np.array(budgets, float))
  )
  for i, tau in enumerate(budgets):
    for method, columns in outcomes.items():
      row = {name: values[i].item() for name, values in columns.items()}
      row["first model"] = ratings.names[row["first model"]]
      rows.append({"KL budget": tau, "method": method} | row)

  def worst(method: str) -> float:
    column = "best in the ball over it"
    return harness.largest(
      row[column] for row in rows if row["method"] == method
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
      measured=harness.largest(row["KL"] - row["KL budget"] for row in rows),
      tolerance=1e-9,  # roundings
      relation="<=",
    ),
  ]
  top = np.argsort(-truth, stable=True)[:15]
  leaders = [
    {
      "model": ratings.names[x],
      "score": float(ratings.scores[x]),
      "Borda": float(found.borda[x]),
      "Bradley-Terry": float(found.scores[x]),
      "maximal lottery": float(found.policy[x]),
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
  return harness.Part(claims, curves, tables)


def plot(curves: dict[str, np.ndarray]):
  """What each method makes of the leaderboard, against the KL budget."""
  fig, (axes,) = plotting.figure()
  for method, marker in (("RLHF", "o"), ("DPO", "+"), ("NLHF", "s")):
    axes.plot(
      curves["ratings/budgets"],
      curves[f"ratings/{method}"],
      marker=marker,
      markerfacecolor="none",
      label=method,
    )
  axes.set(
    xlabel="KL budget, nats",
    ylabel="average utility",
    title="Policies on the leaderboard",
  )
  axes.legend()
  return fig
