# SPDX-License-Identifier: Apache-2.0
"""Which tokens Spectrum Tuning learns from.

A sequence shows draws from one distribution: `(description?, (input?,
output)*)`. Trained on the outputs alone, many such sequences make a model whose
next output has the posterior predictive distribution, given the outputs so far:
spread, rather than one best answer.
"""

import chex
import jax
import jax.numpy as jnp

from jaxalign import checks

__all__ = ("spectrum_mask",)

_SCORED = ("outputs", "first", "last", "all")


def spectrum_mask(
  outputs: jax.Array,
  has_description: jax.Array,
  *,
  where: jax.Array | None = None,
  scored: str = "outputs",
) -> jax.Array:
  """Tokens whose cross-entropy counts.

  Those of every output, its end token included; of the first one only where a
  description tells what to expect, else nothing could. Not those of
  descriptions, inputs, or what announces an output.

  Args:
    outputs: int `[..., T]`, to which output each token belongs, from 0 on in
      their order; -1 to none.
    has_description: bool `[...]`.
    where: bool `[..., T]`, tokens that exist; all by default.
    scored: `outputs`; or what ablations have instead: `first` or `last`, of
      those outputs one alone, or `all` tokens of whatever kind.

  Returns:
    bool `[..., T]`.

  Raises:
    AssertionError: shapes or types do not fit.
    ValueError: unknown `scored`.

  >>> outputs = jnp.array([-1, 0, 0, -1, 1, 1, 2, 2])
  >>> spectrum_mask(outputs, jnp.array(False)).astype(int)
  Array([0, 0, 0, 0, 1, 1, 1, 1], dtype=int32)
  >>> spectrum_mask(outputs, jnp.array(True), scored="last").astype(int)
  Array([0, 0, 0, 0, 0, 0, 1, 1], dtype=int32)

  Reference:
    Spectrum Tuning (2510.06084); ablations as in the released code.
  """
  checks.check_choice("scored", scored, _SCORED)
  where = jnp.ones(outputs.shape, bool) if where is None else where
  chex.assert_type([outputs, has_description, where], [int, bool, bool])
  checks.check_same_shape(outputs=outputs, where=where)
  checks.check_same_shape(has_description=has_description, rows=outputs[..., 0])
  if scored == "all":
    return where
  counts = where & (outputs >= jnp.where(has_description, 0, 1)[..., None])
  if scored == "first":
    absent = jnp.iinfo(outputs.dtype).max
    one = jnp.min(jnp.where(counts, outputs, absent), -1, keepdims=True)
  elif scored == "last":
    one = jnp.max(jnp.where(counts, outputs, -1), -1, keepdims=True)
  else:
    return counts
  return counts & (outputs == one)
