# SPDX-License-Identifier: Apache-2.0
"""The policy of highest reward in a KL ball, and best-of-n's way towards it.

A base is log-probabilities `log_p [..., V]` (normalised here) with `rewards
[..., V]`. Over m independent tokens with additive reward, best-of-n with `n =
e^{m Delta}` behaves, per token, as the optimum at KL Delta.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.divergences import categorical, kl_ball
from jaxalign.inference import _order, best_of_n

__all__ = (
  "BernoulliBestOfN",
  "KLConstrained",
  "bernoulli_best_of_n",
  "binomial_log_pmf",
  "kl_constrained_policy",
  "large_deviation_rate",
)

Scalar = float | jax.Array


class KLConstrained(NamedTuple):
  """The optimum in a KL ball around the base."""

  log_policy: jax.Array  # [..., V]
  inv_temperature: jax.Array  # [...]: s, per unit of reward; may be inf


def kl_constrained_policy(
  log_p: jax.Array, rewards: jax.Array, max_kl: Scalar
) -> KLConstrained:
  """`argmax E_pi r` subject to `KL(pi||p) <= Delta`: `phi = p e^{s r} / Z`.

  s is the root of `KL(phi||p) = Delta`. Where Delta reaches `-log p(argmax r)`,
  phi is the base restricted to the best outcomes and s is inf. Any policy with
  KL of at most Delta and reward within eps of the optimum has
  `KL(pi||phi) <= s eps`. Differentiable by the implicit function theorem.

  Args:
    log_p: `[..., V]`, log-probabilities of the base; -inf for no mass.
    rewards: `[..., V]`, finite where there is mass.
    max_kl: Delta, a scalar above 0, nats.

  Returns:
    A `KLConstrained`.

  Raises:
    ValueError: max_kl not above 0.

  >>> log_p, r = jnp.log(jnp.array([.7, .3])), jnp.array([0., 1.])
  >>> print(jnp.round(jnp.exp(kl_constrained_policy(log_p, r, .1)[0]), 4))
  [0.4854 0.5146]

  Reference:
    Asymptotics of Language Model Alignment (2404.01730).
  """
  checks.check_positive(max_kl=max_kl)
  log_p, rewards = _order.base_log_probs(log_p, rewards)
  best = kl_ball.tilt(log_p, rewards, max_kl)
  return KLConstrained(
    best.log_policy(),
    jnp.where(best.on_face, jnp.inf, best.strength / best.spread),
  )


def large_deviation_rate(
  log_p: jax.Array, rewards: jax.Array, level: jax.Array
) -> jax.Array:
  """Rate at which the mean reward of m draws stays at a level: Cramer's I.

  `I(x) = sup_s s x - log E_p e^{s r}`, the KL from p of its exponential tilt of
  mean x; `P(mean >= x) = e^{-m I(x) + o(m)}` for x above the mean.

  Args:
    log_p: `[..., V]`, log-probabilities of one draw; -inf for no mass.
    rewards: `[..., V]`, finite where there is mass.
    level: x `[...]`, in units of the reward.

  Returns:
    `[...]`, nats: 0 at the mean, +inf outside the range of rewards. Its
    derivative in x is s.

  Raises:
    AssertionError: shapes do not fit.

  >>> log_p, r = jnp.log(jnp.array([.5, .5])), jnp.array([0., 1.])
  >>> print(f"{large_deviation_rate(log_p, r, .6):.4f}")
  0.0201

  Reference:
    Asymptotics of Language Model Alignment (2404.01730); Cramer (1938).
  """
  log_p, rewards = _order.base_log_probs(log_p, rewards)
  level = jnp.asarray(level, log_p.dtype)
  checks.check_same_shape(one_each=log_p[..., 0], level=level)
  live = log_p > -jnp.inf
  top = jnp.max(jnp.where(live, rewards, -jnp.inf), -1)
  bottom = jnp.min(jnp.where(live, rewards, jnp.inf), -1)
  inside = (level >= bottom) & (level <= top)
  # Rewards from the level: it must have mean 0 under the tilt.
  excess = jnp.where(live, rewards - level[..., None], 0)
  excess = jnp.where(inside[..., None], excess, 0)
  ordered = jnp.sort(jnp.where(live, rewards, top[..., None]), -1)
  steps = ordered[..., 1:] - ordered[..., :-1]
  gap = jnp.min(jnp.where(steps > 0, steps, jnp.inf), -1, initial=jnp.inf)
  rarest = -jnp.min(jnp.where(live, log_p, 0), -1)
  # Beyond this the tilt is on one outcome, to every digit.
  bound = (rarest + 800) / jnp.where(jnp.isfinite(gap), gap, 1)

  def mean(s):
    tilt = numerics.masked_log_softmax(log_p + s[..., None] * excess)
    return jnp.sum(jnp.exp(tilt) * excess, -1)

  # The supremum is stationary in s: its derivatives need none of s.
  s = jax.lax.stop_gradient(numerics.bisect(mean, -bound, bound))
  value = -numerics.masked_logsumexp(log_p + s[..., None] * excess, live, -1)
  return jnp.where(inside, jnp.maximum(value, 0), jnp.inf)


def binomial_log_pmf(p: jax.typing.ArrayLike, num_tokens: int) -> jax.Array:
  """Log-probabilities of the number of ones among m Bernoulli(p) tokens.

  Args:
    p: `[...]`, in [0, 1].
    num_tokens: m, at least 1. The rounding error is about `m log m` units in
      the last place: use double precision for large m.

  Returns:
    `[..., m + 1]`, nats, finite wherever p is inside (0, 1).

  Raises:
    ValueError: num_tokens below 1.

  >>> print(jnp.round(jnp.exp(binomial_log_pmf(.5, 2)), 4))
  [0.25 0.5  0.25]

  Reference:
    Asymptotics of Language Model Alignment (2404.01730), memoryless sources.
  """
  if num_tokens < 1:
    raise ValueError(f"num_tokens must be at least 1, was {num_tokens}")
  p = numerics.as_float(p)[..., None]
  ones = jnp.arange(num_tokens + 1, dtype=p.dtype)
  zeros = num_tokens - ones
  log_choices = (
    math.lgamma(num_tokens + 1)
    - jax.scipy.special.gammaln(ones + 1)
    - jax.scipy.special.gammaln(zeros + 1)
  )
  possible = p < 1
  log_rest = jnp.log1p(-jnp.where(possible, p, 0))
  never = jnp.where(zeros > 0, -jnp.inf, 0)
  misses = jnp.where(possible, zeros * log_rest, never)
  return log_choices + numerics.xlogy(ones, p) + misses


class BernoulliBestOfN(NamedTuple):
  """Best-of-n over m tokens, per token."""

  reward: jax.Array  # [...]: expected share of ones
  kl_to_optimum: jax.Array  # [...]: KL(best-of-n||phi^m) / m, nats
  kl_to_base: jax.Array  # [...]: KL(best-of-n||p^m) / m, nats


def bernoulli_best_of_n(
  p: jax.typing.ArrayLike, max_kl: Scalar, num_tokens: int
) -> BernoulliBestOfN:
  """Best-of-n with `n = e^{m Delta}` over m Bernoulli tokens, exactly.

  The reward is the number of ones, so everything happens on m + 1 counts. As m
  grows the reward per token tends to that of `kl_constrained_policy` at Delta,
  phi, the KL from `phi^m` per token to 0 and the KL from the base to Delta.

  Args:
    p: `[...]`, base probability of a one, in (0, 1).
    max_kl: Delta, a scalar above 0, nats per token.
    num_tokens: m, at least 1; work and memory are `O(m log m)`.

  Returns:
    A `BernoulliBestOfN`.

  Raises:
    ValueError: max_kl not above 0 or num_tokens below 1.

  >>> print(f"{bernoulli_best_of_n(.3, .1, 100).reward:.4f}")
  0.4929

  Reference:
    Asymptotics of Language Model Alignment (2404.01730), memoryless sources.
  """
  checks.check_positive(max_kl=max_kl)
  p = numerics.as_float(p)
  log_base = binomial_log_pmf(p, num_tokens)
  counts = jnp.arange(num_tokens + 1, dtype=p.dtype)
  counts = jnp.broadcast_to(counts, log_base.shape)
  log_best = best_of_n.log_pmf(log_base, counts, log_n=num_tokens * max_kl)
  log_token = jnp.stack([jnp.log1p(-p), jnp.log(p)], -1)
  rewards = jnp.broadcast_to(jnp.arange(2, dtype=p.dtype), log_token.shape)
  log_phi = kl_constrained_policy(log_token, rewards, max_kl).log_policy
  log_optimum = binomial_log_pmf(jnp.exp(log_phi[..., 1]), num_tokens)
  return BernoulliBestOfN(
    jnp.sum(jnp.exp(log_best) * counts, -1) / num_tokens,
    categorical.kl(log_best, log_optimum) / num_tokens,
    categorical.kl(log_best, log_base) / num_tokens,
  )
