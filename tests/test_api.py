# SPDX-License-Identifier: Apache-2.0
"""The public API: every name is documented, tested and of one shape."""

import importlib
import inspect
import pathlib
import pkgutil
import re

import pytest

import jaxalign

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = [
  name for name in jaxalign.__all__ if (ROOT / "jaxalign" / name).is_dir()
]
TEST_TEXT = "\n".join(p.read_text() for p in ROOT.glob("tests/**/*.py"))


def modules():
  for info in pkgutil.walk_packages(jaxalign.__path__, "jaxalign."):
    yield importlib.import_module(info.name)


def public_functions():
  for module in modules():
    if hasattr(module, "__path__"):
      continue
    for name in module.__all__:
      yield pytest.param(module, name, id=f"{module.__name__}.{name}")


def test_layout_is_what_the_package_lists():
  found = {info.name for info in pkgutil.iter_modules(jaxalign.__path__)}
  assert found == set(jaxalign.__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_export_exactly_their_modules_names(package):
  package = importlib.import_module(f"jaxalign.{package}")
  names = [
    name
    for info in pkgutil.iter_modules(package.__path__)
    for name in importlib.import_module(
      f"{package.__name__}.{info.name}"
    ).__all__
  ]
  assert len(names) == len(set(names)), "a name is exported by two modules"
  assert sorted(package.__all__) == sorted(names)
  assert all(hasattr(package, name) for name in names)


@pytest.mark.parametrize(("module", "name"), public_functions())
def test_public_names_are_documented_and_tested(module, name):
  thing = getattr(module, name)
  # Result types are tested through the functions that return them.
  if not isinstance(thing, type):
    assert re.search(rf"\b{name}\b", TEST_TEXT), f"no test mentions {name}"
  if not callable(thing):
    return
  doc = inspect.getdoc(thing)
  assert doc and len(doc.splitlines()[0]) <= 80
  if not inspect.isfunction(thing) or module.__name__.endswith("checks"):
    return
  if not inspect.signature(thing).parameters:
    return
  assert ">>>" in doc, "no doctest"
  assert "Args:" in doc and "Returns:" in doc
  if not module.__name__.endswith("numerics"):
    assert "Reference:" in doc, "no source"
  for parameter in inspect.signature(thing).parameters.values():
    assert parameter.name in doc, f"{parameter.name} is not documented"


def test_every_module_states_its_licence_and_its_subject():
  for path in [*ROOT.glob("jaxalign/**/*.py"), *ROOT.glob("experiments/*.py")]:
    lines = path.read_text().splitlines()
    assert lines[0] == "# SPDX-License-Identifier: Apache-2.0", path
    assert lines[1].startswith('"""'), path


FLOORS = {
  "checks": 0,
  "numerics": 0,
  "divergences": 1,
  "exact": 2,
  "diffusion": 2,
  "social_choice": 2,
  "inference": 2,
  "learning": 2,
  "preference": 2,
  "rl": 2,
  "evaluation": 2,
  "data": 3,
  "models": 3,
  "training": 4,
}


def test_files_import_from_their_floor_or_lower_ones():
  assert set(FLOORS) == set(jaxalign.__all__)
  for path in ROOT.glob("jaxalign/**/*.py"):
    own = path.relative_to(ROOT / "jaxalign").parts[0].removesuffix(".py")
    if own == "__init__":
      continue
    text = path.read_text()
    used = re.findall(r"^\s*from jaxalign\.(\w+)", text, re.MULTILINE)
    for line in re.findall(r"^\s*from jaxalign import (.*)$", text, re.M):
      used += [name.strip() for name in line.split(",")]
    assert all(FLOORS[name] <= FLOORS[own] for name in used), path
