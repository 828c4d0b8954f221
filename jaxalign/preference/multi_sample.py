# SPDX-License-Identifier: Apache-2.0
"""Losses that compare groups of completions rather than single ones.

`h = log(pi/ref)`, arrays `[..., k]`: the k completions of a group last.
"""

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.preference import pairs

__all__ = ("mdpo_loss", "mipo_loss")


def _read(
  h_chosen: jax.Array, h_rejected: jax.Array
) -> tuple[jax.Array, jax.Array]:
  checks.check_same_shape(h_chosen=h_chosen, h_rejected=h_rejected)
  checks.check_float(h_chosen=h_chosen, h_rejected=h_rejected)
  if not jnp.ndim(h_chosen) or not h_chosen.shape[-1]:
    raise ValueError("a group needs at least one completion: [..., k]")
  return numerics.as_float(h_chosen), numerics.as_float(h_rejected)


def mdpo_loss(
  h_chosen: jax.Array, h_rejected: jax.Array, *, beta: float = 0.1
) -> pairs.PairLoss:
  """DPO between groups: of the means of their log-ratios.

  `-log sigmoid(beta (mean h_w - mean h_l))`; k = 1 is `dpo_loss`. For groups of
  independent draws from p+ and from p- the minimiser is
  `ref (p+/p-)^(k/beta)`: k times as sharp as that of single draws. The loss of
  means over few draws is above that of expectations: it is biased. The
  published constants are not confirmed; this is the form with plain means.

  Args:
    h_chosen: `[..., k]`, `log(pi/ref)` of the preferred group; differentiated.
    h_rejected: `[..., k]`, of the other; differentiated.
    beta: above 0, nats of reward per nat of log-ratio.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `beta` times the means.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: beta not above 0, or an empty group.

  >>> h_chosen, h_rejected = jnp.array([1., 3.]), jnp.array([2., 0.])
  >>> print(f"{mdpo_loss(h_chosen, h_rejected, beta=1.).loss:.4f}")
  0.3133

  Reference:
    Preference Optimization with Multi-Sample Comparisons (2410.12138).
  """
  checks.check_positive(beta=beta)
  h_chosen, h_rejected = _read(h_chosen, h_rejected)
  chosen, rejected = (beta * jnp.mean(h, -1) for h in (h_chosen, h_rejected))
  return pairs.output(-jax.nn.log_sigmoid(chosen - rejected), chosen, rejected)


def mipo_loss(
  h_chosen: jax.Array, h_rejected: jax.Array, *, tau: float = 0.1
) -> pairs.PairLoss:
  """IPO between groups, unbiased for that of expected log-ratios.

  `(mean h_w - mean h_l - 1/(2 tau))^2 - (var h_w + var h_l)/k` with sample
  variances (divisor k - 1): its expectation over groups of independent draws
  is `(E h_w - E h_l - 1/(2 tau))^2`. Without the variances `(Var h_w +
  Var h_l)/k` would be added to it. It may be negative, and it determines no
  more than the gap of the two expectations. The published constants are not
  confirmed; this is the form that is unbiased.

  Args:
    h_chosen: `[..., k]`, `log(pi/ref)` of the preferred group, finite;
      differentiated. k at least 2.
    h_rejected: `[..., k]`, of the other; likewise.
    tau: above 0; the gap aimed at is `1/(2 tau)` nats.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `tau` times the means.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: tau not above 0, or k below 2.

  >>> h_chosen, h_rejected = jnp.array([1., 3.]), jnp.array([1., 1.])
  >>> print(mipo_loss(h_chosen, h_rejected, tau=.5).loss)
  -1.0

  Reference:
    Preference Optimization with Multi-Sample Comparisons (2410.12138).
  """
  checks.check_positive(tau=tau)
  h_chosen, h_rejected = _read(h_chosen, h_rejected)
  k = h_chosen.shape[-1]
  if k < 2:
    raise ValueError(
      f"mipo needs groups of at least 2, for their variance, was {k}: take"
      " ipo_loss"
    )
  chosen, rejected = jnp.mean(h_chosen, -1), jnp.mean(h_rejected, -1)
  noise = jnp.var(h_chosen, -1, ddof=1) + jnp.var(h_rejected, -1, ddof=1)
  loss = (chosen - rejected - 1 / (2 * tau)) ** 2 - noise / k
  return pairs.output(loss, tau * chosen, tau * rejected)
