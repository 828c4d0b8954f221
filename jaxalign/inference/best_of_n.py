# SPDX-License-Identifier: Apache-2.0
"""Best-of-n: its exact law, divergences from the base, and its win rate.

A base distribution over V outcomes is given as log-probabilities `log_p
[..., V]` (normalised here, so logits do as well) with `rewards [..., V]`. Of n
independent draws the one of highest reward is kept. n is a number of at least
1, or `log_n` where n is too large to be written. `F_le` and `F_lt` are the base
probabilities of a reward at most, and below, that of an outcome.
"""

import math
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics
from jaxalign.divergences import categorical
from jaxalign.inference import _order

__all__ = (
  "CONTINUOUS_DIVERGENCES",
  "Selection",
  "WinRateKL",
  "check_base",
  "f_divergence_continuous",
  "kl_estimator",
  "kl_exact",
  "kl_gap",
  "kl_upper_bound",
  "log_pmf",
  "rewind_and_repeat",
  "sample",
  "win_rate",
  "win_rate_tilt",
  "win_rate_tilt_coef",
  "win_rate_upper_bound",
)

Scalar = float | jax.Array
Sample = TypeVar("Sample")


def check_base(probs: np.ndarray, rewards: np.ndarray) -> None:
  """Raises unless probabilities and rewards describe one base. Host side only.

  Args:
    probs: probabilities `[..., V]`.
    rewards: rewards `[..., V]`; infinite ones are allowed, NaN is not.

  Returns:
    Nothing.

  Raises:
    InputError: the shapes differ, the probabilities are negative or do not sum
      to 1, or a reward is NaN.

  >>> check_base(np.array([.25, .75]), np.array([0., 1.]))

  Reference:
    The check is the project's own.
  """
  probs, rewards = np.asarray(probs), np.asarray(rewards)
  if probs.shape != rewards.shape:
    raise checks.InputError(
      f"need one reward per probability: probs {probs.shape}, "
      f"rewards {rewards.shape}"
    )
  checks.check_distribution("probs", probs)
  if np.any(np.isnan(rewards)):
    raise checks.InputError(
      f"rewards must be numbers, {np.isnan(rewards).sum()} of "
      f"{rewards.size} are NaN"
    )


# --- the exact law -----------------------------------------------------------


def log_pmf(
  log_p: jax.Array,
  rewards: jax.Array,
  n: Scalar | None = None,
  *,
  log_n: Scalar | None = None,
  ties: str = "uniform",
) -> jax.Array:
  """Log-probabilities of best-of-n.

  `pi_n(x) = p(x) (F_le^n - F_lt^n) / (F_le - F_lt)` when ties are broken
  uniformly among the n draws (which taking the first maximum does), and
  `F_le^n - F_lt^n` in a total order.

  Args:
    log_p: `[..., V]`, log-probabilities of the base; -inf for no mass.
    rewards: `[..., V]`; only their order matters.
    n: number of draws, a scalar of at least 1.
    log_n: its logarithm, instead of n.
    ties: `"uniform"`, or `"index"`: of equal rewards the later outcome wins.

  Returns:
    `[..., V]`: log-probabilities, nats.

  Raises:
    ValueError: unknown `ties`, n below 1, not exactly one of n and log_n.

  >>> p, r = jnp.array([.25, .25, .5]), jnp.array([0., 1., 1.])
  >>> print(jnp.round(jnp.exp(log_pmf(jnp.log(p), r, 2)), 4))
  [0.0625 0.3125 0.625 ]

  Reference:
    Theoretical Guarantees on the Best-of-n Alignment Policy (2401.01879).
  """
  log_n = _order.log_count(n, log_n)
  log_p, rewards = _order.base_log_probs(log_p, rewards)
  order = _order.reward_order(log_p, rewards, ties)
  live = log_p > -jnp.inf
  share = jnp.where(live, log_p, 0) - jnp.where(live, order.log_mass, 0)
  return jnp.where(live, share + order.log_best(log_n), -jnp.inf)


