# SPDX-License-Identifier: Apache-2.0
"""How much of its variety a policy keeps, or loses, in training."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.evaluation.pass_at_k import success_at_k

__all__ = (
  "KeptAnswers",
  "UpliftRate",
  "distinct_correct",
  "effective_number",
  "expected_distinct_correct",
  "kept_answers",
  "smallest_ratio",
  "uplift_rate",
)


class KeptAnswers(NamedTuple):
  """How many correct answers have kept their mass; a share is their ratio.

  Attributes:
    kept: int32 `[...]`.
    total: int32 `[...]`, of correct answers that the reference can give.
  """

  kept: jax.Array
  total: jax.Array


class UpliftRate(NamedTuple):
  """How often correct samples of each rank gained probability.

  Attributes:
    rate: `[..., G]`, in [0, 1], rank 0 for the least likely; 0 where no sample
      of that rank was correct.
    count: int32 `[..., G]`, of correct samples of that rank.
  """

  rate: jax.Array
  count: jax.Array


def _check_policies(log_probs: jax.Array, ref_log_probs: jax.Array) -> None:
  checks.check_same_shape(log_probs=log_probs, ref_log_probs=ref_log_probs)
  checks.check_float(log_probs=log_probs, ref_log_probs=ref_log_probs)


def effective_number(log_probs: jax.Array) -> jax.Array:
  """The number of equally likely answers with the same entropy, `e^H`.

  Args:
    log_probs: `[..., V]`, normalised, nats; -inf for no mass.

  Returns:
    `[...]`, in [1, V].

  Raises:
    AssertionError: the type is not floating point.

  >>> print(effective_number(jnp.log(jnp.array([.5, .5, 0.]))))
  2.0

  Reference:
    Hill, Diversity and Evenness (1973), the number of order 1.
  """
  checks.check_float(log_probs=log_probs)
  return jnp.exp(-jnp.sum(numerics.plogp(log_probs), -1))


def smallest_ratio(log_probs: jax.Array, ref_log_probs: jax.Array) -> jax.Array:
  """What is left of the answer that lost most, `min_y pi(y) / ref(y)`.

  Args:
    log_probs: `[..., V]`, of the policy, normalised.
    ref_log_probs: `[..., V]`, of the reference; answers that it cannot give
      (-inf) are left out.

  Returns:
    `[...]`, in [0, 1].

  Raises:
    AssertionError: shapes differ, or a type is not floating point.

  >>> pi, ref = jnp.log(jnp.array([.9, .1])), jnp.log(jnp.array([.5, .5]))
  >>> print(f"{smallest_ratio(pi, ref):.4f}")
  0.2000

  Reference:
    None: a measure of this library's.
  """
  _check_policies(log_probs, ref_log_probs)
  live = ref_log_probs > -jnp.inf
  ratio = numerics.as_float(log_probs) - jnp.where(live, ref_log_probs, 0)
  return jnp.exp(jnp.min(jnp.where(live, ratio, jnp.inf), -1))


def kept_answers(
  log_probs: jax.Array,
  ref_log_probs: jax.Array,
  correct: jax.Array,
  *,
  threshold: float = 0.5,
) -> KeptAnswers:
  """Counts the correct answers that keep a share of their probability.

  `#{y correct: pi(y) >= tau ref(y)}` of `#{y correct: ref(y) > 0}`.

  Args:
    log_probs: `[..., V]`, of the policy, normalised.
    ref_log_probs: `[..., V]`, of the reference.
    correct: bool `[..., V]`.
    threshold: tau, above 0.

  Returns:
    `KeptAnswers`.

  Raises:
    AssertionError: shapes differ, or the type of a policy is not floating
      point.
    ValueError: the threshold is not above 0.

  >>> pi, ref = jnp.log(jnp.array([.8, .1, .1])), jnp.log(jnp.ones(3) / 3)
  >>> correct = jnp.array([True, True, False])
  >>> kept, total = kept_answers(pi, ref, correct)
  >>> print(kept, total)
  1 2

  Reference:
    None: a measure of this library's.
  """
  _check_policies(log_probs, ref_log_probs)
  checks.check_same_shape(log_probs=log_probs, correct=correct)
  checks.check_positive(threshold=threshold)
  known = correct & (ref_log_probs > -jnp.inf)
  least = ref_log_probs + jnp.log(jnp.asarray(threshold, ref_log_probs.dtype))
  kept = known & (log_probs >= least)
  return KeptAnswers(
    jnp.sum(kept, -1, dtype=jnp.int32), jnp.sum(known, -1, dtype=jnp.int32)
  )


def distinct_correct(samples: jax.Array, correct: jax.Array) -> jax.Array:
  """How many different correct answers n samples hold.

  Args:
    samples: integers `[..., n]`, which answer each sample is.
    correct: bool `[..., n]`, whether it is correct.

  Returns:
    int32 `[...]`.

  Raises:
    AssertionError: shapes differ.

  >>> correct = jnp.array([True, True, False, True])
  >>> print(distinct_correct(jnp.array([5, 5, 1, 2]), correct))
  2

  Reference:
    None: a measure of this library's.
  """
  checks.check_same_shape(samples=samples, correct=correct)
  # Side by side, an answer counts where it differs from the one before it.
  order = jnp.lexsort((samples, ~correct))
  samples = jnp.take_along_axis(samples, order, -1)
  correct = jnp.take_along_axis(correct, order, -1)
  repeated = samples[..., 1:] == samples[..., :-1]
  first = jnp.ones_like(correct[..., :1])
  new = jnp.concatenate([first, ~repeated], -1)
  return jnp.sum(new & correct, -1, dtype=jnp.int32)


def expected_distinct_correct(
  log_probs: jax.Array, correct: jax.Array, *, num_samples: int
) -> jax.Array:
  """The expectation of `distinct_correct` over samples of a policy.

  `sum_{y correct} 1 - (1 - pi(y))^n`.

  Args:
    log_probs: `[..., V]`, normalised, nats.
    correct: bool `[..., V]`.
    num_samples: n, at least 1.

  Returns:
    `[...]`, at most the number of correct answers.

  Raises:
    AssertionError: shapes differ, or the type is not floating point.
    ValueError: fewer than 1 sample.

  >>> correct = jnp.array([True, True])
  >>> print(expected_distinct_correct(
  ...   jnp.log(jnp.array([.5, .5])), correct, num_samples=2))
  1.5

  Reference:
    None: linearity of expectations.
  """
  checks.check_same_shape(log_probs=log_probs, correct=correct)
  checks.check_float(log_probs=log_probs)
  probs = jnp.exp(numerics.as_float(log_probs))
  return numerics.masked_sum(success_at_k(probs, k=num_samples), correct, -1)


def uplift_rate(
  correct: jax.Array, old_scores: jax.Array, new_scores: jax.Array
) -> UpliftRate:
  """Share of correct samples that an update made more likely, by their rank.

  Samples of a group are ranked by their log-probability before the update, rank
  0 being the least likely; equal ones by their position in the group. Rank bias
  shows as a rate that rises with the rank.

  Args:
    correct: bool `[..., N, G]`, of G samples in each of N groups.
    old_scores: `[..., N, G]`, log-probabilities before the update.
    new_scores: `[..., N, G]`, after it.

  Returns:
    `UpliftRate`, over the N groups.

  Raises:
    AssertionError: shapes differ, or a score is not floating point.

  >>> correct = jnp.array([[True, True], [False, True]])
  >>> old = jnp.log(jnp.array([[.1, .2], [.3, .4]]))
  >>> new = jnp.log(jnp.array([[.05, .3], [.2, .5]]))
  >>> rate, count = uplift_rate(correct, old, new)
  >>> print(rate, count)
  [0. 1.] [1 2]

  Reference:
    Rewarding the Unlikely (2506.02355), section 3.
  """
  checks.check_same_shape(
    correct=correct, old_scores=old_scores, new_scores=new_scores
  )
  checks.check_float(old_scores=old_scores, new_scores=new_scores)
  order = jnp.argsort(old_scores, -1, stable=True)
  known = jnp.take_along_axis(correct, order, -1)
  risen = jnp.take_along_axis(correct & (new_scores > old_scores), order, -1)
  count = jnp.sum(known, -2, dtype=jnp.int32)
  total = jnp.sum(risen, -2).astype(
    jnp.promote_types(old_scores.dtype, jnp.float32)
  )
  return UpliftRate(total / jnp.maximum(count, 1).astype(total.dtype), count)
