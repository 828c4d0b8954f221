# SPDX-License-Identifier: Apache-2.0
"""Laws over all sequences: of schedules, distances, random ones."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.exact import parallel

EXACT = 1e-12  # sums of at most 256 terms of order 1 in float64
_perfect = jax.jit(parallel.perfect_log_probs, static_argnames="vocab_size")


def total_variation(p, q) -> np.ndarray:
  """`(1/2) sum |p - q|` of laws `[..., N]`."""
  return np.abs(np.asarray(p) - np.asarray(q)).sum(-1) / 2


def kl(log_p, log_q) -> np.ndarray:
  """`sum p log(p/q)` of laws `[..., N]`, nats; p may have zeros, q not."""
  log_p, log_q = np.asarray(log_p), np.asarray(log_q)
  some = log_p > -np.inf
  ratio = np.where(some, log_p, 0) - np.where(some, log_q, 0)
  return np.sum(np.exp(log_p) * ratio, -1)


def random_logits(seeds: range, *shape: int) -> np.ndarray:
  """Normal of standard deviation 2, `[S, ...]`."""
  draws = [np.random.default_rng(seed).standard_normal(shape) for seed in seeds]
  return 2 * np.stack(draws)


def random_tables(seeds: range, vocab_size: int, length: int) -> np.ndarray:
  """Denoisers `[S, (V + 1)**L, L, V]`, whose conditionals disagree."""
  rows = (vocab_size + 1) ** length
  return random_logits(seeds, rows, length, vocab_size)


def perfect_laws(
  log_joint: np.ndarray, seen: np.ndarray, *, vocab_size: int
) -> np.ndarray:
  """Of plain samplers with the conditionals of a law, by schedule.

  Args:
    log_joint: `[..., V**L]`.
    seen: bool `[S, L, L]`, as for `fixed_schedule_log_prob`.
    vocab_size: V.

  Returns:
    `[..., V**L, S]`, nats.
  """
  predictions = _perfect(jnp.asarray(log_joint), vocab_size=vocab_size)
  return np.asarray(parallel.fixed_schedule_log_prob(predictions, seen))
