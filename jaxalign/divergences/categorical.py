# SPDX-License-Identifier: Apache-2.0
"""Divergences between categorical distributions given as logits.

Every function takes logits with the event axis last (or `axis`), normalises
them itself, reduces that axis only and returns nats. Outcomes where `where` is
false are removed from both arguments before normalising. Outcomes of
probability 0 (logit -inf) are mathematics: `p = q = 0` contributes 0,
`p = 0 < q` contributes `q f(0)` and `q = 0 < p` contributes `p f'(inf)`, which
may be +inf; gradients at such logits are 0. One argument alone without any
outcome is no distribution, and a divergence from it has no meaning.
"""

import functools
import math

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.divergences import generators

__all__ = (
  "alpha_divergence",
  "categorical_f_divergence",
  "cauchy_schwarz",
  "generalized_jensen_shannon",
  "hockey_stick",
  "jeffreys",
  "jensen_shannon",
  "kl",
  "le_cam",
  "neyman_chi2",
  "pearson_chi2",
  "renyi",
  "reverse_kl",
  "squared_hellinger",
  "total_variation",
  "tsallis",
)

Mask = jax.Array | None


def _log_probs(
  p_logits: jax.Array, q_logits: jax.Array, where: Mask, axis: int
) -> tuple[jax.Array, jax.Array]:
  """Checks; returns log-probabilities with the event axis last."""
  checks.check_same_shape(p_logits=p_logits, q_logits=q_logits)
  checks.check_float(p_logits=p_logits, q_logits=q_logits)
  if where is not None:
    checks.check_same_shape(p_logits=p_logits, where=where)
    where = jnp.moveaxis(where, axis, -1)
  p_logits, q_logits = (jnp.moveaxis(x, axis, -1) for x in (p_logits, q_logits))
  dtype = jnp.result_type(p_logits, q_logits)
  return (
    numerics.masked_log_softmax(p_logits.astype(dtype), where),
    numerics.masked_log_softmax(q_logits.astype(dtype), where),
  )


def _f_divergence_of_log_probs(
  div: generators.FDivergence, log_p: jax.Array, log_q: jax.Array
) -> jax.Array:
  in_p, in_q = log_p > -jnp.inf, log_q > -jnp.inf
  # Not `in_p & in_q`, which keeps XLA from vectorising the loop.
  common = jnp.minimum(log_p, log_q) > -jnp.inf
  inside = div.term(jnp.where(common, log_p, 0), jnp.where(common, log_q, 0))
  only_p = _scaled_mass(div.f_prime_inf - div.f_prime_one, log_p, in_p)
  only_q = _scaled_mass(div.f_zero + div.f_prime_one, log_q, in_q)
  outside = jnp.where(in_p, only_p, only_q)
  return jnp.sum(jnp.where(common, inside, outside), -1)


def _scaled_mass(
  coefficient: float, log_mass: jax.Array, some: jax.Array
) -> jax.Array:
  """Mass times a coefficient that may be infinite; inf times no mass is 0."""
  if math.isinf(coefficient):
    return jnp.where(some, jnp.inf, 0)
  return coefficient * jnp.exp(log_mass)


def categorical_f_divergence(
  div: generators.FDivergence,
  p_logits: jax.Array,
  q_logits: jax.Array,
  *,
  where: Mask = None,
  axis: int = -1,
) -> jax.Array:
  """Any f-divergence `D_f(P||Q) = sum_v q_v f(p_v / q_v)` of two categoricals.

  Summed as `sum_v [q f(p/q) - f'(1) (p - q)]`, whose terms are all at least 0:
  the value keeps its relative accuracy when P is close to Q.

  Args:
    div: the generator, from `f_divergence` or `custom_f_divergence`.
    p_logits: `[..., V]`, floating point.
    q_logits: `[..., V]`, the shape of `p_logits`.
    where: bool `[..., V]`, outcomes to keep; all by default. A row without any
      outcome gives 0.
    axis: the event axis.

  Returns:
    `[...]`, nats.

  Raises:
    AssertionError: shapes differ, or the logits are not floating point.

  >>> div = generators.f_divergence("total_variation")
  >>> p, q = jnp.log(jnp.array([.5, .5])), jnp.log(jnp.array([1., 0.]))
  >>> float(categorical_f_divergence(div, p, q))
  0.5

  Reference:
    Csiszar (1967); f-GAN (1606.00709), section 2.1.
  """
  log_p, log_q = _log_probs(p_logits, q_logits, where, axis)
  return _f_divergence_of_log_probs(div, log_p, log_q)


