# SPDX-License-Identifier: Apache-2.0
"""How fast the algorithms converge in theory: their steps, linearised."""

import numpy as np

from experiments.stages.nash.algorithms import SIDES
from experiments.stages.nash.worlds import Game, Solution


def _drop_unused(game: Game, solution: Solution) -> tuple[Game, Solution]:
  """A game without the actions that it lacks."""
  live = game.log_ref > -np.inf
  return (
    Game(
      game.log_ref[live],
      game.pref[np.ix_(live, live)],
      game.log_start[live],
      game.shift[live],
    ),
    solution._replace(
      star=solution.star[live],
      mixtures=solution.mixtures[:, live],
      limits=solution.limits[:, live],
    ),
  )


def _spread(log_pi: np.ndarray) -> np.ndarray:
  """Covariance `diag(pi) - pi pi^T`."""
  p = np.exp(log_pi)
  return np.diag(p) - np.outer(p, p)


def _derivatives(
  game: Game, solution: Solution, centre: np.ndarray, tau: float, decay: float
) -> list[np.ndarray]:
  """Of the step of every run at its limit; NaN where steps decrease."""
  margins, rate = game.pref - 0.5, solution.rate
  star, mixtures, limits = solution.star, solution.mixtures, solution.limits
  etas, last = solution.etas, solution.etas[-1]
  identity, turn = np.eye(len(centre)), margins @ _spread(star)

  def nash_md(eta, mixture):
    return (1 - eta * tau) * (identity + eta * margins @ _spread(mixture))

  def self_play(eta):
    return (1 - eta * tau) * identity + eta * turn

  def nash_ema(eta):
    keep, pay = (1 - eta * tau) * centre, eta * centre @ turn
    lag = 1 - decay
    return np.block([[keep, pay], [lag * keep, decay * centre + lag * pay]])

  def descent(moved, mixture, b):
    pull = identity - (1 - b) * margins @ _spread(mixture) / tau
    return identity - 4 * rate * _spread(moved) @ pull

  return [
    *map(nash_md, etas, mixtures),
    np.nan * identity,
    self_play(last),
    *(self_play(side * solution.threshold) for side in SIDES),
    (1 - last * tau) * identity + last * turn @ self_play(last),
    nash_ema(last),
    descent(star, star, 0.0),
    *map(descent, mixtures, mixtures, etas * tau),
    *map(descent, limits, mixtures, etas * tau),
  ]


def factors(
  game: Game, solution: Solution, *, tau: float, decay: float
) -> np.ndarray:
  """Factors `[R]` of the KL per step on one game, in the order of `run_names`.

  With `S = diag(pi) - pi pi^T` at the limit and `A = P - 1/2`, the steps have,
  in log-policies up to constants, the derivatives
  `J = (1 - eta tau) I + eta A S` of self-play,
  `(1 - eta tau) I + eta A S J` of extragradient,
  `(1 - eta tau) (I + eta A S_rho)` of Nash-MD, and
  `I - 4 r S (I - (1 - b) A S_rho / tau)` of IPO (S of rho) and Nash-MD-PG (S of
  pi) at rate r. The factor is the square of the spectral radius; it is NaN for
  steps that decrease.
  """
  game, solution = _drop_unused(game, solution)
  # Log-policies that differ by a constant are the same policy.
  centre = np.eye(len(game.log_ref)) - 1 / len(game.log_ref)

  def factor(derivative):
    if np.isnan(derivative).any():
      return np.nan
    # The state of Nash-EMA has two halves.
    halves = np.eye(len(derivative) // len(centre))
    values = np.linalg.eigvals(np.kron(halves, centre) @ derivative)
    return np.abs(values).max() ** 2

  derivatives = _derivatives(game, solution, centre, tau, decay)
  return np.array([factor(derivative) for derivative in derivatives])


def decreasing_constant(game: Game, solution: Solution, *, tau: float) -> float:
  """The limit of `T^2 KL(pi*||pi_T)` of Nash-MD, `eta = 2 / (tau (t + 2))`.

  The log-policy is c / t away, `c = -(4 / tau) (I - 2 A S / tau)^-1 A S
  log(pi* / mu)` with A and S as in `factors`; the limit is `c^T S c / 2`.
  """
  game, solution = _drop_unused(game, solution)
  spread = _spread(solution.star)
  turn = (game.pref - 0.5) @ spread
  force = turn @ (solution.star - game.log_ref)
  lag = -(4 / tau) * np.linalg.solve(np.eye(len(turn)) - 2 * turn / tau, force)
  return lag @ spread @ lag / 2
