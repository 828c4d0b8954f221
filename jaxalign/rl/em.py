# SPDX-License-Identifier: Apache-2.0
"""Policy improvement as expectation maximisation: MPO and V-MPO.

The E-step weights samples by their values, at a temperature that a dual keeps
to a distance epsilon; the M-step raises the log-likelihood of the samples by
these weights, at a KL from the old policy that a multiplier keeps. Both steps
are minimised together with

  loss = dual + mpo_loss

in the policy, the temperature and the multiplier: each term moves one of them
alone. Temperature and multiplier must stay positive, which is up to their
parametrisation.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.rl import regression

__all__ = (
  "WeightsAndDual",
  "mpo_loss",
  "mpo_weights_and_dual",
  "vmpo_weights_and_dual",
)

Mask = jax.Array | None


class WeightsAndDual(NamedTuple):
  """An E-step.

  Attributes:
    weights: `[..., S]`, at least 0, of sum 1; carry no gradient.
    dual: `[...]`, to be minimised in the temperature, its only gradient.
  """

  weights: jax.Array
  dual: jax.Array


def _tilt(
  values: jax.Array, temperature: jax.Array, epsilon: float, where: jax.Array
) -> WeightsAndDual:
  """Weights `exp(values / temperature)` over what is kept, and their dual."""
  values = jax.lax.stop_gradient(jnp.where(where, values, 0))
  scaled = values / temperature[..., None]
  count = jnp.sum(where, -1)
  log_sum = numerics.masked_logsumexp(scaled, where, -1)
  log_mean = jnp.where(count > 0, log_sum, 0) - jnp.log(jnp.maximum(count, 1))
  dual = jnp.where(count > 0, temperature * (epsilon + log_mean), 0)
  weights = jnp.exp(numerics.masked_log_softmax(scaled, where))
  # An integer count must not widen the type.
  return WeightsAndDual(
    jax.lax.stop_gradient(weights), dual.astype(scaled.dtype)
  )


def _inputs(
  name: str,
  values: jax.Array,
  temperature: float | jax.Array,
  epsilon: float,
  where: Mask,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  checks.check_float(**{name: values})
  checks.check_positive(temperature=temperature, epsilon=epsilon)
  if where is None:
    where = jnp.ones(jnp.shape(values), bool)
  checks.check_same_shape(**{name: values, "where": where})
  values = numerics.as_float(values)
  temperature = jnp.asarray(temperature, values.dtype)
  if temperature.ndim:
    one = {f"{name}[..., 0]": values[..., 0]}
    checks.check_same_shape(temperature=temperature, **one)
  return values, jnp.broadcast_to(temperature, values.shape[:-1]), where


# --- E-steps -----------------------------------------------------------------


def mpo_weights_and_dual(
  q_values: jax.Array,
  temperature: float | jax.Array,
  *,
  epsilon: float,
  where: Mask = None,
) -> WeightsAndDual:
  """MPO's E-step over S actions of a state.

  `w = softmax(Q / eta)` and the dual `eta epsilon + eta (log sum exp(Q / eta) -
  log S)`, whose minimum in eta is where `KL(w||uniform) = epsilon`; it has one
  unless epsilon is above the log of S over the number of best actions.

  Args:
    q_values: `[..., S]`, Q of actions of the old policy, constants.
    temperature: eta, a number or `[...]`, above 0.
    epsilon: nats, above 0.
    where: bool `[..., S]`, actions to keep; all by default.

  Returns:
    `WeightsAndDual`; both are 0 for a state without actions.

  Raises:
    AssertionError: shapes differ, or Q is not floating point.
    ValueError: temperature or epsilon is not positive.

  >>> weights, dual = mpo_weights_and_dual(jnp.array([0., 1.]), 1., epsilon=.1)
  >>> print(f"{weights[0]:.4f} {weights[1]:.4f} {dual:.4f}")
  0.2689 0.7311 0.7201

  Reference:
    Maximum a Posteriori Policy Optimisation (1806.06920), the E-step.
  """
  inputs = _inputs("q_values", q_values, temperature, epsilon, where)
  values, temperature, where = inputs
  return _tilt(values, temperature, epsilon, where)


def vmpo_weights_and_dual(
  advantages: jax.Array,
  temperature: float | jax.Array,
  *,
  epsilon: float,
  fraction: float = 0.5,
  where: Mask = None,
) -> WeightsAndDual:
  """V-MPO's E-step over a batch, the better half of it. Batch-level.

  `w = softmax(A / eta)` over the samples of the highest advantages, 0 for the
  others; the dual is MPO's over the same samples. Of N samples kept, the best
  `floor(fraction N)` count, at least one; ties with the last of them count too.

  Args:
    advantages: `[..., S]`, A, constants; the last axis is the batch.
    temperature: eta, a number or `[...]`, above 0.
    epsilon: nats, above 0.
    fraction: of the samples that count, in (0, 1].
    where: bool `[..., S]`, samples to keep; all by default.

  Returns:
    `WeightsAndDual`; both are 0 for a batch without samples.

  Raises:
    AssertionError: shapes differ, or A is not floating point.
    ValueError: temperature or epsilon is not positive, or the fraction is not
      in (0, 1].

  >>> A = jnp.array([-1., 2., 0., 2.])
  >>> print(vmpo_weights_and_dual(A, 1., epsilon=.1).weights)
  [0.  0.5 0.  0.5]

  Reference:
    V-MPO (1909.12238), the E-step.
  """
  if not 0 < fraction <= 1:
    raise ValueError(f"fraction must be in (0, 1], was {fraction}")
  inputs = _inputs("advantages", advantages, temperature, epsilon, where)
  values, temperature, where = inputs
  ranked = -jnp.sort(-jnp.where(where, values, -jnp.inf), -1)
  count = jnp.floor(fraction * jnp.sum(where, -1, keepdims=True))
  place = jnp.maximum(count.astype(jnp.int32) - 1, 0)
  threshold = jnp.take_along_axis(ranked, place, -1)
  best = where & (jnp.where(where, values, 0) >= threshold)
  return _tilt(values, temperature, epsilon, best)


# --- M-step ------------------------------------------------------------------


def mpo_loss(
  log_probs: jax.Array,
  weights: jax.Array,
  kl: jax.Array,
  multiplier: float | jax.Array,
  *,
  epsilon: float,
) -> jax.Array:
  """The M-step of MPO and of V-MPO, with the Lagrangian of its KL bound.

  `-sum_i w_i log pi_i + sg(alpha) KL + alpha (epsilon - sg(KL))`: the policy
  sees the KL as a penalty, the multiplier alpha grows while the KL is above
  epsilon. For several bounds, each with a multiplier of its own, add the other
  Lagrangians.

  Args:
    log_probs: `[..., S]`, log pi of the samples, differentiated.
    weights: `[..., S]`, of the E-step, constants. Where they are 0, log pi may
      be anything.
    kl: `[...]`, nats, `KL(old||pi)`, differentiated: of the state for MPO, the
      mean over the batch for V-MPO.
    multiplier: alpha, a number or `[...]`, above 0.
    epsilon: nats, above 0.

  Returns:
    `[...]`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: the multiplier or epsilon is not positive.

  >>> log_probs, weights = jnp.log(jnp.array([.5, .5])), jnp.array([.2, .8])
  >>> loss = mpo_loss(log_probs, weights, jnp.array(.3), 2., epsilon=.1)
  >>> print(f"{loss:.4f}")
  0.8931

  Reference:
    Maximum a Posteriori Policy Optimisation (1806.06920) and V-MPO
    (1909.12238), the M-steps.
  """
  checks.check_same_shape(log_probs=log_probs, weights=weights)
  checks.check_same_shape(**{"log_probs[..., 0]": log_probs[..., 0], "kl": kl})
  checks.check_float(log_probs=log_probs, weights=weights, kl=kl)
  checks.check_positive(multiplier=multiplier, epsilon=epsilon)
  fit = jnp.sum(regression.weighted_likelihood_loss(log_probs, weights), -1)
  kl = numerics.as_float(kl)
  alpha = jnp.asarray(multiplier, kl.dtype)
  if alpha.ndim:
    checks.check_same_shape(multiplier=alpha, kl=kl)
  fixed_alpha, fixed_kl = jax.lax.stop_gradient((alpha, kl))
  return fit + fixed_alpha * kl + alpha * (epsilon - fixed_kl)
