# SPDX-License-Identifier: Apache-2.0
"""GDC's target: of all that have given moments, the closest to the base."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from jaxalign import preference

N, MOMENTS = 12, 3
ALTERNATIVES = 200  # for each problem
PRIMAL = 2e-9  # of probabilities of two minimisers, far above their rounding
EXACT = 1e-12  # sums of a dozen terms, through exponentials of size ten


class Problem(NamedTuple):
  """Moments that are possible, and all that has them.

  Attributes:
    log_base: `[12]`.
    features: `[12, 3]`.
    moments: `[3]`.
    some: `[12]`, a distribution that has the moments.
    within: `[8, 12]`, orthogonal directions that keep them.
  """

  log_base: np.ndarray
  features: np.ndarray
  moments: np.ndarray
  some: np.ndarray
  within: np.ndarray


def problem(rng: np.random.Generator) -> Problem:
  """A random base, random features, and the moments of another random law."""
  logits, wanted = rng.standard_normal((2, N))
  features = rng.standard_normal((N, MOMENTS))
  some = np.exp(wanted) / np.sum(np.exp(wanted))
  constraints = np.concatenate([np.ones((N, 1)), features], -1)
  within = np.linalg.svd(constraints.T)[2][MOMENTS + 1 :]
  log_base = logits - np.log(np.sum(np.exp(logits)))
  return Problem(log_base, features, some @ features, some, within)


def alternatives(rng: np.random.Generator, given: Problem) -> np.ndarray:
  """Distributions `[200, 12]` with the moments, by a walk through them all.

  Each step goes in a random direction that keeps the moments, a random share of
  the way to the simplex's border.
  """
  found, point = [], given.some
  for _ in range(ALTERNATIVES):
    way = rng.standard_normal(len(given.within)) @ given.within
    farthest = np.min(point[way < 0] / -way[way < 0])
    point = point + rng.uniform() * farthest * way
    found.append(point)
  return np.stack(found)


def primal(given: Problem) -> np.ndarray:
  """The closest distribution `[12]`, by Newton within the moments."""
  within, some = jnp.asarray(given.within), jnp.asarray(given.some)

  def kl(x):
    probs = some + x @ within
    inside = jnp.all(probs > 0)
    safe = jnp.where(inside, probs, some)
    value = jnp.sum(safe * (jnp.log(safe) - given.log_base))
    return jnp.where(inside, value, jnp.inf)

  start = jnp.zeros(len(within))
  found = preference.minimize_population(kl, start, num_steps=40)
  return np.asarray(some + found.x @ within)


def _kl(log_p, log_q) -> np.ndarray:
  return np.sum(np.exp(log_p) * (log_p - log_q), -1)


def projection(*, seeds: range) -> harness.Part:
  """Claims on the moments, on the distance and against the primal problem.

  Args:
    seeds: of bases, features and moments.
  """
  rngs = [np.random.default_rng(seed) for seed in seeds]
  given = [problem(rng) for rng in rngs]
  wanted = Problem(*map(np.stack, zip(*given, strict=True)))
  found = jax.jit(preference.gdc_target)(*wanted[:3])
  log_p = np.asarray(found.log_target)
  misses = np.einsum("sn,snk->sk", np.exp(log_p), wanted.features)
  others = np.log(
    [alternatives(*pair) for pair in zip(rngs, given, strict=True)]
  )
  own = _kl(log_p, wanted.log_base)[:, None]
  of_others = _kl(others, wanted.log_base[:, None])
  from_p = _kl(others, log_p[:, None])
  claims = [
    harness.all_agree(
      "gdc_moments",
      "GDC's target: moments less those wanted, largest",
      misses - wanted.moments,
      tolerance=EXACT,
    ),
    harness.none_exceeds(
      "gdc_closest",
      "GDC's target: KL to the base less that of 200 others with the same"
      " moments, largest",
      own - of_others,
      tolerance=0.0,
    ),
    harness.all_agree(
      "gdc_pythagoras",
      "others with the same moments: KL to the base less KL to GDC's target"
      " less this one's to the base, largest",
      of_others - from_p - own,
      tolerance=EXACT,
    ),
    harness.all_agree(
      "gdc_primal",
      "GDC's target: probabilities less those of the least KL to the base"
      " within the moments, largest, first problem",
      [np.exp(log_p[0]) - primal(given[0])],
      tolerance=PRIMAL,
    ),
  ]
  title = "GDC: KL to the base of the target and of others with its moments"
  excess = of_others - own
  rows = harness.rows(
    problem=list(seeds),
    valid=found.valid,
    nearest_other=excess.min(-1),
    mean_other=excess.mean(-1),
  )
  return harness.Part(claims, {"gdc/excess": excess}, {title: rows})
