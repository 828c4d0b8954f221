# SPDX-License-Identifier: Apache-2.0
"""Diffusion policy optimisation that keeps its bound tight.

A surrogate that puts the ELBO in the place of the log-likelihood is right while
the two agree, and every step in a reward's direction lets them drift apart.
Training the ELBO on the policy's own samples (self-distillation) brings them
back together: on those its expected gradient is that of minus the gap. As a
regulariser beside the surrogate, or as a stage of its own, now and then.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from jaxalign.diffusion import surrogates

__all__ = ("dipod_regularizer", "interleaved", "with_dipod")

Params = TypeVar("Params")


def dipod_regularizer(
  elbo: jax.Array,
  *,
  beta: float,
  normalize: str,
  length: jax.Array | None = None,
) -> jax.Array:
  """The self-distillation loss of the policy's own samples.

  `-beta ELBO`, with the gradient of the current bound and nothing else: no
  ratio, clip, advantage or baseline. On samples of the current policy its
  expected gradient is `beta grad E[log pi - ELBO]` with the law held; on other
  samples it is fine-tuning on those.

  Args:
    elbo: `[...]`, sums, nats, at the draws of the surrogate.
    beta: its weight, at least 0; may be traced.
    normalize: as in the surrogate: .05 per sequence is not .05 per token.
    length: `[...]`, tokens or dimensions.

  Returns:
    `[...]`.

  Raises:
    ValueError: an unknown option, or token without length.

  >>> print(dipod_regularizer(jnp.array([-4.]), beta=.05, normalize="sequence"))
  [0.2]

  Reference:
    DiPOD (2606.13795), practical algorithm; beta = .05 in its language runs.
  """
  surrogates.check_samples(elbo=elbo)
  (values,), _ = surrogates.scaled((elbo,), length, normalize)
  return -beta * jnp.where(jnp.equal(beta, 0), 0, values)


def with_dipod(
  surrogate: surrogates.Surrogate,
  elbo: jax.Array,
  *,
  beta: float,
  normalize: str,
  length: jax.Array | None = None,
) -> surrogates.Surrogate:
  """Adds `dipod_regularizer` to a surrogate of the same samples and draws.

  At the old parameters its gradient is that of advantages `A + beta`: a
  constant baseline is neutral for an exact likelihood, and not for a bound.
  With `beta >= -min A` all weights are at least 0. So do not centre `A + beta`
  again.

  Args:
    surrogate: what to add to.
    elbo: `[...]`, sums, nats.
    beta: weight, at least 0; may be traced.
    normalize: as in the surrogate.
    length: `[...]`, tokens or dimensions.

  Returns:
    `Surrogate`.

  Raises:
    AssertionError: shapes differ.
    ValueError: an unknown option, or token without length.

  >>> start = surrogates.Surrogate(*jnp.zeros((3, 1)))
  >>> print(with_dipod(start, jnp.array([-4.]), beta=.05,
  ...   normalize="sequence").loss)
  [0.2]

  Reference:
    DiPOD (2606.13795), practical algorithm.
  """
  surrogates.check_samples(elbo=elbo, loss=surrogate.loss)
  added = dipod_regularizer(elbo, beta=beta, normalize=normalize, length=length)
  return surrogate._replace(loss=surrogate.loss + added)


def interleaved(
  improve: Callable[[Params], Params],
  distill: Callable[[Params], Params],
  *,
  every: int,
) -> Callable[[Params, jax.Array], Params]:
  """The interleaved form: self-distil before every so many improvements.

  Args:
    improve: one step of a policy gradient through the bound.
    distill: parameters to those of the same policy with a tight bound, such as
      `exact.self_distill`, or a training loop of `dipod_regularizer`.
    every: improvements between self-distillations, at least 1; 1 as published.

  Returns:
    A step `(params, index) -> params`, for `jax.lax.scan` or `fori_loop` over
    the index from 0.

  Raises:
    ValueError: every is below 1.

  >>> step = interleaved(lambda x: x + 1, lambda x: 10 * x, every=2)
  >>> print(jax.lax.fori_loop(0, 4, lambda i, x: step(x, i), 1))
  122

  Reference:
    DiPOD (2606.13795), interleaved algorithm.
  """
  if every < 1:
    raise ValueError(f"every must be at least 1, was {every}")

  def step(params: Params, index: jax.Array) -> Params:
    due = jnp.equal(index % every, 0)
    return improve(jax.lax.cond(due, distill, lambda same: same, params))

  return step
