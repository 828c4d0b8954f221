# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from jaxalign.exact import games
from jaxalign.social_choice import nash
from tests import helpers

CYCLE = np.array([[0.5, 0.8, 0.2], [0.2, 0.5, 0.8], [0.8, 0.2, 0.5]])
UNIFORM = np.full(3, -np.log(3))


def random_game(seed, num_actions, scale=1.0):
  """A start, a reference and preferences, made by NumPy."""
  rng = np.random.default_rng(seed)
  logits = scale * rng.normal(size=(2, num_actions))
  odds = scale * np.triu(rng.normal(size=(num_actions, num_actions)), 1)
  policies = scipy.special.log_softmax(logits, -1)
  return policies[0], policies[1], scipy.special.expit(odds - odds.T)


def kl(log_p, log_q):
  # Termwise at least 0, so that it keeps its digits down to 1e-30.
  excess = np.asarray(log_q) - np.asarray(log_p)
  return np.sum(np.exp(log_p) * (np.expm1(excess) - excess), -1)


def best_response(log_pi, log_ref, pref, tau):
  return scipy.special.log_softmax(log_ref + pref @ np.exp(log_pi) / tau)


def equilibrium(log_ref, pref, tau):
  """The equilibrium by root finding in the payoffs, from weak to strong."""
  payoff = pref @ np.exp(log_ref)
  for inverse in np.geomspace(min(1, 1 / tau), 1 / tau, 20):

    def residual(v, inverse=inverse):
      return v - pref @ scipy.special.softmax(log_ref + inverse * v)

    payoff = scipy.optimize.root(residual, payoff, tol=1e-15).x
  assert np.abs(residual(payoff)).max() < 1e-13
  return scipy.special.log_softmax(log_ref + payoff / tau)


@functools.partial(jax.jit, static_argnums=(0, 6))
def iterate(step, log_pi, log_ref, pref, tau, etas, num_steps=None):
  """All iterates `[T, V]` of a step over `etas [T]`, or T steps of one eta."""
  etas = jnp.broadcast_to(etas, (num_steps,)) if num_steps else etas

  def body(log_pi, eta):
    log_pi = step(log_pi, log_ref, pref, tau, eta)
    return log_pi, log_pi

  return jax.lax.scan(body, jnp.asarray(log_pi), etas)[1]


# --- what every function must survive ----------------------------------------


def all_policies(pi, ref, pref):
  """Every function whose result is a policy, one outcome an entry."""
  state = nash.NashEMAState(pi, ref)
  return {
    "geometric_mixture": nash.geometric_mixture(pi, ref, 0.3),
    "nash_md_step": nash.nash_md_step(pi, ref, pref, 0.2, 0.7),
    "self_play_md_step": nash.self_play_md_step(pi, ref, pref, 0.2, 0.7),
    "extragradient_step": nash.extragradient_step(pi, ref, pref, 0.2, 0.7),
    "nash_ema_step": nash.nash_ema_step(state, ref, pref, 0.2, 0.7, 0.6),
  }


def all_numbers(pi, ref, pref):
  """Every function whose result is a number."""
  rho = nash.geometric_mixture(pi, ref, 0.3)
  return {
    "regularized_preference": nash.regularized_preference(
      pi, rho, ref, pref, 0.2
    ),
    "duality_gap": nash.duality_gap(pi, ref, pref, 0.2),
    "duality_gap_0": nash.duality_gap(pi, ref, pref, 0.0),
    "self_play_threshold": nash.self_play_threshold(pi, pref, 0.2),
  }


def everything(pi, ref, pref):
  return all_policies(pi, ref, pref), all_numbers(pi, ref, pref)


def test_transforms_and_permutation():
  pairs = [random_game(seed, 4) for seed in (1, 2)]
  stacked = tuple(np.stack(x) for x in zip(*pairs, strict=True))
  helpers.assert_transforms(everything, *stacked)
  fn = jax.jit(everything)
  # Leading axes are a batch.
  helpers.assert_close(fn(*stacked), jax.vmap(everything)(*stacked))
  order = np.array([2, 0, 3, 1])
  pi, ref, pref = pairs[0]
  policies, numbers = fn(pi, ref, pref)
  moved = jax.tree.map(lambda x: x[order], policies), numbers
  helpers.assert_close(fn(pi[order], ref[order], pref[order][:, order]), moved)