def kl(
  p_logits: jax.Array,
  q_logits: jax.Array,
  *,
  where: Mask = None,
  axis: int = -1,
) -> jax.Array:
  """Kullback-Leibler divergence `KL(P||Q) = sum p log(p/q)`.

  Args:
    p_logits: `[..., V]`.
    q_logits: `[..., V]`.
    where: bool `[..., V]`, outcomes to keep.
    axis: the event axis.

  Returns:
    `[...]`, nats, in `[0, inf]`; +inf where P has mass that Q lacks.

  >>> p, q = jnp.log(jnp.array([1., 0.])), jnp.log(jnp.array([.5, .5]))
  >>> print(f"{kl(p, q):.4f} {kl(q, p)}")
  0.6931 inf

  Reference:
    Kullback and Leibler (1951).
  """
  div = generators.f_divergence("kl")
  return categorical_f_divergence(
    div, p_logits, q_logits, where=where, axis=axis
  )


def reverse_kl(
  p_logits: jax.Array,
  q_logits: jax.Array,
  *,
  where: Mask = None,
  axis: int = -1,
) -> jax.Array:
  """`KL(Q||P) = sum q log(q/p)`: `kl` with its arguments exchanged.

  Args:
    p_logits: `[..., V]`.
    q_logits: `[..., V]`.
    where: bool `[..., V]`, outcomes to keep.
    axis: the event axis.

  Returns:
    `[...]`, nats, in `[0, inf]`; +inf where Q has mass that P lacks.

  >>> p, q = jnp.log(jnp.array([1., 0.])), jnp.log(jnp.array([.5, .5]))
  >>> print(reverse_kl(p, q))
  inf

  Reference:
    Kullback and Leibler (1951).
  """
  div = generators.f_divergence("reverse_kl")
  return categorical_f_divergence(
    div, p_logits, q_logits, where=where, axis=axis
  )


def jensen_shannon(
  p_logits: jax.Array,
  q_logits: jax.Array,
  *,
  weight: float = 0.5,
  rescale: bool = False,
  where: Mask = None,
  axis: int = -1,
) -> jax.Array:
  """(Skew) Jensen-Shannon divergence, continuous in its weight.

  `w KL(P||M) + (1-w) KL(Q||M)` with `M = w P + (1-w) Q`; with `rescale`, that
  over `w (1-w)`, which tends to `KL(P||Q)` as w goes to 0 and to `KL(Q||P)` as
  w goes to 1. At w = 0 or 1 itself the divergence is 0.

  Args:
    p_logits: `[..., V]`.
    q_logits: `[..., V]`.
    weight: w, the weight of P, in (0, 1).
    rescale: whether to divide by `w (1-w)`.
    where: bool `[..., V]`, outcomes to keep.
    axis: the event axis.

  Returns:
    `[...]`, nats, in `[0, h(w)]` with h the binary entropy; at w = 1/2 at most
    log 2.

  Raises:
    ValueError: weight outside (0, 1).

  >>> p, q = jnp.log(jnp.array([1., 0.])), jnp.log(jnp.array([0., 1.]))
  >>> print(f"{jensen_shannon(p, q):.4f}")
  0.6931

  Reference:
    Lin, Divergence Measures Based on the Shannon Entropy (1991), section IV;
    GKD (2306.13649), section 2, for the weighted form.
  """
  div = generators.f_divergence("jensen_shannon", weight=weight)
  value = categorical_f_divergence(
    div, p_logits, q_logits, where=where, axis=axis
  )
  return value / (weight * (1 - weight)) if rescale else value


