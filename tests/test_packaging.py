# SPDX-License-Identifier: Apache-2.0
"""What `import jaxalign` brings along, and what installing it must not."""

import importlib.metadata
import subprocess
import sys

import pytest

import jaxalign

HEAVY = (
  "grain",
  "matplotlib",
  "orbax",
  "ott",
  "safetensors",
  "scipy",
  "tensorboardX",
  "tensorflow_datasets",
  "tokenizers",
)


def loaded_after(statement):
  code = f"{statement}; import sys; print(*sys.modules)"
  run = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  return set(run.stdout.split())


def test_import_is_lazy():
  base = loaded_after("import jax, flax.linen, optax")
  light = loaded_after("import jax, flax.linen, optax, jaxalign")
  assert {m for m in light - base if not m.startswith("jaxalign")} <= {
    "__main__"
  }
  assert not any(m.startswith("jaxalign.") for m in light - base)


def test_the_whole_library_imports_nothing_heavy():
  names = ", ".join(f"jaxalign.{name}" for name in jaxalign.__all__)
  base = loaded_after("import jax, flax.linen, optax, chex")
  added = loaded_after(f"import jax, flax.linen, optax, chex, {names}") - base
  assert not {m for m in added if m.split(".")[0] in HEAVY}


def test_unknown_attributes_raise():
  with pytest.raises(AttributeError, match="no attribute 'divergence'"):
    _ = jaxalign.divergence


def test_no_tensorflow_is_required():
  for name in ("tensorflow", "tf-nightly", "tensorflow-cpu"):
    with pytest.raises(importlib.metadata.PackageNotFoundError):
      importlib.metadata.version(name)
  needed = importlib.metadata.requires("jaxalign")
  core = {n.split(">")[0].split("[")[0] for n in needed if "extra" not in n}
  assert core == {
    "absl-py",
    "chex",
    "etils",
    "flax",
    "jax",
    "numpy",
    "optax",
    "orbax-checkpoint",
    "rich",
    "tensorflow-datasets",
  }
