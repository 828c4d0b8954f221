# SPDX-License-Identifier: Apache-2.0
"""Losses that hold back the tokens which cost a policy most of its entropy.

To first order, entropy falls with the covariance of advantage and
log-probability; few tokens have most of it. Means are over all tokens that are
given, which makes these losses batch-level.
"""

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.rl import surrogates

__all__ = ("clip_cov_loss", "kl_cov_loss")


def _covariance(advantages, logp, where):
  """Each token's share of the covariance, over all tokens of the batch."""
  both = []
  for x in (advantages, jnp.where(where, logp, 0)):
    x = jax.lax.stop_gradient(x)
    both.append(x - numerics.masked_mean(x, where))
  return jnp.where(where, both[0] * both[1], 0)


def _first(priority: jax.Array, eligible: jax.Array, share, where) -> jax.Array:
  """The eligible tokens of highest priority: that share of all, at least 1."""
  count = jnp.maximum(jnp.floor(share * jnp.sum(where)), 1)
  flat = jnp.where(eligible, priority, -jnp.inf).ravel()
  rank = jnp.argsort(jnp.argsort(-flat))
  return (rank < count).reshape(where.shape) & eligible


def kl_cov_loss(
  log_ratio: jax.Array,
  advantages: jax.Array,
  logp: jax.Array,
  where: jax.Array,
  *,
  share: float = 2e-4,
  coefficient: float = 1.0,
) -> surrogates.TokenLoss:
  """KL-Cov: tokens that cost most entropy are held back.

  `-r A + c |lr|` on the share of tokens whose
  `(A - mean A)(log pi - mean log pi)` is largest, `-r A` on the others. Means
  are over all tokens that are given: a batch-level loss.

  Args:
    log_ratio: `[..., T]`, of tokens.
    advantages: `[..., T]`, constants.
    logp: `[..., T]`, the covariance's; a constant.
    where: bool `[..., T]`.
    share: of tokens, in (0, 1]; at least one token.
    coefficient: c, at least 0.

  Returns:
    `TokenLoss`; `clipped` marks the tokens that are held back.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: the share is not positive.

  >>> ratio, logp = jnp.zeros(3), jnp.array([-.1, -1., -4.])
  >>> A, where = jnp.array([0., 1., -1.]), jnp.ones(3, bool)
  >>> print(kl_cov_loss(ratio, A, logp, where, share=.4).clipped)
  [False False  True]

  Reference:
    The Entropy Mechanism of Reinforcement Learning (2505.22617), equation 13.
  """
  checks.check_positive(share=share)
  checks.check_same_shape(log_ratio=log_ratio, where=where)
  advantages, log_ratio, logp = surrogates.prepare(
    advantages, log_ratio=log_ratio, logp=logp
  )
  covariance = _covariance(advantages, logp, where)
  held = _first(covariance, where, share, where)
  penalty = jnp.where(held, coefficient * jnp.abs(log_ratio), 0)
  return surrogates.TokenLoss(
    -surrogates.exp_ratio(log_ratio, advantages) * advantages + penalty, held
  )


def clip_cov_loss(
  log_ratio: jax.Array,
  advantages: jax.Array,
  logp: jax.Array,
  where: jax.Array,
  key: jax.Array,
  *,
  share: float = 2e-4,
  min_cov: float = 1.0,
  max_cov: float = 5.0,
  eps_low: float = 0.2,
  eps_high: float = 0.2,
) -> surrogates.TokenLoss:
  """Clip-Cov: some tokens of high covariance are left out, at random.

  `clip_loss`, but 0 on a random choice of the tokens whose
  `(A - mean A)(log pi - mean log pi)` is within bounds. Means are over all
  tokens that are given: a batch-level loss.

  Args:
    log_ratio: `[..., T]`, of tokens.
    advantages: `[..., T]`, constants.
    logp: `[..., T]`, the covariance's; a constant.
    where: bool `[..., T]`.
    key: a typed key.
    share: of all tokens that may be left out, in (0, 1]; at least one.
    min_cov: the covariance must exceed it.
    max_cov: the covariance must be below it.
    eps_low: of the clip, above 0.
    eps_high: of the clip, above 0.

  Returns:
    `TokenLoss`; `clipped` also marks the tokens that are left out.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: the share is not positive.

  >>> ratio, logp = jnp.zeros(3), jnp.array([-.1, -1., -4.])
  >>> A, where = jnp.array([0., 1., -1.]), jnp.ones(3, bool)
  >>> print(clip_cov_loss(ratio, A, logp, where, jax.random.key(0)).loss)
  [-0. -1.  0.]

  Reference:
    The Entropy Mechanism of Reinforcement Learning (2505.22617), equation 11.
  """
  checks.check_positive(share=share)
  checks.check_same_shape(log_ratio=log_ratio, where=where, logp=logp)
  token = surrogates.clip_loss(
    log_ratio, advantages, eps_low=eps_low, eps_high=eps_high
  )
  advantages, logp = numerics.as_float(advantages), numerics.as_float(logp)
  covariance = _covariance(advantages, logp, where)
  eligible = (covariance > min_cov) & (covariance < max_cov) & where
  left_out = _first(
    jax.random.uniform(key, where.shape), eligible, share, where
  )
  loss = jnp.where(left_out, 0, token.loss)
  return surrogates.TokenLoss(loss, token.clipped | left_out)