def test_an_outcome_without_mass_is_no_outcome():
  pi, ref, pref = (jnp.asarray(x) for x in random_game(3, 4))
  gone = np.array([False, False, True, False])
  keep = ~gone
  pi = jax.nn.log_softmax(jnp.where(gone, -jnp.inf, pi))
  ref = jax.nn.log_softmax(jnp.where(gone, -jnp.inf, ref))

  def total(pi, ref, pref):
    values = everything(pi, ref, pref)
    squares = [
      (i + 1) * jnp.sum(jnp.where(x > -jnp.inf, x, 0) ** 2)
      for i, x in enumerate(jax.tree.leaves(values))
    ]
    return sum(squares), values

  slopes = jax.jit(jax.grad(total, (0, 1), has_aux=True))
  with jax.debug_nans(True):
    gradients, (policies, numbers) = slopes(pi, ref, pref)
  sliced, values = slopes(pi[keep], ref[keep], pref[keep][:, keep])
  for policy in jax.tree.leaves(policies):
    assert np.all(policy[gone] == -np.inf)
  kept = jax.tree.map(lambda x: x[keep], policies), numbers
  helpers.assert_close(kept, values)
  for gradient, expected in zip(gradients, sliced, strict=True):
    assert np.all(gradient[gone] == 0)
    helpers.assert_close(gradient[keep], expected)


def test_gradients():
  pi, ref, pref = random_game(4, 4)

  @jax.jit
  def scalars(pi, pref):
    policies, numbers = everything(jax.nn.log_softmax(pi), ref, pref)
    policies = jax.tree.map(lambda x: x @ jnp.arange(4.0), policies)
    return jnp.stack(jax.tree.leaves((policies, numbers)))

  names = len(scalars(pi, pref))
  for i in range(names):
    helpers.assert_gradient(lambda *args, i=i: scalars(*args)[i], pi, pref)


def test_wrong_arguments_raise():
  pi, ref, pref = random_game(0, 3)
  state = nash.NashEMAState(pi, pi)
  with pytest.raises(AssertionError, match="log_pi .3,., log_ref .2,."):
    nash.geometric_mixture(pi, ref[:2], 0.5)
  with pytest.raises(AssertionError, match="need floats: log_pi int"):
    nash.geometric_mixture(np.zeros(3, int), ref, 0.5)
  with pytest.raises(AssertionError, match="need rank 0: coef"):
    nash.geometric_mixture(pi, ref, np.full(3, 0.5))
  for coef in (-0.1, 1.1, np.nan):
    with pytest.raises(ValueError, match="coef must be in .0, 1., was"):
      nash.geometric_mixture(pi, ref, coef)
  with pytest.raises(ValueError, match="one row and one column .*was .2, 2."):
    nash.duality_gap(pi, ref, pref[:2, :2], 0.1)
  with pytest.raises(ValueError, match="one row and one column"):
    # No silent broadcasting of one game over a batch of policies.
    nash.nash_md_step(np.stack([pi, pi]), np.stack([ref, ref]), pref, 0.1, 1.0)
  with pytest.raises(AssertionError, match="need floats: pref int"):
    nash.duality_gap(pi, ref, np.ones((3, 3), int), 0.1)
  with pytest.raises(AssertionError, match="need rank 0: tau"):
    nash.duality_gap(pi, ref, pref, np.full(3, 0.1))
  with pytest.raises(ValueError, match="tau must be at least 0, was -1"):
    nash.regularized_preference(pi, pi, ref, pref, -1.0)
  with pytest.raises(ValueError, match="eta . tau must be in .0, 1., was 2"):
    nash.nash_md_step(pi, ref, pref, 1.0, 2.0)
  for step in (
    nash.nash_md_step,
    nash.self_play_md_step,
    nash.extragradient_step,
  ):
    with pytest.raises(ValueError, match="eta must be above 0, was"):
      step(pi, ref, pref, 0.0, 0.0)
    with pytest.raises(ValueError, match="tau must be"):
      step(pi, ref, pref, -1.0, 0.1)
  with pytest.raises(ValueError, match="decay must be in"):
    nash.nash_ema_step(state, ref, pref, 0.1, 1.0, 2.0)
  with pytest.raises(ValueError, match="tau must be above 0, was 0"):
    nash.self_play_threshold(pi, pref, 0.0)


