# SPDX-License-Identifier: Apache-2.0
"""Static risk measures in one form: the least expected score.

`rho(Y) = min_v E f(Y, v)` for a total cost Y and f convex in v. A measure is a
`ScoringFunction` of pure functions: f itself, the v at which its expectation is
least, and the minimum, both exact for weighted samples. In control the
minimisation over v is the outer one: for a fixed v a cost is as good as its
expected score.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.divergences import kl_ball
from jaxalign.rl import risk

__all__ = (
  "ScoringFunction",
  "cvar",
  "mean_risk",
  "scoring_function",
)

Samples = jax.Array
# One scalar of the shape [...]; the pair (v, t) for the entropic value at risk.
Threshold = Any


class ScoringFunction(NamedTuple):
  """A risk measure `rho(Y) = min_v E f(Y, v)`; costs, so that less is better.

  Weights are at least 0 and divided by their sum; `None` for equal ones. A
  sample of weight 0 does not count, whatever it is.

  Attributes:
    name: what messages and plots call it.
    score: `(y [...], v) -> f(y, v) [...]`, v a scalar or of a shape that
      broadcasts with that of y. For `entropic_value_at_risk` it is a pair `(v,
      t)` with t above 0.
    minimizer: `(samples [..., n], weights [..., n] or None) -> v [...]`.
    risk: `(samples [..., n], weights [..., n] or None) -> rho [...]`.
  """

  name: str
  score: Callable[[jax.Array, Threshold], jax.Array]
  minimizer: Callable[[Samples, jax.Array | None], Threshold]
  risk: Callable[[Samples, jax.Array | None], jax.Array]


# --- weighted samples --------------------------------------------------------


def _weighted(
  samples: jax.Array, weights: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
  """Samples, finite where they do not count, and probabilities."""
  checks.check_float(samples=samples)
  weights = jnp.ones_like(samples) if weights is None else weights
  checks.check_same_shape(samples=samples, weights=weights)
  weights = numerics.as_float(weights)
  live = weights > 0
  total = numerics.masked_sum(weights, live, -1)[..., None]
  safe = jnp.where(live, numerics.as_float(samples), 0)
  return safe, jnp.where(live, weights, 0) / total


def _mean(samples: jax.Array, weights: jax.Array | None) -> jax.Array:
  y, p = _weighted(samples, weights)
  return jnp.sum(p * y, -1)


def _sorted(y: jax.Array, p: jax.Array) -> tuple[jax.Array, jax.Array]:
  order = jnp.argsort(y, -1)
  return jnp.take_along_axis(y, order, -1), jnp.take_along_axis(p, order, -1)


def _expected_score(score: Callable, minimizer: Callable) -> Callable:
  """The minimum, as the score's mean at its minimiser."""

  def risk_of(samples, weights=None):
    y, p = _weighted(samples, weights)
    return jnp.sum(p * score(y, minimizer(samples, weights)[..., None]), -1)

  return risk_of


# --- the measures ------------------------------------------------------------


def _variance() -> ScoringFunction:
  def score(y, v):
    return (y - v) ** 2

  return ScoringFunction(
    "variance", score, _mean, _expected_score(score, _mean)
  )


def _expected_shortfall(alpha: float) -> ScoringFunction:
  if not 0 <= alpha < 1:
    raise ValueError(f"alpha must be at least 0 and below 1, was {alpha}")

  def score(y, v):
    return v + jnp.maximum(y - v, 0) / (1 - alpha)

  def value_at_risk(samples, weights=None):
    y, p = _weighted(samples, weights)
    # Samples that do not count come first, where alpha = 0 would find them.
    y, p = _sorted(jnp.where(p > 0, y, -jnp.inf), p)
    # Rounding of the sum must not push the quantile to the next sample.
    slack = y.shape[-1] * jnp.finfo(p.dtype).eps
    below = (jnp.cumsum(p, -1) < alpha - slack) | (p == 0)
    first = jnp.argmin(below, -1)[..., None]
    return jnp.take_along_axis(y, first, -1)[..., 0]

  return ScoringFunction(
    "expected_shortfall",
    score,
    value_at_risk,
    _expected_score(score, value_at_risk),
  )


