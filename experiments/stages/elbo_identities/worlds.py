# SPDX-License-Identifier: Apache-2.0
"""Random tabular denoisers, and what they say of every sequence."""

import jax
import numpy as np

from jaxalign.exact import masked, sequences

SCALE = 2.0  # of the logits


def tables(seeds: range, *, vocab_size: int, length: int) -> np.ndarray:
  """Denoisers `[S, (V + 1)**L, L, V]` of normal logits."""
  shape = ((vocab_size + 1) ** length, length, vocab_size)
  return np.stack(
    [SCALE * np.random.default_rng(s).standard_normal(shape) for s in seeds]
  )


@jax.jit
def log_probs(tables: jax.Array) -> jax.Array:
  """`log p(x_l | x_S)` of all sequences: `[S, V**L, 2**L, L]`."""
  length, vocab_size = tables.shape[2:]
  x = sequences.enumerate_sequences(vocab_size, length)

  def one(table):
    denoiser = masked.table_denoiser(table)
    return masked.subset_log_probs(denoiser, x, mask_id=vocab_size)

  return jax.vmap(one)(tables)


def sums_by_count(log_probs: jax.Array) -> np.ndarray:
  """Sums over sets of k masks of `sum_{masked} log p`: `[..., L + 1]`."""
  length = log_probs.shape[-1]
  count = length - masked.visible_sets(length).sum(-1)
  # What is visible is 0.
  return np.asarray(log_probs).sum(-1) @ (count[:, None] == np.r_[: length + 1])
