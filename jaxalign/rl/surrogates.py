# SPDX-License-Identifier: Apache-2.0
"""Losses of tokens whose gradient is a policy gradient.

What is here takes a log-ratio and an advantage for each token `[..., T]` and
gives a loss for each token; `aggregation` averages, `algorithms` puts both
together. The level of the ratio is chosen before, by `log_ratio`: that of a
sequence stands at each of its tokens, so that one clipped loss serves token
level (PPO, GRPO), sequence level (RLOO) and length-normalised sequence level
(GSPO) alike.

Advantages and old log-probabilities are constants. Nothing is clamped but by
an argument. The value of `reinforce_loss`, `cispo_loss` and `vespo_loss` is no
objective: only their gradients compare.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = (
  "LEVELS",
  "TokenLoss",
  "cispo_loss",
  "clip_loss",
  "gmpo_loss",
  "gspo_token_loss",
  "log_ratio",
  "reinforce_loss",
  "sapo_loss",
  "vespo_loss",
)

LEVELS = ("token", "sequence", "sequence_mean", "sequence_mean_token")


class TokenLoss(NamedTuple):
  """A loss of each token, to be minimised.

  Attributes:
    loss: `[..., T]`.
    clipped: bool `[..., T]`, where the ratio has no gradient, for logging.
  """

  loss: jax.Array
  clipped: jax.Array


def log_ratio(
  logp: jax.Array,
  old_logp: jax.Array,
  *,
  where: jax.Array,
  level: str = "token",
) -> jax.Array:
  """How much likelier completions have become, at each of their tokens.

  With `lr_t = log pi_t - log old_t`, at the level of

  - a token, `lr_t`;
  - a sequence, `sum_t lr_t`: the true importance weight;
  - a sequence's mean, `sum_t lr_t / L`: of the geometric mean of ratios (GSPO);
  - a sequence's mean with a gradient of its own for each token, of value
    `sum_t lr_t / L` and gradient `grad lr_t` (GSPO-token).

  Args:
    logp: `[..., T]`, of the sampled tokens, differentiated.
    old_logp: `[..., T]`, of the same tokens; constants.
    where: bool `[..., T]`; anything may stand elsewhere.
    level: `"token"`, `"sequence"`, `"sequence_mean"` or
      `"sequence_mean_token"`.

  Returns:
    `[..., T]`, nats; 0 where masked. A sequence's value stands at each of its
    tokens.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: an unknown level.

  >>> logp = jnp.array([-1., -2., -3.])
  >>> where = jnp.array([True, True, False])
  >>> print(log_ratio(logp, logp - 1, where=where, level="sequence"))
  [2. 2. 0.]

  Reference:
    Group Sequence Policy Optimization (2507.18071), equations 6 and 14.
  """
  checks.check_choice("level", level, LEVELS)
  checks.check_same_shape(logp=logp, old_logp=old_logp, where=where)
  checks.check_float(logp=logp, old_logp=old_logp)
  new, old = (
    jnp.where(where, numerics.as_float(x), 0) for x in (logp, old_logp)
  )
  ratio = new - jax.lax.stop_gradient(old)
  if level == "token":
    return ratio
  total = jnp.sum(ratio, -1, keepdims=True)
  if level != "sequence":
    total /= jnp.maximum(jnp.sum(where, -1, keepdims=True), 1)
  if level == "sequence_mean_token":
    total = jax.lax.stop_gradient(total) + numerics.gradient_only(ratio)
  return jnp.where(where, total, 0)


def prepare(
  advantages: jax.Array, **arrays: jax.Array
) -> tuple[jax.Array, ...]:
  """Advantages, then arrays, all of one shape `[..., T]`, as floats.

  Advantages are constants from here on.
  """
  checks.check_same_shape(advantages=advantages, **arrays)
  checks.check_float(advantages=advantages, **arrays)
  fixed = jax.lax.stop_gradient(numerics.as_float(advantages))
  return fixed, *(numerics.as_float(x) for x in arrays.values())


def exp_ratio(x: jax.Array, advantages: jax.Array) -> jax.Array:
  """Ratios `[..., T]`; 1 where the advantage is 0: no inf meets a zero."""
  return jnp.exp(jnp.where(advantages != 0, x, 0))


def _nowhere(x: jax.Array) -> jax.Array:
  return jnp.zeros(x.shape, bool)


# --- ratios ------------------------------------------------------------------


def clip_loss(
  log_ratio: jax.Array,
  advantages: jax.Array,
  *,
  eps_low: float | jax.Array = 0.2,
  eps_high: float | jax.Array = 0.2,
  dual_clip: float | None = None,
  delta: float | None = None,
) -> TokenLoss:
  """PPO's pessimistic loss of clipped ratios.

  `-min(r A, clip(r, 1 - lo, 1 + hi) A)`. Where A < 0 it grows without bound in
  r; two remedies that agree where both bounds exceed `1 + hi`:

  - `dual_clip` c: `min(loss, -c A)` where A < 0;
  - `delta`: `-min(min(r, delta) A, clip(r) A)`.

  Args:
    log_ratio: `[..., T]`, of any level; `log r`.
    advantages: `[..., T]`, constants.
    eps_low: lo, above 0; scalar, or broadcastable to `[..., T]`.
    eps_high: hi, likewise.
    dual_clip: c, above 1.
    delta: above `1 + hi`.

  Returns:
    `TokenLoss`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: a bound outside its range.

  >>> A = jnp.array([1., -1., -1.])
  >>> r = jnp.array([1.5, .5, 5.])
  >>> print(clip_loss(jnp.log(r), A, dual_clip=3.).loss)
  [-1.2  0.8  3. ]

  Reference:
    Proximal Policy Optimization (1707.06347), equation 7; Mastering Complex
    Control in MOBA Games (1912.09729), for dual clip; INTELLECT-2 (2505.07291),
    for delta; DAPO (2503.14476), for two bounds.
  """
  checks.check_positive(eps_low=eps_low, eps_high=eps_high)
  if dual_clip is not None and dual_clip <= 1:
    raise ValueError(f"dual_clip must be above 1, was {dual_clip}")
  if delta is not None and delta <= 1 + eps_high:
    raise ValueError(
      f"delta must be above 1 + eps_high = {1 + eps_high}, was {delta}"
    )
  advantages, log_ratio = prepare(advantages, log_ratio=log_ratio)
  ratio = exp_ratio(log_ratio, advantages)
  free = (ratio if delta is None else jnp.minimum(ratio, delta)) * advantages
  held = jnp.clip(ratio, 1 - eps_low, 1 + eps_high) * advantages
  loss, clipped = -jnp.minimum(free, held), held < free
  if delta is not None:
    clipped |= (ratio > delta) & (advantages < 0)
  if dual_clip is not None:
    most = jnp.where(advantages < 0, -dual_clip * advantages, jnp.inf)
    loss, clipped = jnp.minimum(loss, most), clipped | (loss > most)
  return TokenLoss(loss, clipped)


def gspo_token_loss(
  logp: jax.Array,
  old_logp: jax.Array,
  advantages: jax.Array,
  *,
  where: jax.Array,
  eps_low: float = 3e-4,
  eps_high: float = 4e-4,
) -> TokenLoss:
  """GSPO with advantages that may differ along a sequence.

  `clip_loss` of `sg(s) pi_t / sg(pi_t)`, s the geometric mean of the ratios:
  value and gradient are those of GSPO where A is constant along a sequence.

  Args:
    logp: `[..., T]`, differentiated.
    old_logp: `[..., T]`, constants.
    advantages: `[..., T]`, constants.
    where: bool `[..., T]`.
    eps_low: above 0.
    eps_high: above 0.

  Returns:
    `TokenLoss`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: a bound outside its range.

  >>> logp, where = jnp.array([-1., -2.]), jnp.ones(2, bool)
  >>> print(gspo_token_loss(logp, logp, jnp.ones(2), where=where).loss)
  [-1. -1.]

  Reference:
    Group Sequence Policy Optimization (2507.18071), equations 13 and 14.
  """
  ratio = log_ratio(logp, old_logp, where=where, level="sequence_mean_token")
  return clip_loss(ratio, advantages, eps_low=eps_low, eps_high=eps_high)


def gmpo_loss(
  log_ratio: jax.Array,
  advantages: jax.Array,
  where: jax.Array,
  *,
  eps: float = 0.4,
) -> TokenLoss:
  """GMPO: each token's log-ratio is clipped before their mean is taken.

  `-exp(mean_t x_t) A` with `x = min(lr, clip(lr, -e, e))` where A > 0 and the
  maximum of both elsewhere.

  Args:
    log_ratio: `[..., T]`, of tokens.
    advantages: `[..., T]`, constants; their sign must not change along a
      sequence if this is to be a mean over its tokens.
    where: bool `[..., T]`.
    eps: e, above 0.

  Returns:
    `TokenLoss`: the sequence's loss at each of its tokens, 0 where masked.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: e is not positive.

  >>> ratio, where = jnp.array([1., -.2]), jnp.ones(2, bool)
  >>> print(gmpo_loss(ratio, jnp.ones(2), where).loss)  # exp((.4 - .2) / 2)
  [-1.105171 -1.105171]

  Reference:
    Geometric-Mean Policy Optimization (2507.20673), equation 4.
  """
  checks.check_positive(eps=eps)
  checks.check_same_shape(log_ratio=log_ratio, where=where)
  advantages, log_ratio = prepare(advantages, log_ratio=log_ratio)
  ratio = jnp.where(where, log_ratio, 0)
  held = jnp.clip(ratio, -eps, eps)
  up = advantages > 0
  kept = jnp.where(up, jnp.minimum(ratio, held), jnp.maximum(ratio, held))
  count = jnp.maximum(jnp.sum(where, -1, keepdims=True), 1)
  mean = jnp.sum(kept, -1, keepdims=True) / count
  loss = -jnp.exp(mean) * advantages
  clipped = jnp.where(up, ratio > eps, ratio < -eps) & (advantages != 0)
  return TokenLoss(jnp.where(where, loss, 0), clipped)


def sapo_loss(
  log_ratio: jax.Array,
  advantages: jax.Array,
  *,
  tau_pos: float = 1.0,
  tau_neg: float = 1.05,
) -> TokenLoss:
  """SAPO: a soft gate in place of the clip.

  `-(4 / tau) sigmoid(tau (r - 1)) A`, whose slope in r is
  `sech^2(tau (r - 1) / 2)` times `-A`: 1 on policy, and falling on both sides.

  Args:
    log_ratio: `[..., T]`, `log r`.
    advantages: `[..., T]`, constants.
    tau_pos: tau where A > 0, above 0.
    tau_neg: tau elsewhere, above 0.

  Returns:
    `TokenLoss`; nothing is clipped.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: tau is not positive.

  >>> print(sapo_loss(jnp.zeros(1), jnp.ones(1)).loss)
  [-2.]

  Reference:
    Soft Adaptive Policy Optimization (2511.20347).
  """
  checks.check_positive(tau_pos=tau_pos, tau_neg=tau_neg)
  advantages, log_ratio = prepare(advantages, log_ratio=log_ratio)
  tau = jnp.where(advantages > 0, tau_pos, tau_neg).astype(log_ratio.dtype)
  gate = 4 / tau * jax.nn.sigmoid(tau * (exp_ratio(log_ratio, advantages) - 1))
  return TokenLoss(-gate * advantages, _nowhere(gate))


# --- weighted scores ---------------------------------------------------------


def reinforce_loss(advantages: jax.Array, logp: jax.Array) -> TokenLoss:
  """The score of each token, times its advantage.

  `-A log pi_t`.

  Args:
    advantages: `[..., T]`, constants.
    logp: `[..., T]`, differentiated.

  Returns:
    `TokenLoss`; nothing is clipped.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.

  >>> print(reinforce_loss(jnp.array([2.]), jnp.array([-1.])).loss)
  [2.]

  Reference:
    Williams, Simple statistical gradient-following algorithms (1992).
  """
  return _scored(1.0, advantages, logp)


def _scored(weight, advantages: jax.Array, logp: jax.Array) -> TokenLoss:
  advantages, logp = prepare(advantages, logp=logp)
  coefficient = jax.lax.stop_gradient(weight * advantages)
  # What no policy draws, with weight 0 in an enumeration, must be finite.
  live = coefficient != 0
  loss = jnp.where(live, -coefficient * jnp.where(live, logp, 0), 0)
  return TokenLoss(loss, _nowhere(loss))


def cispo_loss(
  log_ratio: jax.Array,
  advantages: jax.Array,
  logp: jax.Array,
  *,
  cap: float = 5.0,
) -> TokenLoss:
  """CISPO: REINFORCE with capped weights; no token loses its gradient.

  `-sg(min(r, cap)) A log pi_t`. The cap is absolute: it is not an epsilon
  around 1.

  Args:
    log_ratio: `[..., T]`, `log r`.
    advantages: `[..., T]`, constants.
    logp: `[..., T]`, differentiated.
    cap: above 0.

  Returns:
    `TokenLoss`; `clipped` marks capped ratios, which keep a gradient.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: the cap is not positive.

  >>> logp = jnp.array([-1., -1.])
  >>> print(cispo_loss(jnp.log(jnp.array([2., 8.])), jnp.ones(2), logp).loss)
  [2. 5.]

  Reference:
    MiniMax-M1 (2506.13585), equation 5; ScaleRL (2510.13786).
  """
  checks.check_positive(cap=cap)
  checks.check_same_shape(log_ratio=log_ratio, logp=logp)
  capped = numerics.as_float(log_ratio) > math.log(cap)
  weight = jnp.minimum(jnp.exp(numerics.as_float(log_ratio)), cap)
  return _scored(weight, advantages, logp)._replace(clipped=capped)


def vespo_loss(
  log_ratio: jax.Array,
  advantages: jax.Array,
  logp: jax.Array,
  *,
  k_pos: float = 2.0,
  lam_pos: float = 3.0,
  k_neg: float = 3.0,
  lam_neg: float = 2.0,
  min_weight: float = 1e-8,
  max_log_weight: float = 20.0,
) -> TokenLoss:
  """VESPO: scores weighted by a smooth kernel of the sequence's ratio.

  `-sg(phi(w)) A log pi_t`, `log phi = lam + k log w - lam w`: 1 at w = 1, and
  largest at `w = k / lam`.

  Args:
    log_ratio: `[..., T]`, `log w`, of level "sequence".
    advantages: `[..., T]`, constants.
    logp: `[..., T]`, differentiated.
    k_pos: k where A >= 0.
    lam_pos: lam where A >= 0.
    k_neg: k where A < 0.
    lam_neg: lam where A < 0.
    min_weight: smallest w.
    max_log_weight: largest `log w`.

  Returns:
    `TokenLoss`; `clipped` marks weights outside their range, which keep a
    gradient.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: an option is not positive.

  >>> print(vespo_loss(jnp.zeros(1), jnp.ones(1), jnp.array([-2.])).loss)
  [2.]

  Reference:
    VESPO (2602.10693).
  """
  checks.check_positive(
    k_pos=k_pos, lam_pos=lam_pos, k_neg=k_neg, lam_neg=lam_neg
  )
  checks.check_positive(min_weight=min_weight, max_log_weight=max_log_weight)
  checks.check_same_shape(log_ratio=log_ratio, logp=logp)
  log_w = numerics.as_float(log_ratio)
  low = math.log(min_weight)
  outside = (log_w < low) | (log_w > max_log_weight)
  log_w = jnp.clip(log_w, low, max_log_weight)
  up = advantages >= 0
  k, lam = jnp.where(up, k_pos, k_neg), jnp.where(up, lam_pos, lam_neg)
  k, lam = k.astype(log_w.dtype), lam.astype(log_w.dtype)
  weight = jnp.exp(lam + k * log_w - lam * jnp.exp(log_w))
  return _scored(weight, advantages, logp)._replace(clipped=outside)
