# SPDX-License-Identifier: Apache-2.0
"""Imitation as reward learning: an f-divergence and a KL, in their dual."""

import jax

from jaxalign import checks, divergences, numerics

__all__ = ("fsft_loss",)


def fsft_loss(
  div: divergences.FDivergence,
  h: jax.Array,
  value: jax.Array,
  *,
  beta: float = 0.1,
) -> jax.Array:
  """Loss of demonstrations whose minimum imitates in an f-divergence.

  `f*(-(beta h + V)) + V` with `h = log(pi/ref)`. The least expectation over
  demonstrations E, in the policy and in V, is minus the least
  `D_f(pi||E) + beta KL(pi||ref)`, and has the same policy: `beta h + V` is the
  learnt reward. Where f* is linear, as inside the domain of total variation, V
  cancels, and what is left is maximum likelihood. The loss is +inf outside the
  domain of f*: a line search must stay inside, for beyond a pole (squared
  Hellinger's, at 1/2) the formula of f* would go on with smaller values.

  The published objectives are not confirmed; this is the dual problem itself.

  Args:
    div: the divergence, an `FDivergence`.
    h: `[...]`, log-ratios of policy to reference of demonstrations;
      differentiated.
    value: `[...]`, V of their prompts, a parameter; differentiated.
    beta: above 0, weight of the KL.

  Returns:
    `[...]`, +inf where `-(beta h + V)` is above `div.conjugate_sup`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: beta not above 0.

  >>> import jax.numpy as jnp
  >>> div = divergences.f_divergence("total_variation")
  >>> print(fsft_loss(div, jnp.array([1., 9.]), jnp.zeros(2), beta=.25))
  [-0.25 -0.5 ]

  Reference:
    Implicit Reward as the Bridge (2507.00018); Rockafellar, Convex Analysis
    (1970), section 31, for the dual.
  """
  checks.check_positive(beta=beta)
  checks.check_same_shape(h=h, value=value)
  checks.check_float(h=h, value=value)
  h, value = numerics.as_float(h), numerics.as_float(value)
  return div.conjugate(-(beta * h + value)) + value
