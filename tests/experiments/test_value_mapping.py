# SPDX-License-Identifier: Apache-2.0
import itertools

import numpy as np
import pytest

from experiments import value_mapping
from experiments.stages.value_mapping import averaging, chain, convergence, maps
from tests.experiments import conventions

# The chain's updates run for longer than they compile.
pytestmark = pytest.mark.usefixtures("optimised")

SMOKE = value_mapping.Config.from_preset("smoke")
SEEDS = range(SMOKE.num_seeds)


def test_claims_reproduce():
  conventions.assert_reproduces(value_mapping)


def test_the_printed_values():
  curves = conventions.smoke(value_mapping).curves
  # .437 in print, from a run; the geometric mean of .1 and 1.9 is .4359.
  assert abs(averaging.limit(1.0) - 0.437) < 2e-3
  np.testing.assert_allclose(averaging.limit(1.0), np.sqrt(0.19))
  np.testing.assert_allclose(averaging.limit(0.0), 1.0)
  np.testing.assert_allclose(
    curves["averaging/theory"][[0, -1]], [1, 0.19**0.5]
  )
  # Gaps between the values g^k and g^{k+2} of the two actions.
  for discount, gaps in zip(maps.DISCOUNTS, curves["maps/log"], strict=True):
    np.testing.assert_allclose(gaps, 2 * 0.5 * np.log(1 / discount))
  far, near = curves["maps/linear"][0][[0, -1]]
  np.testing.assert_allclose(far / near, 0.6 ** (chain.STATES - 2))
  conventions.assert_printed(maps.FLOORS[1], ".01687")


def test_the_limit_solves_its_equation():
  """`E log((1-b) Q + b r) = log Q`."""
  for b in (0.1, 0.5, 0.9, 1.0):
    q = averaging.limit(b)
    left = np.log((1 - b) * q + b * np.array([averaging.LOW, averaging.HIGH]))
    np.testing.assert_allclose(left.mean(), np.log(q), atol=1e-14)


def test_the_chain_written_out():
  """`Q(right) = g^k`, `Q(left) = g^{k+2}` with k more steps than one to go."""
  mdp = maps.chain(0.6)
  np.testing.assert_allclose(mdp.transitions.sum(-1), 1)
  plain = conventions.smoke(value_mapping).curves["maps/linear"][0]
  to_go = np.arange(maps.STATES - 2, -1, -1)
  np.testing.assert_allclose(plain, 0.6**to_go - 0.6 ** (to_go + 2))


def test_features_are_overlapping_tiles():
  for width, size in itertools.product((1, chain.TILES), (chain.STATES,)):
    phi = chain.features(width)
    np.testing.assert_allclose(phi.sum(-1), 1)
    overlap = phi @ phi.T * width
    away = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    np.testing.assert_allclose(overlap, np.maximum(1 - away / width, 0))


def test_other_seeds_give_other_runs():
  first = conventions.smoke(value_mapping).curves
  for run, name in (
    (averaging.averaging, "averaging/values"),
    (convergence.convergence, "convergence/errors"),
  ):
    np.testing.assert_array_equal(run(seeds=SEEDS).curves[name], first[name])
    other = range(SMOKE.num_seeds, 2 * SMOKE.num_seeds)
    assert not np.array_equal(run(seeds=other).curves[name], first[name])


def test_other_seeds_walk_the_chain_otherwise(monkeypatch):
  """What is drawn, without the learning."""
  seen = []

  def run(draws):
    seen.append(draws)
    return np.ones((len(chain.ARMS), len(draws[0]), chain.CHECKPOINTS))

  monkeypatch.setattr(chain, "run", run)
  for first in (0, 0, 4):
    chain.chain(seeds=range(first, first + 4), updates=SMOKE.updates)
  for draws, again, other in zip(*seen, strict=True):
    assert draws.shape == (4, chain.CHECKPOINTS, 2000)
    np.testing.assert_array_equal(draws, again)
    assert not np.array_equal(draws, other)


def test_steps_the_wrong_way_round_fail(monkeypatch):
  real = averaging.run
  monkeypatch.setattr(averaging, "run", lambda r, x, y: real(r, y, x))
  failed = conventions.failed(averaging.averaging(seeds=SEEDS).claims)
  assert failed == {
    "averaging_before",
    "averaging_between",
    "averaging_after",
  }


def test_a_floor_that_acts_fails(monkeypatch):
  """Losses alone: gains of 0 are learned as the published floor."""
  real = convergence.processes

  def processes(seeds):
    mdps = real(seeds)
    return mdps._replace(rewards=mdps.rewards - 0.5)

  monkeypatch.setattr(convergence, "processes", processes)
  part = convergence.convergence(seeds=SEEDS)
  assert conventions.failed(part.claims) == {"convergence_published"}
  (claim,) = (c for c in part.claims if not c.holds)
  np.testing.assert_allclose(claim.measured, 0.01687, rtol=1e-6)


def test_plain_values_in_the_logarithms_place_fail(monkeypatch):
  real = chain.run

  def run(draws):
    shares = np.asarray(real(draws))
    return np.concatenate([shares[4:8], shares[:4], shares[8:]])

  monkeypatch.setattr(chain, "run", run)
  part = chain.chain(seeds=SEEDS, updates=SMOKE.updates)
  assert conventions.failed(part.claims) == {"chain_log", "chain_linear"}


def test_few_updates_are_refused():
  with pytest.raises(ValueError, match="updates must be at least 48000"):
    value_mapping.Config.from_preset("smoke", updates=10)
