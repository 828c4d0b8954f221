# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from jaxalign.rl import scoring
from tests import helpers

PARAMETERS = {
  "asymmetric_variance": {"alpha": 0.7},
  "entropic": {"level": 0.8},
  "entropic_value_at_risk": {"alpha": 0.6},
  "expected_shortfall": {"alpha": 0.6},
  "variance": {},
}
MEASURES = {n: scoring.scoring_function(n, **p) for n, p in PARAMETERS.items()}
NAMES = sorted(MEASURES)
SCALAR = [name for name in NAMES if name != "entropic_value_at_risk"]


@jax.jit
def risks(samples, weights):
  return {name: m.risk(samples, weights) for name, m in MEASURES.items()}


@jax.jit
def minimizers(samples, weights):
  return {name: m.minimizer(samples, weights) for name, m in MEASURES.items()}


@pytest.fixture(scope="module")
def costs():
  """Samples [4, 7] with ties, and weights."""
  rng = np.random.default_rng(0)
  samples = rng.normal(size=(4, 7))
  samples[0, 3] = samples[0, 1]
  weights = rng.uniform(0.2, 1, size=(4, 7))
  return samples, weights / weights.sum(-1, keepdims=True)


def formulas(y, p):
  """What the literature defines each measure to be, by scipy and sorting."""
  mean = p @ y
  entropic = lambda b: scipy.special.logsumexp(b * y, b=p) / b
  order = np.argsort(-y)
  tail = np.diff(np.minimum(np.cumsum(p[order]), 0.4), prepend=0) / 0.4
  at_risk = scipy.optimize.minimize_scalar(
    lambda log_t: entropic(np.exp(log_t)) - np.log(0.4) / np.exp(log_t),
    bounds=(-8, 8),
    method="bounded",
    options={"xatol": 1e-12},
  )
  expectile = scipy.stats.expectile(y, 0.7, weights=p)
  sides = np.where(y <= expectile, 0.3, 0.7)
  return {
    "asymmetric_variance": (p @ (sides * (y - expectile) ** 2), expectile),
    "entropic": (entropic(0.8), entropic(0.8)),
    "entropic_value_at_risk": (at_risk.fun, at_risk.fun),
    "expected_shortfall": (
      tail @ y[order],
      np.quantile(y, 0.6, weights=p, method="inverted_cdf"),
    ),
    "variance": (p @ (y - mean) ** 2, mean),
  }


def test_minima_and_minimisers_are_those_of_the_definitions(costs):
  found, at = risks(*costs), minimizers(*costs)
  for i, (y, p) in enumerate(zip(*costs, strict=True)):
    for name, (value, threshold) in formulas(y, p).items():
      v = at[name][0] if name == "entropic_value_at_risk" else at[name]
      # scipy stops at about the root of the rounding from its optimum.
      np.testing.assert_allclose(found[name][i], value, rtol=1e-9, atol=1e-9)
      np.testing.assert_allclose(v[i], threshold, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SCALAR)
def test_no_threshold_scores_less(name, costs):
  samples, weights = costs
  measure = MEASURES[name]

  @jax.jit
  def expected(v):
    return jnp.sum(weights * measure.score(samples, v), -1)

  grid = jnp.linspace(-4, 4, 161)
  best = np.min(jax.vmap(expected)(grid), 0)
  least = risks(*costs)[name]
  assert np.all(least <= best + 1e-14)
  # And it is attained: f at the minimiser.
  attained = expected(minimizers(*costs)[name][:, None])
  helpers.assert_close(attained, least)


def test_the_entropic_value_at_risk_is_least_over_both(costs):
  samples, weights = costs
  measure = MEASURES["entropic_value_at_risk"]

  @jax.jit
  def expected(v, t):
    return jnp.sum(weights * measure.score(samples, (v, t)), -1)

  least = risks(*costs)[measure.name]
  v, t = minimizers(*costs)[measure.name]
  helpers.assert_close(expected(v[:, None], t[:, None]), least)
  for shift in (-0.1, 0.1):
    assert np.all(expected(v[:, None] + shift, t[:, None]) > least)
    assert np.all(expected(v[:, None], t[:, None] * (1 + shift)) > least)


def test_a_heavy_maximum_is_the_entropic_value_at_risk():
  measure = MEASURES["entropic_value_at_risk"]
  samples, weights = jnp.array([0.0, 1.0, 3.0]), jnp.array([0.3, 0.2, 0.5])
  assert measure.risk(samples, weights) == 3
  v, t = measure.minimizer(samples, weights)
  assert v == 3 and t == jnp.inf
  np.testing.assert_array_equal(
    measure.score(jnp.array([0.0, 3.0, 3.5]), (v, t)), [3, 3, np.inf]
  )


