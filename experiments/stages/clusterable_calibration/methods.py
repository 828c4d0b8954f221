# SPDX-License-Identifier: Apache-2.0
"""Four ways to calibrate a sequence for groups, and what they miss."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.stages import online_rates
from jaxalign.learning import clusterable, online_calibration

METHODS = ("discriminant", "likelihood", "clusters", "global")
SCALES = (1.0, 2.0, 4.0)  # slopes of sigmoids, over a column's deviation


class Errors(NamedTuple):
  """What one run misses.

  Attributes:
    largest: `[4]`, the calibration error of each method: the largest over
      groups and cells. Likelihood groups for the method "likelihood",
      discriminant groups for the others.
    summed: `[4]`, its L1 version: cells summed.
    cover: `[2]`, the largest error over the whole cover of the first two.
  """

  largest: jax.Array
  summed: jax.Array
  cover: jax.Array


def half_lines(x: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
  """Both sides of thresholds `[D, V]` of every column: `[T, 2 D V]`."""
  above = x[:, :, None] > thresholds
  sides = np.concatenate([above, ~above], -1)
  return sides.reshape(len(x), -1).astype(np.float32)


def sigmoids(x: np.ndarray, shifts: np.ndarray, spread: np.ndarray):
  """Rising and falling sigmoids at shifts `[D, V]`: `[T, 6 D V]`.

  Args:
    x: `[T, D]`.
    shifts: `[D, V]`, where they are 1/2.
    spread: `[D]`, the unit of a column.
  """
  scaled = (x[:, :, None] - shifts) / spread[:, None]
  slopes = np.array([s * sign for s in SCALES for sign in (1, -1)])
  found = 1 / (1 + np.exp(-slopes * scaled[..., None]))
  return found.reshape(len(x), -1).astype(np.float32)


@functools.partial(jax.jit, static_argnames="m")
def simultaneous(key, cover, y, m):
  """Predictions `[T]` and sums of the cover's tests, for all its groups."""
  eta = jnp.float32(online_rates.eta(y.shape[0], m, cover.shape[1]))
  return online_calibration.online_calibrate(
    key, cover, y, m, eta, tests="cells"
  )


@functools.partial(jax.jit, static_argnames=("m", "num_clusters"))
def clusters_then_global(key, x, y, m, num_clusters):
  """Predictions `[T]` of cluster-then-predict and of one global calibrator."""
  rounds = y.shape[0]
  cluster_key, global_key = jax.random.split(key)
  clustered = clusterable.cluster_then_predict(
    cluster_key,
    x,
    y,
    m,
    jnp.float32(online_rates.eta(rounds, m, num_clusters)),
    num_clusters=num_clusters,
    num_warmup=max(num_clusters, math.ceil(rounds ** (2 / 3))),
  )
  plain = simultaneous(global_key, jnp.ones((rounds, 1), y.dtype), y, m)
  return clustered.predictions, plain.predictions


def run(key, x, y, covers, logdens, m: int, num_clusters: int) -> Errors:
  """All methods on one sequence.

  Args:
    key: of the forecasts.
    x: `[T, D]`, points.
    y: `[T]`, outcomes.
    covers: two arrays `[T, N]`, plausible groups of either kind.
    logdens: `[T, K]`, log-densities of the true components.
    m: intervals of the grid.
    num_clusters: K.
  """
  keys = jax.random.split(key, 3)
  first, second = (
    simultaneous(k, cover, y, m)
    for k, cover in zip(keys[:2], covers, strict=True)
  )
  rest = clusters_then_global(keys[2], x, y, m, num_clusters)
  member = clusterable.discriminant_groups(logdens)
  likely = clusterable.likelihood_groups(logdens)
  pairs = zip(
    (first.predictions, second.predictions, *rest),
    (member, likely, member, member),
    strict=True,
  )
  missed = jnp.abs(
    jnp.stack([clusterable.cell_sums(p, y, g, m) for p, g in pairs])
  )
  return Errors(
    largest=missed.max((1, 2)),
    summed=missed.sum(2).max(1),
    cover=jnp.stack([jnp.abs(f.sums).max() for f in (first, second)]),
  )
