# SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.learning import games as library
from tests import helpers


def symmetric(rows):
  """Payoffs of both players from those of the first."""
  rows = np.array(rows, float)
  return np.stack([rows, rows.T])


STAG_HUNT = symmetric([[4, 0], [3, 2]])
DILEMMA = symmetric([[3, 0], [4, 1]])
# Two firms ask 1.5 or 1; the cheaper one sells, the consumer values it at 2.
BERTRAND = symmetric([[0.75, 0], [1, 0.5]])
CONSUMER = np.array([[0.5, 1], [1, 1]])
HARMONY = symmetric([[4, 3], [2, 1]])
PENNIES = np.array([[[1, -1], [-1, 1]], [[-1, 1], [1, -1]]], float)
SHARED = np.stack([np.diag([4.0, 2.0]), 3 * np.diag([4.0, 2.0]) - 1])


def pure(row, column):
  play = np.zeros((2, 2))
  play[row, column] = 1
  return play


def grim_trigger(discount, rounds=400):
  """Discounted joint play of two firms, each high until the other was low."""
  play, held, weight = np.zeros((2, 2)), True, 1 - discount
  for _ in range(rounds):
    asked = (0, 0) if held else (1, 1)
    play[asked] += weight
    held, weight = held and asked == (0, 0), weight * discount
  return play


@jax.jit
def label(payoffs, principal, play):
  return library.label_failure_mode(payoffs, principal, play)


@pytest.mark.parametrize(
  ("payoffs", "principal", "play", "expected"),
  [
    (STAG_HUNT, STAG_HUNT.sum(0), pure(1, 1), "miscoordination"),
    (STAG_HUNT, STAG_HUNT.sum(0), pure(0, 0), "none"),
    (SHARED, SHARED.sum(0), pure(1, 1), "miscoordination"),
    (DILEMMA, DILEMMA.sum(0), pure(1, 1), "conflict"),
    (DILEMMA, DILEMMA.sum(0), pure(0, 0), "none"),
    (BERTRAND, CONSUMER, grim_trigger(0.9), "collusion"),
    (BERTRAND, CONSUMER, 0.5 * (pure(0, 0) + pure(1, 1)), "collusion"),
    (BERTRAND, CONSUMER, pure(1, 1), "conflict"),
    # Who serves the firms loses nothing by their agreement.
    (BERTRAND, BERTRAND.sum(0), pure(0, 0), "none"),
    (HARMONY, HARMONY.sum(0), pure(0, 0), "none"),
    (PENNIES, PENNIES[0], np.full((2, 2), 0.25), "none"),
    (PENNIES, PENNIES[0], pure(0, 1), "none"),  # no pure equilibrium
  ],
)
def test_labels_of_known_games(payoffs, principal, play, expected):
  found = label(payoffs, principal, play)
  assert library.FAILURE_MODES[int(found.label)] == expected
  np.testing.assert_allclose(found.welfare, (payoffs.sum(0) * play).sum())
  np.testing.assert_allclose(found.principal_value, (principal * play).sum())
  assert found.best_welfare == payoffs.sum(0).max()


def test_no_stag_hunt_is_of_common_interest_up_to_affine_maps():
  """Why the label asks for a shared optimum instead.

  A symmetric stag hunt `[[a, b], [c, d]]`, `a > c >= d > b`: the maps that take
  the first player's payoffs to the second's fix a and d, hence b = c.
  """
  rng = np.random.default_rng(0)
  d, b, c, a = np.sort(rng.random((50, 4)), 1)[:, [1, 0, 2, 3]].T
  rows = np.stack([np.stack([a, b], -1), np.stack([c, d], -1)], 1)
  payoffs = np.stack([rows, rows.swapaxes(1, 2)], 1)
  affine = jax.jit(jax.vmap(library.affine_common_interest))
  assert not np.any(affine(payoffs))
  rows[:, 0, 1] = rows[:, 1, 0]
  assert np.all(affine(np.stack([rows, rows.swapaxes(1, 2)], 1)))
  # But every one has an outcome that is best for both, as it should.
  assert np.all(jax.vmap(library.shared_optimum)(payoffs))