def jeffreys(
  p_logits: jax.Array,
  q_logits: jax.Array,
  *,
  where: Mask = None,
  axis: int = -1,
) -> jax.Array:
  """Jeffreys divergence `KL(P||Q) + KL(Q||P) = sum (p - q) log(p/q)`.

  Args:
    p_logits: `[..., V]`.
    q_logits: `[..., V]`.
    where: bool `[..., V]`, outcomes to keep.
    axis: the event axis.

  Returns:
    `[...]`, nats, in `[0, inf]`; +inf where the supports differ.

  >>> p, q = jnp.log(jnp.array([.5, .5])), jnp.log(jnp.array([.25, .75]))
  >>> print(f"{jeffreys(p, q):.4f}")
  0.2747

  Reference:
    Jeffreys (1946).
  """
  div = generators.f_divergence("jeffreys")
  return categorical_f_divergence(
    div, p_logits, q_logits, where=where, axis=axis
  )


def total_variation(
  p_logits: jax.Array,
  q_logits: jax.Array,
  *,
  where: Mask = None,
  axis: int = -1,
) -> jax.Array:
  """Total variation distance `(1/2) sum |p - q|`.

  Args:
    p_logits: `[..., V]`.
    q_logits: `[..., V]`.
    where: bool `[..., V]`, outcomes to keep.
    axis: the event axis.

  Returns:
    `[...]`, in `[0, 1]`.

  >>> p, q = jnp.log(jnp.array([.5, .5])), jnp.log(jnp.array([.25, .75]))
  >>> print(f"{total_variation(p, q):.4f}")
  0.2500

  Reference:
    Levin, Peres and Wilmer, Markov Chains and Mixing Times, section 4.1.
  """
  div = generators.f_divergence("total_variation")
  return categorical_f_divergence(
    div, p_logits, q_logits, where=where, axis=axis
  )


def pearson_chi2(
  p_logits: jax.Array,
  q_logits: jax.Array,
  *,
  where: Mask = None,
  axis: int = -1,
) -> jax.Array:
  """Pearson's chi-squared divergence `sum (p - q)^2 / q`.

  Args:
    p_logits: `[..., V]`.
    q_logits: `[..., V]`.
    where: bool `[..., V]`, outcomes to keep.
    axis: the event axis.

  Returns:
    `[...]`, in `[0, inf]`; +inf where P has mass that Q lacks.

  >>> p, q = jnp.log(jnp.array([.5, .5])), jnp.log(jnp.array([.25, .75]))
  >>> print(f"{pearson_chi2(p, q):.4f}")
  0.3333

  Reference:
    Pearson (1900).
  """
  div = generators.f_divergence("pearson_chi2")
  return categorical_f_divergence(
    div, p_logits, q_logits, where=where, axis=axis
  )


def neyman_chi2(
  p_logits: jax.Array,
  q_logits: jax.Array,
  *,
  where: Mask = None,
  axis: int = -1,
) -> jax.Array:
  """Neyman's chi-squared divergence `sum (p - q)^2 / p`.

  Args:
    p_logits: `[..., V]`.
    q_logits: `[..., V]`.
    where: bool `[..., V]`, outcomes to keep.
    axis: the event axis.

  Returns:
    `[...]`, in `[0, inf]`; +inf where Q has mass that P lacks.

  >>> p, q = jnp.log(jnp.array([.5, .5])), jnp.log(jnp.array([.25, .75]))
  >>> print(f"{neyman_chi2(p, q):.4f}")
  0.2500

  Reference:
    Neyman (1949).
  """
  div = generators.f_divergence("neyman_chi2")
  return categorical_f_divergence(
    div, p_logits, q_logits, where=where, axis=axis
  )


def squared_hellinger(
  p_logits: jax.Array,
  q_logits: jax.Array,
  *,
  where: Mask = None,
  axis: int = -1,
) -> jax.Array:
  """Squared Hellinger distance `(1/2) sum (sqrt p - sqrt q)^2`.

  Args:
    p_logits: `[..., V]`.
    q_logits: `[..., V]`.
    where: bool `[..., V]`, outcomes to keep.
    axis: the event axis.

  Returns:
    `[...]`, in `[0, 1]`; one minus the Bhattacharyya coefficient.

  >>> p, q = jnp.log(jnp.array([1., 0.])), jnp.log(jnp.array([.25, .75]))
  >>> print(f"{squared_hellinger(p, q):.4f}")
  0.5000

  Reference:
    Hellinger (1909); Le Cam and Yang, Asymptotics in Statistics, chapter 3.
  """
  div = generators.f_divergence("squared_hellinger")
  return categorical_f_divergence(
    div, p_logits, q_logits, where=where, axis=axis
  )