def kl_exact(
  log_p: jax.Array,
  rewards: jax.Array,
  n: Scalar | None = None,
  *,
  log_n: Scalar | None = None,
  ties: str = "uniform",
) -> jax.Array:
  """`KL(pi_n||p)` of best-of-n from its base, by summation.

  Args:
    log_p: `[..., V]`, log-probabilities of the base.
    rewards: `[..., V]`.
    n: number of draws, a scalar of at least 1.
    log_n: its logarithm, instead of n.
    ties: `"uniform"` or `"index"`; the former's KL is never the larger.

  Returns:
    `[...]`, nats, at most `kl_upper_bound(n)`.

  Raises:
    ValueError: unknown `ties`, n below 1, not exactly one of n and log_n.

  >>> log_p, r = jnp.log(jnp.array([.5, .5])), jnp.array([0., 1.])
  >>> print(f"{kl_exact(log_p, r, 128):.4f} {kl_upper_bound(128):.4f}")
  0.6931 3.8598

  Reference:
    Theoretical Guarantees on the Best-of-n Alignment Policy (2401.01879).
  """
  log_pi = log_pmf(log_p, rewards, n, log_n=log_n, ties=ties)
  return categorical.kl(log_pi, jnp.asarray(log_p, log_pi.dtype))


def kl_upper_bound(
  n: Scalar | None = None, *, log_n: Scalar | None = None
) -> jax.Array:
  """`log n - (n-1)/n`: the KL of best-of-n from a base without ties or atoms.

  For a base with atoms it is a bound, and can be far from the divergence.

  Args:
    n: number of draws `[...]`, at least 1.
    log_n: its logarithm, instead of n.

  Returns:
    `[...]`, nats.

  Raises:
    ValueError: n below 1, not exactly one of n and log_n.

  >>> print(f"{kl_upper_bound(4):.4f}")
  0.6363

  Reference:
    Theoretical Guarantees on the Best-of-n Alignment Policy (2401.01879).
  """
  return f_divergence_continuous(n, "kl", log_n=log_n)


def kl_gap(
  log_p: jax.Array,
  rewards: jax.Array,
  n: Scalar | None = None,
  *,
  log_n: Scalar | None = None,
  ties: str = "uniform",
) -> jax.Array:
  """How far `kl_upper_bound(n)` lies above `KL(pi_n||p)`, exactly.

  `sum_levels f(F_le) - f(F_lt) - q log(q/m)` with `q = F_le^n - F_lt^n`,
  `m = F_le - F_lt` and `f(u) = u^n (log n + (n-1) log u - (n-1)/n)`; every
  level's term is at least 0.

  Args:
    log_p: `[..., V]`, log-probabilities of the base.
    rewards: `[..., V]`.
    n: number of draws, a scalar of at least 1.
    log_n: its logarithm, instead of n.
    ties: `"uniform"`, or `"index"`: every outcome is a level.

  Returns:
    `[...]`, nats, at least 0.

  Raises:
    ValueError: unknown `ties`, n below 1, not exactly one of n and log_n.

  >>> log_p, r = jnp.log(jnp.array([.5, .5])), jnp.array([0., 1.])
  >>> print(f"{kl_gap(log_p, r, 128):.4f}")
  3.1667

  Reference:
    The exact form of the gap that Theoretical Guarantees on the Best-of-n
    Alignment Policy (2401.01879) bounds.
  """
  log_n = _order.log_count(n, log_n)
  log_p, rewards = _order.base_log_probs(log_p, rewards)
  order = _order.reward_order(log_p, rewards, ties)
  log_n = jnp.asarray(log_n, log_p.dtype)
  rest = -jnp.expm1(-log_n)  # (n-1)/n

  def antiderivative(power):  # f(u), of n log u
    live = power > -jnp.inf
    safe = jnp.where(live, power, 0)
    return jnp.where(live, jnp.exp(safe) * (log_n + (safe - 1) * rest), 0)

  power_le = _order.neg_exp(log_n + order.log_neg_log_cdf)
  power_lt = power_le + _order.neg_exp(log_n + order.log_neg_log_step)
  log_q = order.log_best(log_n)
  live = (log_p > -jnp.inf) & (log_q > -jnp.inf)
  log_mass = jnp.where(live, order.log_mass, 0)
  log_q = jnp.where(live, log_q, 0)
  terms = antiderivative(power_le) - antiderivative(power_lt)
  terms -= jnp.exp(log_q) * (log_q - log_mass)
  share = jnp.exp(jnp.where(live, log_p, 0) - log_mass)
  return jnp.sum(jnp.where(live, share * terms, 0), -1)


