# SPDX-License-Identifier: Apache-2.0
"""Pairs read token by token: how much each token of a completion counts.

Longer completions have larger log-ratios, and DPO learns length from it. The
functions here weight tokens or pairs; what they return goes into any loss of
pairs. Weights of tokens are one set for policy and reference.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.preference import pairs

__all__ = ("TokenLogps", "ld_logps", "sampo_logratio", "wpo_weights")


class TokenLogps(NamedTuple):
  """Log-probabilities, in nats, of each token of the completions of pairs.

  Attributes:
    policy_chosen: `[..., T]`, the policy's, of the preferred completion;
      differentiated.
    policy_rejected: `[..., S]`, of the other; differentiated.
    ref_chosen: `[..., T]`, the reference's; constants.
    ref_rejected: `[..., S]`, likewise.
    where_chosen: bool `[..., T]`, tokens of the completion; anything may stand
      elsewhere.
    where_rejected: bool `[..., S]`, likewise.
  """

  policy_chosen: jax.Array
  policy_rejected: jax.Array
  ref_chosen: jax.Array
  ref_rejected: jax.Array
  where_chosen: jax.Array
  where_rejected: jax.Array


def _check(logps: TokenLogps) -> None:
  for side in ("chosen", "rejected"):
    arrays = {
      f"{name}_{side}": getattr(logps, f"{name}_{side}")
      for name in ("policy", "ref", "where")
    }
    checks.check_same_shape(**arrays)
    del arrays[f"where_{side}"]
    checks.check_float(**arrays)
  checks.check_same_shape(
    chosen=logps.where_chosen[..., 0], rejected=logps.where_rejected[..., 0]
  )


def _shorter(logps: TokenLogps) -> jax.Array:
  """The length `[..., 1]` of the shorter completion of each pair."""
  return jnp.minimum(
    jnp.sum(logps.where_chosen, -1, keepdims=True),
    jnp.sum(logps.where_rejected, -1, keepdims=True),
  )


def _weighted_sums(
  logps: TokenLogps, chosen: jax.Array, rejected: jax.Array
) -> pairs.PairLogps:
  """Sums with the weights of tokens, `[..., T]` and `[..., S]`; 0 is none."""

  def total(x, weights):
    x = numerics.as_float(x)
    kept = jnp.where(weights != 0, x, 0)  # no 0 * inf
    return jnp.sum(weights.astype(x.dtype) * kept, -1)

  return pairs.PairLogps(
    total(logps.policy_chosen, chosen),
    total(logps.policy_rejected, rejected),
    total(logps.ref_chosen, chosen),
    total(logps.ref_rejected, rejected),
    jnp.sum(chosen, -1),
    jnp.sum(rejected, -1),
  )


def _drawn(
  uniforms: jax.Array, where: jax.Array, count: jax.Array
) -> jax.Array:
  """Marks the `count` `[..., 1]` largest of the selected entries `[..., T]`."""
  size = where.shape[-1]
  order = jax.lax.top_k(jnp.where(where, uniforms, -1), size)[1]
  first = jnp.broadcast_to(jnp.arange(size) < count, where.shape)
  marked = jnp.zeros(where.shape, bool)
  return jnp.put_along_axis(marked, order, first, -1, inplace=False)


def sampo_logratio(key: jax.Array, logps: TokenLogps) -> pairs.PairLogps:
  """SamPO: as many tokens of the longer completion as the shorter one has.

  Of both completions `m = min(len_w, len_l)` positions are drawn uniformly
  without replacement, and sums run over them: in expectation `m / len` times
  the whole sum. Pairs of equal length are left as they are. Policy and
  reference share the draw. With one draw for each, the difference of the two
  sums has the deviation `sqrt(m (1 - m/len) (S_pi^2 + S_ref^2))`, S those of
  the log-probabilities, instead of that of the log-ratios (n - 1 in all).

  Args:
    key: a typed key, for all pairs.
    logps: `TokenLogps`, arrays `[..., T]` and `[..., S]`.

  Returns:
    `PairLogps`, arrays `[...]`, for any loss of pairs; lengths are m. A pair
    with an empty completion has sums 0: log-ratios 0 and no gradient.

  Raises:
    AssertionError: shapes differ, or log-probabilities are not floating point.

  >>> where = jnp.arange(4) < 4, jnp.arange(4) < 2
  >>> logps = TokenLogps(*[-jnp.ones(4)] * 4, *where)
  >>> out = sampo_logratio(jax.random.key(0), logps)
  >>> print(out.policy_chosen, out.policy_rejected)
  -2.0 -2.0

  Reference:
    Eliminating Biased Length Reliance of DPO via Down-Sampled KL Divergence
    (2406.10957). The authors' program draws anew for policy and
    reference; here they share the draw.
  """
  _check(logps)
  count = _shorter(logps)
  masks = (logps.where_chosen, logps.where_rejected)
  keeps = (
    _drawn(jax.random.uniform(k, where.shape), where, count)
    for k, where in zip(jax.random.split(key), masks, strict=True)
  )
  return _weighted_sums(logps, *keeps)


def ld_logps(logps: TokenLogps, *, ld_alpha: float) -> pairs.PairLogps:
  """LD-DPO: tokens beyond the shorter completion's length count less.

  `sum_{t <= m} log p_t + ld_alpha sum_{t > m} log p_t`, `m = min(len_w,
  len_l)`, for policy and reference; t counts the tokens of the completion.

  Args:
    logps: `TokenLogps`, arrays `[..., T]` and `[..., S]`.
    ld_alpha: in [0, 1]; 1 is the whole sum, 0 truncates.

  Returns:
    `PairLogps`, arrays `[...]`, for any loss of pairs; lengths are the sums of
    the weights. An empty completion has sum 0, and the other one's tokens then
    all count `ld_alpha`.

  Raises:
    AssertionError: shapes differ, or log-probabilities are not floating point.
    ValueError: ld_alpha is outside [0, 1].

  >>> where = jnp.arange(4) < 4, jnp.arange(4) < 2
  >>> logps = TokenLogps(*[-jnp.ones(4)] * 4, *where)
  >>> print(ld_logps(logps, ld_alpha=.5).policy_chosen)
  -3.0

  Reference:
    Length Desensitization in Direct Preference Optimization (2409.06411).
  """
  if not 0 <= ld_alpha <= 1:
    raise ValueError(f"ld_alpha must be in [0, 1], was {ld_alpha}")
  _check(logps)
  count = _shorter(logps)
  dtype = numerics.as_float(logps.policy_chosen).dtype

  def weights(where):
    beyond = jnp.where(jnp.cumsum(where, -1) <= count, 1, ld_alpha)
    return jnp.where(where, beyond, 0).astype(dtype)

  return _weighted_sums(
    logps, weights(logps.where_chosen), weights(logps.where_rejected)
  )


def _log_weight(
  logits: jax.Array, tokens: jax.Array, where: jax.Array
) -> jax.Array:
  """Mean over tokens of `log pi(y) - log sum_v pi(v)^2`, `[...]`."""
  checks.check_same_shape(positions=logits[..., 0], tokens=tokens, where=where)
  checks.check_float(logits=logits)
  logits = numerics.as_float(jnp.where(where[..., None], logits, 0))
  logits = jax.lax.stop_gradient(logits)
  ids = jnp.where(where, tokens, 0)[..., None]
  highest = jnp.max(logits, -1)
  picked = jnp.take_along_axis(logits, ids, -1)[..., 0] - highest
  mass = jnp.exp(logits - highest[..., None])  # both sums from one exponential
  total, squares = jnp.sum(mass, -1), jnp.sum(mass**2, -1)
  log_weight = picked + jnp.log(total) - jnp.log(squares)
  return numerics.masked_mean(log_weight, where, -1)


def wpo_weights(
  chosen_logits: jax.Array,
  chosen_tokens: jax.Array,
  rejected_logits: jax.Array,
  rejected_tokens: jax.Array,
  *,
  where_chosen: jax.Array,
  where_rejected: jax.Array,
  clip_max: float | None = None,
) -> jax.Array:
  """WPO: what a pair counts for, by how likely the policy writes it.

  `w_w w_l` with `log w = (1/len) sum_t [log pi(y_t) - log sum_v pi(v)^2]`.
  Multiply the losses of pairs by it. A token that the policy draws itself has
  `E w = 1`. Logits stand at the token that they predict.

  Args:
    chosen_logits: `[..., T, V]`, the policy's.
    chosen_tokens: int `[..., T]`.
    rejected_logits: `[..., S, V]`.
    rejected_tokens: int `[..., S]`.
    where_chosen: bool `[..., T]`, tokens of the completion; anything may stand
      elsewhere.
    where_rejected: bool `[..., S]`, likewise.
    clip_max: upper limit of the product, above 0; none by default.

  Returns:
    `[...]`, at least 0, without gradient. An empty completion has weight 1.

  Raises:
    AssertionError: shapes do not fit, or logits are not floating point.
    ValueError: clip_max is not above 0.

  >>> logits, where = jnp.zeros((2, 3)), jnp.array([True, True])
  >>> tokens = jnp.array([0, 1])
  >>> print(wpo_weights(
  ...   logits, tokens, logits, tokens, where_chosen=where,
  ...   where_rejected=where).round(3))
  1.0

  Reference:
    WPO: Enhancing RLHF with Weighted Preference Optimization (2406.11827),
    sampled alignment.
  """
  if clip_max is not None:
    checks.check_positive(clip_max=clip_max)
  chosen = _log_weight(chosen_logits, chosen_tokens, where_chosen)
  rejected = _log_weight(rejected_logits, rejected_tokens, where_rejected)
  checks.check_same_shape(chosen=chosen, rejected=rejected)
  limit = math.inf if clip_max is None else clip_max
  return jnp.minimum(jnp.exp(chosen + rejected), limit)
