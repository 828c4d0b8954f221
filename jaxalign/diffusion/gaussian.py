# SPDX-License-Identifier: Apache-2.0
"""Gaussian diffusion: what a network predicts, and the bounds that train it.

`z = alpha x + sigma eps` with `alpha^2 + sigma^2 = 1`, set by one number
`gamma = log(sigma^2 / alpha^2) = -log SNR`, which rises with time. (Another
scale of z, as in flow matching, is another network, not another bound.) The
negative bound on `log p(x)` is the sum of three expectations over eps,

  prior_kl  +  reconstruction_loss  +  E_t vdm_loss,

with t uniform in (0, 1]; in T steps the last is the sum of `ddpm_vlb` over
steps 1 to T. A denoiser is a function `(z, t) -> prediction` of arrays
`[..., D]` and `[...]`. Losses take the draws (t, eps), which `draw_noise`
makes, so that two networks can be compared on the same ones.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.diffusion import predictions
from jaxalign.divergences import gaussian as divergences

__all__ = (
  "NoiseDraw",
  "ddpm_simple_loss",
  "ddpm_vlb",
  "ddpm_weights",
  "draw_noise",
  "prior_kl",
  "reconstruction_loss",
  "vdm_loss",
)

Denoiser = Callable[[jax.Array, jax.Array], jax.Array]
Schedule = Callable[[jax.Array], jax.Array]


class NoiseDraw(NamedTuple):
  """What a loss draws for each example.

  Attributes:
    t: `[...]`, times.
    eps: `[..., D]`, standard normal.
  """

  t: jax.Array
  eps: jax.Array


def draw_noise(
  key: jax.Array, x: jax.Array, *, min_time: float = 0.0
) -> NoiseDraw:
  """Times and noise for one evaluation of a loss.

  t is uniform in `(min_time, 1]` and eps standard normal. An integral over
  that range is `1 - min_time` times the mean.

  Args:
    key: a typed key.
    x: `[..., D]`, the data; only their shape and type are read.
    min_time: the end of the range towards the data, in [0, 1).

  Returns:
    `NoiseDraw`.

  Raises:
    AssertionError: not floating point.
    ValueError: min_time is outside [0, 1), or x a scalar.

  >>> t, eps = draw_noise(jax.random.key(0), jnp.zeros((4, 2)))
  >>> t.shape, eps.shape
  ((4,), (4, 2))

  Reference:
    Variational Diffusion Models (2107.00630), the continuous-time
    model.
  """
  if not 0 <= min_time < 1:
    raise ValueError(f"min_time must be in [0, 1), was {min_time}")
  checks.check_float(x=x)
  predictions.per_example(x)
  x = numerics.as_float(x)
  time_key, noise_key = jax.random.split(key)
  # `uniform` may return 0 and never 1: turned around, t is never 0.
  below = jax.random.uniform(time_key, x.shape[:-1], x.dtype)
  return NoiseDraw(
    1 - (1 - min_time) * below, jax.random.normal(noise_key, x.shape, x.dtype)
  )


def _square(
  denoiser: Denoiser,
  x: jax.Array,
  t: jax.Array,
  eps: jax.Array,
  gamma: jax.Array,
  prediction: str,
) -> jax.Array:
  """`||target - prediction||^2` in the network's own terms, `[...]`.

  The score's is that of eps. Errors of x and eps are multiples of it, which
  neither cancel nor divide by a vanishing alpha or sigma.
  """
  alpha, sigma = (a[..., None] for a in predictions.alpha_sigma(gamma))
  pred = denoiser(alpha * x + sigma * eps, t)
  checks.check_same_shape(prediction=pred, x=x)
  checks.check_float(prediction=pred)
  pred = numerics.as_float(pred)
  if prediction == "score":
    pred = -sigma * pred
  targets = {"x": x, "u": eps - x, "v": alpha * eps - sigma * x}
  return jnp.sum((targets.get(prediction, eps) - pred) ** 2, -1)


def _x_share(gamma: jax.Array, prediction: str) -> jax.Array:
  """`||x - xhat||^2` by the square of the network's own error."""
  if prediction == "x":
    return jnp.ones_like(gamma)
  if prediction == "v":
    return jax.nn.sigmoid(gamma)
  if prediction == "u":  # sigma / (alpha + sigma)
    return jax.nn.sigmoid(gamma / 2) ** 2
  return jnp.exp(gamma)


