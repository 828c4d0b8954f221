# SPDX-License-Identifier: Apache-2.0
"""Where an estimate of KL(policy||ref) is put decides what its gradient is.

In expectation over the policy's samples, with log-probabilities of whole
sequences, the gradient of

- k1 in the reward is that of KL(policy||ref);
- k1 in the loss is 0: variance and nothing else;
- k2 in the loss is that of KL(policy||ref);
- k3 in the loss is that of KL(ref||policy), the forward divergence;
- k3 in the loss, times a ratio that is differentiated, is that of
  KL(policy||ref).

Of tokens, the terms in the loss have these gradients for the divergences at the
prefixes that the policy visits, and leave out that it visits others as it
moves. k1 in the reward leaves nothing out.
"""

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.divergences import kl_estimators

__all__ = ("KL_TERMS", "kl_in_loss", "kl_in_reward", "reward_to_go")

KL_TERMS = ("k1", "k2", "k3", "ratio_k3")


def reward_to_go(rewards: jax.Array, *, where: jax.Array) -> jax.Array:
  """What is still to come: `sum_{s >= t} r_s`.

  Args:
    rewards: `[..., T]`.
    where: bool `[..., T]`; anything may stand elsewhere.

  Returns:
    `[..., T]`, 0 where masked.

  Raises:
    AssertionError: shapes differ.

  >>> print(reward_to_go(jnp.array([1., 2., 3.]), where=jnp.ones(3, bool)))
  [6. 5. 3.]

  Reference:
    Sutton et al., Policy Gradient Methods for Reinforcement Learning with
    Function Approximation (1999), theorem 1.
  """
  checks.check_same_shape(rewards=rewards, where=where)
  kept = jnp.where(where, numerics.as_float(rewards), 0)
  total = jax.lax.cumsum(kept, kept.ndim - 1, reverse=True)
  return jnp.where(where, total, 0)


def kl_in_reward(
  rewards: jax.Array,
  logp: jax.Array,
  ref_logp: jax.Array,
  *,
  where: jax.Array,
  beta: float,
) -> jax.Array:
  """Rewards of tokens: k1 at each, the completion's reward at its last.

  `r_t = -beta (log pi - log ref)_t + 1[t = last] R`. `reward_to_go` of it is an
  advantage whose policy gradient is that of `E R - beta KL(policy||ref)`.

  Args:
    rewards: `[...]`, of completions.
    logp: `[..., T]`, of the policy that sampled; a constant.
    ref_logp: `[..., T]`.
    where: bool `[..., T]`, tokens of the completion.
    beta: of the divergence, at least 0.

  Returns:
    `[..., T]`, constants; 0 where masked. A completion without tokens has no
    place for its reward.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.

  >>> logp, where = jnp.array([-1., -1., 0.]), jnp.array([True, True, False])
  >>> print(kl_in_reward(
  ...   jnp.float32(1.), logp, logp - 2, where=where, beta=.25))
  [-0.5  0.5  0. ]

  Reference:
    Ziegler et al., Fine-Tuning Language Models from Human Preferences
    (1909.08593), equation 2.
  """
  checks.check_same_shape(logp=logp, ref_logp=ref_logp, where=where)
  checks.check_float(logp=logp, ref_logp=ref_logp)
  checks.check_same_shape(**{"rewards": rewards, "logp[..., 0]": logp[..., 0]})
  rewards, logp, ref_logp = jax.lax.stop_gradient(
    tuple(numerics.as_float(x) for x in (rewards, logp, ref_logp))
  )
  k1 = jnp.where(where, logp, 0) - jnp.where(where, ref_logp, 0)
  later = jax.lax.cumsum(where.astype(jnp.int32), where.ndim - 1, reverse=True)
  last = where & (later == 1)
  return jnp.where(last, rewards[..., None], 0) - beta * k1


def kl_in_loss(
  logp: jax.Array,
  ref_logp: jax.Array,
  *,
  kind: str,
  where: jax.Array,
  old_logp: jax.Array | None = None,
) -> jax.Array:
  """A term of the loss for each token, or for each whole sequence.

  With `d = log pi - log ref`: k1 `d`, k2 `d^2 / 2`, k3 `e^-d - 1 + d`, and
  `ratio_k3`, `pi / old (e^-d - 1 + d)` with a ratio that is differentiated. See
  the module for their gradients: train with `k2` or `ratio_k3`; `k3` pulls
  towards the forward divergence, and `k1` nowhere.

  Args:
    logp: `[...]`, of tokens or of sequences, differentiated.
    ref_logp: `[...]`, constants.
    kind: one of `KL_TERMS`.
    where: bool `[...]`.
    old_logp: `[...]`, of the policy that sampled; of `ratio_k3` alone, and the
      policy itself by default.

  Returns:
    `[...]`, nats; 0 where masked.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: an unknown kind.

  >>> logp, where = jnp.array([-1.]), jnp.ones(1, bool)
  >>> print(kl_in_loss(logp, logp - 2, kind="k2", where=where))
  [2.]

  Reference:
    A Comedy of Estimators (2512.21852); DeepSeek-V3.2 (2512.02556), equation 7,
    for `ratio_k3`.
  """
  checks.check_choice("kind", kind, KL_TERMS)
  checks.check_same_shape(logp=logp, ref_logp=ref_logp, where=where)
  ref_logp = jax.lax.stop_gradient(ref_logp)
  if kind == "ratio_k3":
    return kl_estimators.kl_penalty_loss(
      logp, ref_logp, old_logp, estimator="k3", where=where
    )
  new, ref = (
    jnp.where(where, numerics.as_float(x), 0) for x in (logp, ref_logp)
  )
  return kl_estimators.kl_estimate(new - ref, kind=kind)
