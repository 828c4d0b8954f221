# SPDX-License-Identifier: Apache-2.0
"""Nash learning: policies that no other policy is preferred to.

The game: two players draw y and y' from the policies pi and pi', and
`pref[y, y'] = P(y > y')`, with `pref + pref^T = 1`, says how often y is
preferred. Both pay tau times their KL from the reference mu. Policies are
log-probabilities `[..., V]`, -inf for outcomes without mass, and `pref` is
`[..., V, V]` with the same leading axes. The equilibrium is the only policy
with `pi* = softmax(log mu + P pi* / tau)`. Strengths and step sizes are
scalars and may be traced, so that `lax.scan` can run a schedule.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics
from jaxalign.divergences import categorical

__all__ = (
  "NashEMAState",
  "duality_gap",
  "extragradient_step",
  "geometric_mixture",
  "nash_ema_step",
  "nash_md_step",
  "regularized_preference",
  "self_play_md_step",
  "self_play_threshold",
)

Scalar = float | jax.Array


class NashEMAState(NamedTuple):
  """A policy and the running average of its logits, its opponent.

  Attributes:
    log_pi: `[..., V]`, the policy.
    log_ema: `[..., V]`, the opponent; initially the policy itself.
  """

  log_pi: jax.Array
  log_ema: jax.Array


# --- arguments, here and in nash_losses --------------------------------------


def as_policies(**log_policies: jax.Array) -> list[jax.Array]:
  """Log-policies of one shape, in their common floating-point type."""
  checks.check_float(**log_policies)
  checks.check_same_shape(**log_policies)
  policies = [numerics.as_float(x) for x in log_policies.values()]
  return [x.astype(jnp.result_type(*policies)) for x in policies]


def as_preferences(pref: jax.Array, log_pi: jax.Array) -> jax.Array:
  """Preferences `[..., V, V]` over the outcomes of a policy, in its type."""
  checks.check_float(pref=pref)
  if jnp.shape(pref) != (*log_pi.shape, log_pi.shape[-1]):
    raise ValueError(
      "pref must have one row and one column per outcome of log_pi "
      f"{log_pi.shape}, was {jnp.shape(pref)}"
    )
  return jnp.asarray(pref, log_pi.dtype)


def as_scalar(name: str, value: Scalar, dtype: jnp.dtype) -> jax.Array:
  """A number as an array of rank 0."""
  value = jnp.asarray(value, dtype)
  checks.check_rank(0, **{name: value})
  return value


def _known(value: Scalar) -> bool:
  return not isinstance(value, jax.core.Tracer)


def as_strength(tau: Scalar, dtype: jnp.dtype) -> jax.Array:
  """Tau as an array of rank 0; where its value is known, at least 0."""
  if _known(tau) and not np.all(tau >= 0):
    raise ValueError(f"tau must be at least 0, was {tau}")
  return as_scalar("tau", tau, dtype)


def _check_weight(name: str, value: Scalar) -> None:
  # tau times the step size 1 / tau may round to just above 1.
  if _known(value) and not np.all((value >= 0) & (value <= 1 + 1e-6)):
    raise ValueError(f"{name} must be in [0, 1], was {value}")


# --- the game ----------------------------------------------------------------


def _win_rates(pref: jax.Array, log_opponent: jax.Array) -> jax.Array:
  """`P(y > pi')` of every outcome y, `[..., V]`."""
  return jnp.einsum(
    "...xy,...y->...x",
    pref,
    jnp.exp(log_opponent),
    precision=jax.lax.Precision.HIGHEST,
  )


def _penalty(
  tau: jax.Array, log_pi: jax.Array, log_ref: jax.Array
) -> jax.Array:
  """`tau KL(pi||mu)`, 0 for tau = 0 also where the KL is infinite."""
  kl = categorical.kl(log_pi, log_ref)
  return tau * jnp.where((tau == 0) & (kl == jnp.inf), 0, kl)


def regularized_preference(
  log_pi: jax.Array,
  log_opponent: jax.Array,
  log_ref: jax.Array,
  pref: jax.Array,
  tau: Scalar,
) -> jax.Array:
  """How often a policy beats another one, each charged for its KL.

  `P_tau(pi > pi') = pi^T P pi' - tau KL(pi||mu) + tau KL(pi'||mu)`, so that
  `P_tau(pi > pi') + P_tau(pi' > pi) = 1`.

  Args:
    log_pi: `[..., V]`, the policy.
    log_opponent: `[..., V]`, the other policy.
    log_ref: `[..., V]`, the reference mu.
    pref: `[..., V, V]`, `P(y > y')`.
    tau: scalar, at least 0.

  Returns:
    `[...]`: -inf or +inf where one policy has mass that the reference lacks,
    NaN where both have.

  Raises:
    AssertionError: the policies' shapes differ.
    ValueError: pref does not fit log_pi, or tau is below 0.

  >>> pref = jnp.array([[.5, .8], [.2, .5]])
  >>> ref, first = jnp.log(jnp.array([[.5, .5], [1., 0.]]))
  >>> print(f"{regularized_preference(first, ref, ref, pref, .1):.4f}")
  0.5807

  Reference:
    Nash Learning from Human Feedback (2312.00886), regularised preference.
  """
  log_pi, log_opponent, log_ref = as_policies(
    log_pi=log_pi, log_opponent=log_opponent, log_ref=log_ref
  )
  pref = as_preferences(pref, log_pi)
  tau = as_strength(tau, log_pi.dtype)
  wins = jnp.sum(jnp.exp(log_pi) * _win_rates(pref, log_opponent), -1)
  paid = _penalty(tau, log_pi, log_ref)
  return wins - paid + _penalty(tau, log_opponent, log_ref)


def duality_gap(
  log_pi: jax.Array, log_ref: jax.Array, pref: jax.Array, tau: Scalar
) -> jax.Array:
  """What a best response gains against a policy, for both players.

  `max_q P_tau(q > pi) - min_q P_tau(pi > q)
  = 2 (tau logsumexp(log mu + P pi / tau) + tau KL(pi||mu) - 1/2)`, which for
  tau = 0 is `2 (max_y (P pi)_y - 1/2)` over the outcomes of mu. It is
  `2 tau KL(pi||softmax(log mu + P pi / tau))`: at least 0, and 0 at the
  equilibrium only.

  Args:
    log_pi: `[..., V]`, the policy.
    log_ref: `[..., V]`, the reference mu.
    pref: `[..., V, V]`, `P(y > y')`.
    tau: scalar, at least 0.

  Returns:
    `[...]`; +inf where tau is above 0 and the policy has mass that the
    reference lacks. Exact to rounding of 1/2, so it can be slightly negative.

  Raises:
    AssertionError: the policies' shapes differ.
    ValueError: pref does not fit log_pi, or tau is below 0.

  >>> pref = jnp.array([[.5, .8], [.2, .5]])
  >>> ref = jnp.log(jnp.array([.5, .5]))
  >>> print(f"{duality_gap(ref, ref, pref, 0.):.4f}")
  0.3000

  Reference:
    Nash Learning from Human Feedback (2312.00886), regularised preference.
  """
  log_pi, log_ref = as_policies(log_pi=log_pi, log_ref=log_ref)
  pref = as_preferences(pref, log_pi)
  tau = as_strength(tau, log_pi.dtype)
  rates, live = _win_rates(pref, log_pi), log_ref > -jnp.inf
  positive = jnp.where(tau == 0, 1, tau)
  soft = positive * numerics.masked_logsumexp(
    jnp.where(live, log_ref, 0) + rates / positive, live, -1
  )
  hard = jnp.max(jnp.where(live, rates, -jnp.inf), -1)
  best = jnp.where(tau == 0, hard, soft)
  return 2 * (best + _penalty(tau, log_pi, log_ref) - 0.5)


# --- learning by mirror descent ----------------------------------------------


def _mix(log_pi: jax.Array, log_ref: jax.Array, coef: jax.Array) -> jax.Array:
  """`(1 - coef) log_pi + coef log_ref`; `0^coef` is 0, and 1 for coef = 0."""
  some_pi, some_ref = log_pi > -jnp.inf, log_ref > -jnp.inf
  live = (some_pi | (coef == 1)) & (some_ref | (coef == 0))
  mixed = (1 - coef) * jnp.where(some_pi, log_pi, 0)
  mixed += coef * jnp.where(some_ref, log_ref, 0)
  return jnp.where(live, mixed, -jnp.inf)


def _normalize(logits: jax.Array) -> jax.Array:
  return numerics.masked_log_softmax(logits, logits > -jnp.inf)


def geometric_mixture(
  log_pi: jax.Array, log_ref: jax.Array, coef: Scalar
) -> jax.Array:
  """The geometric mixture of two policies, `pi^(1-coef) mu^coef / Z`.

  Args:
    log_pi: `[..., V]`, the policy, the whole at coef = 0.
    log_ref: `[..., V]`, the reference mu, the whole at coef = 1.
    coef: scalar in [0, 1].

  Returns:
    `[..., V]`: log-probabilities. An outcome that either policy lacks has
    none, save at coef = 0 and 1; a row without outcomes is all -inf.

  Raises:
    AssertionError: shapes differ.
    ValueError: coef outside [0, 1].

  >>> p, q = jnp.log(jnp.array([[.8, .2], [.5, .5]]))
  >>> print(jnp.round(jnp.exp(geometric_mixture(p, q, .5)), 4))
  [0.6667 0.3333]

  Reference:
    Nash Learning from Human Feedback (2312.00886), Nash-MD.
  """
  log_pi, log_ref = as_policies(log_pi=log_pi, log_ref=log_ref)
  _check_weight("coef", coef)
  return _normalize(
    _mix(log_pi, log_ref, as_scalar("coef", coef, log_pi.dtype))
  )


def _mirror_step(
  log_pi: jax.Array,
  log_opponent: jax.Array,
  log_ref: jax.Array,
  pref: jax.Array,
  tau: jax.Array,
  eta: jax.Array,
) -> jax.Array:
  """`pi^(1 - eta tau) mu^(eta tau) exp(eta P pi') / Z`, opponent pi'."""
  mixed = _mix(log_pi, log_ref, eta * tau)
  return _normalize(mixed + eta * _win_rates(pref, log_opponent))


