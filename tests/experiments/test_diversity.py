# SPDX-License-Identifier: Apache-2.0
import jax
import numpy as np
import pytest

from experiments import diversity
from experiments.stages.diversity import optima, penalties, sampled
from jaxalign.exact import bandit
from tests.experiments import conventions

PRINTED = {
  "reverse KL": (".0951", ".6145", ".079"),
  "alpha = .2": (".1018", ".6653", ".135"),
  "alpha = .5": (".1137", ".7208", ".214"),
  "JS": (".2483", ".7241", ".206"),
  "forward KL": (".1312", ".7724", ".310"),
}


def test_claims_reproduce():
  conventions.assert_reproduces(diversity)


def test_optima_have_the_printed_values():
  table, *_ = conventions.smoke(diversity).tables.values()
  assert [row["divergence"] for row in table] == list(PRINTED)
  for row in table:
    eta, many, ratio = PRINTED[row["divergence"]]
    conventions.assert_printed(row["eta"], eta)
    conventions.assert_printed(row["@256"], many)
    # Rounded to four digits before, to three in print.
    np.testing.assert_allclose(row["min pi/ref"], float(ratio), atol=5.5e-4)


def test_sampled_runs_lie_where_they_were_seen():
  """Any divergence beats none (from about .17 to .57-.93 in the sheet)."""
  curves = conventions.smoke(diversity).curves
  held_out = curves["sampled/held_out"]
  assert np.all(held_out[:, 1:] > held_out[:, :1])
  assert 0.55 < held_out[:, 1:].min() and held_out[:, 1:].max() < 0.93
  # More of it costs success and keeps variety.
  assert np.all(np.diff(curves["sampled/train"], axis=1) < 0)
  assert np.all(np.diff(held_out, axis=1) > 0)


def test_strengths_are_equal_curvatures():
  weights = sampled.arms()
  assert weights.shape == (1 + 3 * len(sampled.STRENGTHS), 3)
  assert not weights[0].any()
  curvature = [
    float(d.f_second(np.ones(()))) for d in sampled.PENALTIES.values()
  ]
  np.testing.assert_allclose(
    (weights[1:] * curvature).sum(-1), np.tile(sampled.STRENGTHS, 3)
  )


def test_the_best_strategy_bounds_success():
  world = bandit.shared_strategies(0)
  best = np.mean(world.train, 0).max()
  base = np.exp(world.base_log_probs) @ np.mean(world.train, 0)
  assert base < optima.halfway(world) < best
  np.testing.assert_allclose(2 * optima.halfway(world), base + best)


@pytest.fixture
def matched():
  """What the claims see, of the smoke run's first world and one other."""
  curves = conventions.smoke(diversity).curves
  held_out = np.stack([curves["optima/held_out"]] * 3, 1)
  lanes = np.ones((len(PRINTED), 3))
  ratio = np.array([[float(x[2])] * 3 for x in PRINTED.values()])
  return optima.Optimum(lanes, lanes / 2, held_out, ratio, *[lanes] * 3)


def test_other_orders_fail(matched):
  targets = np.full(3, 0.5)
  assert not conventions.failed(optima._claims(matched, targets))
  exchanged = matched._replace(held_out=matched.held_out[[4, 1, 2, 3, 0]])
  failed = conventions.failed(optima._claims(exchanged, targets))
  assert failed == {"optima_order", "optima_worlds"}
  ratio = matched._replace(ratio=matched.ratio[::-1])
  failed = conventions.failed(optima._claims(ratio, targets))
  assert failed == {"optima_ratio"}
  failed = conventions.failed(optima._claims(matched, targets + 1e-6))
  assert failed == {"optima_matched"}


def test_penalties_that_do_not_help_fail(monkeypatch):
  def run_arms(key, weights, *, num_seeds):
    """Variety falls with any penalty; along it, divergences differ widely."""
    del key
    penalty = weights.argmax(-1) * (weights.max(-1) > 0)
    train = np.where(weights.max(-1) > 0, 0.6 - weights.max(-1) / 2, 0.6)
    held_out = 0.5 - (weights.max(-1) > 0) * (0.1 + penalty / 10)
    ones = np.ones((1, num_seeds))
    return train[:, None] * ones, held_out[:, None] * ones

  monkeypatch.setattr(sampled, "run_arms", run_arms)
  part = sampled.sampled(
    key=jax.random.key(0), num_seeds=4, target=0.5, exact_spread=0.1
  )
  assert conventions.failed(part.claims) == {"sampled_any", "sampled_frontier"}


def test_another_seed_gives_other_runs():
  assert set(sampled.PENALTIES) < set(penalties.PENALTIES)
  first, second = (
    np.asarray(
      sampled.run_arms(jax.random.key(seed), sampled.arms(), num_seeds=4)[0]
    )
    for seed in (0, 1)
  )
  np.testing.assert_allclose(
    first.mean(-1)[0],
    conventions.smoke(diversity).curves["sampled/train"][0, 0],
  )
  assert np.all(first != second)
