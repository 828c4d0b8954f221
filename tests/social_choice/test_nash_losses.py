# SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.social_choice import nash, nash_losses
from tests import helpers
from tests.social_choice.test_nash import (
  best_response,
  equilibrium,
  random_game,
)

# --- what every loss of a policy must survive --------------------------------


def losses(pi, ref, pref):
  """The losses of policies; in online IPO the reference samples."""
  return (
    nash_losses.online_ipo_loss(pi, ref, pref, 0.2, ref),
    nash_losses.ipo_md_loss(pi, ref, pref, 0.2, 0.3),
  )


def test_transforms_and_permutation():
  pairs = [random_game(seed, 4) for seed in (1, 2)]
  stacked = tuple(np.stack(x) for x in zip(*pairs, strict=True))
  helpers.assert_transforms(losses, *stacked)
  fn = jax.jit(losses)
  # Leading axes are a batch.
  helpers.assert_close(fn(*stacked), jax.vmap(losses)(*stacked))
  order = np.array([2, 0, 3, 1])
  pi, ref, pref = pairs[0]
  moved = pi[order], ref[order], pref[order][:, order]
  helpers.assert_close(fn(*moved), fn(pi, ref, pref))


def test_an_outcome_without_mass_is_no_outcome():
  pi, ref, pref = (jnp.asarray(x) for x in random_game(3, 4))
  gone = np.array([False, False, True, False])
  keep = ~gone
  pi = jax.nn.log_softmax(jnp.where(gone, -jnp.inf, pi))
  ref = jax.nn.log_softmax(jnp.where(gone, -jnp.inf, ref))

  def total(pi, ref, pref):
    values = losses(pi, ref, pref)
    return values[0] + 2 * values[1], values

  slopes = jax.jit(jax.grad(total, (0, 1), has_aux=True))
  with jax.debug_nans(True):
    gradients, values = slopes(pi, ref, pref)
  sliced, expected = slopes(pi[keep], ref[keep], pref[keep][:, keep])
  helpers.assert_close(values, expected)
  for gradient, kept in zip(gradients, sliced, strict=True):
    assert np.all(gradient[gone] == 0)
    helpers.assert_close(gradient[keep], kept)


def test_gradients():
  pi, ref, pref = random_game(4, 4)
  online = jax.jit(lambda x, p: losses(jax.nn.log_softmax(x), ref, p)[0])
  helpers.assert_gradient(online, pi, pref)


def test_wrong_arguments_raise():
  pi, ref, pref = random_game(0, 3)
  with pytest.raises(AssertionError, match="log_sampling .2,."):
    nash_losses.online_ipo_loss(pi, ref, pref, 0.1, pi[:2])
  with pytest.raises(ValueError, match="one row and one column"):
    nash_losses.ipo_md_loss(pi, ref, pref[:2, :2], 0.1, 0.5)
  with pytest.raises(ValueError, match="coef must be in"):
    nash_losses.ipo_md_loss(pi, ref, pref, 0.1, 2.0)
  for loss in (
    lambda tau: nash_losses.online_ipo_loss(pi, ref, pref, tau, pi),
    lambda tau: nash_losses.ipo_md_loss(pi, ref, pref, tau, 0.5),
  ):
    with pytest.raises(ValueError, match="tau must be above 0, was 0"):
      loss(0.0)


# --- IPO ---------------------------------------------------------------------


def test_ipo_md_does_not_differentiate_its_sampling_policy():
  pi, ref, pref = random_game(4, 4)
  rho = nash.geometric_mixture(pi, ref, 0.3)
  moving = jax.grad(nash_losses.ipo_md_loss, (0, 2))(pi, ref, pref, 0.2, 0.3)
  fixed = jax.grad(nash_losses.online_ipo_loss, (0, 2))(pi, ref, pref, 0.2, rho)
  helpers.assert_close(moving, fixed)