def kl_estimator(
  log_prob_selected: jax.Array,
  n: Scalar | None = None,
  *,
  log_n: Scalar | None = None,
) -> jax.Array:
  """KL of best-of-n from the base probability of one selected outcome.

  With `e = p(y)`: `(1-e)^n (log n + (n-1) log(1-e) - (n-1)/n)
  + (1-(1-e)^n) log((1-(1-e)^n)/e)`, to be averaged over y from best-of-n. It is
  the KL itself when y is the best outcome and the other ones have no atoms.

  Args:
    log_prob_selected: `[...]`, `log p(y)`.
    n: number of draws, a scalar of at least 1.
    log_n: its logarithm, instead of n.

  Returns:
    `[...]`, nats: 0 at e = 1, `kl_upper_bound(n)` at e = 0.

  Raises:
    ValueError: n below 1, not exactly one of n and log_n.

  >>> print(f"{kl_estimator(jnp.log(jnp.float32(.5)), 16):.4f}")
  0.6930

  Reference:
    Theoretical Guarantees on the Best-of-n Alignment Policy (2401.01879).
  """
  checks.check_float(log_prob_selected=log_prob_selected)
  log_e = numerics.as_float(log_prob_selected)
  log_n = jnp.asarray(_order.log_count(n, log_n), log_e.dtype)
  rest = -jnp.expm1(-log_n)  # (n-1)/n
  inside = (log_e > -jnp.inf) & (log_e < 0)
  safe = jnp.where(inside, log_e, -1)
  scaled = log_n + _order.log_neg_log(numerics.log1mexp(safe), safe)
  power = _order.neg_exp(scaled)  # n log(1-e)
  finite = power > -jnp.inf
  power = jnp.where(finite, power, 0)
  miss = jnp.exp(power) * (log_n + (power - 1) * rest)
  log_hit = _order.log1mexpexp(scaled)
  value = jnp.where(finite, miss, 0) + jnp.exp(log_hit) * (log_hit - safe)
  at_one = jnp.where(log_n > 0, -log_e, 0)  # with its slope
  return jnp.where(inside, value, jnp.where(log_e < 0, log_n - rest, at_one))


# --- win rates ---------------------------------------------------------------


class WinRateKL(NamedTuple):
  """Win rate of a policy against its base, and the KL that it costs."""

  win_rate: jax.Array  # [...], in [0, 1]
  kl: jax.Array  # [...], nats


