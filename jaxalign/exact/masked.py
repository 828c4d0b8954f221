# SPDX-License-Identifier: Apache-2.0
"""Masked diffusion over sequences short enough to visit every masking.

A denoiser predicts each masked token from the visible ones. What it says about
one sequence x of L tokens is an array `log_probs [..., 2**L, L]`: entry (S, l)
is `log p(x_l | x_S)`, where bit i of the row number S says that position i is
visible. Entries with l in S are not read; `subset_log_probs` puts 0 there.
From it follow the likelihood of every sampler and all their bounds, by sums
over sets; a leading axis may hold all sequences, as `enumerate_sequences` lists
them, which makes expectations exact as well.

In a tabular world the denoiser is an array `[(V + 1)**L, L, V]` of logits, one
row for each partly masked sequence z, with V for a mask and position l in
place `(V + 1)**l`; it can represent any denoiser.
"""

import itertools
import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics
from jaxalign.diffusion import samplers
from jaxalign.exact import sequences

__all__ = (
  "any_order_elbo",
  "any_order_log_prob",
  "masked_eubo",
  "order_log_probs",
  "random_denoiser",
  "self_distill",
  "subset_log_probs",
  "t_step_elbo",
  "t_step_log_prob",
  "table_denoiser",
  "visible_sets",
)


def _check_size(count: int, what: str) -> None:
  if count > sequences.MAX_SIZE:
    raise ValueError(f"{count} {what}: the limit is {sequences.MAX_SIZE}")


def visible_sets(length: int) -> np.ndarray:
  """All sets of visible positions, by the bits of their number.

  Args:
    length: L, at least 1.

  Returns:
    bool `[2**L, L]`.

  Raises:
    ValueError: L below 1, or more sets than `MAX_SIZE`.

  >>> visible_sets(2).astype(int).tolist()
  [[0, 0], [1, 0], [0, 1], [1, 1]]

  Reference:
    The binary numbers.
  """
  if length < 1:
    raise ValueError(f"length must be at least 1, was {length}")
  _check_size(2**length, f"sets of {length} positions")
  return (np.arange(2**length)[:, None] >> np.arange(length) & 1).astype(bool)


def _length(log_probs: jax.Array) -> int:
  """L, from an array `[..., 2**L, L]`; checks it."""
  checks.check_float(log_probs=log_probs)
  length = log_probs.shape[-1]
  if log_probs.ndim < 2 or log_probs.shape[-2] != 2**length:
    raise ValueError(f"log_probs must be [..., 2**L, L], was {log_probs.shape}")
  return length


def _hidden(log_probs: jax.Array) -> jax.Array:
  """What is predicted, of a type to sum in; 0 where a token is visible."""
  visible = visible_sets(_length(log_probs))
  return jnp.where(visible, 0, numerics.as_float(log_probs))


# --- from a denoiser ---------------------------------------------------------


def subset_log_probs(
  denoiser: Callable[[jax.Array], jax.Array],
  tokens: jax.Array,
  *,
  mask_id: int,
) -> jax.Array:
  """What a denoiser predicts of sequences from every part of them.

  `log p(x_l | x_S)` for all S and l.

  Args:
    denoiser: maps int `[..., L]`, with `mask_id` for masks, to logits
      `[..., L, V]`.
    tokens: integers `[..., L]` in `[0, V)`.
    mask_id: the number of the mask, at least V.

  Returns:
    `[..., 2**L, L]`, nats; 0 where l is in S.

  Raises:
    ValueError: L is too long to enumerate, or the mask is a token.

  >>> fair = lambda z: jnp.zeros((*z.shape, 2))
  >>> print(jnp.exp(subset_log_probs(fair, jnp.array([0, 1]), mask_id=2)))
  [[0.5 0.5]
   [1.  0.5]
   [0.5 1. ]
   [1.  1. ]]

  Reference:
    RADD (2406.03736), section 3.
  """
  chex.assert_type(tokens, int)
  visible = visible_sets(tokens.shape[-1])
  x = tokens[..., None, :]
  logits = numerics.as_float(denoiser(jnp.where(visible, x, mask_id)))
  if logits.shape[-1] > mask_id:
    raise ValueError(
      f"mask_id must be outside the vocabulary of {logits.shape[-1]} tokens,"
      f" was {mask_id}"
    )
  log_probs = jax.nn.log_softmax(logits)
  x = jnp.broadcast_to(x[..., None], (*logits.shape[:-1], 1))
  return jnp.where(visible, 0, jnp.take_along_axis(log_probs, x, -1)[..., 0])


