# SPDX-License-Identifier: Apache-2.0
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.special
import scipy.stats

from experiments import divergence_bounds, plotting
from experiments.stages.divergence_bounds import (
  alignment,
  conjugates,
  critics,
  gaussian_pair,
  lower_bounds,
  modes,
  registry,
  rounding,
  transport,
)
from jaxalign.divergences import categorical, generators
from tests.experiments import conventions


def test_claims_reproduce():
  conventions.assert_reproduces(divergence_bounds)


def test_another_seed_gives_other_draws():
  conventions.assert_seed_matters(
    divergence_bounds,
    "bound/kl",
    "bound/donsker_varadhan",
    "sinkhorn",
    "cauchy_schwarz",
    "ours",
    "plain",
  )


def test_every_generator_is_shown():
  curves = conjugates.conjugates().curves
  for name in generators.NAMES:
    assert np.all(np.isfinite(curves[f"f/{name}"])), name
    assert np.all(np.isfinite(curves[f"f_prime/{name}"])), name


def test_closed_forms_by_adaptive_quadrature():
  p, q = scipy.stats.norm(0.3, 0.8), scipy.stats.norm(-0.5, 1.3)
  by_ratio = {
    "kl": lambda u: u * np.log(u),
    "reverse_kl": lambda u: -np.log(u),
    "jeffreys": lambda u: (u - 1) * np.log(u),
    "pearson_chi2": lambda u: (u - 1) ** 2,
    "squared_hellinger": lambda u: (np.sqrt(u) - 1) ** 2 / 2,
    "le_cam": lambda u: (1 - u) ** 2 / (1 + u) / 2,
    "jensen_shannon": lambda u: (
      (u * np.log(u) - (u + 1) * np.log((u + 1) / 2)) / 2
    ),
    "alpha": lambda u: (u**0.4 - 0.4 * u - 0.6) / (0.4 * -0.6),
    "total_variation": lambda u: np.abs(u - 1) / 2,
    "hockey_stick": lambda u: np.maximum(u - 1.5, 0),
  }
  by_ratio["donsker_varadhan"] = by_ratio["kl"]
  values = gaussian_pair.closed_forms(gaussian_pair.LOG_P, gaussian_pair.LOG_Q)
  assert set(values) == set(by_ratio)
  # Where p/q crosses a kink of f: a quadratic equation in x.
  curvature = (1 / 1.3**2 - 1 / 0.8**2) / 2
  slope = 0.3 / 0.8**2 + 0.5 / 1.3**2
  for name, f in by_ratio.items():
    threshold = 1.5 if name == "hockey_stick" else 1.0
    constant = p.logpdf(0) - q.logpdf(0) - np.log(threshold)
    kinks = np.sort(np.roots([curvature, slope, constant]))
    edges = [-12, *kinks, 12]
    exact = sum(
      scipy.integrate.quad(
        lambda x, f=f: q.pdf(x) * f(p.pdf(x) / q.pdf(x)), a, b, epsabs=1e-12
      )[0]
      for a, b in itertools.pairwise(edges)
    )
    # The trapezoid rule meets a kink within a step of .007.
    kinked = name in ("total_variation", "hockey_stick")
    np.testing.assert_allclose(
      values[name], exact, rtol=0, atol=1e-5 if kinked else 1e-9
    )


@pytest.mark.parametrize("name", ["donsker_varadhan", *gaussian_pair.bounded()])
def test_exact_bounds_are_means_of_the_sampled_ones(name):
  x = jnp.linspace(-2, 2, 7)
  params = jnp.array([0.3, -0.2, -0.4])
  uniform = jnp.full(7, 1 / 7)
  value, spread = critics.population(name, params, x, uniform, uniform)
  v = critics.quadratic(params, x)
  np.testing.assert_allclose(value, critics.bound(name, v, v), atol=1e-12)
  assert 0 < spread < 10
  # Outcomes that the laws lack do not count.
  padded = jnp.append(uniform, 0)
  again = critics.population(name, params, jnp.append(x, 0.5), padded, padded)
  np.testing.assert_allclose(again, (value, spread), atol=1e-12)


