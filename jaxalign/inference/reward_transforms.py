# SPDX-License-Identifier: Apache-2.0
"""Centred log-sigmoid transformation of rewards, and their conjunction.

`u = log sigmoid(r - r_ref)` is the log-probability that an answer is better
than a reference under the Bradley-Terry model. Sums of u over properties mean
"good in all of them".
"""

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = ("conjunction_log_policy", "lsc_combine", "lsc_transform")


def lsc_transform(rewards: jax.Array, r_ref: jax.Array) -> jax.Array:
  """`u = log sigmoid(r - r_ref) = -softplus(-(r - r_ref))`.

  Close to `r - r_ref` far below the reference and to 0 far above it;
  `du/dr = sigmoid(r_ref - r)`.

  Args:
    rewards: `[...]`, in the scale of Bradley-Terry log-odds.
    r_ref: `[...]`, the shape of `rewards`: the reference reward of each entry's
      prompt, such as a quantile of rewards of base samples, or the reward of a
      canned answer. -inf gives 0.

  Returns:
    `[...]`, nats, at most 0.

  Raises:
    AssertionError: shapes differ, or a type is not floating point.

  >>> one = jnp.array(1.)
  >>> print(f"{lsc_transform(one, one):.4f}")
  -0.6931

  Reference:
    Transforming and Combining Rewards for Aligning Large Language Models
    (2402.00742).
  """
  checks.check_same_shape(rewards=rewards, r_ref=r_ref)
  checks.check_float(rewards=rewards, r_ref=r_ref)
  return jax.nn.log_sigmoid(numerics.as_float(rewards) - r_ref)


def lsc_combine(
  rewards: jax.Array, r_ref: jax.Array, *, axis: int = -1
) -> jax.Array:
  """Sums transformed rewards over properties: the log of a conjunction.

  `u = sum_i log sigmoid(r_i - r_ref_i)`.

  Args:
    rewards: `[..., K]`, one per property.
    r_ref: `[..., K]`, the reference rewards.
    axis: the axis of the properties.

  Returns:
    `[...]`, nats, at most 0.

  Raises:
    AssertionError: shapes differ, or a type is not floating point.

  >>> print(f"{lsc_combine(jnp.zeros(2), jnp.zeros(2)):.4f}")
  -1.3863

  Reference:
    Transforming and Combining Rewards for Aligning Large Language Models
    (2402.00742).
  """
  return jnp.sum(lsc_transform(rewards, r_ref), axis)


def conjunction_log_policy(
  log_p: jax.Array,
  rewards: jax.Array,
  r_ref: jax.Array,
  *,
  gamma: float | jax.Array = 1.0,
) -> jax.Array:
  """The optimum of `E u - gamma KL(pi||p)`: the base given a conjunction.

  `pi = p prod_i sigmoid(r_i - r_ref_i)^(1/gamma) / Z`. At gamma = 1 it is the
  base given that every property, independently, is good.

  Args:
    log_p: `[..., V]`, log-probabilities of the base; -inf for no mass.
    rewards: `[..., K, V]`, of K properties.
    r_ref: `[..., K]`, their reference rewards.
    gamma: weight of the KL, a scalar above 0.

  Returns:
    `[..., V]`: log-probabilities, nats.

  Raises:
    AssertionError: shapes do not fit.
    ValueError: gamma not above 0.

  >>> log_p = jnp.log(jnp.array([.5, .5]))
  >>> r = jnp.array([[10., 2.], [-5., 2.]])
  >>> log_pi = conjunction_log_policy(log_p, r, jnp.zeros(2))
  >>> print(f"{jnp.exp(log_pi[1]):.3f}")
  0.991

  Reference:
    Transforming and Combining Rewards for Aligning Large Language Models
    (2402.00742).
  """
  checks.check_positive(gamma=gamma)
  checks.check_same_shape(log_p=log_p, rewards_of_one=rewards[..., 0, :])
  checks.check_same_shape(r_ref=r_ref, rewards_of_one=rewards[..., 0])
  checks.check_float(log_p=log_p, r_ref=r_ref)
  log_p = numerics.as_float(log_p)
  utility = lsc_combine(
    jnp.asarray(rewards, log_p.dtype),
    jnp.broadcast_to(jnp.asarray(r_ref, log_p.dtype)[..., None], rewards.shape),
    axis=-2,
  )
  return numerics.masked_log_softmax(
    log_p + utility / jnp.asarray(gamma, log_p.dtype)
  )
