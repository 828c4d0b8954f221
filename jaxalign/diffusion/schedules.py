# SPDX-License-Identifier: Apache-2.0
"""Schedules of noise: plain functions of time, t = 0 data and t = 1 noise.

Masked diffusion: `alpha(t)`, the share of visible tokens, from 1 down to 0. Its
bound in continuous time is the same for all of them; in T steps it is not.

Gaussian diffusion: `gamma(t) = -log SNR(t)`, which rises. The factors of
`z = alpha x + sigma eps` are `gaussian.alpha_sigma(gamma(t))`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics

__all__ = (
  "alpha_grid",
  "cosine_alpha",
  "cosine_gamma",
  "linear_alpha",
  "log_linear_gamma",
  "polynomial_alpha",
  "schedule_weight",
)

Schedule = Callable[[jax.Array], jax.Array]


# --- masked ------------------------------------------------------------------


def linear_alpha(t: jax.Array) -> jax.Array:
  """The share of visible tokens falls evenly.

  `alpha = 1 - t`, of weight `1 / t`.

  Args:
    t: `[...]`, times in [0, 1].

  Returns:
    `[...]`.

  >>> print(linear_alpha(jnp.array([0., .25, 1.])))
  [1.   0.75 0.  ]

  Reference:
    LLaDA (2502.09992), section 2.1; MDLM (2406.07524), log-linear schedule.
  """
  return 1 - numerics.as_float(t)


def polynomial_alpha(t: jax.Array, *, power: float = 2.0) -> jax.Array:
  """The share of masks is a power of time.

  `alpha = 1 - t^w`, of weight `w / t`.

  Args:
    t: `[...]`, times in [0, 1].
    power: w, above 0; 2 is the quadratic schedule, 1 the linear one.

  Returns:
    `[...]`.

  Raises:
    ValueError: w is not above 0.

  >>> print(polynomial_alpha(jnp.array([0., .5, 1.])))
  [1.   0.75 0.  ]

  Reference:
    Simplified and Generalized Masked Diffusion (2406.04329), table 4.
  """
  checks.check_positive(power=power)
  return 1 - numerics.as_float(t) ** power


def cosine_alpha(t: jax.Array) -> jax.Array:
  """The share of masks is a quarter of a sine: few tokens in the first steps.

  `alpha = 1 - cos(pi (1 - t) / 2) = 1 - sin(pi t / 2)`, of weight
  `(pi / 2) / tan(pi t / 2)`.

  Args:
    t: `[...]`, times in [0, 1].

  Returns:
    `[...]`.

  >>> print(cosine_alpha(jnp.array([0., 1/3, 1.])))
  [1.  0.5 0. ]

  Reference:
    MaskGIT (2202.04200), section 3.3; Simplified and Generalized Masked
    Diffusion (2406.04329), table 4.
  """
  return 1 - jnp.sin(jnp.pi / 2 * numerics.as_float(t))


def schedule_weight(alpha: Schedule, t: jax.Array) -> jax.Array:
  """The weight of the masked tokens' loss at a time.

  `-alpha'(t) / (1 - alpha(t))`, by differentiation. It is of order 1/t near 0,
  where hardly anything is masked: the estimators of the bound do without it.

  Args:
    alpha: a schedule of masks, entry by entry.
    t: `[...]`, times in (0, 1].

  Returns:
    `[...]`.

  Raises:
    ValueError: a time is outside (0, 1].

  >>> print(schedule_weight(linear_alpha, jnp.array([.25, 1.])))
  [4. 1.]

  Reference:
    MDLM (2406.07524), equation 10.
  """
  t = check_times(t)
  value, slope = jax.jvp(alpha, (t,), (jnp.ones_like(t),))
  return -slope / (1 - value)


def check_times(t: jax.Array) -> jax.Array:
  """Times `[...]`, of a type to compute in; refuses those outside (0, 1]."""
  if not isinstance(t, jax.core.Tracer):
    outside = np.asarray(t)[~((np.asarray(t) > 0) & (np.asarray(t) <= 1))]
    if outside.size:
      raise ValueError(f"t must be in (0, 1], was {np.ravel(outside)[0]}")
  return numerics.as_float(t)


def alpha_grid(alpha: Schedule, *, num_steps: int) -> jax.Array:
  """The shares of visible tokens between which T steps go.

  `alpha(i / T)`, with ends that are 1 and 0 exactly.

  Args:
    alpha: a schedule of masks, entry by entry.
    num_steps: T, at least 1.

  Returns:
    `[T + 1]`, in the order of time.

  Raises:
    ValueError: T is below 1, or the schedule does not go from 1 to 0.

  >>> print(alpha_grid(linear_alpha, num_steps=4))
  [1.   0.75 0.5  0.25 0.  ]

  Reference:
    MDLM (2406.07524), section 3.2.
  """
  if num_steps < 1:
    raise ValueError(f"num_steps must be at least 1, was {num_steps}")
  alphas = alpha(jnp.arange(num_steps + 1) / num_steps)
  if not isinstance(alphas, jax.core.Tracer):
    first, last = float(alphas[0]), float(alphas[-1])
    if not (abs(first - 1) < 1e-3 and abs(last) < 1e-3):
      raise ValueError(
        f"alpha must go from 1 to 0, goes from {first:.4g} to {last:.4g}"
      )
  return alphas.at[0].set(1).at[-1].set(0)


# --- Gaussian ----------------------------------------------------------------


def cosine_gamma(t: jax.Array) -> jax.Array:
  """The noise level of `alpha = cos(pi t / 2)`, `sigma = sin(pi t / 2)`.

  `gamma = 2 log tan(pi t / 2)`.

  Args:
    t: `[...]`, times in [0, 1].

  Returns:
    `[...]`; -inf at 0 and +inf at 1, where nothing is left of the data.

  >>> print(f"{cosine_gamma(2 / 3):.4f}")  # log 3
  1.0986

  Reference:
    Improved Denoising Diffusion Probabilistic Models (2102.09672), section 3.2,
    without its offset.
  """
  t = numerics.as_float(t)
  # The cosine as a sine, which is 0 at t = 1 and not merely close to it.
  sine, cosine = jnp.sin(jnp.pi / 2 * t), jnp.sin(jnp.pi / 2 * (1 - t))
  return 2 * (jnp.log(sine) - jnp.log(cosine))


def log_linear_gamma(
  t: jax.Array, *, gamma_min: float, gamma_max: float
) -> jax.Array:
  """The logarithm of the signal-to-noise ratio falls evenly.

  `gamma = gamma_min + (gamma_max - gamma_min) t`.

  Args:
    t: `[...]`, times in [0, 1].
    gamma_min: at t = 0; `-log SNR`, so `-log(1e4)` for a ratio of 1e4.
    gamma_max: at t = 1, above `gamma_min`.

  Returns:
    `[...]`.

  Raises:
    ValueError: gamma_max is not above gamma_min.

  >>> print(log_linear_gamma(jnp.array([0., .5]), gamma_min=-8., gamma_max=6.))
  [-8. -1.]

  Reference:
    Variational Diffusion Models (2107.00630), appendix H.
  """
  if not gamma_min < gamma_max:
    raise ValueError(
      f"gamma_max must be above gamma_min {gamma_min}, was {gamma_max}"
    )
  # Plain numbers: NumPy's would widen the type of t.
  low, high = float(gamma_min), float(gamma_max)
  return low + (high - low) * numerics.as_float(t)
