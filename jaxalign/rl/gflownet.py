# SPDX-License-Identifier: Apache-2.0
"""GFlowNet losses: sample in proportion to a reward, not at its maximum.

A trajectory `s_0, ..., s_n` is a row of T >= n steps with log-probabilities
`log_pf` (forward) and `log_pb` (backward) `[..., T]`; `where` keeps the first n
of them, and padding follows. The flow of s_n is its reward, `log_rewards`
`[...]`, finite; for `R^b` pass `b log R`. Where each state has one parent, as
when tokens are written from left to right, `log_pb` is 0 and may be left out.

The residual between two states is

  d_ij = F_i + sum_{i <= k < j} (log P_F - log P_B)_k - F_j = g_i - g_j

with `g_k = F_k - sum_{m < k} (log P_F - log P_B)_m`: one cumulative sum serves
all pairs. All losses are 0 at the exact flows, where the policy is `R / Z`.
Rewards are constants, all else is differentiated.
"""

import math

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = ("db_loss", "subtb_loss", "tb_loss", "vargrad_loss")

Mask = jax.Array | None


# --- shared pieces -----------------------------------------------------------


def _steps(
  log_pf: jax.Array, log_pb: jax.Array | None, where: Mask
) -> tuple[jax.Array, jax.Array]:
  """`log P_F - log P_B` `[..., T]`, 0 on padding, and what is no padding."""
  checks.check_float(log_pf=log_pf)
  if where is None:
    where = jnp.ones(jnp.shape(log_pf), bool)
  checks.check_same_shape(log_pf=log_pf, where=where)
  steps = jnp.where(where, numerics.as_float(log_pf), 0)
  if log_pb is not None:
    checks.check_same_shape(log_pf=log_pf, log_pb=log_pb)
    checks.check_float(log_pb=log_pb)
    steps -= jnp.where(where, numerics.as_float(log_pb), 0)
  return steps, where


def _constants(log_rewards: jax.Array, steps: jax.Array) -> jax.Array:
  checks.check_float(log_rewards=log_rewards)
  one = {"log_pf[..., 0]": steps[..., 0]}
  checks.check_same_shape(log_rewards=log_rewards, **one)
  return jax.lax.stop_gradient(numerics.as_float(log_rewards))


def _potentials(
  log_flows: jax.Array,
  log_pf: jax.Array,
  log_rewards: jax.Array,
  log_pb: jax.Array | None,
  where: Mask,
) -> tuple[jax.Array, jax.Array]:
  """The g of the residuals `[..., T + 1]`, and which states are no padding."""
  steps, where = _steps(log_pf, log_pb, where)
  log_rewards = _constants(log_rewards, steps)
  checks.check_float(log_flows=log_flows)
  checks.check_same_shape(log_flows=log_flows, log_pf=log_pf)
  # From s_n on the flow is the reward; g stays what it is there.
  flows = jnp.where(where, numerics.as_float(log_flows), log_rewards[..., None])
  flows = jnp.concatenate([flows, log_rewards[..., None]], -1)
  before = jnp.cumsum(
    jnp.pad(steps, [(0, 0)] * (steps.ndim - 1) + [(1, 0)]), -1
  )
  first = jnp.ones_like(where[..., :1])
  return flows - before, jnp.concatenate([first, where], -1)


# --- losses of one trajectory ------------------------------------------------


def tb_loss(
  log_z: jax.Array,
  log_pf: jax.Array,
  log_rewards: jax.Array,
  log_pb: jax.Array | None = None,
  *,
  where: Mask = None,
) -> jax.Array:
  """Trajectory balance.

  `(log Z + sum_k (log P_F - log P_B)_k - log R)^2`. On the policy's own
  trajectories its gradient in the policy is that of `2 KL(pi||R/Z)`, whatever
  `log_z`.

  Args:
    log_z: `[...]`, log-flow of s_0, learned.
    log_pf: `[..., T]`, forward log-probabilities.
    log_rewards: `[...]`, log R, constants.
    log_pb: `[..., T]`, backward log-probabilities; 0 by default.
    where: bool `[..., T]`, steps before the end; all by default.

  Returns:
    `[...]`, one for each trajectory.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.

  >>> log_pf, log_r = jnp.log(jnp.array([[.5, .5]])), jnp.log(jnp.array([2.]))
  >>> print(jnp.round(tb_loss(jnp.log(jnp.array([8.])), log_pf, log_r), 4))
  [0.]

  Reference:
    Trajectory balance (2201.13259), section 3.
  """
  steps, _ = _steps(log_pf, log_pb, where)
  log_rewards = _constants(log_rewards, steps)
  checks.check_float(log_z=log_z)
  checks.check_same_shape(log_z=log_z, log_rewards=log_rewards)
  return (numerics.as_float(log_z) + jnp.sum(steps, -1) - log_rewards) ** 2


