# SPDX-License-Identifier: Apache-2.0
"""Where fine-tuning has changed a policy, and whether that is what matters.

At every prefix two policies have two laws of the next token. Cross-sampling
takes the token from the one policy where the laws diverge and from the other
elsewhere: a few tokens of a fine-tuned policy in the base policy's sequences
show which decisions its reward rests on. The same divergences can weigh the
advantages of single tokens in training.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.divergences import categorical

__all__ = (
  "CrossSample",
  "cross_sample_log_probs",
  "divergence_weights",
  "token_divergence",
)


class CrossSample(NamedTuple):
  """The next token's law under cross-sampling.

  Attributes:
    log_probs: `[..., V]`, log-probabilities.
    replaced: bool `[...]`, whether they are the intervention's.
  """

  log_probs: jax.Array
  replaced: jax.Array


def _nucleus(log_probs: jax.Array, top_p: float) -> jax.Array:
  """The fewest likeliest outcomes whose mass reaches top_p, bool `[..., V]`."""
  order = jnp.argsort(log_probs, -1, descending=True)
  probs = jnp.exp(jnp.take_along_axis(log_probs, order, -1))
  kept = jnp.cumsum(probs, -1) - probs < top_p  # the mass before each one
  back = jnp.argsort(order, -1)
  return jnp.take_along_axis(kept, back, -1)


def token_divergence(
  p_logits: jax.Array, q_logits: jax.Array, *, top_p: float | None = None
) -> jax.Array:
  """How far two policies differ about the next token: Jensen-Shannon.

  `JS(p||q) = KL(p||m)/2 + KL(q||m)/2`, `m = (p + q)/2`. The paper truncates by
  top-p; how exactly is not confirmed. Here each law keeps the fewest likeliest
  tokens whose mass reaches top_p, and is normalised again.

  Args:
    p_logits: `[..., V]`; -inf for tokens without mass.
    q_logits: `[..., V]`.
    top_p: in (0, 1]; no truncation by default.

  Returns:
    `[...]`, nats, in [0, log 2].

  Raises:
    AssertionError: shapes differ, or the logits are not floating point.
    ValueError: top_p outside (0, 1].

  >>> p, q = jnp.log(jnp.array([[.9, .1], [.6, .4]]))
  >>> print(f"{token_divergence(p, q):.4f}")
  0.0633
  >>> print(f"{token_divergence(p, q, top_p=.5):.4f}")
  0.0000

  Reference:
    Sparse but Critical (2603.22446), section 2.
  """
  checks.check_same_shape(p_logits=p_logits, q_logits=q_logits)
  checks.check_float(p_logits=p_logits, q_logits=q_logits)
  if top_p is not None:
    if not 0 < top_p <= 1:
      raise ValueError(f"top_p must be in (0, 1], was {top_p}")
    laws = map(numerics.masked_log_softmax, (p_logits, q_logits))
    p_logits, q_logits = (
      jnp.where(_nucleus(law, top_p), law, -jnp.inf) for law in laws
    )
  value = categorical.jensen_shannon(p_logits, q_logits)
  # Rounding must not lift disjoint laws over the bound, a usual threshold.
  return jnp.minimum(value, math.log(2))


def cross_sample_log_probs(
  primary_logits: jax.Array,
  intervention_logits: jax.Array,
  eps: float | jax.Array,
  *,
  top_p: float | None = None,
) -> CrossSample:
  """The next token's law: the intervention's where the policies diverge.

  The intervention's where `JS > eps`, else the primary's. With the base policy
  primary the swap is forward, with the fine-tuned one backward. `eps >= log 2`
  gives the primary, `eps < 0` the intervention.

  Args:
    primary_logits: `[..., V]`.
    intervention_logits: `[..., V]`.
    eps: scalar, nats.
    top_p: of `token_divergence`; the laws themselves are not truncated.

  Returns:
    `CrossSample`.

  Raises:
    AssertionError: shapes differ, or the logits are not floating point.
    ValueError: top_p outside (0, 1].

  >>> base = jnp.log(jnp.array([[.5, .5], [.5, .5]]))
  >>> tuned = jnp.log(jnp.array([[.6, .4], [1., 0.]]))
  >>> found = cross_sample_log_probs(base, tuned, .1)
  >>> print(jnp.exp(found.log_probs), found.replaced)
  [[0.5 0.5]
   [1.  0. ]] [False  True]

  Reference:
    Sparse but Critical (2603.22446), cross-sampling.
  """
  divergence = token_divergence(
    primary_logits, intervention_logits, top_p=top_p
  )
  replaced = divergence > eps
  log_probs = jnp.where(
    replaced[..., None],
    numerics.masked_log_softmax(intervention_logits),
    numerics.masked_log_softmax(primary_logits),
  )
  return CrossSample(log_probs, replaced)


def divergence_weights(
  kl: jax.Array, alpha: float | jax.Array, s: float | jax.Array
) -> jax.Array:
  """Weights of token advantages by how far the policy has moved there.

  `w = 1 + s (sigmoid(alpha KL) - 1/2)`, in `1 -+ |s|/2`. Positive alpha lifts
  tokens of high divergence and negative alpha those of low; changing the sign
  of s is the same. The form is known from summaries of the paper; which
  estimate of the divergence it uses is not confirmed.

  Args:
    kl: `[...]`, KL(old||current) at each token, or an estimate of it, nats. Its
      gradient is stopped.
    alpha: scalar.
    s: scalar; 0 leaves the advantages as they are.

  Returns:
    `[...]`, to be multiplied with the advantages.

  Raises:
    AssertionError: kl is not floating point.

  >>> print(divergence_weights(jnp.array([0., jnp.inf]), 1., .5))
  [1.   1.25]

  Reference:
    Sparse but Critical (2603.22446), divergence-weighted advantages.
  """
  checks.check_float(kl=kl)
  kl = jax.lax.stop_gradient(numerics.as_float(kl))
  return 1 + s * (jax.nn.sigmoid(alpha * kl) - 0.5)
