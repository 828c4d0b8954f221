# SPDX-License-Identifier: Apache-2.0
"""Finite worlds: points, groups, hypotheses and actions, losses."""

from typing import NamedTuple

import numpy as np

NUM_BITS = 11  # of a point of the large world


class World(NamedTuple):
  """Arguments of the library's audits, in their order.

  Attributes:
    f: `[N]`, mean outcomes.
    w: `[N]`, probabilities of the points.
    G: `[K, N]`, groups as sets; the first is everybody.
    H: `[J, N]`, values of hypotheses, among the actions.
    actions: `[A]`, rising.
  """

  f: np.ndarray
  w: np.ndarray
  G: np.ndarray
  H: np.ndarray
  actions: np.ndarray

  def fixed_tests(self) -> np.ndarray:
    """`[N, K (1 + J (A - 1))]`: groups, whole and cut by each hypothesis.

    What an online run needs as groups for step calibration. The last action
    cuts nothing.
    """
    below = self.H[:, None] <= self.actions[:-1, None]
    cuts = np.concatenate([np.ones((1, self.w.size)), np.vstack(below)])
    return (self.G[:, None] * cuts).reshape(-1, self.w.size).T


def small(rng: np.random.Generator) -> World:
  """60 points with 4 groups and 4 hypotheses over 3 actions."""
  num_points, actions = 60, np.array([0.0, 0.5, 1.0])
  G = (rng.random((4, num_points)) < 0.5).astype(float)
  G[0] = 1
  f = rng.random(num_points)
  # Rivals that know something: outcomes' means with noise, to the next action.
  noisy = f + 0.25 * rng.normal(size=(4, num_points))
  return World(
    f=f,
    w=rng.dirichlet(np.full(num_points, 5.0)),
    G=G,
    H=np.clip(np.round(2 * noisy), 0, 2) / 2,
    actions=actions,
  )


def losses(rng: np.random.Generator, world: World) -> np.ndarray:
  """Eight tables `[8, A, 2]` in [0, 1]."""
  return rng.random((8, world.actions.size, 2))


def large(rng: np.random.Generator) -> World:
  """2048 points of equal weight, the corners of a cube.

  Groups are five of its halves and everybody. The log-odds of an outcome are
  linear in the corners and in products of neighbours, most of all in those that
  groups and hypotheses see.
  """
  corners = np.indices((2,) * NUM_BITS).reshape(NUM_BITS, -1) * 2.0 - 1
  products = corners[1:] * corners[:-1]
  scale = np.where(np.arange(NUM_BITS) < 7, 1.0, 0.5)
  odds = 2 + (scale * rng.choice((-1.0, 1.0), NUM_BITS)) @ corners
  odds += rng.choice((-0.5, 0.5), NUM_BITS - 1) @ products
  everybody = np.ones((1, odds.size))
  return World(
    f=1 / (1 + np.exp(-odds)),
    w=np.full(odds.size, 1 / odds.size),
    G=np.concatenate([everybody, corners[:5] > 0]),
    H=(corners[5:7] > 0).astype(float),
    actions=np.array([0.0, 1.0]),
  )


def draw_counts(
  rng: np.random.Generator, world: World, num_samples: int, size: tuple
) -> tuple[np.ndarray, np.ndarray]:
  """Samples of a world: mean outcomes and shares of points, `[*size, N]`.

  A sample of the given number of points counts only by how often it has each
  point with each outcome, however large it is.
  """
  cells = np.concatenate([world.w * (1 - world.f), world.w * world.f])
  zeros, ones = np.split(rng.multinomial(num_samples, cells, size), 2, -1)
  total = zeros + ones
  return ones / np.maximum(total, 1), total / num_samples
