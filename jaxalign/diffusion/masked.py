# SPDX-License-Identifier: Apache-2.0
"""Masked diffusion: estimates of the bound on a sequence's log-likelihood.

A denoiser maps int `[..., L]`, with `mask_id` for masks, to logits
`[..., L, V]`; it is called with arrays of the shape of `tokens`. `where`
selects the tokens that the bound is about: the others (a prompt, padding) are
never masked and not scored, and every length is `where.sum(-1)`.

An estimate has three parts, and a surrogate for training can use each alone:

  draw_masks            masks and their weights, from the key;
  masked_log_probs      what a denoiser gives the masked tokens;
  elbo_from_log_probs   the weighted sums.

Masks depend on the key, `where` and the options, on neither the tokens nor the
denoiser: with one key, old and new parameters are compared on the same draws.
Fresh draws would make the ratio of their likelihoods noise.

Weights of 1/t have infinite variance (a single mask at time t has probability
of order t, and counts 1/t): of the estimators, "bernoulli" and "coupled_t" are
for comparison. "fixed_count" and "coupled" count masks, and divide by those.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics
from jaxalign.diffusion import mask_draws, samplers

__all__ = (
  "NORMALIZE",
  "MaskedElbo",
  "check_denoiser",
  "elbo_from_log_probs",
  "eubo_from_log_probs",
  "expected_nfe",
  "masked_elbo",
  "masked_elbo_t_step",
  "masked_eubo_biased",
  "masked_log_probs",
)

NORMALIZE = ("sequence", "token")

Denoiser = Callable[[jax.Array], jax.Array]


class MaskedElbo(NamedTuple):
  """An estimate of the bound, one per sequence.

  Attributes:
    value: `[...]`, nats; higher is better.
    std_err: `[...]`, of the value, without gradient; +inf for one draw.
    draws: `[..., m]`, whose mean the value is.
  """

  value: jax.Array
  std_err: jax.Array
  draws: jax.Array


# --- scores ------------------------------------------------------------------


def _check_logits(logits, tokens, mask_id):
  checks.check_float(logits=logits)
  if logits.shape[:-1] != tokens.shape:
    raise ValueError(
      f"the denoiser must map {tokens.shape} to {(*tokens.shape, 'V')},"
      f" gave {logits.shape}"
    )
  if logits.shape[-1] > mask_id:
    raise ValueError(
      f"mask_id must be outside the vocabulary of {logits.shape[-1]} tokens,"
      f" was {mask_id}: a denoiser must not emit the mask"
    )


def masked_log_probs(
  denoiser: Denoiser,
  tokens: jax.Array,
  draws: mask_draws.MaskDraws,
  *,
  mask_id: int,
) -> jax.Array:
  """What a denoiser gives the tokens that each draw masks.

  All draws in one program, vmapped over the denoiser.

  Args:
    denoiser: maps int `[..., L]`, with `mask_id` for masks, to logits
      `[..., L, V]`. What it says of other than masks is not read.
    tokens: integers `[..., L]`, in `[0, V)` where they may be masked; a larger
      one gives NaN.
    draws: masks for `tokens`.
    mask_id: the number of the mask, at least V.

  Returns:
    `[..., m, K, L]`, `log p(x_l | z)`, nats; 0 where nothing is masked.

  Raises:
    AssertionError: tokens are not integers.
    ValueError: shapes do not fit, or the mask is a token.

  >>> fair = lambda z: jnp.zeros((*z.shape, 2))
  >>> where = jnp.ones(3, bool)
  >>> draws = mask_draws.draw_masks(jax.random.key(0), where, num_samples=5)
  >>> x = jnp.array([0, 1, 1])
  >>> masked_log_probs(fair, x, draws, mask_id=2).shape
  (5, 1, 3)

  Reference:
    MDLM (2406.07524), section 3.
  """
  chex.assert_type(tokens, int)
  shape = draws.masked.shape
  if tokens.shape != (*shape[:-3], shape[-1]):
    raise ValueError(f"tokens {tokens.shape} do not fit masks {shape}")

  def score(masked, hidden):
    logits = denoiser(jnp.where(hidden, mask_id, tokens))
    _check_logits(logits, tokens, mask_id)
    # Before the softmax, so that NaN at a visible token has no gradient.
    logits = jnp.where(masked[..., None], numerics.as_float(logits), 0)
    x = jnp.where(masked, tokens, 0)[..., None]
    log_probs = numerics.masked_log_softmax(logits)
    found = jnp.take_along_axis(log_probs, x, -1, mode="fill")[..., 0]
    return jnp.where(masked, found, 0)

  hidden = draws.masked if draws.hidden is None else draws.hidden
  flat = (*shape[:-3], -1, shape[-1])
  found = jax.vmap(score, -2, -2)(
    draws.masked.reshape(flat), hidden.reshape(flat)
  )
  return found.reshape(shape)


def _divisor(draws: mask_draws.MaskDraws, normalize: str) -> jax.Array:
  checks.check_choice("normalize", normalize, NORMALIZE)
  if normalize == "sequence":
    return jnp.ones_like(draws.length)
  return jnp.maximum(draws.length, 1)


def elbo_from_log_probs(
  log_probs: jax.Array,
  draws: mask_draws.MaskDraws,
  *,
  normalize: str = "sequence",
) -> MaskedElbo:
  """The bound from what a denoiser gives the masked tokens.

  Args:
    log_probs: `[..., m, K, L]`, from `masked_log_probs`.
    draws: the masks that they belong to.
    normalize: `"sequence"` sums over tokens, `"token"` divides by their number.

  Returns:
    `MaskedElbo`; 0 where a sequence has no tokens, -inf where a token has no
    probability.

  Raises:
    AssertionError: shapes do not fit.
    ValueError: unknown normalisation.

  >>> where = jnp.ones(3, bool)
  >>> draws = mask_draws.draw_masks(jax.random.key(0), where, num_samples=5)
  >>> log_probs = jnp.where(draws.masked, jnp.log(.5), 0)
  >>> print(elbo_from_log_probs(log_probs, draws, normalize="token").value)
  -0.6931472

  Reference:
    LLaDA (2502.09992), equation 14.
  """
  checks.check_same_shape(log_probs=log_probs, masked=draws.masked)
  divisor = _divisor(draws, normalize)[..., None]
  kept = jnp.where(draws.masked, numerics.as_float(log_probs), 0)
  # Without a mask the sum and the weight are both 0: never 0 times infinity.
  weights = draws.weights.astype(kept.dtype)
  per_draw = jnp.sum(weights * jnp.sum(kept, -1), -1) / divisor
  fixed, num = jax.lax.stop_gradient(per_draw), per_draw.shape[-1]
  finite = jnp.all(jnp.isfinite(fixed), -1)
  safe = jnp.where(finite[..., None], fixed, 0)
  if num == 1:
    finite = draws.length == 0
  std = jnp.std(safe, -1, ddof=1 if num > 1 else 0)
  std_err = jnp.where(finite, std / math.sqrt(num), jnp.inf)
  return MaskedElbo(jnp.mean(per_draw, -1), std_err, per_draw)


def eubo_from_log_probs(
  log_probs: jax.Array,
  draws: mask_draws.MaskDraws,
  *,
  power: float,
  normalize: str = "sequence",
) -> jax.Array:
  """The upper surrogate from what a denoiser gives the masked tokens. Biased.

  `(1/b) mean_l log mean_draws w 1[l masked] p(x_l | z)^b`, the first mean over
  tokens masked at least once; times the number of tokens for a sequence. It is
  the logarithm of a mean, so biased at any number of draws, by order 1/m. And
  what it tends to is an upper bound of the likelihood for certain only if
  `b >= length`.

  Args:
    log_probs: `[..., m, K, L]`, from `masked_log_probs`.
    draws: the masks that they belong to; of any estimator.
    power: b, at least 1.
    normalize: `"sequence"` or `"token"`.

  Returns:
    `[...]`, nats; 0 where a sequence has no masks.

  Raises:
    AssertionError: shapes do not fit.
    ValueError: b is below 1, or an unknown normalisation.

  >>> where = jnp.ones(1, bool)
  >>> draws = mask_draws.draw_masks(jax.random.key(0), where, num_samples=2)
  >>> log_probs = jnp.full((2, 1, 1), jnp.log(.5))
  >>> print(f"{eubo_from_log_probs(log_probs, draws, power=2.):.4f}")
  -0.6931

  Reference:
    SPG (2510.09541), released code; `exact.masked_eubo` is its limit.
  """
  if not power >= 1:
    raise ValueError(f"power must be at least 1, was {power}")
  checks.check_same_shape(log_probs=log_probs, masked=draws.masked)
  divisor = _divisor(draws, normalize)
  kept = jnp.where(draws.masked, numerics.as_float(log_probs), 0)
  live = draws.weights > 0
  log_weights = jnp.log(jnp.where(live, draws.weights, 1)).astype(kept.dtype)
  terms = power * kept + log_weights[..., None]
  num = terms.shape[-3]
  total = numerics.masked_logsumexp(terms, draws.masked, (-3, -2))
  covered = jnp.any(draws.masked, (-3, -2))
  mean = numerics.masked_mean(total - math.log(num), covered, -1)
  return mean / power * (draws.length / divisor).astype(mean.dtype)


# --- estimates ---------------------------------------------------------------


def masked_elbo(
  key: jax.Array,
  denoiser: Denoiser,
  tokens: jax.Array,
  *,
  mask_id: int,
  where: jax.Array,
  num_samples: int,
  estimator: str = "fixed_count",
  normalize: str = "sequence",
) -> MaskedElbo:
  """An unbiased estimate of the bound that masked diffusion trains.

  `int_0^1 (1/t) E[sum_{l masked at t} log p(x_l | z_t)] dt`, which is the same
  for every schedule and at most the log-likelihood of revealing one token at a
  time in a random order. The masks depend on the key and not on the denoiser.

  Args:
    key: a typed key; one key for all parameters that are to be compared.
    denoiser: maps int `[..., L]`, with `mask_id` for masks, to logits
      `[..., L, V]`.
    tokens: integers `[..., L]`, in `[0, V)` where `where` is true.
    mask_id: the number of the mask, at least V.
    where: bool `[..., L]`, tokens that the bound is about.
    num_samples: m, draws for each sequence.
    estimator: one of `ESTIMATORS`, see `masks_from_noise`.
    normalize: `"sequence"` sums over tokens, `"token"` divides by their number.

  Returns:
    `MaskedElbo`; 0 for a sequence of which `where` selects nothing.

  Raises:
    AssertionError: shapes or types do not fit.
    ValueError: an unknown option, or the mask is a token.

  >>> fair = lambda z: jnp.zeros((*z.shape, 2))
  >>> x = jnp.array([[0, 1, 1]])
  >>> elbo = masked_elbo(jax.random.key(0), fair, x, mask_id=2,
  ...   where=x >= 0, num_samples=4)
  >>> print(elbo.value, elbo.std_err)  # 3 log 1/2, whatever is masked
  [-2.0794415] [0.]

  Reference:
    MDLM (2406.07524), equation 10; LLaDA (2502.09992), equation 14.
  """
  checks.check_same_shape(tokens=tokens, where=where)
  draws = mask_draws.draw_masks(
    key, where, num_samples=num_samples, estimator=estimator
  )
  log_probs = masked_log_probs(denoiser, tokens, draws, mask_id=mask_id)
  return elbo_from_log_probs(log_probs, draws, normalize=normalize)


def masked_elbo_t_step(
  key: jax.Array,
  denoiser: Denoiser,
  tokens: jax.Array,
  alphas: jax.Array,
  *,
  mask_id: int,
  where: jax.Array,
  num_samples: int,
  normalize: str = "sequence",
) -> MaskedElbo:
  """An unbiased estimate of the bound on ancestral sampling in T steps.

  `sum_i (alpha_s - alpha_t) / (1 - alpha_t) E[sum_{masked} log p]`, by draws of
  the step. For one step everything is masked and there is nothing random.

  Args:
    key: a typed key; the masks depend on it and not on the denoiser.
    denoiser: maps int `[..., L]` to logits `[..., L, V]`.
    tokens: integers `[..., L]`, in `[0, V)` where `where` is true.
    alphas: `[T + 1]`, from 1 down to 0, see `alpha_grid`.
    mask_id: the number of the mask, at least V.
    where: bool `[..., L]`, tokens that the bound is about.
    num_samples: m, draws for each sequence.
    normalize: `"sequence"` or `"token"`.

  Returns:
    `MaskedElbo`.

  Raises:
    AssertionError: shapes or types do not fit.
    ValueError: no such alphas, an unknown option, or the mask is a token.

  >>> fair = lambda z: jnp.zeros((*z.shape, 2))
  >>> x = jnp.array([[0, 1, 1]])
  >>> elbo = masked_elbo_t_step(jax.random.key(0), fair, x,
  ...   jnp.array([1., 0.]), mask_id=2, where=x >= 0, num_samples=2)
  >>> print(elbo.value)
  [-2.0794415]

  Reference:
    MDLM (2406.07524), equation 8.
  """
  checks.check_same_shape(tokens=tokens, where=where)
  times, noise = mask_draws.uniforms(key, where, num_samples)
  draws = mask_draws.t_step_masks_from_noise(times, noise, where, alphas)
  log_probs = masked_log_probs(denoiser, tokens, draws, mask_id=mask_id)
  return elbo_from_log_probs(log_probs, draws, normalize=normalize)


def masked_eubo_biased(
  key: jax.Array,
  denoiser: Denoiser,
  tokens: jax.Array,
  *,
  mask_id: int,
  where: jax.Array,
  num_samples: int,
  power: float,
  normalize: str = "sequence",
) -> jax.Array:
  """The upper surrogate of SPG from few draws; biased, and maybe no bound.

  `eubo_from_log_probs` of draws with a fixed count of masks, whose weight is
  one over the share of masks. Read there what it is not.

  Args:
    key: a typed key; the masks depend on it and not on the denoiser.
    denoiser: maps int `[..., L]` to logits `[..., L, V]`.
    tokens: integers `[..., L]`, in `[0, V)` where `where` is true.
    mask_id: the number of the mask, at least V.
    where: bool `[..., L]`, tokens that it is about.
    num_samples: m, draws for each sequence.
    power: b, at least 1.
    normalize: `"sequence"` or `"token"` (which is what was published).

  Returns:
    `[...]`, nats.

  Raises:
    AssertionError: shapes or types do not fit.
    ValueError: b is below 1, an unknown option, or the mask is a token.

  >>> fair = lambda z: jnp.zeros((*z.shape, 2))
  >>> x = jnp.array([[1]])
  >>> print(masked_eubo_biased(jax.random.key(0), fair, x, mask_id=2,
  ...   where=x >= 0, num_samples=2, power=1.))
  [-0.6931472]

  Reference:
    SPG (2510.09541), released code.
  """
  checks.check_same_shape(tokens=tokens, where=where)
  draws = mask_draws.draw_masks(key, where, num_samples=num_samples)
  log_probs = masked_log_probs(denoiser, tokens, draws, mask_id=mask_id)
  return eubo_from_log_probs(log_probs, draws, power=power, normalize=normalize)


# --- cost and sanity ---------------------------------------------------------


def expected_nfe(alphas: jax.Array, length: jax.Array) -> jax.Array:
  """How many of T ancestral steps reveal something, on average.

  `sum_i 1 - (1 - (alpha_{i-1} - alpha_i))^l`: the forwards of a sampler that
  skips steps that reveal nothing. For n even steps `n (1 - (1 - 1/n)^l)`.

  Args:
    alphas: `[T + 1]`, from 1 down to 0.
    length: l, integers `[...]`, tokens to generate.

  Returns:
    `[...]`; at most T and at most l.

  Raises:
    ValueError: no such alphas.

  >>> print(f"{expected_nfe(1 - jnp.arange(9) / 8, 16):.2f}")
  7.06

  Reference:
    RADD (2406.03736), section 3.3.
  """
  alphas = samplers.check_alphas(alphas)
  chance = (alphas[:-1] - alphas[1:]).astype(alphas.dtype)
  count = jnp.asarray(length)[..., None].astype(alphas.dtype)
  some = chance < 1
  log_none = count * jnp.log1p(-jnp.where(some, chance, 0))
  certain = (count > 0).astype(alphas.dtype)
  return jnp.sum(jnp.where(some, -jnp.expm1(log_none), certain), -1)


def check_denoiser(
  denoiser: Denoiser, tokens: jax.Array, *, mask_id: int, where: jax.Array
) -> None:
  """Raises unless a denoiser is one, on an example. Host side only.

  It must map tokens to finite logits of a vocabulary without the mask, and what
  it says of a mask must depend on the tokens that it sees. The last fails for
  a network whose output layer starts at 0: check it after some training.

  Args:
    denoiser: maps int `[..., L]` to logits `[..., L, V]`.
    tokens: integers `[..., L]`, an example without masks.
    mask_id: the number of the mask.
    where: bool `[..., L]`, tokens that may be masked.

  Returns:
    None.

  Raises:
    InputError: saying which of these does not hold.

  >>> x = jnp.array([[0, 1, 1]])
  >>> try:
  ...   check_denoiser(lambda z: z, x, mask_id=2, where=x >= 0)
  ... except checks.InputError as error: print(error)
  the denoiser must map (1, 3) to (1, 3, V), gave (1, 3)

  Reference:
    The project's own.
  """
  tokens, live = jnp.asarray(tokens), np.asarray(where, bool)
  if live.shape != tokens.shape:
    raise checks.InputError(f"where {live.shape}, tokens {tokens.shape}")
  if not live.any():
    raise checks.InputError("where selects no token")
  hidden = np.asarray(denoiser(jnp.where(live, mask_id, tokens)))
  if hidden.ndim != tokens.ndim + 1 or hidden.shape[:-1] != tokens.shape:
    shape = ", ".join(str(size) for size in (*tokens.shape, "V"))
    raise checks.InputError(
      f"the denoiser must map {tokens.shape} to ({shape}), gave {hidden.shape}"
    )
  vocab_size = hidden.shape[-1]
  if vocab_size > mask_id:
    raise checks.InputError(
      f"the denoiser emits the mask: mask_id {mask_id} is in its vocabulary"
      f" of {vocab_size}"
    )
  chosen = np.asarray(tokens)[live]
  if chosen.min() < 0 or chosen.max() >= vocab_size:
    raise checks.InputError(
      f"tokens must be in [0, {vocab_size}), are in"
      f" [{chosen.min()}, {chosen.max()}]"
    )
  # One mask a sequence, the first: all the rest is seen.
  single = live & (np.cumsum(live, -1) == 1)
  seen = np.asarray(denoiser(jnp.where(single, mask_id, tokens)))
  if np.any(np.isnan(hidden[live])) or np.any(np.isnan(seen[single])):
    raise checks.InputError("the denoiser gives NaN for a mask")
  more = single & (live.sum(-1, keepdims=True) > 1)
  if more.any() and np.array_equal(hidden[more], seen[more]):
    raise checks.InputError(
      "the denoiser changes nothing: it says the same whatever it sees"
    )