def test_critics_know_the_optimum():
  """log(p/q) is quadratic, and through g the optimum of the tight bounds."""
  grid, log_p = gaussian_pair.GRID, gaussian_pair.LOG_P
  log_q = gaussian_pair.LOG_Q
  log_ratio = np.polyfit(grid, log_p - log_q, 2)[::-1]
  closed = gaussian_pair.closed_forms(log_p, log_q)
  # In the activations of the table: v = 1 + log u, log u, and halves of it.
  optimum = {
    "donsker_varadhan": log_ratio,
    "kl": log_ratio + np.array([1, 0, 0]),
    "reverse_kl": log_ratio,
    "jensen_shannon": log_ratio,
    "squared_hellinger": log_ratio / 2,
    "alpha": 0.6 * log_ratio,
  }
  assert set(optimum) == {*lower_bounds.TIGHT, *lower_bounds.HEAVY}
  for name, params in optimum.items():
    value, _ = critics.population(name, params, grid, *gaussian_pair.masses())
    # The grid ends where reverse KL's integrand is still 1e-8 of its peak.
    np.testing.assert_allclose(value, closed[name], rtol=1e-9, err_msg=name)


def test_numbers_of_the_fits():
  # Printed to three decimals.
  for alpha, expected in (
    (1.0, (-0.331, 2.019)),
    (0.6, (-1.926, 0.857)),
    (1.2, (-0.284, 2.106)),
  ):
    found = modes.search(alpha)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-4)

    # The optimum is stationary: E s = 0 and alpha / sd^2 = -E s', with s the
    # derivative of log target (Bonnet, Price).
    model = scipy.stats.norm(*found)

    def score(x):
      left = scipy.special.expit(np.log(1.5) - 4 * x)  # of the mode at -2
      return -x - 2 * left + 2 * (1 - left)

    def curvature(x):
      left = scipy.special.expit(np.log(1.5) - 4 * x)
      return -1 + 16 * left * (1 - left)

    means = [
      scipy.integrate.quad(
        lambda x, f=f, model=model: model.pdf(x) * f(x),
        -20,
        20,
        points=[-2, 0, 2],
      )[0]
      for f in (score, curvature)
    ]
    # The search stops where the objective is flat, a few 1e-8 off.
    np.testing.assert_allclose(means[0], 0, atol=1e-6)
    np.testing.assert_allclose(-means[1], alpha / found[1] ** 2, atol=1e-6)


def test_plain_forms_are_the_divergences():
  p, q = np.random.default_rng(0).normal(size=(2, 3, 6))
  plain = rounding.plain_forms(
    np,
    scipy.special.log_softmax(p, -1),
    scipy.special.log_softmax(q, -1),
    lambda x: scipy.special.logsumexp(x, -1),
  )
  assert set(plain) == set(rounding.OURS)
  assert set(rounding.CANCELLING) < set(plain)
  for name, fn in rounding.OURS.items():
    np.testing.assert_allclose(fn(jnp.array(p), jnp.array(q)), plain[name])


def test_single_precision_is_single(key):
  arrays = rounding.in_float32(
    key, jnp.array([0.1], jnp.float32), rows=2, outcomes=5
  )
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(arrays))


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("--draws=10", "draws must be at least 100, was 10"),
    ("--steps=0", "steps must be at least 1, was 0"),
    ("--points=1", "points must be at least 2, was 1"),
    ("--points=100", "points must be at most 64"),
    ("--outcomes=10", "outcomes must be at least 100, was 10"),
    ("--rows=many", "rows"),
  ],
)
def test_unusable_flags_exit_2_and_write_nothing(
  argument, message, capsys, tmp_path
):
  output = tmp_path / "out"
  arguments = ["divergence_bounds", f"--output_dir={output}", argument]
  assert divergence_bounds.main(arguments) == 2
  error = capsys.readouterr().err
  assert error.count("\n") == 1 and message in error
  assert not output.exists()


# --- claims fail where what they check is broken -----------------------------

CRITICS = {"num_seeds": 2, "draws": 10_000, "fresh": 200_000, "steps": 250}


@functools.cache
def trained() -> dict:
  """What critics of the first key learn, once for all tests that spoil it."""
  options = dict(CRITICS)
  keys = jax.random.split(jax.random.key(0), options.pop("num_seeds"))
  laws = gaussian_pair.GRID, *gaussian_pair.masses()
  return critics.train_critics(keys, *laws, **options)


def spoil_critics(monkeypatch, change):
  """Replaces the training of critics by its result, changed."""
  found = change(trained())
  monkeypatch.setattr(critics, "train_critics", lambda *_, **__: found)


def spoil(monkeypatch, owner, name, change):
  """Replaces a program by itself followed by a change of its result."""
  right = getattr(owner, name)
  monkeypatch.setattr(
    owner, name, lambda *a, **options: change(right(*a, **options))
  )


