# SPDX-License-Identifier: Apache-2.0
import sys

import jax
import numpy as np
import pytest

from experiments import strategic_features as experiment
from experiments.stages.strategic_features import (
  counterexample,
  diabetes,
  instances,
  problems,
  table,
)
from jaxalign import checks
from jaxalign.learning import strategic, strategic_subsets
from tests.experiments import conventions


def failed(part, *args, **options):
  """Names of the claims of a part, compiled anew, that do not hold."""
  jax.clear_caches()
  names = conventions.failed(part(*args, **options).claims)
  jax.clear_caches()
  return names


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


def test_printed_values():
  tables = conventions.smoke(experiment).tables
  rows = {row["features"]: row for row in tables["counterexample"]}
  for name, lam, value in (
    ("{0, 1, 2}", ".22204", ".063739"),
    ("{1, 2}", ".05520", ".051516"),
    ("{}", "0", ".900000"),
  ):
    conventions.assert_printed(rows[name]["lam"], lam)
    conventions.assert_printed(rows[name]["SMSE"], value)
  arms = {
    row["coefficients"]: row
    for row in tables["diabetes: errors on the test half"]
  }
  assert arms["joint"]["features"] == "age sex bmi bp s5 s6"
  conventions.assert_printed(arms["ridge"]["before"], ".526")
  for arm, printed in (
    ("ridge", "13.9"),
    ("all", ".764"),
    ("joint", ".756"),
    ("optimum", ".728"),
  ):
    conventions.assert_printed(arms[arm]["manipulated"], printed)


def test_another_seed_gives_other_draws():
  first, again, other = (
    instances.draw(np.random.default_rng(seed), 2) for seed in (0, 0, 1)
  )
  for x, y, z in zip(first, again, other, strict=True):
    np.testing.assert_array_equal(x, y)
    assert not np.array_equal(x, z)


def test_the_diabetes_data_need_scikit_learn(monkeypatch):
  monkeypatch.setitem(sys.modules, "sklearn", None)
  with pytest.raises(checks.InputError, match="scikit-learn.*--nodiabetes"):
    diabetes.load()


def test_without_the_diabetes_data(monkeypatch):
  """They are neither read nor drawn."""
  monkeypatch.setattr(diabetes, "load", None)
  part = conventions.smoke(experiment)
  curves = {k: v for k, v in part.curves.items() if "diabetes" not in k}
  figures = experiment.plot(
    experiment.harness.Results("strategic_features", "", (), curves)
  )
  assert len(figures["strategic_features"].axes) == 1


# --- a table of one's own ----------------------------------------------------


