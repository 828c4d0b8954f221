# SPDX-License-Identifier: Apache-2.0
"""How little must change for a sample to look fair.

Who chooses the sample that an auditor sees can bring its disparate impact to
any value at a small divergence from the true sample. Predictions y and groups S
are 0 or 1, S = 0 the disadvantaged group; shares of y = 1 are called rates.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = (
  "EntropicProjection",
  "ImpactConstraints",
  "ImpactRates",
  "balanced_rates",
  "disparate_impact",
  "entropic_projection",
  "entropic_rates",
  "flip_predictions",
  "group_rates",
  "impact_constraints",
)

Scalar = float | jax.Array


class ImpactRates(NamedTuple):
  """Rates of the two groups after a change.

  Attributes:
    disadvantaged: `[...]`, P(y = 1|S = 0).
    advantaged: `[...]`, P(y = 1|S = 1).
    kl: `[...]`, nats, Kullback-Leibler divergence from the true sample.
  """

  disadvantaged: jax.Array
  advantaged: jax.Array
  kl: jax.Array


class ImpactConstraints(NamedTuple):
  """Means that a sample of a given disparate impact has.

  Attributes:
    features: `[N, 2]`.
    target: `[2]`.
  """

  features: jax.Array
  target: jax.Array


class EntropicProjection(NamedTuple):
  """The closest distribution on a sample that has given means.

  Attributes:
    weights: `[N]`, summing to 1.
    multipliers: `[K]`, xi, the gradient of `kl` by the target.
    kl: `[]`, nats, of the weights from the uniform ones.
    residual: `[]`, the largest error of a mean; not small where no weights
      have these means.
  """

  weights: jax.Array
  multipliers: jax.Array
  kl: jax.Array
  residual: jax.Array


def _kl(p: jax.Array, q: jax.Array) -> jax.Array:
  """KL of two Bernoulli variables, `p log(p/q) + (1 - p) log((1-p)/(1-q))`."""
  of_one = numerics.xlogy(p, p) - numerics.xlogy(p, q)
  return of_one + numerics.xlogy(1 - p, 1 - p) - numerics.xlogy(1 - p, 1 - q)


def group_rates(
  predictions: jax.Array,
  groups: jax.Array,
  weights: jax.Array | None = None,
) -> jax.Array:
  """Share of positive predictions in each of the two groups.

  Args:
    predictions: `[..., N]`, 0 or 1.
    groups: `[..., N]`, 0 or 1.
    weights: `[..., N]`, at least 0; equal by default.

  Returns:
    `[..., 2]`, P(y = 1|S = 0) and P(y = 1|S = 1); NaN for an empty group.

  Raises:
    AssertionError: shapes differ.

  >>> predictions = jnp.array([1, 0, 1, 1, 0, 1])
  >>> print(group_rates(predictions, jnp.array([0, 0, 1, 1, 1, 1])))
  [0.5  0.75]

  Reference:
    Exposing the Illusion of Fairness: Auditing Vulnerabilities to
    Distributional Manipulation Attacks (2507.20708).
  """
  checks.check_same_shape(predictions=predictions, groups=groups)
  if weights is None:
    weights = jnp.ones_like(numerics.as_float(predictions))
  checks.check_same_shape(groups=groups, weights=weights)
  weights = numerics.as_float(weights)
  member = jnp.stack([groups == 0, groups == 1], -2)
  mass = jnp.where(member, weights[..., None, :], 0)
  positive = jnp.where((predictions == 1)[..., None, :], mass, 0)
  return jnp.sum(positive, -1) / jnp.sum(mass, -1)


def disparate_impact(
  predictions: jax.Array,
  groups: jax.Array,
  weights: jax.Array | None = None,
) -> jax.Array:
  """Disparate impact, `P(y = 1|S = 0)/P(y = 1|S = 1)`.

  Below .8 it counts as evidence of discrimination in US law.

  Args:
    predictions: `[..., N]`, 0 or 1.
    groups: `[..., N]`, 0 (disadvantaged) or 1.
    weights: `[..., N]`, at least 0; equal by default.

  Returns:
    `[...]`; NaN for an empty group, inf where only group 0 has positives.

  Raises:
    AssertionError: shapes differ.

  >>> predictions = jnp.array([1, 0, 1, 1])
  >>> print(disparate_impact(predictions, jnp.array([0, 0, 1, 1])))
  0.5

  Reference:
    Exposing the Illusion of Fairness: Auditing Vulnerabilities to
    Distributional Manipulation Attacks (2507.20708).
  """
  rates = group_rates(predictions, groups, weights)
  return rates[..., 0] / rates[..., 1]


# --- entropic projection -----------------------------------------------------


def _newton_step(
  features: jax.Array, target: jax.Array, multipliers: jax.Array
) -> jax.Array:
  """Newton's step on `log mean exp(xi Phi) - xi t`, which is convex in xi."""
  weights = jax.nn.softmax(features @ multipliers)
  mean = weights @ features
  centred = features - mean
  hessian = (weights[:, None] * centred).T @ centred
  # The pseudo-inverse: features may be constant or depend on each other.
  return jnp.linalg.pinv(hessian, hermitian=True) @ (target - mean)


