# SPDX-License-Identifier: Apache-2.0
"""Imitation by a pair of density models whose log-ratio is the reward.

One model is of the expert's states (or pairs), one of the policy's. They are
coupled: not each fitted by likelihood, but their log-ratio by the bound of
Donsker and Varadhan on the divergence from the policy's to the expert's law.
The paper also smooths the samples and squashes the ratio; the form of either is
not confirmed, and neither is here.
"""

from typing import NamedTuple

import jax

from jaxalign import checks, numerics
from jaxalign.divergences import variational

__all__ = ("LogDensities", "coupled_flow_loss", "coupled_flow_rewards")


class LogDensities(NamedTuple):
  """What both models say of one set of samples.

  Attributes:
    expert: `[..., n]`, log-density under the expert's model, nats.
    policy: `[..., n]`, under the policy's.
  """

  expert: jax.Array
  policy: jax.Array


def _log_ratio(densities: LogDensities) -> jax.Array:
  checks.check_same_shape(expert=densities.expert, policy=densities.policy)
  checks.check_float(expert=densities.expert, policy=densities.policy)
  return numerics.as_float(densities.expert) - numerics.as_float(
    densities.policy
  )


def coupled_flow_rewards(densities: LogDensities) -> jax.Array:
  """The reward of a sample, a constant for the policy's update.

  `x = log p_E - log p_pi`: at the loss's optimum the true log-ratio, plus some
  constant that no bound can see.

  Args:
    densities: `[..., n]` each, finite.

  Returns:
    `[..., n]`, nats; no gradient flows through it.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.

  >>> import jax.numpy as jnp
  >>> print(coupled_flow_rewards(LogDensities(jnp.zeros(2), jnp.ones(2))))
  [-1. -1.]

  Reference:
    A Coupled Flow Approach to Imitation Learning (2305.00303).
  """
  return jax.lax.stop_gradient(_log_ratio(densities))


def coupled_flow_loss(
  on_expert: LogDensities,
  on_policy: LogDensities,
  *,
  where_expert: jax.Array | None = None,
  where_policy: jax.Array | None = None,
) -> jax.Array:
  """Minus the bound of Donsker and Varadhan, for both models together.

  `-(E_E[x] - log E_pi[e^x])`, `x = log p_E - log p_pi`. Its minimum is
  `-KL(E||pi)`, at the true log-ratio plus any constant: the ratio is learned,
  not the densities. Minimise it over both models on fresh samples; see
  `donsker_varadhan` on the bias of a minibatch.

  Args:
    on_expert: `[..., n]` each, of the expert's samples.
    on_policy: `[..., m]` each, of the policy's.
    where_expert: bool `[..., n]`, samples to keep; all by default.
    where_policy: bool `[..., m]`, samples to keep; all by default.

  Returns:
    `[...]`, nats.

  Raises:
    AssertionError: shapes do not fit, or an array is not floating point.

  >>> import jax.numpy as jnp
  >>> same = LogDensities(jnp.zeros(3), jnp.zeros(3))
  >>> float(coupled_flow_loss(same, same))
  -0.0

  Reference:
    A Coupled Flow Approach to Imitation Learning (2305.00303).
  """
  return -variational.donsker_varadhan(
    _log_ratio(on_expert),
    _log_ratio(on_policy),
    where_p=where_expert,
    where_q=where_policy,
  )
