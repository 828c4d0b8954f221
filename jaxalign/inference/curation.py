# SPDX-License-Identifier: Apache-2.0
"""Generative models retrained on their own samples, curated by preference.

Of k samples one is kept with probability proportional to `e^r` (a Bradley-Terry
choice), and the next model is the law of what was kept, possibly mixed with
real data: soft best-of-k at temperature 1, iterated. Expectations of `e^r` are
in units of `e^r`.
"""

import math

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.inference import _order, soft_best_of_n

__all__ = (
  "curation_gain_bound",
  "curation_kl_bound",
  "curation_ref_gain_bound",
  "curation_step",
)

Scalar = float | jax.Array


def curation_step(
  log_p: jax.Array,
  rewards: jax.Array,
  k: Scalar | None = None,
  *,
  log_k: Scalar | None = None,
  log_ref: jax.Array | None = None,
  lam: Scalar = math.inf,
) -> jax.Array:
  """One round of curation: `p' = p H_k`, or `(p_ref + lam p H_k)/(1 + lam)`.

  `H_k(x) = E[k e^{r(x)} / (e^{r(x)} + sum_{i<k} e^{r(x_i)})]`, which lies in
  (0, k]; for k to infinity `p' = p e^r / Z`.

  Args:
    log_p: `[..., V]`, log-probabilities of the model; -inf for no mass.
    rewards: `[..., V]`, finite.
    k: number of samples among which one is kept, a scalar of at least 1.
    log_k: its logarithm, instead of k.
    log_ref: `[..., V]`, log-probabilities of the real data; none by default.
    lam: curated samples per real one, a scalar of at least 0; finite if and
      only if `log_ref` is given.

  Returns:
    `[..., V]`: log-probabilities of the next model, nats.

  Raises:
    ValueError: `log_ref` without a finite lam or the reverse, lam below 0, k
      below 1, not exactly one of k and log_k.

  >>> log_p, r = jnp.log(jnp.array([.5, .5])), jnp.array([0., 1.])
  >>> print(jnp.round(jnp.exp(curation_step(log_p, r, 2)), 4))
  [0.3845 0.6155]

  Reference:
    Self-Consuming Generative Models with Curated Data Provably Optimize Human
    Preferences (2407.09499).
  """
  log_k = _order.log_count(k, log_k, "k")
  static = not isinstance(lam, jax.core.Tracer)
  if static and not lam >= 0:
    raise ValueError(f"lam must be at least 0, was {lam}")
  if (log_ref is None) != (static and math.isinf(lam)):
    given = "no" if log_ref is None else "a"
    raise ValueError(
      f"log_ref and a finite lam go together: {given} log_ref, lam={lam}"
    )
  log_curated = soft_best_of_n.soft_log_pmf(log_p, rewards, log_n=log_k)
  # The quadrature is exact to rounding; iteration must not add that up.
  log_curated = numerics.masked_log_softmax(log_curated)
  if log_ref is None:
    return log_curated
  checks.check_same_shape(log_p=log_p, log_ref=log_ref)
  log_ref = numerics.masked_log_softmax(log_ref).astype(log_curated.dtype)
  log_lam = jnp.log(jnp.asarray(lam, log_curated.dtype))
  both = jnp.stack([log_ref, log_curated + log_lam])
  total = numerics.masked_logsumexp(both, both > -jnp.inf, 0)
  return total - jnp.logaddexp(log_lam, 0)


