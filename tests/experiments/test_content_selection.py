# SPDX-License-Identifier: Apache-2.0
import jax
import numpy as np
import pytest

from experiments import content_selection as experiment
from experiments.stages.content_selection import (
  cases,
  friction,
  model,
  online,
  simulation,
)
from jaxalign.learning import engagement
from tests.experiments import conventions


def failed(part, *args, **options):
  """Names of the claims of a part, compiled anew, that do not hold."""
  jax.clear_caches()
  names = conventions.failed(part(*args, **options).claims)
  jax.clear_caches()
  return names


def rows(title):
  return conventions.smoke(experiment).tables[title]


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


def test_printed_values():
  found = [row["effective discount"] for row in rows("effective discounts")]
  for value, printed in zip(found, (".834940", ".48"), strict=False):
    conventions.assert_printed(value, printed)
  plans = rows("plans")
  assert [row["target"] for row in plans] == [5, 5, 3]
  for row, printed in zip(plans, ("9.5177", "9.0046", "9.154755"), strict=True):
    conventions.assert_printed(row["value at 0"], printed)
  two = rows("friction: two levels")
  for row, value, share in (
    (two[0], "5.5", ".5"),
    (two[-1], "3.047722", ".655172"),
  ):
    conventions.assert_printed(row["value"], value)
    conventions.assert_printed(row["engagement"], share)


def test_another_seed_gives_other_draws():
  conventions.assert_seed_matters(
    experiment, "users/free", "online/competitive/gain"
  )


# --- wrong versions ----------------------------------------------------------


def test_a_discount_that_counts_from_the_arm_fails(monkeypatch):
  original = engagement.effective_discount
  monkeypatch.setattr(
    engagement,
    "effective_discount",
    lambda f, discount, friction: (
      original(f, discount=discount, friction=friction) / discount**0.5
    ),
  )
  assert "discount" in failed(cases.cases)


def test_a_program_that_keeps_users_where_they_are_fails(monkeypatch):
  original = engagement.linear_rewards
  monkeypatch.setattr(
    engagement,
    "linear_rewards",
    lambda y, **options: original(y, **{**options, "max_step": 0.5}),
  )
  assert failed(cases.cases) == {"closed_form"}


def test_an_arm_that_earns_too_much_fails(monkeypatch):
  original = engagement.linear_rewards
  monkeypatch.setattr(
    engagement,
    "linear_rewards",
    lambda y, **options: original(y, **options).at[:, 0].add(20.0),
  )
  assert {"closed_form", "bounded"} <= failed(cases.cases)


def test_the_value_without_friction_is_not_that_of_users_with_it(monkeypatch):
  original = model.plan
  monkeypatch.setattr(
    model,
    "plan",
    lambda y, f, one, step=np.inf: original(
      y, f, one._replace(friction=0.0), step
    ),
  )
  part = simulation.simulation
  assert "users_bounded" in failed(
    part, jax.random.key(0), num_seeds=2, num_users=4000
  )


def test_engagement_of_frictionless_users_fails(monkeypatch):
  monkeypatch.setattr(
    engagement, "stationary_engagement", lambda f, friction: f + 0 * friction
  )
  assert failed(friction.friction) == {
    "engagement",
    "paradox_engagement",
    "logistic_engagement",
  }


def test_a_target_without_its_price_fails(monkeypatch):
  original = engagement.optimal_target
  monkeypatch.setattr(
    engagement,
    "optimal_target",
    lambda y, f, **options: original(y, f, **{**options, "price": 1e-9}),
  )
  assert "paradox_engagement" in failed(friction.friction)


def test_following_the_leader_fails(monkeypatch):
  original = engagement.hedge_competitive
  monkeypatch.setattr(
    engagement,
    "hedge_competitive",
    lambda gains, eta: original(gains, eta=1e3),
  )
  rng = np.random.default_rng(0)
  assert failed(online.online, rng, number=5) == {"half", "guarantee", "regret"}


def test_another_rate_fails(monkeypatch):
  monkeypatch.setattr(engagement, "competitive_rate", lambda: 1.0)
  rng = np.random.default_rng(0)
  assert "rate" in failed(online.online, rng, number=2)


# --- one's own demand --------------------------------------------------------

CURVE = "satisfaction,participation\n0,.5\n1,.95\n"


def own(tmp_path, *flags, text=CURVE):
  path = tmp_path / "demand.csv"
  path.write_text(text)
  out = tmp_path / "out"
  return experiment.main(
    [
      "content_selection",
      "--preset=smoke",
      f"--csv={path}",
      f"--output_dir={out}",
      *flags,
    ]
  )


@pytest.mark.parametrize(
  ("phi", "y", "value", "share"),
  [(0.0, 0, "5.5", ".5"), (0.9, 1, "3.047722", ".655172")],
)
def test_ones_own_demand(phi, y, value, share, tmp_path):
  path = tmp_path / "demand.csv"
  path.write_text(CURVE)
  config = experiment.Config.from_preset(
    "smoke", csv=str(path), price=5.0, friction=phi
  )
  results = experiment.run(config, progress=False)
  assert results.holds, results.claims
  (row,) = results.tables["the best satisfaction"]
  assert row["y*"] == y
  conventions.assert_printed(row["value at satisfaction 0"], value)
  conventions.assert_printed(row["long-run engagement"], share)
  assert set(experiment.plot(results)) == {"demand"}


def test_ones_own_demand_with_bounded_steps(tmp_path, capsys):
  text = "satisfaction,participation\n0,.5\n1,.6\n2,.9\n"
  assert own(tmp_path, "--max_step=1", text=text) == 0
  assert (tmp_path / "out" / "demand.png").exists()
  assert "bounded" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("satisfaction,share\n0,.5\n", ["line 1", "'participation'"]),
    (CURVE + "2,\n", ["line 4", "'participation'", "''"]),
    (CURVE + "x,.97\n", ["line 4", "'satisfaction'", "'x'"]),
    (CURVE + "2,1.2\n", ["line 4", "'participation'", "[0, 1]", "1.2"]),
    (CURVE + "2,.9\n", ["line 4", "'participation'", "not fall", "0.95"]),
    (CURVE + "1,.97\n", ["line 4", "'satisfaction'", "rise"]),
    (CURVE + "2\n", ["line 4", "2 columns"]),
    ("satisfaction,participation\n0,.5\n", ["two rows"]),
  ],
)
def test_bad_files(text, words, tmp_path, capsys):
  assert own(tmp_path, text=text) == 2
  assert_one_line(capsys, words)
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("flag", "words"),
  [
    ("--price=0", ["price", "above 0"]),
    ("--base=nan", ["base", "finite"]),
    ("--discount=1", ["discount", "between 0 and 1"]),
    ("--friction=1.5", ["friction", "at most 1"]),
    ("--max_step=-1", ["max_step", "at least 0"]),
  ],
)
def test_bad_flags(flag, words, tmp_path, capsys):
  assert own(tmp_path, flag) == 2
  assert_one_line(capsys, words)
  assert not (tmp_path / "out").exists()


def assert_one_line(capsys, words):
  captured = capsys.readouterr()
  assert captured.out == ""
  assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
  assert all(word in captured.err for word in words), captured.err