def random_denoiser(key: jax.Array, vocab_size: int, length: int) -> jax.Array:
  """A tabular denoiser with independent standard normal logits.

  Args:
    key: a typed key.
    vocab_size: V, at least 1.
    length: L, at least 1.

  Returns:
    `[(V + 1)**L, L, V]`. Multiply to take it further from any one law, whose
    conditionals would agree with each other.

  Raises:
    ValueError: V or L is below 1, or the table has too many rows.

  >>> random_denoiser(jax.random.key(0), vocab_size=3, length=3).shape
  (64, 3, 3)

  Reference:
    The project's own.
  """
  rows = len(sequences.enumerate_sequences(vocab_size + 1, length))
  return jax.random.normal(key, (rows, length, vocab_size))


def table_denoiser(table: jax.Array) -> Callable[[jax.Array], jax.Array]:
  """The denoiser of a table.

  Args:
    table: `[(V + 1)**L, L, V]`.

  Returns:
    A function of int `[..., L]`, with V for masks, to logits `[..., L, V]`.

  Raises:
    AssertionError: not of this shape.

  >>> denoiser = table_denoiser(jnp.zeros((9, 2, 2)))
  >>> denoiser(jnp.array([2, 0])).shape
  (2, 2)

  Reference:
    A table look-up.
  """
  checks.check_rank(3, table=table)
  length, vocab_size = table.shape[1:]
  chex.assert_shape(table, ((vocab_size + 1) ** length, length, vocab_size))
  place = (vocab_size + 1) ** np.arange(length)
  return lambda z: table[jnp.sum(z * place, -1)]


# --- any order ---------------------------------------------------------------


def any_order_log_prob(log_probs: jax.Array) -> jax.Array:
  """The likelihood of revealing one token at a time in a random order.

  `pi(x) = E_order prod_i p(x_o(i) | x_o(<i))`, by a recursion over visible sets
  `f(S) = logsumexp_{l in S} f(S - l) + log p(x_l | x_{S-l}) - log(L - |S| + 1)`
  from `f({}) = 0` to the full set.

  Args:
    log_probs: `[..., 2**L, L]`, from `subset_log_probs`.

  Returns:
    `[...]`, nats.

  Raises:
    ValueError: not of this shape.

  >>> print(f"{jnp.exp(any_order_log_prob(jnp.log(jnp.full((4, 2), .5)))):.4f}")
  0.2500

  Reference:
    RADD (2406.03736), section 4; the recursion is the project's own.
  """
  length = _length(log_probs)
  log_probs = numerics.as_float(log_probs)
  flat = log_probs.reshape(*log_probs.shape[:-2], -1)
  visible = visible_sets(length)
  rank = np.zeros(2**length, int)  # of a set among those of its size
  reached = jnp.zeros((*log_probs.shape[:-2], 1), log_probs.dtype)
  for size in range(1, length + 1):
    sets = np.flatnonzero(visible.sum(-1) == size)
    last = np.nonzero(visible[sets])[1].reshape(-1, size)
    before = sets[:, None] ^ (1 << last)
    ways = reached[..., rank[before]] + flat[..., before * length + last]
    log_choices = math.log(length - size + 1)
    reached = numerics.masked_logsumexp(ways, jnp.bool_(True), -1) - log_choices
    rank[sets] = np.arange(len(sets))
  return reached[..., 0]


def any_order_elbo(log_probs: jax.Array) -> jax.Array:
  """The bound that masked diffusion trains, for any schedule.

  `E_order sum_i log p(x_o(i) | x_o(<i))`, which is the sum over non-empty sets
  M of masks of `sum_{l in M} log p(x_l | x_{not M}) / (|M| C(L, |M|))`.

  Args:
    log_probs: `[..., 2**L, L]`, from `subset_log_probs`.

  Returns:
    `[...]`, nats; at most `any_order_log_prob`.

  Raises:
    ValueError: not of this shape.

  >>> print(f"{any_order_elbo(jnp.log(jnp.full((4, 2), .5))):.4f}")  # 2 log 1/2
  -1.3863

  Reference:
    MDLM (2406.07524), section 3; RADD (2406.03736), section 4.
  """
  hidden = _hidden(log_probs)
  weights = _mask_weights(hidden.shape[-1])
  return jnp.sum(jnp.asarray(weights, hidden.dtype)[:, None] * hidden, (-2, -1))


