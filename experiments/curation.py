# SPDX-License-Identifier: Apache-2.0
"""Generative models retrained on their own samples, curated by preference.

Paper: Self-Consuming Generative Models with Curated Data Provably Optimize
Human Preferences (2407.09499).
Claims: (1) Without real data a round raises E e^r by at least ((K-1)/K)
Var(e^r)/e^max r, and the model collapses onto the best outcomes: a round leaves
K w/(K-1+w) of the mass outside them in the end, w = e^(second best - best). For
K to infinity p_t is p_0 e^(t r), normalised. Expected at p = (.1, .4, .2, .3),
r = (2, 0, 1, -1), K = 4: E e^r 1.79293, first gain 1.25818 against its bound
.42262, KL(p_inf||p_30) = 7.5e-11, rate .436927. (2) With one real sample per
lam curated ones the loop stays within KL -log(1 - lam (K-1)) of the real data,
where lam < 1/(K-1); its E e^r is above that of the real data by at least
lam/(1+lam)^3 of the bound in (1), and it keeps at least 1/(1+lam) of the
variance. Expected fixed point at lam = 2, K = 2: E e^r 4.06550, KL .41367.
(3) Populations of finite size follow the exact recursion, with the spread of
its linearisation. Expected: within 5 standard errors, after a bias of order
1/population. All else to 1e-10; limits, in the last round, to 1e-8, and in
short runs to 10 or 20 times what so many rounds of contraction leave.
Command: `python -m experiments.curation`
About 30 seconds on 2 cores.
"""

import dataclasses
import math

import jax
import numpy as np
from absl import app

from experiments import harness, plotting
from experiments.stages.curation import collapse, loops, populations, real_data

RANDOM_ROUNDS = 8


@dataclasses.dataclass(frozen=True)
class Config(harness.Config):
  """The loop, the number of random bases and the simulated populations."""

  num_seeds: int = harness.field(
    32, smoke=8, full=128, help="simulated populations, for intervals"
  )
  # All draws of k are enumerated; simulations show `populations.ROUNDS` of
  # the rounds, and their theory is an expansion for large populations.
  k: int = harness.field(
    4, least=2, most=64, help="samples among which one is kept"
  )
  lam: tuple[float, ...] = harness.field(
    (0.2, 1.0, 2.0, 5.0), help="curated samples per real one"
  )
  rounds: int = harness.field(
    100, least=20, most=1000, help="rounds of retraining"
  )
  bases: int = harness.field(
    200, smoke=12, full=2000, least=1, help="random bases for what always holds"
  )
  vocab: int = harness.field(8, least=2, help="outcomes of the random bases")
  population: int = harness.field(
    4000,
    smoke=1000,
    full=40_000,
    least=100,
    help="samples per round of a simulation",
  )

  def __post_init__(self):
    super().__post_init__()
    room = loops.ROWS - len(loops.FIXED_ROWS)
    if len(self.lam) > room:
      raise ValueError(f"lam takes at most {room} numbers, had {len(self.lam)}")
    if not all(0 < x < math.inf for x in self.lam):
      raise ValueError(f"lam must be finite and above 0, was {self.lam}")


@harness.double_precision
def run(config: Config, *, progress: bool = True) -> harness.Results:
  """Runs the exact loops, then random ones, then finite populations."""
  base_key, population_key = jax.random.split(config.key())
  vocab, lam = config.vocab, config.lam
  example = loops.example(k=config.k, lam=lam, vocab=vocab)
  found = loops.trajectory(example, config.rounds, progress=progress)
  random = harness.track(
    loops.random_problems(base_key, bases=config.bases, lam=lam, vocab=vocab),
    "random bases",
    progress=progress,
  )
  trajectories = [
    (example, found),
    *((batch, loops.trajectory(batch, RANDOM_ROUNDS)) for batch in random),
  ]
  return harness.collect(
    "curation",
    "Self-Consuming Generative Models with Curated Data Provably Optimize"
    " Human Preferences (2407.09499)",
    [
      collapse.collapse(trajectories, k=config.k),
      real_data.real_data(trajectories, k=config.k, lam=lam),
      populations.populations(
        population_key,
        found,
        k=config.k,
        num_seeds=config.num_seeds,
        population=config.population,
      ),
    ],
  )


def _plot_bounds(curves: dict[str, np.ndarray]):
  """Gain and drift of all random loops against their bounds."""
  figure, (gains, drifts) = plotting.figure(1, 2)
  for axes, what, title in (
    (gains, "gain", "gain of E e^r in a round, no real data"),
    (drifts, "kl", "KL from the real data"),
  ):
    bound, value = curves[f"random_{what}_bound"], curves[f"random_{what}"]
    # What is 0 or infinite has no place on these axes.
    shown = np.isfinite(bound) & (bound > 1e-12) & (value > 1e-12)
    bound, value = bound[shown], value[shown]
    axes.plot(bound, value, ".", ms=2, alpha=0.4, label="random loops")
    line = np.linspace(bound.min(), bound.max(), 200)  # bent on one log axis
    axes.plot(line, line, "k--", label="bound")
    axes.set(yscale="log", xlabel="bound", ylabel=title, title=title)
    axes.legend()
  gains.set_xscale("log")
  return figure


def plot(results: harness.Results) -> dict:
  """Collapse, the loop with real data, the bounds, and populations."""
  plots = {
    "collapse": collapse.plot,
    "real_data": real_data.plot,
    "bounds": _plot_bounds,
    "populations": populations.plot,
  }
  return {name: draw(results.curves) for name, draw in plots.items()}


def main(argv):
  """Runs from the command line."""
  return harness.main(argv, Config)


if __name__ == "__main__":
  app.run(main, flags_parser=harness.skip_flags)
