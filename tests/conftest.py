# SPDX-License-Identifier: Apache-2.0
"""Eight virtual devices, double precision, and a compile cache for all tests.

Tests compare with exact references, so their default is float64; what must also
hold in float32 is asked for by name. Doctests live in the packages and see the
defaults that a user sees.
"""

import gc
import os
import pathlib

import jax
import pytest

from experiments import harness
from tests import programs

_ROOT = pathlib.Path(__file__).parents[1]

# Most programs of a test run once. What users run is compiled as they compile
# it by `reproduce --preset=quick`.
harness.compile_fast()

_OPTIONS = {
  "jax_disable_most_optimizations": True,
  "jax_traceback_in_locations_limit": 0,  # which no test reads
  "jax_platforms": "cpu",
  "jax_num_cpu_devices": 8,
  "jax_compilation_cache_dir": str(_ROOT / ".cache" / "jax"),
  "jax_persistent_cache_min_compile_time_secs": 0,
  "jax_persistent_cache_min_entry_size_bytes": -1,
}
for _name, _value in _OPTIONS.items():
  jax.config.update(_name, _value)
  os.environ[_name.upper()] = str(_value)  # for the kernels of notebooks


programs.compile_whole()


def pytest_collection_finish():
  """Spares the collector of garbage what every module has brought along."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(20_000, 20, 20)


# Each program's intermediate code lives on in JAX's caches, and whatever lives
# is looked through for each type of each new program: at a thousand programs
# that takes more than two thirds of the time of compiling.
_MOST_PROGRAMS = 128
_num_programs = 0


def _count_programs(event, duration, **_):
  global _num_programs
  _num_programs += event.endswith("backend_compile_duration")


jax.monitoring.register_event_duration_secs_listener(_count_programs)


@pytest.fixture(autouse=True)
def _few_programs():
  """Forgets programs before they are too many; the cache on disk has them."""
  global _num_programs
  yield
  if _num_programs > _MOST_PROGRAMS:
    jax.clear_caches()
    _num_programs = 0


@pytest.fixture(autouse=True)
def _double_precision():
  with jax.enable_x64(True):
    yield


@pytest.fixture(autouse=True)
def _as_written(request):
  """What a test replaces must be seen, and not outlive it in a program."""
  if "monkeypatch" in request.fixturenames:
    with programs.op_by_op():
      yield
  else:
    yield


@pytest.fixture(scope="module")
def optimised():
  """For the few modules whose programs run longer than they compile."""
  jax.config.update("jax_disable_most_optimizations", False)
  yield
  jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def key():
  return jax.random.key(0)


@pytest.fixture(scope="session")
def real_data():
  """The folder of real data; a test that needs it skips where it is absent."""
  folder = _ROOT.parent / "shared" / "data"
  if not folder.is_dir():
    pytest.skip("real data is not on this machine")
  return folder
