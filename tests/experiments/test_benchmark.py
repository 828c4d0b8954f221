# SPDX-License-Identifier: Apache-2.0
"""The benchmark compares like with like; how fast is not tested."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments import benchmark, harness
from experiments.stages.benchmark import (
  diffusion,
  policy_gradients,
  preference_losses,
  timing,
  token_logprobs,
)
from jaxalign import divergences
from tests import helpers

SMALL = {
  "rows": 4,
  "vocab": 64,
  "turns": 1,
  "instances": 50,
  "loop": 2,
  "sequences": 2,
  "samples": 10,
}


@pytest.mark.parametrize("name", benchmark.UNSAFE)
def test_peers_compute_the_same_divergence(name, key):
  p, q = jax.random.normal(key, (2, 3, 5))
  div = divergences.f_divergence(name, **benchmark.PARAMETERS.get(name, {}))
  ours = divergences.categorical_f_divergence(div, p, q)
  peer = benchmark._unsafe(benchmark.UNSAFE[name])
  helpers.assert_close(peer(p, q), ours, rtol=1e-12)


def test_peers_solve_the_same_games():
  with jax.enable_x64(True):
    rows = benchmark._nash_ratios(benchmark.Config(**SMALL), jax.random.key(0))
  assert {row["peer"] for row in rows} == {"NumPy", "scipy"}
  # Both stop at roundings of the payoffs, which 1/lam = 100 multiplies.
  assert all(row["largest difference"] < 1e-10 for row in rows)


def test_ratios_are_of_paired_times(monkeypatch):
  times = iter([3.0, 1.0, 8.0, 4.0, 5.0, 1.0])
  monkeypatch.setattr(timing, "seconds", lambda fn, *args: next(times))
  ours, ratio = timing.paired_ratio(jnp.sin, jnp.cos, (jnp.ones(2),), 3)
  assert (ours, ratio) == (5.0, 3.0)


def test_it_runs_and_judges(monkeypatch):
  config = benchmark.Config.from_preset("smoke", **SMALL)
  # The network's own cost is nobody's claim.
  for name, size in {"WIDTH": 8, "LAYERS": 1, "SAMPLER_STEPS": 64}.items():
    monkeypatch.setattr(diffusion, name, size)
  monkeypatch.setattr(preference_losses, "LOGITS", (2, 4, 64))
  for name, size in {"TOKENS": 32, "WIDTH": 8, "VOCAB": 512}.items():
    monkeypatch.setattr(token_logprobs, name, size)
  results = benchmark.run(config, progress=False)
  judged = {claim.name: claim for claim in results.claims}
  assert judged["Nash agreement"].holds
  timed = [row["loss"] for row in results.tables["policy losses"]]
  assert timed == ["bare formula", *policy_gradients.LOSSES]
  assert judged["pairs, value"].holds  # every loss, beside NumPy
  assert judged["any-order agreement"].holds and judged["forwards"].holds
  assert set(judged) >= {"divergence values", "divergence gradients", "import"}
  rows = results.tables["divergences against their unsafe forms"]
  assert judged["divergence values"].measured == harness.largest(
    row["value, ratio"] for row in rows
  )
  assert all(np.isfinite(claim.measured) for claim in results.claims)
  figures = benchmark.plot(results)
  assert all(isinstance(figure, Figure) for figure in figures.values())