def _mask_weights(length: int) -> np.ndarray:
  """`1 / (|M| C(L, |M|))` by visible set `[2**L]`, and 0 where all is."""
  masked = length - visible_sets(length).sum(-1)
  return np.array([1 / (m * math.comb(length, m)) if m else 0 for m in masked])


def order_log_probs(log_probs: jax.Array) -> jax.Array:
  """The log-likelihood of a sequence along every order of revealing it.

  `sum_i log p(x_o(i) | x_o(<i))`; their normalised exponentials are the
  posterior over orders, whose divergence from uniform is the gap of the bound:
  `log pi - ELBO = KL(Unif || p(order | x))`.

  Args:
    log_probs: `[..., 2**L, L]`, from `subset_log_probs`.

  Returns:
    `[..., L!]`, nats, in the order of `itertools.permutations`.

  Raises:
    ValueError: not of this shape, or too many orders.

  >>> order_log_probs(jnp.zeros((8, 3))).shape
  (6,)

  Reference:
    DiPOD (2606.13795), the gap as a divergence of reverse paths.
  """
  length = _length(log_probs)
  _check_size(math.factorial(length), f"orders of {length} positions")
  orders = np.array(list(itertools.permutations(range(length))))
  before = np.cumsum(1 << orders, -1) - (1 << orders)
  return jnp.sum(numerics.as_float(log_probs)[..., before, orders], -1)


def masked_eubo(log_probs: jax.Array, *, power: float) -> jax.Array:
  """The upper surrogate of the likelihood, exactly.

  `(1/b) sum_l log sum_{M containing l} p(x_l | x_{not M})^b / (|M| C(L, |M|))`.
  It rises with b, and is at least `log pi` where `b >= L`; for smaller b it may
  lie below.

  Args:
    log_probs: `[..., 2**L, L]`, from `subset_log_probs`.
    power: b, at least 1.

  Returns:
    `[...]`, nats.

  Raises:
    ValueError: b below 1, or not of this shape.

  >>> certain = jnp.zeros((4, 2))
  >>> print(f"{masked_eubo(certain, power=2.):.4f}")
  0.0000

  Reference:
    SPG (2510.09541), its upper bound without the constant of the schedule.
  """
  if not power >= 1:
    raise ValueError(f"power must be at least 1, was {power}")
  hidden = _hidden(log_probs)
  length = hidden.shape[-1]
  with np.errstate(divide="ignore"):
    log_weights = jnp.asarray(np.log(_mask_weights(length)), hidden.dtype)
  terms = power * hidden + log_weights[:, None]
  masked = jnp.asarray(~visible_sets(length))
  return jnp.sum(numerics.masked_logsumexp(terms, masked, -2), -1) / power


# --- T steps -----------------------------------------------------------------


def t_step_log_prob(log_probs: jax.Array, alphas: jax.Array) -> jax.Array:
  """The likelihood of ancestral sampling in T steps.

  In the step from t to s every masked position is revealed with probability
  `r = (alpha_s - alpha_t) / (1 - alpha_t)`, independently of the others and all
  given what was visible before; summed over all paths of sets.

  Args:
    log_probs: `[..., 2**L, L]`, from `subset_log_probs`.
    alphas: `[T + 1]`, share of visible tokens at times `0, 1/T, ..., 1`: from 1
      down to 0.

  Returns:
    `[...]`, nats.

  Raises:
    ValueError: not of this shape, or too many pairs of sets.

  >>> alone = jnp.log(jnp.full((4, 2), .5))
  >>> print(f"{jnp.exp(t_step_log_prob(alone, jnp.array([1., 0.]))):.4f}")
  0.2500

  Reference:
    MDLM (2406.07524), section 3.2.
  """
  share = samplers.ancestral_probs(alphas)
  hidden = _hidden(log_probs)
  length = hidden.shape[-1]
  _check_size(4**length, f"pairs of sets of {length} positions")
  visible = visible_sets(length)
  grows = jnp.asarray(np.all(visible[:, None] <= visible, -1))
  new = visible & ~visible[:, None]  # [before, after, L]
  num_new, num_left = new.sum(-1), (~visible).sum(-1)
  log_new = jnp.einsum("...bl,bal->...ba", hidden, new.astype(hidden.dtype))

  def step(reached, r):
    log_chance = numerics.xlogy(jnp.asarray(num_new, r.dtype), r)
    log_chance += numerics.xlogy(jnp.asarray(num_left, r.dtype), 1 - r)
    paths = reached[..., None] + log_new + log_chance
    return numerics.masked_logsumexp(paths, grows, -2), None

  start = jnp.where(np.arange(2**length) == 0, 0, -jnp.inf)
  start = jnp.broadcast_to(start, hidden.shape[:-1]).astype(hidden.dtype)
  return jax.lax.scan(step, start, share[::-1])[0][..., -1]


