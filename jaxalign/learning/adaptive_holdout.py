# SPDX-License-Identifier: Apache-2.0
"""A holdout set that can be asked many times, by questions that adapt.

Whoever chooses features or models by what a holdout set said overfits that set.
Thresholdout answers from the training set while the two agree, and otherwise
from the holdout with noise, which bounds what is learned about the holdout.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = (
  "ThresholdoutResult",
  "ThresholdoutState",
  "agreeing_signs",
  "thresholdout",
  "thresholdout_init",
  "thresholdout_step",
)

Scalar = float | jax.Array


class ThresholdoutState(NamedTuple):
  """What is kept between queries.

  Attributes:
    offset: `[]`, noise that is added to the threshold.
    budget: int32 `[]`, how often the holdout may still be used.
  """

  offset: jax.Array
  budget: jax.Array


class ThresholdoutResult(NamedTuple):
  """Answers to Q queries, or to one.

  Attributes:
    answers: `[Q]`; NaN once the budget is spent.
    from_holdout: bool `[Q]`, whether the holdout was used.
    budget: int32 `[Q]`, what is left of the budget after each query.
  """

  answers: jax.Array
  from_holdout: jax.Array
  budget: jax.Array


def thresholdout_init(
  key: jax.Array, *, scale: Scalar, budget: int
) -> ThresholdoutState:
  """The state before the first query.

  Args:
    key: a typed key.
    scale: s, of the noise, at least 0.
    budget: how often the holdout may be used, at least 1.

  Returns:
    `ThresholdoutState`, its offset drawn from `Lap(2 s)`.

  Raises:
    ValueError: the budget is below 1.

  >>> thresholdout_init(jax.random.key(0), scale=0., budget=3).budget
  Array(3, dtype=int32)

  Reference:
    Generalization in Adaptive Data Analysis and Holdout Reuse (1506.02629),
    algorithm Thresholdout.
  """
  checks.check_positive(budget=budget)
  offset = 2 * scale * jax.random.laplace(key)
  return ThresholdoutState(offset, jnp.asarray(budget, jnp.int32))


def thresholdout_step(
  state: ThresholdoutState,
  key: jax.Array,
  train: jax.Array,
  holdout: jax.Array,
  *,
  threshold: Scalar,
  scale: Scalar,
) -> tuple[ThresholdoutState, ThresholdoutResult]:
  """Answers one query.

  If `|a_train - a_holdout| > T + g + Lap(4 s)` the answer is
  `a_holdout + Lap(s)`, the offset g is drawn again from `Lap(2 s)` and the
  budget falls by 1; else the answer is `a_train`.

  Args:
    state: from `thresholdout_init` or the last step.
    key: a typed key, of this query.
    train: `[]`, the query's mean over the training set.
    holdout: `[]`, over the holdout set.
    threshold: T, at least 0, such as `4/sqrt(n)`.
    scale: s, of the noise, at least 0, such as `1/(4 sqrt(n))`.

  Returns:
    The next state, and `ThresholdoutResult` of scalars.

  >>> state = thresholdout_init(jax.random.key(0), scale=0., budget=1)
  >>> state, result = thresholdout_step(state, jax.random.key(1),
  ...   jnp.array(.75), jnp.array(.5), threshold=.1, scale=0.)
  >>> print(result.answers, result.budget)
  0.5 0

  Reference:
    Generalization in Adaptive Data Analysis and Holdout Reuse (1506.02629),
    algorithm Thresholdout.
  """
  checks.check_same_shape(train=train, holdout=holdout)
  checks.check_float(train=train, holdout=holdout)
  train, holdout = numerics.as_float(train), numerics.as_float(holdout)
  noise = scale * jax.random.laplace(key, (3,), train.dtype)
  offset = jnp.asarray(state.offset, train.dtype)
  live = state.budget > 0
  limit = threshold + offset + 4 * noise[0]
  used = live & (jnp.abs(train - holdout) > limit)
  answers = jnp.where(used, holdout + noise[1], train)
  state = ThresholdoutState(
    offset=jnp.where(used, 2 * noise[2], offset),
    budget=state.budget - used,
  )
  answers = jnp.where(live, answers, jnp.nan)
  return state, ThresholdoutResult(answers, used, state.budget)


def thresholdout(
  key: jax.Array,
  train: jax.Array,
  holdout: jax.Array,
  *,
  threshold: Scalar,
  scale: Scalar,
  budget: int,
) -> ThresholdoutResult:
  """Answers Q queries in their order.

  Queries that depend on earlier answers are asked by `thresholdout_step`.

  Args:
    key: a typed key.
    train: `[Q]`, each query's mean over the training set.
    holdout: `[Q]`, over the holdout set.
    threshold: T, at least 0, such as `4/sqrt(n)`.
    scale: s, of the noise, at least 0, such as `1/(4 sqrt(n))`.
    budget: how often the holdout may be used, at least 1.

  Returns:
    `ThresholdoutResult`.

  Raises:
    AssertionError: ranks or shapes differ, or no floats.
    ValueError: the budget is below 1.

  >>> result = thresholdout(jax.random.key(0), jnp.array([.25, .75]),
  ...   jnp.array([.25, .5]), threshold=.125, scale=0., budget=9)
  >>> print(result.answers, result.from_holdout)
  [0.25 0.5 ] [False  True]

  Reference:
    Generalization in Adaptive Data Analysis and Holdout Reuse (1506.02629),
    algorithm Thresholdout.
  """
  checks.check_rank(1, train=train, holdout=holdout)
  checks.check_same_shape(train=train, holdout=holdout)
  checks.check_float(train=train, holdout=holdout)
  train, holdout = numerics.as_float(train), numerics.as_float(holdout)
  start, *keys = jax.random.split(key)
  state = thresholdout_init(start, scale=scale, budget=budget)
  state = state._replace(offset=state.offset.astype(train.dtype))

  def ask(state, query):
    return thresholdout_step(state, *query, threshold=threshold, scale=scale)

  queries = jax.random.split(keys[0], train.size), train, holdout
  return jax.lax.scan(ask, state, queries)[1]


def agreeing_signs(
  train: jax.Array,
  answers: jax.Array,
  *,
  bound: Scalar,
  num_features: int,
) -> jax.Array:
  """Weights of a vote of the features on which two sets of data agree.

  A feature stays where its correlations with the label in the training set and
  as answered have one sign and both exceed a bound; of those the largest in the
  training set vote with their signs, `sign(sum_j weight_j x_j)`.

  Args:
    train: `[..., D]`, correlations in the training set.
    answers: `[..., D]`, those that were answered; NaN agrees with nothing.
    bound: at least 0, such as `1/sqrt(n)`.
    num_features: how many vote at most, at least 1 and at most D.

  Returns:
    `[..., D]`, 1, -1 or 0.

  Raises:
    AssertionError: shapes differ, or no floats.
    ValueError: the number of features is not in [1, D].

  >>> train = jnp.array([.3, -.2, .4, .1])
  >>> print(agreeing_signs(train, jnp.array([.2, -.2, -.1, .1]), bound=.05,
  ...   num_features=2))
  [ 1. -1.  0.  0.]

  Reference:
    The reusable holdout: Preserving validity in adaptive data analysis (2015),
    the experiment; Generalization in Adaptive Data Analysis and Holdout Reuse
    (1506.02629), their experiment.
  """
  checks.check_same_shape(train=train, answers=answers)
  checks.check_float(train=train, answers=answers)
  train, answers = numerics.as_float(train), numerics.as_float(answers)
  if not 1 <= num_features <= train.shape[-1]:
    raise ValueError(
      f"num_features must be in [1, {train.shape[-1]}], was {num_features}"
    )
  signs = jnp.sign(train)
  agree = jnp.minimum(signs * train, signs * answers) > bound
  size = jnp.where(agree, jnp.abs(train), -1)
  rank = jnp.argsort(jnp.argsort(-size, -1), -1)
  return jnp.where(agree & (rank < num_features), signs, 0)
