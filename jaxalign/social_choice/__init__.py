# SPDX-License-Identifier: Apache-2.0
"""Social choice: populations, voting rules, policies, Nash learning."""

from jaxalign.social_choice.bounds import (
  BordaBound,
  borda_lower_bound,
  borda_upper_bound,
  distortion_bound,
)
from jaxalign.social_choice.equilibria import (
  NashResult,
  kl_ball_nash,
  maximal_lottery,
  regularized_nash,
)
from jaxalign.social_choice.instances import (
  METHODS,
  distortion,
  finite_sample_distortion,
  instance_any,
  instance_borda,
  instance_exponential,
  instance_ml,
  instance_path,
)
from jaxalign.social_choice.nash import (
  NashEMAState,
  duality_gap,
  extragradient_step,
  geometric_mixture,
  nash_ema_step,
  nash_md_step,
  regularized_preference,
  self_play_md_step,
  self_play_threshold,
)
from jaxalign.social_choice.nash_losses import (
  ipo_md_loss,
  nash_md_pg_loss,
  online_ipo_loss,
)
from jaxalign.social_choice.policies import (
  DPOResult,
  dpo_policy,
  kl_ball_argmax,
  kl_ball_project,
  kl_ball_value,
  rlhf_policy,
)
from jaxalign.social_choice.populations import (
  Instance,
  average_utility,
  margin_matrix,
  simulate_comparisons,
  win_matrix,
)
from jaxalign.social_choice.rankings import (
  linear_utilities,
  ranking_win_matrix,
)
from jaxalign.social_choice.rules import (
  BTFit,
  borda_scores,
  bradley_terry_mle,
  check_connected,
  condorcet_winner,
  empirical_borda,
  pairwise_margins,
)
from jaxalign.social_choice.worst_case import (
  Game,
  NashRatio,
  SearchResult,
  adversarial_search,
  nash_ratio,
  random_game,
)

__all__ = (
  "METHODS",
  "BTFit",
  "BordaBound",
  "DPOResult",
  "Game",
  "Instance",
  "NashEMAState",
  "NashRatio",
  "NashResult",
  "SearchResult",
  "adversarial_search",
  "average_utility",
  "borda_lower_bound",
  "borda_scores",
  "borda_upper_bound",
  "bradley_terry_mle",
  "check_connected",
  "condorcet_winner",
  "distortion",
  "distortion_bound",
  "dpo_policy",
  "duality_gap",
  "empirical_borda",
  "extragradient_step",
  "finite_sample_distortion",
  "geometric_mixture",
  "instance_any",
  "instance_borda",
  "instance_exponential",
  "instance_ml",
  "instance_path",
  "ipo_md_loss",
  "kl_ball_argmax",
  "kl_ball_nash",
  "kl_ball_project",
  "kl_ball_value",
  "linear_utilities",
  "margin_matrix",
  "maximal_lottery",
  "nash_ema_step",
  "nash_md_pg_loss",
  "nash_md_step",
  "nash_ratio",
  "online_ipo_loss",
  "pairwise_margins",
  "random_game",
  "ranking_win_matrix",
  "regularized_nash",
  "regularized_preference",
  "rlhf_policy",
  "self_play_md_step",
  "self_play_threshold",
  "simulate_comparisons",
  "win_matrix",
)
