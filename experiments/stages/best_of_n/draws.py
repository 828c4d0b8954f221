# SPDX-License-Identifier: Apache-2.0
"""Draws of best-of-4 on an example with ties, against the exact law.

Measures frequencies, the mean reward and the mean of the KL estimator over
simulated draws; against the law by enumeration, in standard errors.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.stages import enumeration
from experiments.stages.best_of_n import bases
from jaxalign.inference import best_of_n as bon


@jax.jit
def draw(keys: jax.Array, scores: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Frequencies `[S, V]` of best-of-4 on the tied example, from keys `[S, D]`.

  Beside them the estimates `[V]` of the KL from each outcome.
  """
  p = jnp.array(bases.TIED_P)
  cdf = jnp.cumsum(p)

  def one(key):
    return bon.sample(
      key,
      lambda key: jnp.searchsorted(cdf, jax.random.uniform(key)),
      lambda x: scores[x],
      bases.DRAWN_N,
    ).sample

  def frequencies(keys):
    return jnp.bincount(jax.vmap(one)(keys), length=p.size) / keys.size

  estimates = bon.kl_estimator(jnp.log(p), bases.DRAWN_N)
  return jax.lax.map(frequencies, keys), estimates


def _mean_claim(name, statement, frequencies, pmf, values, total):
  """Mean of `values [V]` under draws against its mean under the exact law."""
  means = frequencies @ values
  theory = pmf @ values
  error = np.sqrt(pmf @ (values - theory) ** 2 / total)
  return harness.Claim(
    name=name,
    statement=statement,
    theory=theory,
    measured=means.mean(),
    tolerance=harness.STANDARD_ERRORS * error,
    interval=harness.confidence_interval(means),
  )


def draws(
  key: jax.Array, *, ties: str, num_seeds: int, per_seed: int
) -> harness.Part:
  """Best-of-4 by drawing, in so many repetitions of so many draws."""
  scores = bases.tied_scores(ties)
  keys = jax.random.split(key, (num_seeds, per_seed))
  found, estimates = map(np.asarray, draw(keys, scores))
  total = num_seeds * per_seed
  pmf = enumeration.best_of_n(bases.TIED_P, scores, bases.DRAWN_N)
  error = np.sqrt(pmf * (1 - pmf) / total)
  claims = [
    harness.all_agree(
      "sampled_law",
      "frequencies of best-of-4 with ties against the exact law, in standard"
      " errors: largest difference",
      [(found.mean(0) - pmf) / error],
      tolerance=harness.STANDARD_ERRORS,
    ),
    _mean_claim(
      "sampled_reward",
      "mean reward of draws of best-of-4 is that of the exact law",
      found,
      pmf,
      np.array(bases.TIED_R),
      total,
    ),
    _mean_claim(
      "sampled_estimator",
      "mean of the KL estimator over draws of best-of-4 is its exact mean",
      found,
      pmf,
      estimates,
      total,
    ),
  ]
  intervals = [harness.confidence_interval(x) for x in found.T]
  rows = harness.rows(
    outcome=np.arange(pmf.size),
    reward=bases.TIED_R,
    exact=pmf,
    drawn=found.mean(0),
    low=[low for low, _ in intervals],
    high=[high for _, high in intervals],
  )
  title = "frequencies of best-of-4 with ties, with 95 % intervals"
  return harness.Part(claims, {"drawn": found}, {title: rows})
