# SPDX-License-Identifier: Apache-2.0
import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import panprediction as experiment
from experiments.stages import csv_predictions
from experiments.stages.panprediction import (
  audits,
  deterministic,
  randomised,
  reduction,
  worlds,
)
from jaxalign.learning import (
  online_calibration,
  panpredictions,
  sample_reuse,
  step_calibration,
)
from tests.experiments import conventions


def failed(part, *args, **options):
  """Names of the claims of a part, compiled anew, that do not hold."""
  jax.clear_caches()
  names = conventions.failed(part(*args, **options).claims)
  jax.clear_caches()
  return names


@pytest.fixture
def world():
  rng = np.random.default_rng(0)
  small = worlds.small(rng)
  return small, worlds.losses(rng, small)


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


def test_printed_values():
  tables = conventions.smoke(experiment).tables
  rows = {row["eps"]: row for row in tables["audit and patch"]}
  caps = [rows[eps]["cap"] for eps in audits.PRINTED]
  # The sheet's 99 is 1/(4 * .05^2) = 100, less a rounding.
  assert caps == [100, 625, 2500, 10000]
  # Steps of another world, 3, 37, 118, 359: of the same order.
  patches = np.array([rows[eps]["patches"] for eps in audits.PRINTED])
  assert np.all(np.diff(patches) > 0) and 100 < patches[-1] < 1000
  ratio = tables["random predictors"][0]["largest gap over bound"]
  assert 0 < ratio <= 0.25


def test_another_seed_gives_other_worlds_and_samples():
  def draws(seed):
    rng = np.random.default_rng(seed)
    small, large = worlds.small(rng), worlds.large(rng)
    losses = worlds.losses(rng, small)
    counts = worlds.draw_counts(rng, large, 100, (2,))
    x, y, served = deterministic._draws(rng, large, 64, 2)
    return small.f, small.H, large.f, losses, *counts, x, y, served

  for first, again, other in zip(*map(draws, (0, 0, 1)), strict=True):
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_fixed_tests_are_groups_cut_by_hypotheses(world):
  small, _ = world
  found = small.fixed_tests()
  assert found.shape == (60, 4 * (1 + 4 * 2))
  np.testing.assert_array_equal(found[:, 0], 1)
  cut = small.G[2] * (small.H[1] <= small.actions[1])
  assert (found == cut[:, None]).all(0).any()


def test_counts_are_a_sample(world):
  small, _ = world
  f, w = worlds.draw_counts(np.random.default_rng(0), small, 10**9, (3,))
  np.testing.assert_allclose(w, small.w[None].repeat(3, 0), atol=1e-4)
  # Five standard deviations of the rarest point's mean.
  spread = 5 * 0.5 / np.sqrt(1e9 * small.w.min())
  np.testing.assert_allclose(f, small.f[None].repeat(3, 0), atol=spread)


def test_the_least_sample_is_that_from_which_on_all_succeed():
  success = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [1, 1, 0]], bool)
  used = np.array([[1] * 3, [2] * 3, [3] * 3, [4] * 3])
  found = deterministic._smallest(success, used)
  np.testing.assert_array_equal(found, [3, 2, np.nan])


# --- wrong versions ----------------------------------------------------------


def test_the_worst_action_fails(monkeypatch, world):
  original = panpredictions.best_response_action
  monkeypatch.setattr(
    panpredictions,
    "best_response_action",
    lambda loss, p: original(-loss, p),
  )
  rng = np.random.default_rng(1)
  found = failed(reduction.reduction, rng, *world, num_predictors=20)
  assert "phi_monotone" in found and "special_cases_agree" not in found


def test_a_forgotten_factor_fails(monkeypatch, world):
  original = panpredictions.step_calibration_factor
  monkeypatch.setattr(
    panpredictions,
    "step_calibration_factor",
    lambda *args: original(*args) / 20,
  )
  rng = np.random.default_rng(1)
  found = failed(reduction.reduction, rng, *world, num_predictors=20)
  assert found == {"gap_bound", "special_cases"}


def test_patches_the_wrong_way_fail(monkeypatch, world):
  original = step_calibration.step_calibration_audit

  def audit(*args, **options):
    found = original(*args, **options)
    return found._replace(violation=-found.violation)

  monkeypatch.setattr(step_calibration, "step_calibration_audit", audit)
  found = failed(audits.audits, *world, num_eps=2)
  assert {"patched_error", "patch_pays"} <= found


