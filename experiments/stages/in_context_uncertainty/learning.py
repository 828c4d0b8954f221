# SPDX-License-Identifier: Apache-2.0
"""How close a network's mean and variance come to Bayes' oracle."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness, plotting
from experiments.stages.in_context_uncertainty import regression

_NOISE = {
  "known": "noise of known variance",
  "learned": "noise of inverse gamma variance",
}


def _claims(
  world: str, found: dict[str, np.ndarray], band: float
) -> list[harness.Claim]:
  """Of arrays `[S, N + 1]`."""
  excess, error = found["excess"], found["error"]
  return [
    harness.none_exceeds(
      f"{world}_not_below",
      f"{_NOISE[world]}: the oracle's loss exceeds a network's at no length of"
      " the context, but for 5 standard errors: largest excess, nats",
      [-excess - harness.STANDARD_ERRORS * error],
      tolerance=0.0,
    ),
    harness.Claim(
      name=f"{world}_close",
      statement=f"{_NOISE[world]}: loss of the network above the oracle's, mean"
      " over lengths of the context, nats",
      theory=0.0,
      measured=excess.mean(),
      tolerance=band,
      interval=harness.confidence_interval(excess.mean(1)),
    ),
  ]


def learning(
  key: jax.Array,
  *,
  num_seeds: int,
  length: int,
  rows: int,
  steps: int,
  band: float,
) -> harness.Part:
  """Claims on the losses by length of the context.

  Args:
    key: of all draws.
    num_seeds: networks of each world.
    length: N, of the longest context.
    rows: tasks of an update.
    steps: updates.
    band: how far above the oracle's a mean loss may be.
  """
  keys = jax.random.split(key, num_seeds)
  worlds = jnp.array([world == "learned" for world in regression.WORLDS])
  tasks, found = regression.train(keys, worlds, length, rows, steps)
  claims, curves, tables = [], {}, {}
  for i, world in enumerate(regression.WORLDS):
    own = jax.tree.map(lambda x, i=i: x[i], (tasks, found))
    own = {
      k: np.asarray(x, np.float64)
      for k, x in regression.losses(*own, world).items()
    }
    claims += _claims(world, own, band)
    curves |= {f"{world}/{k}": own[k] for k in ("oracle", "network")}
    names = (
      "oracle",
      "network",
      "excess",
      *(f"{who}_variance" for who in ("oracle", "network")),
    )
    columns = {k: own[k].mean(0) for k in names}
    tables[_NOISE[world]] = harness.rows(
      context=np.arange(length + 1), **columns
    )
  return harness.Part(claims, curves, tables)


def plot(axes: Axes, curves: dict[str, np.ndarray], world: str) -> None:
  """Losses by length of the context."""
  for i, name in enumerate(("oracle", "network")):
    x = curves[f"{world}/{name}"]
    style = {"color": "k", "linestyle": "--"} if name == "oracle" else {}
    plotting.band(axes, np.arange(x.shape[1]), x, name, zorder=3 - i, **style)
  axes.set(xlabel="pairs in the context", ylabel="loss, nats")
  axes.set_title(_NOISE[world])
  axes.legend()
