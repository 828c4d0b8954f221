# SPDX-License-Identifier: Apache-2.0
"""Embeddings that a transformer maps to given states."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.stages.elicit import forward
from jaxalign import models
from jaxalign.learning import continuation, surjectivity

# Attention's softmax is in float32, whose last digit is 6e-8: what is computed
# from it settles no lower. Relative to the size of the target.
_TOLERANCE = 1e-6


class Found(NamedTuple):
  """Inputs, sub-block by sub-block in the model's order.

  Attributes:
    states: `[2L + 1, T, width]`: the input of each sub-block, the embeddings
      first, and the target last. NaN where nothing was found.
    steps: int `[2L, T]`, along each path.
    folds: int `[2L, T]`, turns of each path.
    ok: bool `[2L, T]`.
    residual: `[2L, T]`, error of each sub-block alone.
  """

  states: np.ndarray
  steps: np.ndarray
  folds: np.ndarray
  ok: np.ndarray
  residual: np.ndarray


@functools.partial(jax.jit, static_argnames=("model", "options"))
def _invert(
  model: models.Transformer,
  params: Any,
  y: jax.Array,
  options: continuation.ContinuationOptions,
) -> surjectivity.CausalInverse:
  """The input of one sub-block, token by token."""
  cache = models.init_cache(model.config, batch_size=1, num_slots=len(y))

  def step(cache, x):
    out, cache = forward.extend(model, params, x, cache)
    return cache, out - x

  return surjectivity.causal_inverse(step, cache, y, options)


def invert(
  model: models.Transformer,
  params: Any,
  target: np.ndarray,
  *,
  max_steps: int,
  progress: bool = True,
) -> Found:
  """Inverts all sub-blocks, last first; ends where one cannot be inverted.

  Args:
    model: the transformer, causal.
    params: its parameters.
    target: `[T, width]`, states before the final norm.
    max_steps: of a path; it is given up after so many.
    progress: whether to show progress on a terminal.
  """
  single = forward.sub_block_model(model.config)
  # A power of ten, as every tolerance is a program of its own.
  size = 10.0 ** max(1, math.ceil(math.log10(np.abs(target).max() + 1)))
  options = continuation.ContinuationOptions(
    tolerance=_TOLERANCE * size, max_steps=max_steps, largest_step=size
  )
  num_layers = model.config.num_layers
  order = [
    (layer, kind) for layer in range(num_layers) for kind in forward.KINDS
  ]
  states, paths = [target], []
  for layer, kind in harness.track(
    order[::-1], "sub-blocks", progress=progress
  ):
    own = forward.sub_block_params(params, layer, kind)
    found = _invert(single, own, jnp.asarray(states[-1]), options)
    found = jax.tree.map(np.asarray, found)
    states.append(found.x)
    paths.append(found)
    if not found.ok.all():
      break
  missing = len(order) - len(paths)
  states += [np.full_like(target, np.nan)] * missing

  def stacked(name, empty):
    parts = [getattr(path, name) for path in paths]
    parts += [np.full(len(target), empty)] * missing
    return np.stack(parts[::-1])

  return Found(
    np.stack(states[::-1]),
    stacked("steps", 0),
    stacked("folds", 0),
    stacked("ok", False),
    stacked("residual", np.nan),
  )