def _eps_share(gamma: jax.Array, prediction: str) -> jax.Array:
  """`||eps - epshat||^2` by the square of the network's own error."""
  if prediction in ("eps", "score"):
    return jnp.ones_like(gamma)
  # As that of x, with the parts of alpha and sigma exchanged.
  return jnp.exp(-gamma) if prediction == "x" else _x_share(-gamma, prediction)


def _check_draw(
  x: jax.Array, t: jax.Array, eps: jax.Array, prediction: str
) -> tuple[jax.Array, jax.Array]:
  """Checks what all losses take; returns x and eps in float32 or wider."""
  checks.check_choice("prediction", prediction, predictions.PREDICTIONS)
  checks.check_same_shape(x=x, eps=eps)
  checks.check_float(x=x, eps=eps)
  predictions.per_example(x, t=t)
  return numerics.as_float(x), numerics.as_float(eps)


def _check_times(gamma: Schedule, t: jax.Array) -> jax.Array:
  """Checks times and a schedule; returns t in float32 or wider."""
  checks.check_float(t=t)
  t = numerics.as_float(t)
  checks.check_same_shape(**{"gamma(t)": jax.eval_shape(gamma, t), "t": t})
  return t


# --- losses ------------------------------------------------------------------


def ddpm_simple_loss(
  denoiser: Denoiser,
  x: jax.Array,
  t: jax.Array,
  eps: jax.Array,
  *,
  gamma: Schedule,
  prediction: str = "eps",
) -> jax.Array:
  """The squared error of the noise, without the weight of a bound.

  `||eps - epshat(z, t)||^2`, a sum over the event.

  Args:
    denoiser: `(z [..., D], t [...]) -> prediction [..., D]`.
    x: `[..., D]`, data.
    t: `[...]`, times in [0, 1].
    eps: `[..., D]`, standard normal noise.
    gamma: `-log SNR` as a function of t, entry by entry.
    prediction: what the denoiser returns: `"x"`, `"eps"`, `"score"`, `"v"` or
      `"u"`.

  Returns:
    `[...]`, one per example.

  Raises:
    AssertionError: shapes do not fit, or an array is not floating point.
    ValueError: unknown prediction.

  >>> x, t, eps = jnp.zeros((1, 2)), jnp.array([.5]), jnp.array([[1., 2.]])
  >>> silent = lambda z, t: jnp.zeros_like(z)
  >>> print(ddpm_simple_loss(silent, x, t, eps, gamma=lambda t: 12 * t - 7))
  [5.]

  Reference:
    Denoising Diffusion Probabilistic Models (2006.11239), equation 14.
  """
  x, eps = _check_draw(x, t, eps, prediction)
  t = _check_times(gamma, t)
  level = gamma(t)
  square = _square(denoiser, x, t, eps, level, prediction)
  return _eps_share(level, prediction) * square


def vdm_loss(
  denoiser: Denoiser,
  x: jax.Array,
  t: jax.Array,
  eps: jax.Array,
  *,
  gamma: Schedule,
  prediction: str = "eps",
) -> jax.Array:
  """The diffusion loss in continuous time.

  `gamma'(t)/2 ||eps - epshat(z, t)||^2`. Its mean over t uniform in (0, 1] and
  eps is `1/2 int (-SNR'(t)) E||x - xhat||^2 dt`, in which the schedule matters
  by its ends only, where gamma must be finite. The form in T steps is
  `ddpm_vlb` at `gammas = gamma(arange(T + 1) / T)`.

  Args:
    denoiser: `(z [..., D], t [...]) -> prediction [..., D]`.
    x: `[..., D]`, data.
    t: `[...]`, times in [0, 1].
    eps: `[..., D]`, standard normal noise.
    gamma: `-log SNR` as a function of t, entry by entry, rising; its derivative
      is taken by autodiff.
    prediction: what the denoiser returns: `"x"`, `"eps"`, `"score"`, `"v"` or
      `"u"`.

  Returns:
    `[...]`, nats, one per example.

  Raises:
    AssertionError: shapes do not fit, or an array is not floating point.
    ValueError: unknown prediction.

  >>> x, t, eps = jnp.zeros((1, 2)), jnp.array([.5]), jnp.array([[1., 2.]])
  >>> silent = lambda z, t: jnp.zeros_like(z)
  >>> print(vdm_loss(silent, x, t, eps, gamma=lambda t: 12 * t - 7))
  [30.]

  Reference:
    Variational Diffusion Models (2107.00630), the continuous-time
    model.
  """
  x, eps = _check_draw(x, t, eps, prediction)
  t = _check_times(gamma, t)
  level, slope = jax.jvp(gamma, (t,), (jnp.ones_like(t),))
  square = _square(denoiser, x, t, eps, level, prediction)
  return slope / 2 * _eps_share(level, prediction) * square


