# SPDX-License-Identifier: Apache-2.0
"""Policy gradients through a bound without a ratio: weighted likelihoods.

Each sample's bound is raised or lowered by a weight that depends on its reward
alone; arguments and results are those of `surrogates`. Samples should be of the
current policy: nothing corrects for others.
"""

import jax
import jax.numpy as jnp

from jaxalign import checks
from jaxalign.diffusion import surrogates
from jaxalign.rl import regression

__all__ = ("awr_loss", "rwr_loss", "spg_loss", "wd1_loss")


def spg_loss(
  elbo: jax.Array,
  eubo: jax.Array,
  advantages: jax.Array,
  *,
  normalize: str,
  length: jax.Array | None = None,
  omega: float = 0.5,
) -> surrogates.Surrogate:
  """Sandwiched policy gradient: raise the lower bound, lower the upper.

  `-A ELBO` where A > 0, `-A (omega EUBO + (1 - omega) ELBO)` elsewhere; no
  ratio and no clip: samples are of the current policy. With omega = 0 its
  gradient is that of `fpo_loss` at the old parameters. Unless the power of the
  EUBO is at least the length, it is no certain upper bound: see
  `exact.masked_eubo`.

  Args:
    elbo: `[...]`, sums, nats.
    eubo: `[...]`, sums, nats.
    advantages: `[...]`, constants.
    normalize: `"sequence"`, or `"token"` as released.
    length: `[...]`, tokens.
    omega: in [0, 1]; .5 is the paper's mixture.

  Returns:
    `Surrogate`; for `"token"` weighted by length, as released.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: an unknown option, or omega outside [0, 1].

  >>> A = jnp.array([1., -1.])
  >>> print(spg_loss(-3 * A**2, -A**2, A, normalize="sequence").loss)
  [ 3. -2.]

  Reference:
    SPG (2510.09541), equations 6 and 13.
  """
  if not 0 <= omega <= 1:
    raise ValueError(f"omega must be in [0, 1], was {omega}")
  surrogates.check_samples(elbo=elbo, eubo=eubo, advantages=advantages)
  (advantages,) = surrogates.constant(advantages)
  (low, high), weight = surrogates.scaled((elbo, eubo), length, normalize)
  mixed = omega * high + (1 - omega) * low if omega else low
  # Each select before the product: an infinite bound of weight 0 is none.
  up = jnp.where(advantages > 0, low, 0)
  down = jnp.where(advantages < 0, mixed, 0)
  if normalize == "token":
    weight *= jnp.asarray(length, weight.dtype)
  return surrogates.weighted(-advantages * (up + down), weight)


def wd1_loss(
  log_probs: jax.Array,
  advantages: jax.Array,
  *,
  normalize: str,
  length: jax.Array | None = None,
) -> surrogates.Surrogate:
  """Weighted likelihoods without a ratio, within groups. Group-level.

  `-sum_i softmax(A)_i l_i + sum_i softmax(-A)_i l_i`, over the last axis, the
  group of one prompt. Each sample's loss is its term times the group's size G,
  so that the average is the mean over groups of that sum. Exactly 0 where all
  advantages are equal.

  Args:
    log_probs: `[..., G]`, l, sums of `one_step_log_probs`, nats.
    advantages: `[..., G]`, rewards less their mean; constants.
    normalize: `"sequence"` as released, or `"token"`.
    length: `[..., G]`, tokens.

  Returns:
    `Surrogate` of weight 1.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: an unknown option, or a scalar.

  >>> l, A = jnp.array([-3., -1.]), jnp.array([1., -1.])
  >>> print(jnp.round(wd1_loss(l, A, normalize="sequence").loss, 1))
  [ 4.6 -1.5]

  Reference:
    wd1 (2507.08838), equation 8; the released code.
  """
  surrogates.check_samples(log_probs=log_probs, advantages=advantages)
  if jnp.ndim(log_probs) < 1:
    raise ValueError("log_probs must be [..., G], were a scalar")
  (advantages,) = surrogates.constant(advantages)
  (values,), weight = surrogates.scaled((log_probs,), length, normalize)
  share = jax.nn.softmax(-advantages, -1) - jax.nn.softmax(advantages, -1)
  terms = jnp.where(share == 0, 0, values) * share
  size = log_probs.shape[-1]
  return surrogates.weighted(size * terms, weight)


def rwr_loss(
  elbo: jax.Array,
  rewards: jax.Array,
  *,
  normalize: str,
  length: jax.Array | None = None,
  inverse_temperature: float = 10.0,
  max_weight: float = 100.0,
) -> surrogates.Surrogate:
  """Reward-weighted regression: train the bound on what was good.

  `-min(exp(b r), w_max) ELBO`. With equal rewards, training of the bound.

  Args:
    elbo: `[...]`, sums, nats.
    rewards: `[...]`, r, constants.
    normalize: `"sequence"` or `"token"`.
    length: `[...]`, tokens or dimensions.
    inverse_temperature: b.
    max_weight: w_max, above 0.

  Returns:
    `Surrogate` of weight 1.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: an unknown option, or w_max is not positive.

  >>> loss, _, _ = rwr_loss(jnp.array([-3., -3.]), jnp.array([0., 9.]),
  ...   normalize="sequence")
  >>> print(jnp.round(loss, 2))
  [  3. 300.]

  Reference:
    DPPO (2409.00588), appendix, for the baseline and its numbers.
  """
  checks.check_positive(max_weight=max_weight)
  surrogates.check_samples(elbo=elbo, rewards=rewards)
  (rewards,) = surrogates.constant(rewards)
  (values,), weight = surrogates.scaled((elbo,), length, normalize)
  factor = regression.awr_weights(
    inverse_temperature * rewards, beta=1.0, max_weight=max_weight
  )
  return surrogates.weighted(-factor * values, weight)


def awr_loss(
  elbo: jax.Array,
  advantages: jax.Array,
  *,
  normalize: str,
  length: jax.Array | None = None,
  inverse_temperature: float = 10.0,
  max_weight: float = 100.0,
) -> surrogates.Surrogate:
  """Advantage-weighted regression: `rwr_loss` of advantages.

  `-min(exp(b A), w_max) ELBO`.

  Args:
    elbo: `[...]`, sums, nats.
    advantages: `[...]`, A, constants.
    normalize: `"sequence"` or `"token"`.
    length: `[...]`, tokens or dimensions.
    inverse_temperature: b.
    max_weight: w_max, above 0.

  Returns:
    `Surrogate` of weight 1.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: an unknown option, or w_max is not positive.

  >>> print(awr_loss(jnp.array([-3.]), jnp.zeros(1), normalize="sequence").loss)
  [3.]

  Reference:
    Advantage-Weighted Regression (1910.00177); DPPO (2409.00588), appendix.
  """
  return rwr_loss(
    elbo,
    advantages,
    normalize=normalize,
    length=length,
    inverse_temperature=inverse_temperature,
    max_weight=max_weight,
  )