def curation_gain_bound(
  log_p: jax.Array,
  rewards: jax.Array,
  k: Scalar | None = None,
  *,
  log_k: Scalar | None = None,
) -> jax.Array:
  """Least gain of one round: `((k-1)/k) Var_p(e^r) / e^{max r}`.

  Without real data, `E_{t+1} e^r - E_t e^r` is at least this.

  Args:
    log_p: `[..., V]`, log-probabilities of the model; -inf for no mass.
    rewards: `[..., V]`, finite where there is mass.
    k: number of samples among which one is kept, a scalar of at least 1.
    log_k: its logarithm, instead of k.

  Returns:
    `[...]`, in units of `e^r`, at least 0.

  Raises:
    ValueError: k below 1, not exactly one of k and log_k.

  >>> p, r = jnp.array([.1, .4, .2, .3]), jnp.array([2., 0., 1., -1.])
  >>> print(f"{curation_gain_bound(jnp.log(p), r, 4):.4f}")
  0.4226

  Reference:
    Self-Consuming Generative Models with Curated Data Provably Optimize Human
    Preferences (2407.09499).
  """
  log_k = _order.log_count(k, log_k, "k")
  log_p, rewards = _order.base_log_probs(log_p, rewards)
  live = log_p > -jnp.inf
  best = jnp.max(jnp.where(live, rewards, -jnp.inf), -1, keepdims=True)
  share = jnp.exp(jnp.where(live, rewards - best, 0))  # e^{r - max r}
  probs = jnp.exp(log_p)
  mean = jnp.sum(probs * share, -1, keepdims=True)
  variance = jnp.sum(probs * (share - mean) ** 2, -1)
  rest = -jnp.expm1(-jnp.asarray(log_k, log_p.dtype))
  return rest * variance * jnp.exp(best[..., 0])


def curation_ref_gain_bound(
  log_ref: jax.Array,
  rewards: jax.Array,
  k: Scalar | None = None,
  *,
  log_k: Scalar | None = None,
  lam: Scalar,
) -> jax.Array:
  """Least gain over real data: `lam/(1+lam)^3` of `curation_gain_bound`.

  Starting at `p_0 = p_ref` and mixing real data in every round, `E_t e^r -
  E_ref e^r` is at least this for every t >= 1.

  Args:
    log_ref: `[..., V]`, log-probabilities of the real data.
    rewards: `[..., V]`, finite where there is mass.
    k: number of samples among which one is kept, a scalar of at least 1.
    log_k: its logarithm, instead of k.
    lam: curated samples per real one, a scalar above 0.

  Returns:
    `[...]`, in units of `e^r`, at least 0.

  Raises:
    ValueError: lam not above 0, k below 1, not exactly one of k and log_k.

  >>> p, r = jnp.array([.1, .4, .2, .3]), jnp.array([2., 0., 1., -1.])
  >>> print(f"{curation_ref_gain_bound(jnp.log(p), r, 4, lam=1.):.4f}")
  0.0528

  Reference:
    Self-Consuming Generative Models with Curated Data Provably Optimize Human
    Preferences (2407.09499).
  """
  checks.check_positive(lam=lam)
  gain = curation_gain_bound(log_ref, rewards, k, log_k=log_k)
  lam = jnp.asarray(lam, gain.dtype)
  return lam / (1 + lam) ** 3 * gain


def curation_kl_bound(
  k: Scalar | None = None, *, log_k: Scalar | None = None, lam: Scalar
) -> jax.Array:
  """Largest drift from real data: `KL(p_t||p_ref) <= -log(1 - lam (k-1))`.

  Starting at `p_0 = p_ref` and mixing real data in every round, for every t.

  Args:
    k: number of samples among which one is kept `[...]`, at least 1.
    log_k: its logarithm, instead of k.
    lam: curated samples per real one, a scalar of at least 0.

  Returns:
    `[...]`, nats; +inf where `lam >= 1/(k-1)`.

  Raises:
    ValueError: k below 1, not exactly one of k and log_k.

  >>> print(f"{curation_kl_bound(2, lam=.5):.4f}")
  0.6931

  Reference:
    Self-Consuming Generative Models with Curated Data Provably Optimize Human
    Preferences (2407.09499), from `H_k <= k`.
  """
  log_k = numerics.as_float(_order.log_count(k, log_k, "k"))
  drift = jnp.asarray(lam, log_k.dtype) * jnp.expm1(log_k)
  finite = drift < 1
  return jnp.where(finite, -jnp.log1p(-jnp.where(finite, drift, 0)), jnp.inf)
