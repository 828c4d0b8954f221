# SPDX-License-Identifier: Apache-2.0
"""The win rate of best-of-n against the highest at its KL.

Measures what best-of-n and rewind-and-repeat lose against the optimal tilt of
the rank; the tilt against the KL-constrained optimum over ordered outcomes.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness, plotting
from experiments.stages.best_of_n import bounds
from experiments.stages.best_of_n.bounds import EXACT
from jaxalign.inference import best_of_n as bon

OUTCOMES = 1000  # ordered, of equal mass
OPTIMUM_N = (2.0, 4.0, 16.0)


@jax.jit
def highest_win_rates(kl: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Win rates `[K]` of the optimal tilt and of rewind-and-repeat at KLs."""
  optimum = bon.win_rate_tilt(bon.win_rate_tilt_coef(kl)).win_rate
  return optimum, bon.rewind_and_repeat(jnp.exp(-kl)).win_rate


def _over_outcomes(kl: np.ndarray) -> np.ndarray:
  """The highest win rates `[K]` at KLs, over ordered outcomes."""
  # An outcome's reward is its own win rate.
  rank = (np.arange(OUTCOMES)[None] + 0.5) / OUTCOMES
  log_p = np.full(OUTCOMES, -np.log(OUTCOMES))
  return np.asarray(bounds.highest_means(log_p, rank, rank, kl))[0, :, 0]


def frontier(*, n: Sequence[int]) -> harness.Part:
  """Win rates at the KL of best-of-n, over a base without atoms."""
  n, asked = bounds.counts(n)
  limits, win = map(np.asarray, bounds.continuous(n))
  kl = limits[:, 0]
  line = np.linspace(0, max(kl[-1], 2.0), 200)
  best, repeat = map(np.asarray, highest_win_rates(np.concatenate([kl, line])))
  optimum, rewind = best[: n.size], repeat[: n.size]
  few = np.isin(n, OPTIMUM_N)
  loss = optimum - win
  claims = [
    harness.all_agree(
      "tilt_is_optimal",
      "win rate of the rank tilt is the highest at its KL, found over ordered"
      " outcomes at the KL of n = 2, 4, 16: largest difference",
      [_over_outcomes(kl[few]) - optimum[few]],
      # Over one cell of mass 1/V the density changes by e^(17/V).
      tolerance=(17 / OUTCOMES) ** 2 / 12,
    ),
    harness.none_exceeds(
      "best_of_n_below_optimum",
      "win rate of best-of-n at most the optimum at its KL: largest excess over"
      " n",
      [-loss],
      tolerance=EXACT,
    ),
    harness.Claim(
      name="best_of_n_near_optimum",
      statement="win rate lost by best-of-n against the optimum at its KL is"
      " largest at n = 2",
      theory=(optimum[n == 2] - 2 / 3).item(),
      measured=np.max(loss),
      tolerance=EXACT,
      relation="<=",
    ),
    harness.none_exceeds(
      "rewind_below_best_of_n",
      "win rate of rewind-and-repeat at most that of best-of-n at its KL:"
      " largest excess over n",
      [rewind - win],
      tolerance=EXACT,
    ),
  ]
  rows = harness.rows(
    n=n[asked].astype(int),
    KL=kl[asked],
    best_of_n=win[asked],
    optimum=optimum[asked],
    rewind_and_repeat=rewind[asked],
  )
  curves = {
    "frontier_n": n,
    "frontier_kl": kl,
    "frontier_win": win,
    "frontier_loss": np.stack([loss, optimum - rewind]),
    "frontier_lines": np.stack([line, best[n.size :], repeat[n.size :]]),
  }
  tables = {"highest win rate at the KL of best-of-n": rows}
  return harness.Part(claims, curves, tables)


def plot(curves: dict[str, np.ndarray]):
  """Win rate against KL, and what is lost at the KL of best-of-n."""
  figure, (rates, losses) = plotting.figure(1, 2)
  kl, best, repeat = curves["frontier_lines"]
  rates.plot(kl, best, label="optimal tilt of the rank")
  rates.plot(kl, repeat, label="rewind and repeat")
  rates.plot(
    curves["frontier_kl"], curves["frontier_win"], "ko", ms=4, label="best of n"
  )
  rates.set(
    xlabel="KL from the base, nats", ylabel="win rate", title="win rate"
  )
  loss, rewind = curves["frontier_loss"]
  live = curves["frontier_n"] > 1
  for values, label in ((loss, "best of n"), (rewind, "rewind and repeat")):
    losses.plot(curves["frontier_n"][live], values[live], "o-", label=label)
  losses.set_xscale("log", base=2)
  losses.set(
    xlabel="n",
    ylabel="optimum less win rate",
    yscale="log",
    title="win rate lost at the KL of best-of-n",
  )
  for axes in (rates, losses):
    axes.legend()
  return figure