def db_loss(
  log_flows: jax.Array,
  log_pf: jax.Array,
  log_rewards: jax.Array,
  log_pb: jax.Array | None = None,
  *,
  where: Mask = None,
) -> jax.Array:
  """Detailed balance, averaged over the steps of a trajectory.

  `mean_k d_{k,k+1}^2`.

  Args:
    log_flows: `[..., T]`, F of s_0 to s_{n-1}, learned.
    log_pf: `[..., T]`, forward log-probabilities.
    log_rewards: `[...]`, log R, the flow of s_n, constants.
    log_pb: `[..., T]`, backward log-probabilities; 0 by default.
    where: bool `[..., T]`, steps before the end; all by default.

  Returns:
    `[...]`, one for each trajectory; 0 for one without steps.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.

  >>> log_pf, log_r = jnp.log(jnp.array([.5, .5])), jnp.log(2.)
  >>> print(f"{db_loss(jnp.log(jnp.array([8., 4.])), log_pf, log_r):.4f}")
  0.0000

  Reference:
    GFlowNet Foundations (2111.09266); in the notation of SubTB (2209.12782).
  """
  g, live = _potentials(log_flows, log_pf, log_rewards, log_pb, where)
  errors = (g[..., :-1] - g[..., 1:]) ** 2
  return numerics.masked_mean(errors, live[..., 1:], -1)


def subtb_loss(
  log_flows: jax.Array,
  log_pf: jax.Array,
  log_rewards: jax.Array,
  log_pb: jax.Array | None = None,
  *,
  lam: float = 0.9,
  where: Mask = None,
) -> jax.Array:
  """Subtrajectory balance over all pairs of states.

  `sum_{i<j} lam^(j-i) d_ij^2 / sum_{i<j} lam^(j-i)`: `db_loss` for lam to 0,
  `tb_loss` for lam to infinity. Memory grows with the square of T.

  Args:
    log_flows: `[..., T]`, F of s_0 to s_{n-1}, learned.
    log_pf: `[..., T]`, forward log-probabilities.
    log_rewards: `[...]`, log R, the flow of s_n, constants.
    log_pb: `[..., T]`, backward log-probabilities; 0 by default.
    lam: above 0.
    where: bool `[..., T]`, steps before the end; all by default.

  Returns:
    `[...]`, one for each trajectory; 0 for one without steps.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: lam is not positive.

  >>> log_pf, log_r = jnp.log(jnp.array([.5, .5])), jnp.log(2.)
  >>> print(f"{subtb_loss(jnp.log(jnp.array([8., 4.])), log_pf, log_r):.4f}")
  0.0000

  Reference:
    Learning GFlowNets from partial episodes (2209.12782), SubTB(lambda).
  """
  checks.check_positive(lam=lam)
  g, live = _potentials(log_flows, log_pf, log_rewards, log_pb, where)
  state = jnp.arange(g.shape[-1], dtype=g.dtype)
  span = state - state[:, None]
  pairs = live[..., None, :] & (span > 0)  # [..., i, j]; j is live: so is i
  scale = jnp.where(pairs, span * math.log(lam), 0)
  weights = jnp.exp(_normalised(scale, pairs))
  errors = (g[..., :, None] - g[..., None, :]) ** 2
  return jnp.sum(weights * jnp.where(pairs, errors, 0), (-2, -1))


def _normalised(scores: jax.Array, pairs: jax.Array) -> jax.Array:
  """Log-weights of sum 1 over the last two axes, which neither overflow."""
  size = *pairs.shape[:-2], -1
  flat = numerics.masked_log_softmax(scores.reshape(size), pairs.reshape(size))
  return flat.reshape(pairs.shape)


# --- losses of a group -------------------------------------------------------


def vargrad_loss(
  log_pf: jax.Array,
  log_rewards: jax.Array,
  log_pb: jax.Array | None = None,
  *,
  where: Mask = None,
) -> jax.Array:
  """Variance of the log-weights: trajectory balance without a Z. Group-level.

  `(u - mean u)^2` with `u = sum_k (log P_F - log P_B)_k - log R`, the mean over
  the G trajectories of one prompt. On the policy's own trajectories the
  expected gradient of its average is that of `2 (G-1)/G KL(pi||R/Z)`.

  Args:
    log_pf: `[..., G, T]`, forward log-probabilities.
    log_rewards: `[..., G]`, log R, constants.
    log_pb: `[..., G, T]`, backward log-probabilities; 0 by default.
    where: bool `[..., G, T]`, steps before the end; all by default.

  Returns:
    `[..., G]`, one for each trajectory.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.

  >>> log_pf = jnp.log(jnp.array([[.2], [.8]]))
  >>> print(jnp.round(vargrad_loss(log_pf, jnp.log(jnp.array([1., 4.]))), 4))
  [0. 0.]

  Reference:
    VarGrad (2010.10436); Flow of Reasoning (2406.05673), section 3.
  """
  steps, _ = _steps(log_pf, log_pb, where)
  u = jnp.sum(steps, -1) - _constants(log_rewards, steps)
  return (u - jnp.mean(u, -1, keepdims=True)) ** 2
