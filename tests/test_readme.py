# SPDX-License-Identifier: Apache-2.0
"""The README says what the code does: its table, its example, its commands."""

import json
import pathlib
import re
import shlex

import pytest

from experiments import readme, reproduce
from jaxalign import checks

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CLAIMS = json.loads((ROOT / "experiments" / "claims.json").read_text())


def blocks(language):
  return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_table_of_claims_is_that_of_the_published_records():
  for record in CLAIMS:
    for claim in record["claims"]:
      for name in ("theory", "measured", "tolerance"):
        claim[name] = float(claim[name])
  assert readme.with_table(README, CLAIMS) == README


def test_published_records_are_those_of_the_quick_preset_as_it_is():
  assert [r["experiment"] for r in CLAIMS] == list(reproduce.EXPERIMENTS)
  for record in CLAIMS:
    assert record["flags"] == reproduce.flags_of(record["experiment"], "quick")
    assert all(claim["holds"] for claim in record["claims"])


def test_every_binary_is_named():
  binaries = [
    p.stem
    for p in (ROOT / "experiments").glob("*.py")
    if "app.run(main" in p.read_text()
  ]
  assert all(f"`{name}`" in README for name in binaries)
  mains = {"align", "benchmark", "readme", "reproduce"}
  assert set(binaries) - mains == set(reproduce.EXPERIMENTS)


def test_example_runs_and_prints_what_it_says(capsys):
  (example,) = blocks("python")
  exec(compile(example, "README.md", "exec"), {})
  (printed,) = blocks("text")
  assert capsys.readouterr().out.strip() == printed.strip()
  code = [x for x in example.splitlines() if x and not x.startswith("#")]
  assert len(code) <= 15


def test_commands_are_whole_and_ci_runs_the_one_for_the_tests():
  reproduction, tests = blocks("bash")
  assert "python -m experiments.reproduce --preset=quick" in reproduction
  assert "-m pytest" in tests
  for command in (reproduction, tests):
    assert "pip install" in command and shlex.split(command)
  assert "README.md" in (ROOT / ".ci" / "run").read_text()


def test_publishing_needs_every_experiment(tmp_path):
  with pytest.raises(checks.InputError, match="holds no results.json"):
    readme.published(tmp_path)
  assert readme.main(["readme"]) == 2