def _entropic(level: float) -> ScoringFunction:
  checks.check_positive(level=level)

  def score(y, v):
    return v + jnp.expm1(level * (y - v)) / level

  def value(samples, weights=None):
    # The cost's entropic risk is minus the return's certainty equivalent.
    return -risk.certainty_equivalent(-samples, weights, level=level)

  return ScoringFunction("entropic", score, value, value)


def _entropic_value_at_risk(alpha: float) -> ScoringFunction:
  if not 0 < alpha < 1:
    raise ValueError(f"alpha must be between 0 and 1, was {alpha}")
  radius = -math.log1p(-alpha)

  def score(y, threshold):
    v, t = threshold
    at_limit = jnp.isinf(t)
    safe = jnp.where(at_limit, 1, t)
    rise = (jnp.exp(safe * (y - v)) / (1 - alpha) - 1) / safe
    return v + jnp.where(at_limit, jnp.where(y > v, jnp.inf, 0), rise)

  def solve(samples, weights):
    # By duality the measure is the largest mean in a KL ball around the
    # samples' law, whose optimum is tilted by exp(t y): one equation in t.
    y, p = _weighted(samples, weights)
    log_p = jnp.log(jnp.where(p > 0, p, 1))
    found = kl_ball.tilt(jnp.where(p > 0, log_p, -jnp.inf), y, radius)
    return found, jnp.sum(jnp.exp(found.log_policy()) * y, -1)

  def minimizer(samples, weights=None):
    found, value = solve(samples, weights)
    t = jnp.where(found.on_face, jnp.inf, found.strength / found.spread)
    return value, t

  return ScoringFunction(
    "entropic_value_at_risk",
    score,
    minimizer,
    lambda samples, weights=None: solve(samples, weights)[1],
  )


def _asymmetric_variance(alpha: float) -> ScoringFunction:
  if not 0 < alpha < 1:
    raise ValueError(f"alpha must be between 0 and 1, was {alpha}")

  def score(y, v):
    return jnp.where(y <= v, 1 - alpha, alpha) * (y - v) ** 2

  def expectile(samples, weights=None):
    y, p = _sorted(*_weighted(samples, weights))
    mass, sums = jnp.cumsum(p, -1), jnp.cumsum(p * y, -1)
    mean = sums[..., -1:]
    # The slope of the expected score at each sample; it does not decrease, and
    # between neighbours the weights of all samples are constant.
    slope = (1 - alpha) * (mass * y - sums) - alpha * (
      (mean - sums) - (mass[..., -1:] - mass) * y
    )
    last = jnp.maximum(jnp.sum(slope <= 0, -1) - 1, 0)[..., None]
    below, part = (jnp.take_along_axis(x, last, -1) for x in (mass, sums))
    top = (1 - alpha) * part + alpha * (mean - part)
    bottom = (1 - alpha) * below + alpha * (mass[..., -1:] - below)
    return (top / bottom)[..., 0]

  return ScoringFunction(
    "asymmetric_variance", score, expectile, _expected_score(score, expectile)
  )


_MEASURES = {
  "asymmetric_variance": (_asymmetric_variance, "alpha"),
  "entropic": (_entropic, "level"),
  "entropic_value_at_risk": (_entropic_value_at_risk, "alpha"),
  "expected_shortfall": (_expected_shortfall, "alpha"),
  "variance": (_variance, None),
}


