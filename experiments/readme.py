# SPDX-License-Identifier: Apache-2.0
"""Publishes a reproduction: its records and the README's table of claims.

Command: `python -m experiments.readme results/quick`
Run it after `python -m experiments.reproduce --preset=quick`. It writes
`experiments/claims.json`, the README's picture and the table between the
README's markers.
"""

import json
import pathlib
import shutil
from collections.abc import Sequence

from absl import app

from experiments import harness, report, reproduce
from jaxalign import checks

ROOT = pathlib.Path(__file__).parents[1]
PICTURE = pathlib.Path("double_drift", "bandit.png")  # of the results
BEGIN, END = "<!-- claims: begin -->\n", "\n<!-- claims: end -->"


def published(results_dir: pathlib.Path) -> list[dict]:
  """The records of a reproduction, without what changes from run to run.

  Raises:
    InputError: an experiment is absent.
  """
  records = []
  for name in reproduce.EXPERIMENTS:
    record = harness.read_record(results_dir / name)
    if record is None:
      raise checks.InputError(
        f"{results_dir / name} holds no results.json: run"
        " `python -m experiments.reproduce --preset=quick` first"
      )
    keep = ("experiment", "paper", "preset", "flags", "versions", "claims")
    records.append({key: record[key] for key in keep})
  return records


def with_table(readme: str, records: Sequence[dict]) -> str:
  """The README's text with the table of the given records."""
  head, rest = readme.split(BEGIN)
  tail = rest.split(END)[1]
  return head + BEGIN + report.markdown_table(records) + END + tail


def main(argv: Sequence[str]) -> int:
  """Reads `argv[1]`, the directory of a reproduction, and publishes it."""
  if len(argv) != 2:
    return harness.fail(ValueError("usage: experiments.readme RESULTS_DIR"))
  try:
    records = published(pathlib.Path(argv[1]))
  except checks.InputError as error:
    return harness.fail(error)
  shutil.copyfile(
    pathlib.Path(argv[1]) / PICTURE, ROOT / "experiments" / "double_drift.png"
  )
  text = json.dumps(harness.to_json(records), indent=1, ensure_ascii=False)
  (ROOT / "experiments" / "claims.json").write_text(text + "\n")
  readme = ROOT / "README.md"
  readme.write_text(with_table(readme.read_text(), records))
  return 0


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