def test_always_predicting_a_half_fails(monkeypatch, world):
  def half(c):
    place = jnp.arange(c.shape[-1]) == c.shape[-1] // 2
    return jnp.broadcast_to(place.astype(c.dtype), c.shape)

  monkeypatch.setattr(online_calibration, "forecast_probabilities", half)
  found = failed(
    randomised.randomised, jax.random.key(0), np.random.default_rng(0),
    world[0], rounds=(200, 800), num_seeds=2,
  )  # fmt: skip
  assert {"forecast_lemma", "online_slope"} <= found


def test_stopping_early_and_larger_plans_fail(monkeypatch):
  original = sample_reuse.patching_plan

  def plan(*args, scheme):
    found = original(*args, scheme=scheme)
    return found._replace(num_samples=found.num_samples**2, threshold=1.0)

  monkeypatch.setattr(sample_reuse, "patching_plan", plan)
  monkeypatch.setattr(
    worlds, "draw_counts", lambda rng, world, n, size: (
      np.broadcast_to(world.f, (*size, world.f.size)),
      np.broadcast_to(world.w, (*size, world.w.size)),
    )
  )  # fmt: skip
  large = worlds.large(np.random.default_rng(0))
  found = failed(
    deterministic.guaranteed, np.random.default_rng(0), large,
    targets=(0.1, 0.09), num_seeds=2,
  )  # fmt: skip
  assert found == {
    "counted_sample_suffices",
    "noisy_sample_suffices",
    *(f"{scheme}_power" for scheme in deterministic.SCHEMES),
  }


# --- a user's file -----------------------------------------------------------


def write(path, rows, header="prediction,outcome,old,city"):
  path.write_text("\n".join([header, *rows]) + "\n")
  return str(path)


def rows_of(rng, size=200):
  old = rng.random(size) < 0.4
  y = rng.random(size) < np.where(old, 0.8, 0.3)
  return [
    f"0.5,{int(a)},{int(b)},{c:.2f}"
    for a, b, c in zip(y, old, rng.random(size), strict=True)
  ]


def test_a_file_is_patched(tmp_path, capsys):
  path = write(tmp_path / "data.csv", rows_of(np.random.default_rng(0)))
  out = tmp_path / "out"
  code = experiment.main(
    ["panprediction", f"--csv={path}", f"--output_dir={out}", "--eps=.05",
     "--preset=smoke", "--groups=old"]
  )  # fmt: skip
  assert code == 0, capsys.readouterr()
  with (out / csv_predictions.FILE).open() as stream:
    found = list(csv.DictReader(stream))
  assert list(found[0]) == ["prediction", "outcome", "patched"]
  p, y, patched = (
    np.array([float(row[name]) for row in found]) for name in found[0]
  )
  old = np.array([float(line.split(",")[2]) for line in
                  rows_of(np.random.default_rng(0))])  # fmt: skip
  for group in (np.ones(200), old):
    for v in np.unique(patched):
      step = group * (patched <= v)
      assert abs(np.mean(step * (y - patched))) <= 0.05 + 1e-12
  assert np.abs(np.mean(old * (y - p))) > 0.05  # which it was not before
  # Half of the rows, patched by the other half's audits, gained as well.
  text = capsys.readouterr().out
  assert "held out patched" in text and "everybody" in text


@pytest.mark.parametrize(
  ("row", "header", "message"),
  [
    ("0.5,1,,0", None, "line 3: expected a finite number in 'old', was ''"),
    ("0.5,1,x,0", None, "line 3: expected a finite number in 'old', was 'x'"),
    ("1.5,1,0,0", None, r"row 2: expected a number within [0, 1] in 'predict"),
    ("0.5,2,0,0", None, "row 2: expected 0 or 1 in 'outcome', was 2"),
    ("0.5,1,3,0", None, "row 2: expected a number within [0, 1] in 'old'"),
    ("0.5,1,0,0", "p,outcome,old,city", "expected a column 'prediction'"),
  ],
)
def test_bad_files(tmp_path, capsys, row, header, message):
  rows = ["0.5,1,0,0", row]
  path = write(tmp_path / "d.csv", rows, *([header] if header else []))
  out = tmp_path / "out"
  argv = ["panprediction", f"--csv={path}", f"--output_dir={out}"]
  assert experiment.main(argv) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1
  assert not out.exists()


def test_bad_flags(capsys):
  for flag, message in (
    ("--eps=0", "eps must be at least 0.001"),
    ("--rounded=100,200", "rounded must divide 2048"),
    ("--rounds=500", "rounds needs two numbers"),
    ("--csv=/nowhere.csv", "no such file"),
  ):
    assert experiment.main(["panprediction", flag]) == 2
    assert message in capsys.readouterr().err
