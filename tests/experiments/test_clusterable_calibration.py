# SPDX-License-Identifier: Apache-2.0
import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import clusterable_calibration as experiment
from experiments.stages import csv_predictions
from experiments.stages.clusterable_calibration import rates
from jaxalign.learning import clusterable, online_calibration
from tests.experiments import conventions


def failed(part, *args, **options):
  """Names of the claims of a part, compiled anew, that do not hold."""
  jax.clear_caches()
  names = conventions.failed(part(*args, **options).claims)
  jax.clear_caches()
  return names


def grown(rounds):
  return failed(
    rates.rates, jax.random.key(0), np.random.default_rng(0), rounds=rounds,
    num_seeds=8,
  )  # fmt: skip


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


def test_covers_are_the_sheets():
  x = np.random.default_rng(0).normal(size=(50, 1))
  lines, smooth = rates.covers(x)
  assert lines.shape == (50, 82) and smooth.shape == (50, 66)
  # Both sides of every threshold, and sigmoids that fall as others rise.
  np.testing.assert_array_equal(lines[:, :41] + lines[:, 41:], 1)
  np.testing.assert_array_equal(lines[:, 7], x[:, 0] > -4 + 7 * 0.2)
  by_sign = smooth.reshape(50, 11, 3, 2)
  np.testing.assert_allclose(by_sign.sum(-1), 1, rtol=1e-6)
  expected = 1 / (1 + np.exp(-4 * (x[:, 0] - 2)))
  np.testing.assert_allclose(by_sign[:, 10, 2, 0], expected, rtol=1e-5)


def test_another_seed_gives_other_sequences():
  first, again, other = (
    rates._sequences(np.random.default_rng(seed), 50, 2) for seed in (0, 0, 1)
  )
  for x, y, z in zip(first, again, other, strict=True):
    np.testing.assert_array_equal(x, y)
    assert not np.array_equal(x, z)


# --- wrong versions ----------------------------------------------------------


def test_predicting_a_half_fails(monkeypatch):
  def half(c):
    place = jnp.arange(c.shape[-1]) == c.shape[-1] // 2
    return jnp.broadcast_to(place.astype(c.dtype), c.shape)

  monkeypatch.setattr(online_calibration, "forecast_probabilities", half)
  found = grown((200, 800))
  assert {"slope_discriminant", "slope_likelihood"} <= found


def test_errors_that_forget_the_groups_fail(monkeypatch):
  original = clusterable.cell_sums
  monkeypatch.setattr(
    clusterable,
    "cell_sums",
    lambda p, y, groups, m: original(p, y, jnp.ones_like(groups), m),
  )
  # For everybody one calibrator is as good as any.
  assert "slope_global" in grown((200, 800))


def test_likelihoods_without_their_sum_fail(monkeypatch):
  monkeypatch.setattr(clusterable, "likelihood_groups", jnp.exp)
  found = failed(rates.overlap, np.random.default_rng(0))
  assert found == {"overlap_to_zero", "likelihoods_sum_to_one"}


# --- a user's file -----------------------------------------------------------


def write(path, rows, header="a,b,note,bought"):
  path.write_text("\n".join([header, *rows]) + "\n")
  return str(path)


def rows_of(rng, size=300):
  side = rng.choice((-2, 2), size)
  y = rng.random(size) < np.where(side > 0, 0.8, 0.2)
  points = rng.normal(size=(size, 2)) + side[:, None]
  return [
    f"{a:.3f},{b:.3f},x,{int(c)}" for (a, b), c in zip(points, y, strict=True)
  ]


def test_a_file_is_predicted(tmp_path, capsys):
  rows = rows_of(np.random.default_rng(0))
  path, out = write(tmp_path / "data.csv", rows), tmp_path / "out"
  code = experiment.main(
    ["clusterable_calibration", f"--csv={path}", f"--output_dir={out}",
     "--outcome=bought", "--features=a,b", "--preset=smoke"]
  )  # fmt: skip
  assert code == 0, capsys.readouterr()
  with (out / csv_predictions.FILE).open() as stream:
    found = list(csv.DictReader(stream))
  assert list(found[0]) == ["outcome", "prediction", "cluster"]
  p, cluster = (
    np.array([float(row[name]) for row in found])
    for name in ("prediction", "cluster")
  )
  np.testing.assert_allclose(p * 10, np.round(p * 10), atol=1e-12)
  side = np.array([float(row.split(",")[0]) > 0 for row in rows])
  # Two deviations from the middle in each of two columns: hardly any overlap.
  assert max(np.mean(side == cluster), np.mean(side != cluster)) > 0.95
  late = np.arange(300) > 150
  assert p[late & side].mean() > 0.6 and p[late & ~side].mean() < 0.4
  text = capsys.readouterr().out
  assert "error per row, likelihood groups" in text and "bound" in text


@pytest.mark.parametrize(
  ("row", "flags", "message"),
  [
    ("1,,x,1", (), "line 2: expected a finite number in 'b', was ''"),
    ("1,z,x,1", (), "line 2: expected a finite number in 'b', was 'z'"),
    ("1,2,x,.5", (), "row 1: expected 0 or 1 in 'bought', was 0.5"),
    ("1,2,x,1", ("--features=a,c",), "expected a column 'c', found a, b"),
  ],
)
def test_bad_files(tmp_path, capsys, row, flags, message):
  rows = [row, *rows_of(np.random.default_rng(0), 20)]
  path, out = write(tmp_path / "d.csv", rows), tmp_path / "out"
  code = experiment.main(
    ["clusterable_calibration", f"--csv={path}", f"--output_dir={out}",
     "--outcome=bought", *(flags or ("--features=a,b",))]
  )  # fmt: skip
  assert code == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1
  assert not out.exists()


def test_constant_columns_and_short_files(tmp_path, capsys):
  run = ["clusterable_calibration", "--outcome=bought", "--features=a"]
  constant = write(tmp_path / "c.csv", ["1,2,x,1"] * 20)
  assert experiment.main([*run, f"--csv={constant}"]) == 2
  assert "column 'a' is constant" in capsys.readouterr().err
  short = write(tmp_path / "s.csv", ["1,2,x,1", "2,2,x,0"])
  assert experiment.main([*run, f"--csv={short}"]) == 2
  assert "needs at least 16 rows, has 2" in capsys.readouterr().err