@pytest.mark.parametrize(
  ("factor", "names"),
  [
    (0.9, {"donsker_varadhan", "nwj", "critics_that_contain_the_optimum"}),
    (
      1.1,
      {
        "donsker_varadhan",
        "nwj",
        "bounds_below_closed_forms",
        "fresh_bounds_below_closed_forms",
      },
    ),
  ],
)
def test_bounds_too_low_or_too_high_fail(monkeypatch, key, factor, names):
  def scale(found):
    return {
      name: value | {k: factor * value[k] for k in ("fresh", "population")}
      for name, value in found.items()
    }

  spoil_critics(monkeypatch, scale)
  claims = lower_bounds.lower_bounds(key, **CRITICS).claims
  assert conventions.failed(claims) == names


def test_a_bound_without_a_value_fails(monkeypatch, key):
  name = "jensen_shannon"  # neither the first nor the last

  def lose(found):
    return found | {name: jax.tree.map(lambda x: x * np.nan, found[name])}

  spoil_critics(monkeypatch, lose)
  assert conventions.failed(
    lower_bounds.lower_bounds(key, **CRITICS).claims
  ) == {
    "bounds_below_closed_forms",
    "fresh_bounds_below_closed_forms",
    "critics_that_contain_the_optimum",
  }


def _biased(found):
  path = {
    cost: result._replace(value=result.value + 0.1)
    for cost, result in found["path"].items()
  }
  return found | {"path": path}


def _unsolved(found):
  path = {
    cost: result._replace(converged=jnp.zeros_like(result.converged))
    for cost, result in found["path"].items()
  }
  return found | {"path": path}


@pytest.mark.parametrize("change", [_biased, _unsolved])
def test_a_biased_or_unsolved_transport_fails(monkeypatch, key, change):
  spoil(monkeypatch, transport, "transport_of_clouds", change)
  found = transport.transport(key, points=24)
  assert conventions.failed(found.claims) == {
    claim.name for claim in found.claims
  }
  # And the failure can be shown.
  figure, (axes,) = plotting.figure()
  transport.draw(axes, found.curves)
  figure.draw_without_rendering()


def test_a_divergence_that_sees_scales_fails(monkeypatch, key):
  spoil(
    monkeypatch,
    alignment,
    "three_modalities",
    lambda x: (x[0], 1.01 * x[1], x[2]),
  )
  claims = alignment.alignment(key, points=24).claims
  assert conventions.failed(claims) == {"cauchy_schwarz_scale"}


@pytest.fixture
def fresh_programs():
  """Forgets compiled programs, which would not see a patch or outlive it."""
  programs = (
    conjugates.evaluate_generators,
    gaussian_pair.closed_forms,
    critics.train_critics,
    modes.fit_gaussians,
    rounding.in_float32,
  )
  for program in programs:
    program.clear_cache()
  yield
  for program in programs:
    program.clear_cache()


def test_a_wrong_direction_fails(monkeypatch, fresh_programs):
  kl = categorical.kl
  monkeypatch.setattr(categorical, "kl", lambda p, q: kl(q, p))
  assert conventions.failed(modes.modes().claims) >= {
    "reverse_kl_mean",
    "reverse_kl_sd",
    "forward_kl_mean",
    "forward_kl_sd",
  }


def test_a_plain_form_in_the_library_fails(monkeypatch, key, fresh_programs):
  def plain(p, q):
    a, b = jax.nn.log_softmax(p), jax.nn.log_softmax(q)
    return jnp.sum(jnp.exp(a) * (a - b), -1)

  monkeypatch.setattr(rounding, "CANCELLING", ("kl",))
  monkeypatch.setattr(rounding, "OURS", {"kl": plain})
  claims = rounding.rounding(key, rows=16, outcomes=1000).claims
  assert conventions.failed(claims) == {"float32_ours"}


def test_a_wrong_conjugate_fails(monkeypatch, key, fresh_programs):
  right = generators.f_divergence("kl")
  # Touches e^(t-1) at 1 and is below it nearly everywhere else.
  wrong = right._replace(conjugate=lambda t: t + (t - 1) ** 2 / 10)
  names = (gaussian_pair.DV, gaussian_pair.NWJ)
  monkeypatch.setattr(lower_bounds, "TIGHT", names)
  monkeypatch.setattr(registry, "registry", lambda: {"kl": wrong})
  assert conventions.failed(conjugates.conjugates().claims) == {
    "fenchel_equality"
  }
  claims = lower_bounds.lower_bounds(
    key, num_seeds=2, draws=10_000, fresh=500, steps=100
  ).claims
  assert "bounds_below_closed_forms" in conventions.failed(claims)