def entropic_projection(
  features: jax.Array, target: jax.Array, *, num_steps: int = 30
) -> EntropicProjection:
  """The distribution on a sample with given means that is closest to it.

  `min KL(Q||P_n)` subject to `E_Q Phi = t` has `Q_i ~ exp(xi Phi_i)`, where xi
  minimises `log mean exp(xi Phi) - xi t`; the divergence is minus that minimum.
  Newton's method with a search along each step.

  Args:
    features: `[N, K]`, Phi of each example.
    target: `[K]`, t, inside the convex hull of the features.
    num_steps: of Newton's method, at least 1.

  Returns:
    `EntropicProjection`; differentiable in both arguments where it has
    converged.

  Raises:
    AssertionError: shapes do not fit, or no floats.
    ValueError: the number of steps is not above 0.

  >>> found = entropic_projection(jnp.array([[0.], [1.]]), jnp.array([.75]))
  >>> print(f"{found.weights[1]:.4f} {found.kl:.4f}")  # log 2 - H(3/4)
  0.7500 0.1308

  Reference:
    Entropic Variable Projection for Model Explainability (1810.07924);
    Exposing the Illusion of Fairness (2507.20708).
  """
  checks.check_positive(num_steps=num_steps)
  checks.check_rank(2, features=features)
  checks.check_float(features=features, target=target)
  checks.check_same_shape(target=target, columns=features[0])
  features, target = numerics.as_float(features), numerics.as_float(target)
  # Subtracting the target changes nothing but keeps the exponents small.
  features = features - target
  zero = jnp.zeros_like(target)
  shorter = 0.5 ** jnp.arange(20, dtype=target.dtype)

  def objective(multipliers):
    return jax.nn.logsumexp(features @ multipliers)

  def search(_, multipliers):
    step = _newton_step(features, zero, multipliers)
    tried = multipliers + shorter[:, None] * step
    values = jax.lax.map(objective, tried)
    best = jnp.argmin(jnp.where(jnp.isnan(values), jnp.inf, values))
    better = values[best] < objective(multipliers)
    return jnp.where(better, tried[best], multipliers)

  found = jax.lax.fori_loop(0, num_steps, search, zero)
  # One more step from a constant: it has the derivatives of the solution, by
  # the implicit function theorem.
  found = jax.lax.stop_gradient(found)
  found = found + _newton_step(features, zero, found)
  weights = jax.nn.softmax(features @ found)
  return EntropicProjection(
    weights=weights,
    multipliers=found,
    kl=jnp.log(len(features)) - objective(found),
    residual=jnp.max(jnp.abs(weights @ features)),
  )


def impact_constraints(
  predictions: jax.Array, groups: jax.Array, *, impact: Scalar
) -> ImpactConstraints:
  """Means that fix the disparate impact and the shares of the groups.

  `Phi = (y (1 - S)/P0 - t y S/P1, S)` with means `(0, P1)`, P0 and P1 the
  shares of the groups. Without the second one the shares move and the impact
  is not t.

  Args:
    predictions: `[N]`, 0 or 1.
    groups: `[N]`, 0 or 1, both present.
    impact: t, above 0.

  Returns:
    `ImpactConstraints`, the arguments of `entropic_projection`.

  Raises:
    AssertionError: ranks or shapes differ.
    ValueError: the impact is not above 0.

  >>> predictions, groups = jnp.array([1, 0, 1, 1]), jnp.array([0, 0, 1, 1])
  >>> found = entropic_projection(
  ...   *impact_constraints(predictions, groups, impact=.8))
  >>> print(f"{disparate_impact(predictions, groups, found.weights):.4f}")
  0.8000

  Reference:
    Exposing the Illusion of Fairness (2507.20708) and its released code.
  """
  checks.check_positive(impact=impact)
  checks.check_rank(1, predictions=predictions, groups=groups)
  checks.check_same_shape(predictions=predictions, groups=groups)
  y, s = numerics.as_float(predictions), numerics.as_float(groups)
  share = jnp.mean(s)
  gap = y * (1 - s) / (1 - share) - impact * y * s / share
  features = jnp.stack([gap, s], -1)
  return ImpactConstraints(features, jnp.stack([jnp.zeros_like(share), share]))


# --- rates -------------------------------------------------------------------


def _as_rates(rates: jax.Array, share: Scalar, impact: Scalar) -> tuple:
  checks.check_positive(impact=impact)
  checks.check_float(rates=rates)
  chex.assert_axis_dimension(rates, -1, 2)
  rates = numerics.as_float(rates)
  return rates[..., 0], rates[..., 1], jnp.asarray(share, rates.dtype)