def scoring_function(name: str, **parameters: float) -> ScoringFunction:
  """A risk measure by its name.

  `rho(Y) = min_v E f(Y, v)` with f, and the v of the minimum:
  `variance`: `(y - v)^2`, the mean;
  `expected_shortfall(alpha)`: `v + (y - v)_+ / (1 - alpha)`, the value at risk
  (the least where there are several);
  `entropic(level)`: `v + (e^(b (y - v)) - 1) / b`, the value itself,
  `(1/b) log E e^(b Y)`;
  `entropic_value_at_risk(alpha)`: `v + (e^(t (y - v)) / (1 - alpha) - 1) / t`,
  over v and t: the value, and the tilt that is `-log(1 - alpha)` nats away; t
  is inf where the maximum alone has the mass `1 - alpha`;
  `asymmetric_variance(alpha)`: `|alpha - 1[y <= v]| (y - v)^2`, the expectile.

  Args:
    name: of the above.
    **parameters: what the measure takes: `alpha` in `(0, 1)`, also 0 for
      `expected_shortfall`; `level`, b above 0.

  Returns:
    `ScoringFunction`.

  Raises:
    ValueError: an unknown name, a parameter that the measure does not take or
      one that is missing or out of range.

  >>> measure = scoring_function("expected_shortfall", alpha=.5)
  >>> costs = jnp.array([1., 2., 3., 4.])
  >>> print(measure.minimizer(costs), measure.risk(costs))
  2.0 3.5

  Reference:
    Risk-averse learning with convex scoring functions (2505.04553); Rockafellar
    and Uryasev (2000) for the expected shortfall, Ahmadi-Javid (2012) for the
    entropic value at risk.
  """
  checks.check_choice("risk measure", name, _MEASURES)
  build, needed = _MEASURES[name]
  if set(parameters) != ({needed} if needed else set()):
    given = ", ".join(sorted(parameters)) or "nothing"
    raise ValueError(f"{name} takes {needed or 'no parameter'}: was {given}")
  measure = build(**parameters)
  # One program each, also where they are called outside of jit.
  minimizer, risk_of = jax.jit(measure.minimizer), jax.jit(measure.risk)
  return measure._replace(minimizer=minimizer, risk=risk_of)


def mean_risk(measure: ScoringFunction, *, weight: float) -> ScoringFunction:
  """The mean and a risk measure in convex combination, again a measure.

  `(1 - w) E Y + w rho(Y)`, of score `(1 - w) y + w f(y, v)`.

  Args:
    measure: rho.
    weight: w in `[0, 1]`.

  Returns:
    `ScoringFunction`, with the minimiser of `measure`.

  Raises:
    ValueError: the weight is outside `[0, 1]`.

  >>> both = mean_risk(scoring_function("variance"), weight=.5)
  >>> print(both.risk(jnp.array([0., 2.])))
  1.0

  Reference:
    Risk-averse learning with convex scoring functions (2505.04553).
  """
  if not 0 <= weight <= 1:
    raise ValueError(f"weight must be in [0, 1], was {weight}")

  def score(y, v):
    return (1 - weight) * y + weight * measure.score(y, v)

  def risk_of(samples, weights=None):
    of_mean = (1 - weight) * _mean(samples, weights)
    return of_mean + weight * measure.risk(samples, weights)

  name = f"mean and {measure.name}"
  return ScoringFunction(name, score, measure.minimizer, risk_of)


def cvar(
  returns: jax.Array, weights: jax.Array | None = None, *, tau: float
) -> jax.Array:
  """Mean of the worst share tau of returns: the lower tail.

  `CVaR_tau(G) = max_b { b + E min(G - b, 0) / tau }`, minus the expected
  shortfall of the cost -G at `alpha = 1 - tau`; the mean at `tau = 1`.

  Args:
    returns: `[..., n]`, equally likely or of the given weights.
    weights: `[..., n]`, the shape of `returns`: at least 0, divided by their
      sum. A return of weight 0 does not count, whatever it is.
    tau: in `(0, 1]`.

  Returns:
    `[...]`.

  Raises:
    AssertionError: shapes differ, or no floats.
    ValueError: tau is outside `(0, 1]`.

  >>> print(cvar(jnp.array([1., 2., 3., 4.]), tau=.5))
  1.5

  Reference:
    Rockafellar and Uryasev, Optimization of conditional value-at-risk (2000),
    theorem 1.
  """
  if not 0 < tau <= 1:
    raise ValueError(f"tau must be above 0 and at most 1, was {tau}")
  measure = scoring_function("expected_shortfall", alpha=1 - tau)
  return -measure.risk(-returns, weights)