def le_cam(
  p_logits: jax.Array,
  q_logits: jax.Array,
  *,
  where: Mask = None,
  axis: int = -1,
) -> jax.Array:
  """Le Cam distance `(1/2) sum (p - q)^2 / (p + q)`.

  Args:
    p_logits: `[..., V]`.
    q_logits: `[..., V]`.
    where: bool `[..., V]`, outcomes to keep.
    axis: the event axis.

  Returns:
    `[...]`, in `[0, 1]`; half of the triangular discrimination.

  >>> p, q = jnp.log(jnp.array([1., 0.])), jnp.log(jnp.array([0., 1.]))
  >>> print(f"{le_cam(p, q):.4f}")
  1.0000

  Reference:
    Le Cam, Asymptotic Methods in Statistical Decision Theory (1986), section
    4.2.
  """
  div = generators.f_divergence("le_cam")
  return categorical_f_divergence(
    div, p_logits, q_logits, where=where, axis=axis
  )


def alpha_divergence(
  p_logits: jax.Array,
  q_logits: jax.Array,
  *,
  alpha: float,
  where: Mask = None,
  axis: int = -1,
) -> jax.Array:
  """Cressie-Read divergence `(sum p^al q^(1-al) - 1) / (al (al - 1))`.

  Continuous in the order: 1 is `KL(P||Q)`, 0 is `KL(Q||P)`, 2 half Pearson, -1
  half Neyman, 1/2 four times squared Hellinger. Other works' parameters are
  converted by `alpha_order`.

  Args:
    p_logits: `[..., V]`.
    q_logits: `[..., V]`.
    alpha: the order, any real.
    where: bool `[..., V]`, outcomes to keep.
    axis: the event axis.

  Returns:
    `[...]`; for orders in (0, 1) at most `1/(al (1-al))`.

  >>> p, q = jnp.log(jnp.array([.5, .5])), jnp.log(jnp.array([.25, .75]))
  >>> print(f"{2 * alpha_divergence(p, q, alpha=2.):.4f}")  # Pearson
  0.3333

  Reference:
    Cressie and Read (1984); f-DPO (2309.16240), table 1, as order 1 - a.
  """
  div = generators.f_divergence("alpha", alpha=alpha)
  return categorical_f_divergence(
    div, p_logits, q_logits, where=where, axis=axis
  )


def hockey_stick(
  p_logits: jax.Array,
  q_logits: jax.Array,
  *,
  gamma: float,
  where: Mask = None,
  axis: int = -1,
) -> jax.Array:
  """Hockey-stick divergence `sum max(p - gamma q, 0)`.

  Args:
    p_logits: `[..., V]`.
    q_logits: `[..., V]`.
    gamma: the threshold, at least 1; 1 is total variation.
    where: bool `[..., V]`, outcomes to keep.
    axis: the event axis.

  Returns:
    `[...]`, in `[0, 1]`.

  Raises:
    ValueError: gamma below 1.

  >>> p, q = jnp.log(jnp.array([.5, .5])), jnp.log(jnp.array([.25, .75]))
  >>> print(f"{hockey_stick(p, q, gamma=1.5):.4f}")
  0.1250

  Reference:
    Sason and Verdu, f-Divergence Inequalities (1508.00335), section II.
  """
  div = generators.f_divergence("hockey_stick", gamma=gamma)
  return categorical_f_divergence(
    div, p_logits, q_logits, where=where, axis=axis
  )


