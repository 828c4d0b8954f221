# SPDX-License-Identifier: Apache-2.0
"""How outcomes rank under a base distribution, in forms made for huge n.

`F^n` is kept as `log(-log F)`: `log(-n log F) = log n + log(-log F)` neither
cancels where F is close to 1 nor overflows where n is e^1000.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics

__all__ = ()  # for the modules of this package only

Scalar = float | jax.Array


def log_count(
  n: Scalar | None, log_n: Scalar | None, name: str = "n"
) -> Scalar:
  """`log n` from exactly one of n and log n; n is at least 1.

  Args:
    n: `[...]` or a Python number (which may exceed every float).
    log_n: `[...]` or a Python number.
    name: what the error calls n.

  Returns:
    `log n`: a float for Python numbers, otherwise an array.

  Raises:
    ValueError: both or none given, or n below 1.

  >>> log_count(10**400, None) > 900
  True
  """
  if log_n is not None and n is None:
    value, given = log_n, f"log_{name}={log_n}"
  elif n is None or log_n is not None:
    raise ValueError(f"give one of {name} and log_{name}, were {n} and {log_n}")
  elif isinstance(n, int | float):
    value, given = math.log(n) if n > 0 else -math.inf, f"{name}={n}"
  else:
    # Times 1.0: integers become the default float, not float32.
    value, given = jnp.log(numerics.as_float(n * 1.0)), f"{name}={n}"
  if not isinstance(value, jax.core.Tracer) and not np.all(value >= 0):
    raise ValueError(f"{name} must be at least 1, was given as {given}")
  return value


def base_log_probs(
  log_p: jax.Array, rewards: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Checks base and rewards; normalises the base.

  Args:
    log_p: `[..., V]`, log-probabilities or logits; -inf for no mass.
    rewards: `[..., V]`.

  Returns:
    Normalised log-probabilities and rewards, `[..., V]` of the wider type.

  Raises:
    AssertionError: shapes differ, or a type is not floating point.

  >>> base_log_probs(jnp.zeros(2), jnp.zeros(2))[0]
  Array([-0.6931472, -0.6931472], dtype=float32)
  """
  checks.check_same_shape(log_p=log_p, rewards=rewards)
  checks.check_float(log_p=log_p, rewards=rewards)
  dtype = jnp.result_type(log_p, rewards)
  log_p = numerics.masked_log_softmax(jnp.asarray(log_p, dtype))
  return log_p, jnp.asarray(rewards, log_p.dtype)


def neg_exp(z: jax.Array) -> jax.Array:
  """`-e^z`, which is -inf with gradient 0 (not -inf) where e^z overflows.

  Args:
    z: `[...]`; -inf and +inf allowed.

  Returns:
    `[...]`.

  >>> neg_exp(jnp.array([-jnp.inf, 0., 1e4]))
  Array([ -0.,  -1., -inf], dtype=float32)
  """
  small = z < math.log(float(jnp.finfo(z.dtype).max))
  return jnp.where(small, -jnp.exp(jnp.where(small, z, 0)), -jnp.inf)


def log_neg_log(log_a: jax.Array, log_b: jax.Array) -> jax.Array:
  """`log(-log a)` of a probability whose complement `b = 1 - a` is known too.

  Each is used where it is the accurate one: b below 1/2, a above.

  Args:
    log_a: `[...]`, at most 0; -inf allowed.
    log_b: `[...]`, with `e^log_a + e^log_b = 1`; -inf allowed.

  Returns:
    `[...]`: -inf at a = 1, +inf at a = 0.

  >>> print(log_neg_log(jnp.float32(0.), jnp.float32(-500.)))
  -500.0
  """
  small = log_b < -math.log(2)
  tiny = log_b < -30  # log(b + b^2/2 + ...) is log b to every digit
  middle = jnp.log(-jnp.log1p(-jnp.exp(jnp.where(small & ~tiny, log_b, -1))))
  large = jnp.log(-jnp.where(small, -1, log_a))
  return jnp.where(tiny, log_b, jnp.where(small, middle, large))


