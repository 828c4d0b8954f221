# SPDX-License-Identifier: Apache-2.0
"""Pairs that the policy itself draws, labelled as they come.

Online DPO is `order_pairs`, then any pairwise loss. It has the same stationary
point as from fixed pairs: drawn from the policy and labelled by Bradley-Terry,
dpo rests at `ref e^(r/beta)`. Nash-MD, whose pairs come from a mixture with the
reference, is `social_choice.nash_md_pg_loss`. A reference that follows the
policy (TR-DPO) is `optax.incremental_update(params, ref_params, .6)` every 512
updates.
"""

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.preference import pairs, pairwise

__all__ = ("order_pairs", "xpo_loss")


def order_pairs(
  scores: jax.Array,
  policy_logps: jax.Array,
  ref_logps: jax.Array | None = None,
  lengths: jax.Array | None = None,
) -> pairs.PairLogps:
  """Pairs of two samples a prompt, the better one chosen, the first of equals.

  Args:
    scores: `[..., 2]`, rewards, or a judge's probabilities `(p, 1 - p)` that
      either is the better one. Only their order is read; free of NaN.
    policy_logps: `[..., 2]`, the policy's log-probabilities of the two samples;
      differentiated.
    ref_logps: `[..., 2]`, the reference's. None for losses without one.
    lengths: `[..., 2]`, numbers of tokens. None for losses of sums.

  Returns:
    `PairLogps`, arrays `[...]`.

  Raises:
    AssertionError: shapes differ, or log-probabilities are not floats.
    ValueError: the last axis does not have the two samples.

  >>> scores, logps = jnp.array([1., 3.]), jnp.array([-4., -5.])
  >>> print(order_pairs(scores, logps).policy_chosen)
  -5.0

  Reference:
    Direct Language Model Alignment from Online AI Feedback (2402.04792),
    algorithm 1.
  """
  given = {"ref_logps": ref_logps, "lengths": lengths}
  given = {name: x for name, x in given.items() if x is not None}
  checks.check_same_shape(scores=scores, policy_logps=policy_logps, **given)
  if jnp.shape(scores)[-1:] != (2,):
    raise ValueError(
      f"scores need two samples on the last axis, were {jnp.shape(scores)}"
    )
  first = scores[..., 0] >= scores[..., 1]

  def ordered(x):
    x = jnp.asarray(x)
    return (
      jnp.where(first, x[..., 0], x[..., 1]),
      jnp.where(first, x[..., 1], x[..., 0]),
    )

  nothing = None, None
  return pairs.PairLogps(
    *ordered(policy_logps),
    *(nothing if ref_logps is None else ordered(ref_logps)),
    *(nothing if lengths is None else ordered(lengths)),
  )


def xpo_loss(
  logps: pairs.PairLogps,
  ref_sample_logps: jax.Array,
  *,
  beta: float = 0.1,
  alpha: float = 1e-5,
) -> pairs.PairLoss:
  """Exploratory preference optimisation: dpo with a bonus for optimism.

  `-log sigmoid(beta d) + alpha log pi(y_ref)` with y_ref drawn from the
  reference: what the reference would say anyway loses mass, so that pairs drawn
  next show something else. In expectation it is unbounded below where alpha is
  too large for an outcome that pairs hardly ever show: all mass goes there.

  Args:
    logps: `PairLogps`, arrays `[...]`, of one sample of the policy and one of
      the reference, ordered by their labels (see `order_pairs`).
    ref_sample_logps: `[...]`, the policy's log-probability of the reference's
      sample; differentiated.
    beta: above 0, nats of reward per nat of log-ratio.
    alpha: at least 0; at 0 it is dpo.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `beta h`. The loss is -inf where the
    policy has lost the reference's sample and dpo is finite.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: an option outside its range, or no reference.

  >>> zero = jnp.zeros(1)
  >>> at_ref = pairs.PairLogps(zero, zero, zero, zero)
  >>> print(f"{xpo_loss(at_ref, zero - 1, alpha=.1).loss[0]:.4f}")
  0.5931

  Reference:
    Exploratory Preference Optimization (2405.21046), algorithm 1.
  """
  if not alpha >= 0:
    raise ValueError(f"alpha must be at least 0, was {alpha}")
  checks.check_same_shape(
    policy_chosen=logps.policy_chosen, ref_sample_logps=ref_sample_logps
  )
  checks.check_float(ref_sample_logps=ref_sample_logps)
  found = pairwise.dpo_loss(logps, beta=beta)
  if alpha == 0:  # no 0 * inf
    return found
  bonus = alpha * numerics.as_float(ref_sample_logps)
  return found._replace(loss=found.loss + bonus)
