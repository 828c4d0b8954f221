# SPDX-License-Identifier: Apache-2.0
"""Preference optimisation: losses of log-probabilities, and their optima."""

from jaxalign.preference.losses import (
  PAIR_LOSSES,
  pair_loss,
)
from jaxalign.preference.pairs import (
  PairLogps,
  PairLoss,
  sequence_logps,
)
from jaxalign.preference.pairwise import (
  dpo_loss,
  hinge_loss,
)
from jaxalign.preference.tabular import (
  PopulationMinimum,
  minimize_population,
  pair_weights,
  population_loss,
)

__all__ = (
  "PAIR_LOSSES",
  "PairLogps",
  "PairLoss",
  "PopulationMinimum",
  "dpo_loss",
  "hinge_loss",
  "minimize_population",
  "pair_loss",
  "pair_weights",
  "population_loss",
  "sequence_logps",
)
