# SPDX-License-Identifier: Apache-2.0
"""One step of training, made from a loss that returns sums and weights.

Sums join exactly where means do not: over microbatches, devices and processes
the loss is the sum of all sums over the sum of all weights.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxalign import checks, numerics
from jaxalign.training import mesh as meshes
from jaxalign.training.state import TrainState

__all__ = ("BatchLoss", "make_train_step", "name_nonfinite")


class BatchLoss(NamedTuple):
  """What a loss function returns of its rows.

  Attributes:
    loss_sum: scalar, to be divided by `weight`.
    weight: scalar that no parameter moves, such as a number of tokens.
    metrics: pairs (sum, weight) of scalars, by name.
  """

  loss_sum: jax.Array
  weight: jax.Array
  metrics: Mapping[str, tuple[jax.Array, jax.Array]]


LossFn = Callable[..., BatchLoss]
Metrics = dict[str, jax.Array]
Step = Callable[..., tuple[TrainState, Metrics]]

# The metrics that every step has.
_OWN = {"loss", "weight", "grad_norm", "nonfinite"}


def _ratio(total: jax.Array, weight: jax.Array) -> jax.Array:
  """`total / weight`, and 0 where there is no weight."""
  some = weight > 0
  return jnp.where(some, total, 0) / jnp.where(some, weight, 1)


def _sums_of(loss_fn: LossFn):
  """The function that has only sums as results, hence can be microbatched."""

  def sums(params, batch, rows, key, frozen):
    # The first row's number tells microbatches apart: their keys differ.
    key = jax.random.fold_in(key, rows[0])

    def total(params):
      loss_sum, weight, metrics = loss_fn(params, batch, key, *frozen)
      return loss_sum, (jax.lax.stop_gradient(weight), dict(metrics))

    value_and_grad = jax.value_and_grad(total, has_aux=True)
    (loss_sum, (weight, metrics)), gradient = value_and_grad(params)
    result = loss_sum, weight, metrics, gradient
    return jax.tree.map(numerics.as_float, result)

  return sums


def _batch_size(batch: chex.ArrayTree, num_microbatches: int) -> int:
  chex.assert_equal_shape_prefix(
    jax.tree.leaves(batch), 1, custom_message="all of a batch needs B rows"
  )
  size = jax.tree.leaves(batch)[0].shape[0]
  if size % num_microbatches:
    raise ValueError(
      f"num_microbatches {num_microbatches} must divide the batch of {size}"
    )
  return size


def _updated(
  optimizer: optax.GradientTransformation,
  state: TrainState,
  gradient: chex.ArrayTree,
  ok: jax.Array,
) -> TrainState:
  """The next state; unless ok, with parameters and optimiser as they were."""
  updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
  new = optax.apply_updates(state.params, updates), opt_state
  old = state.params, state.opt_state
  params, opt_state = jax.tree.map(lambda n, o: jnp.where(ok, n, o), new, old)
  return TrainState(state.step + 1, params, opt_state, state.key)


def _order(metrics: Iterable[str]) -> tuple[list[str], list[str]]:
  """The metrics that are looked at before and after the gradient.

  Causes come before what follows from them.
  """
  others = sorted(set(metrics) - _OWN)
  return ["loss", "weight", *others], ["grad_norm"]


def _first_nonfinite(metrics: Metrics, gradient: chex.ArrayTree) -> jax.Array:
  """0 where all is finite, else k for the k-th name of `name_nonfinite`."""
  before, after = _order(metrics)
  values = [metrics[name] for name in before]
  values += jax.tree.leaves(gradient)
  values += [metrics[name] for name in after]
  bad = jnp.stack([~jnp.all(jnp.isfinite(x)) for x in values])
  return jnp.where(jnp.any(bad), 1 + jnp.argmax(bad), 0).astype(jnp.int32)


def name_nonfinite(
  params: chex.ArrayTree, metrics: Mapping[str, Any]
) -> str | None:
  """Names what was not finite in a step, from its metrics.

  Args:
    params: the tree that was trained; only its names are used.
    metrics: of the step, scalars by name, no others.

  Returns:
    A metric's name or `gradient of PATH`; None if all was finite.

  >>> name_nonfinite({"w": 0.}, {"spread": 1., "nonfinite": 4})
  'gradient of w'

  Reference:
    The convention is the project's own.
  """
  number = int(metrics["nonfinite"])
  before, after = _order(metrics)
  gradients = [
    f"gradient of {jax.tree_util.keystr(path, simple=True, separator='/')}"
    for path, _ in jax.tree_util.tree_leaves_with_path(params)
  ]
  names = before + gradients + after
  return names[number - 1] if number else None


def make_train_step(
  loss_fn: LossFn,
  optimizer: optax.GradientTransformation,
  *,
  num_microbatches: int = 1,
  mesh: Mesh | None = None,
  rules: meshes.Rules = (),
) -> Step:
  """Makes the compiled function that does one update.

  The gradient is that of `sum loss_sum / sum weight` over all microbatches,
  devices and processes. Step s and microbatch m draw from
  `fold_in(fold_in(key, s), m)`. If the loss, a metric or a gradient is not
  finite, then parameters and optimiser stay as they were.

  Args:
    loss_fn: `loss_fn(params, batch, key, *frozen)` returns `BatchLoss`, of
      rows that no other rows influence if microbatches shall not matter.
    optimizer: what makes updates of gradients.
    num_microbatches: parts of the batch that are worked through one by one, to
      save memory.
    mesh: from `make_mesh`, if the state lies on one; batches are put there.
    rules: those by which the state lies there, see `param_shardings`.

  Returns:
    `step(state, batch, *frozen)`, which returns the new state and metrics:
    float scalars `loss`, `weight`, `grad_norm` and those of `loss_fn`, and
    `nonfinite`, for `name_nonfinite`. The old state is donated, hence gone.
    `frozen` are trees that are neither changed nor split, such as the
    parameters of a reference model.

  Raises:
    ValueError: `num_microbatches` does not divide the batch, or a metric is
      called like one of the step's own.
    InputError: the mesh does not divide it.

  >>> from jaxalign.training.state import init_state
  >>> def loss_fn(params, batch, key):
  ...   return BatchLoss(jnp.sum((params - batch)**2), batch.size, {})
  >>> state = init_state(jax.random.key(0), jnp.zeros(()), optax.sgd(.5))
  >>> step = make_train_step(loss_fn, optax.sgd(.5))
  >>> state, metrics = step(state, jnp.array([1., 3.]))
  >>> float(state.params), float(metrics["loss"])
  (2.0, 5.0)

  Reference:
    Optax documentation, Gradient accumulation.
  """
  checks.check_positive(num_microbatches=num_microbatches)
  sums = _sums_of(loss_fn)

  def update(state, batch, *frozen):
    size = _batch_size(batch, num_microbatches)
    # None is no loop. In a loop rows are dealt out in turn, which leaves each
    # on its device.
    part = size // num_microbatches if num_microbatches > 1 else None
    summed = optax.microbatching.microbatch(sums, (1, 2), part)
    key = jax.random.fold_in(state.key, state.step)
    rows = jnp.arange(size)
    loss_sum, weight, pairs, gradient = summed(
      state.params, batch, rows, key, frozen
    )
    gradient = jax.tree.map(
      lambda g, p: _ratio(g, weight).astype(p.dtype), gradient, state.params
    )
    if taken := sorted(_OWN & set(pairs)):
      raise ValueError(f"metric {taken[0]!r} is the step's own: rename it")
    metrics = {name: _ratio(*pair) for name, pair in pairs.items()}
    metrics |= {
      "loss": _ratio(loss_sum, weight),
      "weight": weight,
      "grad_norm": optax.global_norm(gradient),
    }
    nonfinite = _first_nonfinite(metrics, gradient)
    new = _updated(optimizer, state, gradient, nonfinite == 0)
    if mesh is not None:
      shardings = meshes.param_shardings(new, mesh, rules=rules)
      new = jax.lax.with_sharding_constraint(new, shardings)
    return new, metrics | {"nonfinite": nonfinite}

  compiled = jax.jit(update, donate_argnums=0)
  if mesh is None:
    return compiled

  def step(state, batch, *frozen):
    rows = meshes.shard_batch(batch, mesh, num_microbatches=num_microbatches)
    return compiled(state, rows, *frozen)

  return step
