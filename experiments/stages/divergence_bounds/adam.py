# SPDX-License-Identifier: Apache-2.0
"""The one optimiser of the critics and of the fits."""

from collections.abc import Callable

import jax
import optax


def minimise(
  loss: Callable[[jax.Array], jax.Array],
  params: jax.Array,
  *,
  rate: float,
  steps: int,
) -> jax.Array:
  """Parameters after Adam, its rate falling to 0 as a cosine.

  Args:
    loss: of the parameters.
    params: to start from.
    rate: of the first step.
    steps: of Adam.
  """
  optimiser = optax.adam(optax.cosine_decay_schedule(rate, steps))

  def step(carry, _):
    params, state = carry
    updates, state = optimiser.update(jax.grad(loss)(params), state)
    return (params + updates, state), None

  start = params, optimiser.init(params)
  (params, _), _ = jax.lax.scan(step, start, length=steps)
  return params