def test_weights_are_repetitions():
  samples = jnp.array([1.0, -2.0, 3.0, jnp.nan])
  weights = jnp.array([2.0, 1.0, 3.0, 0.0])
  repeated = jnp.array([1.0, 1.0, -2.0, 3.0, 3.0, 3.0])
  found = risks(samples, weights), minimizers(samples, weights)
  same = jnp.ones(6)
  helpers.assert_close(
    found, (risks(repeated, same), minimizers(repeated, same))
  )
  helpers.assert_close(
    {name: m.risk(repeated) for name, m in MEASURES.items()}, found[0]
  )


def test_translation_and_scale(costs):
  samples, weights = costs
  base, moved = risks(samples, weights), risks(samples + 2, weights)
  doubled = risks(2 * samples, weights)
  for name in ("entropic", "entropic_value_at_risk", "expected_shortfall"):
    helpers.assert_close(moved[name], base[name] + 2)
  for name in ("variance", "asymmetric_variance"):
    helpers.assert_close(moved[name], base[name], rtol=1e-9)
    helpers.assert_close(doubled[name], 4 * base[name])
  for name in ("entropic_value_at_risk", "expected_shortfall"):
    helpers.assert_close(doubled[name], 2 * base[name])
  # The entropic value at risk bounds the shortfall of the same level.
  assert np.all(base["entropic_value_at_risk"] >= base["expected_shortfall"])


def test_mean_and_risk_in_combination(costs):
  samples, weights = costs
  both = scoring.mean_risk(MEASURES["variance"], weight=0.3)
  mean = np.sum(samples * weights, -1)
  expected = 0.7 * mean + 0.3 * risks(*costs)["variance"]
  helpers.assert_close(both.risk(samples, weights), expected)
  v = both.minimizer(samples, weights)[:, None]
  scored = jnp.sum(weights * both.score(samples, v), -1)
  helpers.assert_close(scored, expected)
  assert both.name == "mean and variance"


def test_cvar_is_the_mean_of_the_worst(costs):
  returns = jnp.array([4.0, 1.0, 3.0, 2.0])
  fn = jax.jit(scoring.cvar, static_argnames="tau")
  for tau, worst in ((0.25, 1.0), (0.5, 1.5), (0.625, 1.8), (1.0, 2.5)):
    helpers.assert_close(fn(returns, tau=tau), worst)
  samples, weights = costs
  helpers.assert_close(
    fn(samples, weights, tau=1.0), np.sum(samples * weights, -1)
  )


def test_gradients(costs):
  samples, weights = (jnp.asarray(x[1]) for x in costs)  # without ties
  total = lambda y, w: sum(jnp.sum(r) for r in risks(y, w).values())
  # Differences move no sample past another nor past a quantile.
  helpers.assert_gradient(total, samples, weights, rtol=1e-5)


def test_samples_without_weight_have_no_gradient():
  samples = jnp.array([1.0, -2.0, 3.0, jnp.nan])
  weights = jnp.array([0.5, 0.1, 0.4, 0.0])

  @jax.jit
  @jax.grad
  def slope(y):
    return sum(r for r in risks(y, weights).values())

  found = slope(samples)
  assert found[-1] == 0 and jnp.all(jnp.isfinite(found))


def test_transforms(costs):
  samples, weights = (jnp.asarray(x[1:3]) for x in costs)

  def fn(y, p):
    return {name: m.risk(y, p) for name, m in MEASURES.items()}

  # The bisection of the entropic value at risk ends within roundings.
  helpers.assert_transforms(fn, samples, weights, rtol=1e-9)


def test_bad_input():
  with pytest.raises(ValueError, match="unknown risk measure 'cvar': choose"):
    scoring.scoring_function("cvar", alpha=0.5)
  with pytest.raises(ValueError, match="variance takes no parameter: was alp"):
    scoring.scoring_function("variance", alpha=0.5)
  with pytest.raises(ValueError, match="entropic takes level: was alpha"):
    scoring.scoring_function("entropic", alpha=0.5)
  with pytest.raises(
    ValueError, match="expected_shortfall takes alpha: was no"
  ):
    scoring.scoring_function("expected_shortfall")
  for name in ("asymmetric_variance", "entropic_value_at_risk"):
    with pytest.raises(ValueError, match="alpha must be between 0 and 1, was"):
      scoring.scoring_function(name, alpha=0.0)
  with pytest.raises(ValueError, match="below 1, was 1"):
    scoring.scoring_function("expected_shortfall", alpha=1.0)
  with pytest.raises(ValueError, match="level must be above 0"):
    scoring.scoring_function("entropic", level=0.0)
  with pytest.raises(ValueError, match="weight must be in"):
    scoring.mean_risk(MEASURES["variance"], weight=1.5)
  with pytest.raises(ValueError, match="tau must be above 0 and at most 1"):
    scoring.cvar(jnp.ones(2), tau=0.0)
  for measure in MEASURES.values():
    with pytest.raises(AssertionError, match="weights"):
      measure.risk(jnp.ones(2), jnp.ones(3))
    with pytest.raises(AssertionError, match="floats"):
      measure.risk(jnp.ones(2, int), None)