# --- the game ----------------------------------------------------------------


_play = jax.jit(nash.regularized_preference)
_gap = jax.jit(nash.duality_gap)


@pytest.mark.parametrize("tau", [0.0, 0.3])
def test_regularized_preference(tau):
  pi, ref, pref = random_game(5, 4)
  other = random_game(6, 4)[0]
  expected = 0.0
  for x in range(4):
    for y in range(4):
      expected += np.exp(pi[x]) * np.exp(other[y]) * pref[x, y]
  expected += tau * (kl(other, ref) - kl(pi, ref))
  value = _play(pi, other, ref, pref, tau)
  helpers.assert_close(value, expected)
  helpers.assert_close(value + _play(other, pi, ref, pref, tau), 1.0)
  helpers.assert_close(_play(pi, pi, ref, pref, tau), 0.5)


def test_preference_with_mass_outside_the_reference():
  pi, other, pref = np.log([0.5, 0.5]), np.log([0.2, 0.8]), np.full((2, 2), 0.5)
  ref = first = np.array([0.0, -np.inf])
  with jax.debug_nans(True):
    assert _play(pi, first, ref, pref, 0.1) == -np.inf
    assert _play(first, pi, ref, pref, 0.1) == np.inf
    helpers.assert_close(_play(pi, other, ref, pref, 0.0), 0.5)
    assert _gap(pi, ref, pref, 0.1) == np.inf
    helpers.assert_close(_gap(pi, ref, pref, 0.0), 0.0)
  assert np.isnan(_play(pi, other, ref, pref, 0.1))


@pytest.mark.parametrize("tau", [0.02, 0.3, 2.0])
def test_duality_gap(tau):
  pi, ref, pref = random_game(7, 5)
  star = equilibrium(ref, pref, tau)
  # The gap is a difference of numbers of size 1/2.
  assert abs(_gap(star, ref, pref, tau)) < 1e-14
  best = best_response(pi, ref, pref, tau)
  gap = _gap(pi, ref, pref, tau)
  helpers.assert_close(gap, 2 * tau * kl(pi, best))
  helpers.assert_close(
    gap, _play(best, pi, ref, pref, tau) - _play(pi, best, ref, pref, tau)
  )
  for seed in range(50):
    other = random_game(seed, 5)[0]
    # No other policy gains more, and none but the equilibrium has gap 0.
    assert _play(other, pi, ref, pref, tau) < gap / 2 + 0.5
    assert _gap(other, ref, pref, tau) > 0
  bump = scipy.special.log_softmax(star + 1e-3 * np.arange(5))
  assert _gap(bump, ref, pref, tau) > 1e-11
  slope = jax.grad(_gap)(star, ref, pref, tau)
  # Motions that keep the sum 1 change nothing to first order.
  helpers.assert_close(slope / np.exp(star) - slope.sum(), np.zeros(5))


