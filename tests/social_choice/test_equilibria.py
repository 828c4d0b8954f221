# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from jaxalign.divergences import categorical
from jaxalign.exact import games
from jaxalign.social_choice import equilibria, nash, policies
from tests import helpers

CYCLE = np.array([[0.5, 0.8, 0.2], [0.2, 0.5, 0.8], [0.8, 0.2, 0.5]])
TILTED = np.log(np.array([0.8, 0.1, 0.1]))

regularized = equilibria.regularized_nash
in_ball = equilibria.kl_ball_nash
lottery = equilibria.maximal_lottery


def skew(seed, size, batch=()):
  x = np.random.default_rng(seed).uniform(-1, 1, size=(*batch, size, size))
  x = np.triu(x, 1)
  return (x - x.swapaxes(-1, -2)) / 2


def reference(seed, size, batch=(), scale=2.0):
  logits = scale * np.random.default_rng(seed).normal(size=(*batch, size))
  return scipy.special.log_softmax(logits, -1)


# --- regularised -------------------------------------------------------------


def test_fixed_point_and_optimality():
  log_ref, payoff = reference(0, 5, (64,)), skew(1, 5, (64,))
  inv_lam = np.geomspace(1e-3, 1e3, 64)
  log_policy, residual = regularized(log_ref, payoff, inv_lam)
  paid = np.einsum("bxy,by->bx", payoff, np.exp(log_policy))
  best = scipy.special.log_softmax(log_ref + inv_lam[:, None] * paid, -1)
  # Payoffs are rounded to 1e-16 and multiplied by at most 1e3.
  helpers.assert_close(log_policy, best, atol=1e-12)
  assert np.max(residual * inv_lam) < 1e-12
  # Nobody gains by leaving: the gap of the regularised game is 0.
  gap = nash.duality_gap(
    log_policy[20], log_ref[20], payoff[20] + 0.5, 1 / inv_lam[20]
  )
  assert abs(gap) < 1e-14


def test_against_root_finding():
  log_ref, payoff = reference(2, 4), skew(3, 4)
  found = scipy.optimize.root(
    lambda v: v - payoff @ scipy.special.softmax(log_ref + 5 * v),
    np.zeros(4),
    tol=1e-14,
  ).x
  expected = scipy.special.log_softmax(log_ref + 5 * found)
  helpers.assert_close(regularized(log_ref, payoff, 5.0).log_policy, expected)
  # Win probabilities and margins are the same game.
  shifted = regularized(log_ref, payoff + 0.5, 5.0)
  helpers.assert_close(shifted.log_policy, expected)


def test_limits_of_regularisation():
  log_ref, payoff = reference(4, 4), skew(5, 4)
  helpers.assert_close(regularized(log_ref, payoff, 0.0).log_policy, log_ref)
  strong = regularized(TILTED, CYCLE, 1e6)
  np.testing.assert_allclose(np.exp(strong.log_policy), 1 / 3, atol=1e-5)
  # Nothing to win: the reference stays at any strength.
  idle = regularized(log_ref, np.zeros((4, 4)), 100.0)
  helpers.assert_close(idle.log_policy, log_ref)


def test_distance_grows_with_strength():
  log_ref, payoff = reference(6, 5, (20,)), skew(7, 5, (20,))
  strengths = np.geomspace(0.01, 1e3, 40)
  log_policy, _ = jax.vmap(regularized, (None, None, 0))(
    log_ref, payoff, strengths
  )
  distance = categorical.kl(log_policy, jnp.broadcast_to(log_ref, (40, 20, 5)))
  # Where the lottery is all but reached, growth is below rounding.
  growth = np.diff(distance, axis=0)
  assert np.all(growth > -1e-12) and np.all(growth[:20] > 0)


def test_thousands_of_games_are_solved():
  """Hard ones too: random skew payoffs, references down to e^-12."""
  log_ref, payoff = reference(8, 5, (4096,), 4.0), skew(9, 5, (4096,))
  inv_lam = np.exp(np.random.default_rng(10).uniform(-2, 7, 4096))
  _, residual = regularized(log_ref, payoff, inv_lam)
  assert np.max(residual * inv_lam) < 1e-8


def test_regularized_gradients():
  weights = np.array([1.0, -2.0, 0.3, 0.7])
  helpers.assert_gradient(
    jax.jit(lambda ref, a, s: regularized(ref, a, s).log_policy @ weights),
    reference(11, 4),
    skew(12, 4),
    np.array(7.0),
  )