def t_step_elbo(log_probs: jax.Array, alphas: jax.Array) -> jax.Array:
  """The bound on the likelihood of T steps.

  `sum_i (alpha_s - alpha_t) / (1 - alpha_t) E_{q_t} sum_{masked} log p`; tends
  to `any_order_elbo` as the steps become small.

  Args:
    log_probs: `[..., 2**L, L]`, from `subset_log_probs`.
    alphas: `[T + 1]`, share of visible tokens at times `0, 1/T, ..., 1`: from 1
      down to 0.

  Returns:
    `[...]`, nats; at most `t_step_log_prob`, and equal to it for one step.

  Raises:
    ValueError: not of this shape.

  >>> alone = jnp.log(jnp.full((4, 2), .5))
  >>> print(f"{t_step_elbo(alone, jnp.array([1., .5, 0.])):.4f}")
  -1.3863

  Reference:
    MDLM (2406.07524), equation 8.
  """
  share = samplers.ancestral_probs(alphas)
  hidden = _hidden(log_probs)
  num_visible = visible_sets(hidden.shape[-1]).sum(-1)
  num_masked = hidden.shape[-1] - num_visible
  before = numerics.as_float(alphas)[1:, None]
  chance = before**num_visible * (1 - before) ** num_masked
  weights = share[:, None] * chance
  return jnp.sum(jnp.sum(weights, 0)[:, None] * hidden, (-2, -1))


# --- a table that is tight ---------------------------------------------------


def self_distill(table: jax.Array) -> jax.Array:
  """The denoiser whose bound is tight, for the same law of samples.

  Every conditional becomes that of the law pi of the any-order sampler:
  `theta[z, l, v] = log sum_{x agrees with z, x_l = v} pi(x)`. It maximises
  `E_pi[ELBO]`, and pi remains what it was.

  Args:
    table: `[(V + 1)**L, L, V]`.

  Returns:
    `[(V + 1)**L, L, V]`; 0 where z has no probability or l is visible.

  Raises:
    AssertionError: not of this shape.
    ValueError: too many sequences or sets.

  >>> table = random_denoiser(jax.random.key(0), vocab_size=2, length=2)
  >>> tight = self_distill(table)
  >>> x = sequences.enumerate_sequences(2, 2)
  >>> log_probs = subset_log_probs(table_denoiser(tight), x, mask_id=2)
  >>> gap = any_order_log_prob(log_probs) - any_order_elbo(log_probs)
  >>> bool(jnp.all(jnp.abs(gap) < 1e-6))
  True

  Reference:
    DiPOD (2606.13795), self-distillation.
  """
  denoiser = table_denoiser(table)
  length, vocab_size = table.shape[1:]
  _check_size(vocab_size**length * len(table), "sequences by maskings")
  x = sequences.enumerate_sequences(vocab_size, length)
  log_probs = subset_log_probs(denoiser, x, mask_id=vocab_size)
  log_pi = any_order_log_prob(log_probs)
  z = sequences.enumerate_sequences(vocab_size + 1, length)[:, ::-1]
  agrees = jnp.all((z[:, None] == vocab_size) | (z[:, None] == x), -1)
  is_token = x[:, :, None] == jnp.arange(vocab_size)
  members = agrees[:, None, None] & jnp.moveaxis(is_token, 0, -1)
  joint = numerics.masked_logsumexp(log_pi, members, -1)
  read = (z == vocab_size)[..., None] & jnp.any(
    joint > -jnp.inf, -1, keepdims=True
  )
  return jnp.where(read, joint, 0)
