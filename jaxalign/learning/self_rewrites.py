# SPDX-License-Identifier: Apache-2.0
"""How far data for fine-tuning are from what a model would have written.

Data from elsewhere cost a model more of its other abilities than the same
content in its own words. What can be measured beforehand is their likelihood
under the model, and whether it foretells the cost.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = ("Correlation", "mean_token_nll", "pearson_correlation")


class Correlation(NamedTuple):
  """Pearson's correlation with a 95 % interval.

  Attributes:
    value: `[...]`, in [-1, 1]; NaN where a variable does not vary.
    lower: `[...]`.
    upper: `[...]`.
  """

  value: jax.Array
  lower: jax.Array
  upper: jax.Array


def mean_token_nll(token_logps: jax.Array, *, where: jax.Array) -> jax.Array:
  """Mean negative log-likelihood of the tokens of each text.

  Of data under the model that is to be tuned, before and after the model has
  rewritten them: the shift that DGR removes.

  Args:
    token_logps: `[..., T]`, of the model before tuning.
    where: bool `[..., T]`, tokens that are trained on; anything may stand
      elsewhere.

  Returns:
    `[...]`, nats per token; 0 for a text without tokens.

  Raises:
    AssertionError: shapes differ, or no floats.

  >>> logps = jnp.array([-1., -2., jnp.nan])
  >>> print(mean_token_nll(logps, where=jnp.array([True, True, False])))
  1.5

  Reference:
    Mitigating Safety Tax via Distribution-Grounded Refinement in Large
    Reasoning Models (2602.02136), the measure of the shift.
  """
  checks.check_same_shape(token_logps=token_logps, where=where)
  checks.check_float(token_logps=token_logps)
  return numerics.masked_mean(-numerics.as_float(token_logps), where, -1)


def pearson_correlation(x: jax.Array, y: jax.Array) -> Correlation:
  """Pearson's correlation of two variables, with Fisher's interval.

  `artanh r` is nearly normal with variance `1/(n - 3)`. As of the likelihood of
  n sets of data before tuning with the loss on a benchmark after it.

  Args:
    x: `[..., n]`, n at least 4.
    y: `[..., n]`.

  Returns:
    `Correlation`.

  Raises:
    AssertionError: shapes differ, or no floats.
    ValueError: n is below 4.

  >>> found = pearson_correlation(
  ...   jnp.array([0., 1., 2., 3.]), jnp.array([0., 2., 1., 3.]))
  >>> print(f"{found.value:.4f} {found.lower:.4f} {found.upper:.4f}")
  0.8000 -0.6970 0.9956

  Reference:
    Fisher, On the probable error of a coefficient of correlation (1921).
  """
  checks.check_same_shape(x=x, y=y)
  checks.check_float(x=x, y=y)
  x, y = numerics.as_float(x), numerics.as_float(y)
  if x.shape[-1] < 4:
    raise ValueError(f"an interval needs at least 4 pairs, was {x.shape[-1]}")
  x = x - jnp.mean(x, -1, keepdims=True)
  y = y - jnp.mean(y, -1, keepdims=True)
  sizes = jnp.sqrt(jnp.sum(x**2, -1) * jnp.sum(y**2, -1))
  value = jnp.clip(jnp.sum(x * y, -1) / sizes, -1, 1)
  half = 1.96 / jnp.sqrt(x.shape[-1] - 3.0)
  centre = jnp.arctanh(value)
  return Correlation(value, jnp.tanh(centre - half), jnp.tanh(centre + half))