def test_duality_gap_without_regularisation():
  pi, ref, pref = random_game(8, 5)
  gap = _gap(pi, ref, pref, 0.0)
  helpers.assert_close(gap, 2 * ((pref @ np.exp(pi)).max() - 0.5))
  # tau logsumexp(log mu + P pi / tau) is within tau log(1 / mu) of the best.
  for tau in np.geomspace(1e-6, 1e-2, 5):
    bound = 2 * tau * (np.max(-ref) + kl(pi, ref))
    assert abs(_gap(pi, ref, pref, tau) - gap) <= bound
  # What the reference lacks is no answer, and so in the limit of small tau.
  best = np.arange(5) == np.argmax(pref @ np.exp(pi))
  pi, ref = (
    scipy.special.log_softmax(np.where(best, -np.inf, x)) for x in (pi, ref)
  )
  gap = _gap(pi, ref, pref, 0.0)
  rates = pref @ np.exp(pi)
  helpers.assert_close(gap, 2 * (rates[~best].max() - 0.5))
  assert rates[best] > rates[~best].max()
  helpers.assert_close(gap, _gap(pi, ref, pref, 1e-9), atol=1e-7)
  for pref in (CYCLE, games.rock_paper_scissors(np.array([0.9, 0.7, 0.6]))):
    (lottery,) = games.enumerate_maximal_lotteries(pref)
    helpers.assert_close(_gap(np.log(lottery), UNIFORM, pref, 0.0), 0.0)
    assert _gap(np.log([0.5, 0.3, 0.2]), UNIFORM, pref, 0.0) > 0.01


# --- one step ----------------------------------------------------------------


def test_geometric_mixture():
  pi, ref, _ = random_game(9, 4)
  for coef in (0.0, 0.3, 1.0):
    expected = np.exp(pi) ** (1 - coef) * np.exp(ref) ** coef
    helpers.assert_close(
      nash.geometric_mixture(pi, ref, coef), np.log(expected / expected.sum())
    )
  twice = nash.geometric_mixture(nash.geometric_mixture(pi, ref, 0.3), ref, 0.2)
  helpers.assert_close(twice, nash.geometric_mixture(pi, ref, 0.44))
  mean = jax.jit(lambda *args: nash.geometric_mixture(*args) @ jnp.arange(4.0))
  helpers.assert_gradient(mean, pi, ref, np.array(0.3))


def test_geometric_mixture_of_zeros():
  p = jnp.log(jnp.array([0.5, 0.5, 0.0, 0.0]))
  q = jnp.log(jnp.array([0.0, 0.2, 0.8, 0.0]))
  with jax.debug_nans(True):
    helpers.assert_close(nash.geometric_mixture(p, q, 0.0), p)
    helpers.assert_close(nash.geometric_mixture(p, q, 1.0), q)
    one = np.array([-np.inf, 0, -np.inf, -np.inf])
    helpers.assert_close(nash.geometric_mixture(p, q, 0.5), one)
    nothing = nash.geometric_mixture(p, q[::-1].at[1].set(-jnp.inf), 0.5)
    assert np.all(nothing == -np.inf)
    slope = jax.grad(lambda c: nash.geometric_mixture(p, q, c)[1])(0.5)
    assert slope == 0


def test_steps_equal_their_multiplicative_form():
  pi, ref, pref = random_game(10, 5)
  tau, eta = 0.3, 0.8
  p, mu = np.exp(pi), np.exp(ref)

  def step(opponent):
    weights = p ** (1 - eta * tau) * mu ** (eta * tau)
    weights = weights * np.exp(eta * pref @ opponent)
    return weights / weights.sum()

  mixture = p ** (1 - eta * tau) * mu ** (eta * tau)
  mixture /= mixture.sum()
  for fn, expected in (
    (nash.nash_md_step, step(mixture)),
    (nash.self_play_md_step, step(p)),
    (nash.extragradient_step, step(step(p))),
  ):
    helpers.assert_close(jnp.exp(fn(pi, ref, pref, tau, eta)), expected)
  ema = np.exp(random_game(11, 5)[0])
  state = nash.nash_ema_step(
    nash.NashEMAState(pi, np.log(ema)), ref, pref, tau, eta, 0.9
  )
  average = ema**0.9 * step(ema) ** 0.1
  helpers.assert_close(jnp.exp(state.log_pi), step(ema))
  helpers.assert_close(jnp.exp(state.log_ema), average / average.sum())


