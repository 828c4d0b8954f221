# SPDX-License-Identifier: Apache-2.0
"""Multiplicative weights on cycles: self-play without regularisation.

The distance of its policies from the maximal lottery, which never falls; and
the duality gap of their average, against its regret bound and T^-1.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness, plotting
from experiments.stages.nash import worlds
from jaxalign.divergences import categorical
from jaxalign.exact import games
from jaxalign.social_choice import nash

STEP, STEPS = 0.01, 40_000
_TABLE = "multiplicative weights"


@functools.partial(jax.jit, static_argnames="steps")
def play(
  log_start: jax.Array, pref: jax.Array, log_lottery: jax.Array, *, steps: int
) -> tuple[jax.Array, jax.Array]:
  """KL(lottery||pi_t) `[W, T]`, and the gap `[W, T]` of the average up to t."""
  log_ref = jnp.full_like(log_start, -jnp.log(3.0))

  def advance(carry, t):
    log_pi, total = carry
    total = total + jnp.exp(log_pi)
    gap = nash.duality_gap(jnp.log(total / (t + 1)), log_ref, pref, 0.0)
    distance = categorical.kl(log_lottery, log_pi)
    log_pi = nash.self_play_md_step(log_pi, log_ref, pref, 0.0, STEP)
    return (log_pi, total), (distance, gap)

  start = log_start, jnp.zeros_like(log_start)
  distance, gap = jax.lax.scan(advance, start, jnp.arange(steps))[1]
  return distance.T, gap.T


def envelope_exponent(y: np.ndarray) -> float:
  """Exponent of the envelope of y `[T]`, which has several turns a decade.

  From the largest `t y(t)` in the two halves of the last decade.
  """
  t = np.arange(1, len(y) + 1)
  low, middle = (round(len(y) / 10**x) for x in (1, 0.5))
  early, late = np.max((t * y)[low:middle]), np.max((t * y)[middle:])
  return np.log(late / early) / np.log(10**0.5) - 1


def _claims(kl, gap, bound, exponents) -> list[harness.Claim]:
  return [
    harness.Claim(
      name="multiplicative_weights_never_approach",
      statement="multiplicative weights on the cycles: smallest change of"
      " KL(lottery||pi) in a step",
      theory=0.0,
      measured=np.diff(kl).min(),
      tolerance=1e-14,  # Roundings of a KL below 1.
      relation=">=",
    ),
    harness.Claim(
      name="average_regret_bound",
      statement="duality gap of the average of multiplicative weights over"
      " 2 (log(1/min pi_0)/(eta T) + eta/8): largest",
      theory=1.0,
      measured=np.max(gap / bound),
      tolerance=0.0,
      relation="<=",
    ),
    harness.Claim(
      name="average_exponent",
      statement="duality gap of the average of multiplicative weights falls"
      " like T^-1: exponent of its envelope, cycle furthest off",
      theory=-1.0,
      measured=exponents[np.abs(exponents + 1).argmax()],
      # The orbits widen by a few per cent in the decade that is fitted.
      tolerance=0.1,
    ),
  ]


def multiplicative_weights(*, win_prob: float) -> harness.Part:
  """Claims, curves and a table on the two cycles.

  Args:
    win_prob: wins in the symmetric one.
  """
  game = jax.tree.map(np.asarray, jax.jit(worlds.cycles)(np.float64(win_prob)))
  lotteries = [games.enumerate_maximal_lotteries(p)[0] for p in game.pref]
  kl, gap = map(
    np.asarray,
    play(game.log_start, game.pref, np.log(lotteries), steps=STEPS),
  )
  counts = np.arange(1, STEPS + 1)
  first = -game.log_start.min(-1, keepdims=True)
  bound = 2 * (first / (STEP * counts) + STEP / 8)
  exponents = np.array([envelope_exponent(y) for y in gap])
  shown = np.unique(np.geomspace(1, STEPS, 800).astype(int)) - 1
  return harness.Part(
    claims=_claims(kl, gap, bound, exponents),
    curves={
      "mwu_steps": counts[shown],
      "mwu_kl": kl[:, shown],
      "mwu_gap": gap[:, shown],
      "mwu_bound": bound[:, shown],
    },
    tables={
      _TABLE: [
        {
          "game": name,
          "first KL": kl[i, 0],
          "last KL": kl[i, -1],
          "fitted exponent": exponents[i],
          "theory": -1.0,
          "last gap of average": gap[i, -1],
          "bound": bound[i, -1],
        }
        for i, name in enumerate(list(worlds.WORLDS)[: len(kl)])
      ]
    },
  )


def plot(curves: dict[str, np.ndarray], tables: dict[str, list[dict]]):
  """Iterates that stay away and averages that converge."""
  figure, (distance, gap) = plotting.figure(1, 2)
  steps = curves["mwu_steps"]
  for i, row in enumerate(tables[_TABLE]):
    distance.plot(steps, curves["mwu_kl"][i], label=row["game"])
    gap.plot(
      steps,
      np.maximum(curves["mwu_gap"][i], 1e-9),
      label=f"{row['game']}: T^{row['fitted exponent']:.3f} (T^-1)",
    )
  bound = curves["mwu_bound"].max(0)
  gap.plot(steps, bound, color="black", linestyle=":", label="regret bound")
  plotting.log_scale(distance, "x")
  plotting.log_scale(gap, "x", "y")
  distance.set(
    ylabel="KL(lottery||pi_t), nats",
    title="multiplicative weights",
    ylim=(0, None),
  )
  gap.set(
    ylabel="duality gap",
    title="their average up to t",
    ylim=(1e-7, None),
  )
  for axes in (distance, gap):
    axes.set(xlabel="step t")
    axes.legend(loc="lower left", frameon=False)
  return figure
