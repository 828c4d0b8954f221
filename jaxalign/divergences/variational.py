# SPDX-License-Identifier: Apache-2.0
"""Lower bounds on divergences from a critic's outputs on samples.

Critics are arrays `[..., n]`: one output per sample, samples last; the two
sides may have different numbers of samples. Expectations are means over the
samples that `where_p` and `where_q` keep. Bounds are to be maximised over the
critic. A row without samples on either side gives 0, the bound that holds
without looking.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.divergences import generators

__all__ = (
  "MovingBound",
  "donsker_varadhan",
  "donsker_varadhan_ema",
  "jensen_shannon_bound",
  "nwj",
  "variational_bound",
)

Mask = jax.Array | None


class _Critics(NamedTuple):
  """Outputs made safe where they are not kept, and what is kept."""

  p: jax.Array
  q: jax.Array
  keep_p: jax.Array
  keep_q: jax.Array


def _critics(
  critic_p: jax.Array,
  critic_q: jax.Array,
  where_p: Mask,
  where_q: Mask,
  fill: float,
) -> _Critics:
  checks.check_float(critic_p=critic_p, critic_q=critic_q)
  first = {"critic_p[..., 0]": critic_p[..., 0]}
  checks.check_same_shape(**first, **{"critic_q[..., 0]": critic_q[..., 0]})
  if where_p is None:
    where_p = jnp.ones(critic_p.shape, bool)
  if where_q is None:
    where_q = jnp.ones(critic_q.shape, bool)
  checks.check_same_shape(critic_p=critic_p, where_p=where_p)
  checks.check_same_shape(critic_q=critic_q, where_q=where_q)
  return _Critics(
    jnp.where(where_p, numerics.as_float(critic_p), fill),
    jnp.where(where_q, numerics.as_float(critic_q), fill),
    where_p,
    where_q,
  )


def _or_zero(critics: _Critics, bound: jax.Array) -> jax.Array:
  some = jnp.any(critics.keep_p, -1) & jnp.any(critics.keep_q, -1)
  return jnp.where(some, bound, 0)


def _mean_difference(
  critics: _Critics, on_p: jax.Array, on_q: jax.Array
) -> jax.Array:
  mean_p = numerics.masked_mean(on_p, critics.keep_p, -1)
  mean_q = numerics.masked_mean(on_q, critics.keep_q, -1)
  return _or_zero(critics, mean_p - mean_q)


def _log_mean_exp_q(critics: _Critics) -> jax.Array:
  """`log mean e^T` over the samples of Q; -inf where there are none."""
  total = numerics.masked_logsumexp(critics.q, critics.keep_q, -1)
  count = jnp.maximum(jnp.sum(critics.keep_q, -1), 1)
  return total - jnp.log(count.astype(total.dtype))


def variational_bound(
  div: generators.FDivergence,
  critic_p: jax.Array,
  critic_q: jax.Array,
  *,
  where_p: Mask = None,
  where_q: Mask = None,
) -> jax.Array:
  """Fenchel lower bound on an f-divergence, `E_P[T] - E_Q[f*(T)]`.

  At most `D_f(P||Q)` in expectation, with equality at `T = f'(p/q)`. The critic
  must lie in the domain of f*: pass an unconstrained network's output through
  `div.activation`.

  Args:
    div: the generator, from `f_divergence` or `custom_f_divergence`.
    critic_p: `[..., n]`, T on samples of P.
    critic_q: `[..., m]`, T on samples of Q.
    where_p: bool `[..., n]`, samples of P to keep; all by default.
    where_q: bool `[..., m]`, samples of Q to keep; all by default.

  Returns:
    `[...]`; -inf where T leaves the domain of f* on a sample of Q.

  Raises:
    AssertionError: leading axes differ, a mask has not its critic's shape, or
      the critics are not floating point.

  >>> div = generators.f_divergence("total_variation")
  >>> t_p, t_q = jnp.array([.5, .5]), jnp.array([.5, -.5])
  >>> float(variational_bound(div, t_p, t_q))
  0.5

  Reference:
    Nguyen, Wainwright and Jordan (0809.0853), lemma 1; f-GAN (1606.00709),
    equation 4.
  """
  # f'(1) is in the domain of every f*.
  critics = _critics(critic_p, critic_q, where_p, where_q, div.f_prime_one)
  return _mean_difference(critics, critics.p, div.conjugate(critics.q))


def nwj(
  critic_p: jax.Array,
  critic_q: jax.Array,
  *,
  where_p: Mask = None,
  where_q: Mask = None,
) -> jax.Array:
  """Lower bound on `KL(P||Q)` linear in both laws, `E_P[T] - E_Q[e^(T-1)]`.

  Unbiased on a minibatch, with equality at `T = 1 + log(p/q)`; never above
  `donsker_varadhan` of the same critic.

  Args:
    critic_p: `[..., n]`, T on samples of P; any real.
    critic_q: `[..., m]`, T on samples of Q.
    where_p: bool `[..., n]`, samples of P to keep; all by default.
    where_q: bool `[..., m]`, samples of Q to keep; all by default.

  Returns:
    `[...]`, nats.

  Raises:
    AssertionError: as for `variational_bound`.

  >>> float(nwj(jnp.ones(3), jnp.ones(2)))
  0.0

  Reference:
    Nguyen, Wainwright and Jordan (0809.0853), section II; MINE (1801.04062),
    section 2.2, the f-divergence representation.
  """
  div = generators.f_divergence("kl")
  return variational_bound(
    div, critic_p, critic_q, where_p=where_p, where_q=where_q
  )


def donsker_varadhan(
  critic_p: jax.Array,
  critic_q: jax.Array,
  *,
  where_p: Mask = None,
  where_q: Mask = None,
) -> jax.Array:
  """Lower bound on `KL(P||Q)` of Donsker and Varadhan.

  `E_P[T] - log E_Q[e^T]`, unchanged by adding a constant to T, with equality at
  `T = log(p/q) + c`. On a minibatch the logarithm of the mean is biased: the
  expected bound is too high, and its gradient is not that of the bound on all
  data; `donsker_varadhan_ema` removes the latter.

  Args:
    critic_p: `[..., n]`, T on samples of P; any real.
    critic_q: `[..., m]`, T on samples of Q.
    where_p: bool `[..., n]`, samples of P to keep; all by default.
    where_q: bool `[..., m]`, samples of Q to keep; all by default.

  Returns:
    `[...]`, nats.

  Raises:
    AssertionError: as for `variational_bound`.

  >>> critic = jnp.array([100., 100.])  # e^T overflows, its logarithm does not
  >>> float(donsker_varadhan(critic, critic))
  0.0

  Reference:
    Donsker and Varadhan (1983); MINE (1801.04062), theorem 1.
  """
  critics = _critics(critic_p, critic_q, where_p, where_q, 0)
  mean_p = numerics.masked_mean(critics.p, critics.keep_p, -1)
  return _or_zero(critics, mean_p - _log_mean_exp_q(critics))


class MovingBound(NamedTuple):
  """A bound whose gradient has a moving average for its denominator.

  Attributes:
    value: `[...]`, nats, the bound on this minibatch.
    log_ema: `[...]`, logarithm of the moving average, for the next call.
  """

  value: jax.Array
  log_ema: jax.Array


def donsker_varadhan_ema(
  critic_p: jax.Array,
  critic_q: jax.Array,
  log_ema: jax.Array,
  *,
  decay: float = 0.99,
  where_p: Mask = None,
  where_q: Mask = None,
) -> MovingBound:
  """`donsker_varadhan` with the bias of its minibatch gradient corrected.

  `ema' = decay ema + (1 - decay) mean_Q e^T`. The value is `E_P[T] - log mean_Q
  e^T`; the gradient with respect to T on Q's samples is `-e^T / (m ema')` where
  the minibatch's own would be `-e^T / sum e^T`.

  Args:
    critic_p: `[..., n]`, T on samples of P; any real.
    critic_q: `[..., m]`, T on samples of Q.
    log_ema: `[...]`, logarithm of the average so far. -inf says that there is
      none: the first minibatch then sets it.
    decay: of the average, a scalar in (0, 1).
    where_p: bool `[..., n]`, samples of P to keep; all by default.
    where_q: bool `[..., m]`, samples of Q to keep; all by default. A row
      without any leaves the average as it is.

  Returns:
    The bound, nats, and the next state, which carries no gradient.

  Raises:
    AssertionError: as for `variational_bound`; also for `log_ema`.
    ValueError: decay outside (0, 1).

  >>> start, t_p, t_q = jnp.array(-jnp.inf), jnp.ones(2), jnp.zeros(2)
  >>> value, log_ema = donsker_varadhan_ema(t_p, t_q, start)
  >>> float(value), float(log_ema)
  (1.0, 0.0)

  Reference:
    MINE (1801.04062), section 3.2, on correcting the bias of the stochastic
    gradient.
  """
  if not 0 < decay < 1:
    raise ValueError(f"decay must be in (0, 1), was {decay}")
  critics = _critics(critic_p, critic_q, where_p, where_q, 0)
  checks.check_same_shape(
    **{"log_ema": log_ema, "critic_q[..., 0]": critic_q[..., 0]}
  )
  log_mean = _log_mean_exp_q(critics)
  log_ema = numerics.as_float(log_ema)
  mixed = jnp.logaddexp(
    log_ema + math.log(decay), log_mean + math.log1p(-decay)
  )
  mixed = jnp.where(log_ema > -jnp.inf, mixed, log_mean)
  mixed = jnp.where(jnp.any(critics.keep_q, -1), mixed, log_ema)
  mixed = jax.lax.stop_gradient(mixed)
  # mean e^T / ema' is at most 1/(1 - decay): nothing overflows here.
  share = jnp.exp(log_mean - jnp.where(mixed > -jnp.inf, mixed, 0))
  moving = jax.lax.stop_gradient(log_mean) + numerics.gradient_only(share)
  mean_p = numerics.masked_mean(critics.p, critics.keep_p, -1)
  return MovingBound(_or_zero(critics, mean_p - moving), mixed)


def jensen_shannon_bound(
  logits_p: jax.Array,
  logits_q: jax.Array,
  *,
  where_p: Mask = None,
  where_q: Mask = None,
) -> jax.Array:
  """Lower bound on Jensen-Shannon from a binary classifier's logits.

  `log 2 + (E_P[log sigmoid(v)] + E_Q[log sigmoid(-v)]) / 2`: log 2 less the
  classifier's balanced cross-entropy, with equality at `v = log(p/q)`. It is
  `variational_bound` of the `jensen_shannon` divergence with its activation,
  without the cancellation that this has at large logits.

  Args:
    logits_p: `[..., n]`, v on samples of P, high where P is more likely.
    logits_q: `[..., m]`, v on samples of Q.
    where_p: bool `[..., n]`, samples of P to keep; all by default.
    where_q: bool `[..., m]`, samples of Q to keep; all by default.

  Returns:
    `[...]`, nats, at most log 2.

  Raises:
    AssertionError: as for `variational_bound`.

  >>> float(jensen_shannon_bound(jnp.zeros(3), jnp.zeros(2)))  # knows nothing
  0.0

  Reference:
    GAN (1406.2661), theorem 1; f-GAN (1606.00709), table 2.
  """
  critics = _critics(logits_p, logits_q, where_p, where_q, 0)
  on_p = (math.log(2) + jax.nn.log_sigmoid(critics.p)) / 2
  on_q = (math.log(2) + jax.nn.log_sigmoid(-critics.q)) / 2
  return _mean_difference(critics, on_p, -on_q)
