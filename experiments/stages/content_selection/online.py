# SPDX-License-Identifier: Apache-2.0
"""Hedge over content policies: guarantees on random and adversarial gains."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness, plotting
from jaxalign.learning import engagement

POLICIES, ROUNDS = 8, 400
ROUNDING = 1e-9  # sums of 400 gains
KINDS = ("uniform", "rare", "one is better", "taking turns", "adversary")


def _adversary(rng: np.random.Generator, number: int) -> np.ndarray:
  """All gain goes to the policy that Hedge believes in least."""
  size = rng.random((number, ROUNDS))
  total = rng.random((number, POLICIES)) / 100  # who is first
  gains = np.zeros((number, ROUNDS, POLICIES))
  for t in range(ROUNDS):
    least = total.argmin(1)
    gains[np.arange(number), t, least] = size[:, t]
    total[np.arange(number), least] += size[:, t]
  return gains


def draw(rng: np.random.Generator, number: int) -> np.ndarray:
  """Gains `[kinds, number, ROUNDS, POLICIES]` in [0, 1]."""
  shape = number, ROUNDS, POLICIES
  rate = rng.uniform(0.005, 0.1, (number, 1, 1))
  better = rng.uniform(0.02, 0.5, (number, 1, 1)) * np.eye(POLICIES)[0]
  length = rng.integers(5, 100, (number, 1))
  turn = np.arange(ROUNDS) // length % POLICIES
  return np.stack(
    [
      rng.random(shape),
      (rng.random(shape) < rate).astype(float),
      rng.random(shape) * 0.5 + better,
      (turn[..., None] == np.arange(POLICIES)) * rng.random((*shape[:2], 1)),
      _adversary(rng, number),
    ]
  )


@jax.jit
def _play(gains: jax.Array, eta: jax.Array) -> dict:
  def one(gains):
    run = engagement.hedge_competitive(gains, eta=eta)
    bound = engagement.hedge_guarantee(run.best, POLICIES, eta=eta)
    return {"gain": run.gain, "best": run.best, "bound": bound}

  return jax.vmap(jax.vmap(one))(gains)


def online(rng: np.random.Generator, *, number: int) -> harness.Part:
  """Claims on both rates.

  Args:
    rng: of the gains.
    number: sequences of each kind.
  """
  gains = jnp.asarray(draw(rng, number))
  rates = {
    "competitive": engagement.competitive_rate(),
    "regret": math.sqrt(8 * math.log(POLICIES) / ROUNDS),
  }
  found = {
    name: jax.tree.map(np.asarray, _play(gains, eta))
    for name, eta in rates.items()
  }
  half = found["competitive"]["best"] / 2
  regret = found["regret"]["best"] - found["regret"]["gain"]
  # -ln N / (e^eta - 1), where eta / (e^eta - 1) = 1/2.
  constant = math.log(POLICIES) / (2 * rates["competitive"])
  claims = [
    harness.Claim(
      name="rate",
      statement="eta / (e^eta - 1) at the competitive rate",
      theory=0.5,
      measured=rates["competitive"] / math.expm1(rates["competitive"]),
      tolerance=1e-14,  # a rounding of each step
    ),
    harness.none_exceeds(
      "half",
      "Hedge at the competitive rate earns half of the best policy's gain less"
      " .398 ln N: largest shortfall",
      [half - constant - found["competitive"]["gain"]],
      tolerance=ROUNDING,
    ),
    harness.none_exceeds(
      "guarantee",
      "Hedge at either rate earns (eta OPT - ln N)/(e^eta - 1): largest"
      " shortfall",
      [run["bound"] - run["gain"] for run in found.values()],
      tolerance=ROUNDING,
    ),
    harness.none_exceeds(
      "regret",
      "Hedge at the rate sqrt(8 ln N/T) is within sqrt(T ln(N)/2) of the best"
      " policy: largest excess",
      [regret - math.sqrt(ROUNDS * math.log(POLICIES) / 2)],
      tolerance=ROUNDING,
    ),
  ]
  tables = {
    "Hedge: share of the best policy's gain": harness.rows(
      gains=np.array(KINDS),
      **{
        name: (run["gain"] / run["best"]).mean(1) for name, run in found.items()
      },
      smallest_slack=(
        found["competitive"]["gain"] - found["competitive"]["bound"]
      ).min(1),
    )
  }
  curves = {
    f"online/{name}/{key}": x
    for name, run in found.items()
    for key, x in run.items()
  }
  return harness.Part(claims, curves, tables)


def plot(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Share of the best policy's gain, with the guarantee."""
  run = {
    name: curves[f"online/competitive/{name}"]
    for name in ("best", "gain", "bound")
  }
  for i, kind in enumerate(KINDS):
    best = run["best"][i]
    axes.plot(best, run["gain"][i] / best, ".", ms=3, label=kind)
  order = np.argsort(run["best"].ravel())
  best, bound = (run[name].ravel()[order] for name in ("best", "bound"))
  axes.plot(best, bound / best, "k", label="guaranteed")
  plotting.log_scale(axes, "x")
  axes.set(
    xlabel="best policy's gain",
    ylabel="share of it that Hedge earns",
    ylim=(0, 1.03),
    title="users one after the other",
  )
  axes.legend(loc="lower right")
