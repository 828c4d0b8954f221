# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import nash
from experiments.stages.nash import (
  algorithms,
  linearisation,
  multiplicative_weights,
  runs,
  stability,
  worlds,
)
from jaxalign.social_choice import nash as dynamics
from jaxalign.social_choice import nash_losses
from tests.experiments import conventions


def test_claims_reproduce():
  conventions.assert_reproduces(nash)


def test_another_seed_gives_other_games():
  conventions.assert_seed_matters(nash, "kl", "gap", "bias_theory")


# --- the theory --------------------------------------------------------------


def world(config, index):
  """One game of a configuration and its solution, in NumPy."""
  keys = jax.random.split(config.key(), config.num_seeds)
  game = worlds.make_games(
    keys,
    np.float64(config.win_prob),
    np.float64(config.scale),
    actions=config.actions,
  )
  game = jax.tree.map(np.asarray, game)
  solution = worlds.solve(game, tau=config.tau, shares=config.shares)
  return jax.tree.map(lambda x: x[index], (game, solution))


def factors_of(config, game, solution):
  return linearisation.factors(
    game, solution, tau=config.tau, decay=config.decay
  )


def test_factors_on_the_symmetric_cycle_are_the_closed_forms():
  config = nash.Config.from_preset("smoke", decay=0.7)
  game, solution = world(config, worlds.CYCLE)
  tau, omega = config.tau, (config.win_prob - 0.5) / 3**0.5
  np.testing.assert_allclose(solution.star[:3], np.log(1 / 3))
  threshold = 2 * tau / (tau**2 + omega**2)
  np.testing.assert_allclose(solution.threshold, threshold)
  etas = threshold * np.array(config.shares)
  np.testing.assert_allclose(solution.etas, etas)

  def self_play(eta):
    return 1 - eta * tau + 1j * eta * omega

  def ipo(b):
    turn = (1 - b) * omega / tau
    return 1 - 4 / 3 * (tau * threshold / 4) * (1 - 1j * turn)

  last, d = etas[-1], 0.7
  keep, turn = 1 - last * tau, 1j * last * omega
  ema = np.array([[keep, turn], [(1 - d) * keep, d + (1 - d) * turn]])
  b = etas * tau
  expected = [
    *((1 - b) * (1 + 1j * etas * omega)),
    np.nan,
    self_play(last),
    self_play(0.9 * threshold),
    self_play(1.1 * threshold),
    keep + turn * self_play(last),
    np.abs(np.linalg.eigvals(ema)).max(),
    ipo(0),
    *ipo(b),
    *ipo(b),
  ]
  factors = factors_of(config, game, solution)
  np.testing.assert_allclose(factors, np.abs(expected) ** 2, rtol=1e-12)
  constant = linearisation.decreasing_constant(game, solution, tau=tau)
  # The reference is the equilibrium: there is nothing to be biased by.
  assert abs(constant) < 1e-25


def test_factors_are_those_of_the_derivatives_of_the_steps():
  config = nash.Config.from_preset("smoke")
  game, solution = world(config, 2)

  def derivative(algorithm):
    """`[k, A, A]` at the limits, of the state's halves where it has two."""
    pair = isinstance(algorithm.start, tuple)

    def step(x):
      if not pair:
        return algorithm.step(jax.nn.log_softmax(x), 0)
      halves = (jax.nn.log_softmax(half) for half in jnp.split(x, 2, -1))
      state = algorithm.step(type(algorithm.start)(*halves), 0)
      return jnp.concatenate(state, -1)

    limit = jnp.concatenate([algorithm.limit] * (1 + pair), -1)
    # Not autodiff: losses that stop the gradient of the sampling policy have
    # steps that depend on it all the same.
    shifts = 1e-5 * jnp.eye(limit.shape[-1])
    ahead, behind = (
      jax.vmap(lambda shift, sign=sign: step(limit + sign * shift))(shifts)
      for sign in (1, -1)
    )
    return jnp.moveaxis((ahead - behind) / 2e-5, 0, -1)

  @jax.jit
  def derivatives(game, solution):
    table = algorithms.algorithms(game, solution, config.tau, config.decay)
    return [x for algorithm in table for x in derivative(algorithm)]

  factors = factors_of(config, game, solution)
  (decreasing,) = np.nonzero(np.isnan(factors))
  assert decreasing == len(config.shares)
  found = [
    np.abs(np.linalg.eigvals(x)).max() ** 2 for x in derivatives(game, solution)
  ]
  found[decreasing[0]] = np.nan
  # Constants are mapped to 0 and add no eigenvalue. Differences have an error
  # of 1e-10 by their step and by rounding, more where eigenvalues nearly
  # coincide.
  np.testing.assert_allclose(factors, found, rtol=1e-8)


