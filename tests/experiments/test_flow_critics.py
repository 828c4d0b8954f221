# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from experiments import flow_critics
from experiments.stages.flow_critics import (
  exactness,
  finite_steps,
  learning,
  processes,
)
from tests.experiments import conventions

# The critics learn for longer than they compile.
pytestmark = pytest.mark.usefixtures("optimised")


def test_claims_reproduce():
  conventions.assert_reproduces(flow_critics)


def test_values_by_steps_are_integrals():
  """The printed figures are of draws: `tests/rl/test_flow_critics.py`."""
  curves = conventions.smoke(flow_critics).curves
  row = curves["steps/value"][finite_steps.SHOWN]
  values = dict(zip(curves["steps/K"].tolist(), row, strict=True))
  conventions.assert_printed(values[1], "1.100")
  # Ranks miss where the noise divides by half a cell, times the jump of 3.
  assert abs(values[8] - 1.5516) < 1.5 / finite_steps.RANKS + 5e-5
  assert abs(values[64] - 1.1366) < 1.5 / finite_steps.RANKS + 5e-5
  assert finite_steps.PRINTED == {8: 1.556, 64: 1.140}


def test_another_seed_gives_other_problems():
  one, other, again = (processes.processes(s) for s in ([0], [1], [0]))
  for first, second, repeated in zip(one, other, again, strict=True):
    np.testing.assert_array_equal(first, repeated)
    assert not np.array_equal(first, second)
  first, second = (learning.draws([s], 3, 2) for s in (0, 1))
  assert not np.array_equal(first.rows, second.rows)
  assert not np.array_equal(*(learning.init("flow", [s]) for s in (0, 1)))
  first, second = (
    learning.problems(p, [s], 9) for s, p in ((0, one), (1, other))
  )
  assert not np.array_equal(first.features, second.features)


def test_streams_follow_their_processes():
  known = processes.processes([0, 1])
  np.testing.assert_allclose(
    known.values,
    known.gains
    + processes.DISCOUNT * np.einsum("...ij,...j", known.moves, known.values),
    atol=1e-12,
  )
  stream = learning.problems(known, [0, 1], 4000)
  for i in np.ndindex(2, 2):
    states, following = stream.states[i], stream.following[i]
    np.testing.assert_array_equal(
      stream.rewards[i], np.float32(known.gains[i])[states]
    )
    counts = np.zeros((processes.STATES, processes.STATES))
    np.add.at(counts, (states, following), 1)
    visits = counts.sum(1, keepdims=True)
    assert visits.min() > 150
    # Five standard errors of a share of 1/2 from 150 visits.
    np.testing.assert_allclose(counts / visits, known.moves[i], atol=0.21)
    assert (counts[known.moves[i] == 0] == 0).all()


def test_the_interpolated_embedding_is_the_librarys():
  z = np.random.default_rng(0).uniform(-19, 19, 500).astype(np.float32)
  bound = 1 / (1 - processes.DISCOUNT)
  learning._embeddings()
  there = learning.flow_critics.hl_gauss_embedding(
    z.astype(float), -bound, bound, num_bins=learning.BINS
  )
  # Float32's rounding of logarithms of tails, which are about 10.
  np.testing.assert_allclose(learning.embedding(z), there, atol=3e-6)


def test_a_field_without_its_pole_is_not_exact(monkeypatch):
  monkeypatch.setattr(
    exactness, "certain_velocity", lambda y: lambda z, t: y - z
  )
  exactness.errors.clear_cache()
  failed = conventions.failed(exactness.exactness(seeds=[0]).claims)
  exactness.errors.clear_cache()
  assert failed == {"certain_exact", "stale_recovered"}


def test_critics_of_unequal_size_fail(monkeypatch):
  monkeypatch.setattr(learning, "WIDTHS", {"monolithic": 32, "flow": 17})
  failed = conventions.failed(exactness.exactness(seeds=[0]).claims)
  assert failed == {"sizes"}


PROGRAMS = (
  finite_steps.by_width,
  finite_steps.sweeps,
  finite_steps.spread_of_the_ends,
)


def test_a_field_that_aims_at_the_mean_has_no_bias(monkeypatch):
  """Nor has it the ends of the targets: only what one step says remains."""

  def towards_mean(targets, probs, *, source_std):
    del source_std
    return lambda z, t: (probs @ targets - z) / (1 - t)

  monkeypatch.setattr(
    finite_steps.flow_critics, "discrete_velocity", towards_mean
  )
  monkeypatch.setattr(finite_steps, "RANKS", 10)
  for program in PROGRAMS:
    program.clear_cache()
  known = processes.processes([0])
  part = finite_steps.finite_steps(known)
  for program in PROGRAMS:
    program.clear_cache()
  failed = conventions.failed(part.claims)
  assert failed >= {
    "value_of_8_steps",
    "value_of_64_steps",
    "not_distributional",
  }
  assert not failed & {"one_step_exact", "truth_stays_with_one_step"}


@pytest.mark.parametrize(
  ("flow_last", "expected"),
  [
    (0.1, {"final_factor_not_seen"}),  # down to 1 after .28 of the data
    (1e-6, {"final_factor_not_seen", "efficiency_not_seen"}),  # after .06
    (0.9, set()),
    (1.2, set()),
  ],
)
def test_verdicts_on_learning_depend_on_the_errors(
  monkeypatch, flow_last, expected
):
  """Errors made up: from 2 at the start down to a level, geometrically."""

  def made_up(kind, params, draw, every, updates):
    del params, draw
    last = flow_last if kind == "flow" else 1.0
    last *= 2 if updates == 1 else 1
    path = 2.5 * (last / 2.5) ** np.linspace(0, 1, every.states.shape[-1])
    rates = path * np.array([1.0, 1.1])[:, None]
    return np.broadcast_to(rates, (*every.values.shape[:2], *rates.shape))

  monkeypatch.setattr(learning, "learn_all", made_up)
  known = processes.processes([0, 1])
  part = learning.learning(known, seeds=[0, 1], num_steps=32)
  failed = conventions.failed(part.claims)
  assert failed == expected
  gain = next(c for c in part.claims if c.name == "final_factor_not_seen")
  np.testing.assert_allclose(gain.measured, 1 / flow_last)


def test_the_share_of_data_is_the_first_crossing():
  path = np.array([4.0, 3.0, 1.0, 2.0])
  assert learning.needed(path, 3.0) == 0.25
  assert learning.needed(path, 2.5) == 0.5
  assert learning.needed(path, 0.5) == 1.0


def test_updates_that_hurt_fail(monkeypatch):
  def made_up(kind, params, draw, every, updates):
    del kind, params, draw
    shape = *every.values.shape[:2], 2, every.states.shape[-1]
    return np.full(shape, float(updates))

  monkeypatch.setattr(learning, "learn_all", made_up)
  known = processes.processes([0, 1])
  part = learning.learning(known, seeds=[0, 1], num_steps=32)
  # Two critics that never differ: the same final error at once.
  assert conventions.failed(part.claims) == {
    "updates_help",
    "efficiency_not_seen",
  }


def test_the_best_rate_is_chosen_for_each_arm():
  errors = np.ones((2, 3, 2, 5))  # arms, seeds, rates, N
  errors[0, :, 1, -1] = 0.5
  errors[1, :, 0, -1] = 0.2
  best = learning.best_rate(errors)
  assert best.shape == (2, 3, 5)
  np.testing.assert_array_equal(best[:, :, -1], [[0.5] * 3, [0.2] * 3])
