# SPDX-License-Identifier: Apache-2.0
"""All algorithms on all games: their curves, and rates fitted to them."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from experiments.stages.nash import algorithms, linearisation, worlds
from jaxalign import checks

# Where the logarithm of the KL is fitted: far enough below 1 for linear
# algorithms, far enough above 1e-30 for float64.
DECAY, GROWTH = (1e-26, 1e-10), (1e-12, 1e-7)


class Found(NamedTuple):
  """All that the runs gave, in NumPy; W games, R runs, T steps.

  Attributes:
    names: `[R]`, the runs.
    index: the runs of each algorithm.
    solution: of every game.
    kl: `[W, T + 1, R]`, KL(pi*||pi).
    limit_kl: `[W, T + 1, R]`, KL(limit||pi).
    gap: `[W, T + 1, R]`, the duality gap.
    theory: `[W, R]`, factors of the KL per step; NaN for decreasing steps.
    fitted: `[W, R]`, the same from the curves.
    constants: `[W]`, the limit of T^2 KL with decreasing steps.
  """

  names: list[str]
  index: dict[str, list[int]]
  solution: worlds.Solution
  kl: np.ndarray
  limit_kl: np.ndarray
  gap: np.ndarray
  theory: np.ndarray
  fitted: np.ndarray
  constants: np.ndarray

  @property
  def steps(self) -> int:
    """T."""
    return self.kl.shape[1] - 1

  @property
  def shown_steps(self) -> np.ndarray:
    """Steps to plot: even on a logarithmic axis."""
    return np.unique(np.geomspace(1, self.steps, 250).astype(int))


def fitted_factor(kl: np.ndarray, window: tuple[float, float]) -> float:
  """Factor per step by least squares of log KL `[T]` inside a window."""
  (steps,) = np.nonzero((kl > window[0]) & (kl < window[1]))
  if steps.size < 5:
    return np.nan
  return np.exp(np.polyfit(steps, np.log(kl[steps]), 1)[0])


def fitted_exponents(paths: np.ndarray) -> np.ndarray:
  """Exponents e `[W]` of paths `[W, T + 1]` that fall like `t^e`.

  By least squares of the logarithms, without the first tenth of the steps.
  """
  last = paths.shape[1] - 1
  t = np.arange(last // 10, last + 1)
  return np.array(
    [np.polyfit(np.log(t), np.log(path[t]), 1)[0] for path in paths]
  )


def check_steps(
  names: list[str], factors: np.ndarray, grows: int, steps: int
) -> None:
  """Raises unless all curves but one reach well into the window of the fit."""
  slowest = np.nan_to_num(factors).max(0)
  slowest[grows] = 0
  worst = int(slowest.argmax())
  if slowest[worst] >= 1:
    raise checks.InputError(
      f"{names[worst]} does not converge, its KL grows by"
      f" {slowest[worst]:.4g} a step: lower shares or decay"
    )
  # At 1e-20 most of the window is behind.
  needed = int(np.ceil(np.log(1e20) / -np.log(slowest[worst])))
  if steps < needed:
    raise checks.InputError(
      f"steps must be at least {needed} for {names[worst]} to converge on"
      f" these games, was {steps}"
    )


def measure(
  key: jax.Array,
  *,
  num_seeds: int,
  win_prob: float,
  actions: int,
  scale: float,
  tau: float,
  shares: Sequence[float],
  decay: float,
  steps: int,
) -> Found:
  """Runs all algorithms on all games and fits their rates.

  Args:
    key: of the random games.
    num_seeds: random games.
    win_prob: wins in the symmetric cycle.
    actions: actions of the random games.
    scale: spread of the random log-odds.
    tau: weight of the KL from the reference.
    shares: step sizes, as shares of self-play's threshold.
    decay: of the average in Nash-EMA.
    steps: of each algorithm.

  Raises:
    InputError: an algorithm diverges, or converges too slowly to be fitted.
  """
  keys = jax.random.split(key, num_seeds)
  sizes = np.float64(win_prob), np.float64(scale)
  game = worlds.make_games(keys, *sizes, actions=actions)
  game = jax.tree.map(np.asarray, game)
  solution = worlds.solve(game, tau=tau, shares=shares)
  each = [
    jax.tree.map(lambda x, w=w: x[w], (game, solution))
    for w in range(len(game.pref))
  ]
  theory = np.stack(
    [linearisation.factors(*world, tau=tau, decay=decay) for world in each]
  )
  groups = algorithms.run_names(shares)
  names = [name for group in groups.values() for name in group]
  index = {k: [names.index(name) for name in v] for k, v in groups.items()}
  grows = index["self_play"][-1]
  check_steps(names, theory, grows, steps)
  weights = np.float64(tau), np.float64(decay)
  kl, limit_kl, gap = map(
    np.asarray, algorithms.play(game, solution, *weights, steps=steps)
  )
  fitted = [
    [
      fitted_factor(path, GROWTH if run == grows else DECAY)
      for run, path in enumerate(world.T)
    ]
    for world in limit_kl
  ]
  constants = [
    linearisation.decreasing_constant(*world, tau=tau) for world in each
  ]
  return Found(
    names,
    index,
    solution,
    kl,
    limit_kl,
    gap,
    theory,
    np.array(fitted),
    np.array(constants),
  )
