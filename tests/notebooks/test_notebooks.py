# SPDX-License-Identifier: Apache-2.0
"""Notebooks equal their scripts, are small, keep their pictures, and run."""

import pathlib

import jupytext
import nbclient
import nbformat
import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "notebooks"
SCRIPTS = sorted(FOLDER.glob("*.py"))


@pytest.fixture(params=SCRIPTS, ids=lambda p: p.stem)
def script(request):
  return request.param


def sources(notebook):
  return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_every_notebook_has_its_script():
  assert {p.stem for p in FOLDER.glob("*.ipynb")} == {p.stem for p in SCRIPTS}
  assert SCRIPTS


def test_stored_notebook_is_its_script_with_small_outputs(script):
  stored = script.with_suffix(".ipynb")
  assert stored.stat().st_size < 300_000
  notebook = nbformat.read(stored, as_version=4)
  assert sources(notebook) == sources(jupytext.read(script))
  outputs = [o for c in notebook.cells for o in c.get("outputs", ())]
  assert any("image/png" in o.get("data", {}) for o in outputs)
  assert not any(o.output_type == "error" for o in outputs)
  text = stored.read_text()
  assert "/home/" not in text and "/tmp/" not in text and "/root/" not in text


def test_notebook_runs_and_ends_with_its_claims(script):
  notebook = jupytext.read(script)
  client = nbclient.NotebookClient(
    notebook, timeout=240, resources={"metadata": {"path": str(FOLDER)}}
  )
  client.execute()
  final = notebook.cells[-1]
  assert final.cell_type == "code"
  assert any("holds" in str(output) for output in final.outputs)
  assert not any("FAILED" in str(output) for output in final.outputs)
