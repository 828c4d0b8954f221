# SPDX-License-Identifier: Apache-2.0
"""A small experiment for the tests of the harness: the mean of a uniform."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl import app

from experiments import harness, plotting


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  draws: int = harness.field(1000, smoke=100, help="samples per seed")
  levels: tuple[float, ...] = harness.field((0.25, 0.5), help="quantiles")
  kind: str = harness.field("plain", help="sampler", choices=("plain", "other"))
  shift: float = harness.field(0.0, help="error injected into the mean")


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  shape = (config.num_seeds, config.draws)
  samples = np.asarray(jax.random.uniform(config.key(), shape))
  means = samples.mean(1) + config.shift
  claim = harness.Claim(
    name="mean",
    statement="a uniform variable has mean 1/2",
    theory=0.5,
    measured=means.mean(),
    tolerance=5 * (1 / 12 / samples.size) ** 0.5,
    interval=harness.confidence_interval(means),
  )
  quantiles = np.asarray(jnp.quantile(samples, jnp.array(config.levels)))
  return harness.Results(
    experiment="toy",
    paper="none",
    claims=(claim,),
    curves={"means": means},
    tables={
      "quantiles": [
        {"p": p, "x": x} for p, x in zip(config.levels, quantiles, strict=True)
      ]
    },
  )


def plot(results: harness.Results) -> dict:
  figure, (axes,) = plotting.figure()
  axes.plot(results.curves["means"], "o")
  return {"means": figure}


def main(argv):
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
