# SPDX-License-Identifier: Apache-2.0
"""BRAIn: distilling a posterior with a self-normalised baseline."""

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.divergences import categorical

__all__ = ("brain_loss",)


def brain_loss(
  logp: jax.Array, target_logp: jax.Array, behavior_logp: jax.Array
) -> jax.Array:
  """Matches the policy to a target on samples of a third law.

  `KL(A || B)` with `A = softmax(target - behavior)`, a constant, and
  `B = softmax(logp - behavior)` over the n samples of a prompt. The gradient
  is `-sum (A_i - B_i) grad logp_i`: B is a baseline, without which this would
  be importance-weighted distribution matching. It is 0 on any samples where the
  policy is proportional to the target. For n = 2, A = (1, 0) and samples of the
  reference it is `dpo_loss` with beta 1.

  Args:
    logp: `[..., n]`, the policy's log-probabilities; differentiated.
    target_logp: `[..., n]`, of the target, up to a constant: for
      Bradley-Terry rewards r at temperature g, `log ref + r/g`. -inf allowed.
    behavior_logp: `[..., n]`, of the law that the samples are from; finite.

  Returns:
    `[...]`, to be minimised, at least 0; +inf where the policy excludes a
    sample that the target has.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.

  >>> logp = jnp.log(jnp.array([.2, .3]))
  >>> print(f"{brain_loss(logp, logp + 1., jnp.zeros(2)):.4f}")
  0.0000

  Reference:
    BRAIn (2402.02479).
  """
  names = dict(logp=logp, target_logp=target_logp, behavior_logp=behavior_logp)
  checks.check_same_shape(**names)
  checks.check_float(**names)
  logp = numerics.as_float(logp)
  target, behavior = (
    jax.lax.stop_gradient(jnp.asarray(x, logp.dtype))
    for x in (target_logp, behavior_logp)
  )
  return categorical.kl(target - behavior, logp - behavior)