def test_affine_maps_keep_the_interest_and_negative_ones_do_not():
  rng = np.random.default_rng(1)
  first = rng.normal(size=(2, 3, 2))
  affine = jax.jit(library.affine_common_interest)
  assert affine(np.stack([first, 2.5 * first - 7, 1e-3 * first + 4]))
  assert not affine(np.stack([first, 2.5 * first - 7, -first]))
  assert not affine(np.stack([first, 2.5 * first - 7, 0 * first + 1]))
  assert affine(np.stack([0 * first, 0 * first + 1 / 3, 0 * first]))
  # Also in float32, where 1/3 is not the mean of its copies.
  thirds = np.stack([first, first / 3 + 1 / 3, first]).astype(np.float32)
  assert affine(thirds)


def test_a_shared_optimum_is_where_all_are_at_their_best():
  for payoffs, expected in (
    (STAG_HUNT, True),
    (SHARED, True),
    (HARMONY, True),
    (DILEMMA, False),
    (BERTRAND, False),
    (PENNIES, False),
  ):
    assert library.shared_optimum(jnp.asarray(payoffs)) == expected


def test_equilibria_are_those_of_enumeration():
  rng = np.random.default_rng(2)
  payoffs = rng.integers(4, size=(30, 3, 2, 3, 2)) * 1.0  # with ties
  found = jax.jit(jax.vmap(library.pure_nash))(payoffs)
  for game, mask in zip(payoffs, found, strict=True):
    for profile in itertools.product(range(2), range(3), range(2)):
      stable = True
      for player, size in enumerate((2, 3, 2)):
        for action in range(size):
          other = (*profile[:player], action, *profile[player + 1 :])
          stable &= game[(player, *other)] <= game[(player, *profile)]
      assert mask[profile] == stable
  assert 0 < np.mean(found) < 1
  np.testing.assert_array_equal(
    library.pure_nash(jnp.asarray(STAG_HUNT)), np.eye(2)
  )
  assert not np.any(library.pure_nash(jnp.asarray(PENNIES)))


def test_expected_payoffs_are_sums_over_outcomes():
  rng = np.random.default_rng(3)
  payoffs = rng.normal(size=(3, 2, 3, 2))
  play = rng.dirichlet(np.ones(12)).reshape(2, 3, 2)
  found = library.expected_payoffs(jnp.asarray(payoffs), jnp.asarray(play))
  np.testing.assert_allclose(found, np.einsum("nabc,abc->n", payoffs, play))


def test_labels_transform():
  payoffs = np.stack([STAG_HUNT, BERTRAND])
  principal = np.stack([STAG_HUNT.sum(0), CONSUMER])
  play = np.random.default_rng(4).dirichlet(np.ones(4), 2).reshape(2, 2, 2)
  helpers.assert_transforms(
    library.label_failure_mode, payoffs, principal, play
  )


def test_bad_input():
  with pytest.raises(ValueError, match=r"\[n, A_1, ..., A_n\], was \(3, 2\)"):
    library.pure_nash(jnp.zeros((3, 2)))
  with pytest.raises(AssertionError):
    library.pure_nash(jnp.zeros((2, 2, 2), int))
  with pytest.raises(AssertionError, match=r"play \(2, 3\)"):
    library.expected_payoffs(jnp.zeros((2, 2, 2)), jnp.zeros((2, 3)))
  two = jnp.zeros((2, 2, 2))
  with pytest.raises(AssertionError, match=r"principal \(3,\)"):
    library.label_failure_mode(two, jnp.zeros(3), two[0])
  with pytest.raises(ValueError, match="eps must be at least 0, was -1"):
    library.label_failure_mode(two, two[0], two[0], eps=-1)
