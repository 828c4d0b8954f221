# SPDX-License-Identifier: Apache-2.0
"""Bounds of the distortion of voting rules and of preference fine-tuning.

The distortion of a method is the worst ratio, over populations, of the best
average utility to that of what the method chooses.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = (
  "BordaBound",
  "borda_lower_bound",
  "borda_upper_bound",
  "distortion_bound",
)


def vote(gap: jax.Array) -> jax.Array:
  """`sigmoid(gap) - 1/2`, without cancellation at small gaps."""
  return jnp.tanh(gap / 2) / 2


def _tanh_deficit(x: jax.Array) -> jax.Array:
  """`1 - tanh(x)/x` for `x > 0`; its series where the difference cancels."""
  near = x < 0.1
  square = jnp.where(near, x, 0) ** 2
  series = jnp.zeros_like(x)
  for term in (1382 / 155925, -62 / 2835, 17 / 315, -2 / 15, 1 / 3):
    series = square * (term + series)
  safe = jnp.where(near, 1, x)
  return jnp.where(near, series, 1 - jnp.tanh(safe) / safe)


def distortion_bound(beta: float | jax.Array) -> jax.Array:
  """`D*(beta)`: the distortion of Nash learning, optimal among all rules.

  `(1/4) beta / (sigmoid(beta) - 1/2) = (beta/2) (1+e^-beta)/(1-e^-beta)`; about
  `beta / 2` for large beta, 1 at 0.

  Args:
    beta: `[...]`, Bradley-Terry temperature, above 0.

  Returns:
    `[...]`, at least 1.

  Raises:
    ValueError: beta not above 0.

  >>> print(f"{distortion_bound(5.):.4f}")
  2.5339

  Reference:
    Distortion of AI Alignment (2505.23749), theorem on NLHF.
  """
  checks.check_positive(beta=beta)
  beta = numerics.as_float(beta)
  return beta / (4 * vote(beta))


class BordaBound(NamedTuple):
  """The lower bound on Borda's distortion.

  Attributes:
    value: `[...]`, `C(beta)`.
    gamma: `[...]`, in (0, 1): the gap of utilities at which it is attained.
  """

  value: jax.Array
  gamma: jax.Array


def borda_lower_bound(beta: float | jax.Array) -> BordaBound:
  """A distortion that Borda, hence unconstrained RLHF and DPO, cannot avoid.

  `C = max_g D* [1 - g + (sigmoid(beta g) - 1/2) / (sigmoid(beta) - 1/2)]`, at
  `g = logit((1 + sqrt(1 - 4 l)) / 2) / beta` with `l = (sigmoid(beta) - 1/2) /
  beta`. Strictly above D*, and `(1 - o(1)) beta`.

  Args:
    beta: `[...]`, Bradley-Terry temperature, above 0.

  Returns:
    `BordaBound`.

  Raises:
    ValueError: beta not above 0.

  >>> print(f"{borda_lower_bound(5.).value:.4f}")
  3.4777

  Reference:
    Distortion of AI Alignment (2505.23749), lower bound for Borda.
  """
  checks.check_positive(beta=beta)
  beta = numerics.as_float(beta)
  # The optimum is where sigmoid'(beta g) = (1 - q^2)/4 equals the slope of the
  # chord, q = tanh(beta g / 2).
  gamma = 2 * jnp.arctanh(jnp.sqrt(_tanh_deficit(beta / 2))) / beta
  value = distortion_bound(beta) * (1 - gamma + vote(beta * gamma) / vote(beta))
  return BordaBound(value, gamma)


def borda_upper_bound(beta: float | jax.Array) -> jax.Array:
  """What Borda's distortion cannot exceed: `min(D*^2, 2 D*)`.

  Args:
    beta: `[...]`, Bradley-Terry temperature, above 0.

  Returns:
    `[...]`.

  Raises:
    ValueError: beta not above 0.

  >>> print(f"{borda_upper_bound(5.):.4f}")
  5.0678

  Reference:
    Distortion of AI Alignment (2505.23749), for `D*^2`; Utilitarian Distortion
    Under Probabilistic Voting (2602.11152), for `2 D*`.
  """
  bound = distortion_bound(beta)
  return jnp.minimum(bound**2, 2 * bound)
