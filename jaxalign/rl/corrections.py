# SPDX-License-Identifier: Apache-2.0
"""Weights for samples that another policy drew.

The engine that samples and the trainer that evaluates need not agree to the
last bit, nor be of one age. Sequence weights that are not truncated make any
on-policy estimator unbiased again; token weights do not, as they leave out how
likely the prefix was. All weights are constants.
"""

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.rl import surrogates

__all__ = ("masked_is_weights", "off_policy_mask", "truncated_is_weights")


def _weights(logp, sampler_logp, where, level) -> jax.Array:
  checks.check_choice("level", level, ("token", "sequence"))
  change = surrogates.log_ratio(logp, sampler_logp, where=where, level=level)
  return jnp.exp(jax.lax.stop_gradient(change))


def truncated_is_weights(
  logp: jax.Array,
  sampler_logp: jax.Array,
  *,
  where: jax.Array,
  level: str = "token",
  max_weight: float = 2.0,
) -> jax.Array:
  """Importance weights, cut off above.

  `min(exp(log pi - log sampler), C)` of each token, or of the whole completion.

  Args:
    logp: `[..., T]`, of the trainer's policy; a constant.
    sampler_logp: `[..., T]`, as the sampler reported them.
    where: bool `[..., T]`.
    level: `"token"` or `"sequence"`.
    max_weight: C, above 0; `math.inf` for no truncation.

  Returns:
    `[..., T]`, constants; 1 where masked. A completion's weight stands at each
    of its tokens.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: an unknown level, or C is not positive.

  >>> logp, where = jnp.log(jnp.array([.6, .5])), jnp.ones(2, bool)
  >>> print(truncated_is_weights(logp, jnp.log(jnp.full(2, .2)), where=where))
  [2. 2.]

  Reference:
    Yao et al., Your Efficient RL Framework Secretly Brings You Off-Policy RL
    Training (2025); Ionides, Truncated Importance Sampling (2008).
  """
  checks.check_positive(max_weight=max_weight)
  return jnp.minimum(_weights(logp, sampler_logp, where, level), max_weight)


def masked_is_weights(
  logp: jax.Array,
  sampler_logp: jax.Array,
  *,
  where: jax.Array,
  level: str = "sequence",
  min_weight: float = 0.0,
  max_weight: float = 3.0,
) -> jax.Array:
  """Importance weights, 0 outside a range.

  `w 1[min <= w <= max]` with `w = exp(log pi - log sampler)`.

  Args:
    logp: `[..., T]`, of the trainer's policy; a constant.
    sampler_logp: `[..., T]`, as the sampler reported them.
    where: bool `[..., T]`.
    level: `"token"` or `"sequence"`.
    min_weight: the smallest weight that is kept.
    max_weight: the largest weight that is kept, above `min_weight`.

  Returns:
    `[..., T]`, constants.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: an unknown level, or an empty range.

  >>> logp, where = jnp.log(jnp.array([.3, .8])), jnp.ones(2, bool)
  >>> weights = masked_is_weights(
  ...   logp, jnp.log(jnp.full(2, .2)), where=where, level="token")
  >>> print(weights.round(2))
  [1.5 0. ]

  Reference:
    Liu et al., When Speed Kills Stability: Demystifying RL Collapse from the
    Training-Inference Mismatch (2025).
  """
  if not 0 <= min_weight < max_weight:
    raise ValueError(
      f"need 0 <= min_weight < max_weight, were {min_weight} and {max_weight}"
    )
  weight = _weights(logp, sampler_logp, where, level)
  return jnp.where((weight >= min_weight) & (weight <= max_weight), weight, 0)


def off_policy_mask(
  logp: jax.Array,
  sampler_logp: jax.Array,
  advantages: jax.Array,
  *,
  where: jax.Array,
  delta: float = 0.5,
) -> jax.Array:
  """Keeps completions but for bad ones that the policy has left behind.

  A completion is dropped where `A < 0` and
  `mean_t (log sampler - log pi)_t > delta`: pushing it down further teaches
  nothing and moves the policy far.

  Args:
    logp: `[..., T]`; a constant.
    sampler_logp: `[..., T]`, of the policy that drew the samples.
    advantages: `[...]`, one for each completion.
    where: bool `[..., T]`.
    delta: nats a token.

  Returns:
    bool `[...]`, true for what is kept.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.

  >>> logp, where = jnp.array([[-3.], [-3.]]), jnp.ones((2, 1), bool)
  >>> A = jnp.array([1., -1.])
  >>> print(off_policy_mask(logp, logp + 1, A, where=where))
  [ True False]

  Reference:
    DeepSeek-V3.2 (2512.02556), off-policy sequence masking.
  """
  checks.check_same_shape(
    **{"advantages": advantages, "logp[..., 0]": logp[..., 0]}
  )
  change = surrogates.log_ratio(logp, sampler_logp, where=where, level="token")
  drift = numerics.masked_mean(-change, where, -1)
  return (advantages >= 0) | (drift <= delta)
