# SPDX-License-Identifier: Apache-2.0
"""Heterogeneous users: types, their utilities and their comparisons.

A population is a law over G user types, `weights [..., G]`, with utilities
`[..., G, M]` in [0, 1] for M alternatives. A user of type g prefers x to y with
probability `sigmoid(beta (U[g, x] - U[g, y]))`; beta is the Bradley-Terry
temperature and multiplies utilities: large means decisive users. It is not the
weight of a KL penalty, which is called lam throughout.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = (
  "Instance",
  "average_utility",
  "margin_matrix",
  "simulate_comparisons",
  "win_matrix",
)


class Instance(NamedTuple):
  """A population, who is compared with whom, and what a policy may do.

  Attributes:
    weights: `[G]`, probabilities of the user types.
    utilities: `[G, M]`, in [0, 1].
    pair_weights: `[M, M]`, symmetric, sums to 1: law of the ordered pair that a
      user is shown. A pair (x, x) may be drawn but is not asked.
    log_ref: `[M]`, log-probabilities of the reference policy.
    tau: `[]`, radius in nats of the ball `KL(pi||ref) <= tau`; inf for none.
  """

  weights: jax.Array
  utilities: jax.Array
  pair_weights: jax.Array
  log_ref: jax.Array
  tau: jax.Array


def _check_population(
  weights: jax.Array, utilities: jax.Array
) -> tuple[jax.Array, jax.Array]:
  checks.check_float(weights=weights, utilities=utilities)
  weights, utilities = numerics.as_float(weights), numerics.as_float(utilities)
  checks.check_same_shape(
    weights=weights, utilities_of_one_alternative=utilities[..., 0]
  )
  return weights, utilities


def margin_matrix(
  weights: jax.Array, utilities: jax.Array, beta: float | jax.Array
) -> jax.Array:
  """Margins of the pairwise votes, `A = P - 1/2`, exactly skew-symmetric.

  `A[x, y] = sum_g w_g tanh(beta (U[g, x] - U[g, y]) / 2) / 2`: narrow margins
  keep their digits, which they lose in the win matrix.

  Args:
    weights: `[..., G]`, probabilities of the types.
    utilities: `[..., G, M]`.
    beta: scalar above 0, Bradley-Terry temperature.

  Returns:
    `[..., M, M]`, in [-1/2, 1/2].

  Raises:
    ValueError: beta not above 0.

  >>> weights, utilities = jnp.array([1.]), jnp.array([[1., 0.]])
  >>> print(jnp.round(margin_matrix(weights, utilities, 1.), 4))
  [[ 0.      0.2311]
   [-0.2311  0.    ]]

  Reference:
    Distortion of AI Alignment (2505.23749), section 2.
  """
  weights, utilities = _check_population(weights, utilities)
  checks.check_positive(beta=beta)
  beta = jnp.asarray(beta, utilities.dtype)
  gaps = utilities[..., :, None] - utilities[..., None, :]
  votes = jnp.tanh(beta / 2 * gaps) / 2
  return jnp.sum(weights[..., None, None] * votes, -3)


def win_matrix(
  weights: jax.Array, utilities: jax.Array, beta: float | jax.Array
) -> jax.Array:
  """Probability that a random user prefers x to y.

  `P[x, y] = sum_g w_g sigmoid(beta (U[g, x] - U[g, y]))`, so `P + P^T = 1`.

  Args:
    weights: `[..., G]`, probabilities of the types.
    utilities: `[..., G, M]`.
    beta: scalar above 0, Bradley-Terry temperature.

  Returns:
    `[..., M, M]`, in [0, 1], 1/2 on the diagonal.

  Raises:
    ValueError: beta not above 0.

  >>> weights, utilities = jnp.array([1.]), jnp.array([[1., 0.]])
  >>> print(f"{win_matrix(weights, utilities, 1.)[0, 1]:.4f}")
  0.7311

  Reference:
    Distortion of AI Alignment (2505.23749), section 2.
  """
  return 0.5 + margin_matrix(weights, utilities, beta)


def average_utility(weights: jax.Array, utilities: jax.Array) -> jax.Array:
  """Average utility of each alternative, `a(x) = sum_g w_g U[g, x]`.

  Args:
    weights: `[..., G]`, probabilities of the types.
    utilities: `[..., G, M]`.

  Returns:
    `[..., M]`; the average utility of a policy is its inner product with this.

  >>> weights = jnp.array([.25, .75])
  >>> average_utility(weights, jnp.array([[1., 0.], [0., .5]]))
  Array([0.25 , 0.375], dtype=float32)

  Reference:
    Distortion of AI Alignment (2505.23749), section 2.
  """
  weights, utilities = _check_population(weights, utilities)
  return jnp.sum(weights[..., None] * utilities, -2)


def simulate_comparisons(
  key: jax.Array,
  instance: Instance,
  beta: float | jax.Array,
  *,
  num_users: int,
  pairs_per_user: int = 1,
) -> jax.Array:
  """Draws users and counts their answers.

  Every user has one type; given it, the answers are independent. Across users
  of unknown type the answers of one user are correlated.

  Args:
    key: PRNG key.
    instance: the population and the law of the pairs; its batch axes are none.
    beta: scalar above 0, Bradley-Terry temperature.
    num_users: how many users are drawn.
    pairs_per_user: how many pairs each of them is shown.

  Returns:
    int `[M, M]`: `counts[x, y]`, how often x was preferred to y. The diagonal
    counts draws of (x, x), which nobody answers; all entries add up to
    `num_users * pairs_per_user`.

  Raises:
    ValueError: beta, num_users or pairs_per_user not above 0.

  >>> instance = Instance(
  ...   jnp.ones(1), jnp.eye(2)[:1], jnp.ones((2, 2)) / 4,
  ...   jnp.log(jnp.ones(2) / 2), jnp.inf)
  >>> counts = simulate_comparisons(
  ...   jax.random.key(0), instance, 50., num_users=100)
  >>> int(counts.sum()), bool(counts[0, 1] > counts[1, 0])
  (100, True)

  Reference:
    Distortion of AI Alignment (2505.23749), section 2.
  """
  checks.check_rank(1, weights=instance.weights)
  checks.check_rank(2, pair_weights=instance.pair_weights)
  checks.check_positive(
    beta=beta, num_users=num_users, pairs_per_user=pairs_per_user
  )
  weights, utilities = _check_population(instance.weights, instance.utilities)
  num_types, size = utilities.shape
  beta = jnp.asarray(beta, utilities.dtype)
  of_types, of_pairs, of_answers = jax.random.split(key, 3)
  shape = (num_users, pairs_per_user)
  types = jax.random.choice(of_types, num_types, (num_users, 1), p=weights)
  pairs = jax.random.choice(
    of_pairs, size * size, shape, p=jnp.ravel(instance.pair_weights)
  )
  first, second = pairs // size, pairs % size
  gap = beta * (utilities[types, first] - utilities[types, second])
  kept = jax.random.bernoulli(of_answers, jax.nn.sigmoid(gap))
  winner = jnp.where(kept, first, second)
  loser = first + second - winner
  return jnp.zeros((size, size), int).at[winner, loser].add(1)
