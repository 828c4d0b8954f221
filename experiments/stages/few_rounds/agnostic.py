# SPDX-License-Identifier: Apache-2.0
"""LazyHedge with empirical risk minimisation where nothing is right everywhere.

Points on a circle, half planes as hypotheses. Twelve distributions agree on a
half plane but for noise, four on another one, so that what is best on average
is bad for those.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness, plotting
from jaxalign.learning import finite_class

POINTS, HYPOTHESES, NUM = 360, 36, 16
MINORITY, APART = 4, 40  # distributions, and degrees between the concepts
STEPS, BUDGET, MOST = 1000, 400, 1600
# Caps over weights. With the last, k, one round stores enough of each.
GROWTH = (1.25, 1.5, 2.0, 4.0, 16.0)
REGIONS = ("box", "ellipsoid")
DEFAULT = GROWTH.index(2.0)


def _half_planes(degrees: np.ndarray) -> np.ndarray:
  """Labels `[..., POINTS]` of half planes that point into a direction."""
  points = np.arange(POINTS) * 360 / POINTS
  # Half a degree off, lest a point lie on a border.
  angle = np.deg2rad(points - np.asarray(degrees)[..., None] - 0.5)
  return np.cos(angle) > 0


PREDICTIONS = _half_planes(np.arange(HYPOTHESES) * 360 / HYPOTHESES)


def world(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
  """One world: chance `[k, POINTS]` of label 1, and exact errors `[N, k]`."""
  concept = APART * (np.arange(NUM) < MINORITY) + rng.uniform(-5, 5, NUM)
  noise = rng.uniform(0, 0.1, (NUM, 1))
  chance = np.where(_half_planes(concept), 1 - noise, noise)
  wrong = np.where(PREDICTIONS[:, None], 1 - chance, chance)
  return chance, wrong.mean(-1)


def sample(rng: np.random.Generator, chance: np.ndarray) -> np.ndarray:
  """Losses `[N, k, MOST]` of all hypotheses on samples of each distribution."""
  points = rng.integers(POINTS, size=(NUM, MOST))
  labels = rng.random(points.shape) < np.take_along_axis(chance, points, 1)
  return (PREDICTIONS[:, points] != labels).astype(np.float32)


@jax.jit
def learn(losses: jax.Array) -> list[finite_class.LazyHedgeERM]:
  """By region, every growth of the caps at once."""

  def run(growth, region):
    return finite_class.lazy_hedge_erm(
      losses, budget=BUDGET, steps=STEPS, growth=growth, region=region
    )

  growth = jnp.array(GROWTH, losses.dtype)
  return [
    jax.vmap(functools.partial(run, region=region))(growth)
    for region in REGIONS
  ]


def _uniform(losses: np.ndarray, errors: np.ndarray, total: int) -> float:
  """The largest error of what is best on equally many samples of each."""
  means = losses[..., : total // NUM].mean((1, 2))
  return errors[means.argmin()].max()


class Found(NamedTuple):
  """What was found in W worlds, by region and growth of the caps.

  Attributes:
    excess: `[W, 2, C]`, largest error over that of the best hypothesis.
    rounds: `[W, 2, C]`.
    samples: `[W, 2, C]`, of all distributions.
    missing: `[W, 2, C]`, samples wanted beyond the supply.
    uniform: `[W]`, `excess` of what is best on the uniform mixture of as many
      samples as the box that doubles takes.
  """

  excess: np.ndarray
  rounds: np.ndarray
  samples: np.ndarray
  missing: np.ndarray
  uniform: np.ndarray


def _measure(rng: np.random.Generator) -> Found:
  """One world."""
  chance, errors = world(rng)
  losses = sample(rng, chance)
  found = jax.tree.map(lambda *x: np.stack(x), *learn(losses))
  optimum = errors.max(1).min()
  samples = found.samples.sum(-1)
  return Found(
    excess=(found.mixture @ errors).max(-1) - optimum,
    rounds=found.rounds,
    samples=samples,
    missing=found.missing.sum(-1),
    uniform=_uniform(losses, errors, samples[0, DEFAULT]) - optimum,
  )


def _claims(found: Found) -> list[harness.Claim]:
  log_k = math.log(NUM)
  regret = (1 + 1 / 8) * math.sqrt(log_k / STEPS)
  data = math.sqrt((math.log(HYPOTHESES) + NUM) / BUDGET)
  return [
    harness.Claim(
      name="agnostic",
      statement="largest error over that of the best single hypothesis: mean"
      " over worlds, largest over regions and growths, against regret and"
      " uniform convergence, 9/8 sqrt(ln k/T) + sqrt((ln N + k)/n)",
      theory=regret + data,
      measured=found.excess.mean(0).max(),
      tolerance=0.0,
      relation="<=",
    ),
    harness.bounded_mean(
      "agnostic_uniform",
      "largest error over the best's: half of that of what is best on a uniform"
      " mixture of as many samples, less that of LazyHedge with the box",
      found.uniform / 2 - found.excess[:, 0, DEFAULT],
      0.0,
      ">=",
    ),
    harness.bounded_mean(
      "agnostic_samples",
      "samples of LazyHedge with the box that doubles, over those of one round"
      " that stores enough of each distribution",
      found.samples[:, 0, DEFAULT] / found.samples[:, 0, -1],
      0.5,
      "<=",
    ),
    harness.none_exceeds(
      "agnostic_rounds",
      "rounds of LazyHedge with the box: largest excess over k log_C k + 1",
      [found.rounds[:, 0] - (NUM * log_k / np.log(GROWTH) + 1)],
      tolerance=0.0,
    ),
    harness.all_agree(
      "agnostic_supply",
      "no data ran out: samples missing",
      [found.missing],
      tolerance=0.0,
    ),
  ]


def agnostic(
  rng: np.random.Generator, *, worlds: int, progress: bool
) -> harness.Part:
  """Claims on the largest error, and on samples by rounds.

  Args:
    rng: of worlds and samples.
    worlds: independent ones, for intervals.
    progress: whether to show progress.
  """
  runs = harness.track(range(worlds), "worlds", progress=progress)
  found = Found(
    *map(np.array, zip(*(_measure(rng) for _ in runs), strict=True))
  )
  mean = jax.tree.map(lambda x: x.mean(0), found)
  tables = {
    f"agnostic LazyHedge, {region}": harness.rows(
      growth=np.array(GROWTH),
      rounds=mean.rounds[i],
      samples=mean.samples[i],
      excess_error=mean.excess[i],
    )
    for i, region in enumerate(REGIONS)
  }
  tables["uniform mixture, one round"] = harness.rows(
    samples=mean.samples[0, DEFAULT], excess_error=mean.uniform
  )
  curves = {f"agnostic/{k}": x for k, x in found._asdict().items()}
  return harness.Part(_claims(found), curves, tables)


def plot_tradeoff(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Samples against rounds, by how far caps exceed weights."""
  rounds, samples = curves["agnostic/rounds"], curves["agnostic/samples"]
  for i, region in enumerate(REGIONS):
    x, y = rounds[:, i].mean(0), samples[:, i].mean(0)
    axes.plot(x, y, "o-", label=region)
    if i == 0:
      for growth, *at in zip(GROWTH, x, y, strict=True):
        axes.annotate(
          f"C = {growth:g}", at, (5, 4), textcoords="offset points", fontsize=7
        )
  plotting.log_scale(axes, "x", "y")
  axes.set(
    xlabel="rounds of sampling",
    ylabel="samples of 16 distributions",
    xticks=(1, 2, 4, 8, 16),
    yticks=(1000, 2000, 4000),
    title="agnostic LazyHedge: caps C times the weights",
  )
  axes.legend()


def plot_excess(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """How good all of that is."""
  for i, region in enumerate(REGIONS):
    plotting.band(
      axes,
      GROWTH,
      curves["agnostic/excess"][:, i],
      f"LazyHedge, {region}",
      marker="o",
      markersize=4,
    )
  uniform = curves["agnostic/uniform"].mean()
  axes.axhline(uniform, color="k", linestyle=":", label="uniform mixture")
  axes.axhline(0, color="k", linewidth=0.8)
  plotting.log_scale(axes, "x")
  axes.set(
    xlabel="caps over weights, C",
    ylabel="largest error over the best's",
    xticks=(1.25, 2, 4, 8, 16),
    title="agnostic: error of the worst distribution",
  )
  axes.legend()
