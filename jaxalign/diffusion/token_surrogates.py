# SPDX-License-Identifier: Apache-2.0
"""Policy gradients of masked diffusion through scores of single tokens.

A ratio for each token, from a score that one or three forwards give it. The
scores are likelihoods of the one-step sampler (all tokens at once from a wholly
masked completion), or mixtures with it, and not of the policy that sampled.
"""

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.diffusion import mask_draws, masked, surrogates
from jaxalign.divergences import kl_estimators

__all__ = (
  "coupled_grpo_loss",
  "coupled_log_probs",
  "diffu_grpo_loss",
  "one_step_log_probs",
)


def one_step_log_probs(
  denoiser: masked.Denoiser,
  tokens: jax.Array,
  *,
  mask_id: int,
  where: jax.Array,
) -> jax.Array:
  """Each token's score with all others masked as well.

  `log p(x_l | all masked)`: the sum is the bound in one step, and exactly the
  log-likelihood of the sampler that reveals everything at once. To mask a part
  of the prompt too, as d1 does afresh for each inner step, hide it in the
  denoiser: `lambda z: denoiser(jnp.where(hidden, mask_id, z))`.

  Args:
    denoiser: maps int `[..., L]` to logits `[..., L, V]`.
    tokens: integers `[..., L]`, in `[0, V)` where `where` is true.
    mask_id: the number of the mask, at least V.
    where: bool `[..., L]`, the completion.

  Returns:
    `[..., L]`, nats; 0 outside the completion.

  Raises:
    AssertionError: shapes or types do not fit.
    ValueError: the mask is a token.

  >>> fair = lambda z: jnp.zeros((*z.shape, 2))
  >>> x = jnp.array([0, 1, 1])
  >>> print(one_step_log_probs(fair, x, mask_id=2, where=x > 0))
  [ 0.        -0.6931472 -0.6931472]

  Reference:
    d1 (2504.12216), section 3.2.
  """
  checks.check_same_shape(tokens=tokens, where=where)
  once = where[..., None, None, :]
  draws = mask_draws.MaskDraws(
    once, jnp.ones(once.shape[:-1]), jnp.sum(where, -1, dtype=jnp.int32)
  )
  found = masked.masked_log_probs(denoiser, tokens, draws, mask_id=mask_id)
  return found[..., 0, 0, :]


def coupled_log_probs(
  full: jax.Array, coupled: jax.Array, masked: jax.Array, times: jax.Array
) -> jax.Array:
  """Each token's score from three forwards, as DiffuCoder takes it.

  `(full_l + coupled_l / t) / 2` for tokens that the first mask hides and
  `(full_l + coupled_l / (1 - t)) / 2` for those that its complement does. It
  estimates neither bound: half of it is the one-step score.

  Args:
    full: `[..., L]`, `one_step_log_probs`.
    coupled: `[..., L]`, scores under the one mask of the two that hides each.
    masked: bool `[..., L]`, the first mask.
    times: `[...]`, its share t, in (0, 1); DiffuCoder draws from (.2, .8).

  Returns:
    `[..., L]`, nats.

  Raises:
    AssertionError: shapes differ.
    ValueError: shapes do not fit.

  >>> full, coupled = jnp.array([-2., -2.]), jnp.array([-1., -1.])
  >>> print(coupled_log_probs(full, coupled, jnp.array([True, False]), .25))
  [-3.        -1.6666667]

  Reference:
    DiffuCoder (2506.20639), section 4; the released code.
  """
  checks.check_same_shape(full=full, coupled=coupled, masked=masked)
  checks.check_float(full=full, coupled=coupled)
  full, coupled = numerics.as_float(full), numerics.as_float(coupled)
  times = jnp.asarray(times, full.dtype)
  if times.shape != full.shape[:-1] and times.ndim:
    raise ValueError(
      f"times must be {full.shape[:-1]} for scores {full.shape}, were"
      f" {times.shape}"
    )
  share = jnp.where(masked, times[..., None], 1 - times[..., None])
  return (full + coupled / share) / 2


