# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import math
import re

import numpy as np
import pytest

from experiments import harness, report
from jaxalign import checks
from tests.experiments import toy


def claim(**changes):
  values = dict(
    name="c", statement="s", theory=1.0, measured=1.0, tolerance=0.1
  )
  return harness.Claim(**(values | changes))


def test_claims_hold_by_their_relation():
  assert claim(measured=1.09).holds and not claim(measured=1.11).holds
  assert claim(measured=-5.0, relation="<=").holds
  assert not claim(measured=1.2, relation="<=").holds
  assert claim(measured=5.0, relation=">=").holds
  assert not claim(measured=0.8, relation=">=").holds
  assert not claim(measured=math.nan).holds
  assert not claim(measured=math.nan, relation="<=").holds
  assert claim(measured=math.inf, theory=math.inf).holds
  assert not claim(measured=math.inf).holds
  with pytest.raises(ValueError, match="unknown relation '<'"):
    claim(relation="<")


def test_one_nan_among_many_numbers_fails_a_claim():
  good, bad = np.array([0.1, -0.3]), np.array([0.1, math.nan])
  make = (
    lambda x: harness.all_agree("c", "s", x, tolerance=0.4),
    lambda x: harness.none_exceeds("c", "s", x, tolerance=0.0),
  )
  agree, exceed = (f([good, 0.0]) for f in make)
  assert agree.holds and agree.measured == 0.3
  assert not exceed.holds and exceed.measured == 0.1
  assert harness.none_exceeds("c", "s", [-good[:1]], tolerance=0.0).holds
  for f in make:
    for values in ([good, bad], [bad, good], [0.0, math.nan]):
      assert not f(values).holds and math.isnan(f(values).measured)


def test_bounds_of_fields():
  @dataclasses.dataclass(frozen=True)
  class Config(harness.Config):
    sizes: tuple[int, ...] = harness.field((2, 3), least=2, most=9, help="x")

  assert Config(sizes=(2, 9)).sizes == (2, 9)
  for sizes, message in (
    ((2, 1), "sizes must be at least 2, was 1"),
    ((10,), "sizes must be at most 9, was 10"),
    ((math.nan,), "sizes must be at least 2"),
    ((), "sizes needs at least one number"),
  ):
    with pytest.raises(ValueError, match=re.escape(message)):
      Config(sizes=sizes)


def test_parts_are_collected_in_order():
  parts = [
    harness.Part([claim(name=x)], {x: np.ones(1)}, {x: [{"a": 1}]})
    for x in "ab"
  ]
  results = harness.collect("toy", "none", parts)
  assert [c.name for c in results.claims] == ["a", "b"]
  assert list(results.curves) == list(results.tables) == ["a", "b"]


def test_presets_are_defaults_and_explicit_values_win():
  smoke = toy.Config.from_preset("smoke")
  assert (smoke.draws, smoke.num_seeds) == (100, 2)
  assert toy.Config.from_preset("smoke", draws=7).draws == 7
  assert toy.Config.from_preset("full").draws == 1000
  with pytest.raises(ValueError, match="unknown option 'drows'"):
    toy.Config.from_preset("smoke", drows=7)
  with pytest.raises(ValueError, match="unknown kind 'x'"):
    toy.Config.from_preset("smoke", kind="x")
  with pytest.raises(ValueError, match="num_seeds must be at least 2"):
    toy.Config(num_seeds=1)


def test_flags_of_every_type():
  config, preset, output = harness.parse_flags(
    toy.Config,
    ["toy", "--preset=smoke", "--levels=.1,.9", "--kind=other", "--seed=3"],
  )
  assert preset == "smoke" and config.levels == (0.1, 0.9)
  assert config.kind == "other" and config.seed == 3 and config.draws == 100
  assert output.startswith("results/toy/smoke-")
  assert harness.parse_flags(toy.Config, ["toy"])[2] == "results/toy/quick"


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("--drows=3", "Unknown command line flag 'drows'"),
    ("--draws=three", "draws"),
    ("--kind=x", "kind"),
    ("--levels=a,b", "--levels takes floats separated by commas"),
    ("--preset=huge", "preset"),
    ("--num_seeds=1", "num_seeds must be at least 2"),
    ("stray", "unexpected argument 'stray'"),
  ],
)
def test_unusable_flags_exit_2_and_write_nothing(
  argument, message, capsys, tmp_path
):
  output = tmp_path / "out"
  assert toy.main(["toy", f"--output_dir={output}", argument]) == 2
  error = capsys.readouterr().err
  assert error.count("\n") == 1 and message in error
  assert not output.exists()


