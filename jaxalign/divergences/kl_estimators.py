# SPDX-License-Identifier: Apache-2.0
"""Estimates of KL(policy||ref) from the policy's samples, and their gradients.

An estimator with the right mean need not have the right gradient: what is
sampled moves with the policy. Per sample, with `lr = log pi - log ref`,

  k1 = lr,  k2 = lr^2 / 2,  k3 = e^-lr - 1 + lr,

k1 and k3 are unbiased, k2 is not. As a loss on fixed samples, k1 has gradient 0
in expectation, k2 that of KL(policy||ref) and k3 that of KL(ref||policy).
`kl_estimate` is the value, for logging and for rewards. The losses here have
the gradient of KL(policy||ref), all of them. An infinite estimate stays
infinite and has gradient 0.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.divergences import categorical, generators

__all__ = (
  "KINDS",
  "RBResult",
  "kl_estimate",
  "kl_penalty_loss",
  "rao_blackwell_kl",
  "sequence_kl_k2_surrogate",
  "sequence_kl_to_go_surrogate",
)

KINDS = ("k1", "k2", "k3")

Mask = jax.Array | None


def _keep(x: jax.Array, where: Mask) -> jax.Array:
  """The type that losses compute in, and 0 for what is not kept."""
  x = numerics.as_float(x)
  return x if where is None else jnp.where(where, x, 0)


def _drawn(logp: jax.Array, where: Mask) -> jax.Array:
  """What is kept less what has probability 0, which no policy draws.

  Enumerations contain it, with weight 0: it must be finite.
  """
  drawn = logp != -jnp.inf
  return drawn if where is None else where & drawn


def _check_tokens(logp: jax.Array, ref_logp: jax.Array, where: Mask) -> None:
  checks.check_same_shape(logp=logp, ref_logp=ref_logp)
  checks.check_float(logp=logp, ref_logp=ref_logp)
  if where is not None:
    checks.check_same_shape(logp=logp, where=where)


# --- one sample --------------------------------------------------------------


def kl_estimate(log_ratio: jax.Array, *, kind: str) -> jax.Array:
  """Estimates `KL(policy||ref)`, one sample at a time.

  `k1 = lr`, unbiased, of either sign; `k2 = lr^2/2`, biased, at least 0;
  `k3 = e^-lr - 1 + lr`, unbiased, at least 0, and of infinite variance where
  the chi-squared divergence `(ref||policy)` is infinite. As a loss, k1 has no
  expected gradient and k3 that of `KL(ref||policy)`: train with
  `kl_penalty_loss`, or put this, under `stop_gradient`, into the reward (k1
  only).

  Args:
    log_ratio: `[...]`, `log pi(x) - log ref(x)` at samples x of the policy.
    kind: `"k1"`, `"k2"` or `"k3"`.

  Returns:
    `[...]`, nats; +inf for k2 and k3 at an infinite ratio.

  Raises:
    ValueError: unknown kind.

  >>> lr = jnp.array([.5, -.5])
  >>> print(jnp.round(kl_estimate(lr, kind="k3"), 4))
  [0.1065 0.1487]

  Reference:
    Schulman, Approximating KL Divergence (2020).
  """
  checks.check_float(log_ratio=log_ratio)
  checks.check_choice("kind", kind, KINDS)
  lr = numerics.as_float(log_ratio)
  if kind == "k1":
    return lr
  live = ~jnp.isinf(lr)
  safe = jnp.where(live, lr, 0)
  if kind == "k2":
    value = safe**2 / 2
  else:
    # k3 is the share of an outcome of mass 1 in KL, free of cancellation.
    value = generators.f_divergence("kl").term(jnp.zeros_like(safe), -safe)
  return jnp.where(live, value, jnp.inf)


def kl_penalty_loss(
  logp: jax.Array,
  ref_logp: jax.Array,
  logp_old: jax.Array | None = None,
  *,
  estimator: str = "k3",
  where: Mask = None,
) -> jax.Array:
  """A penalty whose expected gradient is that of `KL(policy||ref)`.

  With `w = pi/old`, old the law that the samples come from: `w k3` and `w k1`,
  in which w is differentiated, and `sg(w) k2`, in which it is not. The gradient
  of the first and the last is, sample by sample, `w lr grad log pi`; that of
  the second has `lr + 1` for `lr`. Without `logp_old` the samples are the
  policy's own and w is 1 in value.

  On tokens this is the gradient of the sum of the token-level divergences at
  the prefixes that were visited; how prefixes become likelier is left out. For
  the divergence of whole sequences, pass log-probabilities of sequences, or use
  `rao_blackwell_kl` or a sequence surrogate.

  Args:
    logp: `[...]`, log pi of the samples, differentiated.
    ref_logp: `[...]`, log ref of the samples.
    logp_old: `[...]`, log-probability of the samples under the law that drew
      them, finite; not differentiated. The policy itself by default, and then
      a sample with `pi = 0` is none of its own and gives 0.
    estimator: what the value is: `"k3"` (unbiased, at least 0), `"k1"`
      (unbiased) or `"k2"` (biased, at least 0).
    where: bool `[...]`, samples to keep; others give 0.

  Returns:
    `[...]`, nats, one per sample, not reduced; +inf where `ref = 0 < pi`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: unknown estimator.

  >>> logp, ref_logp = jnp.log(.5), jnp.log(.25)
  >>> value, slope = jax.value_and_grad(kl_penalty_loss)(logp, ref_logp)
  >>> print(f"{value:.4f} {slope:.4f}")  # k3; the log-ratio
  0.1931 0.6931

  Reference:
    A Comedy of Estimators (2512.21852), for the gradients of each placement;
    Schulman, Approximating KL Divergence (2020).
  """
  _check_tokens(logp, ref_logp, where)
  checks.check_choice("estimator", estimator, KINDS)
  if logp_old is None:
    logp_old, where = logp, _drawn(logp, where)
  checks.check_same_shape(logp=logp, logp_old=logp_old)
  checks.check_float(logp_old=logp_old)
  old = jax.lax.stop_gradient(_keep(logp_old, where))
  log_w = _keep(logp, where) - old
  log_ref = _keep(ref_logp, where) - old
  live = ~(jnp.isinf(log_w) | jnp.isinf(log_ref))
  a, b = jnp.where(live, log_w, 0), jnp.where(live, log_ref, 0)
  # pi = 0 leaves w k1 = w k2 = 0, and w k3 = ref/old.
  absent = jnp.zeros_like(a)
  if estimator == "k1":
    inside = jnp.exp(a) * (a - b)
  elif estimator == "k2":
    inside = jax.lax.stop_gradient(jnp.exp(a)) * (a - b) ** 2 / 2
  else:
    # w k3 = (ref - pi + pi lr) / old is a share in KL, whose derivative in
    # log pi is pi lr / old: neither overflows where pi vanishes before ref.
    inside = generators.f_divergence("kl").term(a, b)
    absent = jnp.exp(jnp.where(live, -jnp.inf, log_ref))
  outside = jnp.where(log_w > -jnp.inf, jnp.inf, absent)
  return _keep(jnp.where(live, inside, outside), where)


# --- whole sequences ---------------------------------------------------------


def _score_term(logp: jax.Array, weights: jax.Array) -> jax.Array:
  """0 with the gradient of `sum_t weights_t log pi_t`, weights held fixed."""
  weights = jax.lax.stop_gradient(weights)
  fixed = jnp.where(jnp.isinf(weights), 0, weights)
  return jnp.sum(fixed * numerics.gradient_only(logp), -1)


def _to_go(x: jax.Array) -> jax.Array:
  """`sum_{s>=t} x_s` over the last axis."""
  return jax.lax.cumsum(x, x.ndim - 1, reverse=True)


def sequence_kl_k2_surrogate(
  logp: jax.Array, ref_logp: jax.Array, *, where: Mask = None
) -> jax.Array:
  """Surrogate for the sequence KL: k2 of the sequence's log-ratio.

  `(sum_t lr_t)^2 / 2` on the policy's samples has the gradient of
  `KL(policy||ref)` over sequences in expectation; its value is biased.

  Args:
    logp: `[..., T]`, log pi of the sampled tokens, differentiated; -inf, which
      is never drawn, counts as not kept.
    ref_logp: `[..., T]`, log ref of the same tokens.
    where: bool `[..., T]`, tokens to keep; all by default.

  Returns:
    `[...]`, nats^2, one per sequence; a sequence without tokens gives 0.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.

  >>> logp = jnp.log(jnp.array([.5, .5]))
  >>> ref_logp = jnp.log(jnp.array([.25, .5]))
  >>> print(f"{sequence_kl_k2_surrogate(logp, ref_logp):.4f}")
  0.2402

  Reference:
    Schulman, Approximating KL Divergence (2020), for k2; A Comedy of Estimators
    (2512.21852), for its gradient.
  """
  _check_tokens(logp, ref_logp, where)
  keep = _drawn(logp, where)
  log_ratio = jnp.sum(_keep(logp, keep) - _keep(ref_logp, keep), -1)
  return kl_estimate(log_ratio, kind="k2")


def sequence_kl_to_go_surrogate(
  logp: jax.Array, ref_logp: jax.Array, *, where: Mask = None
) -> jax.Array:
  """Surrogate for the sequence KL: log-ratios to go, times the score.

  `sum_t sg(sum_{s>=t} lr_s) log pi_t` on the policy's samples has the gradient
  of `KL(policy||ref)` over sequences in expectation: the policy gradient of k1
  as a cost. (With `sg(lr_t)` alone the later terms are lost.)

  Args:
    logp: `[..., T]`, log pi of the sampled tokens, differentiated; -inf, which
      is never drawn, counts as not kept.
    ref_logp: `[..., T]`, log ref of the same tokens.
    where: bool `[..., T]`, tokens to keep; all by default.

  Returns:
    `[...]`, nats, one per sequence, shifted so that the value is k1 of the
    sequence, `sum_t lr_t`; a sequence without tokens gives 0.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.

  >>> logp = jnp.log(jnp.array([.5, .5]))
  >>> ref_logp = jnp.log(jnp.array([.25, 1.]))
  >>> slope = jax.grad(sequence_kl_to_go_surrogate)(logp, ref_logp)
  >>> print(jnp.round(slope, 4))  # .6931 - .6931, -.6931
  [ 0.     -0.6931]

  Reference:
    Policy gradient with reward to go: Sutton et al., Policy Gradient Methods
    for Reinforcement Learning with Function Approximation (1999), theorem 1.
  """
  _check_tokens(logp, ref_logp, where)
  keep = _drawn(logp, where)
  logp = _keep(logp, keep)
  lr = jax.lax.stop_gradient(logp - _keep(ref_logp, keep))
  return jnp.sum(lr, -1) + _score_term(logp, _to_go(lr))


class RBResult(NamedTuple):
  """A Rao-Blackwellised estimate of the sequence KL.

  Attributes:
    value: `[...]`, nats, `sum_t KL_t`, for logging; carries no gradient.
    surrogate: `[...]`, nats, the same value with the unbiased gradient, to be
      minimised.
  """

  value: jax.Array
  surrogate: jax.Array


def rao_blackwell_kl(
  policy_logits: jax.Array,
  ref_logits: jax.Array,
  ids: jax.Array,
  *,
  where: Mask = None,
) -> RBResult:
  """`KL(policy||ref)` of sequences from the token distributions on the way.

  The value is `sum_t KL_t` with `KL_t` exact over the vocabulary at the t-th
  prefix of a sequence that the policy drew: unbiased, at least 0, usually of
  far lower variance than the sequence's log-ratio (not always: divergences at
  later prefixes can cancel against log-ratios of earlier tokens). The surrogate
  `sum_t KL_t + sum_t sg(sum_{s>t} KL_s) log pi_t` has the gradient of the
  sequence KL in expectation. Its first sum alone, being blind to which prefixes
  become likelier, has not: hence `value` carries no gradient.

  Args:
    policy_logits: `[..., T, V]`, at the prefix before each token.
    ref_logits: `[..., T, V]`, the shape of `policy_logits`.
    ids: int `[..., T]`, the tokens that were drawn. They enter through their
      log-probability under the policy, which is read off `policy_logits`.
    where: bool `[..., T]`, tokens to keep; all by default. Logits and ids
      elsewhere may be anything.

  Returns:
    `RBResult`, one entry per sequence; both are 0 for one without tokens, and
    +inf where the reference lacks mass that the policy has.

  Raises:
    AssertionError: shapes differ, logits are not floating point, or ids not
      integer.

  >>> policy = jnp.log(jnp.array([[.5, .5]]))
  >>> ref = jnp.log(jnp.array([[.2, .8]]))
  >>> value, surrogate = rao_blackwell_kl(policy, ref, jnp.array([0]))
  >>> print(f"{value:.4f} {surrogate:.4f}")
  0.2231 0.2231

  Reference:
    Better Estimation of the KL Divergence Between Language Models (2504.10637).
  """
  checks.check_same_shape(policy_logits=policy_logits, ref_logits=ref_logits)
  checks.check_float(policy_logits=policy_logits, ref_logits=ref_logits)
  chex.assert_type(ids, int, custom_message="need integers: ids")
  checks.check_same_shape(
    **{"ids": ids, "policy_logits[..., 0]": policy_logits[..., 0]}
  )
  if where is not None:
    checks.check_same_shape(ids=ids, where=where)
    ids = jnp.where(where, ids, 0)
    # Two equal uniform rows: their divergence and its gradient are 0.
    policy_logits, ref_logits = (
      jnp.where(where[..., None], x, 0) for x in (policy_logits, ref_logits)
    )
  kl = categorical.kl(policy_logits, ref_logits)
  log_pi = numerics.masked_log_softmax(policy_logits)
  logp = jnp.take_along_axis(log_pi, ids[..., None], -1)[..., 0]
  # Shifted, not subtracted: an infinite divergence spoils no other weight.
  later = _to_go(jnp.roll(kl.at[..., 0].set(0), -1, -1))
  score = _score_term(_keep(logp, _drawn(logp, None)), later)
  return RBResult(
    jax.lax.stop_gradient(jnp.sum(kl, -1)), jnp.sum(kl, -1) + score
  )