def test_missing_reference_mass():
  log_ref = np.append(reference(13, 3), -np.inf)
  payoff = skew(14, 4)
  payoff[3, :3], payoff[:3, 3] = 0.5, -0.5  # would win everything
  with jax.debug_nans(True):
    log_policy = regularized(log_ref, payoff, 5.0).log_policy
    ball = in_ball(log_ref, payoff, 0.01).log_policy
    whole = in_ball(log_ref, payoff, np.inf).log_policy
    slope = jax.jit(jax.grad(lambda ref: regularized(ref, payoff, 5.0)[0][0]))
    gradient = slope(log_ref)
  inner = payoff[:3, :3]
  helpers.assert_close(
    log_policy[:3], regularized(log_ref[:3], inner, 5.0).log_policy
  )
  helpers.assert_close(ball[:3], in_ball(log_ref[:3], inner, 0.01).log_policy)
  helpers.assert_close(np.exp(whole[:3]), np.exp(lottery(inner).log_policy))
  assert log_policy[3] == ball[3] == whole[3] == -np.inf
  assert gradient[3] == 0 and np.all(np.isfinite(gradient))


# --- maximal lotteries -------------------------------------------------------


def linear_program(payoff):
  """The value of the game and a maximal lottery, by scipy."""
  size = len(payoff)
  result = scipy.optimize.linprog(
    np.append(np.zeros(size), -1),
    A_ub=np.hstack([-payoff.T, np.ones((size, 1))]),
    b_ub=np.zeros(size),
    A_eq=np.append(np.ones(size), 0)[None],
    b_eq=[1],
    bounds=[(0, 1)] * size + [(None, None)],
    method="highs",
  )
  return -result.fun, result.x[:-1]


@pytest.mark.parametrize("size", [3, 6, 40])
def test_lottery_against_linear_programming(size):
  payoffs = skew(size, size, (12,))
  log_policy, gap = lottery(payoffs)
  assert np.max(gap) < 1e-15
  for payoff, policy in zip(payoffs, np.exp(log_policy), strict=True):
    value, expected = linear_program(payoff)
    assert abs(value) < 1e-8
    # Generic lotteries are unique; the program is solved to 1e-9 or so.
    np.testing.assert_allclose(policy, expected, rtol=0, atol=1e-6)
    assert np.sum(policy > 0) % 2 == 1


def test_lottery_of_three():
  payoffs = skew(20, 3, (200,))
  policy = np.exp(lottery(payoffs).log_policy)
  cycles = 0
  for a, p in zip(payoffs, policy, strict=True):
    if np.sign(a[0, 1]) == np.sign(a[1, 2]) == np.sign(a[2, 0]):
      weights = np.abs([a[1, 2], a[2, 0], a[0, 1]])
      helpers.assert_close(p, weights / weights.sum())
      cycles += 1
    else:
      assert p[np.argmin((a < 0).sum(1))] == 1
  assert cycles > 20
  expected = games.enumerate_maximal_lotteries(payoffs[0] + 0.5)
  helpers.assert_close(policy[0], expected[0])


def test_lottery_of_hundreds():
  for seed in range(3):
    payoff = skew(30 + seed, 300)
    if seed == 2:  # margins of all sizes
      payoff *= np.exp(-10 * np.abs(skew(31, 300)))
    log_policy, gap = lottery(payoff)
    policy = np.exp(np.asarray(log_policy))
    helpers.assert_close(policy.sum(), 1.0)
    assert np.max(payoff @ policy) <= 1e-15 and gap < 1e-15
    assert np.sum(policy > 0) % 2 == 1
  # A narrow Condorcet winner takes all, exactly.
  payoff = skew(33, 300)
  payoff[7], payoff[:, 7] = 1e-13, -1e-13
  payoff[7, 7] = 0
  log_policy, gap = lottery(payoff)
  assert log_policy[7] == 0 and gap == 0


def test_lottery_with_ties():
  # Nothing to win: the centre of all lotteries is uniform.
  helpers.assert_close(
    lottery(np.zeros((4, 4))).log_policy, np.full(4, -np.log(4))
  )
  # Two tie and beat the third: all their mixtures are maximal, and both serve.
  payoff = np.array([[0, 0, 0.1], [0, 0, 0.3], [-0.1, -0.3, 0]])
  log_policy, gap = lottery(payoff)
  assert np.all(np.exp(log_policy[:2]) > 0.3) and gap == 0
  assert log_policy[2] == -np.inf
  # Tournaments of +-1 and 0, where lotteries need not be unique.
  payoffs = np.round(1.5 * skew(34, 7, (50,)))
  assert np.max(lottery(payoffs).residual) < 1e-15
  # Clones share, whatever their number, and others do not notice.
  clones = np.array([0, 1, 2, 2, 2])
  policy = np.exp(lottery(CYCLE[clones][:, clones]).log_policy)
  helpers.assert_close(policy, np.array([3, 3, 1, 1, 1]) / 9)
  assert float(jnp.exp(lottery(np.zeros((1, 1))).log_policy)[0]) == 1


