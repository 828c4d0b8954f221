# SPDX-License-Identifier: Apache-2.0
"""Samplers that take tokens back by masking them again (ReMDM).

Plain masked diffusion never changes a token that it has revealed. ReMDM masks
visible tokens again, with a probability sigma for each step, such that the
share of visible tokens stays what the schedule says.

Arrays over steps are in the order of the times `0, 1/T, ..., 1`, like `alphas`:
their last entry is the first step. Sigma has a maximum: more would need more
than all masks revealed to keep the share.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics
from jaxalign.diffusion import samplers

__all__ = (
  "RemaskingProbs",
  "RemaskingSchedule",
  "loop_schedule",
  "remasking_probs",
  "remdm_sample",
  "sigma_cap",
  "sigma_confidence",
  "sigma_forward_backward",
  "sigma_max",
  "sigma_rescale",
  "step_log_prob",
)

# Room for a sigma that is meant to be the largest.
ROUNDING = 1e-6


class RemaskingProbs(NamedTuple):
  """What happens to a position in the step from t to s.

  Attributes:
    reveal: `[T]`, probability that a mask becomes a token.
    remask: `[T]`, probability that a token becomes a mask.
  """

  reveal: jax.Array
  remask: jax.Array


class RemaskingSchedule(NamedTuple):
  """Shares of visible tokens, and how many of them are taken back.

  Attributes:
    alphas: `[T + 1]`, from 1 down to 0.
    sigmas: `[T]`, remasking probabilities.
  """

  alphas: jax.Array
  sigmas: jax.Array


# --- schedules of remasking --------------------------------------------------


def sigma_max(alphas: jax.Array) -> jax.Array:
  """The largest remasking probability that keeps the shares.

  `min(1, (1 - alpha_s) / alpha_t)`: 0 in the last step.

  Args:
    alphas: `[T + 1]`, from 1 down to 0.

  Returns:
    `[T]`.

  Raises:
    ValueError: fewer than two alphas, or not from 1 down to 0.

  >>> print(sigma_max(jnp.array([1., .8, 0.])))
  [0. 1.]

  Reference:
    ReMDM (2503.00307), equation 6.
  """
  alphas = samplers.check_alphas(alphas)
  hidden, before = 1 - alphas[:-1], alphas[1:]
  # Also where rounding has put alpha_1 below 0.
  free = hidden >= before
  return jnp.where(free, 1, hidden / jnp.where(free, 1, before))


def _check_eta(eta: float) -> None:
  if not 0 <= eta <= 1:
    raise ValueError(f"eta must be in [0, 1], was {eta}")


def sigma_cap(alphas: jax.Array, *, eta: float) -> jax.Array:
  """One remasking probability for all steps that allow it.

  `min(eta, sigma_max)`.

  Args:
    alphas: `[T + 1]`, from 1 down to 0.
    eta: in [0, 1].

  Returns:
    `[T]`.

  Raises:
    ValueError: eta outside [0, 1], or no such alphas.

  >>> print(sigma_cap(jnp.array([1., .8, 0.]), eta=.25))
  [0.   0.25]

  Reference:
    ReMDM (2503.00307), section 4.1.
  """
  _check_eta(eta)
  return jnp.minimum(sigma_max(alphas), eta)


def sigma_rescale(alphas: jax.Array, *, eta: float) -> jax.Array:
  """A share of the largest remasking probability.

  `eta sigma_max`.

  Args:
    alphas: `[T + 1]`, from 1 down to 0.
    eta: in [0, 1].

  Returns:
    `[T]`.

  Raises:
    ValueError: eta outside [0, 1], or no such alphas.

  >>> print(sigma_rescale(jnp.array([1., .8, 0.]), eta=.5))
  [0.  0.5]

  Reference:
    ReMDM (2503.00307), section 4.1.
  """
  _check_eta(eta)
  return eta * sigma_max(alphas)


def sigma_forward_backward(alphas: jax.Array) -> jax.Array:
  """Remasks as many as a step reveals: forward-backward corrector sampling.

  `(alpha_s - alpha_t) / alpha_t`, or `sigma_max` where that is less. It is less
  where `2 alpha_s > 1 + alpha_t`, as in the last step, which may remask
  nothing; and in the first step, which has nothing to remask.

  Args:
    alphas: `[T + 1]`, from 1 down to 0.

  Returns:
    `[T]`.

  Raises:
    ValueError: fewer than two alphas, or not from 1 down to 0.

  >>> print(sigma_forward_backward(jnp.array([1., .75, .5, .25, 0.])))
  [0.  0.5 1.  1. ]

  Reference:
    ReMDM (2503.00307), its relation to discrete flow matching's corrector.
  """
  most = sigma_max(alphas)
  alphas = numerics.as_float(alphas)
  revealed, before = alphas[:-1] - alphas[1:], alphas[1:]
  less = revealed < most * before
  return jnp.where(less, revealed / jnp.where(less, before, 1), most)


def loop_schedule(
  *, num_steps: int, t_on: float, t_off: float, alpha_on: float, eta: float
) -> RemaskingSchedule:
  """Fills most of the text, then corrects it for a while, then ends.

  The share of visible tokens is linear in t but for a plateau of `alpha_on`
  over `[t_off, t_on]`. Steps within the plateau remask with probability eta,
  and so reveal with `eta alpha_on / (1 - alpha_on)`; all others are ancestral.

  Args:
    num_steps: T, at least 1.
    t_on: time at which the loop begins, in `[t_off, 1]`.
    t_off: time at which it ends, above 0.
    alpha_on: share of visible tokens meanwhile, in (0, 1).
    eta: at most `min(1, (1 - alpha_on) / alpha_on)`.

  Returns:
    `RemaskingSchedule` of T steps.

  Raises:
    ValueError: an argument is outside its range.

  >>> schedule = loop_schedule(
  ...   num_steps=4, t_on=.75, t_off=.25, alpha_on=.5, eta=.1)
  >>> print(schedule.alphas, schedule.sigmas)
  [1.  0.5 0.5 0.5 0. ] [0.  0.1 0.1 0. ]

  Reference:
    ReMDM (2503.00307), ReMDM-loop.
  """
  if num_steps < 1:
    raise ValueError(f"num_steps must be at least 1, was {num_steps}")
  if not 0 < t_off <= t_on < 1:
    raise ValueError(
      f"need 0 < t_off <= t_on < 1, was t_off {t_off} and t_on {t_on}"
    )
  if not 0 < alpha_on < 1:
    raise ValueError(f"alpha_on must be in (0, 1), was {alpha_on}")
  most = min(1, (1 - alpha_on) / alpha_on)
  if not 0 <= eta <= most + ROUNDING:
    raise ValueError(f"eta must be in [0, {most:.4g}], was {eta}")
  t = np.arange(num_steps + 1) / num_steps
  alphas = np.interp(t, [0, t_off, t_on, 1], [1, alpha_on, alpha_on, 0])
  loops = (t[:-1] >= t_off) & (t[1:] <= t_on)
  return RemaskingSchedule(
    jnp.asarray(alphas, float), jnp.asarray(np.where(loops, eta, 0), float)
  )


def sigma_confidence(
  sigma: jax.Array, log_probs: jax.Array, where: jax.Array
) -> jax.Array:
  """Spreads a remasking probability over tokens, most to the least sure.

  `sigma softmax_l(-p_l)` over the visible tokens, where p is the probability
  that a token had when it was revealed; 0 at all other positions. The average
  over the tokens is not sigma but `sigma / count`, and no mask is revealed to
  make up for it: this schedule does not keep the shares of visible tokens.

  Args:
    sigma: `[]`, at most the step's maximum.
    log_probs: `[..., L]`, log p, nats; not read where `where` is false.
    where: bool `[..., L]`, tokens that may be masked again.

  Returns:
    `[..., L]`.

  Raises:
    AssertionError: unequal shapes.

  >>> print(sigma_confidence(jnp.array(.5), jnp.zeros(2), jnp.ones(2, bool)))
  [0.25 0.25]

  Reference:
    ReMDM (2503.00307), ReMDM-conf, as in the released code.
  """
  checks.check_same_shape(log_probs=log_probs, where=where)
  log_probs = numerics.as_float(log_probs)
  probs = jnp.exp(jnp.where(where, log_probs, 0))
  return sigma * jnp.exp(numerics.masked_log_softmax(-probs, where))


# --- the law of a step -------------------------------------------------------


def remasking_probs(alphas: jax.Array, sigmas: jax.Array) -> RemaskingProbs:
  """Probabilities of a ReMDM step from t to s.

  A mask is revealed with `(alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t)`, a
  token masked with sigma: of alpha_t visible tokens come alpha_s for every
  sigma up to `sigma_max`. Sigma 0 is ancestral sampling.

  Args:
    alphas: `[T + 1]`, from 1 down to 0.
    sigmas: `[T]`, in `[0, sigma_max]`.

  Returns:
    `RemaskingProbs`; a sigma that is above its maximum by less than 1e-6 counts
    as the maximum. NaN where a traced sigma is out of its range.

  Raises:
    AssertionError: the lengths do not fit.
    ValueError: a sigma that can be looked at is out of its range.

  >>> probs = remasking_probs(jnp.array([1., .5, 0.]), jnp.array([0., 1.]))
  >>> print(probs.reveal, probs.remask)
  [1.  0.5] [0. 1.]

  Reference:
    ReMDM (2503.00307), equation 5.
  """
  most = sigma_max(alphas)
  sigmas = numerics.as_float(sigmas)
  checks.check_same_shape(sigmas=sigmas, steps_of_alphas=most)
  valid = (sigmas >= 0) & (sigmas <= most + ROUNDING)
  if not isinstance(valid, jax.core.Tracer) and not np.all(valid):
    i = int(np.argmin(valid))
    raise ValueError(
      f"sigma must be in [0, {most[i]:.4g}] in step {i}, was {sigmas[i]:.4g}"
    )
  sigmas, alphas = jnp.minimum(sigmas, most), numerics.as_float(alphas)
  after, before = alphas[:-1], alphas[1:]
  masked = 1 - before
  revealed = after - (1 - sigmas) * before
  reveal = jnp.where(masked > 0, revealed / jnp.where(masked > 0, masked, 1), 1)
  return RemaskingProbs(
    jnp.where(valid, reveal, jnp.nan), jnp.where(valid, sigmas, jnp.nan)
  )


def step_log_prob(
  logits: jax.Array,
  z: jax.Array,
  z_next: jax.Array,
  where: jax.Array,
  reveal: jax.typing.ArrayLike,
  remask: jax.typing.ArrayLike = 0.0,
  *,
  mask_id: int,
) -> jax.Array:
  """The likelihood of one step in which all positions move independently.

  A mask becomes token v with probability `reveal * p(v | z)`, a token becomes a
  mask with probability `remask`; they stay otherwise. The sum over the steps of
  a path is its likelihood, whose gradient is the policy gradient's score.

  Args:
    logits: `[..., L, V]`, the denoiser's of z; not read (NaN is allowed) but
      where a token is revealed.
    z: int `[..., L]`, with `mask_id` for masks.
    z_next: int `[..., L]`.
    where: bool `[..., L]`, positions that may move.
    reveal: probability, a number or `[..., L]`.
    remask: probability, a number or `[..., L]`.
    mask_id: the number of the mask, at least V.

  Returns:
    `[...]`, nats; -inf for a move that is impossible, such as from one token to
    another.

  Raises:
    AssertionError: unequal shapes.

  >>> z, after, where = jnp.array([2, 2]), jnp.array([1, 2]), jnp.ones(2, bool)
  >>> chance = step_log_prob(jnp.zeros((2, 2)), z, after, where, .5, mask_id=2)
  >>> print(f"{jnp.exp(chance):.4f}")  # 1/2 1/2 times 1/2
  0.1250

  Reference:
    MDLM (2406.07524), section 3.2; ReMDM (2503.00307), section 3.
  """
  checks.check_float(logits=logits)
  checks.check_same_shape(z=z, z_next=z_next, where=where)
  chex.assert_shape(logits, (*z.shape, None))
  logits = numerics.as_float(logits)
  reveal, remask = (
    jnp.broadcast_to(jnp.asarray(p, logits.dtype), z.shape)
    for p in (reveal, remask)
  )
  was, is_mask = z == mask_id, z_next == mask_id
  shown = where & was & ~is_mask
  safe = jnp.where(shown[..., None], logits, 0)
  token = jnp.where(shown, z_next, 0)
  moves = jnp.where(was, reveal, remask)
  chance = jnp.where(was == is_mask, 1 - moves, moves)
  possible = jnp.where(where, was | is_mask | (z == z_next), z == z_next)
  chance = jnp.where(where, chance, 1)
  live = possible & (chance > 0)
  log_chance = jnp.log(jnp.where(live, chance, 1))
  log_chance += jnp.where(shown, samplers.token_log_probs(safe, token), 0)
  return jnp.sum(jnp.where(live, log_chance, -jnp.inf), -1)


# --- samplers ----------------------------------------------------------------


def remdm_sample(
  key: jax.Array,
  denoiser: samplers.Denoiser,
  tokens: jax.Array,
  where: jax.Array,
  alphas: jax.Array,
  sigmas: jax.Array,
  *,
  mask_id: int,
  temperature: float = 1.0,
  confidence: bool = False,
) -> samplers.MaskedSamples:
  """Reverse diffusion that masks tokens again.

  In each step, independently by position: a visible token is masked with
  probability sigma and kept otherwise, a mask revealed as `remasking_probs`
  says. No forward where nothing is revealed.

  Args:
    key: a typed key.
    denoiser: maps int `[..., L]` to logits `[..., L, V]`.
    tokens: int `[..., L]`, the prompt; not read where `where` is true.
    where: bool `[..., L]`, tokens to generate; no others are masked.
    alphas: `[T + 1]`, share of visible tokens at times `0, 1/T, ..., 1`: from 1
      down to 0.
    sigmas: `[T]`, by one of the schedules of this module.
    mask_id: the number of the mask, at least V.
    temperature: of the tokens; 0 takes the most likely.
    confidence: ReMDM-conf: spread sigma by `sigma_confidence`, and reveal as
      ancestral sampling does.

  Returns:
    `MaskedSamples` of T steps; masks remain where a traced sigma is out of its
    range.

  Raises:
    AssertionError: shapes or types.
    ValueError: alphas not from 1 down to 0, a sigma above its maximum,
      temperature below 0, or the mask is a token.

  >>> denoiser = lambda z: jnp.log(jnp.array([[0., 1.], [1., 0.]]))
  >>> prompt, where = jnp.zeros(2, int), jnp.ones(2, bool)
  >>> alphas, key = jnp.linspace(1., 0., 9), jax.random.key(0)
  >>> sigmas = sigma_rescale(alphas, eta=.5)
  >>> remdm_sample(key, denoiser, prompt, where, alphas, sigmas, mask_id=2)[0]
  Array([1, 0], dtype=int32)

  Reference:
    ReMDM (2503.00307), algorithm 1.
  """
  probs = remasking_probs(alphas, sigmas)
  reveal = samplers.ancestral_probs(alphas) if confidence else probs.reveal
  start = samplers.masked_prompt(tokens, where, mask_id)

  def step(state, inputs):
    z, log_probs = state
    i, reveal_prob, sigma = inputs
    move, draw = jax.random.split(jax.random.fold_in(key, i))
    visible = where & (z != mask_id)
    if confidence:
      sigma = sigma_confidence(sigma, log_probs, visible)
    uniform = jax.random.uniform(move, z.shape, reveal.dtype)
    remasked = visible & (uniform < sigma)
    chosen = where & ~visible & (uniform < reveal_prob)
    found = samplers.reveal_tokens(
      draw,
      denoiser,
      z,
      jnp.any(chosen),
      mask_id=mask_id,
      temperature=temperature,
    )
    z = jnp.where(remasked, mask_id, jnp.where(chosen, found.tokens, z))
    drawn = found.log_probs.astype(log_probs.dtype)
    log_probs = jnp.where(chosen, drawn, log_probs)
    count = jnp.sum(chosen, -1, dtype=jnp.int32)
    return (z, log_probs), (found.num_forwards, count)

  inputs = (jnp.arange(len(reveal)), reveal[::-1], probs.remask[::-1])
  state = (start, jnp.zeros(start.shape, reveal.dtype))
  (z, _), (forwards, revealed) = jax.lax.scan(step, state, inputs)
  return samplers.MaskedSamples(
    z, jnp.sum(forwards), jnp.moveaxis(revealed, 0, -1)
  )