def _with_kl(low, high, a, b, share) -> ImpactRates:
  kl = (1 - share) * _kl(low, a) + share * _kl(high, b)
  return ImpactRates(low, high, kl)


def entropic_rates(
  rates: jax.Array, share: Scalar, *, impact: Scalar
) -> ImpactRates:
  """The closest rates of a given disparate impact: the projection's, directly.

  `min_r P0 kl(t r||a) + P1 kl(r||b)`, a and b the true rates: one equation in
  one unknown, as the projection is uniform within each group and prediction.

  Args:
    rates: `[..., 2]`, a and b, in (0, 1), as `group_rates` gives them.
    share: P1, of group 1, in (0, 1), a scalar or `[...]`.
    impact: t, scalar above 0.

  Returns:
    `ImpactRates`.

  Raises:
    AssertionError: not two rates, or no floats.
    ValueError: the impact is not above 0.

  >>> found = entropic_rates(jnp.array([.5, .75]), .5, impact=.8)
  >>> print(f"{found.disadvantaged / found.advantaged:.4f} {found.kl:.4f}")
  0.8000 0.0067

  Reference:
    Exposing the Illusion of Fairness (2507.20708); this form is ours.
  """
  a, b, share = _as_rates(rates, share, impact)
  logit = jax.scipy.special.logit

  def slope(r):
    low = impact * (1 - share) * (logit(impact * r) - logit(a))
    return low + share * (logit(r) - logit(b))

  zero = jnp.zeros_like(a)
  most = jnp.minimum(1.0, 1 / jnp.asarray(impact, a.dtype))
  high = numerics.bisect(slope, zero, jnp.broadcast_to(most, a.shape))
  return _with_kl(impact * high, high, a, b, share)


def balanced_rates(
  rates: jax.Array, share: Scalar, *, impact: Scalar
) -> ImpactRates:
  """Rates of a given disparate impact, both moved by the same amount.

  `a + d` and `b - d` with `d = (t b - a)/(1 + t)`: the released code's balanced
  variant, which is not the closest.

  Args:
    rates: `[..., 2]`, a and b, in (0, 1), as `group_rates` gives them.
    share: P1, of group 1, in (0, 1), a scalar or `[...]`.
    impact: t, scalar above 0.

  Returns:
    `ImpactRates`.

  Raises:
    AssertionError: not two rates, or no floats.
    ValueError: the impact is not above 0.

  >>> found = balanced_rates(jnp.array([.5, .75]), .5, impact=.8)
  >>> print(f"{found.disadvantaged:.4f} {found.advantaged:.4f}")
  0.5556 0.6944

  Reference:
    Exposing the Illusion of Fairness (2507.20708), its released code.
  """
  a, b, share = _as_rates(rates, share, impact)
  moved = (impact * b - a) / (1 + impact)
  return _with_kl(a + moved, b - moved, a, b, share)


def flip_predictions(
  key: jax.Array,
  predictions: jax.Array,
  groups: jax.Array,
  *,
  impact: Scalar,
) -> jax.Array:
  """Makes the fewest predictions of group 0 positive that reach an impact.

  Optimal transport of (S, y): `ceil((t b - a) n0)` negative predictions, drawn
  without replacement, become positive.

  Args:
    key: a typed key.
    predictions: `[N]`, 0 or 1.
    groups: `[N]`, 0 or 1, both present.
    impact: t, above 0; rates up to `1/b` times that can be reached.

  Returns:
    `[N]`, of the type of `predictions`; as they were if the impact is as large
    already, and with all of group 0 positive if it cannot be reached.

  Raises:
    AssertionError: ranks or shapes differ.
    ValueError: the impact is not above 0.

  >>> predictions, groups = jnp.array([1, 0, 1, 1]), jnp.array([0, 0, 1, 1])
  >>> flip_predictions(jax.random.key(0), predictions, groups, impact=.8)
  Array([1, 1, 1, 1], dtype=int32)

  Reference:
    Exposing the Illusion of Fairness (2507.20708), the Wasserstein variant.
  """
  checks.check_positive(impact=impact)
  checks.check_rank(1, predictions=predictions, groups=groups)
  checks.check_same_shape(predictions=predictions, groups=groups)
  rates = group_rates(predictions, groups)
  number = jnp.sum(groups == 0)
  missing = (impact * rates[1] - rates[0]) * number
  # A whole number may come out a rounding error above itself.
  slack = 8 * jnp.finfo(rates.dtype).eps * number
  flips = jnp.ceil(missing - slack)
  eligible = (groups == 0) & (predictions == 0)
  order = jax.random.uniform(key, jnp.shape(groups))
  rank = jnp.argsort(jnp.argsort(jnp.where(eligible, order, 2.0)))
  return jnp.where(eligible & (rank < flips), 1, predictions)