def test_limits_are_best_responses_to_the_mixtures_they_sample():
  config = nash.Config.from_preset("smoke")
  game, solution = world(config, 2)
  for eta, rho, limit in zip(
    solution.etas, solution.mixtures, solution.limits, strict=True
  ):
    b = eta * config.tau
    mixed = np.exp((1 - b) * limit + b * game.log_ref)
    np.testing.assert_allclose(mixed / mixed.sum(), np.exp(rho), rtol=1e-12)
    paid = np.exp(game.log_ref + game.pref @ np.exp(rho) / config.tau)
    np.testing.assert_allclose(paid / paid.sum(), np.exp(limit), rtol=1e-12)


def test_actions_that_a_cycle_lacks_stay_out_of_it():
  config = nash.Config.from_preset("smoke")
  for index in range(2):
    game, solution = world(config, index)
    for log_pi in (game.log_ref, game.log_start, solution.star):
      np.testing.assert_array_equal(log_pi[3:], -np.inf)
      np.testing.assert_allclose(np.exp(log_pi).sum(), 1)
    assert np.all(np.exp(solution.limits[:, 3:]) == 0)


# --- the fits ----------------------------------------------------------------


def test_fits_recover_what_made_the_curve():
  t = np.arange(1, 10_001)
  kl = 3e-3 * 0.97**t
  np.testing.assert_allclose(runs.fitted_factor(kl, runs.DECAY), 0.97)
  np.testing.assert_allclose(
    runs.fitted_factor(1e-16 / 0.97**t, runs.GROWTH), 1 / 0.97
  )
  # A curve that never enters the window has no rate.
  assert np.isnan(runs.fitted_factor(np.ones(100), runs.DECAY))
  # The first tenth is left out; step 0 has no logarithm.
  path = np.concatenate([np.full(1000, np.nan), 5 * t[999:] ** -2.5])
  np.testing.assert_allclose(runs.fitted_exponents(path[None]), [-2.5])
  for exponent in (-2, -1, 0):
    wave = t ** float(exponent) * np.abs(np.sin(t / 100))
    # The peaks are met to within a turn, a fiftieth of the shorter half.
    assert abs(multiplicative_weights.envelope_exponent(wave) - exponent) < 0.05


def test_threshold_of_the_literature():
  with jax.enable_x64(True):
    found = stability.stability()
  assert abs(found.curves["stability_threshold"] - 1.31579) < 5e-6
  (rows,) = found.tables.values()
  factors = {row["eta"]: row["theory"] for row in rows}
  assert factors[1.31] < 1 < factors[1.33]


