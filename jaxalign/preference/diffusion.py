# SPDX-License-Identifier: Apache-2.0
"""Preference losses of diffusion models: of squared errors of denoising.

Errors are means over dimensions, of chosen and rejected sample at one timestep
with one draw of noise that the pair and both models share. Half a reduction of
the error stands for the log-ratio; as errors are means, and the weight of the
timestep is in beta, beta is larger by about the number of dimensions than that
of the same loss of log-probabilities.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.preference import pairs, pairwise
from jaxalign.rl import soups

__all__ = (
  "DenoisingErrors",
  "diffusion_dpo_loss",
  "diffusion_npo_loss",
  "mapo_loss",
  "negative_guidance",
  "negative_params",
)


class DenoisingErrors(NamedTuple):
  """Squared errors of denoising, means over dimensions, of pairs of samples.

  Attributes:
    model_chosen: `[...]`, the model's, on the preferred sample; differentiated.
    model_rejected: `[...]`, on the other; differentiated.
    ref_chosen: `[...]`, the reference's; constants. `mapo_loss` reads none.
    ref_rejected: `[...]`, likewise.
  """

  model_chosen: jax.Array
  model_rejected: jax.Array
  ref_chosen: jax.Array | None = None
  ref_rejected: jax.Array | None = None


def _as_logps(errors: DenoisingErrors) -> pairs.PairLogps:
  """Minus half of each error."""
  chosen, rejected, ref_chosen, ref_rejected = errors
  if ref_chosen is None or ref_rejected is None:
    raise ValueError("needs ref_chosen and ref_rejected of DenoisingErrors")
  checks.check_float(**errors._asdict())
  scores = (chosen, rejected, ref_chosen, ref_rejected)
  return pairs.PairLogps(*(-numerics.as_float(x) / 2 for x in scores))


def diffusion_dpo_loss(
  errors: DenoisingErrors, *, beta: float = 5000.0
) -> pairs.PairLoss:
  """Diffusion-DPO, at one timestep.

  `-log sigmoid(-(beta/2) [(m_w - n_w) - (m_l - n_l)])`, m the model's errors
  and n the reference's. By Jensen's inequality its mean over timesteps bounds
  from above the loss of the mean over timesteps.

  Args:
    errors: `DenoisingErrors`, arrays `[...]`, all four.
    beta: above 0.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `-(beta/2) (m - n)`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: beta is not above 0, or no reference.

  >>> one = jnp.ones(1)
  >>> errors = DenoisingErrors(.8 * one, one, one, one)
  >>> out = diffusion_dpo_loss(errors, beta=10.)
  >>> print(f"{out.loss[0]:.4f} {out.chosen_reward[0]:.1f}")
  0.3133 1.0

  Reference:
    Diffusion Model Alignment Using Direct Preference Optimization (2311.12908),
    equation 14; constants are those of the authors' program.
  """
  return pairwise.dpo_loss(_as_logps(errors), beta=beta)


def diffusion_npo_loss(
  errors: DenoisingErrors, *, beta: float = 500.0
) -> pairs.PairLoss:
  """Diffusion-NPO: trains the negative branch of guidance on exchanged pairs.

  `-log sigmoid(beta [(m_w - n_w) - (m_l - n_l)])`: `diffusion_dpo_loss` with
  chosen and rejected exchanged and twice this beta.

  Args:
    errors: `DenoisingErrors`, arrays `[...]`, all four; chosen is what people
      prefer.
    beta: above 0.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `-beta (m - n)`, and the loss wants
    that of the rejected sample above the chosen one's.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: beta is not above 0, or no reference.

  >>> one = jnp.ones(1)
  >>> errors = DenoisingErrors(.9 * one, one, one, one)
  >>> out = diffusion_npo_loss(errors, beta=10.)
  >>> print(f"{out.loss[0]:.4f}")
  1.3133

  Reference:
    Diffusion-NPO (2505.11245); constants are those of the authors' program.
  """
  checks.check_positive(beta=beta)
  exchanged = DenoisingErrors(
    errors.model_rejected,
    errors.model_chosen,
    errors.ref_rejected,
    errors.ref_chosen,
  )
  out = diffusion_dpo_loss(exchanged, beta=2 * beta)
  return pairs.PairLoss(out.loss, out.rejected_reward, out.chosen_reward)


def negative_params(
  npo_params: Any, dpo_params: Any, base_params: Any, *, b: float = 0.0
) -> Any:
  """Parameters of guidance's negative branch beside a preference-tuned model.

  `npo + (1 - b) (dpo - base)`, leaf by leaf: what preference training changed
  is given to both branches, as far as b leaves it.

  Args:
    npo_params: a tree of floating-point arrays, trained by
      `diffusion_npo_loss`.
    dpo_params: a tree alike, the positive branch's.
    base_params: a tree alike, what the other two started from.
    b: 0 moves by the whole difference, 1 not at all.

  Returns:
    A tree like each of them.

  Raises:
    AssertionError: structures, shapes or types differ.

  >>> one = jnp.ones(1)
  >>> print(negative_params(3 * one, 2 * one, one, b=.5))
  [3.5]

  Reference:
    Diffusion-NPO (2505.11245), in the form of the authors' program for SDXL.
  """
  return soups.model_soup(
    [npo_params, dpo_params, base_params], [1.0, 1.0 - b, b - 1.0]
  )


def negative_guidance(
  positive: jax.Array, negative: jax.Array, *, scale: float
) -> jax.Array:
  """Classifier-free guidance with a negative branch of its own.

  `eps_neg + scale (eps_pos - eps_neg)`.

  Args:
    positive: `[...]`, predicted noise of the conditional branch.
    negative: `[...]`, of the negative branch.
    scale: 1 is the positive branch alone.

  Returns:
    `[...]`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.

  >>> print(negative_guidance(jnp.ones(1), jnp.zeros(1), scale=7.5))
  [7.5]

  Reference:
    Classifier-Free Diffusion Guidance (2207.12598), equation 6; Diffusion-NPO
    (2505.11245).
  """
  checks.check_same_shape(positive=positive, negative=negative)
  checks.check_float(positive=positive, negative=negative)
  positive, negative = map(numerics.as_float, (positive, negative))
  return negative + scale * (positive - negative)


_SERIES = (
  1.0,
  -1 / 2,
  1 / 12,
  0.0,
  -1 / 720,
  0.0,
  1 / 30240,
  0.0,
  -1 / 1209600,
)
_NEAR = 0.1  # the next term is below 1e-17 of the first


@jax.custom_jvp
def _phi(x: jax.Array) -> jax.Array:
  """`x / (e^x - 1)`: 1 at 0, falling."""
  near = jnp.abs(x) < _NEAR
  safe = jnp.where(near, 1, x)
  series = jnp.polyval(jnp.asarray(_SERIES[::-1], x.dtype), x)
  return jnp.where(near, series, safe / jnp.expm1(safe))


@_phi.defjvp
def _phi_jvp(primals, tangents):
  # phi' = phi (1 - x - phi) / x: no quotient of infinities at large x.
  (x,), (dx,) = primals, tangents
  near, value = jnp.abs(x) < _NEAR, _phi(x)
  slopes = [k * c for k, c in enumerate(_SERIES)][1:]
  series = jnp.polyval(jnp.asarray(slopes[::-1], x.dtype), x)
  slope = value * (1 - x - value) / jnp.where(near, 1, x)
  return value, jnp.where(near, series, slope) * dx


def mapo_loss(
  errors: DenoisingErrors,
  *,
  beta: float = 0.1,
  snr: float = 0.5,
  num_timesteps: int = 1000,
) -> pairs.PairLoss:
  """MaPO: the chosen sample's loss with a margin of odds, and no reference.

  `m_w - beta log sigmoid(T [phi(s m_w) - phi(s m_l)])`, `phi(x) = x / (e^x -
  1)`, which falls from 1 at 0.

  Args:
    errors: `DenoisingErrors`, arrays `[...]`; the reference's are not read.
    beta: above 0, weight of the margin.
    snr: s, above 0.
    num_timesteps: T, above 0, of the noise schedule.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `T phi(s m)`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: an option not above 0.

  >>> errors = DenoisingErrors(jnp.array([.1]), jnp.array([.1]))
  >>> print(f"{mapo_loss(errors).loss[0]:.4f}")  # .1 + .1 log 2
  0.1693

  Reference:
    Margin-aware Preference Optimization for Aligning Diffusion Models without
    Reference (2406.06424); constants are those of the authors' program.
  """
  checks.check_positive(beta=beta, snr=snr, num_timesteps=num_timesteps)
  chosen, rejected = errors.model_chosen, errors.model_rejected
  checks.check_same_shape(model_chosen=chosen, model_rejected=rejected)
  checks.check_float(model_chosen=chosen, model_rejected=rejected)
  chosen, rejected = numerics.as_float(chosen), numerics.as_float(rejected)
  odds = [num_timesteps * _phi(snr * x) for x in (chosen, rejected)]
  loss = chosen - beta * jax.nn.log_sigmoid(odds[0] - odds[1])
  return pairs.output(loss, *odds)