@pytest.mark.parametrize("tau", [0.05, 0.5])
def test_the_equilibrium_is_where_the_steps_rest(tau):
  _, ref, pref = random_game(12, 5)
  star, eta = equilibrium(ref, pref, tau), 0.7
  for step in (nash.self_play_md_step, nash.extragradient_step):
    helpers.assert_close(step(star, ref, pref, tau, eta), star)
  state = nash.NashEMAState(star, star)
  helpers.assert_close(
    nash.nash_ema_step(state, ref, pref, tau, eta, 0.9), state
  )
  # Nash-MD rests elsewhere: its opponent is the mixture.
  moved = nash.nash_md_step(star, ref, pref, tau, eta)
  assert np.abs(moved - star).max() > 1e-4


# --- Nash-MD -----------------------------------------------------------------


def test_nash_md_contracts_at_every_step():
  tau = 0.5
  for seed in range(8):
    # Starts are far away, so that the contraction matters, not only 2 eta^2.
    _, ref, pref = random_game(seed, 4, scale=5.0)
    star = equilibrium(ref, pref, tau)
    start = scipy.special.log_softmax(-star)
    for eta in (0.01, 0.1, 0.5, 1.0, 2.0):
      path = iterate(nash.nash_md_step, start, ref, pref, tau, eta, 60)
      after = kl(star, np.asarray(path))
      before = np.concatenate([[kl(star, start)], after[:-1]])
      slack = (1 - eta * tau) * before + 2 * eta**2 - after
      assert np.all(slack > 0)
      # Far away and for a small step the bound demands progress.
      assert eta > 0.1 or eta * tau * before[0] > 2 * eta**2


@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_nash_md_rate_with_decreasing_steps(tau):
  etas = 2 / (tau * (np.arange(2000) + 2))
  for seed in range(3):
    start, ref, pref = random_game(seed, 6)
    star = equilibrium(ref, pref, tau)
    path = iterate(nash.nash_md_step, start, ref, pref, tau, etas)
    distance = kl(star, np.asarray(path))
    bound = 8 / (tau**2 * (np.arange(1, 2001) + 1))
    assert np.all(distance <= bound)
    # The bound is far from tight, the last iterate is much closer.
    assert distance[-1] < 1e-2 * bound[-1]


def test_nash_md_floor_of_a_constant_step():
  tau, floors = 0.2, []
  start, ref, pref = random_game(1, 6)
  star = equilibrium(ref, pref, tau)
  for eta in (0.5, 0.1):
    path = iterate(nash.nash_md_step, start, ref, pref, tau, eta, 3000)
    rho = equilibrium(ref, pref, tau / (1 - eta * tau))
    limit = best_response(rho, ref, pref, tau)
    helpers.assert_close(path[-1], limit)
    floors.append(kl(star, limit))
  # The bias is O(eta), its KL O(eta^2): five times the step, 25 times the KL.
  assert 20 < floors[0] / floors[1] < 30
  assert 1e-5 < floors[0] < 1e-3


# --- self-play ---------------------------------------------------------------


def test_self_play_threshold():
  value = nash.self_play_threshold(UNIFORM, CYCLE, 0.02)
  assert abs(value - 1.31579) < 5e-6
  # omega^2 = 3 (.3)^2 / 9 for this cycle.
  helpers.assert_close(value, 0.04 / (0.02**2 + 0.03))
  for seed, tau in ((0, 0.05), (1, 0.3)):
    _, ref, pref = random_game(seed, 5)
    star = equilibrium(ref, pref, tau)
    p = np.exp(star)
    squares, vectors = np.linalg.eigh(np.diag(p) - np.outer(p, p))
    square_root = vectors * np.sqrt(np.maximum(squares, 0)) @ vectors.T
    skew = square_root @ (pref - 0.5) @ square_root
    omega = np.abs(np.linalg.eigvals(skew)).max()
    # The square root of a singular matrix has half of the digits.
    threshold = nash.self_play_threshold(star, pref, tau)
    np.testing.assert_allclose(threshold, 2 * tau / (tau**2 + omega**2), 1e-6)
    # It is where the spectral radius of the step's derivative passes 1.

    @jax.jit
    def derivative(eta, star=star, ref=ref, pref=pref, tau=tau):
      def step(x):
        pi = jax.nn.log_softmax(x)
        return nash.self_play_md_step(pi, ref, pref, tau, eta)

      return jax.jacobian(step)(star)

    radii = [
      np.abs(np.linalg.eigvals(derivative(f * threshold))).max()
      for f in (0.999, 1.001)
    ]
    assert 0.998 < radii[0] < 1 < radii[1] < 1.002


