# SPDX-License-Identifier: Apache-2.0
"""A random world of points, groups, hypotheses and actions."""

import numpy as np

ACTIONS = np.array([0.0, 0.25, 0.5, 1.0])


def world(seed, num_points=12, num_groups=3, num_hypotheses=2):
  """`p, f, w, G, H, actions`; some predictions are equal, G is in [0, 1]."""
  rng = np.random.default_rng(seed)
  p = rng.integers(1, 10, num_points) / 10
  f, w = rng.random(num_points), rng.random(num_points)
  G = rng.random((num_groups, num_points))
  G[0] = 1
  H = rng.choice(ACTIONS, (num_hypotheses, num_points))
  return p, f, w / w.sum(), G, H, ACTIONS


def worlds(seed, number, **sizes):
  """As `world`, with a leading axis."""
  found = [world(seed + i, **sizes) for i in range(number)]
  return [np.stack(x) for x in zip(*found, strict=True)]
