# SPDX-License-Identifier: Apache-2.0
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import adaptive_holdout as experiment
from experiments import harness
from experiments.stages.adaptive_holdout import selection
from jaxalign.learning import adaptive_holdout as library
from tests.experiments import conventions


def failed(monkeypatch, **changes):
  """Names of the claims on one data set that do not hold."""
  for name, function in changes.items():
    monkeypatch.setattr(library, name, function)
  selection._answers.clear_cache()
  part = selection.selection(seed=0, num_seeds=1, progress=False)
  selection._answers.clear_cache()
  return conventions.failed(part.claims)


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


def test_accuracies_are_the_printed_ones():
  rows = conventions.smoke(experiment).tables["accuracy"]
  noise, signal = rows[2], rows[5]
  assert (noise["votes"], signal["votes"]) == (100, 20)
  printed = {
    "naive, reported": 0.636,
    "naive, new data": 0.502,
    "Thresholdout, reported": 0.52,  # .51 to .53
    "Thresholdout, new data": 0.5,
  }
  # Of two sets of 2000: standard error .008, and that of the prints.
  for name, value in printed.items():
    assert abs(noise[name] - value) < 0.04, name
  assert abs(signal["Thresholdout, reported"] - 0.722) < 0.04
  assert abs(signal["Thresholdout, new data"] - 0.718) < 0.04


def test_another_seed_gives_other_accuracies(monkeypatch):
  monkeypatch.setattr(selection, "NUM_EXAMPLES", 100)
  monkeypatch.setattr(selection, "NUM_FEATURES", 300)
  first, again, other = (
    selection.selection(seed=seed, num_seeds=1).curves for seed in (0, 0, 1)
  )
  for name in ("noise/naive/reported", "signal/Thresholdout/new data"):
    np.testing.assert_array_equal(first[name], again[name])
    assert not np.array_equal(first[name], other[name])


# --- a user's table ----------------------------------------------------------


def table(folder, rows, header="a,b,label"):
  path = folder / "table.csv"
  path.write_text("\n".join([header, *rows]) + "\n")
  return str(path)


def test_a_user_s_table(tmp_path):
  rng = np.random.default_rng(0)
  rows = [
    f"{y + rng.normal():.4f},{rng.normal():.4f},{y}"
    for y in rng.integers(2, size=300)
  ]
  path = table(tmp_path, rows)
  arguments = [
    "test",
    f"--csv={path}",
    "--target=label",
    "--preset=smoke",
    f"--output_dir={tmp_path / 'out'}",
  ]
  assert experiment.main(arguments) == 0
  record = harness.read_record(tmp_path / "out")
  (row,) = [r for r in record["tables"]["accuracy"] if r["votes"] == 1]
  # P(N(1/2, 1) > 0), by a third of 300 rows.
  assert abs(row["naive, new data"] - 0.69) < 0.15
  assert (tmp_path / "out" / "adaptive_holdout.png").exists()


GOOD = [f"{i % 7},{i * i % 11},{i % 2}" for i in range(40)]


@pytest.mark.parametrize(
  ("rows", "message"),
  [
    (["1,x,0"], "line 2: expected a finite number in 'b', was 'x'"),
    (["1,2,0", "1,,1"], "line 3: expected a finite number in 'b', was ''"),
    (["1,2,2", *GOOD], "column 'label' must have two values, has 3"),
    ([f"1,{r[2:]}" for r in GOOD], "column 'a' is constant: remove it"),
    (GOOD[:20], "expected at least 30 rows, found 20"),
  ],
)
def test_unusable_tables_are_named(tmp_path, capsys, rows, message):
  out = tmp_path / "out"
  arguments = ["test", f"--csv={table(tmp_path, rows)}", "--target=label"]
  assert experiment.main([*arguments, f"--output_dir={out}"]) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1
  assert not out.exists()


def test_a_missing_column_or_flag_is_named(tmp_path, capsys):
  path = table(tmp_path, GOOD)
  assert experiment.main(["test", f"--csv={path}", "--target=age"]) == 2
  assert "expected a column 'age', found a, b, label" in capsys.readouterr().err
  assert experiment.main(["test", f"--csv={path}"]) == 2
  assert "csv and target belong together" in capsys.readouterr().err


# --- wrong versions ----------------------------------------------------------


def test_answers_of_the_training_set_fail(monkeypatch):
  def careless(key, train, holdout, **options):
    found = jnp.zeros(train.size, bool)
    return library.ThresholdoutResult(train, found, found)

  found = failed(monkeypatch, thresholdout=careless)
  assert found == {"thresholdout_report"}


def test_signs_of_the_smallest_correlations_fail(monkeypatch):
  original = library.agreeing_signs

  def smallest(train, answers, **options):
    # The order is turned around; what agrees stays.
    flipped = jnp.sign(train) * (1 - jnp.abs(train))
    agree = jnp.sign(train) * answers > options["bound"]
    answers = jnp.where(agree, jnp.sign(train), 0)
    return original(flipped, answers, **options)

  assert "signal_fresh" in failed(monkeypatch, agreeing_signs=smallest)