def renyi(
  p_logits: jax.Array,
  q_logits: jax.Array,
  *,
  alpha: float,
  where: Mask = None,
  axis: int = -1,
) -> jax.Array:
  """Renyi divergence `log(sum p^al q^(1-al)) / (al - 1)`.

  Order 1 is KL, order 0 `-log Q(p > 0)` and order inf `max log(p/q)`. Close to
  equality it is computed from the alpha-divergence, which has no cancellation.

  Args:
    p_logits: `[..., V]`.
    q_logits: `[..., V]`.
    alpha: the order, in `[0, inf]`.
    where: bool `[..., V]`, outcomes to keep.
    axis: the event axis.

  Returns:
    `[...]`, nats, non-decreasing in the order; +inf on disjoint supports, and
    for orders above 1 where P has mass that Q lacks.

  Raises:
    ValueError: alpha below 0.

  >>> p, q = jnp.log(jnp.array([.5, .5])), jnp.log(jnp.array([.25, .75]))
  >>> print(f"{renyi(p, q, alpha=2.):.4f}")  # log(1 + Pearson)
  0.2877

  Reference:
    van Erven and Harremoes, Renyi Divergence (1206.2459), definitions 1 to 3.
  """
  if not alpha >= 0:
    raise ValueError(f"alpha must be at least 0, was {alpha}")
  log_p, log_q = _log_probs(p_logits, q_logits, where, axis)
  in_p, in_q = log_p > -jnp.inf, log_q > -jnp.inf
  some, common = jnp.any(in_p, -1), in_p & in_q
  if alpha == 0:
    return jnp.where(some, -numerics.masked_logsumexp(log_q, in_p, -1), 0)
  uncovered = jnp.any(in_p & ~in_q, -1)
  safe_p, safe_q = jnp.where(common, log_p, 0), jnp.where(common, log_q, 0)
  if math.isinf(alpha):
    highest = jnp.max(jnp.where(common, safe_p - safe_q, -jnp.inf), -1)
    return jnp.where(uncovered, jnp.inf, jnp.where(some, highest, 0))
  div = generators.f_divergence("alpha", alpha=alpha)
  if alpha == 1:
    return _f_divergence_of_log_probs(div, log_p, log_q)
  mix = alpha * safe_p + (1 - alpha) * safe_q
  log_sum = numerics.masked_logsumexp(mix, common, -1)
  close = (jnp.abs(log_sum) < 0.4) | ~some
  # Far rows compare Q with itself: their own divergence may overflow, and its
  # gradient with it.
  near_p = jnp.where(close[..., None], log_p, log_q)
  near = generators.renyi_from_alpha(
    _f_divergence_of_log_probs(div, near_p, log_q), alpha=alpha
  )
  far = log_sum / (alpha - 1)
  if alpha > 1:
    far = jnp.where(uncovered, jnp.inf, far)
  return jnp.where(close, near, far)


def tsallis(
  p_logits: jax.Array,
  q_logits: jax.Array,
  *,
  q: float,
  where: Mask = None,
  axis: int = -1,
) -> jax.Array:
  """Tsallis relative entropy `(sum p^q Q^(1-q) - 1) / (q - 1)`.

  With `ln_q x = (x^(1-q) - 1)/(1-q)` it is `E_P[-ln_q(Q/P)]`; works that write
  `2 - q` for q mean the same divergence. Order 1 is KL.

  Args:
    p_logits: `[..., V]`.
    q_logits: `[..., V]`.
    q: the entropic index, above 0.
    where: bool `[..., V]`, outcomes to keep.
    axis: the event axis.

  Returns:
    `[...]`, in `[0, inf]`.

  Raises:
    ValueError: q not above 0.

  >>> p, r = jnp.log(jnp.array([.5, .5])), jnp.log(jnp.array([.25, .75]))
  >>> print(f"{tsallis(p, r, q=2.):.4f}")  # Pearson
  0.3333

  Reference:
    Generalized Munchausen RL using Tsallis KL (2301.11476), section 3.
  """
  checks.check_positive(q=q)
  value = alpha_divergence(p_logits, q_logits, alpha=q, where=where, axis=axis)
  return generators.tsallis_from_alpha(value, alpha=q)


