# SPDX-License-Identifier: Apache-2.0
"""Losses of the difference of a pair's two log-ratios.

With `h = log(pi/ref)` of a completion, `d = h_w - h_l` of the chosen and the
rejected one: every loss here is a function of d, or of nearly so. All of them
are invariant to a constant added to the policy's two scores.
"""

import jax
import jax.numpy as jnp

from jaxalign import checks
from jaxalign.preference import pairs

__all__ = ("dpo_loss", "hinge_loss")


def _check_share(name: str, value: float) -> None:
  if not 0 <= value < 0.5:
    raise ValueError(f"{name} must be in [0, 0.5), was {value}")


def _smoothed(x: jax.Array, eps: float) -> jax.Array:
  """`-(1 - eps) log sigmoid(x) - eps log sigmoid(-x)`, `[...]` like x."""
  loss = -jax.nn.log_sigmoid(x)
  if eps == 0:  # no 0 * inf
    return loss
  return (1 - eps) * loss - eps * jax.nn.log_sigmoid(-x)


def dpo_loss(
  logps: pairs.PairLogps, *, beta: float = 0.1, label_smoothing: float = 0.0
) -> pairs.PairLoss:
  """Direct preference optimisation.

  `-(1 - eps) log sigmoid(beta d) - eps log sigmoid(-beta d)`. With eps = 0 and
  Bradley-Terry labels of rewards r, the minimiser is `ref e^(r/beta)` whatever
  the sampling of pairs; eps > 0 (cDPO) assumes that labels are wrong at that
  rate, and keeps d finite where they never are.

  Args:
    logps: `PairLogps`, arrays `[...]`.
    beta: above 0, nats of reward per nat of log-ratio.
    label_smoothing: eps, in [0, 0.5).

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `beta h`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: an option outside its range, or no reference.

  >>> one = jnp.ones(1)
  >>> out = dpo_loss(pairs.PairLogps(-one, -2 * one, -one, -one), beta=1.)
  >>> print(f"{out.loss[0]:.4f} {out.rejected_reward[0]:.1f}")
  0.3133 -1.0

  Reference:
    Direct Preference Optimization (2305.18290), equation 7; cDPO: Mitchell, A
    Note on DPO with Noisy Preferences (2023).
  """
  checks.check_positive(beta=beta)
  _check_share("label_smoothing", label_smoothing)
  chosen, rejected = pairs.log_ratios("dpo", logps)
  loss = _smoothed(beta * (chosen - rejected), label_smoothing)
  return pairs.output(loss, beta * chosen, beta * rejected)


def hinge_loss(logps: pairs.PairLogps, *, beta: float = 0.1) -> pairs.PairLoss:
  """The hinge loss of SLiC and RSO, `max(0, 1 - beta d)`.

  Its minimiser in expectation is not unique.

  Args:
    logps: `PairLogps`, arrays `[...]`.
    beta: above 0, the inverse of the margin in nats of log-ratio.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `beta h`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: beta not above 0, or no reference.

  >>> one = jnp.ones(1)
  >>> out = hinge_loss(pairs.PairLogps(-one, -3 * one, -one, -one), beta=.25)
  >>> print(out.loss)
  [0.5]

  Reference:
    SLiC-HF (2305.10425), equation 1; RSO (2309.06657), equation 9.
  """
  checks.check_positive(beta=beta)
  chosen, rejected = pairs.log_ratios("hinge", logps)
  loss = jnp.maximum(0, 1 - beta * (chosen - rejected))
  return pairs.output(loss, beta * chosen, beta * rejected)
