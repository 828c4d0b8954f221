# SPDX-License-Identifier: Apache-2.0
"""Estimates of the sequence KL on autoregressive tables, by enumeration.

Of values their bias and variance; of surrogates the expected gradient, its
error and its variance from sequence to sequence.
"""

import jax
import jax.numpy as jnp

from experiments.stages.kl_estimators import comparison
from experiments.stages.kl_estimators.kinds import estimates
from jaxalign.divergences import categorical, kl_estimators
from jaxalign.exact import sequences

VALUES = ("k1", "k3", "Rao-Blackwell", "k3, sequence ratio")
UNBIASED = ("k2 of the sequence", "reward to go", "Rao-Blackwell")
TRUNCATED = ("sum of KL_t", "sum of k2_t", "sum of sg(lr_t) log pi_t", "w k3_t")
SURROGATES = (*UNBIASED, *TRUNCATED, "sum of k3_t")


def estimates_of_sequences(
  table: jax.Array, ref: jax.Array, ids: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Surrogates `[8, N]` and values `[4, N]` for every sequence, as named."""
  logp = sequences.token_log_probs(table, ids)
  ref_logp = sequences.token_log_probs(ref, ids)
  policy_rows = sequences.conditional_log_probs(table, ids)
  ref_rows = sequences.conditional_log_probs(ref, ids)
  rao_blackwell = kl_estimators.rao_blackwell_kl(policy_rows, ref_rows, ids)
  ratio = logp - ref_logp
  k1, k2, k3 = (k.sum(-1) for k in estimates(ratio))
  surrogates = (
    kl_estimators.sequence_kl_k2_surrogate(logp, ref_logp),
    kl_estimators.sequence_kl_to_go_surrogate(logp, ref_logp),
    rao_blackwell.surrogate,
    categorical.kl(policy_rows, ref_rows).sum(-1),
    k2,
    jnp.sum(jax.lax.stop_gradient(ratio) * logp, -1),
    kl_estimators.kl_penalty_loss(logp, ref_logp).sum(-1),
    k3,
  )
  of_sequence = kl_estimators.kl_estimate(ratio.sum(-1), kind="k3")
  values = (k1, k3, rao_blackwell.value, of_sequence)
  return jnp.stack(surrogates), jnp.stack(values)


def sequence_kl(table: jax.Array, ref: jax.Array, ids: jax.Array) -> jax.Array:
  """KL between the laws of whole sequences, by enumeration."""
  return categorical.kl(
    sequences.sequence_log_probs(table, ids),
    sequences.sequence_log_probs(ref, ids),
  )


def prefix_score(table: jax.Array, ref: jax.Array, ids: jax.Array) -> jax.Array:
  """Gradient through the law of the prefixes alone, every `KL_t` held fixed."""
  token_kl = categorical.kl(
    sequences.conditional_log_probs(table, ids),
    sequences.conditional_log_probs(ref, ids),
  ).sum(-1)
  fixed = jax.lax.stop_gradient(token_kl)
  return jax.grad(lambda x: sequences.expectation(x, fixed))(table)


@jax.jit(static_argnames=("vocab", "length"))
def enumerate_tables(keys: jax.Array, *, vocab: int, length: int) -> dict:
  """Everything about estimators on random tables, leading axis `len(keys)`.

  Returns:
    "kl" of the sequences; "bias" `[4]`, over the KL, and "variance" `[4]` of
    `VALUES`; of `SURROGATES` "error" and "cosine" `[8]` of the expected
    gradient and its "noise" `[8]`, the variance; "disagreement" `[4]` among
    `TRUNCATED`; and "left_out", the score of the prefix. Errors are relative.
  """
  ids = sequences.enumerate_sequences(vocab, length)
  errors = jax.vmap(comparison.relative_error, (0, None, None))
  cosines = jax.vmap(comparison.cosine, (0, None))

  def one(key):
    policy_key, ref_key = jax.random.split(key)
    policy = sequences.random_table(policy_key, vocab, length)
    ref = sequences.random_table(ref_key, vocab, length)

    def mean(x):
      return sequences.expectation(policy, x.T).T

    kl, exact = jax.value_and_grad(sequence_kl)(policy, ref, ids)
    per_sample, value = jax.jacrev(estimates_of_sequences, has_aux=True)(
      policy, ref, ids
    )
    per_sample = per_sample.reshape(*per_sample.shape[:2], -1)
    gradient = jax.vmap(lambda x: sequences.expectation(policy, x))(per_sample)
    truncated = gradient[len(UNBIASED) : -1]
    flat = jnp.ravel(exact)
    return {
      "kl": kl,
      "bias": (mean(value) - kl) / kl,
      "variance": mean((value - mean(value)[:, None]) ** 2),
      "error": errors(gradient, flat, flat),
      "cosine": cosines(gradient, flat),
      "noise": mean(jnp.sum((per_sample - gradient[:, None]) ** 2, -1)),
      "disagreement": errors(truncated, truncated[0], flat),
      "left_out": comparison.relative_error(
        prefix_score(policy, ref, ids), 0, exact
      ),
    }

  return jax.lax.map(one, keys, batch_size=50)
