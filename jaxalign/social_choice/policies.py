# SPDX-License-Identifier: Apache-2.0
"""Policies in a KL ball around a reference, and what RLHF and DPO learn.

The ball is `{pi : KL(pi||ref) <= tau}`, tau in nats; 0 leaves the reference
alone and inf the whole simplex. Alternatives without reference mass
(`log_ref = -inf`) get none. Event axes come last; tau is a scalar or has the
batch shape.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.divergences import categorical, kl_ball
from jaxalign.social_choice import rules

__all__ = (
  "DPOResult",
  "dpo_policy",
  "kl_ball_argmax",
  "kl_ball_project",
  "kl_ball_value",
  "rlhf_policy",
)

Scalar = float | jax.Array


def kl_ball_argmax(
  log_ref: jax.Array, scores: jax.Array, tau: Scalar
) -> jax.Array:
  """The policy of highest expected score in the KL ball.

  `softmax(log_ref + s scores)` with the s at which `KL = tau`; or, where the
  ball reaches that far, the reference restricted to the maximisers. Scores
  within 16 roundings of the largest tie with it. Where the ball binds it is
  differentiable in all arguments by the implicit function theorem; there the
  KL does not exceed tau.

  Args:
    log_ref: `[..., M]`, log-probabilities of the reference.
    scores: `[..., M]`, finite.
    tau: radius of the ball in nats, at least 0.

  Returns:
    `[..., M]`, the log-policy.

  Raises:
    ValueError: tau below 0, or neither a scalar nor of the batch shape.

  >>> log_ref, scores = jnp.log(jnp.array([.5, .5])), jnp.array([0., 1.])
  >>> print(f"{jnp.exp(kl_ball_argmax(log_ref, scores, .1))[1]:.4f}")
  0.7198
  >>> print(jnp.exp(kl_ball_argmax(log_ref, scores, 1.)))
  [0. 1.]

  Reference:
    Asymptotics of Language Model Alignment (2404.01730), section 3.
  """
  return kl_ball.tilt(log_ref, scores, tau).log_policy()


def kl_ball_value(
  log_ref: jax.Array, scores: jax.Array, tau: Scalar
) -> jax.Array:
  """Highest expected score in the KL ball, with exact gradients.

  `min_eta eta tau + eta log sum_x ref(x) exp(scores(x) / eta)`, evaluated at a
  constant minimiser: by the envelope theorem the gradient is the best policy in
  the scores and eta in tau.

  Args:
    log_ref: `[..., M]`, log-probabilities of the reference.
    scores: `[..., M]`, finite.
    tau: radius of the ball in nats, at least 0.

  Returns:
    `[...]`, in units of the scores.

  Raises:
    ValueError: tau below 0, or neither a scalar nor of the batch shape.

  >>> log_ref, scores = jnp.log(jnp.array([.5, .5])), jnp.array([0., 1.])
  >>> print(f"{kl_ball_value(log_ref, scores, .1):.4f}")
  0.7198

  Reference:
    Donsker and Varadhan (1975); Distortion of AI Alignment (2505.23749),
    section 2.
  """
  tilt = kl_ball.tilt(log_ref, scores, tau)
  tau = kl_ball.per_row("tau", tau, tilt.top.shape, tilt.top.dtype)
  strength, best = jax.lax.stop_gradient((tilt.strength, tilt.log_policy()))
  live = tilt.log_ref > -jnp.inf
  below = jnp.where(live, scores - tilt.top[..., None], 0)
  # 1 / eta in units of the scores; rows on the face do not use it.
  sharpness = jnp.where(
    tilt.on_face, 1, strength / jax.lax.stop_gradient(tilt.spread)
  )
  rate = sharpness[..., None] * below
  gain = jnp.sum(jnp.exp(tilt.log_ref) * jnp.expm1(rate), -1)
  # A weak tilt moves log-sum-exp by less than its roundings, a strong one
  # cancels in the sum of differences (and XLA's log1p errs by 1e-14 there).
  weak = gain > -0.1
  log_mean = jnp.where(
    weak,
    jnp.log1p(jnp.where(weak, gain, 0)),
    jax.nn.logsumexp(tilt.log_ref + rate, -1),
  )
  bound = jnp.where(tilt.on_face, 0, tau)
  inside = tilt.top + (bound + log_mean) / sharpness
  on_face = tilt.top + jnp.sum(jnp.exp(best) * below, -1)
  return jnp.where(tilt.on_face, on_face, inside)


def kl_ball_project(
  log_z: jax.Array, log_ref: jax.Array, tau: Scalar
) -> jax.Array:
  """Bregman projection onto the KL ball: `argmin KL(pi||z)` in it.

  `z^c ref^(1-c) / Z` with the c in [0, 1] at which `KL(pi||ref) = tau`; z
  itself where it is in the ball. Outcomes that either lacks get no mass; if
  the reference on the support of z is outside the ball, the divergence is
  infinite everywhere in it, and that restriction is returned.

  Args:
    log_z: `[..., M]`, log-probabilities of what is projected.
    log_ref: `[..., M]`, log-probabilities of the reference.
    tau: radius of the ball in nats, at least 0.

  Returns:
    `[..., M]`, the log-policy.

  Raises:
    ValueError: tau below 0, or neither a scalar nor of the batch shape.

  >>> log_z, log_ref = jnp.log(jnp.array([[.1, .9], [.5, .5]]))
  >>> print(f"{jnp.exp(kl_ball_project(log_z, log_ref, .1))[1]:.4f}")
  0.7198

  Reference:
    Csiszar, I-divergence Geometry (1975); Distortion of AI Alignment
    (2505.23749), section 4.
  """
  checks.check_same_shape(log_z=log_z, log_ref=log_ref)
  checks.check_float(log_z=log_z, log_ref=log_ref)
  dtype = jnp.promote_types(jnp.result_type(log_z, log_ref), jnp.float32)
  log_ref = numerics.masked_log_softmax(jnp.asarray(log_ref, dtype))
  log_z = numerics.masked_log_softmax(jnp.asarray(log_z, dtype))
  tau = kl_ball.per_row("tau", tau, log_z.shape[:-1], dtype)
  return _solve_projection(log_z, log_ref, tau)


@jax.jit
def _solve_projection(
  log_z: jax.Array, log_ref: jax.Array, tau: jax.Array
) -> jax.Array:
  both = (log_z > -jnp.inf) & (log_ref > -jnp.inf)
  shift = jnp.where(both, log_z, 0) - jnp.where(both, log_ref, 0)
  base = jnp.where(both, log_ref, -jnp.inf)

  def mixture(coef):
    return base + coef[..., None] * shift

  def distance(coef):
    return categorical.kl(mixture(coef), log_ref)

  one = jnp.ones_like(tau)
  inside = distance(one) <= tau
  # Rows inside are given a root of their own, so that theirs has no gradient.
  target = jnp.where(inside, jax.lax.stop_gradient(distance(one)), tau)
  coef = numerics.bisect(
    lambda c: distance(c) - target,
    jnp.zeros_like(tau),
    one,
    num_steps=kl_ball.num_halvings(log_z.dtype),
  )
  coef = jnp.where(inside, one, coef)
  return numerics.masked_log_softmax(mixture(coef))


# --- what preference fine-tuning learns --------------------------------------


def _rewards(win: jax.Array, pair_weights: jax.Array) -> jax.Array:
  fit = rules.bradley_terry_mle(win, pair_weights)
  return jnp.where(fit.valid[..., None], fit.scores, jnp.nan)


def rlhf_policy(
  win: jax.Array, pair_weights: jax.Array, log_ref: jax.Array, tau: Scalar
) -> jax.Array:
  """What RLHF learns from infinitely many comparisons.

  The policy of highest expected reward in the KL ball, for the reward of
  highest Bradley-Terry likelihood.

  Args:
    win: `[..., M, M]`, win probabilities.
    pair_weights: `[..., M, M]`, weights of the pairs.
    log_ref: `[..., M]`, log-probabilities of the reference.
    tau: radius of the ball in nats, at least 0.

  Returns:
    `[..., M]`, the log-policy; NaN where the reward has no finite maximum.

  Raises:
    ValueError: tau below 0, or neither a scalar nor of the batch shape.

  >>> win, log_ref = jnp.array([[.5, .9], [.1, .5]]), jnp.log(jnp.ones(2) / 2)
  >>> policy = rlhf_policy(win, jnp.ones((2, 2)) / 4, log_ref, .1)
  >>> print(f"{jnp.exp(policy)[0]:.4f}")
  0.7198

  Reference:
    Distortion of AI Alignment (2505.23749), section 3.
  """
  return kl_ball_argmax(log_ref, _rewards(win, pair_weights), tau)


class DPOResult(NamedTuple):
  """The policy that DPO learns.

  Attributes:
    log_policy: `[..., M]`; NaN where the likelihood has no finite maximum.
    lam: `[...]`, the regularisation weight at which its KL is tau; 0 where the
      ball holds the limit of vanishing regularisation.
  """

  log_policy: jax.Array
  lam: jax.Array


def dpo_policy(
  win: jax.Array, pair_weights: jax.Array, log_ref: jax.Array, tau: Scalar
) -> DPOResult:
  """What DPO learns from infinitely many comparisons.

  `-sum nu P log sigmoid(lam (log(pi/ref)(x) - log(pi/ref)(y)))` is least at
  `pi = ref exp(r / lam) / Z`, r the scores of highest Bradley-Terry likelihood;
  lam is chosen such that `KL(pi||ref) = tau`. Hence the policy of RLHF.

  Args:
    win: `[..., M, M]`, win probabilities.
    pair_weights: `[..., M, M]`, weights of the pairs.
    log_ref: `[..., M]`, log-probabilities of the reference.
    tau: radius of the ball in nats, at least 0.

  Returns:
    `DPOResult`.

  Raises:
    ValueError: tau below 0, or neither a scalar nor of the batch shape.

  >>> win, log_ref = jnp.array([[.5, .9], [.1, .5]]), jnp.log(jnp.ones(2) / 2)
  >>> result = dpo_policy(win, jnp.ones((2, 2)) / 4, log_ref, .1)
  >>> print(f"{jnp.exp(result.log_policy)[0]:.4f} {result.lam:.4f}")
  0.7198 2.3289

  Reference:
    Direct Preference Optimization (2305.18290), equation 7; Distortion of AI
    Alignment (2505.23749), section 3.
  """
  tilt = kl_ball.tilt(log_ref, _rewards(win, pair_weights), tau)
  lam = jnp.where(tilt.on_face, 0, tilt.spread / tilt.strength)
  return DPOResult(tilt.log_policy(), lam)