def win_rate(
  log_policy: jax.Array, log_p: jax.Array, rewards: jax.Array
) -> jax.Array:
  """Probability that a policy's draw beats one of the base; ties count 1/2.

  `sum_x pi(x) (F_lt(x) + F_le(x)) / 2`.

  Args:
    log_policy: `[..., V]`, log-probabilities of any policy.
    log_p: `[..., V]`, log-probabilities of the base.
    rewards: `[..., V]`.

  Returns:
    `[...]`, in [0, 1]; for best-of-n at most `win_rate_upper_bound(n)`.

  Raises:
    AssertionError: shapes differ.

  >>> log_p, r = jnp.log(jnp.array([.5, .5])), jnp.array([0., 1.])
  >>> print(f"{win_rate(log_pmf(log_p, r, 2), log_p, r):.4f}")
  0.6250

  Reference:
    Theoretical Guarantees on the Best-of-n Alignment Policy (2401.01879).
  """
  checks.check_same_shape(log_policy=log_policy, log_p=log_p)
  checks.check_float(log_policy=log_policy)
  log_p, rewards = _order.base_log_probs(log_p, rewards)
  order = _order.reward_order(log_p, rewards)
  beaten = jnp.exp(order.log_below) + jnp.exp(order.log_mass) / 2
  policy = jnp.exp(numerics.masked_log_softmax(log_policy))
  return jnp.sum(policy * beaten, -1)


def win_rate_upper_bound(
  n: Scalar | None = None, *, log_n: Scalar | None = None
) -> jax.Array:
  """`n/(n+1)`: the win rate of best-of-n over a base without ties or atoms.

  Args:
    n: number of draws `[...]`, at least 1.
    log_n: its logarithm, instead of n.

  Returns:
    `[...]`, in [1/2, 1].

  Raises:
    ValueError: n below 1, not exactly one of n and log_n.

  >>> print(f"{win_rate_upper_bound(4):.4f}")
  0.8000

  Reference:
    Theoretical Guarantees on the Best-of-n Alignment Policy (2401.01879).
  """
  return jax.nn.sigmoid(numerics.as_float(_order.log_count(n, log_n)))


# coth(x) - 1/x = sum_k a_k x^(2k-1), from k = 1: a_k = 4^k B_2k / (2k)!.
_LANGEVIN = (
  1 / 3,
  -1 / 45,
  2 / 945,
  -1 / 4725,
  2 / 93555,
  -1382 / 638512875,
  4 / 18243225,
  -3617 / 162820783125,
)


def win_rate_tilt(coef: jax.typing.ArrayLike) -> WinRateKL:
  """The policy of highest win rate at its KL: density `c e^(cu) / (e^c - 1)`.

  u is the rank of an outcome under a base without ties or atoms. `win =
  ((c-1) e^c + 1) / (c (e^c - 1))`, `KL = c win - log((e^c - 1)/c)`.

  Args:
    coef: c `[...]`, any finite real; 0 is the base.

  Returns:
    A `WinRateKL` of `[...]`.

  >>> print(f"{win_rate_tilt(17.).win_rate:.4f}")  # best-of-16 has 16/17
  0.9412

  Reference:
    Theoretical Guarantees on the Best-of-n Alignment Policy (2401.01879).
  """
  x = numerics.as_float(coef) / 2
  near = jnp.abs(x) < 0.3  # eight terms: relative error (x/pi)^16
  square = jnp.where(near, x, 0) ** 2
  high = jnp.abs(jnp.where(near, 1, x))
  slope = sum(a * square**k for k, a in enumerate(_LANGEVIN))
  langevin = jnp.where(
    near, x * slope, jnp.sign(x) * (1 / jnp.tanh(high) - 1 / high)
  )
  series = sum(
    a * (1 - 1 / (2 * k + 2)) * square ** (k + 1)
    for k, a in enumerate(_LANGEVIN)
  )
  # x coth x - 1 - log(sinh(x)/x) without the two x that cancel.
  far = 2 * high / jnp.expm1(2 * high) - 1
  far += jnp.log(2 * high) - jnp.log1p(-jnp.exp(-2 * high))
  return WinRateKL((1 + langevin) / 2, jnp.where(near, series, far))


