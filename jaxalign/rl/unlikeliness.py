# SPDX-License-Identifier: Apache-2.0
"""Rewards that favour the unlikely among the correct.

A softmax policy that learns from its own samples raises what is already likely:
`exact.log_prob_change` shows it for the exact gradient. Here the reward of a
correct sample falls with the rank of its likelihood in the group.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks
from jaxalign.rl import advantages

__all__ = ("informative_groups", "unlikeliness_rewards")


def informative_groups(
  rewards: jax.Array, *, num_generations: int
) -> jax.Array:
  """Whether the rewards of a sample's group differ.

  What else there is to learn from is decided by the raw reward: once it has
  been reshaped, a group of successes has a spread of ranks alone.

  Args:
    rewards: `[..., B]`, raw, groups one after the other.
    num_generations: G, samples of each prompt; must divide B.

  Returns:
    bool `[..., B]`, equal within a group.

  Raises:
    ValueError: G does not divide B.

  >>> rewards = jnp.array([1., 0., 1., 1.])
  >>> print(informative_groups(rewards, num_generations=2))
  [ True  True False False]

  Reference:
    DAPO (2503.14476), dynamic sampling; Rewarding the Unlikely (2506.02355).
  """
  groups = advantages.split_groups(rewards, num_generations)
  differs = jnp.max(groups, -1) > jnp.min(groups, -1)
  return jnp.repeat(differs, num_generations, -1)


def _check_values(rewards: jax.Array, beta: float | jax.Array) -> None:
  if not isinstance(beta, jax.core.Tracer) and not 0 <= beta <= 1:
    raise ValueError(f"beta must be in [0, 1], was {beta}")
  if not isinstance(rewards, jax.core.Tracer) and np.any(rewards < 0):
    raise ValueError(
      f"rewards must be at least 0, were down to {np.min(rewards)}: shift them"
    )


def unlikeliness_rewards(
  rewards: jax.Array,
  scores: jax.Array,
  *,
  num_generations: int,
  beta: float | jax.Array = 0.25,
) -> jax.Array:
  """Rewards that fall with the rank of a sample's likelihood in its group.

  `R' = R (1 - beta rank / G)`, rank 0 for the least likely, G - 1 for the most.
  Equal scores share the average of their ranks. Groups without a spread of RAW
  rewards (`informative_groups`) have to be left out of the advantages: among
  successes alone ranks would decide.

  The exact form of the paper is not confirmed: its text may count ranks from 1,
  which changes all correct rewards of a group by `beta / G`; this is the
  released one.

  Args:
    rewards: `[..., B]`, at least 0: below 0 the unlikely would lose. Groups one
      after the other.
    scores: `[..., B]`, mean log-probability of a token under the policy that
      drew the sample.
    num_generations: G, samples of each prompt; must divide B.
    beta: scalar in [0, 1]; 0 leaves the rewards as they are.

  Returns:
    `[..., B]`: constants.

  Raises:
    AssertionError: shapes differ, or a score is not floating point.
    ValueError: G does not divide B; beta outside [0, 1] or a reward below 0,
      where these are not traced.

  >>> rewards, scores = jnp.array([1., 1., 0.]), jnp.array([-1., -2., -3.])
  >>> print(unlikeliness_rewards(
  ...   rewards, scores, num_generations=3, beta=.75))
  [0.5  0.75 0.  ]

  Reference:
    Rewarding the Unlikely (2506.02355), section 4.
  """
  checks.check_same_shape(rewards=rewards, scores=scores)
  checks.check_float(scores=scores)
  _check_values(rewards, beta)
  scores = advantages.split_groups(scores, num_generations)
  rewards_of = advantages.split_groups(rewards, num_generations)
  others, own = scores[..., None, :], scores[..., :, None]
  below = jnp.sum(others < own, -1)
  equal = jnp.sum(others == own, -1)  # itself included
  ranks = below + (equal - 1) / 2
  kept = 1 - beta * ranks.astype(rewards_of.dtype) / num_generations
  return (rewards_of * kept).reshape(rewards.shape)