def diffu_grpo_loss(
  log_probs: jax.Array,
  old_log_probs: jax.Array,
  advantages: jax.Array,
  *,
  where: jax.Array,
  normalize: str,
  clip: float = 0.5,
  reference: jax.Array | None = None,
  coefficient: float = 0.04,
) -> surrogates.Surrogate:
  """PPO with a ratio for each token; of d1 with one-step scores.

  `-min(rho_l A, clip(rho_l, 1 - e, 1 + e) A) + c k3_l`, the last where a
  reference is given, `k3 = exp(r) - 1 - r`, `r = log ref - log p`. With
  `where` the masked tokens of one draw and their scores it is UniGRPO, as we
  read its paper: the code was not released.

  Args:
    log_probs: `[..., L]`, scores, nats; anything outside `where`.
    old_log_probs: `[..., L]`, of the same masks; constants.
    advantages: `[...]`, rewards less the group's mean; constants.
    where: bool `[..., L]`, the completion.
    normalize: `"token"`, the mean over tokens with the weight of their number
      (so that `batch_loss` is the mean over all tokens, as released), or
      `"sequence"`, their sum with weight 1.
    clip: e, above 0.
    reference: `[..., L]`, scores under a reference; constants.
    coefficient: c, above 0; may be traced.

  Returns:
    `Surrogate`; of weight 0 where `where` selects nothing.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: an unknown option, or e is not positive.

  >>> scores, where = jnp.array([[-1., -2.]]), jnp.ones((1, 2), bool)
  >>> print(*diffu_grpo_loss(scores, scores, jnp.ones(1), where=where,
  ...   normalize="token"))
  [-1.] [2.] [0.]

  Reference:
    d1 (2504.12216), equation 4; MMaDA (2505.15809), for UniGRPO.
  """
  checks.check_positive(clip=clip, coefficient=coefficient)
  scores = {"log_probs": log_probs, "old_log_probs": old_log_probs}
  if reference is not None:
    scores["reference"] = reference
  surrogates.check_samples(1, advantages, **scores)
  checks.check_same_shape(log_probs=log_probs, where=where)
  old, advantages = surrogates.constant(old_log_probs, advantages)
  new = numerics.as_float(log_probs)
  change = jnp.where(where, new, 0) - jnp.where(where, old, 0)
  loss, clipped = surrogates.clipped_loss(change, advantages[..., None], clip)
  if reference is not None:
    (reference,) = surrogates.constant(reference)
    change_from = jnp.where(where, new, 0) - jnp.where(where, reference, 0)
    penalty = kl_estimators.kl_estimate(change_from, kind="k3")
    loss += coefficient * penalty
  count = jnp.sum(where, -1).astype(loss.dtype)
  total = jnp.sum(jnp.where(where, loss, 0), -1)
  some = jnp.maximum(count, 1)
  share = jnp.sum(where & clipped, -1) / some
  (total,), weight = surrogates.scaled((total,), count, normalize)
  weight = count if normalize == "token" else weight
  return surrogates.weighted(total, weight, share)


def coupled_grpo_loss(
  log_probs: jax.Array,
  old_log_probs: jax.Array,
  advantages: jax.Array,
  *,
  where: jax.Array,
  normalize: str,
  clip: float = 0.2,
  reference: jax.Array | None = None,
  coefficient: float = 0.04,
) -> surrogates.Surrogate:
  """DiffuCoder's: `diffu_grpo_loss` of `coupled_log_probs`.

  Args:
    log_probs: `[..., L]`, `coupled_log_probs`, nats.
    old_log_probs: `[..., L]`, of the same masks; constants.
    advantages: `[...]`, constants.
    where: bool `[..., L]`, the completion.
    normalize: `"token"` or `"sequence"`.
    clip: e, above 0.
    reference: `[..., L]`, scores under a reference; constants.
    coefficient: of the k3 penalty, above 0.

  Returns:
    `Surrogate`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: an unknown option, or e is not positive.

  >>> scores, where = jnp.array([[-1., -2.]]), jnp.ones((1, 2), bool)
  >>> print(coupled_grpo_loss(scores, scores - 1, jnp.ones(1), where=where,
  ...   normalize="sequence").loss)
  [-2.4]

  Reference:
    DiffuCoder (2506.20639), section 4.
  """
  return diffu_grpo_loss(
    log_probs,
    old_log_probs,
    advantages,
    where=where,
    normalize=normalize,
    clip=clip,
    reference=reference,
    coefficient=coefficient,
  )
