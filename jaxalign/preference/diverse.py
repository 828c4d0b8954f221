# SPDX-License-Identifier: Apache-2.0
"""Preferences for what is unlike the rest: weights, and choices of pairs.

Groups are the N completions of one prompt, `[..., N]`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.preference import pairs, pairwise

__all__ = ("DivPOPair", "ddpo_loss", "deviation_weights", "divpo_select")


class DivPOPair(NamedTuple):
  """Which two completions of a group make a pair.

  Attributes:
    chosen: int `[...]`, in `[0, N)`.
    rejected: int `[...]`; another.
  """

  chosen: jax.Array
  rejected: jax.Array


def _deviations(embeddings: jax.Array) -> jax.Array:
  """Mean cosine distance to the others `[..., N]`, stretched to [0, 1]."""
  n = embeddings.shape[-2]
  norm = jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
  unit = jnp.where(norm > 0, embeddings / jnp.where(norm > 0, norm, 1), 0)
  others = jnp.sum(unit, -2, keepdims=True) - unit
  deviation = 1 - jnp.sum(unit * others, -1) / (n - 1)
  least = jnp.min(deviation, -1, keepdims=True)
  spread = jnp.max(deviation, -1, keepdims=True) - least
  # Equal deviations differ by rounding, which must not be stretched.
  differs = spread > n * jnp.finfo(deviation.dtype).eps
  scaled = (deviation - least) / jnp.where(differs, spread, 1)
  return jnp.where(differs, scaled, 0)


def deviation_weights(*embeddings: jax.Array) -> jax.Array:
  """How much each completion of a group deviates from the others.

  `d_i / mean_j d_j`, where `d_i` is the geometric mean over embeddings of the
  mean cosine distance to the N - 1 others, stretched linearly so that the
  group's least is 0 and its largest 1. Weights have mean 1, before winners are
  selected; the least deviant weighs 0. All are 1 where none deviates more than
  another, as in groups of one or two.

  Args:
    *embeddings: one or more `[..., N, D]`, for example of meaning and of
      style; D may differ. An embedding of zeros is at distance 1 of all.

  Returns:
    `[..., N]`, at least 0, without gradient.

  Raises:
    AssertionError: groups differ in shape, or a type is not floating point.
    ValueError: no embeddings.

  >>> print(deviation_weights(jnp.array([[1., 0.], [1., 0.], [0., 1.]])))
  [0. 0. 3.]

  Reference:
    Modifying LLM Post-Training for Diverse Creative Writing (2503.17126).
  """
  if not embeddings:
    raise ValueError("deviation_weights needs at least one embedding")
  named = {f"embeddings[{i}]": x for i, x in enumerate(embeddings)}
  checks.check_float(**named)
  groups = {f"{name}[..., 0]": x[..., 0] for name, x in named.items()}
  checks.check_same_shape(**groups)
  first = numerics.as_float(embeddings[0])
  if first.shape[-2] < 2:
    return jnp.ones(first.shape[:-1], first.dtype)
  product = 1.0
  for x in embeddings:
    constant = jax.lax.stop_gradient(jnp.asarray(x, first.dtype))
    product *= _deviations(constant)
  d = product ** (1 / len(embeddings))
  mean = jnp.mean(d, -1, keepdims=True)
  return jnp.where(mean > 0, d / jnp.where(mean > 0, mean, 1), 1)


def ddpo_loss(
  logps: pairs.PairLogps, weights: jax.Array, *, beta: float = 0.1
) -> pairs.PairLoss:
  """DPO in which deviant winners count more: `weight * dpo_loss`.

  With weights w of the chosen completion and Bradley-Terry labels of rewards r
  the minimiser is `ref (w e^r)^(1/beta)`: a reward of `r + log w`.

  Args:
    logps: `PairLogps`, arrays `[...]`.
    weights: `[...]`, at least 0, of the chosen completion among all of its
      prompt (see `deviation_weights`); constants. A pair of weight 0 counts
      for nothing, whatever its log-probabilities.
    beta: above 0, nats of reward per nat of log-ratio.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `beta h`, 0 at weight 0.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: beta not above 0, or no reference.

  >>> logps = pairs.PairLogps(*jnp.zeros((4, 2)))
  >>> light, heavy = ddpo_loss(logps, jnp.array([0., 2.])).loss
  >>> print(f"{light:.4f} {heavy:.4f}")
  0.0000 1.3863

  Reference:
    Modifying LLM Post-Training for Diverse Creative Writing (2503.17126).
  """
  checks.check_same_shape(policy_chosen=logps.policy_chosen, weights=weights)
  checks.check_float(weights=weights)
  live = jnp.asarray(weights) > 0
  logps = jax.tree.map(lambda x: jnp.where(live, x, 0), logps)
  out = pairwise.dpo_loss(logps, beta=beta)
  weights = jax.lax.stop_gradient(jnp.asarray(weights, out.loss.dtype))
  return out._replace(loss=jnp.where(live, weights * out.loss, 0))


def divpo_select(
  rewards: jax.Array, diversity: jax.Array, *, share: float = 0.25
) -> DivPOPair:
  """Pairs the most diverse of the good with the least diverse of the bad.

  Of the N completions of a prompt, the `max(1, floor(share N))` of largest
  reward are good, as many of least reward bad. Equal diversity is decided by
  the reward: the best and the worst; equal rewards by the index. The published
  threshold is not confirmed; this is a share of the ranks. Any pairwise loss
  may follow.

  Args:
    rewards: `[..., N]`, N at least 2.
    diversity: `[..., N]`, larger for what is rarer: minus a log-probability,
      the rarity of words, a distance between embeddings.
    share: in (0, .5], so that no completion is good and bad.

  Returns:
    `DivPOPair`, indices `[...]`, which differ.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: share outside its range, or fewer than two completions.

  >>> rewards = jnp.array([4., 3., 2., 1.])
  >>> print(*divpo_select(rewards, jnp.array([0., 5., 9., 1.]), share=.5))
  1 3

  Reference:
    Diverse Preference Optimization (2501.18101).
  """
  checks.check_same_shape(rewards=rewards, diversity=diversity)
  checks.check_float(rewards=rewards, diversity=diversity)
  if not 0 < share <= 0.5:
    raise ValueError(f"share must be in (0, 0.5], was {share}")
  n = rewards.shape[-1] if jnp.ndim(rewards) else 0
  if n < 2:
    raise ValueError(f"a pair needs at least two completions, was {n}")
  size = max(1, int(share * n + 1e-9))  # .3 * 10 may be below 3
  order = jnp.argsort(-jnp.asarray(rewards), axis=-1)  # stable
  good, bad = order[..., :size], order[..., ::-1][..., :size]

  def first_largest(scores, at):
    best = jnp.argmax(jnp.take_along_axis(scores, at, -1), -1)
    return jnp.take_along_axis(at, best[..., None], -1)[..., 0]

  diversity = jnp.asarray(diversity)
  return DivPOPair(
    first_largest(diversity, good), first_largest(-diversity, bad)
  )
