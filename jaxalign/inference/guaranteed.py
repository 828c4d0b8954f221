# SPDX-License-Identifier: Apache-2.0
"""Generation that satisfies a constraint with certainty (GUARD).

A base law a and a constraint b in {0, 1} define the gold law `g = a b / Z`,
`Z = E_a b`: of all laws that satisfy b it is the closest to a, and `KL(g||a) =
-log Z`. A proposal a', rejected until b holds, gives `g' = a' b / AR` with
acceptance rate `AR = E_a' b`, and

  KL(g||a') = KL(g||g') - log AR,

so that a proposal close to g in this direction is accepted often and gives
nearly g. What is asked over all outcomes takes log-probabilities `[..., V]`,
which are normalised here (logits do as well); what is asked over samples takes
their log-probabilities `[...]`.
"""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import chex
import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.divergences import categorical

__all__ = (
  "KLDecomposition",
  "QuasiRejection",
  "Rejection",
  "acceptance_rate",
  "dpg_surrogate",
  "gold_log_prob",
  "kl_decomposition",
  "log_partition_estimate",
  "quasi_rejection",
  "quasi_rejection_accept_prob",
  "rejection_sample",
)

Sample = TypeVar("Sample")


class Rejection(NamedTuple, Generic[Sample]):
  """What rejection sampling ended with."""

  sample: Sample  # one proposal; to be thrown away where not `accepted`
  trials: jax.Array  # int32 [], the proposals that were drawn
  accepted: jax.Array  # bool []


class KLDecomposition(NamedTuple):
  """`proposal = accepted - log_acceptance_rate`, of all batch axes `[...]`."""

  proposal: jax.Array  # KL(g||a')
  accepted: jax.Array  # KL(g||g')
  log_acceptance_rate: jax.Array  # log AR, at least -proposal


class QuasiRejection(NamedTuple):
  """The law of the samples that quasi-rejection keeps, and what it costs."""

  log_prob: jax.Array  # [..., V], normalised
  acceptance_rate: jax.Array  # [...]
  total_variation: jax.Array  # [...], to the normalised target


def _check_constraint(log_prob: jax.Array, constraint: jax.Array) -> None:
  checks.check_same_shape(log_prob=log_prob, constraint=constraint)
  checks.check_float(log_prob=log_prob)
  chex.assert_type(constraint, bool)


# --- sampling ----------------------------------------------------------------


