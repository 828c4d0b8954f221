# SPDX-License-Identifier: Apache-2.0
import numpy as np
import scipy.special

from experiments.stages.best_of_n import bounds


def test_highest_means_are_those_of_a_grid_search():
  log_p, score = np.log([0.2, 0.5, 0.3]), np.array([[1.0, 0.0, 2.0]])
  found = bounds.highest_means(log_p, score, score, np.array([0.1]))
  grid = np.linspace(0, 1, 401)
  a, b = np.meshgrid(grid, grid)
  p = np.stack([a, b, 1 - a - b])[:, a + b <= 1]
  kl = scipy.special.rel_entr(p, np.exp(log_p)[:, None]).sum(0)
  best = (score[0] @ p)[kl <= 0.1].max()
  # The grid is 1/400 apart and the best of it is inside the ball.
  assert 0 <= float(found[0, 0, 0]) - best < 2 / 400
