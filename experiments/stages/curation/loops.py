# SPDX-License-Identifier: Apache-2.0
"""Loops of retraining, followed exactly: those of the example and random ones.

A loop is a base, a reward, K, and how much real data is mixed in; the example
has the numbers that are printed, random loops show what always holds.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from jaxalign import numerics
from jaxalign.divergences import categorical
from jaxalign.inference import curation

# Sums of few terms of order 1 after an exact quadrature, in float64.
EXACT = 1e-10

P = (0.1, 0.4, 0.2, 0.3)
R = (2.0, 0.0, 1.0, -1.0)
TIED_P = (0.1, 0.2, 0.3, 0.4)
TIED_R = (1.0, 1.0, 0.0, -1.0)
MANY = 40.0  # log K at which 1/K is below rounding
PAIR = 2  # K and lam of the fixed point
SIMULATED_LAM = 2.0

ROWS = 16  # loops at once: one shape, so one program
FIXED_ROWS = ("pure", "many", "tied", "pair", "simulated")


class Problems(NamedTuple):
  """Loops that start at their real data; fields have one row each."""

  log_ref: np.ndarray  # [B, V]
  rewards: np.ndarray  # [B, V]
  log_k: np.ndarray  # [B]
  lam: np.ndarray  # [B]; inf for none of the real data


# --- the loops ---------------------------------------------------------------


def _padded(rows: list[tuple], size: int) -> Problems:
  """ROWS problems from `(p, rewards, log K, lam)`; the last one is repeated."""
  rows = rows + [rows[-1]] * (ROWS - len(rows))
  p, rewards = (
    np.stack([np.pad(row[i], (0, size - len(row[i]))) for row in rows])
    for i in range(2)
  )
  log_k, lam = np.array([row[2:] for row in rows], float).T
  with np.errstate(divide="ignore"):
    return Problems(np.log(p), rewards, log_k, lam)


def _size(vocab: int) -> int:
  return max(vocab, len(P))


def example(*, k: int, lam: Sequence[float], vocab: int) -> Problems:
  """The loops of `FIXED_ROWS`, and one for every lam.

  Args:
    k: samples among which one is kept.
    lam: curated samples per real one, at most `ROWS - len(FIXED_ROWS)`.
    vocab: outcomes of the random loops, which run in the same program.
  """
  log_k = math.log(k)
  rows = [
    (P, R, log_k, math.inf),
    (P, R, MANY, math.inf),
    (TIED_P, TIED_R, log_k, math.inf),
    (P, R, math.log(PAIR), PAIR),
    (P, R, log_k, SIMULATED_LAM),
  ]
  rows += [(P, R, log_k, x) for x in lam]
  return _padded(rows, _size(vocab))


def random_problems(
  key: jax.Array, *, bases: int, lam: Sequence[float], vocab: int
) -> list[Problems]:
  """Random bases, each without real data and with several amounts of it.

  Args:
    key: of the bases, their rewards and K.
    bases: how many.
    lam: curated samples per real one, besides two amounts that depend on K.
    vocab: outcomes.
  """
  uniform = np.asarray(
    jax.random.uniform(key, (bases, 3, vocab), minval=-3, maxval=3)
  )
  rows = []
  for logits, rewards, (choice, *_) in uniform:
    p = np.exp(logits) / np.exp(logits).sum()
    k = (2, 3, 4, 8)[int((choice + 3) / 6 * 4)]
    # Half of, and almost, the most for which the bound of the KL is finite.
    amounts = (math.inf, 0.5 / (k - 1), 0.95 / (k - 1), *lam)
    rows += [(p, rewards, math.log(k), x) for x in amounts]
  size = _size(vocab)
  return [_padded(rows[i : i + ROWS], size) for i in range(0, len(rows), ROWS)]


# --- the exact recursion -----------------------------------------------------


def next_model(log_p, log_ref, rewards, log_k, lam) -> jax.Array:
  """One round of one loop `[V]`."""
  pure = curation.curation_step(log_p, rewards, log_k=log_k)
  real = jnp.isfinite(lam)
  mixed = curation.curation_step(
    log_p, rewards, log_k=log_k, log_ref=log_ref, lam=jnp.where(real, lam, 1.0)
  )
  return jnp.where(real, mixed, pure)


@jax.jit
def advance(log_p, problems: Problems) -> tuple[jax.Array, dict]:
  """The next models `[B, V]`, and numbers `[B]` on the present ones."""

  def one(log_p, problem):
    log_ref, rewards, log_k, lam = problem
    live = log_ref > -jnp.inf
    best = jnp.max(jnp.where(live, rewards, -jnp.inf))
    value = jnp.exp(rewards)
    mean = jnp.exp(log_p) @ value
    finite = jnp.where(jnp.isfinite(lam), lam, 1.0)
    numbers = {
      "mean": mean,
      "variance": jnp.exp(log_p) @ (value - mean) ** 2,
      "kl": categorical.kl(log_p, log_ref),
      "log_outside": numerics.masked_logsumexp(log_p, rewards < best),
      "gain_bound": curation.curation_gain_bound(log_p, rewards, log_k=log_k),
      "ref_gain_bound": curation.curation_ref_gain_bound(
        log_ref, rewards, log_k=log_k, lam=finite
      ),
      "kl_bound": curation.curation_kl_bound(log_k=log_k, lam=finite),
    }
    return next_model(log_p, *problem), numbers

  return jax.vmap(one)(log_p, problems)


def trajectory(
  problems: Problems, rounds: int, *, progress: bool = False
) -> dict[str, np.ndarray]:
  """Models `[T + 1, B, V]` and numbers `[T + 1, B]` of the loops."""
  log_p, rows = problems.log_ref, []
  for _ in harness.track(range(rounds + 1), "rounds", progress=progress):
    log_next, numbers = advance(log_p, problems)
    rows.append(numbers | {"log_p": log_p})
    log_p = log_next
  return {k: np.stack([np.asarray(row[k]) for row in rows]) for k in rows[0]}


# --- what is read from it ----------------------------------------------------


def one_loop(found: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
  """Models `[T + 1, V]` and numbers `[T + 1]` of one of `FIXED_ROWS`."""
  row = FIXED_ROWS.index(name)
  numbers = {k: x[:, row] for k, x in found.items()}
  return numbers | {"log_p": numbers["log_p"][:, : len(P)]}


def entries(
  trajectories: Sequence[tuple[Problems, dict]],
  measure: Callable[[Problems, dict], np.ndarray],
  *,
  real: bool,
) -> np.ndarray:
  """Numbers of all loops with real data, or of all without, in one row.

  Args:
    trajectories: problems and what `trajectory` found.
    measure: what to take from one of these, `[T, B]`.
    real: whether there is real data.
  """
  return np.concatenate(
    [
      np.ravel(measure(problems, found)[:, np.isfinite(problems.lam) == real])
      for problems, found in trajectories
    ]
  )
