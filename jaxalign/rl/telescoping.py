# SPDX-License-Identifier: Apache-2.0
"""Rewards of iterated improvement: each answer is paid for what it adds.

A policy that revises its own answer T times is rewarded at each iteration by
the gain over the answer before; the gains of a path add up to the last answer's
reward less the first one's, whatever stands between. Rewards of single steps
from a learned step-level reward model do not: these were found to score the
coherence of mathematical expressions, and removing the steps' natural-language
text changes their judgement little (2412.15904).
"""

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = ("iterated_rewards",)


def iterated_rewards(rewards: jax.Array) -> jax.Array:
  """The gain of each iteration over the one before.

  `g_t = R(y_t) - R(y_{t-1})`, so that `sum_t g_t = R(y_T) - R(y_0)`.

  Args:
    rewards: `[..., T + 1]`, R of the first answer y_0 and of T revisions.
      Constants: their gradient is stopped.

  Returns:
    `[..., T]`.

  Raises:
    AssertionError: rewards are not floating point.
    ValueError: rewards are a scalar.

  >>> print(iterated_rewards(jnp.array([.25, .75, .5])))
  [ 0.5  -0.25]

  Reference:
    Satori-SWE (2505.23604), EvoScale.
  """
  checks.check_float(rewards=rewards)
  if jnp.ndim(rewards) < 1:
    raise ValueError("rewards must be [..., T + 1], were a scalar")
  return jnp.diff(jax.lax.stop_gradient(numerics.as_float(rewards)), axis=-1)
