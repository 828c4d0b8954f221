# SPDX-License-Identifier: Apache-2.0
"""Optimisation with on-demand sampling: Hedge that seldom asks for data.

Hedge moves weights over k distributions towards those with the largest loss,
one small step at a time. Caps say how much of each distribution has been
sampled. While the weights stay in the region that the caps cover, stored data
serve; when they leave it the caps grow, and that is one round of sampling.
Regions are a box, `w_i <= cap_i`, and the ellipsoid that contains it,
`sum_i w_i^2/cap_i <= 1`, in which the mixture's mean loss has the variance of
that many samples of the mixture itself.

Where one samples between steps (labels are bought, say):

  state = lazy_hedge_init(k)
  for each step:
    state = lazy_hedge_expand(state)
    if state.rounds has grown: sample up to n * state.caps
    losses = of a hypothesis fitted to the mixture exp(state.log_weights)
    state = lazy_hedge_update(state, losses, eta=eta)

With a finite class and data at hand: `jaxalign.learning.finite_class`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = (
  "LazyHedge",
  "LazyHedgeState",
  "OODSInstance",
  "hedge_step_size",
  "in_region",
  "lazy_hedge",
  "lazy_hedge_expand",
  "lazy_hedge_init",
  "lazy_hedge_update",
  "oods_hard_instance",
  "oods_value",
)


class LazyHedgeState(NamedTuple):
  """Weights, and what has been sampled for them.

  Attributes:
    log_weights: `[k]`, of a distribution over distributions.
    peaks: `[k]`, the largest weights for which data were asked so far.
    caps: `[k]`, how much of each distribution is stored; never decreases.
    rounds: int32 `[]`, of sampling, the first included.
  """

  log_weights: jax.Array
  peaks: jax.Array
  caps: jax.Array
  rounds: jax.Array


class LazyHedge(NamedTuple):
  """Where Hedge ended and what it asked for.

  Attributes:
    rounds: int32 `[]`, of sampling, the first included.
    cost: `[]`, the sum of the caps in the end.
    average: `[k]`, mean of the weights of all steps.
    caps: `[k]`.
  """

  rounds: jax.Array
  cost: jax.Array
  average: jax.Array
  caps: jax.Array


def _in_box(weights: jax.Array, caps: jax.Array) -> jax.Array:
  return jnp.all(weights <= caps, -1)


def _in_ellipsoid(weights: jax.Array, caps: jax.Array) -> jax.Array:
  return jnp.sum(weights**2 / caps, -1) <= 1


_REGIONS = {"box": _in_box, "ellipsoid": _in_ellipsoid}


def in_region(
  weights: jax.Array, caps: jax.Array, *, region: str = "box"
) -> jax.Array:
  """Whether caps cover weights.

  Args:
    weights: `[..., k]`, probabilities.
    caps: `[..., k]`, above 0.
    region: "box", `w_i <= cap_i`, or "ellipsoid", `sum_i w_i^2/cap_i <= 1`,
      which contains the box.

  Returns:
    bool `[...]`.

  Raises:
    AssertionError: shapes differ.
    ValueError: an unknown region.

  >>> w, caps = jnp.array([.6, .4]), jnp.array([.5, .8])
  >>> [bool(in_region(w, caps, region=r)) for r in ("box", "ellipsoid")]
  [False, True]

  Reference:
    Few-round multi-distribution learning (2511.15507), optimisation with
    on-demand sampling.
  """
  checks.check_choice("region", region, _REGIONS)
  checks.check_same_shape(weights=weights, caps=caps)
  return _REGIONS[region](weights, caps)


def _check_growth(growth: float | jax.Array) -> None:
  checks.check_positive(**{"growth - 1": growth - 1})


def lazy_hedge_init(
  num_distributions: int, *, growth: float | jax.Array = 2.0
) -> LazyHedgeState:
  """Uniform weights, and a first round that stores `growth / k` of each.

  Args:
    num_distributions: k, at least 1.
    growth: C above 1, caps over the largest weights.

  Returns:
    `LazyHedgeState`, of the default floating-point type.

  Raises:
    ValueError: k is below 1, or growth not above 1.

  >>> lazy_hedge_init(4).caps.tolist()
  [0.5, 0.5, 0.5, 0.5]

  Reference:
    Few-round multi-distribution learning (2511.15507), LazyHedge.
  """
  checks.check_positive(num_distributions=num_distributions)
  _check_growth(growth)
  uniform = jnp.full(num_distributions, 1 / num_distributions)
  return LazyHedgeState(
    log_weights=jnp.log(uniform),
    peaks=uniform,
    caps=growth * uniform,
    rounds=jnp.array(1, jnp.int32),
  )


def lazy_hedge_expand(
  state: LazyHedgeState, *, growth: float | jax.Array = 2.0, region: str = "box"
) -> LazyHedgeState:
  """Lets the caps grow if they do not cover the weights; to be called first.

  Then `cap_i = C max_{s <= t} w^s_i`: one round of sampling.

  Args:
    state: weights and caps.
    growth: C above 1.
    region: "box" or "ellipsoid".

  Returns:
    The state with caps that cover the weights.

  Raises:
    ValueError: an unknown region, or growth not above 1.

  >>> state = lazy_hedge_init(2)._replace(caps=jnp.array([.4, .6]))
  >>> state = lazy_hedge_expand(state)
  >>> state.caps.tolist(), int(state.rounds)
  ([1.0, 1.0], 2)

  Reference:
    Few-round multi-distribution learning (2511.15507), LazyHedge.
  """
  _check_growth(growth)
  weights = jnp.exp(state.log_weights)
  outside = ~in_region(weights, state.caps, region=region)
  peaks = jnp.maximum(state.peaks, weights)
  return state._replace(
    peaks=peaks,
    caps=jnp.where(outside, growth * peaks, state.caps),
    rounds=state.rounds + outside,
  )


def lazy_hedge_update(
  state: LazyHedgeState, gains: jax.Array, *, eta: float | jax.Array
) -> LazyHedgeState:
  """A step of Hedge: `w_i exp(eta gain_i)`, normalised.

  Args:
    state: weights and caps.
    gains: `[k]`, to be maximised: the losses of a hypothesis, or a
      supergradient.
    eta: above 0.

  Returns:
    The state with the next weights; its caps are as before.

  Raises:
    AssertionError: shape or type.
    ValueError: eta is not above 0.

  >>> state = lazy_hedge_update(lazy_hedge_init(2), jnp.array([1., 0.]), eta=1.)
  >>> print(f"{state.log_weights[0] - state.log_weights[1]:.4f}")
  1.0000

  Reference:
    Few-round multi-distribution learning (2511.15507), LazyHedge.
  """
  checks.check_same_shape(gains=gains, log_weights=state.log_weights)
  checks.check_float(gains=gains)
  checks.check_positive(eta=eta)
  moved = state.log_weights + eta * gains
  return state._replace(log_weights=numerics.masked_log_softmax(moved))


def hedge_step_size(num_distributions: int, steps: int) -> float:
  """`sqrt(ln k/T)`, for gains in [0, 1].

  The average over T steps then falls behind the best fixed weights by
  `9/8 sqrt(ln k/T)` at most.

  Args:
    num_distributions: k, at least 1.
    steps: T, at least 1.

  Returns:
    The step of the log-weights.

  Raises:
    ValueError: k or T is below 1.

  >>> print(f"{hedge_step_size(16, 1000):.4f}")
  0.0527

  Reference:
    Few-round multi-distribution learning (2511.15507), LazyHedge; the bound is
    that of Hedge, `ln k/(eta T) + eta/8`.
  """
  checks.check_positive(num_distributions=num_distributions, steps=steps)
  return math.sqrt(math.log(num_distributions) / steps)


def lazy_hedge(
  supergradient: Callable[[jax.Array], jax.Array],
  num_distributions: int,
  *,
  steps: int,
  eta: float | None = None,
  growth: float | jax.Array = 2.0,
  region: str = "box",
) -> LazyHedge:
  """Maximises a concave function of weights, in few rounds of sampling.

  The supergradient is asked for only where caps cover the weights. With
  entries in [0, 1] and the default step the averaged weights are within
  `2 sqrt(ln k/T)` of the maximum. The box needs `k log_C k + 1` rounds at most.

  Args:
    supergradient: from weights `[k]` to `[k]`.
    num_distributions: k.
    steps: T, at least 1.
    eta: step of the log-weights; `sqrt(ln k/T)` by default.
    growth: C above 1, by which caps exceed weights.
    region: "box" or "ellipsoid".

  Returns:
    `LazyHedge`.

  Raises:
    ValueError: k or T below 1, eta not above 0, growth not above 1, or an
      unknown region.

  >>> found = lazy_hedge(jax.grad(lambda w: w[0]), 4, steps=100)
  >>> int(found.rounds), float(found.average[0]) > .7
  (2, True)

  Reference:
    Few-round multi-distribution learning (2511.15507), LazyHedge.
  """
  default = hedge_step_size(num_distributions, steps)
  eta = default if eta is None else eta

  def step(carry, _):
    state, total = carry
    state = lazy_hedge_expand(state, growth=growth, region=region)
    weights = jnp.exp(state.log_weights)
    state = lazy_hedge_update(state, supergradient(weights), eta=eta)
    return (state, total + weights), None

  state = lazy_hedge_init(num_distributions, growth=growth)
  start = state, jnp.zeros_like(state.caps)
  state, total = jax.lax.scan(step, start, length=steps)[0]
  return LazyHedge(
    rounds=state.rounds,
    cost=jnp.sum(state.caps),
    average=total / steps,
    caps=state.caps,
  )


# --- a function that needs many rounds ---------------------------------------


class OODSInstance(NamedTuple):
  """A concave function whose coordinates must be found one after another.

  Attributes:
    indices: int32 `[m]`, the coordinates that matter.
    maximum: float, of the function over the simplex.
  """

  indices: jax.Array
  maximum: float


def oods_hard_instance(key: jax.Array, k: int, m: int) -> OODSInstance:
  """`f(w) = min_{j <= m} (w_{i_j} + j/m^2)` with random distinct i_j.

  Its largest value is `1/m + (m + 1)/(2 m^2)`, where all m terms are equal.

  Args:
    key: typed random key.
    k: number of distributions.
    m: number of coordinates that matter, at most k.

  Returns:
    `OODSInstance`; see `oods_value`.

  Raises:
    ValueError: m is not in 1 to k.

  >>> instance = oods_hard_instance(jax.random.key(0), 16, 4)
  >>> instance.indices.shape, float(instance.maximum)
  ((4,), 0.40625)

  Reference:
    Few-round multi-distribution learning (2511.15507), the lower bound for
    optimisation with on-demand sampling.
  """
  if not 1 <= m <= k:
    raise ValueError(f"m must lie in 1 to k = {k}, was {m}")
  indices = jax.random.permutation(key, k)[:m].astype(jnp.int32)
  return OODSInstance(indices, 1 / m + (m + 1) / (2 * m**2))


def oods_value(instance: OODSInstance, weights: jax.Array) -> jax.Array:
  """The value of a hard instance; its gradient is a supergradient.

  Args:
    instance: which coordinates matter.
    weights: `[..., k]`, probabilities.

  Returns:
    `[...]`.

  Raises:
    AssertionError: no floats.

  >>> instance = OODSInstance(jnp.array([1]), 2.)
  >>> float(oods_value(instance, jnp.array([.5, .5])))
  1.5

  Reference:
    Few-round multi-distribution learning (2511.15507), the lower bound for
    optimisation with on-demand sampling.
  """
  checks.check_float(weights=weights)
  weights = numerics.as_float(weights)
  m = instance.indices.shape[-1]
  offsets = jnp.arange(1, m + 1, dtype=weights.dtype) / m**2
  return jnp.min(weights[..., instance.indices] + offsets, -1)