def test_lottery_mask_is_slice():
  payoff = skew(35, 6)
  payoff[4:] = np.nan
  payoff[:, 4:] = np.nan
  mask = np.arange(6) < 4
  log_policy, gap = lottery(payoff, where=mask)
  sliced = lottery(payoff[:4, :4])
  helpers.assert_close(np.exp(log_policy[:4]), np.exp(sliced.log_policy))
  assert np.all(log_policy[4:] == -np.inf) and gap < 1e-15


def test_lottery_gradients():
  weights = np.array([1.0, -2.0, 0.3])
  scalar = jax.jit(lambda a: jnp.exp(lottery(a).log_policy) @ weights)
  helpers.assert_gradient(scalar, CYCLE)
  # With five, two of them unused: the rest moves as if alone.
  payoff = np.pad(CYCLE, (0, 2), constant_values=0.1)
  payoff[:3, 3:] = 0.9
  payoff[3:, 3:] = 0.5
  slope = jax.jit(jax.grad(lambda a: jnp.exp(lottery(a)[0])[:3] @ weights))
  gradient = slope(payoff)
  helpers.assert_close(gradient[:3, :3], jax.grad(scalar)(CYCLE))
  assert np.all(np.abs(gradient[3:]) < 1e-15)
  assert np.all(np.abs(gradient[:, 3:]) < 1e-15)
  # A Condorcet winner stays one.
  with jax.debug_nans(True):
    assert np.all(slope(np.triu(np.ones((5, 5)))) == 0)


# --- in the ball -------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="num_steps")
def mirror_prox(log_ref, payoff, tau, num_steps=3000):
  """Extragradient with projections: another way to the same equilibrium."""

  def move(log_policy, at):
    return policies.kl_ball_project(
      log_policy + payoff @ jnp.exp(at), log_ref, tau
    )

  def step(log_policy, _):
    return move(log_policy, move(log_policy, log_policy)), None

  return jax.lax.scan(step, log_ref, length=num_steps)[0]


def test_ball_against_mirror_prox():
  log_ref, payoff = jnp.asarray(reference(40, 6)), jnp.asarray(skew(41, 6))
  for tau in (0.05, 0.3):
    log_policy, gap = in_ball(log_ref, payoff, tau)
    helpers.assert_close(categorical.kl(log_policy, log_ref), tau)
    assert abs(gap) < 1e-15
    other = mirror_prox(log_ref, payoff, tau)
    best = policies.kl_ball_value(log_ref, payoff @ jnp.exp(other), tau)
    assert abs(best) < 1e-14
    # The gap is quadratic in the error where it is strictly concave.
    np.testing.assert_allclose(log_policy, other, rtol=0, atol=1e-7)


def test_ball_is_the_regularised_game_of_its_radius():
  log_ref, payoff = reference(42, 5, (256,)), skew(43, 5, (256,))
  inv_lam = np.exp(np.random.default_rng(44).uniform(-4, 6, 256))
  expected = regularized(log_ref, payoff, inv_lam).log_policy
  tau = categorical.kl(expected, jnp.asarray(log_ref))
  log_policy, gap = in_ball(log_ref, payoff, tau)
  assert np.max(np.abs(gap)) < 1e-14
  # A policy near the end of its path is known as well as its KL is.
  np.testing.assert_allclose(
    np.exp(log_policy), np.exp(expected), rtol=0, atol=1e-8
  )
  # KL is computed from logits of up to 400, rounded to 1e-13.
  distance = categorical.kl(log_policy, jnp.asarray(log_ref))
  np.testing.assert_allclose(distance, tau, rtol=1e-11)


def test_ball_large_and_small():
  for payoff in (CYCLE, skew(45, 3), np.zeros((3, 3))):
    everything = in_ball(TILTED, payoff, np.inf)
    helpers.assert_close(
      np.exp(everything.log_policy), np.exp(lottery(payoff).log_policy)
    )
    assert abs(everything.residual) < 1e-15
    nothing = in_ball(TILTED, payoff, 0.0)
    helpers.assert_close(nothing.log_policy, TILTED)
    tiny = in_ball(TILTED, payoff, 1e-12)
    assert categorical.kl(tiny.log_policy, jnp.asarray(TILTED)) < 1.001e-12
  # The ball contains the uniform lottery from here on.
  reach = float(np.log(1 / 3) - TILTED.mean())
  near, far = (in_ball(TILTED, CYCLE, reach * (1 + d)) for d in (-1e-9, 1e-9))
  np.testing.assert_allclose(near.log_policy, far.log_policy, atol=1e-4)
  helpers.assert_close(far.log_policy, np.full(3, np.log(1 / 3)))


