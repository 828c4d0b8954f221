# SPDX-License-Identifier: Apache-2.0
"""What preference losses read and return: log-probabilities of completions.

A completion's log-probability is the sum over its tokens, EOS included. A
model reaches the losses through these arrays alone.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = ("PairLogps", "PairLoss", "sequence_logps")


class PairLogps(NamedTuple):
  """Log-probabilities, in nats, of the two completions of each pair.

  Attributes:
    policy_chosen: `[...]`, the policy's, of the preferred completion;
      differentiated.
    policy_rejected: `[...]`, of the other; differentiated.
    ref_chosen: `[...]`, the reference's; finite constants. Losses without a
      reference do not read it.
    ref_rejected: `[...]`, likewise.
    chosen_length: `[...]`, number of tokens of the preferred completion. Only
      losses of means over tokens read it.
    rejected_length: `[...]`, likewise.
  """

  policy_chosen: jax.Array
  policy_rejected: jax.Array
  ref_chosen: jax.Array | None = None
  ref_rejected: jax.Array | None = None
  chosen_length: jax.Array | None = None
  rejected_length: jax.Array | None = None


class PairLoss(NamedTuple):
  """A loss of pairs, and what it reports.

  Attributes:
    loss: `[...]`, to be minimised; the caller takes the mean.
    chosen_reward: `[...]`, implicit reward of the preferred completion,
      without gradient: `beta log(pi/ref)`, or what stands for it.
    rejected_reward: `[...]`, of the other.
  """

  loss: jax.Array
  chosen_reward: jax.Array
  rejected_reward: jax.Array


def read(name: str, logps: PairLogps, *needs: str) -> list[jax.Array]:
  """The policy's two arrays, then those named, all checked and as floats.

  All of them `[...]`. What is not the policy's is a constant.
  """
  names = ("policy_chosen", "policy_rejected", *needs)
  arrays = {n: getattr(logps, n) for n in names}
  missing = [n for n, x in arrays.items() if x is None]
  if missing:
    raise ValueError(f"{name} needs {', '.join(missing)} of PairLogps")
  checks.check_same_shape(**arrays)
  checks.check_float(**{n: x for n, x in arrays.items() if "length" not in n})
  dtype = numerics.as_float(arrays["policy_chosen"]).dtype
  return [
    numerics.as_float(x)
    if n.startswith("policy")
    else jax.lax.stop_gradient(jnp.asarray(x, dtype))
    for n, x in arrays.items()
  ]


def log_ratios(name: str, logps: PairLogps) -> tuple[jax.Array, jax.Array]:
  """`log(pi/ref)` of chosen and rejected, `[...]` each."""
  chosen, rejected, ref_chosen, ref_rejected = read(
    name, logps, "ref_chosen", "ref_rejected"
  )
  return chosen - ref_chosen, rejected - ref_rejected


def output(
  loss: jax.Array, chosen_reward: jax.Array, rejected_reward: jax.Array
) -> PairLoss:
  """`PairLoss` whose rewards, `[...]` like the loss, carry no gradient."""
  rewards = jax.lax.stop_gradient((chosen_reward, rejected_reward))
  return PairLoss(loss, *rewards)


def per_token(
  name: str, logps: PairLogps
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Mean log-probabilities of a token, `[...]`, and which pairs have tokens.

  A pair with an empty completion has means 0 and False: it has no loss.
  """
  chosen, rejected, *lengths = read(
    name, logps, "chosen_length", "rejected_length"
  )
  valid = (lengths[0] > 0) & (lengths[1] > 0)
  chosen, rejected = (
    jnp.where(valid, x / jnp.maximum(length, 1), 0)
    for x, length in zip((chosen, rejected), lengths, strict=True)
  )
  return chosen, rejected, valid


def sequence_logps(
  logits: jax.Array, tokens: jax.Array, *, where: jax.Array
) -> jax.Array:
  """Log-probabilities of completions from dense logits.

  `sum_t log softmax(logits_t)[token_t]` over selected positions. Logits stand
  at the token that they predict: shift them by one before.

  Args:
    logits: `[..., T, V]`.
    tokens: int `[..., T]`.
    where: bool `[..., T]`, tokens of the completion; anything may stand
      elsewhere.

  Returns:
    `[...]`, nats; 0 for an empty completion.

  Raises:
    AssertionError: shapes do not fit, or logits are not floating point.

  >>> tokens, where = jnp.array([0, 1]), jnp.array([True, True])
  >>> print(f"{sequence_logps(jnp.zeros((2, 2)), tokens, where=where):.4f}")
  -1.3863

  Reference:
    Direct Preference Optimization (2305.18290), equation 4.
  """
  checks.check_same_shape(positions=logits[..., 0], tokens=tokens, where=where)
  checks.check_float(logits=logits)
  logits = numerics.as_float(jnp.where(where[..., None], logits, 0))
  ids = jnp.where(where, tokens, 0)[..., None]
  picked = jnp.take_along_axis(logits, ids, -1)[..., 0]
  logp = picked - jax.nn.logsumexp(logits, -1)
  return numerics.masked_sum(logp, where, -1)