def log1mexpexp(z: jax.Array) -> jax.Array:
  """`log(1 - exp(-e^z))`: log b from `log(-log(1 - b))`.

  Args:
    z: `[...]`; -inf and +inf allowed.

  Returns:
    `[...]`, at most 0: z itself towards -inf, 0 towards +inf.

  >>> log1mexpexp(jnp.array([-500., jnp.inf]))
  Array([-500.,   -0.], dtype=float32)
  """
  tiny = z < -30  # log(e^z - e^2z/2 + ...) is z to every digit
  # exp(-e^10) is 0 in every type: nothing changes beyond, and the gradient
  # stays 0 instead of inf / inf.
  safe = jnp.minimum(jnp.where(tiny, 0, z), 10)
  return jnp.where(tiny, z, numerics.log1mexp(-jnp.exp(safe)))


class RewardOrder(NamedTuple):
  """Where each outcome's reward level stands under the base distribution.

  A level is the set of outcomes with one reward; in a total order, the outcome
  itself. `F_le` and `F_lt` are the mass at or below, and below, the level.
  """

  log_mass: jax.Array  # [..., V]: log(F_le - F_lt)
  log_below: jax.Array  # [..., V]: log F_lt
  log_neg_log_cdf: jax.Array  # [..., V]: log(-log F_le)
  log_neg_log_step: jax.Array  # [..., V]: log(-log(F_lt / F_le))

  def log_best(self, log_n: Scalar) -> jax.Array:
    """`log(F_le^n - F_lt^n)` `[..., V]`: the level of the best of n draws."""
    log_n = jnp.asarray(log_n, self.log_mass.dtype)
    return neg_exp(log_n + self.log_neg_log_cdf) + log1mexpexp(
      log_n + self.log_neg_log_step
    )


def _cumlogsumexp(x: jax.Array, *, reverse: bool = False) -> jax.Array:
  # A run of -inf at the start would have NaN gradients: it stands as a number
  # so low that it weighs exactly 0 beside any log-probability.
  low = float(jnp.finfo(x.dtype).min) / 4
  total = jax.lax.cumlogsumexp(jnp.maximum(x, low), reverse=reverse)
  return jnp.where(total > low / 2, total, -jnp.inf)


def _level_log_masses(
  log_p: jax.Array, level: jax.Array, num_levels: int
) -> jax.Array:
  top = jax.ops.segment_max(jax.lax.stop_gradient(log_p), level, num_levels)
  top = jnp.where(top > -jnp.inf, top, 0)
  mass = jax.ops.segment_sum(jnp.exp(log_p - top[level]), level, num_levels)
  live = mass > 0
  return jnp.where(live, jnp.log(jnp.where(live, mass, 1)) + top, -jnp.inf)


@functools.partial(jax.jit, static_argnames="uniform")
def _rank(log_p: jax.Array, rewards: jax.Array, *, uniform: bool):
  (size,) = log_p.shape
  order = jnp.argsort(rewards, stable=True)
  ordered = rewards[order]
  if uniform:
    starts = jnp.concatenate([jnp.zeros(1, bool), ordered[1:] != ordered[:-1]])
    level = jnp.cumsum(starts)
  else:
    level = jnp.arange(size)
  mass = _level_log_masses(log_p[order], level, size)
  nothing = jnp.full((1,), -jnp.inf, mass.dtype)
  upto = _cumlogsumexp(mass)
  below = jnp.concatenate([nothing, upto[:-1]])
  above = jnp.concatenate([_cumlogsumexp(mass, reverse=True)[1:], nothing])
  some = jnp.where(upto > -jnp.inf, upto, 0)
  columns = (
    mass,
    below,
    log_neg_log(upto, above),
    log_neg_log(below - some, mass - some),
  )
  own = jnp.zeros_like(level).at[order].set(level)
  return tuple(column[own] for column in columns)


def reward_order(
  log_p: jax.Array, rewards: jax.Array, ties: str = "uniform"
) -> RewardOrder:
  """Ranks outcomes by reward; `O(V log V)`.

  Args:
    log_p: `[..., V]`, normalised log-probabilities.
    rewards: `[..., V]`, -inf allowed.
    ties: `"uniform"`: outcomes of one reward are one level; `"index"`: of two
      outcomes with one reward the later one is the better.

  Returns:
    A `RewardOrder`.

  Raises:
    ValueError: unknown `ties`.

  >>> order = reward_order(jnp.log(jnp.array([.5, .5])), jnp.array([1., 0.]))
  >>> print(jnp.exp(order.log_below))
  [0.5 0. ]
  """
  checks.check_choice("ties", ties, ("uniform", "index"))
  rank = jnp.vectorize(
    functools.partial(_rank, uniform=ties == "uniform"),
    signature="(v),(v)->(v),(v),(v),(v)",
  )
  return RewardOrder(*rank(log_p, rewards))