def win_rate_tilt_coef(kl: jax.typing.ArrayLike) -> jax.Array:
  """The c at which `win_rate_tilt(c)` has a given KL, by bisection.

  Args:
    kl: `[...]`, nats, at least 0.

  Returns:
    c `[...]`, at least 0.

  Raises:
    ValueError: kl below 0.

  >>> c = win_rate_tilt_coef(kl_upper_bound(4))
  >>> print(f"{win_rate_tilt(c).win_rate:.4f}")  # best-of-4 has 0.8
  0.8040

  Reference:
    Theoretical Guarantees on the Best-of-n Alignment Policy (2401.01879).
  """
  if not isinstance(kl, jax.core.Tracer) and not np.all(np.asarray(kl) >= 0):
    raise ValueError(f"kl must be at least 0, was {kl}")
  kl = numerics.as_float(kl)
  # Beyond 30 nats KL = log c - 1 to every digit.
  far, inside = kl > 30, (kl > 0) & (kl <= 30)
  target = jnp.where(inside, kl, 1)
  # log c - 1 <= KL <= c^2/24 for every c brackets log c.
  log_c = numerics.bisect(
    lambda log_c: win_rate_tilt(jnp.exp(log_c)).kl - target,
    jnp.log(24 * target) / 2,
    target + 1,
  )
  limit = jnp.exp(jnp.where(far, kl, 0) + 1)
  return jnp.where(inside, jnp.exp(log_c), jnp.where(far, limit, 0))


def rewind_and_repeat(phi: jax.typing.ArrayLike) -> WinRateKL:
  """Sampling again until the rank exceeds `1 - phi`, over an atom-free base.

  `win = 1 - phi/2` and `KL = -log phi`.

  Args:
    phi: `[...]`, the accepted fraction, in (0, 1].

  Returns:
    A `WinRateKL` of `[...]`.

  Raises:
    ValueError: phi not above 0.

  >>> print(f"{rewind_and_repeat(.5).win_rate:.4f}")
  0.7500

  Reference:
    Theoretical Guarantees on the Best-of-n Alignment Policy (2401.01879).
  """
  phi = numerics.as_float(phi)
  checks.check_positive(phi=phi)
  return WinRateKL(1 - phi / 2, -jnp.log(phi))


# --- other divergences -------------------------------------------------------


def _total_variation(log_n: jax.Array) -> jax.Array:
  more = log_n > 0
  safe = jnp.where(more, log_n, 1)
  value = -jnp.exp(-safe / jnp.expm1(safe)) * jnp.expm1(-safe)
  return jnp.where(more, value, 0)


def _renyi(log_n: jax.Array, alpha: float) -> jax.Array:
  rest = -jnp.expm1(-log_n)  # (n-1)/n
  if alpha == 1:
    return log_n - rest
  if math.isinf(alpha):
    return log_n if alpha > 0 else jnp.where(log_n > 0, -jnp.inf, 0)
  shift = (alpha - 1) * rest
  finite = shift > -1
  value = jnp.log1p(jnp.where(finite, shift, 0)) / (alpha - 1)
  return jnp.where(finite, log_n - value, -jnp.inf)


_CONTINUOUS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "kl": lambda log_n: log_n + jnp.expm1(-log_n),
  "reverse_kl": lambda log_n: jnp.expm1(log_n) - log_n,
  "jeffreys": lambda log_n: 4 * jnp.sinh(log_n / 2) ** 2,
  "pearson_chi2": lambda log_n: (
    -jnp.expm1(log_n) * jnp.expm1(-log_n) / (2 - jnp.exp(-log_n))
  ),
  "total_variation": _total_variation,
  "squared_hellinger": lambda log_n: (
    jnp.expm1(-log_n / 2) ** 2 / (1 + jnp.exp(-log_n))
  ),
}
CONTINUOUS_DIVERGENCES = (*_CONTINUOUS, "renyi")


