# SPDX-License-Identifier: Apache-2.0
"""Log-linear policies over few actions, and descent on pairs of them.

`pi_a ~ exp(theta . phi_a)` starts at the uniform reference: what is learned of
some actions moves all that share their features, in the data or not.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxalign import preference


def log_policy(theta: jax.Array, features: jax.Array) -> jax.Array:
  """Log-probabilities `[K]` of features `[K, d]`."""
  return jax.nn.log_softmax(features @ theta)


def mean_loss(
  loss: Callable, theta: jax.Array, features: jax.Array, pairs: jax.Array
) -> jax.Array:
  """Mean of a pairwise loss over `pairs` int `[M, 2]`, chosen first."""
  log_pi = log_policy(theta, features)
  ref = jnp.full(len(pairs), -jnp.log(len(features)))
  logps = preference.PairLogps(*log_pi[pairs].T, ref, ref)
  return jnp.mean(loss(logps).loss)


def descend(
  loss: Callable,
  features: jax.Array,
  pairs: jax.Array,
  *,
  rate: float,
  updates: int,
) -> jax.Array:
  """Parameters `[updates + 1, d]` along plain gradient descent from 0."""
  slope = jax.grad(lambda x: mean_loss(loss, x, features, pairs))

  def step(theta, _):
    theta = theta - rate * slope(theta)
    return theta, theta

  start = jnp.zeros(features.shape[-1])
  _, path = jax.lax.scan(step, start, length=updates)
  return jnp.concatenate([start[None], path])