def _step_arguments(
  log_policies: dict[str, jax.Array],
  pref: jax.Array,
  tau: Scalar,
  eta: Scalar,
) -> tuple[list[jax.Array], jax.Array, jax.Array, jax.Array]:
  policies = as_policies(**log_policies)
  pref, dtype = as_preferences(pref, policies[0]), policies[0].dtype
  checks.check_positive(eta=eta)
  return policies, pref, as_strength(tau, dtype), as_scalar("eta", eta, dtype)


def nash_md_step(
  log_pi: jax.Array,
  log_ref: jax.Array,
  pref: jax.Array,
  tau: Scalar,
  eta: Scalar,
) -> jax.Array:
  """One step of Nash-MD: mirror descent against a mixture with the reference.

  `pi_mu = pi^(1 - eta tau) mu^(eta tau) / Z`, then
  `pi_next = pi_mu exp(eta P(. > pi_mu)) / Z`. Each step has
  `KL(pi*||pi_next) <= (1 - eta tau) KL(pi*||pi) + 2 eta^2`; with
  `eta_t = 2 / (tau (t + 2))`, t = 0, 1, ..., T steps reach
  `KL(pi*||pi_T) <= 8 / (tau^2 (T + 1))`. A constant eta converges to
  `mu exp(P rho / tau) / Z` with rho the equilibrium of strength
  `tau / (1 - eta tau)`, not to pi*: the opponent is the mixture.

  Args:
    log_pi: `[..., V]`, the policy.
    log_ref: `[..., V]`, the reference mu.
    pref: `[..., V, V]`, `P(y > y')`.
    tau: scalar, at least 0.
    eta: the step size, scalar above 0 and at most 1 / tau.

  Returns:
    `[..., V]`: the next policy's log-probabilities.

  Raises:
    AssertionError: the policies' shapes differ.
    ValueError: pref does not fit log_pi, or tau or eta is outside its range.

  >>> pref = jnp.array([[.5, .8], [.2, .5]])
  >>> ref = jnp.log(jnp.array([.5, .5]))
  >>> print(jnp.round(jnp.exp(nash_md_step(ref, ref, pref, .1, 1.)), 4))
  [0.5744 0.4256]

  Reference:
    Nash Learning from Human Feedback (2312.00886), Nash-MD.
  """
  _check_weight("eta * tau", eta * tau)
  (log_pi, log_ref), pref, tau, eta = _step_arguments(
    {"log_pi": log_pi, "log_ref": log_ref}, pref, tau, eta
  )
  mixture = _normalize(_mix(log_pi, log_ref, eta * tau))
  return _normalize(mixture + eta * _win_rates(pref, mixture))