def f_divergence_continuous(
  n: Scalar | None = None,
  kind: str = "kl",
  *,
  alpha: float | None = None,
  log_n: Scalar | None = None,
) -> jax.Array:
  """Divergence `D(pi_n||p)` of best-of-n from a base without ties or atoms.

  The rank then has density `n u^(n-1)`, whatever base and reward:
  `kl` `log n - (n-1)/n`; `reverse_kl` `(n-1) - log n`; `jeffreys` (their sum)
  `(n-1)^2/n`; `pearson_chi2` `(n-1)^2/(2n-1)`; `total_variation`
  `n^(-1/(n-1)) - n^(-n/(n-1))`; `squared_hellinger` `(sqrt n - 1)^2/(n+1)`;
  `renyi` `log(n^a/(a(n-1)+1))/(a-1)`. For a base with atoms each is an upper
  bound (for Renyi at orders of at least 0), by data processing.

  Args:
    n: number of draws `[...]`, at least 1.
    kind: one of `CONTINUOUS_DIVERGENCES`.
    alpha: for `"renyi"`: the order, any real or infinite; 1 is `kl`. Where
      `alpha (n-1) <= -1` the divergence is -inf.
    log_n: logarithm of n, instead of n.

  Returns:
    `[...]`, nats.

  Raises:
    ValueError: unknown kind, alpha missing or given for another kind, n below
      1, not exactly one of n and log_n.

  >>> print(f"{f_divergence_continuous(4, 'squared_hellinger'):.4f}")
  0.2000

  Reference:
    Theoretical Guarantees on the Best-of-n Alignment Policy (2401.01879).
  """
  checks.check_choice("kind", kind, CONTINUOUS_DIVERGENCES)
  if (alpha is not None) != (kind == "renyi"):
    raise ValueError(f"alpha belongs to renyi, kind={kind} has alpha={alpha}")
  log_n = numerics.as_float(_order.log_count(n, log_n))
  if alpha is not None:
    return _renyi(log_n, float(alpha))
  return _CONTINUOUS[kind](log_n)


# --- sampling ----------------------------------------------------------------


class Selection(NamedTuple, Generic[Sample]):
  """The candidate that was kept."""

  sample: Sample  # what the sampler returns
  reward: jax.Array  # []
  index: jax.Array  # [], int: its number among the candidates


def sample(
  key: jax.Array,
  sampler: Callable[[jax.Array], Sample],
  reward_fn: Callable[[Sample], jax.Array],
  n: int,
  *,
  temperature: float = 0.0,
) -> Selection[Sample]:
  """Draws n candidates and keeps one: the best, or one by softmax of reward.

  Args:
    key: a typed PRNG key; consumed.
    sampler: maps a key to one sample, any tree of arrays.
    reward_fn: maps one sample to its reward, a scalar.
    n: number of draws; all are held at once.
    temperature: 0 for the first maximum; above 0, candidate i is kept with
      probability proportional to `exp(r_i / temperature)`.

  Returns:
    A `Selection`.

  Raises:
    ValueError: n below 1 or temperature below 0.

  >>> draw = lambda key: jax.random.uniform(key)
  >>> kept = sample(jax.random.key(0), draw, lambda x: x, 1000)
  >>> bool(kept.sample > .95)
  True

  Reference:
    Theoretical Guarantees on the Best-of-n Alignment Policy (2401.01879);
    Soft Best-of-n Sampling (2505.03156), for a temperature above 0.
  """
  if n < 1:
    raise ValueError(f"n must be at least 1, was {n}")
  if not temperature >= 0:
    raise ValueError(f"temperature must be at least 0, was {temperature}")
  draw_key, keep_key = jax.random.split(key)
  candidates = jax.vmap(sampler)(jax.random.split(draw_key, n))
  rewards = jax.vmap(reward_fn)(candidates)
  checks.check_rank(1, rewards=rewards)
  if temperature == 0:
    index = jnp.argmax(rewards)
  else:
    index = jax.random.categorical(keep_key, rewards / temperature)
  kept = jax.tree.map(lambda x: x[index], candidates)
  return Selection(kept, rewards[index], index)
