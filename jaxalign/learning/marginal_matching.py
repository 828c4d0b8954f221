# SPDX-License-Identifier: Apache-2.0
"""Synthetic records whose pairwise marginals match given ones.

The loop of LLMSynthor without its language model: the gap of the statistics
says what is missing, a proposal is drawn from the gap, and a record that closes
it is accepted. Only the statistics of the real data are needed, and only they
are matched: what lies in three columns at once and not in two is not found.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = (
  "MarginalMatchingState",
  "marginal_matching_init",
  "marginal_matching_step",
  "pairwise_gap",
  "pairwise_marginals",
)


class MarginalMatchingState(NamedTuple):
  """Synthetic records and their statistics.

  Attributes:
    codes: int32 `[N, C]`, values of C columns.
    counts: int32 `[C, V, C, V]`, N times their `pairwise_marginals`.
  """

  codes: jax.Array
  counts: jax.Array


def _pair_counts(codes: jax.Array, num_values: int) -> jax.Array:
  hot = jax.nn.one_hot(codes, num_values, dtype=jnp.int32)
  return jnp.einsum("nia,njb->iajb", hot, hot)


def pairwise_marginals(codes: jax.Array, *, num_values: int) -> jax.Array:
  """How often each two columns have each two values.

  Args:
    codes: integers `[N, C]` in `[0, V)`.
    num_values: V, of every column.

  Returns:
    `[C, V, C, V]`; entry (i, a, j, b) is the share of records with a in column
    i and b in column j.

  Raises:
    AssertionError: not of rank 2, or no integers.
    ValueError: V is below 1.

  >>> found = pairwise_marginals(jnp.array([[0, 1], [1, 1]]), num_values=2)
  >>> print(found[0, :, 1])
  [[0.  0.5]
   [0.  0.5]]

  Reference:
    LLMSynthor (2505.14752), statistics of pairs.
  """
  checks.check_positive(num_values=num_values)
  checks.check_rank(2, codes=codes)
  chex.assert_type(codes, int)
  counts = _pair_counts(codes, num_values)
  return numerics.as_float(counts) / codes.shape[0]


def pairwise_gap(marginals: jax.Array, target: jax.Array) -> jax.Array:
  """Mean total variation between pairwise marginals, over pairs of columns.

  Args:
    marginals: `[C, V, C, V]`, C at least 2.
    target: `[C, V, C, V]`.

  Returns:
    `[]`, in [0, 1].

  Raises:
    AssertionError: shapes differ, or no floats.

  >>> same = pairwise_marginals(jnp.array([[0, 0], [1, 1]]), num_values=2)
  >>> other = pairwise_marginals(jnp.array([[0, 1], [1, 0]]), num_values=2)
  >>> print(pairwise_gap(same, other))
  1.0

  Reference:
    LLMSynthor (2505.14752), discrepancy of statistics.
  """
  checks.check_same_shape(marginals=marginals, target=target)
  checks.check_float(marginals=marginals, target=target)
  columns = marginals.shape[0]
  distances = jnp.sum(jnp.abs(marginals - target), (1, 3)) / 2
  apart = jnp.where(jnp.eye(columns, dtype=bool), 0, distances)
  return jnp.sum(apart) / (columns * (columns - 1))


def marginal_matching_init(
  codes: jax.Array, *, num_values: int
) -> MarginalMatchingState:
  """The state of synthetic records before the first step.

  Args:
    codes: integers `[N, C]` in `[0, V)`, such as columns drawn independently.
    num_values: V, of every column.

  Returns:
    `MarginalMatchingState`.

  Raises:
    AssertionError: not of rank 2, or no integers.
    ValueError: V is below 1.

  >>> marginal_matching_init(jnp.zeros((3, 2), int), num_values=2).codes.shape
  (3, 2)

  Reference:
    LLMSynthor (2505.14752).
  """
  checks.check_positive(num_values=num_values)
  checks.check_rank(2, codes=codes)
  chex.assert_type(codes, int)
  codes = jnp.asarray(codes, jnp.int32)
  return MarginalMatchingState(codes, _pair_counts(codes, num_values))


def marginal_matching_step(
  key: jax.Array, state: MarginalMatchingState, target: jax.Array
) -> tuple[MarginalMatchingState, jax.Array]:
  """Proposes one change of one record, and accepts it if the gap falls.

  Two columns and their values are drawn in proportion to what the synthetic
  records lack, `max(target - marginals, 0)`, and put into a random record.

  Args:
    key: a typed key.
    state: from `marginal_matching_init` or the last step.
    target: `[C, V, C, V]`, pairwise marginals of the real data.

  Returns:
    The next state, and `pairwise_gap` after the step, `[]`.

  Raises:
    AssertionError: shapes differ.

  >>> state = marginal_matching_init(jnp.zeros((1, 2), int), num_values=2)
  >>> target = pairwise_marginals(jnp.ones((1, 2), int), num_values=2)
  >>> state, gap = marginal_matching_step(jax.random.key(0), state, target)
  >>> print(state.codes, gap)
  [[1 1]] 0.0

  Reference:
    LLMSynthor (2505.14752), the loop; proposals from the gap, where
    the paper asks a language model, and the rule of acceptance are ours.
  """
  checks.check_same_shape(counts=state.counts, target=target)
  checks.check_float(target=target)
  cell_key, record_key = jax.random.split(key)
  target = numerics.as_float(target)
  number, columns = state.codes.shape
  marginals = state.counts.astype(target.dtype) / number
  apart = ~jnp.eye(columns, dtype=bool)[:, None, :, None]
  missing = jnp.where(apart, jnp.maximum(target - marginals, 0), 0)
  cell = jax.random.categorical(cell_key, jnp.log(missing.ravel()))
  i, a, j, b = jnp.unravel_index(cell.astype(jnp.int32), target.shape)
  record = jax.random.randint(record_key, (), 0, number)
  old = state.codes[record]
  new = old.at[i].set(a).at[j].set(b)
  here, there = (_pair_counts(x[None], target.shape[1]) for x in (old, new))
  counts = state.counts + there - here
  before = pairwise_gap(marginals, target)
  after = pairwise_gap(counts.astype(target.dtype) / number, target)
  better = after < before
  state = MarginalMatchingState(
    codes=state.codes.at[record].set(jnp.where(better, new, old)),
    counts=jnp.where(better, counts, state.counts),
  )
  return state, jnp.minimum(before, after)