def generalized_jensen_shannon(
  logits: jax.Array, weights: jax.Array, *, where: Mask = None
) -> jax.Array:
  """Jensen-Shannon divergence of K distributions, `sum_k w_k KL(P_k||M)`.

  `M = sum_k w_k P_k`; equally `H(M) - sum_k w_k H(P_k)`.

  Args:
    logits: `[K, ..., V]`, floating point.
    weights: `[K]`, a distribution. Zero weights are allowed.
    where: bool `[..., V]`, outcomes to keep, the same for all K.

  Returns:
    `[...]`, nats, in `[0, H(w)]`.

  Raises:
    AssertionError: weights not of shape `[K]`.

  >>> logits = jnp.log(jnp.eye(3))
  >>> print(f"{generalized_jensen_shannon(logits, jnp.ones(3) / 3):.4f}")
  1.0986

  Reference:
    Lin, Divergence Measures Based on the Shannon Entropy (1991), section V.
  """
  checks.check_float(logits=logits, weights=weights)
  checks.check_same_shape(
    logits=logits[:, *(0,) * (logits.ndim - 1)], weights=weights
  )
  if where is not None:
    checks.check_same_shape(logits=logits[0], where=where)
    where = jnp.broadcast_to(where, logits.shape)
  log_p = numerics.masked_log_softmax(logits, where)
  w = jnp.expand_dims(weights, tuple(range(1, log_p.ndim))).astype(log_p.dtype)
  used = (w > 0) & (log_p > -jnp.inf)
  joint = jnp.where(used, log_p, 0) + jnp.log(jnp.where(w > 0, w, 1))
  log_m = numerics.masked_logsumexp(joint, used, 0)
  div = generators.f_divergence("kl")
  kls = _f_divergence_of_log_probs(div, log_p, log_m[None])
  # M dominates every P_k of positive weight: what is infinite has no weight.
  return jnp.sum(w[..., 0] * jnp.where(kls < jnp.inf, kls, 0), 0)


def cauchy_schwarz(
  *logits: jax.Array, where: Mask = None, axis: int = -1
) -> jax.Array:
  """(Generalised) Cauchy-Schwarz divergence of two or more distributions.

  `-log( sum_v prod_k p_k(v) / prod_k (sum_v p_k(v)^m)^(1/m) )` for m arguments;
  for two it is `-log( <p,q> / sqrt(<p,p> <q,q>) )`. Zero exactly when all are
  proportional, and unchanged by scaling any of them, so unnormalised log-masses
  are welcome. (Some works square the ratio: twice ours.)

  Args:
    *logits: m >= 2 arrays `[..., V]`.
    where: bool `[..., V]`, outcomes to keep.
    axis: the event axis.

  Returns:
    `[...]`, in `[0, inf]`; +inf where no outcome has mass under all.

  Raises:
    ValueError: fewer than two arguments.

  >>> p, q = jnp.log(jnp.array([.5, .5])), jnp.log(jnp.array([.25, .75]))
  >>> print(f"{cauchy_schwarz(p, q):.4f}")
  0.1116

  Reference:
    Principe, Information Theoretic Learning (2010), section 2.5; for m > 2 by
    Hoelder's inequality.
  """
  m = len(logits)
  if m < 2:
    raise ValueError(f"cauchy_schwarz needs at least two arguments, got {m}")
  named = {f"logits{k}": x for k, x in enumerate(logits)}
  checks.check_same_shape(**named)
  checks.check_float(**named)
  log_masses = [jnp.moveaxis(numerics.as_float(x), axis, -1) for x in logits]
  some = jnp.ones(log_masses[0].shape[:-1], bool)
  if where is not None:
    checks.check_same_shape(logits0=logits[0], where=where)
    keep = jnp.moveaxis(where, axis, -1)
    log_masses = [jnp.where(keep, x, -jnp.inf) for x in log_masses]
    some = jnp.any(keep, -1)
  in_support = [x > -jnp.inf for x in log_masses]
  norms = [
    numerics.masked_logsumexp(m * x, live, -1) / m
    for x, live in zip(log_masses, in_support, strict=True)
  ]
  # log (p_k / |p_k|_m): their product sums to the overlap, at most 1.
  units = [
    x - jnp.where(norm > -jnp.inf, norm, 0)[..., None]
    for x, norm in zip(log_masses, norms, strict=True)
  ]
  product = functools.reduce(jnp.add, units)
  common = functools.reduce(jnp.logical_and, in_support)
  # What the overlap lacks is, outcome by outcome, the arithmetic minus the
  # geometric mean of y_k = (p_k / |p_k|_m)^m: generalised divergences
  # KL(mean||y_k), without cancellation where all arguments are almost equal.
  div = generators.f_divergence("reverse_kl")
  lack = sum(_f_divergence_of_log_probs(div, m * x, product) for x in units) / m
  close = (lack < 0.5) & (jnp.any(common, -1) | ~some)
  near = -jnp.log1p(-jnp.where(close, lack, 0))
  return jnp.where(close, near, -numerics.masked_logsumexp(product, common, -1))
