# SPDX-License-Identifier: Apache-2.0
"""Advantages of sampled completions, from their rewards.

A batch holds groups: G completions of each of N prompts, one after the other,
so that `rewards [..., N G]` are `[..., N, G]` in row-major order. All here is
batch-level: the last axis (with tokens, the last two) is the batch. Rewards are
constants; so are the results, whose gradient is 0.

With the estimator `1/G sum_i A_i grad log pi(y_i)`, leaving one out gives the
policy gradient in expectation, subtracting the mean gives `(G - 1)/G` of it,
and dividing by a group's deviation gives another direction altogether.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics

__all__ = (
  "BASELINES",
  "SCALES",
  "best_of_group_rewards",
  "binary_group_slope",
  "check_rewards",
  "gdpo_advantages",
  "group_advantages",
  "opo_advantages",
  "reinforce_pp_advantages",
  "remax_advantages",
)

BASELINES = ("mean", "loo", "none")
SCALES = ("group", "batch", "none")


# --- groups ------------------------------------------------------------------


def check_rewards(rewards: np.ndarray, *, num_generations: int) -> None:
  """Raises unless rewards are finite and fill their groups. Host side only.

  One NaN reward makes every advantage of its group NaN, and then every
  parameter.

  Args:
    rewards: `[B]`.
    num_generations: G, completions of each prompt.

  Raises:
    ValueError: G does not divide B.
    InputError: a reward is NaN or infinite; names prompt and completion.

  Returns:
    Nothing.

  >>> try:
  ...   check_rewards(np.array([0., 1., np.nan, 0.]), num_generations=2)
  ... except ValueError as error: print(error)
  rewards must be finite: completion 0 of prompt 1 has nan (1 of 4 are not)

  Reference:
    None: a guard.
  """
  rewards = np.asarray(rewards)
  _check_groups(rewards, num_generations)
  bad = np.flatnonzero(~np.isfinite(rewards))
  if len(bad):
    prompt, completion = divmod(int(bad[0]), num_generations)
    raise checks.InputError(
      f"rewards must be finite: completion {completion} of prompt {prompt} has"
      f" {rewards[bad[0]]} ({len(bad)} of {rewards.size} are not)"
    )


def _check_groups(rewards, num_generations: int) -> None:
  if np.ndim(rewards) < 1:
    raise ValueError("rewards need a batch axis, were a scalar")
  size = np.shape(rewards)[-1]
  if num_generations < 1 or size % num_generations:
    raise ValueError(
      f"num_generations must divide the batch: {num_generations} generations,"
      f" {size} rewards"
    )


def split_groups(rewards: jax.Array, num_generations: int) -> jax.Array:
  """`[..., N G]` as `[..., N, G]`: constants, floats, of checked size."""
  _check_groups(rewards, num_generations)
  rewards = jax.lax.stop_gradient(numerics.as_float(rewards))
  return rewards.reshape(*rewards.shape[:-1], -1, num_generations)


def _deviation(x: jax.Array, ddof: int, axis) -> jax.Array:
  return jnp.std(x, axis, ddof=ddof, keepdims=True)


def _over(x: jax.Array, deviation: jax.Array, spread, eps: float) -> jax.Array:
  """`x / (deviation + eps)`, 0 where nothing differs, whatever eps is."""
  return jnp.where(spread, x / jnp.where(spread, deviation + eps, 1), 0)


def _differs(x: jax.Array, axis) -> jax.Array:
  # Not `deviation > 0`: equal rewards may differ from their mean by rounding.
  return jnp.max(x, axis, keepdims=True) > jnp.min(x, axis, keepdims=True)


def group_advantages(
  rewards: jax.Array,
  *,
  num_generations: int,
  baseline: str = "mean",
  scale: str = "group",
  ddof: int = 1,
  eps: float = 1e-4,
) -> jax.Array:
  """Rewards relative to those of the same prompt.

  `A = (R - baseline) / (deviation + eps)`. Baselines: the group's mean, or that
  of the others, `G/(G-1) (R - mean)` (0 for G = 1). Scales: the deviation of
  the group's rewards, or of the batch's, or 1. A group of equal rewards has
  advantages 0.

  GRPO and DAPO: mean, group. RLOO: loo, none. Dr. GRPO: mean, none. Lite-PPO:
  mean, batch.

  Args:
    rewards: `[..., B]`, finite.
    num_generations: G; must divide B.
    baseline: `"mean"`, `"loo"` or `"none"`.
    scale: `"group"`, `"batch"` or `"none"`.
    ddof: of the deviation: 1 divides by the number less one, 0 by the number.
    eps: added to the deviation; 0 is allowed.

  Returns:
    `[..., B]`.

  Raises:
    ValueError: an unknown option, G does not divide B, or too few rewards for
      the deviation.

  >>> rewards = jnp.array([1., 0., 1., 1.])
  >>> print(group_advantages(
  ...   rewards, num_generations=2, baseline="loo", scale="none"))
  [ 1. -1.  0.  0.]

  Reference:
    DeepSeekMath (2402.03300); Back to Basics (2402.14740); Understanding
    R1-Zero-Like Training (2503.20783); Tricks or Traps (2508.08221).
  """
  checks.check_choice("baseline", baseline, BASELINES)
  checks.check_choice("scale", scale, SCALES)
  groups = split_groups(rewards, num_generations)
  samples = {"group": num_generations, "batch": rewards.shape[-1]}.get(scale)
  if samples is not None and samples <= ddof:
    raise ValueError(
      f"scale={scale!r} with ddof={ddof} needs more than {ddof} rewards in a"
      f" {scale}, there is {samples}: take scale='none'"
    )
  centred = groups
  if baseline != "none":
    centred = groups - jnp.mean(groups, -1, keepdims=True)
    centred = jnp.where(_differs(groups, -1), centred, 0)
  if baseline == "loo":
    centred *= num_generations / max(num_generations - 1, 1)
  if scale != "none":
    axis = -1 if scale == "group" else (-2, -1)
    deviation = _deviation(groups, ddof, axis)
    centred = _over(centred, deviation, _differs(groups, axis), eps)
  return centred.reshape(rewards.shape)


def binary_group_slope(
  success: jax.Array, *, num_generations: int, ddof: int = 0
) -> jax.Array:
  """How much dividing by the deviation speeds up a prompt of binary reward.

  With advantages `(R - mean) / deviation` the expected estimator is
  `c_G(p) grad p`, and

    c_G(p) = 1/(p(1-p)) sum_{K=1}^{G-1} Binom(K; G, p) v_K / s_K,

  `v_K = K/G (1 - K/G)`, `s_K^2 = v_K G/(G - ddof)`. It tends to
  `1/sqrt(p(1-p))`, the derivative of `2 arcsin sqrt p`: hard and easy prompts
  count more. For two completions and ddof 0 it is 1, whatever p is.

  Args:
    success: p, `[...]`, in (0, 1).
    num_generations: G, above `ddof`.
    ddof: of the deviation.

  Returns:
    `[...]`.

  Raises:
    ValueError: G is not above ddof.

  >>> print(f"{binary_group_slope(jnp.float32(.25), num_generations=4):.4f}")
  1.6450

  Reference:
    DeepSeekMath (2402.03300) for the advantage; the sum is its expectation.
  """
  if num_generations <= ddof:
    raise ValueError(
      f"num_generations must be above ddof={ddof}, was {num_generations}"
    )
  p = numerics.as_float(success)[..., None]
  right = jnp.arange(1, num_generations, dtype=p.dtype)
  share = right / num_generations
  spread = jnp.sqrt(share * (1 - share) * (1 - ddof / num_generations))
  ways = [math.comb(num_generations, k) for k in range(1, num_generations)]
  log_ways = jnp.asarray([math.log(n) for n in ways], p.dtype)
  log_pmf = right * jnp.log(p) + (num_generations - right) * jnp.log1p(-p)
  total = jnp.sum(jnp.exp(log_ways + log_pmf) * spread, -1)
  return total / (p * (1 - p))[..., 0]


# --- other baselines and rewards ---------------------------------------------


def gdpo_advantages(
  rewards: jax.Array,
  weights: jax.Array,
  *,
  num_generations: int,
  ddof: int = 1,
  eps: float = 1e-4,
) -> jax.Array:
  """Several rewards, each normalised in its group before they are added.

  `(S - mean S) / (deviation S + eps)` over the batch, with
  `S = sum_k w_k (R_k - mean_k) / (deviation_k + eps)` by group: rewards of
  different spread keep their weights, which normalising the sum loses.

  Args:
    rewards: `[..., B, K]`, finite.
    weights: `[K]`.
    num_generations: G; must divide B.
    ddof: of all deviations.
    eps: added to all deviations.

  Returns:
    `[..., B]`.

  Raises:
    AssertionError: not one weight for each reward.
    ValueError: G does not divide B, or too few rewards for the deviation.

  >>> rewards = jnp.array([[1., 0.], [0., 100.]])
  >>> print(gdpo_advantages(rewards, jnp.array([2., 1.]), num_generations=2,
  ...   ddof=0, eps=0.))
  [ 1. -1.]

  Reference:
    GDPO (2601.05242).
  """
  checks.check_rank(1, weights=weights)
  checks.check_same_shape(weights=weights, one_sample=rewards[..., 0, :])
  each = jnp.stack(
    [
      group_advantages(
        rewards[..., k], num_generations=num_generations, ddof=ddof, eps=eps
      )
      for k in range(rewards.shape[-1])
    ],
    -1,
  )
  total = each @ jax.lax.stop_gradient(weights.astype(each.dtype))
  centred = total - jnp.mean(total, -1, keepdims=True)
  deviation = _deviation(total, ddof, -1)
  return _over(centred, deviation, _differs(total, -1), eps)


def opo_advantages(
  rewards: jax.Array, lengths: jax.Array, *, num_generations: int
) -> jax.Array:
  """The baseline of least variance if a score's square grows with length.

  `A = R - sum_i L_i R_i / sum_i L_i` over the group.

  Args:
    rewards: `[..., B]`, finite.
    lengths: `[..., B]`, tokens; a group without any keeps the plain mean.
    num_generations: G; must divide B.

  Returns:
    `[..., B]`.

  Raises:
    AssertionError: shapes differ.
    ValueError: G does not divide B.

  >>> print(opo_advantages(jnp.array([1., 0.]), jnp.array([3., 1.]),
  ...   num_generations=2))
  [ 0.25 -0.75]

  Reference:
    On-Policy RL with Optimal Reward Baseline (2505.23585).
  """
  checks.check_same_shape(rewards=rewards, lengths=lengths)
  groups = split_groups(rewards, num_generations)
  sizes = split_groups(lengths, num_generations).astype(groups.dtype)
  some = jnp.sum(sizes, -1, keepdims=True) > 0
  sizes = jnp.where(some, sizes, 1)
  mean = jnp.sum(sizes * groups, -1, keepdims=True)
  mean /= jnp.sum(sizes, -1, keepdims=True)
  return (groups - mean).reshape(rewards.shape)


def remax_advantages(
  rewards: jax.Array, greedy_rewards: jax.Array, *, num_generations: int = 1
) -> jax.Array:
  """The reward of the greedy completion as the baseline.

  `A = R - R(greedy)`.

  Args:
    rewards: `[..., B]`, finite.
    greedy_rewards: `[..., B / G]`, of each prompt's greedy completion.
    num_generations: G; must divide B.

  Returns:
    `[..., B]`.

  Raises:
    AssertionError: not one greedy reward for each prompt.
    ValueError: G does not divide B.

  >>> print(remax_advantages(jnp.array([1., 0.]), jnp.array([.25]),
  ...   num_generations=2))
  [ 0.75 -0.25]

  Reference:
    ReMax (2310.10505).
  """
  groups = split_groups(rewards, num_generations)
  checks.check_same_shape(greedy_rewards=greedy_rewards, prompts=groups[..., 0])
  base = jax.lax.stop_gradient(numerics.as_float(greedy_rewards))
  return (groups - base[..., None]).reshape(rewards.shape)


def best_of_group_rewards(
  rewards: jax.Array, *, num_generations: int
) -> jax.Array:
  """Only a group's best counts, by how far it is ahead.

  `R_max - R_second` for the best, 0 for the others: the policy gradient of the
  best of G in expectation. A tie for the best leaves all at 0.

  Args:
    rewards: `[..., B]`, finite.
    num_generations: G, at least 2; must divide B.

  Returns:
    `[..., B]`.

  Raises:
    ValueError: G does not divide B, or is 1.

  >>> print(best_of_group_rewards(jnp.array([1., 3., 2.]), num_generations=3))
  [0. 1. 0.]

  Reference:
    Optimizing Language Models for Inference Time Objectives (2503.19595).
  """
  if num_generations < 2:
    raise ValueError(f"num_generations must be above 1, was {num_generations}")
  groups = split_groups(rewards, num_generations)
  ordered = jnp.sort(groups, -1)
  lead = (ordered[..., -1] - ordered[..., -2])[..., None]
  best = groups == ordered[..., -1:]
  return jnp.where(best, lead, 0).reshape(rewards.shape)


def reinforce_pp_advantages(
  rewards: jax.Array,
  logp: jax.Array,
  ref_logp: jax.Array,
  *,
  where: jax.Array,
  beta: float,
  num_generations: int | None = None,
) -> jax.Array:
  """REINFORCE++: rewards to go with k1 inside, whitened over the batch.

  Token rewards are `-beta (log pi - log ref)_t`, and the completion's reward is
  added at its last token; their sums to go are whitened over all tokens,
  `(x - mean) / sqrt(variance + 1e-8)`.

  Args:
    rewards: `[..., B]`, finite.
    logp: `[..., B, T]`, of the policy that sampled.
    ref_logp: `[..., B, T]`.
    where: bool `[..., B, T]`, tokens of the completions.
    beta: of the divergence, at least 0.
    num_generations: G; if given, the group's mean is subtracted from rewards
      first (the variant "baseline").

  Returns:
    `[..., B, T]`, 0 where masked.

  Raises:
    AssertionError: shapes differ.
    ValueError: G does not divide B.

  >>> zeros = jnp.zeros((2, 1))
  >>> print(reinforce_pp_advantages(jnp.array([1., 0.]), zeros, zeros,
  ...   where=jnp.ones((2, 1), bool), beta=.1).round(3))
  [[ 1.]
   [-1.]]

  Reference:
    REINFORCE++ (2501.03262).
  """
  checks.check_same_shape(logp=logp, ref_logp=ref_logp, where=where)
  checks.check_same_shape(rewards=rewards, completions=logp[..., 0])
  logp, ref_logp, rewards = jax.lax.stop_gradient(
    tuple(numerics.as_float(x) for x in (logp, ref_logp, rewards))
  )
  if num_generations is not None:
    rewards = group_advantages(
      rewards, num_generations=num_generations, scale="none"
    )
  penalty = beta * (jnp.where(where, logp, 0) - jnp.where(where, ref_logp, 0))
  # Reward to go: the completion's reward reaches all of its tokens.
  to_go = rewards[..., None] - jax.lax.cumsum(
    penalty, penalty.ndim - 1, reverse=True
  )
  axes = (-2, -1)
  mean = numerics.masked_mean(to_go, where, axes)[..., None, None]
  variance = numerics.masked_var(to_go, where, axes)[..., None, None]
  return jnp.where(where, (to_go - mean) * jax.lax.rsqrt(variance + 1e-8), 0)
