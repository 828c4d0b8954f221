# SPDX-License-Identifier: Apache-2.0
"""From hidden states to log-probabilities of tokens, without all the logits.

Logits of M tokens take `4 M V` bytes, and their gradient as much again. Here a
few exist at once, and are computed again for the gradient. Nothing is
approximated, and losses see log-probabilities alone.

Values need whole rows: a few tokens at a time. Gradients need the rows' sums
alone, which are kept: they take all tokens and a few outcomes at a time, so
that each part of the head's gradient, the largest array, is written once.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, divergences, numerics
from jaxalign.models import chunks

__all__ = ("TokenLogprobs", "chunked_divergence", "token_logprobs")

# Logits of a chunk: 32 MiB in float32, which caches of processors still help
# with; 1 GiB where reading the head again for each chunk is what costs.
_CPU_LOGITS, _ACCELERATOR_LOGITS = 2**23, 2**28
_LOW = -1e30  # instead of -inf: times a probability of 0 it is 0


class TokenLogprobs(NamedTuple):
  """What `token_logprobs` returns, in nats; 0 where masked.

  Attributes:
    logps: `[..., T]`, log-probability of each token.
    entropy: `[..., T]`, of the distribution that the token was drawn from;
      `None` unless asked for.
    logsumexp: `[..., T]`, logarithm of that distribution's normaliser; `None`
      unless asked for.
  """

  logps: jax.Array
  entropy: jax.Array | None
  logsumexp: jax.Array | None


# --- log-probabilities -------------------------------------------------------


def _label_logits(logits: jax.Array, ids: jax.Array) -> jax.Array:
  """The logit of each id; NaN outside `[0, V)`, where -1 must not be V - 1."""
  ids = jnp.where(ids < 0, logits.shape[-1], ids)
  return jnp.take_along_axis(logits, ids[:, None], -1, mode="fill")[:, 0]


def _values(
  options: chunks.Options, hidden: jax.Array, head: chunks.Head, ids: jax.Array
) -> TokenLogprobs:
  def of_chunk(hidden, ids):
    logits = chunks.logits(hidden, head, options)
    total = jax.nn.logsumexp(logits, -1)
    entropy = None
    if options.entropy:
      # A select would keep XLA from vectorising the sum.
      logps = jnp.maximum(logits - total[:, None], _LOW)
      entropy = -jnp.sum(jnp.exp(logps) * logps, -1)
    return TokenLogprobs(_label_logits(logits, ids) - total, entropy, total)

  return chunks.by_chunks(
    of_chunk, (hidden, ids), ids.shape, options.chunk_size
  )


def _forward(options, hidden, head, ids):
  out = _values(options, hidden, head, ids)
  return out, (hidden, head, ids, out)


def _slope_in_logits(out, slopes, ids, entropy: bool) -> Callable:
  """The gradient in a block of logits `[M, *]` of all tokens.

  With p the probabilities, H the entropy and a slope for each result:
  `s_logp (at the id) + (s_sum - s_logp) p - s_entropy p (log p + H)`.
  """
  # A removed token has no gradient, not that of its logit before removal.
  at_id = jnp.where(out.logps > -jnp.inf, slopes.logps, 0)
  of_all = slopes.logsumexp - at_id
  at_id, of_all, ids, total = (
    x.reshape(-1, 1) for x in (at_id, of_all, ids, out.logsumexp)
  )

  def slope(logits, outcomes):
    logps = logits - total
    p = jnp.exp(logps)
    value = of_all * p + jnp.where(outcomes == ids, at_id, 0)
    if entropy:
      excess = jnp.maximum(logps, _LOW) + out.entropy.reshape(-1, 1)
      value -= slopes.entropy.reshape(-1, 1) * p * excess
    return value

  return slope


def _backward(options, kept, slopes):
  hidden, head, ids, out = kept
  states = hidden.reshape(-1, hidden.shape[-1])
  # Transposed once, lest every product of the loop does: slow on a CPU.
  columns = jax.lax.optimization_barrier(states.T)
  blocks = chunks.cut(head.kernel.shape[1], ids.size, options.chunk_size)
  slope = _slope_in_logits(out, slopes, ids, options.entropy)

  def add(k, sums):
    block = jax.tree.map(lambda x: blocks.take(x, k), head)
    logits, pull = jax.vjp(
      lambda products, bias: chunks.finish(products, bias, options),
      chunks.products(states, block.kernel),
      block.bias,
    )
    of_logits = slope(logits, blocks.outcomes(k))
    if blocks.overlap:
      of_logits = jnp.where(blocks.new(k), of_logits, 0)
    of_products, in_bias = pull(of_logits)
    in_block = chunks.Head(chunks.products(columns, of_products), in_bias)
    return sums[0] + chunks.products(of_products, block.kernel.T), jax.tree.map(
      lambda x, block: blocks.add(x, block.astype(x.dtype), k),
      sums[1],
      in_block,
    )

  nothing = jnp.zeros_like(states, out.logps.dtype)
  sums = nothing, jax.tree.map(jnp.zeros_like, head)
  in_states, in_head = jax.lax.fori_loop(0, blocks.num, add, sums)
  return in_states.reshape(hidden.shape).astype(hidden.dtype), in_head, None


_differentiable = jax.custom_vjp(_values, nondiff_argnums=(0,))
_differentiable.defvjp(_forward, _backward)


def _alike(*trees):
  """Varying over the same devices, if under `shard_map`.

  Sums in loops need that; gradients of what did not vary are then added up.
  """
  # Constants are as varying as what they are like, and folded away.
  leaves = jax.tree.leaves(trees)
  never = functools.reduce(
    jnp.logical_or, [jnp.any(jnp.zeros_like(x, bool)) for x in leaves]
  )
  return jax.tree.map(lambda x: jnp.where(never, 0, x), trees)


# --- arguments ---------------------------------------------------------------


def _default_chunk_size(logits_of_token: int) -> int:
  on_cpu = jax.default_backend() == "cpu"
  logits = _CPU_LOGITS if on_cpu else _ACCELERATOR_LOGITS
  return max(1, logits // max(1, logits_of_token))


def _check(
  hidden: jax.Array,
  kernel: jax.Array,
  bias: jax.Array | None,
  suffix: str = "",
):
  names = [f"{name}{suffix}" for name in ("hidden", "head", "bias")]
  checks.check_float(**{names[0]: hidden, names[1]: kernel})
  checks.check_rank(2, **{names[1]: kernel})
  if hidden.ndim < 2 or hidden.shape[-1] != kernel.shape[0]:
    raise ValueError(
      f"{names[0]} [..., T, H] and {names[1]} [H, V] must share H: shapes were"
      f" {hidden.shape} and {kernel.shape}"
    )
  if bias is not None and bias.shape != kernel.shape[1:]:
    raise ValueError(
      f"{names[2]} must be [V] = {kernel.shape[1:]}, was {bias.shape}"
    )


def _check_options(
  chunk_size: int | None,
  temperature: float,
  soft_cap: float | None,
):
  if chunk_size is not None and chunk_size < 1:
    raise ValueError(f"chunk_size must be at least 1 or None, was {chunk_size}")
  if np.ndim(temperature):
    raise ValueError(
      f"temperature must be a number, had shape {np.shape(temperature)}"
    )
  checks.check_positive(temperature=temperature)
  if soft_cap is not None:
    checks.check_positive(soft_cap=soft_cap)


# --- for users ---------------------------------------------------------------


def token_logprobs(
  hidden: jax.Array,
  head: jax.Array,
  ids: jax.Array,
  *,
  chunk_size: int | None = None,
  mask: jax.Array | None = None,
  bias: jax.Array | None = None,
  temperature: float = 1.0,
  soft_cap: float | None = None,
  return_entropy: bool = False,
  return_logsumexp: bool = False,
) -> TokenLogprobs:
  """Log-probabilities of tokens, whose logits never exist all at once.

  `z = cap(hidden @ head + bias) / temperature`, `cap(x) = c tanh(x/c)`, then
  `logps = z[id] - log sum_v exp z[v]`. Products are summed in float32 or wider,
  whatever the types of the arguments; so are gradients of the head over chunks.
  Exact: the results and gradients of the dense formula, up to rounding.

  Args:
    hidden: `[..., T, H]`, floating point: the state that predicts each token.
      Nothing is shifted here.
    head: `[H, V]`, floating point; may be spread over devices along V.
    ids: `[..., T]`, integers in `[0, V)`; others give NaN.
    chunk_size: tokens, of all rows, whose logits exist at once, about `4 V`
      bytes each; gradients have half as many logits at once, of all tokens and
      a share of the outcomes, and their slopes. By default as many as have 2^23
      logits on a CPU and 2^28 elsewhere. With fewer than there are rows, rows
      are cut apart, which moves a batch that is spread over devices.
    mask: bool `[..., T]`, tokens that count; anything may stand elsewhere, NaN
      in `hidden` and -100 in `ids` too. All by default.
    bias: `[V]`; -inf removes an outcome, whatever the cap: its log-probability
      is -inf, with gradient 0.
    temperature: above 0; a number.
    soft_cap: c, above 0; no cap by default.
    return_entropy: whether to return the entropy.
    return_logsumexp: whether to return the logarithm of the normaliser.

  Returns:
    `TokenLogprobs`, float32 or wider.

  Raises:
    AssertionError: wrong rank, type, or shape of `ids` or `mask`.
    ValueError: an option outside its domain; `hidden`, `head` and `bias` do not
      fit each other.

  >>> hidden, head = jnp.ones((3, 2)), jnp.zeros((2, 4))
  >>> out = token_logprobs(hidden, head, jnp.array([0, 1, 3]), chunk_size=2)
  >>> print(out.logps)
  [-1.3862944 -1.3862944 -1.3862944]

  Reference:
    Cut Your Losses in Large-Vocabulary Language Models (2411.09009), for what
    the logits cost; soft cap: Gemma 2 (2408.00118), section 2.
  """
  _check(hidden, head, bias)
  _check_options(chunk_size, temperature, soft_cap)
  checks.check_same_shape(positions=hidden[..., 0], ids=ids)
  if mask is not None:
    checks.check_same_shape(ids=ids, mask=mask)
  if not jnp.issubdtype(ids.dtype, jnp.integer):
    raise ValueError(f"ids must be integers, were {ids.dtype}")
  options = chunks.Options(
    chunk_size or _default_chunk_size(head.shape[1]),
    float(temperature),
    soft_cap,
    return_entropy,
  )
  arrays = (
    chunks.select(mask, hidden),
    chunks.Head(head, bias),
    chunks.select(mask, ids),
  )
  out = _differentiable(options, *_alike(*arrays))
  out = jax.tree.map(functools.partial(chunks.select, mask), out)
  return out if return_logsumexp else out._replace(logsumexp=None)


def chunked_divergence(
  div: divergences.FDivergence,
  hidden_p: jax.Array,
  head_p: jax.Array,
  hidden_q: jax.Array,
  head_q: jax.Array,
  *,
  chunk_size: int | None = None,
  mask: jax.Array | None = None,
  bias_p: jax.Array | None = None,
  bias_q: jax.Array | None = None,
  temperature: float = 1.0,
  soft_cap: float | None = None,
) -> jax.Array:
  """Divergences of tokens over the vocabulary, without all the logits.

  `D_f(P_t || Q_t)` of each token, with the logits of `token_logprobs` for P and
  for Q.

  Args:
    div: the generator, from `divergences.f_divergence`.
    hidden_p: `[..., T, H]`, floating point.
    head_p: `[H, V]`, floating point.
    hidden_q: `[..., T, K]`, floating point; another width is allowed.
    head_q: `[K, V]`, floating point.
    chunk_size: tokens whose logits exist at once, as in `token_logprobs`; by
      default half as many as there.
    mask: bool `[..., T]`, tokens that count; anything may stand elsewhere.
    bias_p: `[V]`; -inf removes an outcome from P.
    bias_q: `[V]`; -inf removes an outcome from Q.
    temperature: above 0; of both.
    soft_cap: above 0; of both, and none by default.

  Returns:
    `[..., T]`, nats, float32 or wider; 0 where masked. A model that is held
    constant belongs under `jax.lax.stop_gradient`.

  Raises:
    AssertionError: wrong rank, type, or shape of `mask`.
    ValueError: an option outside its domain; arrays do not fit each other.

  >>> div = divergences.f_divergence("kl")
  >>> p, q = jnp.zeros((1, 2)), jnp.log(jnp.array([[.25, .75]]))
  >>> one = jnp.ones((1, 1))
  >>> print(f"{chunked_divergence(div, one, p, one, q)[0]:.4f}")
  0.1438

  Reference:
    Csiszar (1967); GKD (2306.13649), section 3, for divergences of tokens.
  """
  _check(hidden_p, head_p, bias_p, "_p")
  _check(hidden_q, head_q, bias_q, "_q")
  _check_options(chunk_size, temperature, soft_cap)
  checks.check_same_shape(
    positions_p=hidden_p[..., 0], positions_q=hidden_q[..., 0]
  )
  checks.check_same_shape(outcomes_p=head_p[0], outcomes_q=head_q[0])
  if mask is not None:
    checks.check_same_shape(positions=hidden_p[..., 0], mask=mask)
  options = chunks.Options(
    chunk_size or _default_chunk_size(2 * head_p.shape[1]),
    float(temperature),
    soft_cap,
  )
  # Wide, as gradients of chunks are added up in the type that is closed over.
  heads = chunks.Head(head_p, bias_p), chunks.Head(head_q, bias_q)
  wide = jax.tree.map(numerics.as_float, heads)

  @functools.partial(jax.checkpoint, prevent_cse=False)  # which a scan does
  def of_chunk(hidden_p, hidden_q, mask):
    p, q = (
      chunks.logits(
        chunks.select(mask, hidden),
        head._replace(kernel=head.kernel.astype(dtype)),
        options,
      )
      for hidden, head, dtype in zip(
        (hidden_p, hidden_q), wide, (head_p.dtype, head_q.dtype), strict=True
      )
    )
    return chunks.select(mask, divergences.categorical_f_divergence(div, p, q))

  return chunks.by_chunks(
    of_chunk,
    (hidden_p, hidden_q, mask),
    hidden_p.shape[:-1],
    options.chunk_size,
  )
