# SPDX-License-Identifier: Apache-2.0
"""Losses whose descent learns a policy that no other is preferred to.

The game and its conventions are those of `nash`: `pref[y, y'] = P(y > y')`,
log-policies `[..., V]`, tau the weight of the KL from the reference mu. The
losses are minimised; strengths are scalars and may be traced.
"""

import jax
import jax.numpy as jnp

from jaxalign import checks
from jaxalign.social_choice import nash

__all__ = (
  "ipo_md_loss",
  "nash_md_pg_loss",
  "online_ipo_loss",
)


def nash_md_pg_loss(
  log_probs: jax.Array,
  ref_log_probs: jax.Array,
  win_prob: jax.Array,
  tau: nash.Scalar,
  mask: jax.Array,
) -> jax.Array:
  """Policy-gradient surrogate of Nash-MD, for one sampled answer a prompt.

  `-sum_t sg(P(y > y') - 1/2 - tau sum_{s >= t} log(pi_s / mu_s)) log pi_t`
  with y from the policy and y' from its mixture with the reference (sg stops
  the gradient). Its expected gradient is that of
  `-(P(pi > sg mixture) - tau KL(pi||mu))`, KL of whole sequences: a token pays
  for every log-ratio that follows it. The value itself means nothing.

  Args:
    log_probs: `[..., T]`, the policy's log-probabilities of the tokens of y.
    ref_log_probs: `[..., T]`, the reference's. Finite where `mask`.
    win_prob: `[...]`, `P(y > y')` of the prompt's pair.
    tau: scalar, at least 0.
    mask: bool `[..., T]`, the tokens of the answer.

  Returns:
    `[...]`: one surrogate per answer, 0 for an empty one.

  Raises:
    AssertionError: the tokens' shapes differ.
    ValueError: win_prob does not fit log_probs, or tau is below 0.

  >>> logp, ref = jnp.log(jnp.array([[.8], [.4]]))
  >>> win, mask = jnp.array(.9), jnp.array([True])
  >>> print(f"{nash_md_pg_loss(logp, ref, win, .1, mask):.4f}")
  0.0738

  Reference:
    Nash Learning from Human Feedback (2312.00886), Nash-MD-PG.
  """
  checks.check_same_shape(
    log_probs=log_probs, ref_log_probs=ref_log_probs, mask=mask
  )
  log_probs, ref_log_probs = nash.as_policies(
    log_probs=log_probs, ref_log_probs=ref_log_probs
  )
  checks.check_float(win_prob=win_prob)
  if jnp.shape(win_prob) != log_probs.shape[:-1]:
    raise ValueError(
      f"win_prob must have one entry per answer {log_probs.shape[:-1]}, was "
      f"{jnp.shape(win_prob)}"
    )
  tau = nash.as_strength(tau, log_probs.dtype)
  log_probs = jnp.where(mask, log_probs, 0)
  log_ratios = log_probs - jnp.where(mask, ref_log_probs, 0)
  to_go = jax.lax.cumsum(log_ratios, axis=log_ratios.ndim - 1, reverse=True)
  wins = jnp.asarray(win_prob, log_probs.dtype)[..., None]
  advantage = jax.lax.stop_gradient(wins - 0.5 - tau * to_go)
  return -jnp.sum(advantage * log_probs, -1)


def online_ipo_loss(
  log_pi: jax.Array,
  log_ref: jax.Array,
  pref: jax.Array,
  tau: nash.Scalar,
  log_sampling: jax.Array,
) -> jax.Array:
  """Expected IPO loss over pairs drawn from a sampling policy, and labelled.

  `E_{y, y' ~ sg(rho)}[p (h - 1/(2 tau))^2 + (1 - p) (h + 1/(2 tau))^2]`,
  `h = log(pi/mu)(y) - log(pi/mu)(y')`, `p = P(y > y')`. Sampled from the policy
  itself, its gradient is `-4 / tau` times that of
  `P(pi > sg pi) - tau KL(pi||mu)`, so that it is stationary at pi*.

  Args:
    log_pi: `[..., V]`, the policy.
    log_ref: `[..., V]`, the reference mu.
    pref: `[..., V, V]`, `P(y > y')`.
    tau: scalar above 0.
    log_sampling: `[..., V]`, the sampling policy rho; its gradient is stopped.

  Returns:
    `[...]`; +inf where rho draws what the policy or the reference lacks.

  Raises:
    AssertionError: the policies' shapes differ.
    ValueError: pref does not fit log_pi, or tau is not above 0.

  >>> pref = jnp.array([[.5, .8], [.2, .5]])
  >>> ref = jnp.log(jnp.array([.5, .5]))
  >>> print(f"{online_ipo_loss(ref, ref, pref, .5, ref):.4f}")
  1.0000

  Reference:
    Human Alignment of Large Language Models through Online Preference
    Optimisation (2403.08635), online IPO.
  """
  log_pi, log_ref, log_sampling = nash.as_policies(
    log_pi=log_pi, log_ref=log_ref, log_sampling=log_sampling
  )
  pref = nash.as_preferences(pref, log_pi)
  checks.check_positive(tau=tau)
  tau = nash.as_scalar("tau", tau, log_pi.dtype)
  sampling = jax.lax.stop_gradient(jnp.exp(log_sampling))
  live = (log_pi > -jnp.inf) & (log_ref > -jnp.inf)
  log_ratios = jnp.where(live, log_pi, 0) - jnp.where(live, log_ref, 0)
  h = log_ratios[..., :, None] - log_ratios[..., None, :]
  margin = 1 / (2 * tau)
  squares = pref * (h - margin) ** 2 + (1 - pref) * (h + margin) ** 2
  pairs = sampling[..., :, None] * sampling[..., None, :]
  lost = jnp.any((sampling > 0) & ~live, -1)
  return jnp.where(lost, jnp.inf, jnp.sum(pairs * squares, (-2, -1)))


def ipo_md_loss(
  log_pi: jax.Array,
  log_ref: jax.Array,
  pref: jax.Array,
  tau: nash.Scalar,
  coef: nash.Scalar,
) -> jax.Array:
  """Online IPO whose pairs come from a mixture of policy and reference.

  `online_ipo_loss` with `rho = pi^(1 - coef) mu^coef / Z`, its gradient
  stopped. Following the gradient stops where rho is the equilibrium of
  strength `tau / (1 - coef)` and `pi = mu exp(P rho / tau) / Z`, which is the
  equilibrium of strength tau for coef = 0 only.

  Args:
    log_pi: `[..., V]`, the policy.
    log_ref: `[..., V]`, the reference mu.
    pref: `[..., V, V]`, `P(y > y')`.
    tau: scalar above 0.
    coef: scalar in [0, 1], the reference's share.

  Returns:
    `[...]`.

  Raises:
    AssertionError: the policies' shapes differ.
    ValueError: pref does not fit log_pi, tau is not above 0, or coef is
      outside [0, 1].

  >>> pref = jnp.array([[.5, .8], [.2, .5]])
  >>> ref = jnp.log(jnp.array([.5, .5]))
  >>> print(f"{ipo_md_loss(ref, ref, pref, .5, .25):.4f}")
  1.0000

  Reference:
    Human Alignment of Large Language Models through Online Preference
    Optimisation (2403.08635), IPO-MD.
  """
  log_sampling = nash.geometric_mixture(log_pi, log_ref, coef)
  return online_ipo_loss(log_pi, log_ref, pref, tau, log_sampling)
