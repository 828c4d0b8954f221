# SPDX-License-Identifier: Apache-2.0
"""Sampling small domains more often against weighting their losses.

D domains have n_i examples each. A temperature tau above 1 raises the share of
small ones. Drawing domains by the raised shares (temperature sampling) and
drawing them by size with losses weighted by the ratio of shares (scalarisation)
have the same expected gradient, but not the same variance.
"""

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = ("cooldown_tau", "gradient_variance_gap", "temperature_weights")


def temperature_weights(n: jax.Array, tau: float | jax.Array) -> jax.Array:
  """Shares of domains, `p_i(tau) = n_i^(1/tau) / sum_j n_j^(1/tau)`.

  1 is proportional to size, infinity uniform over domains that are not empty.
  Scalarisation draws by `p(1)` and weights losses by `w_i = p_i(tau)/p_i(1)`.

  Args:
    n: `[..., D]`, sizes of the domains, at least 0; integers or floats.
    tau: scalar above 0.

  Returns:
    `[..., D]`, summing to 1; 0 for an empty domain.

  Raises:
    ValueError: tau is not above 0.

  >>> shares = temperature_weights(jnp.array([10_000, 100]), 2.)
  >>> print(f"{shares[0]:.4f} {shares[1]:.4f}")  # roots are as 10 to 1
  0.9091 0.0909

  Reference:
    Upsample or Upweight? Balanced Training on Heavily Imbalanced Datasets
    (2410.04579).
  """
  checks.check_positive(tau=tau)
  n = numerics.as_float(n)
  some = n > 0
  logits = jnp.log(jnp.where(some, n, 1)) / tau
  return jnp.exp(numerics.masked_log_softmax(logits, some))


def cooldown_tau(
  step: int | jax.Array,
  total: int | jax.Array,
  *,
  hi: float = 5.0,
  lo: float = 1.0,
  frac: float = 0.3,
) -> jax.Array:
  """The temperature of a step: high for the first part of training, then low.

  Small domains are learned at a high temperature, and left before they are
  overfitted. The breakpoint is ours: the paper's could not be confirmed.

  Args:
    step: `[...]`, from 0.
    total: steps of the training, a scalar or of `step`'s shape.
    hi: tau of the first part, above 0.
    lo: tau from then on, above 0.
    frac: share of the steps in the first part, in [0, 1].

  Returns:
    `[...]`, `hi` in the first `round(frac total)` steps, then `lo`.

  Raises:
    ValueError: a temperature is not above 0, or the share not in [0, 1].

  >>> print(cooldown_tau(jnp.array([0, 29, 30, 99]), 100))
  [5. 5. 1. 1.]

  Reference:
    Upsample or Upweight? Balanced Training on Heavily Imbalanced Datasets
    (2410.04579), Cooldown.
  """
  checks.check_positive(hi=hi, lo=lo)
  if not 0 <= frac <= 1:
    raise ValueError(f"frac must be in [0, 1], was {frac}")
  hi, lo = numerics.as_float(jnp.array([hi, lo]))
  # Rounded, as the product of a share and a number is not always whole.
  return jnp.where(jnp.asarray(step) < jnp.round(frac * total), hi, lo)


def gradient_variance_gap(
  p1: jax.Array, w: jax.Array, second_moments: jax.Array
) -> jax.Array:
  """Variance of scalarisation's gradient less that of temperature sampling's.

  `tr Var_scal - tr Var_temp = sum_i (w_i - 1) w_i p_i(1) A_i` for the gradient
  of one example, `A_i = E|g|^2` in domain i (its variance plus the square of
  its mean). Equal A give `A chi2(p(tau)||p(1))`. It is negative where domains
  that are raised have much smaller gradients.

  Args:
    p1: `[..., D]`, `temperature_weights(n, 1)`.
    w: `[..., D]`, weights of losses, `p(tau)/p(1)`, at least 0.
    second_moments: `[..., D]`, A.

  Returns:
    `[...]`, for a batch of one; divided by B for one of B.

  Raises:
    AssertionError: shapes differ, or no floats.

  >>> p1, p2 = jnp.array([.9, .1]), jnp.array([.5, .5])
  >>> print(f"{gradient_variance_gap(p1, p2 / p1, jnp.ones(2)):.4f}")
  1.7778

  Reference:
    Upsample or Upweight? Balanced Training on Heavily Imbalanced Datasets
    (2410.04579); the identity is ours.
  """
  arrays = {"p1": p1, "w": w, "second_moments": second_moments}
  checks.check_same_shape(**arrays)
  checks.check_float(**arrays)
  p1, w, moments = map(numerics.as_float, arrays.values())
  return jnp.sum((w - 1) * w * p1 * moments, -1)