def rejection_sample(
  key: jax.Array,
  proposal: Callable[[jax.Array], Sample],
  accept_fn: Callable[[Sample], jax.Array],
  max_trials: int,
) -> Rejection[Sample]:
  """Draws from a proposal until a draw is accepted.

  What is accepted has law `a'(x) c(x) / AR`, with c(x) the probability of
  acceptance; the trials are geometric, of mean `1 / AR`. Batches are made by
  `vmap`, whose loop runs until the last of them is done.

  Args:
    key: a typed key.
    proposal: maps a key to a sample, an array or a tree of arrays.
    accept_fn: maps a sample to a scalar: bool, or a probability of acceptance
      (which is met to one unit of the uniform draw, 1e-7 in float32).
    max_trials: proposals after which to give up, at least 1.

  Returns:
    `Rejection`: the sample, the number of trials, and whether it was accepted.

  Raises:
    ValueError: max_trials is below 1.

  >>> roll = lambda key: jax.random.randint(key, (), 1, 7)
  >>> draw = rejection_sample(jax.random.key(0), roll, lambda x: x > 5, 1000)
  >>> int(draw.sample), bool(draw.accepted)
  (6, True)

  Reference:
    Guaranteed Generation from Large Language Models (2410.06716), section 2.
  """
  checks.check_positive(max_trials=max_trials)
  # Nothing is known of a sample but its shape before the first is drawn.
  empty = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(proposal, key)
  )

  def unfinished(state: Rejection) -> jax.Array:
    return ~state.accepted & (state.trials < max_trials)

  def attempt(state: Rejection) -> Rejection:
    draw, decide = jax.random.split(jax.random.fold_in(key, state.trials))
    sample = proposal(draw)
    prob = numerics.as_float(accept_fn(sample))
    # The draw lies in [0, 1): probability 1 always accepts and 0 never does.
    accepted = jax.random.uniform(decide, dtype=prob.dtype) < prob
    return Rejection(sample, state.trials + 1, accepted)

  start = Rejection(empty, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
  return jax.lax.while_loop(unfinished, attempt, start)


# --- laws over all outcomes --------------------------------------------------


def gold_log_prob(log_base: jax.Array, constraint: jax.Array) -> jax.Array:
  """The law closest to the base among those that satisfy a constraint.

  `g = a b / Z`. With the proposal for a, the law g' of what rejection keeps.

  Args:
    log_base: `[..., V]`.
    constraint: bool `[..., V]`, the shape of `log_base`.

  Returns:
    `[..., V]`: log-probabilities, -inf where `constraint` is false. A row in
    which nothing can satisfy it is all -inf.

  Raises:
    AssertionError: shapes differ, or the types are not float and bool.

  >>> log_base = jnp.log(jnp.array([.5, .3, .2]))
  >>> gold = gold_log_prob(log_base, jnp.array([False, True, True]))
  >>> print(*(f"{p:.4f}" for p in jnp.exp(gold)))
  0.0000 0.6000 0.4000

  Reference:
    Guaranteed Generation from Large Language Models (2410.06716), section 2.
  """
  _check_constraint(log_base, constraint)
  return numerics.masked_log_softmax(
    log_base, constraint & (log_base > -jnp.inf)
  )


def _log_acceptance_rate(log_proposal, constraint):
  log_proposal = jax.nn.log_softmax(numerics.as_float(log_proposal))
  return numerics.masked_logsumexp(log_proposal, constraint, -1)


def acceptance_rate(
  log_proposal: jax.Array, constraint: jax.Array
) -> jax.Array:
  """The probability that a proposal satisfies a constraint.

  `AR = E_a' b`; with the base for the proposal, Z.

  Args:
    log_proposal: `[..., V]`.
    constraint: bool `[..., V]`, the shape of `log_proposal`.

  Returns:
    `[...]`, in `[0, 1]`.

  Raises:
    AssertionError: shapes differ, or the types are not float and bool.

  >>> log_proposal = jnp.log(jnp.array([.5, .3, .2]))
  >>> rate = acceptance_rate(log_proposal, jnp.array([False, True, True]))
  >>> print(f"{rate:.4f}")
  0.5000

  Reference:
    Guaranteed Generation from Large Language Models (2410.06716), section 2.
  """
  _check_constraint(log_proposal, constraint)
  return jnp.exp(_log_acceptance_rate(log_proposal, constraint))


def kl_decomposition(
  log_base: jax.Array, log_proposal: jax.Array, constraint: jax.Array
) -> KLDecomposition:
  """Splits the proposal's distance to gold into closeness and cost.

  `KL(g||a') = KL(g||g') - log AR`; hence `AR >= exp(-KL(g||a'))`.

  Args:
    log_base: `[..., V]`.
    log_proposal: `[..., V]`, the shape of `log_base`.
    constraint: bool `[..., V]`, the shape of `log_base`.

  Returns:
    `KLDecomposition`, nats, each part computed by itself: infinite where the
    proposal lacks an outcome that g has; NaN where no outcome of the base
    satisfies the constraint, for then there is no g.

  Raises:
    AssertionError: shapes differ, or the types are not float and bool.

  >>> log_base = jnp.log(jnp.array([.5, .3, .2]))
  >>> uniform = jnp.zeros(3)
  >>> parts = kl_decomposition(log_base, uniform, log_base < -1.)
  >>> print(*(f"{x:.4f}" for x in parts))
  0.4256 0.0201 -0.4055

  Reference:
    Guaranteed Generation from Large Language Models (2410.06716), theorem 2.
  """
  checks.check_same_shape(log_base=log_base, log_proposal=log_proposal)
  gold = gold_log_prob(log_base, constraint)
  log_rate = _log_acceptance_rate(log_proposal, constraint)
  # A proposal that is never accepted has no g'; it lies, like any stand-in
  # that lacks the support of g, at an infinite distance.
  accepted = jnp.where(
    log_rate[..., None] > -jnp.inf,
    gold_log_prob(log_proposal, constraint),
    log_proposal,
  )
  exists = jnp.any(gold > -jnp.inf, -1)

  def from_gold(log_law):
    return jnp.where(exists, categorical.kl(gold, log_law), jnp.nan)

  return KLDecomposition(from_gold(log_proposal), from_gold(accepted), log_rate)


# --- training the proposal ---------------------------------------------------


def log_partition_estimate(
  log_base: jax.Array, constraint: jax.Array, log_sampling: jax.Array
) -> jax.Array:
  """Estimates log Z from samples of any law that covers gold.

  `Z_hat = (1/n) sum_i a(x_i) b(x_i) / q(x_i)`, `x_i ~ q`: the mean of Z_hat,
  not of its logarithm, is exact. Reduces the samples' axis.

  Args:
    log_base: `[..., n]`, log a of the samples.
    constraint: bool `[..., n]`, b of the samples.
    log_sampling: `[..., n]`, log q of the samples, finite.

  Returns:
    `[...]`: `log Z_hat`, -inf where no sample satisfies the constraint.

  Raises:
    AssertionError: shapes differ, or the types are not float and bool.

  >>> log_q = jnp.log(jnp.array([.5, .5]))
  >>> b = jnp.array([True, False])
  >>> print(f"{jnp.exp(log_partition_estimate(log_q, b, log_q)):.4f}")
  0.5000

  Reference:
    Guaranteed Generation from Large Language Models (2410.06716), section 3.
  """
  _check_constraint(log_base, constraint)
  checks.check_same_shape(log_base=log_base, log_sampling=log_sampling)
  log_weights = numerics.as_float(log_base - log_sampling)
  total = numerics.masked_logsumexp(log_weights, constraint, -1)
  return total - jnp.log(jnp.asarray(log_base.shape[-1], total.dtype))


def dpg_surrogate(
  log_policy: jax.Array,
  log_base: jax.Array,
  constraint: jax.Array,
  log_z: jax.Array,
  *,
  log_sampling: jax.Array | None = None,
) -> jax.Array:
  """Distributional policy gradient: descends KL(g||policy) from samples.

  `-sg(a b / (Z q)) log pi(x)`, `x ~ q`. With the exact Z its expectation is
  `KL(g||pi)` plus the entropy of g, and so is its gradient.

  Args:
    log_policy: `[...]`, log pi of the samples, differentiated.
    log_base: `[...]`, log a of the samples.
    constraint: bool `[...]`, b of the samples; where false the loss is 0.
    log_z: scalar or `[...]`, log Z or an estimate of it, such as the logarithm
      of the running mean of `exp(log_partition_estimate(...))`.
    log_sampling: `[...]`, log q of the samples, finite; the policy's own by
      default. Not differentiated.

  Returns:
    `[...]`, one per sample, not reduced.

  Raises:
    AssertionError: shapes differ, or the types are not float and bool.

  >>> log_p, b = jnp.log(jnp.array([.5, .5])), jnp.array([True, False])
  >>> loss = dpg_surrogate(log_p, log_p, b, jnp.log(.5))
  >>> print(*(f"{x:.4f}" for x in loss))
  1.3863 0.0000

  Reference:
    Guaranteed Generation from Large Language Models (2410.06716), section 3;
    A Distributional Approach to Controlled Text Generation (2012.11635).
  """
  _check_constraint(log_policy, constraint)
  if log_sampling is None:
    log_sampling = log_policy
  checks.check_same_shape(
    log_policy=log_policy, log_base=log_base, log_sampling=log_sampling
  )
  if jnp.ndim(log_z):
    checks.check_same_shape(log_policy=log_policy, log_z=log_z)
  live = constraint & (log_base > -jnp.inf)
  log_weight = jnp.where(live, log_base - log_sampling - log_z, 0)
  weight = jnp.exp(jax.lax.stop_gradient(numerics.as_float(log_weight)))
  log_policy = numerics.as_float(log_policy)
  return jnp.where(live, -weight * jnp.where(live, log_policy, 0), 0)


# --- quasi-rejection ---------------------------------------------------------


def _check_bound(log_target, log_proposal, log_bound, batch) -> None:
  checks.check_same_shape(log_target=log_target, log_proposal=log_proposal)
  checks.check_float(log_target=log_target, log_proposal=log_proposal)
  if jnp.ndim(log_bound) and jnp.shape(log_bound) != batch:
    raise ValueError(
      f"log_bound must be a scalar or of shape {batch}, was of shape "
      f"{jnp.shape(log_bound)}"
    )


def quasi_rejection_accept_prob(
  log_target: jax.Array,
  log_proposal: jax.Array,
  log_bound: float | jax.Array,
) -> jax.Array:
  """The probability with which quasi-rejection keeps a sample.

  `min(1, P(x) / (B q(x)))`, for the `accept_fn` of `rejection_sample`.

  Args:
    log_target: `[...]`, log P of the samples, unnormalised.
    log_proposal: `[...]`, log q of the samples, normalised.
    log_bound: scalar or `[...]`, log B: B need not bound `P / q`.

  Returns:
    `[...]`, in `[0, 1]`; 0 where P is 0.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: the shape of log_bound.

  >>> log_q = jnp.log(jnp.array([.5, .5]))
  >>> log_target = jnp.log(jnp.array([.8, .2]))
  >>> prob = quasi_rejection_accept_prob(log_target, log_q, 0.)
  >>> print(*(f"{p:.4f}" for p in prob))
  1.0000 0.4000

  Reference:
    Sampling from Discrete Energy-Based Models with Quality/Efficiency
    Trade-offs (2112.05702), algorithm 1.
  """
  _check_bound(log_target, log_proposal, log_bound, jnp.shape(log_target))
  live = log_target > -jnp.inf
  log_ratio = jnp.where(live, log_target, 0) - log_proposal - log_bound
  prob = jnp.exp(jnp.minimum(numerics.as_float(log_ratio), 0))
  return jnp.where(live, prob, 0)


def quasi_rejection(
  log_target: jax.Array,
  log_proposal: jax.Array,
  log_bound: float | jax.Array,
) -> QuasiRejection:
  """What quasi-rejection samples, how often, and how far from its target.

  Keeps `min(q, P / B) / AR`, `AR = E_q min(1, P / (B q))`. The total variation
  to `P / Z` does not increase in B, and is 0 once `B >= max P / q`; nor does
  the rate.

  Args:
    log_target: `[..., V]`, log P, unnormalised: Z is not needed.
    log_proposal: `[..., V]`, log q.
    log_bound: scalar or `[...]`, log B.

  Returns:
    `QuasiRejection`. Where P and q share no outcome the rate is 0, the law is
    all -inf and its distance NaN.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: the shape of log_bound.

  >>> log_q = jnp.log(jnp.array([.5, .5]))
  >>> log_target = jnp.log(jnp.array([.8, .2]))
  >>> kept = quasi_rejection(log_target, log_q, jnp.log(1.6))
  >>> print(f"{kept.acceptance_rate:.4f} {kept.total_variation:.4f}")
  0.6250 0.0000

  Reference:
    Sampling from Discrete Energy-Based Models with Quality/Efficiency
    Trade-offs (2112.05702), section 3.
  """
  batch = jnp.shape(log_target)[:-1]
  _check_bound(log_target, log_proposal, log_bound, batch)
  log_target = numerics.as_float(log_target)
  log_q = jax.nn.log_softmax(numerics.as_float(log_proposal))
  log_bound = jnp.asarray(log_bound, log_target.dtype)
  log_kept = jnp.minimum(log_q, log_target - log_bound[..., None])
  live = log_kept > -jnp.inf
  log_prob = numerics.masked_log_softmax(log_kept, live)
  distance = categorical.total_variation(log_prob, log_target)
  return QuasiRejection(
    log_prob,
    jnp.exp(numerics.masked_logsumexp(log_kept, live, -1)),
    jnp.where(jnp.any(live, -1), distance, jnp.nan),
  )