def test_online_ipo_is_an_expectation_over_pairs_and_labels():
  pi, ref, pref = random_game(14, 3)
  tau, rho = 0.2, random_game(15, 3)[0]
  expected = 0.0
  for y in range(3):
    for z in range(3):
      h = (pi[y] + ref[z]) - (pi[z] + ref[y])
      pair = np.exp(rho[y] + rho[z])
      expected += pair * pref[y, z] * (h - 1 / (2 * tau)) ** 2
      expected += pair * pref[z, y] * (-h - 1 / (2 * tau)) ** 2
  helpers.assert_close(
    nash_losses.online_ipo_loss(pi, ref, pref, tau, rho), expected
  )
  slope = jax.grad(nash_losses.online_ipo_loss, 4)(pi, ref, pref, tau, rho)
  assert np.all(slope == 0)


def test_online_ipo_gradient_is_that_of_the_regularised_preference():
  @jax.jit
  @jax.grad
  def loss(x, ref, pref, tau):
    pi = jax.nn.log_softmax(x)
    return nash_losses.online_ipo_loss(pi, ref, pref, tau, pi)

  @jax.jit
  @jax.grad
  def preference(x, ref, pref, tau):
    pi = jax.nn.log_softmax(x)
    fixed = jax.lax.stop_gradient(pi)
    return nash.regularized_preference(pi, fixed, ref, pref, tau)

  for seed, tau in itertools.product(range(5), (0.1, 0.7)):
    logits, ref, pref = random_game(seed, 5)
    ratio = loss(logits, ref, pref, tau) / preference(logits, ref, pref, tau)
    # -40 at tau = .1. A component may nearly cancel, which costs digits.
    helpers.assert_close(ratio, np.full(5, -4 / tau), rtol=1e-8)
    star = equilibrium(ref, pref, tau)
    slope = loss(star, ref, pref, tau)
    helpers.assert_close(slope, np.zeros(5), atol=1e-10)


@pytest.mark.parametrize("coef", [0.0, 0.3, 0.6])
def test_ipo_md_rests_at_its_fixed_point(coef):
  tau = 0.2
  _, ref, pref = random_game(16, 5)
  star = equilibrium(ref, pref, tau)
  rho = equilibrium(ref, pref, tau / (1 - coef))
  fixed = best_response(rho, ref, pref, tau)
  helpers.assert_close(nash.geometric_mixture(fixed, ref, coef), rho)

  @jax.jit
  def slope(x):
    return jax.grad(
      lambda x: nash_losses.ipo_md_loss(
        jax.nn.log_softmax(x), ref, pref, tau, coef
      )
    )(x)

  helpers.assert_close(slope(fixed), np.zeros(5), atol=1e-10)
  if coef:
    assert np.abs(slope(star)).max() > 1e-2
    # It is where Nash-MD rests with the step size coef / tau.
    helpers.assert_close(
      nash.nash_md_step(fixed, ref, pref, tau, coef / tau), fixed
    )
  else:
    helpers.assert_close(fixed, star)
  # Gradient descent gets there from the reference.
  found = jax.lax.fori_loop(0, 4000, lambda _, x: x - 0.05 * slope(x), ref)
  helpers.assert_close(jax.nn.log_softmax(found), fixed, atol=1e-8)


def test_ipo_with_draws_that_a_policy_lacks():
  pi = jnp.array([0.0, -jnp.inf])
  ref, pref = np.log([0.5, 0.5]), np.array([[0.5, 0.7], [0.3, 0.5]])
  with jax.debug_nans(True):
    assert nash_losses.online_ipo_loss(pi, ref, pref, 0.1, ref) == np.inf
    assert nash_losses.online_ipo_loss(ref, pi, pref, 0.1, ref) == np.inf
    # Drawn from what both have, the pair is a tie: h = 0 and (1/(2 tau))^2.
    helpers.assert_close(
      nash_losses.online_ipo_loss(pi, ref, pref, 0.1, pi), 25.0
    )
    helpers.assert_close(nash_losses.ipo_md_loss(pi, ref, pref, 0.1, 0.5), 25.0)


