# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import disparate_impact as experiment
from experiments import harness
from experiments.stages.disparate_impact import projection
from jaxalign.learning import fairness
from tests.experiments import conventions


def failed(monkeypatch, **changes):
  """Names of the claims, compiled anew, that do not hold."""
  for name, function in changes.items():
    monkeypatch.setattr(fairness, name, function)
  jax.clear_caches()
  part = projection.projection(
    np.random.default_rng(0), jax.random.key(0), impact=0.8, num_seeds=4
  )
  jax.clear_caches()
  return conventions.failed(part.claims)


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


def test_another_seed_gives_other_samples():
  conventions.assert_seed_matters(experiment, "cells/true", "impact")


# --- a user's table ----------------------------------------------------------


def table(folder, rows):
  path = folder / "table.csv"
  path.write_text("\n".join(["name,hired,man", *rows]) + "\n")
  return str(path)


def run(path, folder, *flags):
  named = ["--prediction=hired", "--group=man", f"--output_dir={folder}"]
  return experiment.main(["test", f"--csv={path}", *named, *flags])


ROWS = ["Ann,0,0"] * 28 + ["Bea,1,0"] * 12 + ["Cyd,0,1"] * 24 + ["Dan,1,1"] * 36


def test_a_user_s_table(tmp_path):
  path, out = table(tmp_path, ROWS), tmp_path / "out"
  assert run(path, out, "--target_di=.8") == 0
  record = harness.read_record(out)
  (summary,) = record["tables"][path]
  assert summary["rows"] == 100 and summary["flips needed"] == 8
  np.testing.assert_allclose(summary["disparate impact"], 0.5)
  curves = np.load(out / "curves.npz")
  weights, flipped = curves["own/weights"], curves["own/flipped"]
  predictions = np.array([float(r.split(",")[1]) for r in ROWS])
  groups = np.array([float(r.split(",")[2]) for r in ROWS])
  shown = fairness.disparate_impact(predictions, groups, weights)
  np.testing.assert_allclose(shown, 0.8, rtol=1e-10)
  assert np.sum(flipped != predictions) == 8


@pytest.mark.parametrize(
  ("rows", "flags", "message"),
  [
    (["Ann,,0"], (), "line 2: expected a finite number in 'hired', was ''"),
    (["Ann,0,0", "Bob,1,2"], (), "row 2: expected 0 or 1 in 'man', was 2"),
    (
      ROWS[:28] + ROWS[40:],
      (),
      "'hired' must be both 0 and 1 where 'man' is 0",
    ),
    (ROWS, ("--target_di=1.8",), "choose target_di up to 1.667"),
    (ROWS, ("--target_di=0",), "target_di must be above 0"),
    (ROWS, ("--group=hired",), "must be two columns, both are 'hired'"),
    (ROWS, ("--group=age",), "expected a column 'age', found name, hired, man"),
    (ROWS, ("--group=",), "belong together: give all or none"),
  ],
)
def test_unusable_tables_are_named(tmp_path, capsys, rows, flags, message):
  out = tmp_path / "out"
  assert run(table(tmp_path, rows), out, *flags) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1
  assert not out.exists()


# --- wrong versions ----------------------------------------------------------


def test_a_projection_without_its_second_constraint_fails(monkeypatch):
  original = fairness.entropic_projection

  def gap_only(features, target):
    found = original(features.at[:, 1:].set(0), target.at[1:].set(0))
    residual = jnp.max(jnp.abs(found.weights @ features - target))
    return found._replace(residual=residual)

  found = failed(monkeypatch, entropic_projection=gap_only)
  # Of smaller divergence, too, than what has the impact.
  assert found == {"impact", "one_unknown"}


def test_less_and_more_than_is_needed_fails(monkeypatch):
  """Rates moved by too little, and one flip too many."""
  original = fairness.flip_predictions

  def halves(rates, share, *, impact):
    low, high = rates
    moved = (impact * high - low) / 2
    return fairness.ImpactRates(low + moved, high - moved, moved)

  def more(key, predictions, groups, *, impact):
    found = original(key, predictions, groups, impact=impact)
    first = jnp.argmax((found == 0) & (groups == 0))
    return found.at[first].set(1)

  found = failed(monkeypatch, balanced_rates=halves, flip_predictions=more)
  assert found == {"balanced_impact", "balanced_divergence", "flips"}