def self_play_md_step(
  log_pi: jax.Array,
  log_ref: jax.Array,
  pref: jax.Array,
  tau: Scalar,
  eta: Scalar,
) -> jax.Array:
  """One step of regularised mirror descent against the policy itself.

  `pi_next = pi^(1 - eta tau) mu^(eta tau) exp(eta P pi) / Z`. Its fixed point
  is pi*, attractive only below `self_play_threshold`. At tau = 0 it is
  multiplicative weights.

  Args:
    log_pi: `[..., V]`, the policy.
    log_ref: `[..., V]`, the reference mu.
    pref: `[..., V, V]`, `P(y > y')`.
    tau: scalar, at least 0.
    eta: the step size, scalar above 0.

  Returns:
    `[..., V]`: the next policy's log-probabilities.

  Raises:
    AssertionError: the policies' shapes differ.
    ValueError: pref does not fit log_pi, or tau or eta is outside its range.

  >>> pref = jnp.array([[.5, .8], [.2, .5]])
  >>> ref = jnp.log(jnp.array([.5, .5]))
  >>> print(jnp.round(jnp.exp(self_play_md_step(ref, ref, pref, 0., 1.)), 4))
  [0.5744 0.4256]

  Reference:
    Nash Learning from Human Feedback (2312.00886), regularised self-play.
  """
  (log_pi, log_ref), pref, tau, eta = _step_arguments(
    {"log_pi": log_pi, "log_ref": log_ref}, pref, tau, eta
  )
  return _mirror_step(log_pi, log_pi, log_ref, pref, tau, eta)