def ddpm_weights(gammas: jax.Array) -> jax.Array:
  """The weights of `||eps - epshat||^2` in the bound of T steps.

  `(SNR(s)/SNR(t) - 1) / 2` for the step from t to s, which is DDPM's
  `beta_t^2 / (2 s_t^2 alpha_t (1 - abar_t))` with `s_t^2` the variance of the
  posterior `q(z_s | z_t, x)`.

  Args:
    gammas: `[T + 1]`, `-log SNR` at times `0, 1/T, ..., 1`, rising; infinite at
      either end where the data are clean or the noise is pure.

  Returns:
    `[T]`, the weights of steps 1 to T; +inf at an infinite end.

  Raises:
    AssertionError: rank or type.
    ValueError: fewer than two levels.

  >>> print(ddpm_weights(jnp.log(jnp.array([1., 2., 6.]))))
  [0.5 1. ]

  Reference:
    Denoising Diffusion Probabilistic Models (2006.11239), equation 12.
  """
  gammas = _check_gammas(gammas)
  return jnp.expm1(gammas[1:] - gammas[:-1]) / 2


def _check_gammas(gammas: jax.Array) -> jax.Array:
  checks.check_rank(1, gammas=gammas)
  checks.check_float(gammas=gammas)
  if gammas.shape[0] < 2:
    raise ValueError(f"gammas must have two levels or more, was {gammas.shape}")
  return numerics.as_float(gammas)


def ddpm_vlb(
  denoiser: Denoiser,
  x: jax.Array,
  step: jax.Array,
  eps: jax.Array,
  *,
  gammas: jax.Array,
  prediction: str = "eps",
) -> jax.Array:
  """One term of the bound of T steps.

  `KL(q(z_s|z_t, x) || p(z_s|z_t)) = (SNR(s) - SNR(t))/2 ||x - xhat(z_t, t)||^2`
  with `t = step/T` and `s = t - 1/T`, where p takes q at `x = xhat`. T times
  the mean over steps is the diffusion loss `L_T`, which falls to that of
  continuous time as T grows, where the denoiser is the best one.

  Where `gammas[0]` is -inf the data are clean after step 1, which is then
  infinite, with gradient 0: put `reconstruction_loss` at `t = 1/T` in its
  place, as DDPM does. Where `gammas[T]` is +inf the step from pure noise is
  finite for predictions of x, v and u.

  Args:
    denoiser: `(z [..., D], t [...]) -> prediction [..., D]`.
    x: `[..., D]`, data.
    step: int `[...]`, from 1 to T.
    eps: `[..., D]`, standard normal noise.
    gammas: `[T + 1]`, `-log SNR` at times `0, 1/T, ..., 1`, rising.
    prediction: what the denoiser returns: `"x"`, `"eps"`, `"score"`, `"v"` or
      `"u"`.

  Returns:
    `[...]`, nats, one per example.

  Raises:
    AssertionError: shapes do not fit, or wrong types.
    ValueError: unknown prediction, or fewer than two levels.

  >>> x, step, eps = jnp.zeros((1, 2)), jnp.array([2]), jnp.array([[1., 2.]])
  >>> silent, gammas = lambda z, t: 0 * z, jnp.log(jnp.array([1., 2., 6.]))
  >>> print(ddpm_vlb(silent, x, step, eps, gammas=gammas))  # weight 1
  [5.]

  Reference:
    Denoising Diffusion Probabilistic Models (2006.11239), equations 5 and 12;
    Variational Diffusion Models (2107.00630), the discrete-time model.
  """
  x, eps = _check_draw(x, step, eps, prediction)
  chex.assert_type(step, int, custom_message="need integers: step")
  gammas = _check_gammas(gammas)
  t = (step / (gammas.shape[0] - 1)).astype(x.dtype)
  before, level = gammas[step - 1], gammas[step]
  square = _square(denoiser, x, t, eps, level, prediction)
  if prediction in ("eps", "score"):
    weight = ddpm_weights(gammas)[step - 1]
  else:
    # Differences of SNR, which is 0 where noise is pure.
    snr_gain = -jnp.expm1(before - level) * jnp.exp(-before)
    weight = snr_gain / 2 * _x_share(level, prediction)
  live = weight < jnp.inf
  outside = jnp.where(square > 0, jnp.inf, 0)
  return jnp.where(live, jnp.where(live, weight, 0) * square, outside)


