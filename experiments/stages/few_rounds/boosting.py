# SPDX-License-Identifier: Apache-2.0
"""What boosting over distributions guarantees, against an adversary."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from jaxalign.learning import multi_distribution

EPS, FAILURE_PROB = 0.1, 0.1
# k and r; of the latter an adversary finds something that fits in its weight.
PRINTED = ((64, 3), (64, 4), (256, 4))
ATTACKED = ((256, 16), (256, 32), (256, 64))
NUM_TIGHT = 12  # cells of equal mass, of which tau is one


@functools.partial(jax.jit, static_argnames=("num_distributions", "rounds"))
def bad_counts(
  key: jax.Array,
  alpha: jax.Array,
  limit: jax.Array,
  *,
  num_distributions: int,
  rounds: int,
) -> jax.Array:
  """How often each distribution is bad by the will of an adversary, by round.

  It goes round the distributions and marks those that fit in the weight
  `limit`, always from the first or, in the other half of the rounds, from a
  random one.

  Returns:
    `[rounds, k]`.
  """
  index = jnp.arange(num_distributions)

  def step(carry, key):
    q, count = carry
    coin_key, shift_key = jax.random.split(key)
    shift = jax.random.randint(shift_key, (), 0, num_distributions)
    shift = shift * jax.random.bernoulli(coin_key)
    order = (index + shift) % num_distributions
    light = q[order] <= limit
    fits = light & (jnp.cumsum(jnp.where(light, q[order], 0)) <= limit)
    bad = fits[(index - shift) % num_distributions]
    count = count + bad
    return (multi_distribution.boost_update(q, bad, alpha), count), count

  uniform = jnp.full(num_distributions, 1 / num_distributions)
  start = uniform, jnp.zeros(num_distributions)
  return jax.lax.scan(step, start, jax.random.split(key, rounds))[1]


def tight_error() -> tuple[float, float]:
  """The vote's error and tau where the bound `(1 + 1/theta) tau` is met.

  8 rounds with theta = 1/2. Six hypotheses are good: three disjoint regions of
  mass tau are each missed by two of them. Two are always wrong. The truth is 0,
  so that a tie is an error.
  """
  cells = np.arange(NUM_TIGHT)
  wrong = np.ones((NUM_TIGHT, 8), int)
  wrong[:, :6] = cells[:, None] == np.arange(6) // 2
  vote = np.asarray(multi_distribution.majority(jnp.asarray(wrong)))
  return vote.mean(), wrong[:, :6].mean(0).max()


def _attack(key: jax.Array, runs: int) -> list[float]:
  """The largest share of bad rounds of all runs less its bound, by case."""
  rounds = max(r for _, r in ATTACKED)
  (k,) = {k for k, _ in ATTACKED}
  attack = jax.vmap(
    functools.partial(bad_counts, num_distributions=k, rounds=rounds),
    (0, None, None),
  )
  excesses = []
  for i, (_, r) in enumerate(ATTACKED):
    params = multi_distribution.boost_params(k, r, EPS)
    keys = jax.random.split(jax.random.fold_in(key, i), runs)
    counts = attack(keys, params.alpha, params.bad_weight)
    share = np.asarray(counts[:, r - 1]).max() / r
    excesses.append(share - (1 - params.theta) / 2)
  return excesses


def boosting(key: jax.Array, *, runs: int) -> harness.Part:
  """Claims on the parameters, on adversaries and on the vote.

  Args:
    key: of the adversaries.
    runs: of the adversary for each k and r.
  """
  cases = dict.fromkeys(PRINTED + ATTACKED)
  k, r = np.array(list(cases)).T
  table = [multi_distribution.boost_params(*case, EPS) for case in cases]
  theta, p, tau, _ = np.array(table).T
  potential = k * (4 * p ** (1 - theta)) ** (r / 2)
  error, tight_tau = tight_error()
  claims = [
    harness.none_exceeds(
      "potential",
      "k (4 p^(1 - theta))^(r/2), what an adversary needs to be 1: largest"
      " excess over 1",
      [potential - 1],
      tolerance=0.0,
    ),
    harness.all_agree(
      "potential_form",
      "this potential is 2^(-(1 - theta) r/2): largest difference",
      [potential - 2 ** (-(1 - theta) * r / 2)],
      tolerance=1e-12,
    ),
    harness.none_exceeds(
      "adversary",
      "bad distributions of weight p at most: largest share of rounds in which"
      " one is bad, less (1 - theta)/2",
      [_attack(key, runs)],
      tolerance=0.0,
    ),
    harness.Claim(
      name="tight_vote",
      statement="error of the vote over tau where theta = 1/2: its bound"
      " 1 + 1/theta is met",
      theory=1 + 1 / 0.5,
      measured=error / tight_tau,
      tolerance=1e-12,
    ),
  ]
  size = [
    multi_distribution.boost_evaluation_size(
      *case, tolerance=params.tolerance, failure_prob=FAILURE_PROB
    )
    for case, params in zip(cases, table, strict=True)
  ]
  columns = {
    "k": k,
    "rounds": r,
    "theta": theta,
    "p": p,
    "tau": tau,
    "potential": potential,
    "evaluation_samples_of_each": np.array(size),
  }
  tables = {"boosting: parameters for eps = .1": harness.rows(**columns)}
  return harness.Part(claims, {}, tables)
