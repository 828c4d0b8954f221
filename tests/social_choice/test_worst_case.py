# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxalign import social_choice as sc
from tests import helpers

SMALL = {"num_types": 2, "num_alternatives": 3}
NUM_GAMES = 500


def draw_games(key, count):
  draw = functools.partial(sc.random_game, **SMALL)
  return jax.vmap(draw)(jax.random.split(key, count))


@pytest.fixture(scope="module")
def games():
  with jax.enable_x64(True):
    return jax.jit(draw_games, static_argnums=1)(jax.random.key(3), NUM_GAMES)


ratios_of = jax.jit(jax.vmap(sc.nash_ratio, (0, None)))


# --- random games ------------------------------------------------------------


def test_random_games_are_games(games):
  helpers.assert_close(games.weights.sum(-1), np.ones(NUM_GAMES))
  helpers.assert_close(
    jax.nn.logsumexp(games.log_ref, -1), np.zeros(NUM_GAMES), atol=1e-14
  )
  assert np.all((games.utilities >= 0) & (games.utilities <= 1))
  assert np.all((games.inv_lam >= np.exp(-2)) & (games.inv_lam <= np.exp(7)))
  # The stated law, to four standard errors of 3000 utilities.
  utilities = np.asarray(games.utilities)
  size = utilities.size
  assert abs(np.mean(utilities == 0) - 0.3) < 4 * (0.21 / size) ** 0.5
  # P(0 < u < 1/2) is .3 (1 - log(2)/8) of the small, .4/2 of the wide ones.
  share = 0.3 * (1 - np.log(2) / 8) + 0.2
  found = np.mean((utilities > 0) & (utilities < 0.5))
  assert abs(found - share) < 4 * (share * (1 - share) / size) ** 0.5
  spread = np.log(games.inv_lam)
  assert abs(spread.mean() - 2.5) < 4 * (81 / 12 / NUM_GAMES) ** 0.5


def test_random_games_follow_the_key(games):
  again = jax.jit(draw_games, static_argnums=1)(jax.random.key(3), NUM_GAMES)
  jax.tree.map(np.testing.assert_array_equal, games, again)
  with jax.enable_x64(False):
    game = sc.random_game(jax.random.key(3), **SMALL)
    assert all(leaf.dtype == jnp.float32 for leaf in game)


def test_random_games_never_exceed_the_bound(games):
  for beta in (5.0, 20.0):
    ratio, valid = ratios_of(games, beta)
    assert np.mean(valid) >= 0.98
    bound = float(sc.distortion_bound(beta))
    # The equilibria are exact to 1e-8.
    assert np.max(ratio[valid]) <= bound * (1 + 1e-6)
    assert np.min(ratio[valid]) >= 1 - 1e-8
    # The games are not all easy: the bound is not met for nothing.
    assert np.max(ratio[valid]) > 1.1


# --- the ratio ---------------------------------------------------------------


def by_scipy(game, beta):
  """The equilibrium by root finding, the best policy by a scalar search."""
  u, w = np.asarray(game.utilities), np.asarray(game.weights)
  log_ref, inv_lam = np.asarray(game.log_ref), float(game.inv_lam)
  gaps = beta * (u[:, :, None] - u[:, None, :])
  margins = np.einsum("g,gxy->xy", w, 1 / (1 + np.exp(-gaps))) - 0.5
  a = w @ u

  def tilt(scores):
    logits = log_ref + scores
    p = np.exp(logits - logits.max())
    return p / p.sum()

  values = scipy.optimize.fsolve(
    lambda v: v - margins @ tilt(inv_lam * v), np.zeros(3), xtol=1e-14
  )
  policy = tilt(inv_lam * values)

  def distance(p):
    return np.sum(p * (np.log(p) - log_ref))

  tau = distance(policy)
  strength = scipy.optimize.brentq(
    lambda s: distance(tilt(s * a)) - tau, 1e-9, 1e4, xtol=1e-14
  )
  return tilt(strength * a) @ a / (policy @ a)


def test_ratio_by_scipy():
  game = sc.Game(
    weights=jnp.array([0.2, 0.8]),
    utilities=jnp.array([[1.0, 0.0, 0.3], [0.1, 0.35, 0.2]]),
    log_ref=jnp.log(jnp.array([0.2, 0.5, 0.3])),
    inv_lam=jnp.array(3.0),
  )
  ratio, valid = jax.jit(sc.nash_ratio)(game, 5.0)
  assert valid and ratio > 1.005
  helpers.assert_close(ratio, by_scipy(game, 5.0), rtol=1e-8)


