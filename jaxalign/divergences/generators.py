# SPDX-License-Identifier: Apache-2.0
"""The f-divergence object and the table of generators.

`D_f(P||Q) = E_Q f(p/q)` with f convex on `(0, inf)` and `f(1) = 0`; u is the
ratio `p/q`. The first argument is the numerator. Scalings are those of the
table (Jensen-Shannon and squared Hellinger at most log 2 and 1, Pearson
`sum (p-q)^2/q`); strengths differ across generators: divide by `f''(1)` to
compare them at equal weight.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.divergences import terms

__all__ = (
  "NAMES",
  "FDivergence",
  "alpha_order",
  "f_divergence",
  "renyi_from_alpha",
  "tsallis_from_alpha",
)

Elementwise = Callable[[jax.Array], jax.Array]


class FDivergence(NamedTuple):
  """A convex generator with everything that algorithms need of it.

  All functions act entry by entry on arrays of any shape `[...]`.

  Attributes:
    name: what messages and plots call it.
    f: `f(u)` for `u >= 0`.
    f_prime: `f'(u)`; a subgradient at kinks.
    f_second: `f''(u)`; 0 where f is piecewise linear.
    f_prime_inverse: u with `f'(u) = v`, 0 below `f'(0)` and inf from `f'(inf)`
      on; raises where f' is piecewise constant.
    conjugate: `f*(t) = sup_{u >= 0} t u - f(u)`, +inf above `conjugate_sup`.
    activation: increasing map of an unconstrained critic into the domain of f*.
    term: `(log p, log q) -> q f(p/q) - f'(1) (p - q)`: one outcome's share,
      at least 0, for finite arguments; free of cancellation and overflow.
    f_zero: `f(0)`, may be inf.
    f_prime_one: `f'(1)`.
    f_prime_inf: `lim f(u)/u`, may be inf.
    conjugate_sup: supremum of the domain of f*.
  """

  name: str
  f: Elementwise
  f_prime: Elementwise
  f_second: Elementwise
  f_prime_inverse: Elementwise
  conjugate: Elementwise
  activation: Elementwise
  term: Callable[[jax.Array, jax.Array], jax.Array]
  f_zero: float
  f_prime_one: float
  f_prime_inf: float
  conjugate_sup: float


# --- helpers of the table ----------------------------------------------------


def _wright_omega(x: jax.Array) -> jax.Array:
  """`numerics.wright_omega` that holds where e^x underflows: `w ~ e^x`."""
  x = numerics.as_float(x)
  low = x < -50
  omega = numerics.wright_omega(jnp.where(low, 0, x))
  return jnp.where(low, jnp.exp(jnp.where(low, x, 0)), omega)


def _below(
  bound: float, fn: Elementwise, inside: float, *, closed: bool = True
) -> Elementwise:
  """`fn` up to `bound` and +inf above; `inside` is any point below the bound.

  The argument is made safe before `fn` sees it, so that gradients stay finite.
  `closed` says whether the bound itself is left to `fn`.
  """

  def clipped(t):
    t = numerics.as_float(t)
    ok = t <= bound if closed else t < bound
    return jnp.where(ok, fn(jnp.where(ok, t, inside)), jnp.inf)

  return clipped


def _above(
  bound: float, fn: Elementwise, inside: float, floor: float
) -> Elementwise:
  """`fn` above `bound` and the constant `floor` at or below it."""

  def floored(t):
    t = numerics.as_float(t)
    ok = t > bound
    return jnp.where(ok, fn(jnp.where(ok, t, inside)), floor)

  return floored


def _no_inverse(name: str) -> Elementwise:
  def f_prime_inverse(v):
    raise ValueError(
      f"{name} has a piecewise constant f', which has no inverse: choose a"
      " strictly convex divergence, such as kl or jensen_shannon"
    )

  return f_prime_inverse


def _generator_of(term: Callable, f_zero: float) -> Elementwise:
  """`f(u) = term(log u, 0)`, for generators with `f'(1) = 0`."""

  def f(u):
    u = numerics.as_float(u)
    live = u > 0
    log_u = jnp.log(jnp.where(live, u, 1))
    return jnp.where(live, term(log_u, jnp.zeros_like(log_u)), f_zero)

  return f


# --- the table ---------------------------------------------------------------


def _kl() -> FDivergence:
  return FDivergence(
    name="kl",
    f=lambda u: numerics.xlogy(u, u),
    f_prime=lambda u: jnp.log(u) + 1,
    f_second=lambda u: 1 / u,
    f_prime_inverse=lambda v: jnp.exp(v - 1),
    conjugate=lambda t: jnp.exp(t - 1),
    activation=lambda v: v,
    term=terms.smooth_power_term(1.0),
    f_zero=0.0,
    f_prime_one=1.0,
    f_prime_inf=math.inf,
    conjugate_sup=math.inf,
  )


def _reverse_kl() -> FDivergence:
  return FDivergence(
    name="reverse_kl",
    f=lambda u: -jnp.log(u),
    f_prime=lambda u: -1 / u,
    f_second=lambda u: 1 / u**2,
    f_prime_inverse=_below(0, lambda v: -1 / v, -1.0, closed=False),
    conjugate=_below(0, lambda t: -1 - jnp.log(-t), -1.0),
    activation=lambda v: -jnp.exp(-v),
    term=terms.smooth_power_term(0.0),
    f_zero=math.inf,
    f_prime_one=-1.0,
    f_prime_inf=0.0,
    conjugate_sup=0.0,
  )


def _jensen_shannon(weight: float, name: str) -> FDivergence:
  w, log_w, log_rest = weight, math.log(weight), math.log1p(-weight)
  sup, bound = -w * log_w, 0.25

  def term(log_p, log_q):
    log_u = log_p - log_q
    gap, larger = jnp.abs(log_u), jnp.exp(jnp.maximum(log_p, log_q))
    smaller = jnp.exp(-gap)  # over the larger mass, like what follows
    rest = w if w == 0.5 else jnp.where(log_u > 0, 1 - w, w)
    mixture = 1 - rest + rest * smaller
    far = -(mixture * jnp.log(mixture) + rest * smaller * gap)
    near = terms.jensen_shannon_near(jnp.minimum(gap, bound), rest, bound)
    return larger * jnp.where(gap < bound, near, far)

  def slopes(log_p, log_q):
    log_m = jnp.logaddexp(log_p + log_w, log_q + log_rest)
    return (
      w * jnp.exp(log_p) * (log_p - log_m),
      (1 - w) * jnp.exp(log_q) * (log_q - log_m),
    )

  # With s = e^(v/w), the table's w s is e^((v - sup)/w), which is at most 1.
  def inverse(v):
    return (1 - w) / w / jnp.expm1((sup - v) / w)

  def conjugate(t):
    return (1 - w) * (log_rest - numerics.log1mexp((t - sup) / w))

  term = terms.with_slopes(term, slopes)
  return FDivergence(
    name=name,
    f=_generator_of(term, -(1 - w) * log_rest),
    f_prime=lambda u: w * (jnp.log(u) - jnp.log1p(w * (u - 1))),
    f_second=lambda u: w * (1 - w) / (u * (w * u + 1 - w)),
    f_prime_inverse=_below(sup, inverse, sup - 1, closed=False),
    conjugate=_below(sup, conjugate, sup - 1),
    activation=lambda v: sup - w * jax.nn.softplus(-v),
    term=term,
    f_zero=-(1 - w) * log_rest,
    f_prime_one=0.0,
    f_prime_inf=sup,
    conjugate_sup=sup,
  )


def _jeffreys() -> FDivergence:
  def term(log_p, log_q):
    return numerics.exp_diff(log_p, log_q) * (log_p - log_q)

  def slopes(log_p, log_q):
    log_u, difference = log_p - log_q, numerics.exp_diff(log_p, log_q)
    in_p = jnp.exp(log_p) * log_u + difference
    return in_p, -jnp.exp(log_q) * log_u - difference

  def conjugate(t):
    # w + 1/w + t - 2 with w + log w = 1 - t: nothing large is subtracted.
    w = _wright_omega(1 - t)
    return 1 / w - 1 - jnp.log(w)

  return FDivergence(
    name="jeffreys",
    f=lambda u: (u - 1) * jnp.log(u),
    f_prime=lambda u: jnp.log(u) + 1 - 1 / u,
    f_second=lambda u: 1 / u + 1 / u**2,
    f_prime_inverse=lambda v: 1 / _wright_omega(1 - v),
    conjugate=conjugate,
    activation=lambda v: v,
    term=terms.with_slopes(term, slopes),
    f_zero=math.inf,
    f_prime_one=0.0,
    f_prime_inf=math.inf,
    conjugate_sup=math.inf,
  )


def _total_variation() -> FDivergence:
  def term(log_p, log_q):
    return jnp.abs(numerics.exp_diff(log_p, log_q)) / 2

  def slopes(log_p, log_q):
    sign = jnp.sign(log_p - log_q) / 2
    return jnp.exp(log_p) * sign, -jnp.exp(log_q) * sign

  return FDivergence(
    name="total_variation",
    f=lambda u: jnp.abs(u - 1) / 2,
    f_prime=lambda u: jnp.sign(u - 1) / 2,
    f_second=lambda u: jnp.zeros_like(u),
    f_prime_inverse=_no_inverse("total_variation"),
    conjugate=_below(0.5, lambda t: jnp.maximum(t, -0.5), 0.0),
    activation=lambda v: jnp.tanh(v) / 2,
    term=terms.with_slopes(term, slopes),
    f_zero=0.5,
    f_prime_one=0.0,
    f_prime_inf=0.5,
    conjugate_sup=0.5,
  )


def _pearson_chi2() -> FDivergence:
  return FDivergence(
    name="pearson_chi2",
    f=lambda u: (u - 1) ** 2,
    f_prime=lambda u: 2 * (u - 1),
    f_second=lambda u: jnp.full_like(u, 2),
    f_prime_inverse=lambda v: jnp.maximum(1 + v / 2, 0),
    conjugate=_above(-2, lambda t: t + t**2 / 4, 0.0, -1.0),
    activation=lambda v: v,
    term=terms.smooth_power_term(2.0, scale=2.0),
    f_zero=1.0,
    f_prime_one=0.0,
    f_prime_inf=math.inf,
    conjugate_sup=math.inf,
  )


def _neyman_chi2() -> FDivergence:
  return FDivergence(
    name="neyman_chi2",
    f=lambda u: (u - 1) ** 2 / u,
    f_prime=lambda u: 1 - u**-2.0,
    f_second=lambda u: 2 * u**-3.0,
    f_prime_inverse=_below(1, lambda v: (1 - v) ** -0.5, 0.0, closed=False),
    conjugate=_below(1, lambda t: 2 - 2 * jnp.sqrt(1 - t), 0.0),
    activation=lambda v: -jnp.expm1(-v),
    term=terms.smooth_power_term(-1.0, scale=2.0),
    f_zero=math.inf,
    f_prime_one=0.0,
    f_prime_inf=1.0,
    conjugate_sup=1.0,
  )


def _squared_hellinger() -> FDivergence:
  def term(log_p, log_q):
    return numerics.exp_diff(log_p / 2, log_q / 2) ** 2 / 2

  def slopes(log_p, log_q):
    half = numerics.exp_diff(log_p / 2, log_q / 2) / 2
    return jnp.exp(log_p / 2) * half, -jnp.exp(log_q / 2) * half

  return FDivergence(
    name="squared_hellinger",
    f=lambda u: (jnp.sqrt(u) - 1) ** 2 / 2,
    f_prime=lambda u: (1 - u**-0.5) / 2,
    f_second=lambda u: u**-1.5 / 4,
    f_prime_inverse=_below(
      0.5, lambda v: (1 - 2 * v) ** -2.0, 0.0, closed=False
    ),
    conjugate=_below(0.5, lambda t: t / (1 - 2 * t), 0.0),
    activation=lambda v: -jnp.expm1(-v) / 2,
    term=terms.with_slopes(term, slopes),
    f_zero=0.5,
    f_prime_one=0.0,
    f_prime_inf=0.5,
    conjugate_sup=0.5,
  )


def _le_cam() -> FDivergence:
  def term(log_p, log_q):
    tanh = jnp.tanh((log_p - log_q) / 2)
    return (jnp.exp(log_p) + jnp.exp(log_q)) * tanh**2 / 2

  def slopes(log_p, log_q):
    # 1/2 - 2/(1+u)^2 with 2/(1+u) = 1 - tanh: exactly 0 at u = 1.
    tanh = jnp.tanh((log_p - log_q) / 2)
    in_p = jnp.exp(log_p) * (tanh - tanh**2 / 2)
    return in_p, -jnp.exp(log_q) * (tanh + tanh**2 / 2)

  def inverse(v):
    return 2 / jnp.sqrt(1 - 2 * v) - 1

  return FDivergence(
    name="le_cam",
    f=lambda u: (1 - u) ** 2 / (2 * (1 + u)),
    f_prime=lambda u: 0.5 - 2 / (1 + u) ** 2,
    f_second=lambda u: 4 / (1 + u) ** 3,
    f_prime_inverse=_below(
      0.5, _above(-1.5, inverse, 0.0, 0.0), 0.0, closed=False
    ),
    conjugate=_below(
      0.5,
      _above(-1.5, lambda t: 2 - t - 2 * jnp.sqrt(1 - 2 * t), 0.0, -0.5),
      0.0,
    ),
    activation=lambda v: -jnp.expm1(-v) / 2,
    term=terms.with_slopes(term, slopes),
    f_zero=0.5,
    f_prime_one=0.0,
    f_prime_inf=0.5,
    conjugate_sup=0.5,
  )


def _alpha(order: float) -> FDivergence:
  al, excess = order, order - 1
  sup = 1 / (1 - al) if al < 1 else math.inf
  f_zero = 1 / al if al > 0 else math.inf
  term = terms.smooth_power_term(al)

  # log [1 + (al-1) v]_+^(1/(al-1)): the order may be as close to 1 as it likes.
  def log_inverse(v):
    return jnp.log1p(jnp.maximum(excess * v, -1)) / excess

  def inverse(v):
    return jnp.exp(log_inverse(v))

  def conjugate(t):
    return jnp.expm1(al * log_inverse(t)) / al

  if al < 1:
    inverse = _below(sup, inverse, 0.0, closed=False)
    conjugate = _below(sup, conjugate, 0.0)
  else:
    inverse = _above(-1 / excess, inverse, 0.0, 0.0)
    conjugate = _above(-1 / excess, conjugate, 0.0, -1 / al)
  return FDivergence(
    name=f"alpha({al:g})",
    f=_generator_of(term, f_zero),
    f_prime=lambda u: jnp.expm1(excess * jnp.log(u)) / excess,
    f_second=lambda u: u ** (al - 2),
    f_prime_inverse=inverse,
    conjugate=conjugate,
    activation=(
      (lambda v: -jnp.expm1(-v) / (1 - al)) if al < 1 else (lambda v: v)
    ),
    term=term,
    f_zero=f_zero,
    f_prime_one=0.0,
    f_prime_inf=sup,
    conjugate_sup=sup,
  )


def _hockey_stick(gamma: float) -> FDivergence:
  log_gamma = math.log(gamma)

  def term(log_p, log_q):
    return jnp.maximum(numerics.exp_diff(log_p, log_q + log_gamma), 0)

  def slopes(log_p, log_q):
    above = log_p - log_q > log_gamma
    in_p = jnp.where(above, jnp.exp(log_p), 0)
    return in_p, -jnp.where(above, jnp.exp(log_q + log_gamma), 0)

  return FDivergence(
    name=f"hockey_stick({gamma:g})",
    f=lambda u: jnp.maximum(u - gamma, 0),
    f_prime=lambda u: jnp.where(u > gamma, 1, jnp.zeros_like(u)),
    f_second=lambda u: jnp.zeros_like(u),
    f_prime_inverse=_no_inverse("hockey_stick"),
    conjugate=_below(1, lambda t: jnp.maximum(gamma * t, 0), 0.0),
    activation=jax.nn.sigmoid,
    term=terms.with_slopes(term, slopes),
    f_zero=0.0,
    f_prime_one=0.0,
    f_prime_inf=1.0,
    conjugate_sup=1.0,
  )


# --- by name -----------------------------------------------------------------

_PLAIN = {
  "kl": _kl,
  "reverse_kl": _reverse_kl,
  "jeffreys": _jeffreys,
  "total_variation": _total_variation,
  "pearson_chi2": _pearson_chi2,
  "neyman_chi2": _neyman_chi2,
  "squared_hellinger": _squared_hellinger,
  "le_cam": _le_cam,
}
_PARAMETER = {
  "jensen_shannon": "weight",
  "alpha": "alpha",
  "hockey_stick": "gamma",
}
NAMES = (*_PLAIN, *_PARAMETER)


@functools.cache
def f_divergence(
  name: str,
  *,
  alpha: float | None = None,
  weight: float | None = None,
  gamma: float | None = None,
) -> FDivergence:
  """The f-divergence of a given name; `D_f(P||Q) = E_Q f(p/q)`.

  Equal arguments give the same object, so that it can be a static argument of
  `jax.jit`.

  Args:
    name: one of `NAMES`.
    alpha: for `"alpha"`: the Cressie-Read order, any real scalar; 1 is `kl` and
      0 is `reverse_kl`.
    weight: for `"jensen_shannon"`: the weight of P in the mixture, in (0, 1);
      1/2 by default.
    gamma: for `"hockey_stick"`: the threshold, at least 1.

  Returns:
    An `FDivergence`.

  Raises:
    ValueError: unknown name, a parameter that the name does not take, a missing
      parameter, or one outside its range.

  >>> div = f_divergence("jensen_shannon")
  >>> print(f"{div.f_zero + div.f_prime_inf:.4f}")  # on disjoint supports
  0.6931

  Reference:
    Ali and Silvey (1966); Csiszar (1967); f-GAN (1606.00709), table 1, for
    conjugates and activations.
  """
  checks.check_choice("divergence", name, NAMES)
  given = {"alpha": alpha, "weight": weight, "gamma": gamma}
  wanted = _PARAMETER.get(name)
  for parameter, value in given.items():
    if value is not None and parameter != wanted:
      takes = f"takes only {wanted}" if wanted else "takes no parameter"
      raise ValueError(f"{name} {takes}, {parameter}={value} was given")
  if name in _PLAIN:
    return _PLAIN[name]()
  if name == "jensen_shannon":
    weight = 0.5 if weight is None else float(weight)
    if not 0 < weight < 1:
      raise ValueError(f"weight must be in (0, 1), was {weight}")
    label = name if weight == 0.5 else f"{name}({weight:g})"
    return _jensen_shannon(weight, label)
  value = given[_PARAMETER[name]]
  if value is None:
    raise ValueError(f"{name} needs {wanted}")
  if name == "hockey_stick":
    if not value >= 1:
      raise ValueError(f"gamma must be at least 1, was {value}")
    return _hockey_stick(float(value))
  if not math.isfinite(value):
    raise ValueError(f"alpha must be finite, was {value}")
  limits = {0.0: _reverse_kl, 1.0: _kl}
  return limits[value]() if value in limits else _alpha(float(value))


# --- conventions of alpha ----------------------------------------------------

_CONVENTIONS: dict[str, Callable[[float], float]] = {
  "cressie_read": lambda value: value,
  "amari": lambda value: (1 - value) / 2,
  "f_dpo": lambda value: 1 - value,
  "dph_rl": lambda value: 1 - value,
  "renyi": lambda value: value,
  "tsallis": lambda value: value,
}


def alpha_order(value: float, *, convention: str) -> float:
  """The Cressie-Read order of a parameter written in another convention.

  Args:
    value: the parameter, a scalar, as the other work writes it.
    convention: `"amari"` (symmetric index, order `(1 - A)/2`), `"f_dpo"` and
      `"dph_rl"` (`f' = (1 - u^-a)/a`, order `1 - a`), `"renyi"`, `"tsallis"` or
      `"cressie_read"` (the order itself).

  Returns:
    The order al, a scalar, in `(sum p^al q^(1-al) - 1)/(al (al - 1))`.

  Raises:
    ValueError: unknown convention.

  >>> alpha_order(0., convention="amari")
  0.5

  Reference:
    Amari, Information Geometry (2016), section 3.5; f-DPO (2309.16240),
    table 1.
  """
  checks.check_choice("convention", convention, _CONVENTIONS)
  return _CONVENTIONS[convention](value)


def renyi_from_alpha(divergence: jax.Array, *, alpha: float) -> jax.Array:
  """Renyi divergence from the Cressie-Read divergence of the same order.

  `R = log(1 + al (al - 1) D) / (al - 1)`; D itself at order 1.

  Args:
    divergence: `[...]`, D of order `alpha`, nats.
    alpha: the order, above 0.

  Returns:
    `[...]`, nats.

  Raises:
    ValueError: `alpha` not above 0.

  >>> print(f"{renyi_from_alpha(jnp.float32(1.), alpha=2.):.4f}")  # log 3
  1.0986

  Reference:
    van Erven and Harremoes, Renyi Divergence (1206.2459), section I.
  """
  checks.check_positive(alpha=alpha)
  if alpha == 1:
    return divergence
  return jnp.log1p(alpha * (alpha - 1) * divergence) / (alpha - 1)


def tsallis_from_alpha(divergence: jax.Array, *, alpha: float) -> jax.Array:
  """Tsallis relative entropy from the Cressie-Read divergence: `T = al D`.

  Args:
    divergence: `[...]`, D of order `alpha`.
    alpha: the order, above 0.

  Returns:
    `[...]`.

  Raises:
    ValueError: `alpha` not above 0.

  >>> float(tsallis_from_alpha(jnp.float32(1.), alpha=2.))
  2.0

  Reference:
    Generalized Munchausen RL using Tsallis KL (2301.11476), section 3.
  """
  checks.check_positive(alpha=alpha)
  return alpha * divergence
