# SPDX-License-Identifier: Apache-2.0
"""Distributional preference: one distribution of scores above another."""

import jax.numpy as jnp

from jaxalign import checks
from jaxalign.preference import pairs, pairwise

__all__ = ("aot_loss",)


def aot_loss(
  logps: pairs.PairLogps,
  *,
  beta: float = 0.1,
  label_smoothing: float = 0.0,
  paired: bool = True,
) -> pairs.PairLoss:
  """Alignment by optimal transport in one dimension: sorted scores.

  `-(1 - eps) log sigmoid(beta D) - eps log sigmoid(-beta D)`. Paired: `D =
  sort(log pi_w - log pi_l) - sort(log ref_w - log ref_l)`; unpaired: `D =
  sort(h_w) - sort(h_l)`, which does not look at who was compared with whom. A
  batch of one pair has the loss of `dpo_loss`.

  Couples the batch: neither `vmap` over pairs nor a mean over shards of a batch
  gives the same, unless scores are gathered.

  Args:
    logps: `PairLogps`, arrays `[B]`, the whole batch.
    beta: above 0, nats of reward per nat of log-ratio.
    label_smoothing: eps, in [0, 0.5).
    paired: whether scores are sorted by pair or by completion.

  Returns:
    `PairLoss`, arrays `[B]`: losses in the order of the quantiles of D, rewards
    `beta h` in that of the pairs.

  Raises:
    AssertionError: arrays are not `[B]`, or not floating point.
    ValueError: an option outside its range, or no reference.

  >>> x, zero = jnp.array([0., 1.]), jnp.zeros(2)
  >>> out = aot_loss(pairs.PairLogps(x, zero, x[::-1], zero))
  >>> print(f"{out.loss[0]:.4f} {out.loss[1]:.4f}")  # equally distributed
  0.6931 0.6931

  Reference:
    Distributional Preference Alignment of LLMs via Optimal Transport
    (2406.05882).
  """
  checks.check_positive(beta=beta)
  pairwise.check_share("label_smoothing", label_smoothing)
  policy_chosen, policy_rejected, ref_chosen, ref_rejected = pairs.read(
    "aot", logps, "ref_chosen", "ref_rejected"
  )
  checks.check_rank(1, policy_chosen=policy_chosen)
  chosen, rejected = policy_chosen - ref_chosen, policy_rejected - ref_rejected
  if paired:
    upper, lower = policy_chosen - policy_rejected, ref_chosen - ref_rejected
  else:
    upper, lower = chosen, rejected
  gap = jnp.sort(upper) - jnp.sort(lower)
  loss = pairwise.smoothed(beta * gap, label_smoothing)
  return pairs.output(loss, beta * chosen, beta * rejected)