def rows(number=40):
  """Three features of which two are close, and a target."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(number, 3)) * [1, 5, 0.1]
  x[:, 2] += x[:, 0] / 10
  y = 3 + x @ [1.0, 0.1, 2.0] + rng.normal(size=number)
  return np.column_stack([x, y])


def text_of(values, header="a,b,c,y"):
  lines = [",".join(repr(float(v)) for v in row) for row in values]
  return "\n".join([header, *lines]) + "\n"


def own(tmp_path, *, text=None, target="y", costs="a:.3,b:2,c:inf"):
  path = tmp_path / "table.csv"
  path.write_text(text_of(rows()) if text is None else text)
  return experiment.main(
    [
      "strategic_features",
      "--preset=smoke",
      f"--csv={path}",
      f"--target={target}",
      f"--costs={costs}",
      f"--output_dir={tmp_path / 'out'}",
    ]
  )


def test_ones_own_table(tmp_path, capsys):
  assert own(tmp_path) == 0
  assert "recommended" in capsys.readouterr().out
  assert (tmp_path / "out" / "table.png").exists()
  record = experiment.harness.read_record(tmp_path / "out")
  choices, features = record["tables"].values()
  assert [row["feature"] for row in features] == ["a", "b", "c"]
  assert [row["cost"] for row in features] == [0.3, 2, "inf"]
  errors = {row["choice"]: row["error"] for row in choices}
  least = errors["a shrinkage for each"]
  assert least <= errors["recommended"] <= errors["best cut-off"]
  assert errors["best cut-off"] <= errors["all features"]
  assert all(row["error rises if switched"] > 0 for row in features)


def test_recommendations_do_not_depend_on_units(tmp_path):
  found = []
  for scale in (1.0, 1e6):
    path = tmp_path / "table.csv"
    path.write_text(text_of(rows() * scale + scale))
    part = table.recommendation(table.read(str(path), "y", "a:.3,b:2,c:1"))
    found.append(part.curves)
  np.testing.assert_array_equal(*(x["table/kept"] for x in found))
  np.testing.assert_allclose(*(x["table/errors"] for x in found), rtol=1e-9)


def with_cell(text):
  lines = text_of(rows()).splitlines()
  lines[4] = f"1.0,{text},2.0,3.0"
  return "\n".join(lines)


def with_column(column):
  values = rows()
  values[:, 1] = column(values)
  return text_of(values)


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"text": with_cell("")}, ["line 5", "'b'", "''"]),
    ({"text": with_cell("n/a")}, ["line 5", "'b'", "'n/a'"]),
    ({"text": with_cell("1,2")}, ["line 5", "4 columns"]),
    ({"text": text_of(rows(3))}, ["more rows", "3 features", "found 3"]),
    ({"text": text_of(rows(), ",b,c,y")}, ["line 1", "a name for each column"]),
    ({"text": text_of(rows(), "a,b,b,y")}, ["line 1", "'b'"]),
    ({"text": ""}, ["at least one row of numbers"]),
    ({"text": with_column(lambda v: 7.0)}, ["'b'", "constant"]),
    (
      {"text": with_column(lambda v: 2 * v[:, 0] + 1)},
      ["singular", "columns a, b determine"],
    ),
    ({"target": "z"}, ["--target", "'z'", "a, b, c, y"]),
    ({"costs": "a:1,b:1,c:1,d:1"}, ["--costs", "'d'"]),
    ({"costs": "a:1,b:1"}, ["--costs", "no cost of column 'c'"]),
    ({"costs": "a:1,b:1,c:0"}, ["--costs", "above 0", "'c:0'"]),
    ({"costs": "a:1,b:1,c:-2"}, ["--costs", "above 0", "'c:-2'"]),
    ({"costs": "a:1,b:1,c"}, ["--costs", "COLUMN:VALUE", "'c'"]),
    ({"costs": "a:1,b:1,c:1,a:2"}, ["--costs", "'a'", "two costs"]),
    ({"costs": "a:1,b:1,c:1,y:2"}, ["--costs", "'y' is the target"]),
    ({"costs": ""}, ["csv, target and costs"]),
  ],
)
def test_bad_tables(options, words, tmp_path, capsys):
  assert own(tmp_path, **options) == 2
  captured = capsys.readouterr()
  assert captured.out == ""
  assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
  assert all(word in captured.err for word in words), captured.err
  assert not (tmp_path / "out").exists()


def test_absent_tables(tmp_path):
  with pytest.raises(checks.InputError, match=r"absent.csv: no such file"):
    table.read(str(tmp_path / "absent.csv"), "y", "a:1")


# --- wrong versions ----------------------------------------------------------


def test_penalties_that_are_not_the_best_fail(monkeypatch):
  original = problems.enumerate_subsets

  def worse(batch):
    found = original(batch)
    lam, value = found["penalty"]
    return found | {"penalty": strategic.Penalty(lam, value + 1e-6)}

  monkeypatch.setattr(problems, "enumerate_subsets", worse)
  part = counterexample.counterexample()
  assert conventions.failed(part.claims) == {
    "counterexample_table",
    "counterexample_cutoffs",
    "counterexample_joint",
  }


def test_cutoffs_alone_fail(monkeypatch):
  def cutoffs(covariance, beta, costs):
    masks = strategic_subsets.cutoff_masks(costs)
    found = jax.vmap(
      lambda mask: strategic.best_penalty(mask, covariance, beta, costs)
    )(masks)
    best = found.value.argmin()
    return strategic_subsets.JointSelection(
      masks[best], found.lam[best], found.value[best], found.value[best]
    )

  monkeypatch.setattr(strategic_subsets, "joint_select", cutoffs)
  assert failed(counterexample.counterexample) == {
    "counterexample_cutoffs",
    "counterexample_joint",
    "counterexample_keeps",
  }


def test_optima_that_shrink_too_little_fail(monkeypatch):
  original = strategic.strategic_optimum

  def half(mask, covariance, beta, costs):
    return original(mask, covariance, beta, 2 * costs)

  monkeypatch.setattr(strategic, "strategic_optimum", half)
  rng = np.random.default_rng(0)
  wrong = failed(instances.instances, rng, number=2)
  assert {"one_feature", "optimum", "no_gap", "equal_costs"} <= wrong
  assert "joint" not in wrong and "joint_optimal" not in wrong