def self_play_threshold(
  log_pi: jax.Array, pref: jax.Array, tau: Scalar
) -> jax.Array:
  """The step size below which self-play converges to an equilibrium nearby.

  `2 tau / (tau^2 + omega^2)` with omega the spectral radius of
  `S^(1/2) (P - 1/2) S^(1/2)`, `S = diag(pi) - pi pi^T`, at the equilibrium:
  the modulus of `1 - eta tau + i eta omega` is 1 there.

  Args:
    log_pi: `[..., V]`, the regularised equilibrium.
    pref: `[..., V, V]`, `P(y > y')`.
    tau: scalar above 0.

  Returns:
    `[...]`: the largest stable step size.

  Raises:
    ValueError: pref does not fit log_pi, or tau is not above 0.

  >>> pref = jnp.array([[.5, .8, .2], [.2, .5, .8], [.8, .2, .5]])
  >>> uniform = jnp.log(jnp.ones(3) / 3)
  >>> print(f"{self_play_threshold(uniform, pref, .02):.4f}")
  1.3158

  Reference:
    Nash Learning from Human Feedback (2312.00886), regularised self-play;
    linearised at its fixed point.
  """
  (log_pi,) = as_policies(log_pi=log_pi)
  pref = as_preferences(pref, log_pi)
  checks.check_positive(tau=tau)
  tau = as_scalar("tau", tau, log_pi.dtype)
  root = jnp.exp(log_pi / 2)
  # factor factor^T = S, because sum pi = 1 makes the bracket a projection.
  identity = jnp.eye(log_pi.shape[-1], dtype=log_pi.dtype)
  bracket = identity - root[..., :, None] * root[..., None, :]
  factor = root[..., :, None] * bracket
  skew = jnp.einsum(
    "...xi,...xy,...yj->...ij",
    factor,
    pref - 0.5,
    factor,
    precision=jax.lax.Precision.HIGHEST,
  )
  # i times a skew matrix is Hermitian: its eigenvalues are the frequencies.
  omega = jnp.linalg.eigvalsh(1j * skew)[..., -1]
  return 2 * tau / (tau**2 + omega**2)


