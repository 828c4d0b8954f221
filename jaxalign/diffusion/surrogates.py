# SPDX-License-Identifier: Apache-2.0
"""Policy gradients through a bound: surrogates of whole samples.

A diffusion policy has no cheap log-likelihood; these losses put an estimate of
its ELBO in that place. All have one shape of arguments: bounds first, as sums
in nats (`masked_elbo(...).value`, or minus a weighted regression loss), what
the old policy gave, then advantages, all `[...]`; options by keyword.

`normalize` is always stated, because weights and clip ranges mean something
else under the other: "sequence" takes the sums, "token" divides them by
`length`, the number of tokens or of dimensions. With a length of 256 the
exponential of a difference of sums leaves every clip range at once.

Old bounds must be estimated with the draws of the new ones (one key), and are
constants; so are advantages. A surrogate gives a loss per sample and a weight:
`batch_loss` averages, nothing here does. Here are those with a ratio of bounds;
`weighted_surrogates` has those without, `token_surrogates` and
`step_surrogates` those of tokens and of denoising steps, `dipod` the
regulariser that keeps the bound tight.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.diffusion import masked
from jaxalign.divergences import kl_estimators
from jaxalign.rl import surrogates as clipping

__all__ = (
  "REFERENCE_PENALTIES",
  "Surrogate",
  "batch_loss",
  "espo_loss",
  "fpo_loss",
  "fpo_plus_plus_loss",
  "with_reference",
)

REFERENCE_PENALTIES = ("none", "k1", "k2")


class Surrogate(NamedTuple):
  """A loss of each sample, to be minimised.

  Attributes:
    loss: `[...]`.
    weight: `[...]`, of the loss in an average; 0 for a sample without tokens.
    clipped: `[...]`, the share of ratios without gradient, for logging; 0
      where there is no ratio.
  """

  loss: jax.Array
  weight: jax.Array
  clipped: jax.Array


# --- shared pieces -----------------------------------------------------------


def batch_loss(surrogate: Surrogate) -> jax.Array:
  """The average over a batch, `sum w loss / sum w`.

  Args:
    surrogate: of any batch `[...]`.

  Returns:
    A scalar; 0 where all weights are 0.

  >>> print(batch_loss(Surrogate(*jnp.array([[1., 4.], [3., 1.], [0., 0.]]))))
  1.75

  Reference:
    SPG (2510.09541), released code, for weights by length.
  """
  loss, weight, _ = surrogate
  live = weight > 0
  total = jnp.sum(weight)
  kept = jnp.where(live, weight * jnp.where(live, loss, 0), 0)
  return jnp.sum(kept) / jnp.where(total > 0, total, 1)


def scaled(values, length, normalize, *, parts: int = 0):
  """Sums, or their share of each token. Also 1, or 0 without any token.

  Args:
    values: a tuple of `[..., *parts]`, floating point and of one shape.
    length: `[...]`, or None where it is not needed.
    normalize: one of `NORMALIZE`.
    parts: number of trailing axes that `length` does not have.

  Returns:
    The tuple `[..., *parts]` and the weights `[...]`.
  """
  checks.check_choice("normalize", normalize, masked.NORMALIZE)
  values = tuple(numerics.as_float(x) for x in values)
  batch = values[0].shape[: values[0].ndim - parts]
  if length is None:
    if normalize == "token":
      raise ValueError("normalize='token' needs length, the number of tokens")
    return values, jnp.ones(batch, values[0].dtype)
  length = jnp.broadcast_to(jnp.asarray(length, values[0].dtype), batch)
  live = length > 0
  count = jnp.where(live, length, 1) if normalize == "token" else 1
  keep, count = (
    jnp.expand_dims(x, tuple(range(-parts, 0)))
    for x in (live, jnp.asarray(count, values[0].dtype))
  )
  values = tuple(jnp.where(keep, x, 0) / count for x in values)
  return values, live.astype(values[0].dtype)


def check_samples(parts: int = 0, advantages=None, **arrays) -> None:
  """Raises unless all are `[..., *parts]`, and advantages `[...]`."""
  checks.check_same_shape(**arrays)
  checks.check_float(**arrays)
  if advantages is None:
    return
  checks.check_float(advantages=advantages)
  name, array = next(iter(arrays.items()))
  if jnp.ndim(array) < parts:
    raise ValueError(f"{name} needs rank {parts} or more, was {array.shape}")
  batch = jnp.shape(array)[: jnp.ndim(array) - parts]
  if jnp.shape(advantages) != batch:
    raise ValueError(
      f"advantages must be {batch}, one for each sample of {name}"
      f" {jnp.shape(array)}, were {jnp.shape(advantages)}"
    )


def clipped_loss(log_ratio, advantages, clip):
  """PPO's pessimistic loss of each ratio `[...]`, and where it is flat."""
  advantages = jnp.broadcast_to(advantages, log_ratio.shape)
  return clipping.clip_loss(log_ratio, advantages, eps_low=clip, eps_high=clip)