@pytest.mark.parametrize(("eta", "converges"), [(1.31, True), (1.33, False)])
def test_self_play_converges_below_the_threshold_and_cycles_above(
  eta, converges
):
  tau, omega = 0.02, np.sqrt(0.03)
  start = jax.nn.log_softmax(UNIFORM + np.array([1e-3, 0, -1e-3]))
  run = functools.partial(
    iterate, nash.self_play_md_step, log_ref=UNIFORM, pref=CYCLE, tau=tau
  )
  path = kl(UNIFORM, np.asarray(run(start, etas=eta, num_steps=40_000)))
  growth = (1 - eta * tau) ** 2 + (eta * omega) ** 2
  # The square of the modulus, up to the cubic terms of a start of size 1e-3.
  measured = (path[2000] / path[0]) ** (1 / 2000)
  assert abs(measured - growth) < 1e-6
  if converges:
    assert path[-1] < 2e-4 * path[0]
  else:
    # A limit cycle: the distance stays put, and every action has its turn.
    late = np.asarray(run(start, etas=eta, num_steps=40_000))[-200:]
    assert path[-1000:].min() > 1e-3 and path.max() < 1
    assert np.ptp(path[-1000:]) < 0.1 * path[-1]
    assert set(late.argmax(-1)) == {0, 1, 2}


# --- extragradient -----------------------------------------------------------


@pytest.mark.parametrize("weight", [0.05, 0.1])
def test_extragradient_factor(weight):
  # On the cycle the derivative is a single complex mode, in closed form.
  tau, omega = 0.3, np.sqrt(0.03)
  eta = weight / tau
  start = jax.nn.log_softmax(UNIFORM + np.array([1e-4, 0, -1e-4]))
  step = nash.extragradient_step
  path = kl(UNIFORM, iterate(step, start, UNIFORM, CYCLE, tau, eta, 60))
  turn = 1j * eta * omega
  factor = abs(1 - weight + turn * (1 - weight + turn)) ** 2
  # Up to terms of third order in the start.
  assert np.abs(path[1:] / path[:-1] - factor).max() < 2e-6

  # On larger games the last iterate is linear with about (1 - eta tau)^2.
  tau = 0.2
  start, ref, pref = random_game(1, 6)
  star = equilibrium(ref, pref, tau)
  path = iterate(step, start, ref, pref, tau, weight / tau, 100)
  path = kl(star, np.asarray(path))
  measured = (path[99] / path[0]) ** (1 / 99)
  assert abs(measured / (1 - weight) ** 2 - 1) < 0.01
  assert np.all(path[1:] < path[:-1])


def test_extragradient_converges_where_self_play_cycles():
  start = np.log([0.5, 0.3, 0.2])
  args = (start, UNIFORM, CYCLE, 0.02, 2.0, 400)
  assert kl(UNIFORM, iterate(nash.extragradient_step, *args)[-1]) < 1e-12
  assert kl(UNIFORM, iterate(nash.self_play_md_step, *args)[-1]) > 0.1


# --- multiplicative weights, averages ----------------------------------------


def test_multiplicative_weights_orbit_and_average_to_uniform():
  eta, num_steps = 0.02, 20_000
  start = np.log([0.5, 0.3, 0.2])
  step = nash.self_play_md_step
  path = iterate(step, start, UNIFORM, CYCLE, 0.0, eta, num_steps)
  distance = kl(UNIFORM, np.asarray(path))
  # The iterates never approach: the KL does not fall, by Jensen's inequality.
  assert np.all(np.diff(distance) > -1e-15)
  assert distance[0] <= distance[-1]
  assert set(np.asarray(path).argmax(-1)) == {0, 1, 2}
  # Hedge's regret: log(M) / (eta T) + eta / 8, from a start with min pi = .2.
  average = np.log(np.exp(np.asarray(path)).mean(0))
  gap = nash.duality_gap(average, UNIFORM, CYCLE, 0.0)
  assert gap <= 2 * (np.log(1 / 0.2) / (eta * num_steps) + eta / 8)
  # A regret of that size, over the least margin .3 of a departure.
  assert np.abs(np.exp(average) - 1 / 3).max() < 0.01


