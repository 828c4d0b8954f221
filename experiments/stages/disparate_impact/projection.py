# SPDX-License-Identifier: Apache-2.0
"""Made-up samples that are brought to an impact, and plots of any sample."""

import jax
import numpy as np
from matplotlib.axes import Axes

from experiments import harness
from experiments.stages.disparate_impact import manipulation
from jaxalign.learning import fairness

SIZE = 500
RATES, SHARE = (0.35, 0.6), 0.6  # of predictions 1 in the groups; of group 1
EXACT = 1e-10  # Newton's and bisection's, of sums of 500 terms
OFF = 0.01  # an impact that is wrong by more than rounding


def samples(rng: np.random.Generator, num_seeds: int) -> manipulation.Sample:
  """Draws groups, and predictions by their rates: `[S, N]` each."""
  groups = np.where(rng.random((num_seeds, SIZE)) < SHARE, 1.0, 0.0)
  chance = np.where(groups == 1, RATES[1], RATES[0])
  drawn = rng.random(chance.shape) < chance
  return manipulation.Sample(np.where(drawn, 1.0, 0.0), groups)


def rows(found: manipulation.Manipulated) -> list[dict]:
  """What each way shows: of `[W]`, or means of `[S, W]`."""
  mean = {
    k: np.atleast_2d(getattr(found, k)).mean(0)
    for k in ("impacts", "kl", "distance", "p_value")
  }
  return harness.rows(
    way=np.array(manipulation.WAYS),
    impact=mean["impacts"],
    KL=mean["kl"],
    total_variation=mean["distance"],
    p_value_of_test=mean["p_value"],
  )


def curves_of(
  sample: manipulation.Sample, found: manipulation.Manipulated
) -> dict[str, np.ndarray]:
  """For the plots, of one sample."""
  rates = np.asarray(fairness.group_rates(*sample))
  share = sample.groups.mean()
  before = float(found.before)
  # Beyond 1/b no rate of group 0 has that impact.
  impacts = np.linspace(before, min(max(1.2, 2 * before), 0.99 / rates[1]), 60)
  best, balanced = manipulation.divergence_by_impact(rates, share, impacts)
  return {
    "impact": impacts,
    "divergence/projection": np.asarray(best),
    "divergence/balanced": np.asarray(balanced),
    "cells/true": np.asarray(found.cells),
    "cells/shown": np.asarray(found.shown),
  }


def _claims(
  sample: manipulation.Sample,
  found: manipulation.Manipulated,
  impact: float,
) -> list:
  number = np.sum(sample.groups == 0, 1)
  a, b = np.asarray(fairness.group_rates(*sample)).T
  one_fewer = np.where(found.flips, (a + (found.flips - 1) / number) / b, 0)
  return [
    harness.all_agree(
      "impact",
      "projection's disparate impact is the one asked for: largest difference",
      [found.impacts[:, 0] - impact, found.residual],
      tolerance=EXACT,
    ),
    harness.all_agree(
      "one_unknown",
      "projection's divergence is that of the problem in one unknown: largest"
      " difference",
      [found.kl[:, 0] - found.direct],
      tolerance=EXACT,
    ),
    harness.Claim(
      "shares_free",
      "without the constraint on shares the impact is wrong: smallest error",
      theory=OFF,
      measured=np.min(np.abs(found.impacts[:, 1] - impact)),
      tolerance=0.0,
      relation=">=",
    ),
    harness.all_agree(
      "balanced_impact",
      "the balanced variant has the impact asked for: largest difference",
      [found.impacts[:, 2] - impact],
      tolerance=EXACT,
    ),
    harness.Claim(
      "balanced_divergence",
      "divergence of the balanced variant over the projection's: smallest",
      theory=1.0,
      measured=np.min(found.kl[:, 2] / found.kl[:, 0]),
      tolerance=0.0,
      relation=">=",
    ),
    harness.none_exceeds(
      "flips",
      "flips reach the impact, one fewer does not: largest excess",
      [impact - found.impacts[:, 3], one_fewer - impact],
      tolerance=EXACT,
    ),
  ]


def projection(
  rng: np.random.Generator,
  key: jax.Array,
  *,
  impact: float,
  num_seeds: int,
) -> harness.Part:
  """Claims on made-up samples.

  Args:
    rng: the source of the samples.
    key: of the flips.
    impact: the disparate impact to be shown.
    num_seeds: samples.
  """
  drawn = samples(rng, num_seeds)
  each = jax.vmap(manipulation.manipulate, (0, 0, None))
  found = each(jax.random.split(key, num_seeds), drawn, impact)
  found = jax.tree.map(np.asarray, found)
  first = jax.tree.map(lambda x: x[0], (drawn, found))
  title = f"made-up samples of {SIZE}, means"
  return harness.Part(
    _claims(drawn, found, impact), curves_of(*first), {title: rows(found)}
  )


def plot_divergence(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """By the impact that is asked for."""
  for name, dashes in (("projection", "-"), ("balanced", "--")):
    axes.plot(
      curves["impact"], curves[f"divergence/{name}"], dashes, label=name
    )
  axes.axvline(0.8, color="gray", linestyle=":", label="four-fifths rule")
  axes.set(
    xlabel="disparate impact shown",
    ylabel="KL from the true sample",
    title="what an impact costs",
  )
  axes.legend()


def plot_cells(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Shares of the four cells, true and shown."""
  shares = np.vstack([curves["cells/true"], curves["cells/shown"]])
  names = ("true", *manipulation.WAYS)
  width = 0.8 / len(names)
  for i, (name, share) in enumerate(zip(names, shares, strict=True)):
    at = np.arange(4) + (i - (len(names) - 1) / 2) * width
    axes.bar(at, share, width, label=name, color=f"C{i}")
  axes.set_xticks(range(4), manipulation.CELLS)
  axes.set(ylabel="share", title="shares of groups and predictions")
  axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
