# SPDX-License-Identifier: Apache-2.0
"""Entropy of tokens: which of them to learn from, and a bonus to keep some.

The entropy of a sequence is the expectation of the sum of its tokens'
entropies. Differentiated at sampled tokens, that sum gives the gradient at the
prefixes which were visited; that other prefixes become likelier is left out.
"""

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = (
  "adaptive_entropy_coefficient",
  "entropy_bonus_loss",
  "token_entropy",
  "top_entropy_mask",
)


def token_entropy(logits: jax.Array) -> jax.Array:
  """The entropy of each next-token distribution.

  `H_t = -sum_v pi(v) log pi(v)`.

  Args:
    logits: `[..., V]`; -inf is a token of probability 0.

  Returns:
    `[...]`, nats.

  >>> print(f"{token_entropy(jnp.zeros(2)):.4f}")
  0.6931

  Reference:
    Shannon (1948).
  """
  return -jnp.sum(numerics.plogp(numerics.masked_log_softmax(logits)), -1)


def top_entropy_mask(
  entropy: jax.Array, *, where: jax.Array, share: float = 0.2
) -> jax.Array:
  """The tokens of highest entropy: where the policy is undecided.

  `H_t >= quantile(1 - share)` over the tokens of the whole batch. Losses keep
  the number of all tokens in their denominators: they shrink by about `share`.

  Args:
    entropy: `[...]`, nats; a constant.
    where: bool `[...]`, tokens to count.
    share: in (0, 1]; 1 keeps all.

  Returns:
    bool `[...]`, false where masked.

  Raises:
    AssertionError: shapes differ.
    ValueError: the share is outside (0, 1].

  >>> entropy, where = jnp.array([.1, .9, .5, 7.]), jnp.arange(4) < 3
  >>> print(top_entropy_mask(entropy, where=where, share=.5))
  [False  True  True False]

  Reference:
    Beyond the 80/20 Rule (2506.01939), equation 6.
  """
  if not 0 < share <= 1:
    raise ValueError(f"share must be in (0, 1], was {share}")
  checks.check_same_shape(entropy=entropy, where=where)
  entropy = jax.lax.stop_gradient(numerics.as_float(entropy))
  valid = jnp.where(where, entropy, jnp.nan)
  return where & (entropy >= jnp.nanquantile(valid, 1 - share))


def entropy_bonus_loss(
  entropy: jax.Array, *, where: jax.Array, coefficient: jax.typing.ArrayLike
) -> jax.Array:
  """The bonus for undecided tokens, as a term of the loss.

  `-c mean_t H_t`.

  Args:
    entropy: `[...]`, nats, differentiated.
    where: bool `[...]`, tokens to count.
    coefficient: c, scalar; may be traced.

  Returns:
    A scalar; 0 without tokens.

  Raises:
    AssertionError: shapes differ.

  >>> entropy, where = jnp.array([1., 3.]), jnp.ones(2, bool)
  >>> print(entropy_bonus_loss(entropy, where=where, coefficient=.5))
  -1.0

  Reference:
    Asynchronous Methods for Deep Reinforcement Learning (1602.01783).
  """
  checks.check_same_shape(entropy=entropy, where=where)
  mean = numerics.masked_mean(numerics.as_float(entropy), where)
  return -numerics.as_float(coefficient).astype(mean.dtype) * mean


def adaptive_entropy_coefficient(
  coefficient: jax.typing.ArrayLike,
  entropy: jax.typing.ArrayLike,
  *,
  target: float,
  step: float = 0.005,
  most: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """Moves the bonus's coefficient so that entropy stays near a target.

  `c <- clip(c + step, 0, most)` where `H <= target`, else
  `clip(c - step, 0, most)`; and c is applied only while `H <= target`.

  Args:
    coefficient: c, `[...]`.
    entropy: H, `[...]`, the mean entropy of tokens, nats.
    target: nats.
    step: above 0.
    most: the largest coefficient, above 0.

  Returns:
    The next coefficient `[...]`, and what to apply in this update `[...]`.

  Raises:
    ValueError: step or most is not positive.

  >>> print(*adaptive_entropy_coefficient(.25, .2, target=.5, step=.25))
  0.5 0.5
  >>> print(*adaptive_entropy_coefficient(.5, .7, target=.5, step=.25))
  0.25 0.0

  Reference:
    Skywork Open Reasoner 1 (2505.22312), section 4.
  """
  checks.check_positive(step=step, most=most)
  low = jnp.asarray(entropy) <= target
  moved = numerics.as_float(coefficient) + jnp.where(low, step, -step)
  after = jnp.clip(moved, 0, most)
  return after, jnp.where(low, after, 0)