def extragradient_step(
  log_pi: jax.Array,
  log_ref: jax.Array,
  pref: jax.Array,
  tau: Scalar,
  eta: Scalar,
) -> jax.Array:
  """One extragradient step: looks ahead, then steps from where it stood.

  `half = pi^(1 - eta tau) mu^(eta tau) exp(eta P pi) / Z`, then
  `pi_next = pi^(1 - eta tau) mu^(eta tau) exp(eta P half) / Z`. The last
  iterate converges linearly to pi*.

  Args:
    log_pi: `[..., V]`, the policy.
    log_ref: `[..., V]`, the reference mu.
    pref: `[..., V, V]`, `P(y > y')`.
    tau: scalar, at least 0.
    eta: the step size, scalar above 0.

  Returns:
    `[..., V]`: the next policy's log-probabilities.

  Raises:
    AssertionError: the policies' shapes differ.
    ValueError: pref does not fit log_pi, or tau or eta is outside its range.

  >>> pref = jnp.array([[.5, .8], [.2, .5]])
  >>> ref = jnp.log(jnp.array([.5, .5]))
  >>> print(jnp.round(jnp.exp(extragradient_step(ref, ref, pref, .1, 1.)), 4))
  [0.5744 0.4256]

  Reference:
    EGPO (2503.08942), in the standard form of the extragradient method.
  """
  (log_pi, log_ref), pref, tau, eta = _step_arguments(
    {"log_pi": log_pi, "log_ref": log_ref}, pref, tau, eta
  )
  half = _mirror_step(log_pi, log_pi, log_ref, pref, tau, eta)
  return _mirror_step(log_pi, half, log_ref, pref, tau, eta)


def nash_ema_step(
  state: NashEMAState,
  log_ref: jax.Array,
  pref: jax.Array,
  tau: Scalar,
  eta: Scalar,
  decay: Scalar,
) -> NashEMAState:
  """One step of regularised mirror descent against an average of the past.

  `pi_next = pi^(1 - eta tau) mu^(eta tau) exp(eta P ema) / Z`, then
  `ema_next = ema^decay pi_next^(1 - decay) / Z`, which averages the logits.
  decay = 0 is self-play, decay = 1 has a fixed opponent.

  Args:
    state: the policy and its opponent, `[..., V]` each.
    log_ref: `[..., V]`, the reference mu.
    pref: `[..., V, V]`, `P(y > y')`.
    tau: scalar, at least 0.
    eta: the step size, scalar above 0.
    decay: scalar in [0, 1].

  Returns:
    The next state.

  Raises:
    AssertionError: the policies' shapes differ.
    ValueError: pref does not fit the policies, or tau, eta or decay is outside
      its range.

  >>> pref = jnp.array([[.5, .8], [.2, .5]])
  >>> ref = jnp.log(jnp.array([.5, .5]))
  >>> state = nash_ema_step(NashEMAState(ref, ref), ref, pref, .1, 1., .5)
  >>> print(*(jnp.round(jnp.exp(x), 4) for x in state))
  [0.5744 0.4256] [0.5374 0.4626]

  Reference:
    Nash Learning from Human Feedback (2312.00886), Nash-EMA.
  """
  _check_weight("decay", decay)
  (log_pi, log_ema, log_ref), pref, tau, eta = _step_arguments(
    {"log_pi": state.log_pi, "log_ema": state.log_ema, "log_ref": log_ref},
    pref,
    tau,
    eta,
  )
  log_pi = _mirror_step(log_pi, log_ema, log_ref, pref, tau, eta)
  return NashEMAState(log_pi, geometric_mixture(log_pi, log_ema, decay))
