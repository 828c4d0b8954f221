# SPDX-License-Identifier: Apache-2.0
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments import spectrum_tuning as experiment
from experiments.stages.spectrum_tuning import coins, learning
from tests.experiments import conventions


def failed(monkeypatch, change):
  """Names of the claims that fail on changed distances of the smoke preset."""
  curves = conventions.smoke(experiment).curves
  distance = {name: curves[f"coins/{name}"].copy() for name in coins.SCORED}
  change(distance)
  stacked = np.stack(list(distance.values()))
  found = {"distance": stacked, "divergence": 4 * stacked**2}
  monkeypatch.setattr(coins, "train", lambda *_: found)
  config = experiment.Config.from_preset("smoke")
  part = learning.learning(
    config.key(),
    num_seeds=config.num_seeds,
    num_flips=config.num_flips,
    rows=config.rows,
    steps=config.steps,
    tolerance=config.tolerance,
  )
  return conventions.failed(part.claims)


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


def test_masks_are_those_of_single_flips():
  np.testing.assert_array_equal(
    coins.masks(4).astype(int),
    [[0, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 1], [1, 1, 1, 1]],
  )


def test_bayes_loss_is_that_over_all_sequences():
  size, expected = 6, np.zeros(6)
  for flips in itertools.product((0, 1), repeat=size):
    heads = sum(flips)
    # The integral of p^h (1 - p)^(n - h).
    chance = 1 / ((size + 1) * math.comb(size, heads))
    for t, flip in enumerate(flips):
      p = (sum(flips[:t]) + 1) / (t + 2)
      expected[t] -= chance * math.log(p if flip else 1 - p)
  np.testing.assert_allclose(coins.bayes_nll(size), expected, rtol=1e-12)


def test_printed_loss():
  """The printed one is of a sample, this is its expectation."""
  exact = float(jnp.mean(coins.bayes_nll(24)[1:]))
  conventions.assert_printed(exact, ".54502")
  flips = coins.draw(jax.random.key(0), 20_000, 24)
  p = coins.posterior_predictive(flips)
  losses = -jnp.log(jnp.where(flips == 1, p, 1 - p))[:, 1:].mean(1)
  spread = float(jnp.std(losses))
  error = spread / 20_000**0.5
  assert abs(float(jnp.mean(losses)) - exact) < 5 * error
  # Two standard errors of a thousand sequences hold the printed one.
  assert abs(exact - 0.54372) < 2 * spread / 1000**0.5


def test_another_seed_gives_other_networks():
  keys = (
    experiment.Config.from_preset("smoke", seed=s).key() for s in (0, 0, 1)
  )
  first, again, other = (coins.draw(key, 4, 8) for key in keys)
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


def test_scoring_one_flip_instead_of_all_fails(monkeypatch):
  def change(distance):
    distance["outputs"] = distance["first"]

  assert failed(monkeypatch, change) == {
    "predictive",
    "nll",
    "elsewhere_last",
  }


def test_not_learning_what_is_scored_fails(monkeypatch):
  def change(distance):
    distance["first"][:, 1] = distance["last"][:, -1] = 0.1
    distance["all"][:, 0] = 0.5

  assert failed(monkeypatch, change) == {
    "scored_first",
    "scored_last",
    "scored_all",
  }
