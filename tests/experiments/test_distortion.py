# SPDX-License-Identifier: Apache-2.0
import csv
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import distortion, harness
from experiments.stages.distortion import (
  finite_samples,
  leaderboard,
  rankings,
  rules,
  searches,
)
from jaxalign import checks, data
from tests.experiments import conventions

# One temperature and one shape everywhere: compilation takes the time.
SMALL = {
  "betas": (5.0,),
  "num_instances": 200,
  "candidates": 200,
  "steps": 150,
  "electorates": 50,
}


def claims_of(results) -> dict[str, harness.Claim]:
  return {claim.name: claim for claim in results.claims}


@pytest.fixture(scope="module")
def results():
  return conventions.smoke(distortion, **SMALL)


def test_claims_reproduce():
  conventions.assert_reproduces(distortion, **SMALL)


def test_tables_hold_the_numbers_of_the_docstring(results):
  (row,) = results.tables["distortion of methods on the theory's instances"]
  printed = {"D*": 2.5339, "C": 3.4777, "borda on I-BORDA": 3.4742}
  for name, number in (printed | {"rlhf on I-KL": 2.9683}).items():
    # Half a unit of the last digit; the limit of I-KL is 2.96826.
    assert abs(row[name] - number) < 1e-4, name
  (path,) = results.tables["instances along a path"]
  for size, number in ((10, 1.958), (100, 6.683), (1000, 21.46)):
    assert abs(path[f"m={size}"] / number - 1) < 3e-4


def test_searches_stay_below_the_bound_but_find_something(results):
  for row in results.tables["random games"]:
    assert 1 < row["largest ratio"] <= row["D*"] and row["violations"] == 0
  share = results.curves["adversary/5"]
  assert share.shape == (SMALL["steps"],)
  assert share[0] < share.max() <= 1 + 1e-6


def test_another_seed_gives_other_draws():
  conventions.assert_seed_matters(
    distortion, "ratios/5/3", "adversary/5", "finite/seeds", **SMALL
  )


def test_a_wrong_bound_fails(results, monkeypatch):
  true = searches.sc.distortion_bound
  monkeypatch.setattr(
    searches.sc, "distortion_bound", lambda beta: 1 + (true(beta) - 1) / 20
  )
  config = distortion.Config.from_preset("smoke", **SMALL)
  wrong = claims_of(distortion.run(config, progress=False))
  for name in (
    "NLHF attains D*",
    "maximal lottery attains D*",
    "no random game exceeds D*",
    "the adversary stays below D*",
  ):
    assert claims_of(results)[name].holds and not wrong[name].holds, name
  # What does not speak of D* still holds.
  assert wrong["finite samples"].holds and wrong["RLHF is unbounded"].holds


def test_wrong_simulated_answers_fail(monkeypatch):
  simulate = finite_samples.sc.simulate_comparisons

  def contrary(*args, **kwargs):
    return simulate(*args, **kwargs).T

  monkeypatch.setattr(finite_samples.sc, "simulate_comparisons", contrary)
  with jax.enable_x64(True):
    part = finite_samples.finite_samples(
      jax.random.key(0), num_seeds=2, electorates=50
    )
  held = {claim.name: claim.holds for claim in part.claims}
  assert held == {"finite samples": False, "finite samples converge": True}


