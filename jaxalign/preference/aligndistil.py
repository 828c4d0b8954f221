# SPDX-License-Identifier: Apache-2.0
"""Token-level RLHF as distillation from what DPO has learnt.

At a prefix s the reward `beta1 log(p_d/ref)` of a DPO model with the penalty
`beta2 KL(pi||ref)` has the optimum `pi* ~ p_d^c ref^(1-c)`, `c = beta1/beta2`,
whose logits continue the line from the reference through the DPO model:

  beta1 E_pi log(p_d/ref) - beta2 KL(pi||ref)
    = -beta2 KL(pi||pi*) + beta2 log Z(s).

`log Z(s)` depends on the prefix, which the policy chooses: distilling every
token maximises each token's own reward, and the sequence's only for c 0 or 1,
where Z is 1.
"""

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.preference import tdpo

__all__ = ("aligndistil_loss",)

_FLOOR = 1e-3  # of the teacher's weight, which divides the loss


def aligndistil_loss(
  logits: jax.Array,
  dpo_logits: jax.Array,
  reverse_logits: jax.Array,
  *,
  where: jax.Array,
  beta: float = 0.1,
  beta2: float = 15.0,
) -> jax.Array:
  """Distils a teacher beyond a DPO model, further where it has learnt more.

  The mean over tokens of `(beta / w_t) KL(pi || softmax(z_d + w_t (z_d -
  z_r)))`, `w_t = beta2 sum_v |p_d - p_r| + .001`, with z_d the logits of a DPO
  model and z_r those of one trained on exchanged pairs.

  Args:
    logits: `[..., T, V]`, the student's; differentiated.
    dpo_logits: `[..., T, V]`, constants; -inf for no mass.
    reverse_logits: `[..., T, V]`, constants, finite where `dpo_logits` are.
    where: bool `[..., T]`, tokens of the completion; anything may stand
      elsewhere.
    beta: above 0.
    beta2: above 0: 15 on the student's own completions, 10 on given ones.

  Returns:
    `[...]`, nats; 0 for an empty completion, +inf where the student has mass
    that the DPO model lacks.

  Raises:
    AssertionError: shapes differ, or logits are not floating point.
    ValueError: an option not above 0.

  >>> logits, where = jnp.log(jnp.array([[.5, .5]])), jnp.array([True])
  >>> loss = aligndistil_loss(logits, logits, logits, where=where)
  >>> print(f"{loss:.1f}")
  0.0

  Reference:
    AlignDistil: Token-Level Language Model Alignment as Adaptive Policy
    Distillation (2503.02832); constants are those of the authors' program.
  """
  checks.check_positive(beta=beta, beta2=beta2)
  checks.check_same_shape(
    logits=logits, dpo_logits=dpo_logits, reverse_logits=reverse_logits
  )
  checks.check_float(
    logits=logits, dpo_logits=dpo_logits, reverse_logits=reverse_logits
  )
  checks.check_same_shape(positions=logits[..., 0], where=where)
  student, dpo, reverse = (
    numerics.as_float(jnp.where(where[..., None], x, 0))
    for x in (logits, dpo_logits, reverse_logits)
  )
  teacher, weight = _teacher(dpo, reverse, beta2)
  drift = tdpo.token_kl(student, teacher)
  return numerics.masked_mean(beta / weight * drift, where, -1)


def _teacher(
  dpo: jax.Array, reverse: jax.Array, beta2: float
) -> tuple[jax.Array, jax.Array]:
  """The teacher's logits `[..., T, V]` and weights `[..., T]`, constants."""
  dpo, reverse = jax.lax.stop_gradient((dpo, reverse))
  apart = jnp.abs(jax.nn.softmax(dpo) - jax.nn.softmax(reverse))
  weight = beta2 * jnp.sum(apart, -1) + _FLOOR
  beyond = dpo + weight[..., None] * (dpo - reverse)
  return jnp.where(dpo > -jnp.inf, beyond, -jnp.inf), weight
