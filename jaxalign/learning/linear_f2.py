# SPDX-License-Identifier: Apache-2.0
"""Linear functions over the field of two elements, and what makes them hard.

`h(x) = <h, x> mod 2` on bits x. A learner that has seen fewer independent
samples than there are coordinates knows nothing of the rest: its error there is
1/2. This makes the hardest instances for learning from many distributions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks
from jaxalign.learning import multi_distribution

__all__ = (
  "F2Instance",
  "F2Solution",
  "f2_errors",
  "f2_hard_instance",
  "f2_majority_errors",
  "f2_samples",
  "f2_solve",
)


_WORD = 32


class F2Solution(NamedTuple):
  """A linear function that agrees with samples.

  Attributes:
    solution: bool `[D]`.
    consistent: bool `[]`, whether any linear function agrees with all samples;
      if none does, `solution` means nothing.
    rank: int32 `[]`, of the samples.
    features: bool `[D, D]`, the samples reduced to what they say: row c is
      their equation for coordinate c, or 0 where that is free.
    labels: bool `[D]`, of the reduced samples; pooled with more samples they
      stand for all that went before.
  """

  solution: jax.Array
  consistent: jax.Array
  rank: jax.Array
  features: jax.Array
  labels: jax.Array


class F2Instance(NamedTuple):
  """k distributions that are uniform on coordinates of their own.

  Attributes:
    target: bool `[D]`, the linear function that labels the samples.
    members: bool `[k, D]`, the coordinates of each distribution; each belongs
      to one, so that no distribution tells anything of another.
  """

  target: jax.Array
  members: jax.Array


def _bits(x: jax.Array) -> jax.Array:
  x = jnp.asarray(x)
  if x.dtype == bool:
    return x
  chex.assert_type(x, int)
  return x % 2 != 0


def _parity(bits: jax.Array) -> jax.Array:
  return jnp.sum(bits, -1, dtype=jnp.int32) % 2 == 1


def _pack(bits: jax.Array) -> jax.Array:
  """Columns `[m, n]` as words of 32 samples each, uint32 `[m, ceil(n/32)]`."""
  padded = jnp.pad(bits, ((0, 0), (0, -bits.shape[1] % _WORD)))
  places = jnp.uint32(1) << jnp.arange(_WORD, dtype=jnp.uint32)
  split = padded.reshape(len(bits), -1, _WORD)
  return jnp.sum(jnp.where(split, places, 0), -1, dtype=jnp.uint32)


def _eliminate(
  columns: jax.Array, num_features: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Gauss-Jordan elimination of samples, 32 in a word.

  Args:
    columns: uint32 `[D + 1, W]`: of each coordinate, and the labels, a bit for
      every sample.
    num_features: D.

  Returns:
    The reduced samples, rows of bits `[D, D + 1]`, 0 for a free coordinate;
    which coordinates are not free, `[D]`; whether the labels are consistent.
  """
  size = columns.shape[1]
  index = jnp.arange(size)

  def step(state, i):
    columns, used = state
    left = columns[i] & ~used
    # The lowest bit of the first word that has one; 0 where no sample is left.
    word = jnp.min(jnp.where(left != 0, index, size - 1))
    bit = left[word] & (~left[word] + 1)
    pivot = jnp.where(index == word, bit, 0)
    cleared = columns[i] & ~pivot
    has = columns[:, word] & bit != 0
    columns = columns ^ jnp.where(has[:, None], cleared, 0)
    return (columns, used | pivot), (word, bit)

  start = columns, jnp.zeros(size, jnp.uint32)
  (columns, used), (word, bit) = jax.lax.scan(
    step, start, jnp.arange(num_features)
  )
  reduced = (columns[:, word] & bit != 0).T
  return reduced, bit != 0, ~jnp.any(columns[-1] & ~used)


def f2_solve(
  key: jax.Array,
  features: jax.Array,
  labels: jax.Array,
  where: jax.Array | None = None,
) -> F2Solution:
  """A linear function over F2 that agrees with samples, uniform among all.

  Gaussian elimination; coordinates that the samples leave free get random
  values. It is empirical risk minimisation where labels are linear.

  Args:
    key: typed random key, for the free coordinates.
    features: bool or integers `[n, D]`, taken mod 2.
    labels: bool or integers `[n]`, taken mod 2.
    where: bool `[n]`, which samples count; all by default.

  Returns:
    `F2Solution`.

  Raises:
    AssertionError: rank, shape or type.

  >>> found = f2_solve(
  ...   jax.random.key(0), jnp.array([[1, 1], [0, 1]]), jnp.array([1, 1]))
  >>> found.solution.tolist(), int(found.rank), bool(found.consistent)
  ([False, True], 2, True)

  Reference:
    Few-round multi-distribution learning (2511.15507), the learner of its
    lower bound.
  """
  checks.check_rank(2, features=features)
  checks.check_same_shape(labels=labels, features_of_one=features[:, 0])
  features, labels = _bits(features), _bits(labels)
  rows = jnp.concatenate([features, labels[:, None]], 1)
  if where is not None:
    checks.check_same_shape(where=where, labels=labels)
    rows = rows & where[:, None]  # an equation 0 = 0 says nothing
  num_features = features.shape[1]
  reduced, bound, consistent = _eliminate(_pack(rows.T), num_features)
  free = ~bound & jax.random.bernoulli(key, shape=bound.shape)
  known = reduced[:, -1] ^ _parity(reduced[:, :-1] & free)
  return F2Solution(
    solution=free | bound & known,
    consistent=consistent,
    rank=jnp.sum(bound, dtype=jnp.int32),
    features=reduced[:, :-1],
    labels=reduced[:, -1],
  )


