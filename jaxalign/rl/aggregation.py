# SPDX-License-Identifier: Apache-2.0
"""From losses of tokens to the loss of a batch.

Which average is taken decides what is optimised. With advantages that are an
unbiased estimate, only sums over a completion's tokens leave the direction of
the policy gradient alone; a mean over tokens counts a long completion's tokens
less (`seq_mean_token_mean`) or ties completions together (`token_mean`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = ("AGGREGATIONS", "BatchLoss", "aggregate")

AGGREGATIONS = (
  "token_mean",
  "seq_mean_token_mean",
  "seq_mean_token_sum",
  "constant",
)


class BatchLoss(NamedTuple):
  """A batch's loss and what it counts for in a mean over batches.

  Attributes:
    loss: scalar; 0 where the weight is 0.
    weight: scalar, the denominator: `sum w_k loss_k / sum w_k` over devices or
      microbatches is the loss of the whole batch.
  """

  loss: jax.Array
  weight: jax.Array


def _total(x: jax.Array) -> jax.Array:
  """The sum of `[B, T]`."""
  # Down the columns first: a sum along a row cannot be reordered, and so not
  # be vectorised, which takes several times as long on CPUs.
  return jnp.sum(jnp.sum(x, 0))


def aggregate(
  loss: jax.Array,
  *,
  where: jax.Array,
  mode: str,
  max_length: int | None = None,
) -> BatchLoss:
  """Averages the losses of tokens.

  With `L_i` tokens in completion i and B' completions that have any:

  - `"token_mean"`: `sum_it l_it / sum_i L_i` (BNPO; DAPO over all devices);
  - `"seq_mean_token_mean"`: `1/B' sum_i sum_t l_it / L_i` (GRPO);
  - `"seq_mean_token_sum"`: `1/B' sum_i sum_t l_it`;
  - `"constant"`: `sum_it l_it / (B max_length)` (Dr. GRPO), B including empty
    completions.

  Args:
    loss: `[B, T]`; anything may stand where masked.
    where: bool `[B, T]`, tokens of completions.
    mode: one of `AGGREGATIONS`.
    max_length: of `"constant"`, and of it alone: the longest completion that is
      allowed, above 0. Not T, which changes with the padding.

  Returns:
    `BatchLoss`.

  Raises:
    AssertionError: shapes differ or are not of rank 2.
    ValueError: an unknown mode; max_length is missing, or not wanted.

  >>> loss = jnp.array([[1., 1., 4.], [3., jnp.nan, jnp.nan]])
  >>> where = jnp.array([[True, True, True], [True, False, False]])
  >>> for mode in ("token_mean", "seq_mean_token_mean", "seq_mean_token_sum"):
  ...   print(aggregate(loss, where=where, mode=mode).loss)
  2.25
  2.5
  4.5

  Reference:
    Understanding R1-Zero-Like Training (2503.20783); DAPO (2503.14476).
  """
  checks.check_choice("aggregation", mode, AGGREGATIONS)
  checks.check_rank(2, loss=loss)
  checks.check_same_shape(loss=loss, where=where)
  if (max_length is not None) != (mode == "constant"):
    raise ValueError(
      "max_length belongs to aggregation 'constant', which needs it:"
      f" aggregation was {mode!r}, max_length {max_length}"
    )
  loss = jnp.where(where, numerics.as_float(loss), 0)
  exists = where.astype(loss.dtype)
  lengths = jnp.sum(exists, -1)
  if mode == "seq_mean_token_mean":
    loss *= (1 / jnp.maximum(lengths, 1))[:, None]
  if max_length is not None:
    checks.check_positive(max_length=max_length)
    weight = jnp.asarray(len(loss) * max_length, loss.dtype)
  elif mode == "token_mean":
    weight = _total(exists)
  else:
    weight = jnp.sum(lengths > 0).astype(loss.dtype)
  total = _total(loss)
  return BatchLoss(total / jnp.maximum(weight, 1), weight)