def test_ball_with_a_mass_beyond_all_exponents():
  """References down to e^-1e12, where the KL jumps within a few roundings."""
  payoff = np.array([[0, 0.2, -0.4], [-0.2, 0, -0.4], [0.4, 0.4, 0]])
  for size in (1e3, 1e5, 1e8, 1e12):
    log_ref = jnp.array([np.log(0.5), np.log(0.5), -size])
    log_policy, gap = in_ball(log_ref, payoff, 1.0)
    # The strongest is out of reach: the better of the others takes all.
    np.testing.assert_allclose(np.exp(log_policy[0]), 1, rtol=1 / size)
    assert 0 < np.exp(log_policy[2]) < 1 / size and abs(gap) < 1e-14
    distance = categorical.kl(log_policy, log_ref)
    # Logits of this size are rounded by 1e-16 of it.
    assert 1 - 1e-12 * max(size, 1e-12) ** 0.85 < distance <= 1 + 1e-15


def test_ball_gradients():
  weights = np.array([1.0, -2.0, 0.3])
  scalar = jax.jit(lambda ref, a, t: in_ball(ref, a, t).log_policy @ weights)
  helpers.assert_gradient(scalar, TILTED, CYCLE, np.array(0.2))
  # Where the ball does not bind the lottery's own derivative is left.
  slopes = jax.jit(jax.grad(scalar, (0, 1, 2)))(TILTED, CYCLE, 2.0)
  expected = jax.grad(lambda a: lottery(a).log_policy @ weights)(CYCLE)
  helpers.assert_close(slopes[1], expected)
  assert np.all(slopes[0] == 0) and slopes[2] == 0
  # A lottery that is not unique does no harm where it is not used.
  with jax.debug_nans(True):
    slopes = jax.jit(jax.grad(scalar, (0, 1)))(
      TILTED, np.full((3, 3), 0.5), 0.0
    )
  assert all(np.all(np.isfinite(s)) for s in slopes)


# --- all of them -------------------------------------------------------------


def test_invariance():
  log_ref = jnp.asarray(reference(50, 3, (2,)))
  payoff = jnp.asarray(skew(51, 3, (2,)))
  tau = jnp.array([0.05, 0.2])

  def solve(log_ref, payoff, tau):
    return (
      equilibria.regularized_nash(log_ref, payoff, 1 / tau),
      equilibria.kl_ball_nash(log_ref, payoff, tau),
      equilibria.maximal_lottery(payoff),
    )

  # Residuals are rounding, and differ by as much.
  helpers.assert_transforms(solve, log_ref, payoff, tau, atol=1e-13)
  order = np.array([2, 0, 1])
  moved = solve(log_ref[:, order], payoff[:, order][:, :, order], tau)
  for before, after in zip(solve(log_ref, payoff, tau), moved, strict=True):
    helpers.assert_close(
      np.exp(after.log_policy), np.exp(before.log_policy[:, order])
    )
  narrow = [x.astype(jnp.float32) for x in (log_ref, payoff, tau)]
  for single, double in zip(
    jax.jit(solve)(*narrow), solve(log_ref, payoff, tau), strict=True
  ):
    np.testing.assert_allclose(
      np.exp(single.log_policy), np.exp(double.log_policy), atol=1e-4
    )


def test_errors():
  with pytest.raises(ValueError, match="inv_lam must be at least 0"):
    equilibria.regularized_nash(TILTED, CYCLE, -1.0)
  with pytest.raises(ValueError, match="tau must be at least 0"):
    equilibria.kl_ball_nash(TILTED, CYCLE, -1.0)
  with pytest.raises(ValueError, match=r"tau must be a scalar or \(\)"):
    equilibria.kl_ball_nash(TILTED, CYCLE, np.ones(2))
  with pytest.raises(AssertionError, match="payoff_of_one"):
    equilibria.kl_ball_nash(TILTED[:2], CYCLE, 1.0)
  with pytest.raises(ValueError, match=r"payoff must be \[..., M, M\]"):
    equilibria.maximal_lottery(CYCLE[:2])
  with pytest.raises(AssertionError, match="where"):
    equilibria.maximal_lottery(CYCLE, where=np.ones(2, bool))
  assert equilibria.NashResult._fields == ("log_policy", "residual")