def test_ratio_attains_the_bound():
  # Two alternatives that nearly tie, a free policy in the limit of strong play.
  beta = 5.0
  instance = sc.instance_ml(beta, eps=1e-3, xi=1.1)
  game = sc.Game(
    instance.weights, instance.utilities, instance.log_ref, jnp.array(1e7)
  )
  ratio, valid = jax.jit(sc.nash_ratio)(game, beta)
  assert valid
  vote = np.tanh(np.array([beta * 1e-3, beta]) / 2)
  helpers.assert_close(ratio, vote[0] / (1.1e-3 * vote[1]), rtol=1e-6)


def test_one_alternative_after_another_is_invariant(games):
  order = jnp.array([2, 0, 1])
  shuffled = games._replace(
    utilities=games.utilities[:, ::-1, order],
    weights=games.weights[:, ::-1],
    log_ref=games.log_ref[:, order],
  )
  ratio, valid = ratios_of(games, 5.0)
  again, valid_again = ratios_of(shuffled, 5.0)
  both = np.asarray(valid & valid_again)
  # Equilibria are exact to 1e-8 each.
  helpers.assert_close(again[both], ratio[both], rtol=1e-6)


def test_worthless_games_are_not_valid(games):
  game = jax.tree.map(lambda x: x[0], games)
  worthless = game._replace(utilities=jnp.zeros((2, 3)))
  assert not jax.jit(sc.nash_ratio)(worthless, 5.0).valid


def test_ratio_differentiates():
  log_weights = jnp.log(jnp.array([0.2, 0.8]))
  utilities = jnp.array([[0.9, 0.1, 0.3], [0.1, 0.35, 0.2]])
  logits = jnp.array([0.0, 0.9, 0.4])

  @jax.jit
  def ratio(log_weights, utilities, logits, log_inv_lam):
    game = sc.Game(
      jax.nn.softmax(log_weights),
      utilities,
      jax.nn.log_softmax(logits),
      jnp.exp(log_inv_lam),
    )
    return sc.nash_ratio(game, 5.0).ratio

  helpers.assert_gradient(
    ratio, log_weights, utilities, logits, jnp.array(1.0), rtol=1e-5
  )


def test_ratio_transforms(games):
  def ratio(*leaves):
    return sc.nash_ratio(sc.Game(*leaves), 5.0).ratio

  pair = jax.tree.map(lambda x: x[:2], games)
  helpers.assert_transforms(ratio, *pair, rtol=1e-7)


# --- the adversary -----------------------------------------------------------


@pytest.fixture(scope="module")
def found(games):
  with jax.enable_x64(True):
    search = jax.jit(
      functools.partial(sc.adversarial_search, num_starts=8, num_steps=40)
    )
    # The temperature is traced: one program serves all of them.
    return {beta: search(games, beta) for beta in (5.0, 20.0)}


@pytest.mark.parametrize("beta", [5.0, 20.0])
def test_adversary_climbs_and_stays_below_the_bound(games, found, beta):
  ratios = np.asarray(found[beta].ratios)
  assert ratios.shape == (40, 8)
  bound = float(sc.distortion_bound(beta))
  assert np.nanmax(ratios) <= bound * (1 + 1e-6)
  ratio, valid = ratios_of(games, beta)
  worst = np.sort(np.where(valid, ratio, 0))[::-1][:8]
  # It starts from the worst games, but for utilities kept 1e-4 inside.
  helpers.assert_close(ratios[0], worst, rtol=0.05)
  assert np.nanmean(ratios[-1]) > np.nanmean(ratios[0])
  assert np.nanmax(ratios) > 1.02 * np.nanmax(ratios[0])


def test_adversary_returns_the_games_that_it_found(found):
  games = found[5.0].games
  assert games.utilities.shape == (8, 2, 3)
  helpers.assert_close(games.weights.sum(-1), np.ones(8))
  ratio, valid = ratios_of(games, 5.0)
  last = np.asarray(found[5.0].ratios[-1])
  assert np.any(valid)
  # One step of Adam apart.
  helpers.assert_close(ratio[valid], last[valid], rtol=0.2)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (
      {"num_starts": NUM_GAMES + 1},
      f"num_starts must be at most the {NUM_GAMES} games, was {NUM_GAMES + 1}",
    ),
    ({"num_starts": 0}, "num_starts must be above 0, was 0"),
    ({"num_steps": 0}, "num_steps must be above 0, was 0"),
    ({"learning_rate": 0.0}, "learning_rate must be above 0, was 0.0"),
    ({"beta": -1.0}, "beta must be above 0, was -1.0"),
  ],
)
def test_adversary_refuses(games, options, message):
  with pytest.raises(ValueError, match=message):
    sc.adversarial_search(games, **({"beta": 5.0} | options))


def test_ratio_refuses(games):
  game = jax.tree.map(lambda x: x[0], games)
  with pytest.raises(ValueError, match="beta must be above 0, was 0"):
    sc.nash_ratio(game, 0.0)