@pytest.mark.parametrize(("tau", "eta"), [(0.2, 0.5), (0.02, 1.33)])
def test_nash_ema_derivative_and_convergence(tau, eta):
  center = np.eye(3) - 1 / 3
  payoff = eta * (CYCLE - 0.5) @ center / 3
  start = jax.nn.log_softmax(UNIFORM + np.array([1e-3, 0, -1e-3]))

  def step(state, decay):
    return nash.nash_ema_step(state, UNIFORM, CYCLE, tau, eta, decay)

  @jax.jit
  def derivative(decay):
    def flat(x):
      state = nash.NashEMAState(*jax.nn.log_softmax(x.reshape(2, 3)))
      return jnp.concatenate(step(state, decay))

    return jax.jacobian(flat)(np.tile(UNIFORM, 2))

  @jax.jit
  def run(decay):
    def body(state, _):
      state = step(state, decay)
      return state, state.log_pi

    return jax.lax.scan(body, nash.NashEMAState(start, start), None, 2000)[1]

  for decay in (0.0, 0.5, 0.95):
    keep, lag = (1 - eta * tau) * center, (1 - decay)
    expected = np.block(
      [[keep, payoff], [lag * keep, decay * center + lag * payoff]]
    )
    helpers.assert_close(derivative(decay), expected)
    radius = np.abs(np.linalg.eigvals(expected)).max()
    path = run(decay)
    end = kl(UNIFORM, path[-1])
    # The average lags behind: it does not cure the cycles of self-play.
    assert (end < 1e-20) if tau == 0.2 else (end > 1e-6)
    assert (radius < 1) == (tau == 0.2)
    if decay == 0.0:
      args = (start, UNIFORM, CYCLE, tau, eta, 2000)
      helpers.assert_close(path, iterate(nash.self_play_md_step, *args))


def test_nash_ema_with_a_fixed_opponent_finds_its_best_response():
  start, ref, pref = random_game(13, 4)

  def body(state, _):
    return nash.nash_ema_step(state, ref, pref, 0.5, 1.0, 1.0), None

  state, _ = jax.lax.scan(body, nash.NashEMAState(start, start), None, 100)
  helpers.assert_close(state.log_ema, start)
  helpers.assert_close(state.log_pi, best_response(start, ref, pref, 0.5))


# --- transitive preferences --------------------------------------------------


def test_bradley_terry_equilibrium_concentrates_on_the_best():
  rewards = np.array([0.3, 1.0, -0.5, 0.6])
  pref = scipy.special.expit(rewards[:, None] - rewards)
  ref = random_game(18, 4)[1]
  best, gaps = [], []
  for tau in (1.0, 0.1, 0.01, 0.003):
    star = equilibrium(ref, pref, tau)
    best.append(np.exp(star[1]))
    gaps.append(float(nash.duality_gap(star, ref, pref, 0.0)))
    start = best_response(ref, ref, pref, tau)
    # tau = .003 wants small steps: eta tau = .001 and |eta P| below 1.
    eta = min(0.5 / tau, 1.0)
    path = iterate(nash.extragradient_step, start, ref, pref, tau, eta, 9000)
    helpers.assert_close(jnp.exp(path[-1]), np.exp(star), atol=1e-6)
  assert np.all(np.diff(best) > 0) and best[-1] > 1 - 1e-6
  assert np.all(np.diff(gaps) < 0) and gaps[-1] < 1e-6
  (lottery,) = games.enumerate_maximal_lotteries(pref)
  helpers.assert_close(lottery, np.eye(4)[1])
