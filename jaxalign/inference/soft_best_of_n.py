# SPDX-License-Identifier: Apache-2.0
"""Soft best-of-n: of n draws, keep one with probability softmax of reward.

It interpolates between the base (n = 1), the exponentially tilted base (n to
infinity) and best-of-n (temperature to 0). A base is log-probabilities `log_p
[..., V]` (normalised here) with finite `rewards [..., V]`; the temperature is
in units of the reward.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.inference import _order

__all__ = (
  "SoftRate",
  "soft_log_pmf",
  "soft_rate",
  "tilted_log_pmf",
)

Scalar = float | jax.Array


def _log_weights(
  log_p: jax.Array, rewards: jax.Array, temperature: Scalar
) -> jax.Array:
  """`(r - max r) / temperature`: 0 at the best outcome that has mass."""
  live = log_p > -jnp.inf
  best = jnp.max(jnp.where(live, rewards, -jnp.inf), -1, keepdims=True)
  temperature = jnp.asarray(temperature, log_p.dtype)
  return jnp.where(live, rewards - jax.lax.stop_gradient(best), 0) / temperature


def tilted_log_pmf(
  log_p: jax.Array, rewards: jax.Array, temperature: Scalar
) -> jax.Array:
  """The limit of soft best-of-n for n to infinity: `p(x) e^{r(x)/lam} / Z`.

  Args:
    log_p: `[..., V]`, log-probabilities of the base; -inf for no mass.
    rewards: `[..., V]`, finite.
    temperature: lam, a scalar above 0, in units of the reward.

  Returns:
    `[..., V]`: log-probabilities, nats.

  Raises:
    ValueError: temperature not above 0.

  >>> log_p, r = jnp.log(jnp.array([.5, .5])), jnp.array([0., 1.])
  >>> print(f"{tilted_log_pmf(log_p, r, 1.)[1]:.4f}")  # log sigmoid(1)
  -0.3133

  Reference:
    Soft Best-of-n Sampling for Model Alignment (2505.03156).
  """
  checks.check_positive(temperature=temperature)
  log_p, rewards = _order.base_log_probs(log_p, rewards)
  return numerics.masked_log_softmax(
    log_p + _log_weights(log_p, rewards, temperature)
  )


def soft_log_pmf(
  log_p: jax.Array,
  rewards: jax.Array,
  n: Scalar | None = None,
  temperature: Scalar = 1.0,
  *,
  log_n: Scalar | None = None,
  num_nodes: int = 1600,
) -> jax.Array:
  """Log-probabilities of soft best-of-n, exact up to quadrature.

  With `w = e^{(r - max r)/lam}` and `L(t) = sum_x p(x) e^{-t w(x)}`:
  `pi(x) = p(x) n w(x) int_0^inf e^{-t w(x)} L(t)^(n-1) dt`, from `1/s = int
  e^{-ts} dt`. The integral is a trapezoid sum in `log t` over `44 + log n +
  (max r - min r)/lam`, whose relative error is about `e^{-pi^2/h}` at spacing
  h: 1600 nodes serve a range of 400 in double precision. The result is not
  normalised afterwards, so that its sum shows the error.

  Args:
    log_p: `[..., V]`, log-probabilities of the base; -inf for no mass.
    rewards: `[..., V]`, finite.
    n: number of draws, a scalar of at least 1.
    temperature: lam, a scalar above 0, in units of the reward.
    log_n: logarithm of n, instead of n.
    num_nodes: nodes of the quadrature; memory is `num_nodes * V` per row.

  Returns:
    `[..., V]`: log-probabilities, nats.

  Raises:
    ValueError: temperature not above 0, n below 1, not exactly one of n and
      log_n, fewer than 2 nodes.

  >>> log_p, r = jnp.log(jnp.array([.5, .5])), jnp.array([0., 1.])
  >>> print(jnp.round(jnp.exp(soft_log_pmf(log_p, r, 2)), 4))
  [0.3845 0.6155]

  Reference:
    Soft Best-of-n Sampling for Model Alignment (2505.03156), for the policy.
  """
  checks.check_positive(temperature=temperature)
  if num_nodes < 2:
    raise ValueError(f"num_nodes must be at least 2, was {num_nodes}")
  log_n = _order.log_count(n, log_n)
  log_p, rewards = _order.base_log_probs(log_p, rewards)
  log_n = jnp.asarray(log_n, log_p.dtype)
  log_w = _log_weights(log_p, rewards, temperature)
  low = -40 - log_n
  high = 4 - jax.lax.stop_gradient(jnp.min(log_w, -1, keepdims=True))
  step = (high - low) / (num_nodes - 1)
  log_t = low + step * jnp.arange(num_nodes, dtype=log_p.dtype)
  z = log_t[..., None] + log_w[..., None, :]  # [..., nodes, V]: log(t w)
  # -log L from 1 - L where L is close to 1, and from L otherwise.
  log_complement = jax.nn.logsumexp(
    log_p[..., None, :] + _order.log1mexpexp(z), -1
  )
  log_laplace = jax.nn.logsumexp(log_p[..., None, :] + _order.neg_exp(z), -1)
  # log(n-1) is -inf at n = 1, where L^0 = 1.
  log_rest = log_n + numerics.log1mexp(-log_n)
  power = _order.neg_exp(
    log_rest + _order.log_neg_log(log_laplace, log_complement)
  )
  log_integral = jax.nn.logsumexp(
    z + _order.neg_exp(z) + power[..., None] + jnp.log(step)[..., None], -2
  )
  return log_p + log_n + log_integral


class SoftRate(NamedTuple):
  """Leading constants of the distance to the tilted base, in powers of 1/n."""

  kl: jax.Array  # [...]: limit of n^2 KL(tilt||soft best-of-n)
  total_variation: jax.Array  # [...]: limit of n TV(tilt, soft best-of-n)


def soft_rate(
  log_p: jax.Array, rewards: jax.Array, temperature: Scalar
) -> SoftRate:
  """How fast soft best-of-n reaches the tilted base on a finite alphabet.

  With t the tilt and `u = w / E_p w`: `n^2 KL(t||pi_n) -> Var_t(u)/2` and
  `n TV(t, pi_n) -> E_t|E_p u^2 - u| / 2`. The general bound is of order 1/n.

  Args:
    log_p: `[..., V]`, log-probabilities of the base; -inf for no mass.
    rewards: `[..., V]`, finite.
    temperature: lam, a scalar above 0, in units of the reward.

  Returns:
    A `SoftRate`.

  Raises:
    ValueError: temperature not above 0.

  >>> p, r = jnp.array([.1, .4, .2, .3]), jnp.array([2., 0., 1., -1.])
  >>> print(f"{soft_rate(jnp.log(p), r, 1.).kl:.4f}")
  1.2503

  Reference:
    Soft Best-of-n Sampling for Model Alignment (2505.03156), whose theorem
    states the bound of order 1/n.
  """
  log_tilt = tilted_log_pmf(log_p, rewards, temperature)
  log_p = numerics.masked_log_softmax(log_p)
  live = log_p > -jnp.inf
  safe_tilt = jnp.where(live, log_tilt, 0)
  u = jnp.where(live, jnp.exp(safe_tilt - jnp.where(live, log_p, 0)), 0)
  tilt = jnp.where(live, jnp.exp(safe_tilt), 0)
  mean = jnp.sum(tilt * u, -1, keepdims=True)  # E_t u = E_p u^2
  return SoftRate(
    jnp.sum(tilt * (u - mean) ** 2, -1) / 2,
    jnp.sum(tilt * jnp.abs(u - mean), -1) / 2,
  )
