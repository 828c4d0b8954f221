# SPDX-License-Identifier: Apache-2.0
"""Bregman divergences `D_F(x||y) = F(x) - F(y) - <grad F(y), x - y>`.

The event axis is last and is summed over. `bregman` takes any potential; the
named divergences compute the same numbers without cancellation near `x = y`
and with the limits at 0: what is infinite is +inf, with a finite gradient.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.divergences import categorical, generators

__all__ = (
  "bregman",
  "fermi_dirac",
  "generalized_kl",
  "itakura_saito",
  "squared_euclidean",
)


def _pair(**arrays: jax.Array) -> list[jax.Array]:
  checks.check_same_shape(**arrays)
  checks.check_float(**arrays)
  return [numerics.as_float(array) for array in arrays.values()]


def _exp_excess(log_u: jax.Array) -> jax.Array:
  """`u - 1 - log u`: the share of an outcome of Q-mass 1 in KL(Q||P)."""
  term = generators.f_divergence("reverse_kl").term
  return term(log_u, jnp.zeros_like(log_u))


def bregman(
  potential: Callable[[jax.Array], jax.Array], x: jax.Array, y: jax.Array
) -> jax.Array:
  """Bregman divergence of any differentiable potential, by autodiff.

  `D_F(x||y) = F(x) - F(y) - <grad F(y), x - y>`, at least 0 where F is convex.
  The difference is taken as written: near `x = y` it keeps the absolute, not
  the relative accuracy of F.

  Args:
    potential: F, maps `[..., D]` to `[...]`.
    x: `[..., D]`, in the domain of F.
    y: `[..., D]`, in the interior of the domain of F.

  Returns:
    `[...]`.

  Raises:
    AssertionError: shapes differ, no floats, or F keeps the event axis.

  >>> cubic = lambda x: jnp.sum(x**3, -1)
  >>> print(bregman(cubic, jnp.array([2.]), jnp.array([1.])))
  4.0

  Reference:
    Banerjee et al., Clustering with Bregman Divergences (2005), definition 1.
  """
  x, y = _pair(x=x, y=y)
  # The directional derivative costs one forward pass, for any batch shape.
  at_y, slope = jax.jvp(potential, (y,), (x - y,))
  chex.assert_shape(
    at_y, x.shape[:-1], custom_message="potential must map [..., D] to [...]"
  )
  return potential(x) - at_y - slope


def squared_euclidean(x: jax.Array, y: jax.Array) -> jax.Array:
  """Half the squared distance, `|x - y|^2 / 2`: F is `|x|^2 / 2`.

  Args:
    x: `[..., D]`.
    y: `[..., D]`.

  Returns:
    `[...]`.

  Raises:
    AssertionError: shapes differ, or no floats.

  >>> print(squared_euclidean(jnp.array([3., 1.]), jnp.array([1., 1.])))
  2.0

  Reference:
    Banerjee et al., Clustering with Bregman Divergences (2005), table 1.
  """
  x, y = _pair(x=x, y=y)
  return jnp.sum((x - y) ** 2, -1) / 2


def generalized_kl(x: jax.Array, y: jax.Array) -> jax.Array:
  """Generalised KL divergence, `sum x log(x/y) - x + y`: F is `x log x - x`.

  Arguments need not sum to 1; where both do it is `KL(x||y)`.

  Args:
    x: `[..., D]`, at least 0.
    y: `[..., D]`, at least 0.

  Returns:
    `[...]`; `x = 0` contributes y, `y = 0 < x` contributes +inf.

  Raises:
    AssertionError: shapes differ, or no floats.

  >>> print(generalized_kl(jnp.array([1., 0.]), jnp.array([1., 2.])))
  2.0

  Reference:
    Banerjee et al., Clustering with Bregman Divergences (2005), table 1.
  """
  x, y = _pair(x=x, y=y)
  both = (x > 0) & (y > 0)
  a, b = jnp.where(both, x, 1), jnp.where(both, y, 1)
  log_u = numerics.log_ratio(a, b)
  # Far from equality y/x may overflow where the divergence does not.
  near = a * _exp_excess(-jnp.clip(log_u, -1, 1))
  terms = jnp.where(jnp.abs(log_u) < 1, near, (b - a) + a * log_u)
  return jnp.sum(jnp.where(both, terms, jnp.where(x > 0, jnp.inf, y)), -1)


def itakura_saito(x: jax.Array, y: jax.Array) -> jax.Array:
  """Itakura-Saito distance, `sum x/y - log(x/y) - 1`: F is `-log x`.

  It does not change when x and y are scaled alike.

  Args:
    x: `[..., D]`, at least 0.
    y: `[..., D]`, at least 0.

  Returns:
    `[...]`; +inf where one of a pair is 0, whereas `x = y = 0` contributes 0.

  Raises:
    AssertionError: shapes differ, or no floats.

  >>> print(f"{itakura_saito(jnp.array([1.]), jnp.array([2.])):.4f}")
  0.1931

  Reference:
    Banerjee et al., Clustering with Bregman Divergences (2005), table 1.
  """
  x, y = _pair(x=x, y=y)
  both = (x > 0) & (y > 0)
  log_u = numerics.log_ratio(jnp.where(both, x, 1), jnp.where(both, y, 1))
  alone = jnp.where((x > 0) | (y > 0), jnp.inf, 0)
  return jnp.sum(jnp.where(both, _exp_excess(log_u), alone), -1)


def fermi_dirac(x_logits: jax.Array, y_logits: jax.Array) -> jax.Array:
  """Sum of binary KL divergences: F is `x log x + (1-x) log(1-x)`.

  With `a = logit x` and `b = logit y`, `sum softplus(b) - softplus(a) -
  sigmoid(a) (b - a)`, in the dual form that has no logarithm of 0.

  Args:
    x_logits: `[..., D]`, `log(x / (1-x))`; infinite for x in `{0, 1}`.
    y_logits: `[..., D]`, `log(y / (1-y))`.

  Returns:
    `[...]`, nats; +inf where y is 0 or 1 and x is not the same.

  Raises:
    AssertionError: shapes differ, or no floats.

  >>> print(f"{fermi_dirac(jnp.array([0.]), jnp.array([2.])):.4f}")
  0.4338

  Reference:
    Banerjee et al., Clustering with Bregman Divergences (2005), table 1.
  """
  a, b = _pair(x_logits=x_logits, y_logits=y_logits)
  log_x, log_y = (
    jnp.stack([jax.nn.log_sigmoid(z), jax.nn.log_sigmoid(-z)], -1)
    for z in (a, b)
  )
  return jnp.sum(categorical.kl(log_x, log_y), -1)
