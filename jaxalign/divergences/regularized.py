# SPDX-License-Identifier: Apache-2.0
"""The maximiser of a reward regularised by an f-divergence."""

import functools
import math

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.divergences import generators

__all__ = ("regularized_maximizer",)


def regularized_maximizer(
  div: generators.FDivergence,
  rewards: jax.Array,
  ref_logits: jax.Array,
  beta: float | jax.Array,
  *,
  num_steps: int = 100,
) -> jax.Array:
  """`argmax_pi <pi, r> - beta D_f(pi||ref)` over the simplex.

  `pi = ref [(f')^{-1}((r - lam)/beta)]_+` with lam the root of `sum pi = 1`. It
  is found through the ratio u of the best outcome, `lam = max r - beta f'(u)`,
  which is at least 1 and at most the inverse of its reference probability: lam
  itself has too few digits where a rare outcome is the best one. Differentiable
  in rewards, reference and beta by the implicit function theorem. Softmax for
  `kl`; exact zeros for `pearson_chi2` and alpha above 1.

  Args:
    div: a divergence with an invertible f'.
    rewards: `[..., V]`, finite where the reference has mass.
    ref_logits: `[..., V]`, the shape of `rewards`; -inf for outcomes without
      mass, which stay without mass. So do those whose reference probability is
      below e^-346 in float32 and e^-2831 in float64.
    beta: scalar above 0, in units of the reward.
    num_steps: halvings of the bracket of log u.

  Returns:
    `[..., V]`: the log-policy, normalised; -inf where `pi / ref` is 0 or below
    the smallest number of the type.

  Raises:
    ValueError: beta not above 0, or a divergence with piecewise constant f'.

  >>> kl = generators.f_divergence("kl")
  >>> r, ref = jnp.array([0., 1.]), jnp.zeros(2)
  >>> policy = jnp.exp(regularized_maximizer(kl, r, ref, 1.))  # softmax
  >>> print(f"{policy[0]:.4f} {policy[1]:.4f}")
  0.2689 0.7311

  Reference:
    f-DPO (2309.16240), theorem 1; DPH-RL (2509.07430), section 3.
  """
  checks.check_same_shape(rewards=rewards, ref_logits=ref_logits)
  checks.check_float(rewards=rewards, ref_logits=ref_logits)
  checks.check_positive(beta=beta)
  dtype = jnp.promote_types(rewards.dtype, ref_logits.dtype)
  log_ref = numerics.masked_log_softmax(ref_logits.astype(dtype))
  live = log_ref > -4 * _reach(log_ref.dtype)
  log_ref = jnp.where(live, log_ref, -jnp.inf)
  rewards = jnp.where(live, rewards.astype(log_ref.dtype), 0)
  beta = jnp.asarray(beta, log_ref.dtype)
  return _log_policy(div, num_steps, rewards, log_ref, beta)


def _reach(dtype: jax.typing.DTypeLike) -> float:
  """How far log u may go on either side before u leaves the type."""
  return math.log(float(jnp.finfo(dtype).max)) - 2


def _gaps(
  rewards: jax.Array, log_ref: jax.Array, beta: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The best outcome `[..., 1]`, and by how much the others are below it.

  The gaps `[..., V]` are differences of f': `f'(u_best) - f'(u)`.
  """
  live = log_ref > -jnp.inf
  best = jnp.argmax(jnp.where(live, rewards, -jnp.inf), -1, keepdims=True)
  gaps = (jnp.take_along_axis(rewards, best, -1) - rewards) / beta
  return best, jnp.where(live, gaps, 0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _log_policy(
  div: generators.FDivergence,
  num_steps: int,
  rewards: jax.Array,
  log_ref: jax.Array,
  beta: jax.Array,
) -> jax.Array:
  best, gaps = _gaps(rewards, log_ref, beta)
  # Where u overflows, f' has reached its limit for all that can be seen.
  reach = _reach(log_ref.dtype)

  def log_ratios(log_u):
    log_u = log_u[..., None]
    slope = jnp.where(
      log_u < reach,
      div.f_prime(jnp.exp(jnp.minimum(log_u, reach))),
      div.f_prime_inf,
    )
    ratios = div.f_prime_inverse(slope - gaps)
    # No ratio is above the best one's, whatever rounding says.
    return jnp.where(gaps == 0, log_u, jnp.minimum(jnp.log(ratios), log_u))

  def excess(log_u):
    return jnp.sum(jnp.exp(log_ref + log_ratios(log_u)), -1) - 1

  upper = -jnp.take_along_axis(log_ref, best, -1)[..., 0]
  log_u = numerics.bisect(
    excess, jnp.zeros_like(upper), upper, num_steps=num_steps
  )
  # u is a root to rounding only; the policy is normalised exactly.
  return numerics.masked_log_softmax(log_ref + log_ratios(log_u))


@_log_policy.defjvp
def _log_policy_jvp(div, num_steps, primals, tangents):
  """Tangent of `log pi` from `f''(u) du = d((r - lam)/beta)`, `sum dpi = 0`.

  With `s = 1/(u f''(u))`: `dlog pi = dlog ref + s d((r - lam)/beta)`. Rewards
  are taken relative to the best outcome's, whose s may be so large that
  subtracting lam from its reward would leave nothing.
  """
  rewards, log_ref, beta = primals
  d_rewards, d_log_ref, d_beta = tangents
  log_pi = _log_policy(div, num_steps, rewards, log_ref, beta)
  best, gaps = _gaps(rewards, log_ref, beta)
  kept = log_pi > -jnp.inf
  reach = _reach(log_ref.dtype)
  log_u = jnp.where(kept, log_pi, 0) - jnp.where(kept, log_ref, 0)
  u, pi = jnp.exp(jnp.clip(log_u, -reach, reach)), jnp.exp(log_pi)
  # u f''(u) may underflow; then dlam is the best reward's tangent either way.
  smallest = jnp.finfo(log_ref.dtype).tiny
  s = jnp.where(kept, 1 / jnp.maximum(u * div.f_second(u), smallest), 0)
  weights = pi * s

  rise = d_rewards - jnp.take_along_axis(d_rewards, best, -1)
  rise = rise + gaps * d_beta
  others = jnp.arange(rewards.shape[-1]) != best
  rise = jnp.where(others & kept, rise, 0) / beta
  pull = jnp.sum(weights * rise + jnp.where(kept, pi * d_log_ref, 0), -1)
  # The share s / sum(weights) is formed first: it cannot underflow.
  share = s / jnp.sum(weights, -1, keepdims=True)
  tangent = d_log_ref + s * rise - share * pull[..., None]
  return log_pi, jnp.where(kept, tangent, 0)
