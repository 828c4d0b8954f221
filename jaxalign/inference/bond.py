# SPDX-License-Identifier: Apache-2.0
"""Best-of-n distillation: targets, objectives and surrogates.

A base is log-probabilities `log_p [..., V]` (normalised here) with `rewards
[..., V]`; F_le(y) is the base probability of a reward at most r(y). Surrogates
take log-probabilities and rewards of samples; only their gradient with respect
to the policy's log-probabilities means something. `weight = 1` is variational
best-of-n.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxalign import checks, numerics
from jaxalign.divergences import categorical
from jaxalign.inference import _order, best_of_n

__all__ = (
  "QuantileReward",
  "bond_log_pmf",
  "bond_quantile_reward",
  "bond_surrogate",
  "jbond_anchor_update",
  "jbond_reward",
  "jbond_surrogate",
  "jeffreys_objective",
  "log_quantile",
)

Scalar = float | jax.Array


def _check_fraction(**values: Scalar) -> None:
  for name, value in values.items():
    if not isinstance(value, jax.core.Tracer) and not (
      np.all(np.asarray(value) >= 0) and np.all(np.asarray(value) <= 1)
    ):
      raise ValueError(f"{name} must be in [0, 1], was {value}")


# --- exact targets and objective ---------------------------------------------


def log_quantile(log_p: jax.Array, rewards: jax.Array) -> jax.Array:
  """`log F_le(y)`: the log-probability that a base draw is not better than y.

  Args:
    log_p: `[..., V]`, log-probabilities of the base.
    rewards: `[..., V]`.

  Returns:
    `[..., V]`, at most 0; -inf below every outcome that has mass.

  >>> log_p, r = jnp.log(jnp.array([.25, .75])), jnp.array([0., 1.])
  >>> print(jnp.round(jnp.exp(log_quantile(log_p, r)), 4))
  [0.25 1.  ]

  Reference:
    BOND: Aligning LLMs with Best-of-N Distillation (2407.14622).
  """
  log_p, rewards = _order.base_log_probs(log_p, rewards)
  order = _order.reward_order(log_p, rewards)
  return _order.neg_exp(order.log_neg_log_cdf)


def bond_log_pmf(
  log_p: jax.Array,
  rewards: jax.Array,
  n: Scalar | None = None,
  *,
  log_n: Scalar | None = None,
  keep_sum: bool = True,
) -> jax.Array:
  """The distillation target `p F_le^(n-1) sum_{i=1}^n (F_lt/F_le)^(i-1)`.

  With the sum, which lies in [1, n], this is best-of-n (`log_pmf`). Without it
  and normalised, it is the optimum of `E log F_le - KL(pi||p) / (n-1)`.

  Args:
    log_p: `[..., V]`, log-probabilities of the base; -inf for no mass.
    rewards: `[..., V]`.
    n: number of draws, a scalar of at least 1.
    log_n: its logarithm, instead of n.
    keep_sum: whether to keep the sum.

  Returns:
    `[..., V]`: log-probabilities, nats.

  Raises:
    ValueError: n below 1, not exactly one of n and log_n.

  >>> log_p, r = jnp.log(jnp.array([.25, .75])), jnp.array([0., 1.])
  >>> print(jnp.round(jnp.exp(bond_log_pmf(log_p, r, 2)), 4))
  [0.0625 0.9375]
  >>> print(jnp.round(jnp.exp(bond_log_pmf(log_p, r, 2, keep_sum=False)), 4))
  [0.0769 0.9231]

  Reference:
    BOND: Aligning LLMs with Best-of-N Distillation (2407.14622).
  """
  if keep_sum:
    return best_of_n.log_pmf(log_p, rewards, n, log_n=log_n)
  log_n = _order.log_count(n, log_n)
  log_p, rewards = _order.base_log_probs(log_p, rewards)
  order = _order.reward_order(log_p, rewards)
  log_n = jnp.asarray(log_n, log_p.dtype)
  log_rest = log_n + numerics.log1mexp(-log_n)  # log(n-1), -inf at n = 1
  live = log_p > -jnp.inf
  power = _order.neg_exp(log_rest + jnp.where(live, order.log_neg_log_cdf, 0))
  return numerics.masked_log_softmax(log_p + power)


def jeffreys_objective(
  log_policy: jax.Array, log_target: jax.Array, *, weight: Scalar = 0.5
) -> jax.Array:
  """`J_b = (1-b) KL(target||policy) + b KL(policy||target)`, exactly.

  Args:
    log_policy: `[..., V]`, logits of the policy.
    log_target: `[..., V]`, log-probabilities of the target, from
      `bond_log_pmf`.
    weight: b, a scalar in [0, 1]; 1 is variational best-of-n.

  Returns:
    `[...]`, nats; 0 at the target.

  Raises:
    ValueError: weight outside [0, 1].

  >>> target = jnp.log(jnp.array([.25, .75]))
  >>> print(f"{jeffreys_objective(jnp.zeros(2), target):.4f}")
  0.1373

  Reference:
    BOND: Aligning LLMs with Best-of-N Distillation (2407.14622);
    Variational Best-of-N Alignment (2407.06057), for weight 1.
  """
  _check_fraction(weight=weight)
  checks.check_same_shape(log_policy=log_policy, log_target=log_target)
  backward = categorical.kl(log_policy, log_target)
  forward = categorical.kl(log_target, log_policy)
  weight = jnp.asarray(weight, backward.dtype)
  # 0 times an infinite divergence is 0.
  backward = weight * jnp.where(weight == 0, 0, backward)
  return backward + (1 - weight) * jnp.where(weight == 1, 0, forward)


# --- Monte Carlo -------------------------------------------------------------


class QuantileReward(NamedTuple):
  """The estimated log-quantile, and where the clamp made it."""

  reward: jax.Array  # [...], nats, at most 0
  clamped: jax.Array  # [...], bool


def bond_quantile_reward(
  rewards: jax.Array, anchor_rewards: jax.Array, *, clamp: float
) -> QuantileReward:
  """`log max(F, clamp)` with F the share of anchor samples not better than y.

  Args:
    rewards: `[...]`, of the samples to be scored.
    anchor_rewards: `[..., K]`, of K draws from the base for each.
    clamp: least value of F, in [0, 1]; `1/(2K)` is a common choice and 0 is
      none, which gives -inf where every anchor is better.

  Returns:
    A `QuantileReward`.

  Raises:
    AssertionError: shapes differ but for the last axis.
    ValueError: clamp outside [0, 1].

  >>> anchors = jnp.array([0., 1., 2., 3.])
  >>> scored = bond_quantile_reward(jnp.array(1.), anchors, clamp=1/8)
  >>> print(f"{scored.reward:.4f}")
  -0.6931

  Reference:
    BOND: Aligning LLMs with Best-of-N Distillation (2407.14622).
  """
  _check_fraction(clamp=clamp)
  checks.check_float(rewards=rewards, anchor_rewards=anchor_rewards)
  rewards, anchors = jnp.asarray(rewards), jnp.asarray(anchor_rewards)
  checks.check_same_shape(rewards=rewards, one_anchor_each=anchors[..., 0])
  dtype = numerics.as_float(rewards).dtype
  share = jnp.mean(anchors <= rewards[..., None], -1, dtype=dtype)
  floor = jnp.asarray(clamp, dtype)
  return QuantileReward(jnp.log(jnp.maximum(share, floor)), share < floor)


def bond_surrogate(
  log_policy: jax.Array,
  log_ref: jax.Array,
  rewards: jax.Array,
  log_policy_best: jax.Array,
  n: Scalar | None = None,
  *,
  log_n: Scalar | None = None,
  weight: Scalar = 0.5,
) -> jax.Array:
  """Loss whose expected gradient is that of the Jeffreys objective.

  `-(1-b) log pi(y*) - b mean_i [A_i - mean_{j != i} A_j] log pi(y_i)` with
  `A = (n-1) R - log(pi/ref)` without gradient: score function with leave-one-
  out baseline. With `R = log F_le` the backward part is that of the target
  without its sum; with `R = log(target/ref)/(n-1)` that of best-of-n.

  Args:
    log_policy: `[..., K]`, log pi of K >= 2 samples of the policy.
    log_ref: `[..., K]`, log-probabilities of these under the base.
    rewards: `[..., K]`, R of these, from `bond_quantile_reward`.
    log_policy_best: `[...]`, log pi of the best of n samples of the base.
    n: number of draws, a scalar of at least 1.
    log_n: its logarithm, instead of n.
    weight: b, a scalar in [0, 1]; 1 is variational best-of-n.

  Returns:
    `[...]`: one loss per prompt.

  Raises:
    AssertionError: shapes differ.
    ValueError: K below 2, weight outside [0, 1], n below 1, not exactly one of
      n and log_n.

  >>> two = jnp.log(jnp.array([.5, .5]))
  >>> loss = bond_surrogate(two, two, jnp.array([-1., 0.]), two[0], 2)
  >>> print(f"{loss:.4f}")
  0.3466

  Reference:
    BOND: Aligning LLMs with Best-of-N Distillation (2407.14622).
  """
  _check_fraction(weight=weight)
  checks.check_same_shape(
    log_policy=log_policy, log_ref=log_ref, rewards=rewards
  )
  checks.check_float(log_policy=log_policy, log_policy_best=log_policy_best)
  count = log_policy.shape[-1]
  if count < 2:
    raise ValueError(f"a leave-one-out baseline needs 2 samples, had {count}")
  checks.check_same_shape(
    one_sample_each=log_policy[..., 0], log_policy_best=log_policy_best
  )
  log_policy = numerics.as_float(log_policy)
  log_n = jnp.asarray(_order.log_count(n, log_n), log_policy.dtype)
  score = jnp.expm1(log_n) * rewards - (log_policy - log_ref)
  # y - mean of the others = (y - mean of all) K / (K-1)
  advantage = (score - jnp.mean(score, -1, keepdims=True)) * count / (count - 1)
  advantage = jax.lax.stop_gradient(advantage)
  backward = -jnp.mean(advantage * log_policy, -1)
  weight = jnp.asarray(weight, log_policy.dtype)
  return weight * backward - (1 - weight) * numerics.as_float(log_policy_best)


# --- J-BOND ------------------------------------------------------------------


def jbond_reward(rewards: jax.Array, anchor_rewards: jax.Array) -> jax.Array:
  """`-log 16` where both anchor samples are better, else 0.

  Its mean over anchors, `-(1 - F_le)^2 log 16`, stands for `log F_le`, which it
  equals at `F_le = 1/2` and at 1.

  Args:
    rewards: `[...]`, of one policy sample per prompt.
    anchor_rewards: `[..., 2]`, of two anchor samples each.

  Returns:
    `[...]`, nats.

  Raises:
    AssertionError: shapes differ but for the last axis, which is 2.

  >>> print(f"{jbond_reward(jnp.array(0.), jnp.array([1., 2.])):.4f}")
  -2.7726

  Reference:
    BOND: Aligning LLMs with Best-of-N Distillation (2407.14622).
  """
  checks.check_float(rewards=rewards, anchor_rewards=anchor_rewards)
  rewards, anchors = jnp.asarray(rewards), jnp.asarray(anchor_rewards)
  checks.check_same_shape(
    rewards_of_two_anchors=jnp.stack([rewards, rewards], -1),
    anchor_rewards=anchors,
  )
  dtype = numerics.as_float(rewards).dtype
  penalty = jnp.asarray(-np.log(16), dtype)
  return jnp.where(rewards < jnp.min(anchors, -1), penalty, 0)


def jbond_surrogate(
  log_policy: jax.Array,
  log_anchor: jax.Array,
  rewards: jax.Array,
  log_policy_anchors: jax.Array,
  anchor_rewards: jax.Array,
  *,
  weight: Scalar = 0.5,
  gamma: Scalar = 0.0,
) -> jax.Array:
  """J-BOND's loss: distils best-of-2 of an anchor that moves.

  `-(1-b) log pi(y*) - (b R - gamma log(pi/anchor)(y)) log pi(y)` with y* the
  better of two anchor samples and `R = r_J(y) - log(pi/anchor)(y)`; the
  factors before `log pi(y)` carry no gradient. After each step the anchor
  follows by `jbond_anchor_update`.

  Args:
    log_policy: `[...]`, log pi of one policy sample y per prompt.
    log_anchor: `[...]`, the anchor's log-probability of y.
    rewards: `[...]`, of y.
    log_policy_anchors: `[..., 2]`, log pi of two anchor samples.
    anchor_rewards: `[..., 2]`, of these; of equal ones the first is better.
    weight: b, a scalar in [0, 1].
    gamma: weight of an additional `KL(policy||anchor)`, a scalar.

  Returns:
    `[...]`: one loss per prompt.

  Raises:
    AssertionError: shapes differ.
    ValueError: weight outside [0, 1].

  >>> half, anchors = jnp.log(jnp.array(.5)), jnp.log(jnp.array([.5, .25]))
  >>> r = jnp.array(1.)
  >>> loss = jbond_surrogate(half, half, r, anchors, jnp.array([0., 2.]))
  >>> print(f"{loss:.4f}")
  0.6931

  Reference:
    BOND: Aligning LLMs with Best-of-N Distillation (2407.14622).
  """
  _check_fraction(weight=weight)
  checks.check_same_shape(
    log_policy=log_policy, log_anchor=log_anchor, rewards=rewards
  )
  checks.check_same_shape(
    log_policy_anchors=log_policy_anchors, anchor_rewards=anchor_rewards
  )
  checks.check_float(log_policy=log_policy, log_anchor=log_anchor)
  log_policy = numerics.as_float(log_policy)
  log_ratio = jax.lax.stop_gradient(log_policy - log_anchor)
  reward = jbond_reward(rewards, anchor_rewards) - log_ratio
  better = jnp.argmax(anchor_rewards, -1, keepdims=True)
  log_best = jnp.take_along_axis(log_policy_anchors, better, -1)[..., 0]
  weight = jnp.asarray(weight, log_policy.dtype)
  gamma = jnp.asarray(gamma, log_policy.dtype)
  factor = weight * reward - gamma * log_ratio
  return -(1 - weight) * numerics.as_float(log_best) - factor * log_policy


def jbond_anchor_update(anchor: Any, params: Any, *, rate: float) -> Any:
  """Moves the anchor's parameters: `(1-eta) anchor + eta params`.

  Args:
    anchor: tree of arrays.
    params: tree of the same structure and shapes, of the policy.
    rate: eta, a scalar in [0, 1]; 1 replaces the anchor.

  Returns:
    The new anchor.

  Raises:
    ValueError: rate outside [0, 1].

  >>> print(jbond_anchor_update(jnp.zeros(2), jnp.ones(2), rate=.25))
  [0.25 0.25]

  Reference:
    BOND: Aligning LLMs with Best-of-N Distillation (2407.14622).
  """
  _check_fraction(rate=rate)
  return optax.incremental_update(params, anchor, rate)
