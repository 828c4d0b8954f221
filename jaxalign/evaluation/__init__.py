# SPDX-License-Identifier: Apache-2.0
"""Measures of what a trained model does: success at k, diversity."""

from jaxalign.evaluation.diversity import (
  KeptAnswers,
  UpliftRate,
  distinct_correct,
  effective_number,
  expected_distinct_correct,
  kept_answers,
  smallest_ratio,
  uplift_rate,
)
from jaxalign.evaluation.pass_at_k import (
  pass_at_k,
  pass_at_k_slope,
  success_at_k,
)

__all__ = (
  "KeptAnswers",
  "UpliftRate",
  "distinct_correct",
  "effective_number",
  "expected_distinct_correct",
  "kept_answers",
  "pass_at_k",
  "pass_at_k_slope",
  "smallest_ratio",
  "success_at_k",
  "uplift_rate",
)
