# SPDX-License-Identifier: Apache-2.0
"""Value targets of trajectories: GAE, lambda-returns, V-trace, UPGO.

One trajectory is a row of T steps: `rewards` and `discounts` `[..., T]`, the
discount being `gamma (1 - done)`, and `values` `[..., T + 1]`, the last of them
for what follows the last step. Where a discount is 0 nothing follows, whatever
its value says.

`where` drops steps, at the end (padding) or in between (tokens that the policy
did not write), as if they had never been: a step's next value, and what it
accumulates, are those of the next step that is kept. What stands on a dropped
step, NaN included, changes neither value nor gradient; the result there is 0.

Nothing here stops a gradient, except `value_loss`: targets are constants to the
losses that use them.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = (
  "VTrace",
  "gae",
  "lambda_returns",
  "upgo_returns",
  "value_loss",
  "vtrace",
)

Mask = jax.Array | None


# --- shared pieces -----------------------------------------------------------


class _Steps(NamedTuple):
  """A trajectory without what its mask drops.

  Attributes:
    rewards: `[..., T]`.
    discounts: `[..., T]`; 1 on dropped steps.
    values: `[..., T]`, V of each step's state.
    last: `[..., 1]`, V of what follows the last step.
    next_values: `[..., T]`, V of what follows each step; 0 for nothing.
    is_last: bool `[..., T]`, the last step that is kept.
    where: bool `[..., T]`, or `None`.
  """

  rewards: jax.Array
  discounts: jax.Array
  values: jax.Array
  last: jax.Array
  next_values: jax.Array
  is_last: jax.Array
  where: Mask


def _steps(
  rewards: jax.Array, discounts: jax.Array, values: jax.Array, where: Mask
) -> _Steps:
  checks.check_float(rewards=rewards, discounts=discounts, values=values)
  before = {"values[..., :-1]": values[..., :-1]}
  checks.check_same_shape(rewards=rewards, discounts=discounts, **before)
  if where is not None:
    checks.check_same_shape(rewards=rewards, where=where)
  values, last = values[..., :-1], numerics.as_float(values[..., -1:])
  rewards, values = _keep(rewards, where, 0), _keep(values, where, 0)
  discounts = _keep(discounts, where, 1)
  ends = jnp.zeros(rewards.shape, bool)
  is_last = _following(ends, jnp.ones_like(ends[..., :1]), where)
  next_values = _following(values, last, where)
  next_values = jnp.where(discounts == 0, 0, next_values)
  return _Steps(rewards, discounts, values, last, next_values, is_last, where)


def _keep(x: jax.Array, where: Mask, otherwise: float) -> jax.Array:
  """The type to compute in, and a neutral number for what is dropped."""
  x = numerics.as_float(x)
  return x if where is None else jnp.where(where, x, otherwise)


def _following(x: jax.Array, last: jax.Array, where: Mask) -> jax.Array:
  """For each step the entry of the next one kept, or `last` `[..., 1]`."""
  x = jnp.concatenate([x, last], -1)
  if where is None:
    return x[..., 1:]
  length = where.shape[-1]
  kept = jnp.where(where, jnp.arange(length), length)
  nearest = jax.lax.cummin(kept, kept.ndim - 1, reverse=True)
  none = jnp.full_like(nearest[..., :1], length)
  index = jnp.concatenate([nearest[..., 1:], none], -1)
  return jnp.take_along_axis(x, index, -1)


def _accumulate(terms: jax.Array, decays: jax.Array, where: Mask) -> jax.Array:
  """`x_t = terms_t + decays_t x_{t+1}` with `x_T = 0`, in log T rounds."""
  terms, decays = _keep(terms, where, 0), _keep(decays, where, 1)

  def join(later, earlier):
    (later_x, later_decay), (x, decay) = later, earlier
    return x + decay * later_x, decay * later_decay

  axis = terms.ndim - 1
  scan = jax.lax.associative_scan
  return _keep(
    scan(join, (terms, decays), reverse=True, axis=axis)[0], where, 0
  )


def _mixed_returns(steps: _Steps, lam: jax.typing.ArrayLike) -> jax.Array:
  """Lambda-returns, lam a number or `[..., T]`."""
  # After the last step there is but V: the mixture has one part.
  lam = jnp.where(steps.is_last, 0, jnp.asarray(lam, steps.values.dtype))
  bootstrap = steps.discounts * (1 - lam) * steps.next_values
  decays = steps.discounts * lam
  return _accumulate(steps.rewards + bootstrap, decays, steps.where)


def _check_lam(lam: float) -> None:
  if not 0 <= lam <= 1:
    raise ValueError(f"lam must be in [0, 1], was {lam}")


# --- on-policy ---------------------------------------------------------------


def gae(
  rewards: jax.Array,
  discounts: jax.Array,
  values: jax.Array,
  *,
  lam: float,
  where: Mask = None,
) -> jax.Array:
  """Generalised advantage estimates.

  `A_t = delta_t + g_t lam A_{t+1}`, `delta_t = r_t + g_t v_{t+1} - v_t`,
  `A_T = 0`. With a terminal reward, no discount and `lam = 1` they give an
  unbiased policy gradient for any v; below 1 only for the policy's own values.

  Args:
    rewards: `[..., T]`, r.
    discounts: `[..., T]`, g; 0 at a terminal step.
    values: `[..., T + 1]`, v.
    lam: in [0, 1].
    where: bool `[..., T]`, steps to keep; all by default.

  Returns:
    `[..., T]`; 0 on dropped steps.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: lam outside [0, 1].

  >>> rewards, discounts = jnp.array([0., 1.]), jnp.array([1., 0.])
  >>> gae(rewards, discounts, jnp.array([.5, .5, 9.]), lam=.5)
  Array([0.25, 0.5 ], dtype=float32)

  Reference:
    High-Dimensional Continuous Control Using Generalized Advantage Estimation
    (1506.02438), equation 16.
  """
  _check_lam(lam)
  steps = _steps(rewards, discounts, values, where)
  errors = steps.rewards + steps.discounts * steps.next_values - steps.values
  return _accumulate(errors, steps.discounts * lam, where)


def lambda_returns(
  rewards: jax.Array,
  discounts: jax.Array,
  values: jax.Array,
  *,
  lam: float,
  where: Mask = None,
) -> jax.Array:
  """The mixture of n-step returns, the targets of TD(lambda).

  `G_t = r_t + g_t ((1 - lam) v_{t+1} + lam G_{t+1})`, `G_T = v_T`: the n-step
  returns with weights `(1 - lam) lam^(n-1)`, the longest with what is left.
  Equal to `gae + v`.

  Args:
    rewards: `[..., T]`, r.
    discounts: `[..., T]`, g; 0 at a terminal step.
    values: `[..., T + 1]`, v.
    lam: in [0, 1]; 0 for one step, 1 for the whole return.
    where: bool `[..., T]`, steps to keep; all by default.

  Returns:
    `[..., T]`; 0 on dropped steps.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: lam outside [0, 1].

  >>> rewards, discounts = jnp.array([0., 1.]), jnp.array([1., 0.])
  >>> lambda_returns(rewards, discounts, jnp.array([.5, .5, 9.]), lam=.5)
  Array([0.75, 1.  ], dtype=float32)

  Reference:
    Sutton and Barto, Reinforcement Learning (2018), section 12.1.
  """
  _check_lam(lam)
  return _mixed_returns(_steps(rewards, discounts, values, where), lam)


def upgo_returns(
  rewards: jax.Array,
  discounts: jax.Array,
  values: jax.Array,
  *,
  where: Mask = None,
) -> jax.Array:
  """Upgoing returns: follow what went better than expected.

  `G_t = r_t + g_t (G_{t+1} if r_{t+1} + g_{t+1} v_{t+2} >= v_{t+1} else
  v_{t+1})`, `G_T = v_T`.

  Args:
    rewards: `[..., T]`, r.
    discounts: `[..., T]`, g; 0 at a terminal step.
    values: `[..., T + 1]`, v.
    where: bool `[..., T]`, steps to keep; all by default.

  Returns:
    `[..., T]`; 0 on dropped steps.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.

  >>> values = jnp.array([0., 2., 0., 0.])  # the second step disappoints
  >>> upgo_returns(jnp.array([0., 1., 0.]), jnp.ones(3), values)
  Array([2., 1., 0.], dtype=float32)

  Reference:
    Vinyals et al., Grandmaster level in StarCraft II using multi-agent
    reinforcement learning (2019), methods.
  """
  steps = _steps(rewards, discounts, values, where)
  found = steps.rewards + steps.discounts * steps.next_values
  better = found >= steps.values
  last = jnp.ones_like(better[..., :1])
  return _mixed_returns(steps, _following(better, last, where))


# --- off-policy --------------------------------------------------------------


class VTrace(NamedTuple):
  """Targets and advantages from the steps of another policy.

  Attributes:
    targets: `[..., T]`, vs, for `value_loss`.
    q_values: `[..., T]`, q, of the action taken.
    advantages: `[..., T]`, `min(rho_pg, rho)(q - v)`, for the policy gradient.
  """

  targets: jax.Array
  q_values: jax.Array
  advantages: jax.Array


def vtrace(
  rewards: jax.Array,
  discounts: jax.Array,
  values: jax.Array,
  log_ratios: jax.Array,
  *,
  lam: float = 1.0,
  rho_bar: float = 1.0,
  pg_rho_bar: float = 1.0,
  where: Mask = None,
) -> VTrace:
  """V-trace: clipped importance weights for values and advantages.

  With `rho = min(rho_bar, pi/mu)` and `c = lam min(1, pi/mu)`,
  `e_t = rho_t (r_t + g_t v_{t+1} - v_t) + g_t c_t e_{t+1}`, `vs = v + e` and
  `q_t = r_t + g_t (lam vs_{t+1} + (1 - lam) v_{t+1})`, `vs_T = v_T`.

  The targets' fixed point is the value of `min(rho_bar mu, pi)`, normalised:
  that of pi only if `rho_bar` is at least the largest `pi/mu`.

  Args:
    rewards: `[..., T]`, r.
    discounts: `[..., T]`, g; 0 at a terminal step.
    values: `[..., T + 1]`, v.
    log_ratios: `[..., T]`, `log pi - log mu` of the actions taken; -inf
      allowed.
    lam: in [0, 1].
    rho_bar: above 0; `math.inf` for no clip. Decides the fixed point.
    pg_rho_bar: rho_pg, above 0, of the advantages.
    where: bool `[..., T]`, steps to keep; all by default.

  Returns:
    `VTrace`; 0 on dropped steps.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: lam outside [0, 1], or a clip that is not positive.

  >>> rewards, discounts = jnp.array([0., 1.]), jnp.array([1., 0.])
  >>> values, log_ratios = jnp.array([0., .5, 9.]), jnp.log(jnp.array([2., .5]))
  >>> print(vtrace(rewards, discounts, values, log_ratios).targets)
  [0.75 0.75]

  Reference:
    IMPALA (1802.01561), equation 1 and section 4.2.
  """
  _check_lam(lam)
  checks.check_positive(rho_bar=rho_bar, pg_rho_bar=pg_rho_bar)
  checks.check_same_shape(rewards=rewards, log_ratios=log_ratios)
  checks.check_float(log_ratios=log_ratios)
  steps = _steps(rewards, discounts, values, where)
  log_ratios = _keep(log_ratios, where, 0)

  def clipped(bound):
    return jnp.exp(jnp.minimum(log_ratios, math.log(bound)))

  errors = steps.rewards + steps.discounts * steps.next_values - steps.values
  decays = steps.discounts * lam * clipped(1.0)
  corrections = _accumulate(clipped(rho_bar) * errors, decays, where)
  targets = steps.values + corrections
  after = _following(targets, steps.last, where)
  after = jnp.where(steps.discounts == 0, 0, after)
  mixed = lam * after + (1 - lam) * steps.next_values
  q_values = _keep(steps.rewards + steps.discounts * mixed, where, 0)
  advantages = clipped(pg_rho_bar) * (q_values - steps.values)
  return VTrace(targets, q_values, advantages)


# --- regression on targets ---------------------------------------------------


def value_loss(
  values: jax.Array,
  targets: jax.Array,
  old_values: jax.Array | None = None,
  *,
  clip_range: float = 0.2,
  where: Mask = None,
) -> jax.Array:
  """Squared error, the worse of the value and its clipped form.

  `.5 max((v - G)^2, (clip(v, v_old - c, v_old + c) - G)^2)`; without old
  values `.5 (v - G)^2`.

  Args:
    values: `[...]`, v, differentiated.
    targets: `[...]`, G, constants.
    old_values: `[...]`, when the samples were drawn, constants; `None` for no
      clip.
    clip_range: c, above 0.
    where: bool `[...]`, entries to keep; all by default.

  Returns:
    `[...]`, not reduced; 0 on dropped entries.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: the clip range is not positive.

  >>> v, target, old = jnp.array([1., 1.]), jnp.zeros(2), jnp.array([1., 2.])
  >>> print(jnp.round(value_loss(v, target, old), 2))
  [0.5  1.62]

  Reference:
    Implementation Matters in Deep Policy Gradients (2005.12729), section 3.
  """
  checks.check_positive(clip_range=clip_range)
  checks.check_same_shape(values=values, targets=targets)
  checks.check_float(values=values, targets=targets)
  if where is not None:
    checks.check_same_shape(values=values, where=where)
  values = _keep(values, where, 0)
  targets = jax.lax.stop_gradient(_keep(targets, where, 0))
  errors = (values - targets) ** 2
  if old_values is not None:
    checks.check_same_shape(values=values, old_values=old_values)
    checks.check_float(old_values=old_values)
    old = jax.lax.stop_gradient(_keep(old_values, where, 0))
    near = jnp.clip(values, old - clip_range, old + clip_range)
    errors = jnp.maximum(errors, (near - targets) ** 2)
  return errors / 2