def test_main_writes_everything(tmp_path, capsys):
  output = tmp_path / "a" / "out"
  arguments = ["toy", "--preset=smoke", f"--output_dir={output}"]
  assert toy.main(arguments) == 0
  printed = capsys.readouterr()
  assert "holds" in printed.out and "1 of 1 claims hold" in printed.out
  names = sorted(p.name for p in output.iterdir())
  assert names == ["curves.npz", "means.png", "results.json"]
  record = harness.read_record(output)
  assert record["schema_version"] == harness.SCHEMA_VERSION
  assert record["flags"]["draws"] == 100 and record["preset"] == "smoke"
  assert record["claims"][0]["holds"] is True
  assert set(record) >= {"versions", "device", "seconds", "paper"}
  with np.load(output / "curves.npz") as curves:
    assert curves["means"].shape == (2,)
  # The same configuration may write again, another one may not.
  before = (output / "results.json").read_text()
  assert toy.main(arguments) == 0
  assert toy.main([*arguments, "--seed=1"]) == 2
  assert "is in use by another run" in capsys.readouterr().err
  after = json.loads((output / "results.json").read_text())
  assert after["flags"] == json.loads(before)["flags"]


def test_foreign_directories_and_files_are_refused(tmp_path, capsys):
  (tmp_path / "thesis.tex").write_text("precious")
  assert toy.main(["toy", f"--output_dir={tmp_path}"]) == 2
  assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
  file = tmp_path / "thesis.tex"
  assert toy.main(["toy", f"--output_dir={file}"]) == 2
  assert "is a file" in capsys.readouterr().err
  (tmp_path / "broken").mkdir()
  (tmp_path / "broken" / "results.json").write_text("{")
  with pytest.raises(checks.InputError):
    harness.check_output_dir(tmp_path / "broken", toy.Config())


def test_a_failing_claim_exits_1(tmp_path, capsys):
  arguments = ["toy", "--shift=.3", f"--output_dir={tmp_path / 'out'}"]
  assert toy.main(arguments) == 1
  assert "FAILED" in capsys.readouterr().out


def test_seed_changes_the_draws_and_only_the_seed():
  run = lambda seed: toy.run(toy.Config(seed=seed)).curves["means"]
  assert np.array_equal(run(0), run(0)) and not np.array_equal(run(0), run(1))
  assert run(0).dtype == np.float64


def test_records_are_strict_json():
  results = harness.Results(
    "toy",
    "none",
    (claim(theory=math.inf, measured=math.inf),),
    tables={"t": [{"x": np.float32(np.nan), "n": np.int64(3), "b": np.True_}]},
  )
  record = harness.record_of(results, toy.Config(), "quick", 1.0)
  text = json.dumps(record, allow_nan=False)
  assert json.loads(text)["tables"]["t"] == [{"x": "nan", "n": 3, "b": True}]
  assert results.holds


def test_report_holds_claims_plots_and_tables(tmp_path):
  output = tmp_path / "out"
  config = dataclasses.replace(toy.Config.from_preset("smoke"), shift=0.4)
  record = harness.execute(toy, config, "smoke", output, progress=False)
  page = report.html_report([(record, output)])
  assert "data:image/png;base64," in page and "FAILED" in page
  assert "a uniform variable has mean 1/2" in page and "quantiles" in page
  assert "http" not in page
  table = report.markdown_table([record])
  assert "**FAILED**" in table and "0 of 1 claims hold" in table


def test_numbers_are_printed_short():
  assert harness.format_number(np.float64(0.1) + 0.2) == "0.3"
  assert harness.format_number(True) == "True"
  assert harness.format_number("x") == "x"


def test_progress_is_silent_without_a_terminal(capsys):
  assert list(harness.track(range(3), "x")) == [0, 1, 2]
  captured = capsys.readouterr()
  assert captured.out == "" and captured.err == ""
