# SPDX-License-Identifier: Apache-2.0
"""Linear regressions in a context: a network's mean and variance, and Bayes'.

A task has weights `w ~ N(0, s2 t2 I)` and noise of variance s2, which is the
same in all tasks (`known`) or `s2 ~ InvGamma(a, b)` (`learned`).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.stages import language_models
from jaxalign.learning import in_context

WORLDS = ("known", "learned")
DIMENSIONS, WIDTH, RATE = 2, 64, 5e-3
PRIOR_VARIANCE = 4.0
SHAPE, SCALE = 3, 0.5
# The mean of what is drawn where it varies.
NOISE_VARIANCE = SCALE / (SHAPE - 1)
NUM_TEST = 4096  # tasks


class Tasks(NamedTuple):
  """Regressions of N + 1 pairs; pair n is the query to those before it.

  Attributes:
    features: `[B, N + 1, D]`.
    targets: `[B, N + 1]`.
  """

  features: jax.Array
  targets: jax.Array


class Network(nn.Module):
  """A GRU reads pairs; from its state and a query come mean and variance."""

  @nn.compact
  def __call__(self, tasks: Tasks) -> in_context.Predictive:
    """Of each target given its features and all pairs before it."""
    pairs = jnp.concatenate([tasks.features, tasks.targets[..., None]], -1)
    # Not orthogonal, as is the default: several batches of QR decompositions in
    # one program can wait for each other for ever on a CPU of two cores.
    cell = nn.GRUCell(
      WIDTH, recurrent_kernel_init=nn.initializers.lecun_normal()
    )
    states = nn.RNN(cell)(pairs[:, :-1])
    nothing = jnp.zeros_like(states[:, :1])
    states = jnp.concatenate([nothing, states], 1)
    x = jnp.concatenate([states, tasks.features], -1)
    for _ in range(2):
      x = nn.gelu(nn.Dense(WIDTH)(x))
    mean, spread = jnp.moveaxis(nn.Dense(2)(x), -1, 0)
    return in_context.Predictive(mean, nn.softplus(spread))


def draw(key: jax.Array, learned: jax.Array, rows: int, length: int) -> Tasks:
  """Tasks of a world, with `length` pairs before the last query."""
  noise, weights, features, errors = jax.random.split(key, 4)
  single = jnp.float32
  # A gamma variable of whole shape is a sum of exponential ones, which take
  # far less compiling than rejection.
  gamma = jnp.sum(jax.random.exponential(noise, (rows, SHAPE), single), -1)
  spread = jnp.sqrt(
    jnp.where(learned, SCALE / gamma[:, None], NOISE_VARIANCE)
  ).astype(single)
  w = jax.random.normal(weights, (rows, DIMENSIONS), single)
  x = jax.random.normal(features, (rows, length + 1, DIMENSIONS), single)
  y = jnp.einsum("bnd,bd->bn", x, w * PRIOR_VARIANCE**0.5)
  y += jax.random.normal(errors, y.shape, single)
  return Tasks(x, spread * y)


@functools.partial(jax.jit, static_argnums=1)
def oracle(tasks: Tasks, world: str) -> in_context.Predictive:
  """Bayes' mean and variance of each target, `[..., N + 1]`."""
  size = tasks.targets.shape[-1]
  options = {"prior_variance": PRIOR_VARIANCE}
  if world == "learned":
    predictive = in_context.inverse_gamma_predictive
    options |= {"shape": SHAPE, "scale": SCALE}
  else:
    predictive = in_context.known_noise_predictive
    options["noise_variance"] = NOISE_VARIANCE
  # Each target is a query once, and then part of the context.
  features, targets = (
    jnp.broadcast_to(x[..., None, :, :], (*tasks.targets.shape, *x.shape[-2:]))
    for x in (tasks.features, tasks.targets[..., None])
  )
  return predictive(
    features,
    targets[..., 0],
    tasks.features,
    where=jnp.broadcast_to(
      jnp.tri(size, k=-1, dtype=bool), features.shape[:-1]
    ),
    **options,
  )


def _loss(params: Any, tasks: Tasks) -> jax.Array:
  found = Network().apply({"params": params}, tasks)
  return jnp.mean(in_context.gaussian_nll(*found, tasks.targets))


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
@functools.partial(jax.vmap, in_axes=(None, 0, None, None, None))
@functools.partial(jax.vmap, in_axes=(0, None, None, None, None))
def train(
  key: jax.Array, learned: jax.Array, length: int, rows: int, steps: int
) -> tuple[Tasks, in_context.Predictive]:
  """New tasks, and what a trained network predicts of them.

  Args:
    key: `[S]`.
    learned: bool `[2]`, of each world.
    length: N.
    rows: tasks of an update.
    steps: updates.

  Returns:
    Arrays `[2, S, B, N + 1]` (and D).
  """
  start, training, test = jax.random.split(key, 3)
  tasks = draw(test, learned, NUM_TEST, length)
  params = language_models.fit(
    training,
    _loss,
    Network().init(start, tasks)["params"],
    lambda key: draw(key, learned, rows, length),
    steps=steps,
    optimizer=language_models.cosine_adamw(RATE, steps, weight_decay=0.0),
  ).params
  return tasks, Network().apply({"params": params}, tasks)


@functools.partial(jax.jit, static_argnums=2)
def losses(
  tasks: Tasks, found: in_context.Predictive, world: str
) -> dict[str, jax.Array]:
  """Losses of networks and of Bayes' oracle on the same tasks.

  Args:
    tasks: arrays `[S, B, N + 1]` (and D).
    found: what the networks predict, `[S, B, N + 1]`.
    world: one of `WORLDS`.

  Returns:
    Arrays `[S, N + 1]` by length of the context: `oracle`, `network` mean
    losses; `excess` and its `error`, mean difference and standard error;
    `oracle_variance`, `network_variance`, the mean predicted variances.
  """
  best = oracle(tasks, world)
  ours, least = (
    in_context.gaussian_nll(*x, tasks.targets) for x in (found, best)
  )
  means = {
    "oracle": least,
    "network": ours,
    "excess": ours - least,
    "oracle_variance": best.variance,
    "network_variance": found.variance,
  }
  error = jnp.std(ours - least, 1, ddof=1) / least.shape[1] ** 0.5
  return {k: jnp.mean(x, 1) for k, x in means.items()} | {"error": error}
