# SPDX-License-Identifier: Apache-2.0
"""What training changes: step, parameters, the optimiser's state, and a key."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

__all__ = ("TrainState", "init_state")


class TrainState(NamedTuple):
  """All that a step reads and writes; frozen parameters live outside.

  Attributes:
    step: int32 scalar, updates done.
    params: tree of arrays.
    opt_state: the optimiser's state.
    key: typed key; it never changes, step s draws from `fold_in(key, s)`.
  """

  step: jax.Array
  params: chex.ArrayTree
  opt_state: Any
  key: jax.Array


def init_state(
  key: jax.Array,
  params: chex.ArrayTree,
  optimizer: optax.GradientTransformation,
) -> TrainState:
  """The state before the first step.

  Args:
    key: typed key, scalar; the source of all that training draws.
    params: tree of arrays of any shapes. A step made by `make_train_step`
      donates them: copy what must outlive it.
    optimizer: its state starts here.

  Returns:
    `TrainState` at step 0.

  Raises:
    ValueError: the key is not typed.

  >>> params = {"w": jnp.zeros(3)}
  >>> state = init_state(jax.random.key(0), params, optax.sgd(.1))
  >>> int(state.step), state.params["w"].shape
  (0, (3,))

  Reference:
    Optax documentation, Getting started.
  """
  if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    raise ValueError(f"key must be typed, was {key.dtype}: use jax.random.key")
  params = jax.tree.map(jnp.asarray, params)
  start = jnp.zeros((), jnp.int32)
  return TrainState(start, params, optimizer.init(params), key)
