# SPDX-License-Identifier: Apache-2.0
"""What every experiment binary must satisfy, said once."""

import functools
import inspect
import json
import pathlib
from collections.abc import Iterable

import numpy as np
from matplotlib.figure import Figure

from experiments import harness
from tests import programs

_ROOT = pathlib.Path(__file__).parents[2]
CLAIMS_FILE = _ROOT / "experiments" / "claims.json"


def failed(claims: Iterable[harness.Claim]) -> set[str]:
  """Names of the claims that do not hold."""
  return {claim.name for claim in claims if not claim.holds}


def assert_printed(value: float, printed: str) -> None:
  """A number agrees with its print to half a unit of the last digit."""
  digits = len(printed.partition(".")[2])
  assert abs(value - float(printed)) <= 0.5000001 * 10**-digits, printed


@functools.cache
def smoke(module, **overrides) -> harness.Results:
  """What the smoke preset gives, computed once for all tests of a process."""
  config = module.Config.from_preset("smoke", **overrides)
  with programs.op_by_op():
    return module.run(config, progress=False)


def assert_reproduces(module, **overrides) -> harness.Results:
  """Runs the smoke preset: every claim holds, every figure can be drawn.

  Also: the docstring states command and expectation, claims are named once, and
  the published records (`experiments/claims.json`) list exactly these claims.
  """
  for word in ("Paper", "Claim", "Command: `python -m", "Expected", "seconds"):
    assert word in module.__doc__, f"{module.__name__}: docstring lacks {word}"
  config = module.Config.from_preset("smoke", **overrides)
  results = smoke(module, **overrides)
  assert results.holds, [c for c in results.claims if not c.holds]
  names = [claim.name for claim in results.claims]
  assert names and len(set(names)) == len(names)
  assert all("\n" not in claim.statement for claim in results.claims)
  assert results.experiment == harness.experiment_name(module.Config)
  figures = module.plot(results)
  assert figures and all(isinstance(f, Figure) for f in figures.values())
  json.dumps(harness.record_of(results, config, "smoke", 0.0), allow_nan=False)
  assert list(inspect.signature(module.run).parameters) == [
    "config",
    "progress",
  ]
  published = {
    record["experiment"]: record
    for record in json.loads(CLAIMS_FILE.read_text())
  }
  assert [
    (claim["name"], claim["statement"])
    for claim in published[results.experiment]["claims"]
  ] == [(c.name, c.statement) for c in results.claims], (
    "experiments/claims.json is stale: run `python -m experiments.readme`"
  )
  return results


def assert_seed_matters(module, *curves: str, **overrides) -> None:
  """Another seed changes the named curves; the same seed repeats them."""

  def run(seed):
    config = module.Config.from_preset("smoke", seed=seed, **overrides)
    with programs.op_by_op():
      return module.run(config, progress=False).curves

  first = smoke(module, **overrides).curves
  again, other = run(0), run(1)
  for name in curves:
    np.testing.assert_array_equal(first[name], again[name])
    assert not np.array_equal(first[name], other[name]), name