# --- the ends ----------------------------------------------------------------


def prior_kl(x: jax.Array, *, gamma: jax.Array | float) -> jax.Array:
  """What the last z still tells about the data.

  `KL(N(alpha x, sigma^2 1) || N(0, 1))` at the noise level of t = 1.

  Args:
    x: `[..., D]`, data.
    gamma: a number or `[]`, `-log SNR` at t = 1; +inf allowed.

  Returns:
    `[...]`, nats, one per example; 0 at +inf.

  Raises:
    AssertionError: gamma is no scalar, or x not floating point.
    ValueError: x is a scalar.

  >>> print(f"{prior_kl(jnp.ones(1), gamma=0.):.4f}")
  0.3466

  Reference:
    Variational Diffusion Models (2107.00630), the variational lower
    bound.
  """
  checks.check_float(x=x)
  predictions.per_example(x)
  x = numerics.as_float(x)
  gamma = jnp.asarray(gamma, x.dtype)
  checks.check_rank(0, gamma=gamma)
  alpha, sigma = predictions.alpha_sigma(gamma)
  return divergences.gaussian_kl_diag(
    alpha * x, jnp.full_like(x, sigma), jnp.zeros_like(x), jnp.ones_like(x)
  )


def reconstruction_loss(
  denoiser: Denoiser,
  x: jax.Array,
  t: jax.Array,
  eps: jax.Array,
  *,
  gamma: Schedule,
  scale: jax.Array | float,
  prediction: str = "eps",
) -> jax.Array:
  """The cost of the data given their first noised version.

  `-log N(x; xhat(z, t), scale^2 1)`: a density, so that the bound is one on
  `log p(x)` of continuous data. In continuous time t is 0, for DDPM it is 1/T.
  A denoiser of eps that returns 0 at t and a scale of `exp(gamma(t) / 2)` make
  the decoder that has no parameters, `p(x|z)` proportional to `q(z|x)`.

  Args:
    denoiser: `(z [..., D], t [...]) -> prediction [..., D]`.
    x: `[..., D]`, data.
    t: `[...]`, times, usually all 0.
    eps: `[..., D]`, standard normal noise.
    gamma: `-log SNR` as a function of t, entry by entry; finite at t.
    scale: a number or `[]`, the decoder's standard deviation, above 0.
    prediction: what the denoiser returns: `"x"`, `"eps"`, `"score"`, `"v"` or
      `"u"`.

  Returns:
    `[...]`, nats, one per example; may be negative.

  Raises:
    AssertionError: shapes do not fit, or an array is not floating point.
    ValueError: unknown prediction, or a scale that is not above 0.

  >>> x, t, eps = jnp.zeros((1, 1)), jnp.zeros(1), jnp.ones((1, 1))
  >>> silent = lambda z, t: jnp.zeros_like(z)
  >>> loss = reconstruction_loss(silent, x, t, eps, gamma=lambda t: t, scale=1.)
  >>> print(jnp.round(loss, 4))  # (1 + log(2 pi)) / 2
  [1.4189]

  Reference:
    Variational Diffusion Models (2107.00630), the variational lower
    bound.
  """
  x, eps = _check_draw(x, t, eps, prediction)
  checks.check_positive(scale=scale)
  scale = jnp.asarray(scale, x.dtype)
  checks.check_rank(0, scale=scale)
  t = _check_times(gamma, t)
  level = gamma(t)
  square = _square(denoiser, x, t, eps, level, prediction)
  square *= _x_share(level, prediction)
  normaliser = x.shape[-1] * (jnp.log(scale) + math.log(2 * math.pi) / 2)
  return square / (2 * scale**2) + normaliser