def weighted(loss, weight, clipped=None) -> Surrogate:
  """The surrogate of a loss `[...]`; 0 without any token, whatever A is."""
  clipped = jnp.zeros_like(loss) if clipped is None else clipped
  loss, clipped = (
    jnp.where(weight > 0, x, 0) for x in (loss, clipped.astype(loss.dtype))
  )
  return Surrogate(loss, weight, clipped)


def constant(*arrays):
  """What a loss does not differentiate, `[...]` each, as floats."""
  return tuple(jax.lax.stop_gradient(numerics.as_float(x)) for x in arrays)


def with_reference(
  surrogate: Surrogate,
  elbo: jax.Array,
  reference: jax.Array,
  *,
  reference_penalty: str,
  coefficient: float,
  normalize: str,
  length: jax.Array | None = None,
) -> Surrogate:
  """Adds a penalty for moving the bound away from a reference's.

  `c (ELBO - ELBO_ref)^2 / 2` ("k2") or `c (ELBO - ELBO_ref)` ("k1"). For an
  exact likelihood the expected gradient of k2 on the policy's own samples is
  that of `KL(policy||reference)`, and that of k1 is 0. For a bound, k1 is an
  ablation and no penalty: its gradient is `c grad ELBO`, which OPENS the gap
  between bound and likelihood. It stands with opposite sign to `with_dipod`.

  Args:
    surrogate: what to add to.
    elbo: `[...]`, sums, nats.
    reference: `[...]`, the same draws under the reference; a constant.
    reference_penalty: `"none"`, `"k2"`, or the trap `"k1"`.
    coefficient: c, above 0; may be traced.
    normalize: `"sequence"`, or `"token"` for the penalty over `length`.
    length: `[...]`, tokens.

  Returns:
    `Surrogate`.

  Raises:
    AssertionError: shapes differ.
    ValueError: an unknown option, or a coefficient that is not positive.

  >>> start = Surrogate(*jnp.zeros((3, 1)))
  >>> elbo, reference = jnp.array([-3.]), jnp.array([-5.])
  >>> print(with_reference(start, elbo, reference, reference_penalty="k2",
  ...   coefficient=.01, normalize="token", length=4).loss)
  [0.005]

  Reference:
    ESPO (2512.03759), for k2; released code of DiPOD (2606.13795), for k1.
  """
  checks.check_choice(
    "reference_penalty", reference_penalty, REFERENCE_PENALTIES
  )
  checks.check_positive(coefficient=coefficient)
  check_samples(elbo=elbo, reference=reference, loss=surrogate.loss)
  if reference_penalty == "none":
    return surrogate
  (reference,) = constant(reference)
  change = numerics.as_float(elbo) - reference
  penalty = kl_estimators.kl_estimate(change, kind=reference_penalty)
  (penalty,), _ = scaled((penalty,), length, normalize)
  return surrogate._replace(loss=surrogate.loss + coefficient * penalty)


# --- surrogates --------------------------------------------------------------


def fpo_loss(
  elbo: jax.Array,
  old_elbo: jax.Array,
  advantages: jax.Array,
  *,
  normalize: str,
  length: jax.Array | None = None,
  clip: float = 0.05,
) -> Surrogate:
  """Flow policy optimisation: PPO with the bound for the log-likelihood.

  `-min(rho A, clip(rho, 1 - e, 1 + e) A)`, `rho = exp(ELBO - ELBO_old)`. At the
  old parameters its gradient is `-A grad ELBO`. The mean over draws is inside
  the exponential, which makes rho too large on average: for a log-ratio with
  normal noise of variance s^2/m by the factor `exp(s^2 / 2m)`.

  Args:
    elbo: `[...]`, sums, nats.
    old_elbo: `[...]`, of the same draws; a constant.
    advantages: `[...]`, constants.
    normalize: `"sequence"` or `"token"`.
    length: `[...]`, tokens or dimensions.
    clip: e, above 0.

  Returns:
    `Surrogate` of weight 1.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: an unknown option, or e is not positive.

  >>> elbo, A = jnp.array([-3., -3.]), jnp.array([1., -1.])
  >>> print(*fpo_loss(elbo, elbo - 1, A, normalize="sequence"))
  [-1.05       2.7182817] [1. 1.] [1. 0.]

  Reference:
    Flow Matching Policy Gradients (2507.21053), equation 12.
  """
  checks.check_positive(clip=clip)
  check_samples(elbo=elbo, old_elbo=old_elbo, advantages=advantages)
  (old_elbo, advantages) = constant(old_elbo, advantages)
  (new, old), weight = scaled((elbo, old_elbo), length, normalize)
  loss, clipped = clipped_loss(new - old, advantages, clip)
  return weighted(loss, weight, clipped)


