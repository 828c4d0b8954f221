# SPDX-License-Identifier: Apache-2.0
"""Groups of completions: what mDPO learns, and how often labels are wrong.

A policy that names one of ten numbers. Preferred groups are uniform, the others
come from a skewed reference: only groups show that it is skewed.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness, plotting
from jaxalign import preference

NUM_VALUES = 10
UNIFORM = np.full(NUM_VALUES, 1 / NUM_VALUES)
SKEWED = 1 / np.arange(1.0, NUM_VALUES + 1)
SKEWED /= SKEWED.sum()
QUALITY = 0.5  # by which a chosen completion is better, in deviations
LABEL_SIZES = (1, 3, 5, 10)


def all_groups(k: int) -> tuple[np.ndarray, np.ndarray]:
  """Groups `[G, k]` but for their order, and in how many orders each is."""
  listed = np.array(
    list(itertools.combinations_with_replacement(range(NUM_VALUES), k))
  )
  counts = np.sum(listed[..., None] == np.arange(NUM_VALUES), 1)
  factorials = np.array([math.factorial(i) for i in range(k + 1)])
  return listed, factorials[k] // np.prod(factorials[counts], -1)


def optimum(k: int, betas: tuple[float, ...]) -> np.ndarray:
  """Policies of mDPO `[betas, 10]`, over all groups of k of each side."""
  listed, orders = all_groups(k)
  first, second = (x.ravel() for x in np.indices((len(listed),) * 2))
  chosen, rejected = (
    orders * np.prod(law[listed], -1) for law in (UNIFORM, SKEWED)
  )
  weights = chosen[first] * rejected[second]

  def population(x):
    h = jax.nn.log_softmax(x.reshape(len(betas), -1)) - np.log(SKEWED)
    of_groups = (np.array(betas)[:, None] * h)[:, listed]
    loss = preference.mdpo_loss(
      of_groups[:, first], of_groups[:, second], beta=1.0
    ).loss
    return jnp.sum(loss @ weights)

  start = jnp.zeros(len(betas) * NUM_VALUES)
  found = preference.minimize_population(population, start, num_steps=20)
  return np.asarray(jax.nn.softmax(found.x.reshape(len(betas), -1)))


def expected(k: int, beta: float) -> np.ndarray:
  """`ref (p+/p-)^(k/beta)`, normalised; the reference is p-."""
  tilted = SKEWED * (UNIFORM / SKEWED) ** (k / beta)
  return tilted / tilted.sum()


def label_error(k) -> np.ndarray:
  """How often the mean of k better ones is below that of k others.

  Means differ by `QUALITY`, with variance `2/k`.
  """
  z = QUALITY * np.sqrt(np.asarray(k) / 2)
  return np.vectorize(math.erfc)(z / np.sqrt(2)) / 2


def wrong_labels(seed: int, draws: int) -> np.ndarray:
  """Whether labels by the mean are wrong, bool `[sizes, draws]`."""
  rng = np.random.default_rng(seed)
  found = []
  for k in LABEL_SIZES:
    chosen, rejected = rng.standard_normal((2, draws, k))
    found.append(QUALITY + chosen.mean(-1) < rejected.mean(-1))
  return np.stack(found)


def groups(*, sizes: tuple[int, ...], seed: int, draws: int) -> harness.Part:
  """Claims on mDPO's optimum and on labels of groups.

  Args:
    sizes: of groups to enumerate.
    seed: of the simulated labels.
    draws: how many pairs of groups to label, of each size.
  """
  found = {k: optimum(k, (1.0, float(k))) for k in sizes}
  wrong = wrong_labels(seed, draws)
  theory, measured = label_error(LABEL_SIZES), wrong.mean(-1)
  deviations = np.sqrt(theory * (1 - theory) / draws)
  intervals = np.array([harness.confidence_interval(x) for x in wrong])
  claims = [
    harness.all_agree(
      "mdpo_optimum",
      "mDPO at beta 1 over all groups of k learns ref (p+/p-)^k, k times as"
      " sharp: largest difference",
      [law[0] - expected(k, 1.0) for k, law in found.items()],
      tolerance=1e-8,
    ),
    harness.all_agree(
      "mdpo_uniform",
      "mDPO at beta = k over all groups of k learns the chosen law itself:"
      " largest difference",
      [law[1] - UNIFORM for law in found.values()],
      tolerance=1e-8,
    ),
    harness.Claim(
      name="label_errors",
      statement="labels by the group's mean are wrong at the rate Phi(-.5"
      " sqrt(k/2)), for k = 1, 3, 5, 10: distance in standard errors, of the"
      " furthest",
      theory=harness.STANDARD_ERRORS,
      measured=np.max(np.abs(measured - theory) / deviations),
      tolerance=0.0,
      relation="<=",
    ),
  ]
  curves = {
    "groups/sizes": np.array(sizes),
    "groups/policies": np.stack([law[0] for law in found.values()]),
    "groups/label_errors": measured,
    "groups/label_intervals": intervals,
  }
  rates = harness.rows(
    k=LABEL_SIZES,
    theory=theory,
    simulated=measured,
    low=intervals[:, 0],
    high=intervals[:, 1],
  )
  return harness.Part(claims, curves, {"wrong labels of groups": rates})


def plot_policies(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Policies of mDPO at beta 1, by the size of groups."""
  at = np.arange(NUM_VALUES)
  axes.plot(at, SKEWED, "k:", label="reference, rejected")
  axes.plot(at, expected(1, 1.0), label="chosen, and k = 1")
  for k, law in zip(
    curves["groups/sizes"], curves["groups/policies"], strict=True
  ):
    axes.plot(at, law, "o-", ms=3, label=f"k = {k}")
  axes.set(
    xlabel="number",
    ylabel="probability",
    xticks=at,
    title="mDPO, beta 1, uniform groups preferred",
  )
  axes.legend()


def plot_labels(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """How often labels are wrong."""
  k = np.linspace(1, max(LABEL_SIZES), 100)
  axes.plot(k, label_error(k), **plotting.line_style(0), label="theory")
  middle = curves["groups/label_errors"]
  reach = np.abs(curves["groups/label_intervals"].T - middle)
  axes.errorbar(
    LABEL_SIZES, middle, reach, fmt="o", ms=3, color="C1", label="simulated"
  )
  axes.set(
    xlabel="completions in a group",
    ylabel="share of wrong labels",
    title="Groups are labelled better",
    ylim=(0, None),
  )
  axes.legend()
