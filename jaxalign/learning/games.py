# SPDX-License-Identifier: Apache-2.0
"""How the joint play of several agents fails: labels in small matrix games.

n players choose actions at once. Payoffs are one array `[n, A_1, ..., A_n]`:
player first, then everybody's action. Play is a joint distribution
`[A_1, ..., A_n]`, so that correlated play can be labelled too: that of repeated
games, for one. Leading batch axes are for `vmap`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = (
  "FAILURE_MODES",
  "FailureMode",
  "affine_common_interest",
  "expected_payoffs",
  "label_failure_mode",
  "pure_nash",
  "shared_optimum",
)

FAILURE_MODES = ("none", "miscoordination", "conflict", "collusion")


class FailureMode(NamedTuple):
  """A label, and what it was found by.

  Attributes:
    label: int32 `[]`, an index of `FAILURE_MODES`.
    welfare: `[]`, of the play: the sum of the players' expected payoffs.
    best_welfare: `[]`, the largest of any outcome.
    nash_welfare: `[]`, the largest of any pure Nash equilibrium; -inf if there
      is none.
    principal_value: `[]`, the principal's expected payoff.
    nash_principal_value: `[]`, the principal's least in a pure Nash
      equilibrium; +inf if there is none.
  """

  label: jax.Array
  welfare: jax.Array
  best_welfare: jax.Array
  nash_welfare: jax.Array
  principal_value: jax.Array
  nash_principal_value: jax.Array


def _payoffs(payoffs: jax.Array) -> jax.Array:
  checks.check_float(payoffs=payoffs)
  players = payoffs.shape[0] if payoffs.ndim else 0
  if players < 1 or payoffs.ndim != players + 1:
    raise ValueError(
      f"payoffs must be [n, A_1, ..., A_n], was {payoffs.shape}: one array of"
      " everybody's actions for each of n players"
    )
  return numerics.as_float(payoffs)


def _at_least(x: jax.Array, y: jax.Array) -> jax.Array:
  """Whether x >= y but for rounding."""
  scale = jnp.maximum(jnp.max(jnp.abs(x)), 1)
  return x >= y - 8 * jnp.finfo(x.dtype).eps * scale


def expected_payoffs(payoffs: jax.Array, play: jax.Array) -> jax.Array:
  """What each player gets on average; the sum is welfare.

  Args:
    payoffs: `[n, A_1, ..., A_n]`.
    play: `[A_1, ..., A_n]`, joint probabilities.

  Returns:
    `[n]`.

  Raises:
    AssertionError: shapes differ, or no floats.
    ValueError: payoffs of another rank.

  >>> dilemma = jnp.array([[[3., 0.], [4., 1.]], [[3., 4.], [0., 1.]]])
  >>> expected_payoffs(dilemma, jnp.full((2, 2), .25)).tolist()
  [2.0, 2.0]

  Reference:
    Osborne and Rubinstein, A Course in Game Theory (1994).
  """
  payoffs = _payoffs(payoffs)
  checks.check_same_shape(play=play, payoffs_of_one=payoffs[0])
  checks.check_float(play=play)
  return jnp.sum(payoffs * play, range(1, payoffs.ndim))


def pure_nash(payoffs: jax.Array) -> jax.Array:
  """Which outcomes are pure Nash equilibria: nobody gains by deviating alone.

  Args:
    payoffs: `[n, A_1, ..., A_n]`.

  Returns:
    bool `[A_1, ..., A_n]`.

  Raises:
    AssertionError: no floats.
    ValueError: payoffs of another rank.

  >>> dilemma = jnp.array([[[3., 0.], [4., 1.]], [[3., 4.], [0., 1.]]])
  >>> pure_nash(dilemma).tolist()
  [[False, False], [False, True]]

  Reference:
    Osborne and Rubinstein, A Course in Game Theory (1994).
  """
  payoffs = _payoffs(payoffs)
  best = [
    _at_least(own, jnp.max(own, player, keepdims=True))
    for player, own in enumerate(payoffs)
  ]
  return jnp.all(jnp.stack(best), 0)


def affine_common_interest(payoffs: jax.Array) -> jax.Array:
  """Whether all payoffs are one up to positive affine maps.

  Payoffs without their mean, divided by their norm, are then equal.

  Args:
    payoffs: `[n, A_1, ..., A_n]`.

  Returns:
    bool `[]`. Only constants are maps of a constant.

  Raises:
    AssertionError: no floats.
    ValueError: payoffs of another rank.

  >>> shared = jnp.array([[4., 0.], [0., 2.]])
  >>> bool(affine_common_interest(jnp.stack([shared, 3 * shared - 1])))
  True

  Reference:
    Multi-Agent Risks from Advanced AI (2502.14143), for the distinction; the
    test is ours.
  """
  payoffs = _payoffs(payoffs)
  flat = payoffs.reshape(payoffs.shape[0], -1)
  centred = flat - jnp.mean(flat, -1, keepdims=True)
  norm = jnp.sqrt(jnp.sum(centred**2, -1, keepdims=True))
  rounding = jnp.max(jnp.abs(flat), -1, keepdims=True) * (
    64 * jnp.finfo(flat.dtype).eps
  )
  varies = norm > rounding
  safe = jnp.where(varies, norm, 1)
  unit = jnp.where(varies, centred / safe, 0)
  error = jnp.where(varies, rounding / safe, 0)
  return jnp.all(jnp.abs(unit - unit[0]) <= error + error[0])


def shared_optimum(payoffs: jax.Array) -> jax.Array:
  """Whether some outcome is everybody's best: a game of common interests.

  True where payoffs agree up to positive affine maps, but not only there: in
  the stag hunt all like the stag best, though a lone hunter envies the other.

  Args:
    payoffs: `[n, A_1, ..., A_n]`.

  Returns:
    bool `[]`.

  Raises:
    AssertionError: no floats.
    ValueError: payoffs of another rank.

  >>> stag_hunt = jnp.array([[[4., 0.], [3., 2.]], [[4., 3.], [0., 2.]]])
  >>> bool(shared_optimum(stag_hunt)), bool(affine_common_interest(stag_hunt))
  (True, False)

  Reference:
    Aumann and Sorin, Cooperation and bounded recall (1989), games of common
    interests.
  """
  payoffs = _payoffs(payoffs)
  outcomes = tuple(range(1, payoffs.ndim))
  best = _at_least(payoffs, jnp.max(payoffs, outcomes, keepdims=True))
  return jnp.any(jnp.all(best, 0))


def label_failure_mode(
  payoffs: jax.Array,
  principal: jax.Array,
  play: jax.Array,
  *,
  eps: float = 0.05,
) -> FailureMode:
  """Names how joint play fails its players, or their principal.

  Welfare W is the sum of the players' expected payoffs, W* that of the best
  outcome.

  - collusion: W exceeds that of every pure Nash equilibrium, and the principal
    gets less than in any of them. It is looked for first: play on the way from
    an equilibrium to W* is no failure to agree.
  - miscoordination: W < W*, though one outcome is everybody's best.
  - conflict: W < W*, and no outcome is.

  All by more than eps. Where there is no pure equilibrium nothing is collusion.
  Labels take the players' side: firms that compete are in conflict.

  Args:
    payoffs: `[n, A_1, ..., A_n]`, of the players.
    principal: `[A_1, ..., A_n]`, payoff of whom they serve, or of the public.
    play: `[A_1, ..., A_n]`, joint probabilities.
    eps: slack, at least 0, in units of payoff.

  Returns:
    `FailureMode`.

  Raises:
    AssertionError: shapes differ, or no floats.
    ValueError: payoffs of another rank, or eps below 0.

  >>> dilemma = jnp.array([[[3., 0.], [4., 1.]], [[3., 4.], [0., 1.]]])
  >>> defect = jnp.zeros((2, 2)).at[1, 1].set(1.)
  >>> found = label_failure_mode(dilemma, dilemma.sum(0), defect)
  >>> FAILURE_MODES[int(found.label)], float(found.welfare)
  ('conflict', 2.0)

  Reference:
    Multi-Agent Risks from Advanced AI (2502.14143), the three failure modes;
    the labels are ours.
  """
  if eps < 0:
    raise ValueError(f"eps must be at least 0, was {eps}")
  payoffs = _payoffs(payoffs)
  checks.check_same_shape(principal=principal, play=play)
  checks.check_float(principal=principal)
  outcome_welfare = jnp.sum(payoffs, 0)
  nash = pure_nash(payoffs)
  welfare = jnp.sum(expected_payoffs(payoffs, play))
  value = jnp.sum(principal * play)
  best = jnp.max(outcome_welfare)
  nash_welfare = jnp.max(jnp.where(nash, outcome_welfare, -jnp.inf))
  nash_value = jnp.min(jnp.where(nash, principal, jnp.inf))
  collusion = (
    jnp.any(nash) & (welfare > nash_welfare + eps) & (value < nash_value - eps)
  )
  lost = welfare < best - eps
  shared = shared_optimum(payoffs)
  label = jnp.where(
    collusion, 3, jnp.where(lost & shared, 1, jnp.where(lost, 2, 0))
  )
  return FailureMode(
    label=label.astype(jnp.int32),
    welfare=welfare,
    best_welfare=best,
    nash_welfare=nash_welfare,
    principal_value=value,
    nash_principal_value=nash_value,
  )