def espo_loss(
  elbo: jax.Array,
  old_elbo: jax.Array,
  advantages: jax.Array,
  *,
  length: jax.Array,
  normalize: str = "token",
  clip: float = 0.2,
) -> Surrogate:
  """ESPO: `fpo_loss` with the ratio of bounds per token.

  `rho = exp((ELBO - ELBO_old) / L)`. The paper adds `with_reference` of
  `reference_penalty="k2"`, `coefficient=.01`, draws the bound with the
  estimator "coupled", and subtracts the mean reward of the group's others.

  Args:
    elbo: `[...]`, sums, nats.
    old_elbo: `[...]`, of the same draws; a constant.
    advantages: `[...]`, constants.
    length: `[...]`, tokens.
    normalize: `"token"`, or `"sequence"` as an ablation.
    clip: e, above 0.

  Returns:
    `Surrogate` of weight 1.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: an unknown option, or e is not positive.

  >>> elbo = jnp.array([-30.])
  >>> print(espo_loss(elbo, elbo - 10, jnp.ones(1), length=10).loss)
  [-1.2]

  Reference:
    ESPO (2512.03759), equation 9.
  """
  return fpo_loss(
    elbo, old_elbo, advantages, normalize=normalize, length=length, clip=clip
  )


def fpo_plus_plus_loss(
  draws: jax.Array,
  old_draws: jax.Array,
  advantages: jax.Array,
  *,
  normalize: str,
  length: jax.Array | None = None,
  clip: float = 0.05,
  max_log_ratio: float = 10.0,
  max_nelbo: float = 20.0,
) -> Surrogate:
  """FPO++: a ratio for each draw, and a smooth end for negative advantages.

  The mean over draws of `-min(rho A, clip(rho) A)` where A > 0 and of
  `-(rho A - |A| (rho - 1)^2 / 2e)` elsewhere, whose gradient vanishes where the
  ratio has fallen to 1 - e and turns back beyond. Log-ratios above
  `max_log_ratio` are cut but keep their gradient; where A < 0, draws below
  `-max_nelbo` are cut, old and new, and lose it: what is bad enough already.

  Args:
    draws: `[..., m]`, each an estimate of the bound.
    old_draws: `[..., m]`, of the same draws; constants.
    advantages: `[...]`, constants.
    normalize: `"sequence"` or `"token"`.
    length: `[...]`, tokens or dimensions; sqrt(D) gives the paper's locomotion.
    clip: e, above 0.
    max_log_ratio: the largest log-ratio.
    max_nelbo: the largest loss of a draw that an advantage below 0 sees.

  Returns:
    `Surrogate` of weight 1.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: an unknown option, shapes do not fit, or a non-positive limit.

  >>> draws, A = jnp.array([[-3., -3.1]]), jnp.array([-1.])
  >>> print(fpo_plus_plus_loss(draws, draws, A, normalize="sequence").loss)
  [1.]

  Reference:
    Released code of DiPOD (2606.13795) for FPO++.
  """
  checks.check_positive(
    clip=clip, max_log_ratio=max_log_ratio, max_nelbo=max_nelbo
  )
  check_samples(1, advantages, draws=draws, old_draws=old_draws)
  old_draws, advantages = constant(old_draws, advantages)
  (new, old), weight = scaled((draws, old_draws), length, normalize, parts=1)
  advantages = advantages[..., None]
  floor = jnp.where(advantages < 0, -max_nelbo, -jnp.inf).astype(new.dtype)
  change = jnp.maximum(new, floor) - jnp.maximum(old, floor)
  excess = jax.lax.stop_gradient(jnp.maximum(change - max_log_ratio, 0))
  change -= excess
  held, clipped = clipped_loss(change, advantages, clip)
  discouraged = advantages < 0
  ratio = jnp.exp(jnp.where(discouraged, change, 0))
  smooth = -advantages * (ratio + (ratio - 1) ** 2 / (2 * clip))
  loss = jnp.where(discouraged, smooth, held)
  clipped = jnp.where(discouraged, new < floor, clipped)
  return weighted(jnp.mean(loss, -1), weight, jnp.mean(clipped, -1))