def f2_hard_instance(key: jax.Array, dims: Sequence[int]) -> F2Instance:
  """Distributions on disjoint sets of coordinates, in random order.

  The target is uniform. Which distribution has which dimension is unknown to a
  learner, hence a single round must sample all as if each were the largest; for
  two rounds the paper takes one of dimension about d, `sqrt(k)` of `d/sqrt(k)`
  and k of `d/k`. Subspaces that span each other would make every round trivial.

  Args:
    key: typed random key.
    dims: k dimensions, each at least 1; D is their sum.

  Returns:
    `F2Instance`.

  Raises:
    ValueError: no dimension, or one below 1.

  >>> instance = f2_hard_instance(jax.random.key(0), (2, 1))
  >>> sorted(instance.members.sum(1).tolist())
  [1, 2]

  Reference:
    Few-round multi-distribution learning (2511.15507), the lower bound.
  """
  if not dims or min(dims) < 1:
    raise ValueError(f"dims must be one or more numbers >= 1, was {dims}")
  order_key, target_key = jax.random.split(key)
  owner = np.repeat(np.arange(len(dims)), dims)
  members = jnp.asarray(owner == np.arange(len(dims))[:, None])
  return F2Instance(
    target=jax.random.bernoulli(target_key, shape=owner.shape),
    members=jax.random.permutation(order_key, members),
  )


def f2_samples(
  key: jax.Array, instance: F2Instance, sources: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Labelled samples of given distributions.

  Args:
    key: typed random key.
    instance: target and distributions.
    sources: integers `[n]` in `[0, k)`, the distribution of each sample.

  Returns:
    Features, bool `[n, D]`, and labels, bool `[n]`.

  Raises:
    AssertionError: rank or type of `sources`.

  >>> instance = f2_hard_instance(jax.random.key(0), (2, 1))
  >>> x, y = f2_samples(jax.random.key(1), instance, jnp.array([0, 0, 1]))
  >>> x.shape, bool(jnp.any(x[2] & ~instance.members[1]))
  ((3, 3), False)

  Reference:
    Few-round multi-distribution learning (2511.15507), the lower bound.
  """
  checks.check_rank(1, sources=sources)
  chex.assert_type(sources, int)
  own = instance.members[sources]
  size = own.shape[-1]
  # 32 coordinates to a word: a number for each would take most of the time.
  words = jax.random.bits(key, (len(own), -(-size // _WORD)), jnp.uint32)
  drawn = words[..., None] >> jnp.arange(_WORD, dtype=jnp.uint32) & 1 == 1
  features = own & drawn.reshape(len(own), -1)[:, :size]
  return features, _parity(features & instance.target)


def f2_errors(instance: F2Instance, hypothesis: jax.Array) -> jax.Array:
  """The error of a linear function on every distribution, exactly.

  1/2 where it differs from the target in a coordinate of the distribution, else
  0: a linear function that is not 0 is 1 on half of its domain.

  Args:
    instance: target and distributions.
    hypothesis: bool or integers `[..., D]`, taken mod 2.

  Returns:
    `[..., k]`, 0 or 1/2.

  Raises:
    AssertionError: shape or type.

  >>> instance = f2_hard_instance(jax.random.key(0), (2, 1))
  >>> f2_errors(instance, ~instance.target).tolist()
  [0.5, 0.5]

  Reference:
    Few-round multi-distribution learning (2511.15507), the lower bound.
  """
  hypothesis = _bits(hypothesis)
  chex.assert_axis_dimension(hypothesis, -1, len(instance.target))
  wrong = hypothesis ^ instance.target
  return jnp.any(wrong[..., None, :] & instance.members, -1) / 2


def f2_majority_errors(
  instance: F2Instance, hypotheses: jax.Array
) -> jax.Array:
  """The error of a vote of linear functions on every distribution, exactly.

  The values of r + 1 linear functions (with the target) at a uniform point are
  uniform on a subspace. Their law is the Walsh transform of which of their
  `2^(r + 1)` sums vanish on the distribution.

  Args:
    instance: target and distributions.
    hypotheses: bool or integers `[r, D]`, taken mod 2; r at most 12 or so.

  Returns:
    `[k]`, in [0, 1]; a tied vote says 1.

  Raises:
    AssertionError: rank, shape or type.

  >>> instance = F2Instance(jnp.array([1, 1]) == 1, jnp.ones((1, 2), bool))
  >>> wrong = jnp.array([[0, 1], [1, 0], [1, 1]])  # two of three
  >>> f2_majority_errors(instance, wrong).tolist()
  [0.25]

  Reference:
    Few-round multi-distribution learning (2511.15507), the vote; the law is
    O'Donnell, Analysis of Boolean Functions (2014).
  """
  checks.check_rank(2, hypotheses=hypotheses)
  chex.assert_axis_dimension(hypotheses, -1, len(instance.target))
  functions = jnp.concatenate([_bits(hypotheses), instance.target[None]])
  size = len(functions)
  patterns = np.arange(2**size)[:, None] >> np.arange(size) & 1
  sums = jnp.asarray(patterns) @ functions.astype(jnp.int32) % 2 == 1
  vanish = ~jnp.any(sums[:, None] & instance.members, -1)
  signs = 1 - 2 * (patterns @ patterns.T % 2)
  votes = multi_distribution.majority(jnp.asarray(patterns[:, :-1]))
  wrong = votes != (patterns[:, -1] == 1)
  # Of each sum: its sign, added up over the patterns in which the vote errs.
  total = jnp.sum(jnp.where(wrong[:, None], signs, 0), 0)
  return jnp.sum(total[:, None] * vanish, 0) / 2**size
