# SPDX-License-Identifier: Apache-2.0
"""Learning from k data sets with a finite class: LazyHedge on stored data."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.learning import on_demand_sampling

__all__ = ("LazyHedgeERM", "finite_class_erm", "lazy_hedge_erm")


class LazyHedgeERM(NamedTuple):
  """A mixture of hypotheses for k distributions, and the data that it took.

  Attributes:
    mixture: `[N]`, how often each hypothesis was the best of a step.
    rounds: int32 `[]`, of sampling, the first included.
    samples: int32 `[k]`, used of each distribution.
    missing: int32 `[k]`, wanted beyond what there was; 0 everywhere if the
      guarantee is to hold.
    average: `[k]`, mean of the weights of all steps.
  """

  mixture: jax.Array
  rounds: jax.Array
  samples: jax.Array
  missing: jax.Array
  average: jax.Array


def finite_class_erm(weights: jax.Array, losses: jax.Array) -> jax.Array:
  """The hypothesis of least loss on a mixture of distributions.

  Args:
    weights: `[..., k]`, of the mixture.
    losses: `[..., N, k]`, mean loss of each hypothesis on each distribution.

  Returns:
    int32 `[...]`, the index of the first that is best.

  Raises:
    AssertionError: shape or type.

  >>> losses = jnp.array([[1., 0.], [.2, .2]])
  >>> int(finite_class_erm(jnp.array([.5, .5]), losses))
  1

  Reference:
    Few-round multi-distribution learning (2511.15507), the agnostic setting.
  """
  checks.check_same_shape(weights=weights, losses_of_one=losses[..., 0, :])
  checks.check_float(weights=weights, losses=losses)
  # Not a matrix product: accelerators would round its factors.
  return jnp.argmin(jnp.sum(weights[..., None, :] * losses, -1), -1)


def _prefix_sums(losses: jax.Array, where: jax.Array) -> jax.Array:
  """Sums `[N, k, n + 1]` of the first 0, 1, ... losses that count."""
  order = jnp.argsort(~where, -1, stable=True)
  losses = jnp.take_along_axis(jnp.where(where, losses, 0), order[None], -1)
  return jnp.pad(jnp.cumsum(losses, -1), ((0, 0), (0, 0), (1, 0)))


def lazy_hedge_erm(
  losses: jax.Array,
  where: jax.Array | None = None,
  *,
  budget: float | jax.Array,
  steps: int,
  eta: float | None = None,
  growth: float | jax.Array = 2.0,
  region: str = "box",
) -> LazyHedgeERM:
  """Learns a finite class on k data sets so that the worst loss is small.

  Each step takes the hypothesis of least loss on the weighted data, and moves
  the weights to where that loses most. Of distribution i the first
  `budget cap_i` samples are stored, in the order given; no other is looked at.
  On average over `mixture` the largest loss is about the least that any single
  hypothesis has, or below.

  Args:
    losses: `[N, k, n]`, in [0, 1]: of hypothesis, data set and sample, samples
      in random order; anything at all where `where` is false.
    where: bool `[k, n]`, which samples there are; all by default.
    budget: samples stored for a cap of 1: about `(ln N + k)/eps^2` to come
      within eps of the best.
    steps: T, at least 1: about `ln k/eps^2`.
    eta: step of the log-weights; `sqrt(ln k/T)` by default.
    growth: C above 1, by which caps exceed weights.
    region: "box" or "ellipsoid".

  Returns:
    `LazyHedgeERM`.

  Raises:
    AssertionError: rank, shape or type.
    ValueError: a data set has no sample; budget, T or eta is not above 0,
      growth not above 1, or an unknown region.

  >>> losses = jnp.array([[0., 1.], [.9, .2], [.5, .5]])[..., None]
  >>> losses = jnp.tile(losses, 100)  # two data sets, 100 samples each
  >>> found = lazy_hedge_erm(losses, budget=50, steps=400)
  >>> found.mixture.shape, int(found.missing.sum())
  ((3,), 0)

  Reference:
    Few-round multi-distribution learning (2511.15507), LazyHedge in the
    agnostic setting.
  """
  checks.check_rank(3, losses=losses)
  checks.check_float(losses=losses)
  checks.check_positive(budget=budget)
  num_hypotheses, k, _ = losses.shape
  where = jnp.ones(losses.shape[1:], bool) if where is None else where
  checks.check_same_shape(where=where, losses_of_one=losses[0])
  available = jnp.sum(where, -1, dtype=jnp.int32)
  checks.check_positive(samples_of_each_data_set=available)
  default = on_demand_sampling.hedge_step_size(k, steps)
  eta = default if eta is None else eta
  sums = _prefix_sums(numerics.as_float(losses), where)
  expand = functools.partial(
    on_demand_sampling.lazy_hedge_expand, growth=growth, region=region
  )

  def step(carry, _):
    state, total = carry
    state = expand(state)
    weights = jnp.exp(state.log_weights)
    counts = jnp.minimum(_wanted(state.caps, budget), available)
    means = jnp.take_along_axis(sums, counts[None, :, None], -1)[..., 0]
    means = means / counts
    best = finite_class_erm(weights, means)
    state = on_demand_sampling.lazy_hedge_update(state, means[best], eta=eta)
    return (state, total + weights), best

  state = on_demand_sampling.lazy_hedge_init(k, growth=growth)
  state = jax.tree.map(
    lambda x: x if x.dtype == jnp.int32 else x.astype(sums.dtype), state
  )
  start = state, jnp.zeros_like(state.caps)
  (state, total), best = jax.lax.scan(step, start, length=steps)
  wanted = _wanted(state.caps, budget)
  counts = jnp.bincount(best, length=num_hypotheses)
  return LazyHedgeERM(
    mixture=counts.astype(sums.dtype) / steps,
    rounds=state.rounds,
    samples=jnp.minimum(wanted, available),
    missing=jnp.maximum(wanted - available, 0),
    average=total / steps,
  )


def _wanted(caps: jax.Array, budget: float | jax.Array) -> jax.Array:
  return jnp.ceil(budget * caps).astype(jnp.int32)
