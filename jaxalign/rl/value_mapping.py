# SPDX-License-Identifier: Apache-2.0
"""Action values learned in a mapped space, one table for each reward channel.

Channel j has a part r_j of the reward, a weight lam_j and a map f_j; learned
are `Qt_j = f_j(Q_j)`, and `Q = sum_j lam_j Q_j` chooses the actions. A
logarithm keeps the gaps between `g^k` and `g^{k+1}` equal for all k. Targets
are averaged before they are mapped: the mean of a logarithm is not the
logarithm of the mean.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.exact import mdp as tables

__all__ = (
  "Channel",
  "ValueMap",
  "log_linear_map",
  "log_map",
  "mapped_q_init",
  "mapped_q_iteration",
  "mapped_q_learning_step",
  "mapped_q_step",
  "orchestrated_values",
  "polar_channels",
)

Elementwise = Callable[[jax.Array], jax.Array]

# .96^100: what a reward of 1 is worth after 100 steps of the published runs.
_FLOOR = 0.01687


class ValueMap(NamedTuple):
  """An increasing function and its inverse, both entry by entry.

  Attributes:
    forward: f, from values to mapped values.
    inverse: `f^{-1}`.
  """

  forward: Elementwise
  inverse: Elementwise


class Channel(NamedTuple):
  """One part of the reward and how its values are learned.

  Attributes:
    reward: r_j, a function of the reward, entry by entry.
    weight: lam_j; `sum_j lam_j r_j(r) = r`.
    value_map: f_j.
  """

  reward: Elementwise
  weight: float
  value_map: ValueMap


@functools.cache
def log_map(*, scale: float = 0.5, floor: float = _FLOOR) -> ValueMap:
  """The logarithm of values at least as large as a floor.

  `f(x) = c log max(x, d)`, `f^{-1}(y) = e^{y/c}`: the inverse where x is at
  least d, and d below. Equal arguments give the same object.

  Args:
    scale: c, scalar above 0.
    floor: d, scalar above 0.

  Returns:
    `ValueMap`.

  Raises:
    ValueError: an argument not above 0.

  >>> f = log_map()
  >>> print(f.inverse(f.forward(jnp.array([-1., .5, 2.]))).round(5))
  [0.01687 0.5     2.     ]

  Reference:
    Orchestrated Value Mapping (2203.07171); van Seijen et al., Using a
    Logarithmic Mapping to Enable Lower Discount Factors (1906.00572).
  """
  checks.check_positive(scale=scale, floor=floor)
  return ValueMap(
    lambda x: scale * jnp.log(jnp.maximum(x, floor)),
    lambda y: jnp.exp(y / scale),
  )


@functools.cache
def log_linear_map(*, scale: float = 0.5, floor: float = _FLOOR) -> ValueMap:
  """A logarithm below 1 that goes on as a line of the same slope.

  `f(x) = c log max(x, d)` for `x <= 1` and `c (x - 1)` above;
  `f^{-1}(y) = e^{y/c}` for `y <= 0` and `y/c + 1` above. The floor, which keeps
  f finite at 0, is that of `log_map`. Equal arguments give the same object.

  Args:
    scale: c, scalar above 0.
    floor: d, scalar in (0, 1].

  Returns:
    `ValueMap`.

  Raises:
    ValueError: an argument outside its range.

  >>> f = log_linear_map()
  >>> print(f.forward(jnp.array([1., 3.])), f.inverse(jnp.array([0., 1.])))
  [0. 1.] [1. 3.]

  Reference:
    Orchestrated Value Mapping (2203.07171).
  """
  checks.check_positive(scale=scale, floor=floor)
  if floor > 1:
    raise ValueError(f"floor must be at most 1, was {floor}")

  def forward(x):
    log_part = jnp.log(jnp.clip(x, floor, 1))
    return scale * (log_part + jnp.maximum(x - 1, 0))

  def inverse(y):
    line = jnp.maximum(y, 0)
    return jnp.exp(jnp.minimum(y, 0) / scale) + line / scale

  return ValueMap(forward, inverse)


@functools.cache
def polar_channels(value_map: ValueMap) -> tuple[Channel, Channel]:
  """Gains and losses apart, so that a logarithm can take both.

  `r_+ = max(r, 0)` with weight 1, `r_- = max(-r, 0)` with weight -1.

  Args:
    value_map: of both channels.

  Returns:
    Two `Channel`. Equal arguments give the same object.

  >>> gain, loss = polar_channels(log_map())
  >>> r = jnp.array([-2., 3.])
  >>> print(gain.reward(r), loss.reward(r), loss.weight)
  [0. 3.] [2. 0.] -1.0

  Reference:
    Orchestrated Value Mapping (2203.07171).
  """
  return (
    Channel(lambda r: jnp.maximum(r, 0), 1.0, value_map),
    Channel(lambda r: jnp.maximum(-r, 0), -1.0, value_map),
  )


def _check_mapped(
  channels: tuple[Channel, ...], mapped: jax.Array, rank: int
) -> None:
  if not channels:
    raise ValueError("channels is empty: at least one is needed")
  checks.check_rank(rank, mapped=mapped)
  if mapped.shape[0] != len(channels):
    raise ValueError(
      f"mapped {mapped.shape} needs one row for each of {len(channels)}"
      " channels"
    )


def _check_rates(**rates: float | jax.Array) -> None:
  for name, rate in rates.items():
    if not isinstance(rate, jax.core.Tracer) and not 0 < rate <= 1:
      raise ValueError(f"{name} must be in (0, 1], was {rate}")


def _unmapped(
  mapped: jax.Array, channels: tuple[Channel, ...]
) -> list[jax.Array]:
  """`Q_j` of every channel."""
  return [
    c.value_map.inverse(row) for c, row in zip(channels, mapped, strict=True)
  ]


def _combined(
  values: list[jax.Array], channels: tuple[Channel, ...]
) -> jax.Array:
  weighted = [c.weight * v for c, v in zip(channels, values, strict=True)]
  return functools.reduce(jnp.add, weighted)


def orchestrated_values(
  mapped: jax.Array, channels: tuple[Channel, ...]
) -> jax.Array:
  """The action values that all channels say together.

  `Q = sum_j lam_j f_j^{-1}(Qt_j)`.

  Args:
    mapped: `[J, ...]`, Qt.
    channels: J of them.

  Returns:
    `[...]`, Q.

  Raises:
    ValueError: not one row for each channel.

  >>> channels = polar_channels(log_map())
  >>> print(orchestrated_values(jnp.log(jnp.array([[4.], [1.]])), channels))
  [15.]

  Reference:
    Orchestrated Value Mapping (2203.07171).
  """
  _check_mapped(channels, mapped, jnp.ndim(mapped))
  return _combined(_unmapped(mapped, channels), channels)


def mapped_q_init(
  mdp: tables.TabularMDP, channels: tuple[Channel, ...]
) -> jax.Array:
  """The mapped table of values 0.

  `Qt_j = f_j(0)`, of a logarithm the floor's.

  Args:
    mdp: the process.
    channels: J of them.

  Returns:
    `[J, S, A]`.

  >>> mdp = tables.TabularMDP(jnp.ones((1, 2, 1)), jnp.array([[0., 1.]]), .5)
  >>> print(mapped_q_init(mdp, polar_channels(log_map(floor=1.))).shape)
  (2, 1, 2)

  Reference:
    Orchestrated Value Mapping (2203.07171).
  """
  nothing = jnp.zeros_like(numerics.as_float(mdp.rewards))
  return jnp.stack([c.value_map.forward(nothing) for c in channels])


def _update(
  mapped: jax.Array,
  values: jax.Array,
  target: jax.Array,
  value_map: ValueMap,
  value_rate: float | jax.Array,
  mapped_rate: float | jax.Array,
) -> jax.Array:
  """Towards the target in the space of values, then in that of the map."""
  regularized = values + value_rate * (target - values)
  return mapped + mapped_rate * (value_map.forward(regularized) - mapped)


def mapped_q_step(
  mdp: tables.TabularMDP,
  mapped: jax.Array,
  channels: tuple[Channel, ...],
  *,
  value_rate: float | jax.Array = 1.0,
  mapped_rate: float | jax.Array = 1.0,
) -> jax.Array:
  """One expected update of all pairs.

  `a* = argmax Q(s', .)`, `U_j = r_j + g E f_j^{-1}(Qt_j(s', a*))`,
  `Uh_j = Q_j + b_reg (U_j - Q_j)`, `Qt_j += b_f (f_j(Uh_j) - Qt_j)`.

  Args:
    mdp: the process.
    mapped: `[J, S, A]`, Qt.
    channels: J of them.
    value_rate: b_reg, scalar in (0, 1]: the step before the map.
    mapped_rate: b_f, scalar in (0, 1]: the step after it.

  Returns:
    `[J, S, A]`.

  Raises:
    AssertionError: mapped is not of rank 3.
    ValueError: not one table for each channel, a rate outside its range, or the
      process's tables do not fit.

  >>> mdp = tables.TabularMDP(jnp.ones((1, 2, 1)), jnp.array([[1., 2.]]), .5)
  >>> channels = (Channel(lambda r: r, 1., log_map(floor=1e-9)),)
  >>> mapped = mapped_q_step(mdp, mapped_q_init(mdp, channels), channels)
  >>> print(orchestrated_values(mapped, channels).round(4))
  [[1. 2.]]

  Reference:
    Orchestrated Value Mapping (2203.07171).
  """
  _check_mapped(channels, mapped, 3)
  _check_rates(value_rate=value_rate, mapped_rate=mapped_rate)
  values = _unmapped(mapped, channels)
  greedy = tables.greedy_policy(_combined(values, channels))
  rows = []
  for channel, row, value in zip(channels, mapped, values, strict=True):
    part = mdp._replace(rewards=channel.reward(mdp.rewards))
    target = tables.action_values(part, jnp.sum(greedy * value, -1))
    rows.append(
      _update(row, value, target, channel.value_map, value_rate, mapped_rate)
    )
  return jnp.stack(rows)


def mapped_q_iteration(
  mdp: tables.TabularMDP,
  channels: tuple[Channel, ...],
  *,
  num_iterations: int,
  value_rate: float | jax.Array = 1.0,
  mapped_rate: float | jax.Array = 1.0,
) -> jax.Array:
  """Expected updates from values 0; they tend to Q*.

  `num_iterations` times `mapped_q_step`. The limit is Q* where no channel's
  values under the optimal policy are below the floor of its map.

  Args:
    mdp: the process.
    channels: J of them.
    num_iterations: at least 1.
    value_rate: b_reg, scalar in (0, 1]: the step before the map.
    mapped_rate: b_f, scalar in (0, 1]: the step after it.

  Returns:
    `[J, S, A]`, mapped; `orchestrated_values` reads it.

  Raises:
    ValueError: an option outside its range, or the process's tables do not fit.

  >>> mdp = tables.TabularMDP(jnp.ones((1, 2, 1)), jnp.array([[1., 2.]]), .5)
  >>> channels = (Channel(lambda r: r, 1., log_map()),)
  >>> mapped = mapped_q_iteration(mdp, channels, num_iterations=50)
  >>> print(orchestrated_values(mapped, channels).round(4))
  [[3. 4.]]

  Reference:
    Orchestrated Value Mapping (2203.07171).
  """
  if num_iterations < 1:
    raise ValueError(f"num_iterations must be at least 1, was {num_iterations}")
  rates = {"value_rate": value_rate, "mapped_rate": mapped_rate}

  def iterate(mapped, _):
    return mapped_q_step(mdp, mapped, channels, **rates), None

  start = mapped_q_init(mdp, channels)
  return jax.lax.scan(iterate, start, None, length=num_iterations)[0]


def mapped_q_learning_step(
  mapped: jax.Array,
  channels: tuple[Channel, ...],
  state: jax.Array,
  action: jax.Array,
  reward: jax.Array,
  next_state: jax.Array,
  *,
  discount: float | jax.Array,
  value_rate: float | jax.Array,
  mapped_rate: float | jax.Array,
) -> jax.Array:
  """One update from one transition; all other entries stay.

  The update of `mapped_q_step` with what was seen in place of the expectation.
  The step before the map averages the targets' noise: where `b_reg` is 1 it is
  averaged after the map, and the limit is wrong.

  Args:
    mapped: `[J, S, A]`, Qt.
    channels: J of them.
    state: integer scalar.
    action: integer scalar.
    reward: scalar, of this transition; it may be random.
    next_state: integer scalar.
    discount: g, scalar; 0 where the transition ended the episode.
    value_rate: b_reg, scalar in (0, 1]: the step before the map.
    mapped_rate: b_f, scalar in (0, 1]: the step after it.

  Returns:
    `[J, S, A]`.

  Raises:
    AssertionError: ranks differ from the above.
    ValueError: not one table for each channel, or a rate outside its range.

  >>> channels = (Channel(lambda r: r, 1., log_map()),)
  >>> mapped = mapped_q_learning_step(
  ...   jnp.zeros((1, 2, 2)), channels, 0, 1, jnp.array(3.), 1,
  ...   discount=.5, value_rate=.5, mapped_rate=1.)
  >>> print(orchestrated_values(mapped, channels))
  [[1.   2.25]
   [1.   1.  ]]

  Reference:
    Orchestrated Value Mapping (2203.07171).
  """
  _check_mapped(channels, mapped, 3)
  _check_rates(value_rate=value_rate, mapped_rate=mapped_rate)
  checks.check_rank(
    0, state=state, action=action, reward=reward, next_state=next_state
  )
  ahead = _unmapped(mapped[:, next_state], channels)
  best = jnp.argmax(_combined(ahead, channels))
  here = mapped[:, state, action]
  rows = []
  for j, channel in enumerate(channels):
    target = channel.reward(reward) + discount * ahead[j][best]
    value = channel.value_map.inverse(here[j])
    rows.append(
      _update(
        here[j], value, target, channel.value_map, value_rate, mapped_rate
      )
    )
  return mapped.at[:, state, action].set(jnp.stack(rows))
