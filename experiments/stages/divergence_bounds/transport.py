# SPDX-License-Identifier: Apache-2.0
"""The Sinkhorn divergence of two clouds, against its limits.

For a small epsilon the squared transport distance, which an assignment solves;
for a large one the squared distance of means, or with Euclidean cost half the
energy distance.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from matplotlib.axes import Axes

from experiments import harness
from jaxalign.divergences import samples

SMALL, LARGE, THRESHOLD = 0.01, 1e4, 1e-4
EPSILONS = (SMALL, 0.1, 1.0, 10.0, 100.0, 1000.0, LARGE)


@functools.partial(jax.jit, static_argnames="points")
def transport_of_clouds(
  key: jax.Array, epsilons: jax.Array, *, points: int
) -> dict:
  """Two clouds `[N, 2]` and their Sinkhorn divergences for epsilons `[E]`."""
  x, y = jax.random.normal(key, (2, points, 2))
  y = 1.2 * y + jnp.array([1.0, -0.5])

  def one(cost, epsilon):
    return samples.sinkhorn_divergence(
      x,
      y,
      epsilon=epsilon,
      cost=cost,
      threshold=THRESHOLD,
      max_iterations=50_000,
    )

  path = {
    cost: jax.lax.map(functools.partial(one, cost), epsilons)
    for cost in samples.COSTS
  }
  energy = samples.energy_distance(x, y)
  return {"x": x, "y": y, "path": path, "energy": energy}


def _claims(
  distance: np.ndarray,
  limits: tuple[float, float, float],
  squared: np.ndarray,
  plain: np.ndarray,
) -> list[harness.Claim]:
  """The divergences at both ends.

  Args:
    distance: `[2N, 2N]`, between all points.
    limits: what the divergences are expected to be.
    squared: `[E]`, divergences with squared Euclidean cost.
    plain: `[E]`, with Euclidean cost.
  """
  widest = distance.max()
  # Entropy moves each of the three optimal values by at most epsilon log n,
  # and, by Hoeffding's lemma, from the mean cost by range^2 / (8 epsilon).
  # Mass that the solver leaves misplaced costs at most the largest distance.
  near = SMALL * math.log(len(distance) // 2) + THRESHOLD * widest**2
  far, far_plain = (
    cost**2 / (8 * LARGE) + THRESHOLD * cost for cost in (widest**2, widest)
  )
  optimal, means, energy = limits
  return [
    harness.Claim(
      name="sinkhorn_small_epsilon",
      statement=f"Sinkhorn divergence at epsilon {SMALL:g} is the squared"
      " transport distance within epsilon log n",
      theory=optimal,
      measured=squared[0],
      tolerance=near,
    ),
    harness.Claim(
      name="sinkhorn_large_epsilon",
      statement=f"Sinkhorn divergence at epsilon {LARGE:g} is the squared"
      " distance of means within range^2 / (8 epsilon)",
      theory=means,
      measured=squared[-1],
      tolerance=far,
    ),
    harness.Claim(
      name="sinkhorn_large_epsilon_euclidean",
      statement=f"with Euclidean cost, at epsilon {LARGE:g}, it is half the"
      " energy distance within range^2 / (8 epsilon)",
      theory=energy,
      measured=plain[-1],
      tolerance=far_plain,
    ),
  ]


def transport(key: jax.Array, *, points: int) -> harness.Part:
  """Claims, curves and a table of the divergence against epsilon.

  Args:
    key: of the clouds.
    points: of each cloud.
  """
  solved = jax.tree.map(
    np.asarray,
    transport_of_clouds(key, jnp.array(EPSILONS), points=points),
  )
  x, y, found = solved["x"], solved["y"], solved["path"]
  # What was not solved is no value.
  squared, plain = (
    np.where(found[cost].converged, found[cost].value, np.nan)
    for cost in samples.COSTS
  )
  both = np.concatenate([x, y])
  distance = np.linalg.norm(both[:, None] - both[None], axis=-1)
  between = distance[:points, points:] ** 2
  pairs = scipy.optimize.linear_sum_assignment(between)
  limits = (
    between[pairs].mean(),
    np.sum((x.mean(0) - y.mean(0)) ** 2),
    solved["energy"] / 2,
  )
  rows = [
    {"epsilon": epsilon, "squared Euclidean": s, "Euclidean": p}
    for epsilon, s, p in zip(EPSILONS, squared, plain, strict=True)
  ]
  curves = {
    "epsilons": np.array(EPSILONS),
    "sinkhorn": np.stack([squared, plain]),
    "sinkhorn_limits": np.array(limits),
  }
  return harness.Part(
    _claims(distance, limits, squared, plain),
    curves,
    {"Sinkhorn divergence": rows},
  )


def draw(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """The divergence against epsilon, and its limits."""
  squared, plain = curves["sinkhorn"]
  optimal, means, energy = curves["sinkhorn_limits"]
  axes.plot(curves["epsilons"], squared, "o-", label="squared Euclidean")
  axes.plot(curves["epsilons"], plain, "s-", label="Euclidean")
  for value, name, line in (
    (optimal, "W2^2", "--"),
    (means, "|difference of means|^2", ":"),
    (energy, "energy distance / 2", "-."),
  ):
    axes.axhline(value, color="black", lw=0.9, linestyle=line, label=name)
  # What was not solved is NaN, to which no axis can be fitted.
  axes.set(
    xscale="log",
    xlim=(SMALL / 2, 2 * LARGE),
    ylim=(0, 2.2 * np.nanmax([*squared, optimal])),
    xlabel="epsilon",
    ylabel="Sinkhorn divergence",
    title="limits of the Sinkhorn divergence",
  )
  axes.legend(loc="upper right")