# --- what cannot be used -----------------------------------------------------


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("--tau=0", "tau must be above 0 and finite, was 0.0"),
    ("--scale=-1", "scale must be above 0 and finite, was -1.0"),
    ("--win_prob=0.5", "win_prob must be in (0.5, 1], was 0.5"),
    ("--actions=2", "actions must be at least 3, was 2"),
    ("--steps=10", "steps must be at least 100, was 10"),
    ("--shares=0.1", "shares must be two or more increasing numbers"),
    ("--shares=0.2,0.1", "in (0, 0.5), was 0.2,0.1"),
    ("--shares=0.2,0.6", "in (0, 0.5), was 0.2,0.6"),
    ("--shares=a,b", "--shares takes floats separated by commas"),
    ("--decay=1", "decay must be in [0, 1), was 1.0"),
    ("--num_seeds=1", "num_seeds must be at least 2"),
    ("--step=3", "Unknown command line flag 'step'"),
    # Known only when the games are solved.
    ("--steps=200", "steps must be at least"),
  ],
)
def test_unusable_flags_exit_2_and_write_nothing(
  argument, message, capsys, tmp_path
):
  output = tmp_path / "out"
  arguments = ["nash", "--preset=smoke", f"--output_dir={output}", argument]
  assert nash.main(arguments) == 2
  error = capsys.readouterr().err
  assert error.count("\n") == 1 and message in error
  assert not output.exists()


def test_divergence_is_told_from_slow_convergence():
  names, factors = ["a", "b", "c"], np.array([[0.9, np.nan, 2.0]])
  runs.check_steps(names, factors, 2, 1000)
  with pytest.raises(ValueError, match="steps must be at least 438 for a to"):
    runs.check_steps(names, factors, 2, 400)
  with pytest.raises(ValueError, match="c does not converge, .* by 2 a step"):
    runs.check_steps(names, factors, 0, 1000)


# --- claims fail where what they check is broken -----------------------------


@pytest.fixture
def fresh_programs():
  """Forgets compiled programs, which would not see a patch or outlive it."""
  programs = (
    worlds.solve_strengths,
    algorithms.play,
    stability.play,
    multiplicative_weights.play,
  )
  for program in programs:
    program.clear_cache()
  yield
  for program in programs:
    program.clear_cache()


def test_wrong_steps_and_losses_fail(monkeypatch, fresh_programs):
  nash_md_step = dynamics.nash_md_step
  ipo_md_loss = nash_losses.ipo_md_loss

  def less_preferred(log_pi, log_ref, pref, tau, eta):
    return nash_md_step(log_pi, log_ref, 1 - pref, tau, eta)

  def half_mixed(log_pi, log_ref, pref, tau, coef):
    return ipo_md_loss(log_pi, log_ref, pref, tau, coef / 2)

  monkeypatch.setattr(dynamics, "nash_md_step", less_preferred)
  monkeypatch.setattr(nash_losses, "ipo_md_loss", half_mixed)
  # Does not look ahead.
  monkeypatch.setattr(
    dynamics, "extragradient_step", dynamics.self_play_md_step
  )
  config = nash.Config.from_preset("smoke")
  claims = nash.run(config, progress=False).claims
  assert conventions.failed(claims) == {
    "one_step_inequality",
    "decreasing_steps_bound",
    "decreasing_steps_exponent",
    "decreasing_steps_constant",
    "nash_md_limit",
    "ipo_md_limit",
    "equal_floors",
    "bias_floor",
    "ipo_md_rate",
    "extragradient_rate",
    "rates_on_random_games",
  }


def test_a_wrong_threshold_fails(monkeypatch, fresh_programs):
  right = dynamics.self_play_threshold
  monkeypatch.setattr(
    dynamics, "self_play_threshold", lambda *args: 0.7 * right(*args)
  )
  assert conventions.failed(stability.stability().claims) == {
    "self_play_threshold"
  }
  claims = nash.run(nash.Config.from_preset("smoke"), progress=False).claims
  assert "sides_of_the_threshold" in conventions.failed(claims)


def test_regularised_weights_approach(monkeypatch, fresh_programs):
  right = dynamics.self_play_md_step

  def regularised(log_pi, log_ref, pref, tau, eta):
    return right(log_pi, log_ref, pref, tau + 0.1, eta)

  monkeypatch.setattr(dynamics, "self_play_md_step", regularised)
  part = multiplicative_weights.multiplicative_weights(win_prob=0.8)
  assert "multiplicative_weights_never_approach" in conventions.failed(
    part.claims
  )
