# SPDX-License-Identifier: Apache-2.0
"""Policy gradients through the steps of a denoising chain.

Each step of a stochastic sampler is Gaussian, so its log-probability is exact,
and so is the policy gradient: `E[A sum_k grad log p(x_{k+1} | x_k)] = grad J`,
whether or not the bound is tight. What it costs is the whole chain of every
sample. Here k = 0 is the noisiest step.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks
from jaxalign.diffusion import surrogates

__all__ = ("ddpo_loss", "dppo_clip_range", "dppo_loss")


def ddpo_loss(
  log_probs: jax.Array,
  old_log_probs: jax.Array,
  advantages: jax.Array,
  *,
  normalize: str,
  length: jax.Array | None = None,
  clip: float = 1e-4,
  max_advantage: float = 5.0,
) -> surrogates.Surrogate:
  """PPO with a ratio for each denoising step.

  `-sum_k min(rho_k A, clip(rho_k, 1 - e, 1 + e) A)`, A clipped to
  `[-max_advantage, max_advantage]`.

  Args:
    log_probs: `[..., K]`, of each step, summed over dimensions, nats.
    old_log_probs: `[..., K]`, of the same chains; constants.
    advantages: `[...]`, constants.
    normalize: `"sequence"`, or `"token"` for means over dimensions, which the
      released code takes.
    length: `[...]`, the number of dimensions.
    clip: e, above 0.
    max_advantage: above 0.

  Returns:
    `Surrogate` of weight 1, a sum over steps.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: an unknown option, shapes do not fit, or a non-positive limit.

  >>> steps = jnp.array([[-1., -2., -3.]])
  >>> print(ddpo_loss(steps, steps, jnp.array([7.]), normalize="sequence").loss)
  [-15.]

  Reference:
    DDPO (2305.13301), equation 4; the released code.
  """
  checks.check_positive(clip=clip, max_advantage=max_advantage)
  surrogates.check_samples(
    1, advantages, log_probs=log_probs, old_log_probs=old_log_probs
  )
  old, advantages = surrogates.constant(old_log_probs, advantages)
  (new, old), weight = surrogates.scaled(
    (log_probs, old), length, normalize, parts=1
  )
  advantages = jnp.clip(advantages, -max_advantage, max_advantage)
  loss, clipped = surrogates.clipped_loss(
    new - old, advantages[..., None], clip
  )
  return surrogates.weighted(jnp.sum(loss, -1), weight, jnp.mean(clipped, -1))


def dppo_clip_range(
  num_steps: int, *, least: float, most: float, rate: float = 3.0
) -> np.ndarray:
  """Narrow for the noisiest step, wide for the last.

  `e_k = least + (most - least) (e^{r k/(K-1)} - 1) / (e^r - 1)`; for one step
  `least`.

  Args:
    num_steps: K, at least 1.
    least: of k = 0, above 0.
    most: of k = K - 1, at least `least`.
    rate: r, above 0.

  Returns:
    float64 `[K]`.

  Raises:
    ValueError: a number outside its range.

  >>> dppo_clip_range(3, least=.01, most=.1).round(4).tolist()
  [0.01, 0.0264, 0.1]

  Reference:
    DPPO (2409.00588), appendix; the released code.
  """
  checks.check_positive(num_steps=num_steps, least=least, rate=rate)
  if not most >= least:
    raise ValueError(f"most must be at least {least}, was {most}")
  share = np.arange(num_steps) / max(num_steps - 1, 1)
  return least + (most - least) * np.expm1(rate * share) / np.expm1(rate)


def dppo_loss(
  log_probs: jax.Array,
  old_log_probs: jax.Array,
  advantages: jax.Array,
  *,
  normalize: str,
  length: jax.Array | None = None,
  clip: jax.Array,
  discount: float = 0.99,
  log_prob_range: tuple[float, float] | None = None,
) -> surrogates.Surrogate:
  """PPO per denoising step, where late steps count more and may move more.

  `-sum_k min(rho_k A_k, clip(rho_k, 1 - e_k, 1 + e_k) A_k)`,
  `A_k = discount^{K-1-k} A`.

  Args:
    log_probs: `[..., K]`, of each step, summed over dimensions, nats.
    old_log_probs: `[..., K]`, of the same chains; constants.
    advantages: `[...]`, constants.
    normalize: `"sequence"`, or `"token"` for means over dimensions, which the
      released code takes.
    length: `[...]`, the number of dimensions.
    clip: `[K]`, e, see `dppo_clip_range`.
    discount: in (0, 1].
    log_prob_range: what log-probabilities are clipped to, after `normalize`;
      `(-5, 2)` as released.

  Returns:
    `Surrogate` of weight 1, a sum over steps.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: an unknown option, shapes do not fit, or a number outside its
      range.

  >>> steps, clip = jnp.array([[-1., -2.]]), jnp.full(2, .1)
  >>> print(dppo_loss(steps, steps, jnp.ones(1), normalize="sequence",
  ...   clip=clip, discount=.5).loss)
  [-1.5]

  Reference:
    DPPO (2409.00588), section 4.3 and appendix; the released code.
  """
  if not 0 < discount <= 1:
    raise ValueError(f"discount must be in (0, 1], was {discount}")
  surrogates.check_samples(
    1, advantages, log_probs=log_probs, old_log_probs=old_log_probs
  )
  num_steps = log_probs.shape[-1]
  if jnp.shape(clip) != (num_steps,):
    raise ValueError(
      f"clip must be ({num_steps},), one for each step, was {jnp.shape(clip)}"
    )
  old, advantages = surrogates.constant(old_log_probs, advantages)
  (new, old), weight = surrogates.scaled(
    (log_probs, old), length, normalize, parts=1
  )
  if log_prob_range is not None:
    new, old = jnp.clip(new, *log_prob_range), jnp.clip(old, *log_prob_range)
  later = num_steps - 1 - jnp.arange(num_steps)
  kept = advantages[..., None] * (discount**later).astype(new.dtype)
  clip = jnp.asarray(clip, new.dtype)
  loss, clipped = surrogates.clipped_loss(new - old, kept, clip)
  return surrogates.weighted(jnp.sum(loss, -1), weight, jnp.mean(clipped, -1))