# --- bad input ---------------------------------------------------------------


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--betas=0"], ["betas", "(0, 30]", "0.0"]),
    (["--betas=5,nan"], ["betas", "nan"]),
    (["--betas=1000"], ["betas", "1000"]),
    (["--betas=five"], ["--betas", "five"]),
    (["--budgets=-1"], ["KL budgets", "-1.0"]),
    (["--budgets=inf"], ["KL budgets", "inf"]),
    (["--candidates=31"], ["candidates", "at least 32", "31"]),
    (["--num_instances=0"], ["num_instances", "at least 1"]),
    (["--steps=0"], ["steps", "at least 1"]),
    (["--electorates=0"], ["electorates", "at least 1"]),
    (["--num_seeds=1"], ["num_seeds", "at least 2"]),
    (["--gamma=1"], ["gamma"]),
    (["--profile=absent.soc"], ["absent.soc", "no such file"]),
    (["--ratings=absent.csv"], ["absent.csv", "no such file"]),
  ],
)
def test_bad_flags(flags, words, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert refused(flags, capsys, words)
  assert not list(tmp_path.iterdir())


def refused(flags, capsys, words) -> bool:
  """Exit code 2 and one line that holds every word."""
  code = distortion.main(["distortion", "--preset=smoke", *flags])
  captured = capsys.readouterr()
  assert captured.out == ""
  assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
  assert all(word in captured.err for word in words), captured.err
  return code == 2


@pytest.mark.parametrize(
  ("name", "text", "words"),
  [
    ("p.soc", "# ALTERNATIVE NAME 1: tea\n3: 1,2\n2: 2;1\n", ["line 3", "2;1"]),
    ("p.soc", "3: 1,2\n2: 1,1\n", ["line 2", "1,1"]),
    ("p.soc", "0: 1,2\n", ["line 1", "count"]),
    ("p.soc", "# nothing\n", ["found none"]),
    ("p.soc", "3: 1\n", ["at least two alternatives"]),
    # Nobody ranks the third above another one.
    ("p.soc", "3: 1,2,3\n2: 2,1,3\n", ["no finite Bradley-Terry fit"]),
    ("r.csv", "model,votes\na,1\nb,2\n", ["line 1", "arena_score"]),
    (
      "r.csv",
      "model,arena_score,votes\na,1200,10\nb,high,10\n",
      ["line 3", "arena_score", "high"],
    ),
    ("r.csv", "model,arena_score,votes\na,1,1\nb,2\n", ["line 3", "columns"]),
    ("r.csv", "model,arena_score,votes\na,1200,10\n", ["two models"]),
    # Without any range of scores there is no temperature.
    ("r.csv", "model,arena_score,votes\na,9,1\nb,9,1\n", ["r.csv", "equal"]),
  ],
)
def test_bad_files(name, text, words, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  (tmp_path / name).write_text(text)
  flag = "profile" if name.endswith("soc") else "ratings"
  assert refused([f"--{flag}={name}"], capsys, [name, *words])
  assert [path.name for path in tmp_path.iterdir()] == [name]


# --- real preferences --------------------------------------------------------


@pytest.fixture
def condorcet(tmp_path):
  """Tea wins all majorities, though most voters put another one first."""
  path = tmp_path / "tea.soc"
  names = ("coffee", "tea", "milk", "water")
  lines = [f"# ALTERNATIVE NAME {i}: {n}" for i, n in enumerate(names, 1)]
  lines += ["5: 2,1,3,4", "4: 3,2,4,1", "3: 4,2,1,3"]
  path.write_text("\n".join(lines) + "\n")
  return path


def test_a_condorcet_winner_wins(condorcet):
  with jax.enable_x64(True):
    claims, curves, tables = rankings.rankings(rankings.read(str(condorcet)))
  assert all(claim.holds for claim in claims), claims
  rows = {row["alternative"]: row for row in tables["rankings: alternatives"]}
  assert rows["tea"]["maximal lottery"] == 1
  assert rows["tea"]["majorities won"] == 3
  assert (
    rows["tea"] is tables["rankings: alternatives"][0]
  )  # also first by Borda
  # By hand: tea beats coffee with 12 of 12, milk with 8, water with 9.
  np.testing.assert_allclose(curves["profile/win"][1], [1, 0.5, 8 / 12, 9 / 12])
  borda = (1 + 0.5 + 8 / 12 + 9 / 12) / 4
  np.testing.assert_allclose(rows["tea"]["Borda"], borda)
  utility = (5 * 1 + 7 * 2 / 3) / 12
  np.testing.assert_allclose(rows["tea"]["average utility"], utility)
  ratios = {
    row["rule"]: row["best over it"]
    for row in tables["rankings: rules with linear utilities"]
  }
  assert ratios["maximal lottery"] == ratios["Borda"] == 1
  # Ranks of all alternatives average to 1/2.
  np.testing.assert_allclose(ratios["uniform"], utility / 0.5)


def test_the_built_in_profile_is_a_cycle():
  with jax.enable_x64(True):
    claims, curves, tables = rankings.rankings(rankings.read(""))
  assert all(claim.holds for claim in claims)
  win = curves["profile/win"]
  assert win[0, 1] > 0.5 and win[1, 2] > 0.5 and win[2, 0] > 0.5
  rows = tables["rankings: alternatives"]
  assert sum(row["maximal lottery"] > 0.01 for row in rows) == 3
  # The strict cycle's lottery weighs each by the margin between the others.
  expected = np.abs([win[1, 2] - 0.5, win[2, 0] - 0.5, win[0, 1] - 0.5])
  names = data.parse_preflib(rankings.PROFILE).names
  lottery = {row["alternative"]: row["maximal lottery"] for row in rows}
  np.testing.assert_allclose(
    [lottery[name] for name in names[:3]], expected / expected.sum(), rtol=1e-9
  )


def test_an_alternative_that_beats_nobody_has_no_fit(tmp_path):
  path = tmp_path / "last.soc"
  path.write_text("3: 1,2,3,4\n2: 2,3,1,4\n2: 3,1,2,4\n")
  with (
    jax.enable_x64(True),
    pytest.raises(checks.InputError, match="no chain of wins leads from"),
  ):
    rankings.read(str(path))


def test_wrong_borda_scores_fail(monkeypatch):
  scores = rules.sc.borda_scores

  def with_self_wins(win, mu):
    return scores(win, mu) + mu / 2 * jnp.arange(mu.shape[0])

  monkeypatch.setattr(rules.sc, "borda_scores", with_self_wins)
  rules.solve.clear_cache()
  with jax.enable_x64(True):
    claims, _, _ = rankings.rankings(rankings.read(""))
  rules.solve.clear_cache()
  held = {claim.name: claim.holds for claim in claims}
  assert not held["rankings: Borda identity"]
  assert held["rankings: maximal lottery"]


def test_a_leaderboard_from_a_file(tmp_path):
  path = tmp_path / "board.csv"
  built_in = leaderboard.RATINGS
  with path.open("w", newline="") as stream:
    writer = csv.writer(stream)
    writer.writerow(("rank", "model", "arena_score", "votes"))
    rows = zip(
      itertools.count(1),
      built_in.names,
      built_in.scores,
      built_in.votes,
      strict=False,
    )
    writer.writerows(rows)
  budgets = (0.1, 1.0)
  with jax.enable_x64(True):
    claims, curves, tables = leaderboard.leaderboard(
      leaderboard.read(""), budgets=budgets
    )
    again = leaderboard.leaderboard(
      leaderboard.read(str(path)), budgets=budgets
    )
  assert all(claim.holds for claim in claims), claims
  assert again.tables == tables
  rows = tables["ratings: policies in KL balls around the uniform reference"]
  assert {row["first model"] for row in rows} == {"alpha"}
  # The ball of one voter's RLHF, by hand: KL at the budget, DPO alike.
  for row in rows:
    np.testing.assert_allclose(row["KL"], row["KL budget"], rtol=1e-9)
  np.testing.assert_allclose(
    curves["ratings/RLHF"], curves["ratings/DPO"], rtol=1e-12
  )


def test_the_real_leaderboard(real_data):
  path = real_data / "lmarena_text.csv"
  with jax.enable_x64(True):
    claims, curves, tables = leaderboard.leaderboard(
      leaderboard.read(str(path)), budgets=(0.1, 1.0)
    )
  assert all(claim.holds for claim in claims), claims
  leaders = tables["ratings: first fifteen models"]
  assert leaders[0]["model"] == "Gemini-2.5-Pro"
  assert leaders[0]["maximal lottery"] == 1
  values = [curves[f"ratings/{method}"] for method in ("RLHF", "NLHF")]
  assert np.all(np.diff(values, axis=1) > 0) and np.all(values[0] >= values[1])
