# SPDX-License-Identifier: Apache-2.0
"""Learning theory around alignment."""

from jaxalign.learning.adaptive_holdout import (
  ThresholdoutResult,
  ThresholdoutState,
  agreeing_signs,
  thresholdout,
  thresholdout_init,
  thresholdout_step,
)
from jaxalign.learning.domain_sampling import (
  cooldown_tau,
  gradient_variance_gap,
  temperature_weights,
)
from jaxalign.learning.fairness import (
  EntropicProjection,
  ImpactConstraints,
  ImpactRates,
  balanced_rates,
  disparate_impact,
  entropic_projection,
  entropic_rates,
  flip_predictions,
  group_rates,
  impact_constraints,
)
from jaxalign.learning.in_context import (
  Predictive,
  gaussian_nll,
  inverse_gamma_predictive,
  known_noise_predictive,
  rule_of_succession,
)
from jaxalign.learning.marginal_matching import (
  MarginalMatchingState,
  marginal_matching_init,
  marginal_matching_step,
  pairwise_gap,
  pairwise_marginals,
)
from jaxalign.learning.self_rewrites import (
  Correlation,
  mean_token_nll,
  pearson_correlation,
)
from jaxalign.learning.unlearning_paths import (
  least_squares_ascent,
  linear_path_divergence,
  order_commutator,
  stagewise_least_squares,
)

__all__ = (
  "Correlation",
  "EntropicProjection",
  "ImpactConstraints",
  "ImpactRates",
  "MarginalMatchingState",
  "Predictive",
  "ThresholdoutResult",
  "ThresholdoutState",
  "agreeing_signs",
  "balanced_rates",
  "cooldown_tau",
  "disparate_impact",
  "entropic_projection",
  "entropic_rates",
  "flip_predictions",
  "gaussian_nll",
  "gradient_variance_gap",
  "group_rates",
  "impact_constraints",
  "inverse_gamma_predictive",
  "known_noise_predictive",
  "least_squares_ascent",
  "linear_path_divergence",
  "marginal_matching_init",
  "marginal_matching_step",
  "mean_token_nll",
  "order_commutator",
  "pairwise_gap",
  "pairwise_marginals",
  "pearson_correlation",
  "rule_of_succession",
  "stagewise_least_squares",
  "temperature_weights",
  "thresholdout",
  "thresholdout_init",
  "thresholdout_step",
)
