# SPDX-License-Identifier: Apache-2.0
from experiments.stages.best_of_n import bases


def test_scores_of_the_tied_example():
  assert bases.tied_scores("uniform").tolist() == [1, 2, 2, 0, 2]
  assert bases.tied_scores("index").tolist() == [1, 2, 3, 0, 4]
