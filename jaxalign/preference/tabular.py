# SPDX-License-Identifier: Apache-2.0
"""Preference losses over few outcomes, minimised in expectation, not sampled.

What a loss learns from infinitely many pairs is the minimiser of its
expectation; over n outcomes that is a function of n logits.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics
from jaxalign.preference import pairs

__all__ = (
  "PopulationMinimum",
  "minimize_population",
  "pair_weights",
  "population_loss",
)


def pair_weights(rewards: jax.Array, sampling: jax.Array) -> jax.Array:
  """How often one outcome is preferred to another, of Bradley-Terry labels.

  `W_ij = s_i s_j sigmoid(r_i - r_j)` off the diagonal, for i the winner.

  Args:
    rewards: `[..., n]`, nats.
    sampling: `[..., n]`, probabilities of drawing each outcome.

  Returns:
    `[..., n, n]`; rows are winners. Sums to `1 - sum s^2`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.

  >>> print(pair_weights(jnp.zeros(2), jnp.array([.5, .5])))
  [[0.    0.125]
   [0.125 0.   ]]

  Reference:
    Bradley and Terry (1952).
  """
  checks.check_same_shape(rewards=rewards, sampling=sampling)
  checks.check_float(rewards=rewards, sampling=sampling)
  win = jax.nn.sigmoid(rewards[..., :, None] - rewards[..., None, :])
  drawn = sampling[..., :, None] * sampling[..., None, :]
  return jnp.where(jnp.eye(rewards.shape[-1], dtype=bool), 0, drawn * win)


def population_loss(
  loss: Callable[[pairs.PairLogps], pairs.PairLoss],
  log_policy: jax.Array,
  log_ref: jax.Array,
  weights: jax.Array,
) -> jax.Array:
  """Expectation of a pairwise loss over all pairs of outcomes.

  `sum_ij W_ij loss(i chosen, j rejected)`; pairs of weight 0 are not looked at.

  Args:
    loss: of `PairLogps`, for example `functools.partial(dpo_loss, beta=1.)`.
    log_policy: `[n]`, log-probabilities of outcomes; differentiated.
    log_ref: `[n]`, the reference's.
    weights: `[n, n]`, rows are winners (see `pair_weights`).

  Returns:
    Scalar.

  Raises:
    AssertionError: shapes do not fit, or a type is not floating point.

  >>> from jaxalign.preference import pairwise
  >>> flat = jnp.log(jnp.ones(2) / 2)
  >>> weights = pair_weights(jnp.zeros(2), jnp.ones(2))
  >>> loss = population_loss(pairwise.dpo_loss, flat, flat, weights)
  >>> print(f"{loss:.4f}")  # log 2, twice half
  0.6931

  Reference:
    Direct Preference Optimization (2305.18290), section 4.
  """
  checks.check_same_shape(log_policy=log_policy, log_ref=log_ref)
  n = log_policy.shape[-1]
  checks.check_same_shape(weights=weights, pairs=jnp.zeros((n, n)))
  drawn = weights != 0  # else -inf minus -inf would reach the gradient

  def chosen(scores):
    return jnp.where(drawn, scores[:, None], 0)

  def rejected(scores):
    return jnp.where(drawn, scores[None, :], 0)

  out = loss(
    pairs.PairLogps(
      chosen(log_policy),
      rejected(log_policy),
      chosen(log_ref),
      rejected(log_ref),
      jnp.ones((n, n)),
      jnp.ones((n, n)),
    )
  )
  return numerics.masked_sum(weights * out.loss, drawn)


class PopulationMinimum(NamedTuple):
  """Where a function of few parameters is least.

  Attributes:
    x: `[n]`.
    loss: scalar.
    gradient: scalar, the gradient's largest entry in size: what is left.
  """

  x: jax.Array
  loss: jax.Array
  gradient: jax.Array


_STEPS = 0.5 ** np.arange(0.0, 40.0, 2.0)


def minimize_population(
  loss: Callable[[jax.Array], jax.Array],
  start: jax.Array,
  *,
  num_steps: int = 100,
) -> PopulationMinimum:
  """A minimum to rounding, by Newton's method with the curvature's size.

  Along each eigenvector of the Hessian the step is `-g / |curvature|`, hence
  downhill; of several lengths the one of least loss is taken. Close to the
  minimum, where losses agree to rounding, the whole step is taken as long as
  it makes the gradient smaller. Directions without curvature, such as a
  constant added to logits, stay where they start.

  Args:
    loss: `[n]` to scalar, twice differentiable; +inf outside its domain.
    start: `[n]`, with finite loss; use float64.
    num_steps: Newton steps, at least 1.

  Returns:
    `PopulationMinimum`.

  Raises:
    AssertionError: `start` is not a vector of floats.

  >>> found = minimize_population(lambda x: jnp.sum(jnp.cosh(x)), jnp.ones(2))
  >>> print(f"{found.loss:.3f}")
  2.000

  Reference:
    Nocedal and Wright, Numerical Optimization (2006), section 3.4.
  """
  checks.check_rank(1, start=start)
  checks.check_float(start=start)
  return _minimize(loss, num_steps, start)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _minimize(loss, num_steps, start):
  start = numerics.as_float(start)
  lengths = jnp.asarray(_STEPS, start.dtype)[:, None]

  def slope_twice(x):
    slope = jax.grad(loss)(x)
    return slope, slope

  # The loss stands in the program twice, here and under the lengths: tracing
  # and compiling it takes most of the time.
  def step(state, _):
    x, value, size = state
    hessian, slope = jax.jacfwd(slope_twice, has_aux=True)(x)
    curvature, basis = jnp.linalg.eigh(hessian)
    # What rounding leaves of a flat direction is no curvature.
    floor = jnp.finfo(x.dtype).eps ** 0.75 * jnp.max(jnp.abs(curvature))
    curved = jnp.abs(curvature) > floor
    along = (basis.T @ slope) / jnp.where(curved, jnp.abs(curvature), 1)
    tried = x - lengths * (basis @ jnp.where(curved, along, 0))
    values, slopes = jax.vmap(jax.value_and_grad(loss))(tried)
    sizes = jnp.max(jnp.abs(slopes), -1)
    best = jnp.argmin(jnp.where(jnp.isnan(values), jnp.inf, values))
    rounding = 64 * jnp.finfo(x.dtype).eps * (1 + jnp.abs(value))
    whole = (values[0] <= value + rounding) & (sizes[0] < size / 2)
    at = jnp.where(whole, 0, best)
    better = whole | (values[best] < value)
    moved = (tried[at], values[at], sizes[at])
    kept = jax.tree.map(lambda a, b: jnp.where(better, a, b), moved, state)
    return kept, None

  # Of the first step no length is whole: the best is taken.
  unknown = (start, jnp.full_like(start[0], jnp.inf), jnp.zeros_like(start[0]))
  found, _ = jax.lax.scan(step, unknown, length=num_steps)
  return PopulationMinimum(*found)