# --- Nash-MD-PG --------------------------------------------------------------


# Answers over the tokens {0, 1} of length at most 2, where 1 ends the answer.
TOKENS = np.array([[1, 0], [0, 0], [0, 1]])
MASK = np.array([[True, False], [True, True], [True, True]])


def answer_log_probs(logits):
  """Token log-probabilities `[3, 2]` of a table `[2 positions, 2 tokens]`."""
  table = jax.nn.log_softmax(logits, -1)
  picked = jnp.take_along_axis(table[None], TOKENS[..., None], -1)[..., 0]
  return jnp.where(MASK, picked, jnp.nan)


def test_nash_md_pg_has_the_gradient_of_the_regularised_preference():
  rng = np.random.default_rng(0)
  logits, ref_logits = rng.normal(size=(2, 2, 2))
  pref = random_game(17, 3)[2]
  tau, coef = 0.3, 0.25

  def sequence(tokens):
    return jnp.sum(jnp.where(MASK, tokens, 0), -1)

  ref = answer_log_probs(ref_logits)
  fixed = sequence(answer_log_probs(logits))
  mixture = nash.geometric_mixture(fixed, sequence(ref), coef)
  helpers.assert_close(jnp.sum(jnp.exp(fixed)), 1.0)

  def surrogate(x):
    tokens = answer_log_probs(x)
    repeat = lambda a: jnp.broadcast_to(a[:, None], (3, 3, 2))
    losses = nash_losses.nash_md_pg_loss(
      repeat(tokens), repeat(ref), pref, tau, repeat(MASK)
    )
    return jnp.exp(fixed) @ losses @ jnp.exp(mixture)

  def objective(x):
    pi = sequence(answer_log_probs(x))
    against = nash.regularized_preference(pi, mixture, sequence(ref), pref, tau)
    return -against

  gradient = jax.jit(jax.grad(surrogate))(logits)
  helpers.assert_close(gradient, jax.jit(jax.grad(objective))(logits))
  assert np.abs(gradient).max() > 1e-2


def test_nash_md_pg_value_and_gradient_path():
  rng = np.random.default_rng(1)
  log_probs, ref = -rng.exponential(size=(2, 2, 3, 4))
  wins = rng.uniform(size=(2, 3))
  mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], bool)
  mask = np.stack([mask, mask[::-1]])
  tau = 0.4

  def loss(log_probs, ref, wins, mask):
    return nash_losses.nash_md_pg_loss(log_probs, ref, wins, tau, mask)

  expected, slopes = np.zeros((2, 3)), np.zeros((2, 3, 4))
  for i in np.ndindex(2, 3):
    for t in range(mask[i].sum()):
      to_go = (log_probs - ref)[i][t : mask[i].sum()].sum()
      slopes[i][t] = -(wins[i] - 0.5 - tau * to_go)
      expected[i] += slopes[i][t] * log_probs[i][t]
  helpers.assert_close(loss(log_probs, ref, wins, mask), expected)
  helpers.assert_transforms(loss, log_probs, ref, wins, mask)
  dirty = [np.where(mask, x, np.nan) for x in (log_probs, ref)]
  gradients = jax.grad(lambda *a: loss(*a, mask).sum(), (0, 1, 2))(*dirty, wins)
  helpers.assert_close(gradients[0], slopes)
  assert np.all(gradients[1] == 0) and np.all(gradients[2] == 0)
  helpers.assert_close(loss(*dirty, wins, mask), expected)
  with pytest.raises(AssertionError, match="mask"):
    loss(log_probs, ref, wins, mask[0])
  with pytest.raises(ValueError, match="one entry per answer .2, 3., was .3,."):
    loss(log_probs, ref, wins[0], mask)
  with pytest.raises(ValueError, match="tau must be at least 0"):
    nash_losses.nash_md_pg_loss(log_probs, ref, wins, -0.1, mask)
