# SPDX-License-Identifier: Apache-2.0
"""Three stages of least squares in every order, the first to be forgotten."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness, plotting
from jaxalign.learning import unlearning_paths

DIMENSION, NUM_STAGES, ROWS = 20, 3, 5
RATE, STEPS = 0.01, 50
FORGET = 0  # the stage
ORDERS = np.array(list(itertools.permutations(range(NUM_STAGES))))
EXACT = 1e-11  # of 50 products of matrices, relative to their size
ZERO = 1e-12  # of sums of 20 products of size 1 to 10


class Task(NamedTuple):
  """Data of the stages; axis `[S]` stands in front.

  Attributes:
    start: `[d]`, weights before the first stage.
    features: `[stages, rows, d]`.
    targets: `[stages, rows]`.
  """

  start: np.ndarray
  features: np.ndarray
  targets: np.ndarray


class Found(NamedTuple):
  """What a task shows; axis `[S]` stands in front.

  Attributes:
    paths: `[orders, STEPS + 1, d]`, weights during ascent.
    retrained: `[orders, d]`, weights of the same order without the stage.
    errors: `[orders, STEPS + 1]`, half squared error of the forgotten stage.
    predicted: `[STEPS + 1, orders]`, distances from the first order's path.
    commutator: `[d]`, of one step each of the first two stages.
  """

  paths: jax.Array
  retrained: jax.Array
  errors: jax.Array
  predicted: jax.Array
  commutator: jax.Array


def tasks(rng: np.random.Generator, num_seeds: int) -> Task:
  """Draws the tasks of all seeds."""
  shape = num_seeds, NUM_STAGES, ROWS
  return Task(
    rng.normal(size=(num_seeds, DIMENSION)),
    rng.normal(size=(*shape, DIMENSION)),
    rng.normal(size=shape),
  )


def _loss(features: jax.Array, targets: jax.Array):
  return lambda w: jnp.sum((features @ w - targets) ** 2) / 2


def _measure(task: Task) -> Found:
  x, y = task.features[FORGET], task.targets[FORGET]

  def learn(order):
    weights = unlearning_paths.stagewise_least_squares(
      task.start, task.features[order], task.targets[order]
    )
    return weights[-1]

  learned = jax.vmap(learn)(ORDERS)
  path = jax.vmap(
    lambda w: unlearning_paths.least_squares_ascent(
      w, x, y, step_size=RATE, num_steps=STEPS
    )
  )(learned)
  paths = jnp.concatenate([learned[:, None], path], 1)
  kept = np.array([[i for i in order if i != FORGET] for order in ORDERS])
  predicted = jax.vmap(
    lambda t: jax.vmap(
      lambda d: unlearning_paths.linear_path_divergence(
        d, x, step_size=RATE, num_steps=t
      )
    )(learned - learned[0])
  )(jnp.arange(STEPS + 1))
  losses = [_loss(task.features[i], task.targets[i]) for i in (0, 1)]
  return Found(
    paths=paths,
    retrained=jax.vmap(learn)(kept),
    errors=jnp.sum((paths @ x.T - y) ** 2, -1) / 2,
    predicted=predicted,
    commutator=unlearning_paths.order_commutator(
      *losses, task.start, step_size=RATE
    ),
  )


measure = jax.jit(jax.vmap(_measure))


def _one_step_each(task: Task) -> np.ndarray:
  """Weights after a step on stages 0 and 1, less those of 1 and 0, `[S, d]`."""

  def walk(order):
    w = task.start
    for i in order:
      x, y = task.features[:, i], task.targets[:, i]
      error = np.einsum("snd,sd->sn", x, w) - y
      w = w - RATE * np.einsum("snd,sn->sd", x, error)
    return w

  return walk((0, 1)) - walk((1, 0))


def _claims(task: Task, found: Found, apart: np.ndarray) -> list:
  """Claims; `apart` are distances from the first path `[S, orders, T]`."""
  predicted = np.moveaxis(found.predicted, 1, 2)
  # Orders that differ in the place of the forgotten stage only: retraining
  # without it gives one and the same model.
  same = np.linalg.norm(found.retrained - found.retrained[:, :1], axis=-1)
  pairs = np.flatnonzero(same.max(0) < ZERO)[1:]
  off = np.linalg.norm(found.paths - found.retrained[:, :, None], axis=-1)
  worst = np.maximum(off[:, pairs], off[:, :1])
  last = ORDERS[:, -1] == FORGET
  drift = np.abs(found.paths - found.paths[:, :, :1])[:, last]
  return [
    harness.all_agree(
      "path_divergence",
      "distance of two orders during ascent is |(I + eta X^T X)^T D0|:"
      " largest relative difference",
      [apart[:, 1:] / predicted[:, 1:] - 1],
      tolerance=EXACT,
    ),
    harness.none_exceeds(
      "retraining",
      "half the distance of two orders with one retrained model, less the"
      " larger of theirs to it: largest",
      [apart[:, pairs] / 2 - worst],
      tolerance=ZERO,
    ),
    harness.Claim(
      "growth",
      "distances of two orders after ascent over those before: median",
      theory=1e5,
      measured=np.median(apart[:, 1:, -1] / apart[:, 1:, 0]),
      tolerance=0.0,
      relation=">=",
    ),
    harness.all_agree(
      "commutator",
      "one gradient step a stage: the order changes the weights by eta^2"
      " (H1 g0 - H0 g1), largest difference",
      [found.commutator - _one_step_each(task)],
      tolerance=ZERO,
    ),
    harness.all_agree(
      "recency",
      "the stage was learned last: weights that ascent moves, largest",
      # The rounding error of the fit is a start that ascent enlarges.
      [drift[:, :, 1]],
      tolerance=ZERO,
    ),
  ]


def linear(rng: np.random.Generator, *, num_seeds: int) -> harness.Part:
  """Claims on all orders of the stages.

  Args:
    rng: the source of the tasks.
    num_seeds: tasks.
  """
  task = tasks(rng, num_seeds)
  found = jax.tree.map(np.asarray, measure(task))
  apart = np.linalg.norm(found.paths - found.paths[:, :1], axis=-1)
  names = np.array(["".join("ABC"[i] for i in order) for order in ORDERS])
  off = np.linalg.norm(found.paths - found.retrained[:, :, None], axis=-1)
  rows = {
    "order": names,
    "distance before": np.median(apart[:, :, 0], 0),
    "distance after": np.median(apart[:, :, -1], 0),
    "retrained: before": np.median(off[:, :, 0], 0),
    "retrained: closest": np.median(off.min(-1), 0),
    "error on A, step 10": np.median(found.errors[:, :, 10], 0),
  }
  title = "A is forgotten: median distances from ABC and from what is retrained"
  curves = {"linear/steps": np.arange(STEPS + 1)}
  for i, name in enumerate(names):
    curves[f"linear/{name}/distance"] = apart[:, i]
    curves[f"linear/{name}/error"] = found.errors[:, i]
  return harness.Part(
    _claims(task, found, apart), curves, {title: harness.rows(**rows)}
  )


def _names(curves: dict[str, np.ndarray]) -> list[str]:
  return [k.split("/")[1] for k in curves if k.endswith("/error")]


def plot_distances(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Of models, from that of the first order."""
  steps = curves["linear/steps"]
  for i, name in enumerate(_names(curves)[1:], 1):
    distance = np.median(curves[f"linear/{name}/distance"], 0)
    axes.plot(steps, distance, color=f"C{i}", label=name)
  plotting.log_scale(axes, "y")
  axes.set(
    xlabel="step of ascent on A",
    ylabel="distance from order ABC, median",
    title="orders drift apart",
  )
  axes.legend()


def plot_forgetting(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Errors on the forgotten stage."""
  steps = curves["linear/steps"]
  for i, name in enumerate(_names(curves)):
    error = np.median(curves[f"linear/{name}/error"], 0)
    axes.plot(steps, np.maximum(error, 1e-32), color=f"C{i}", label=name)
  plotting.log_scale(axes, "y")
  axes.set(
    xlabel="step of ascent on A",
    ylabel="error on A, median",
    title="what was learned last stays",
  )
  axes.legend()
