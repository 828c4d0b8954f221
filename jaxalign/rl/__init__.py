# SPDX-License-Identifier: Apache-2.0
"""Policy-gradient surrogates, value targets and risk."""

from jaxalign.rl.advantages import (
  BASELINES,
  SCALES,
  best_of_group_rewards,
  binary_group_slope,
  check_rewards,
  gdpo_advantages,
  group_advantages,
  opo_advantages,
  reinforce_pp_advantages,
  remax_advantages,
)
from jaxalign.rl.aggregation import (
  AGGREGATIONS,
  BatchLoss,
  aggregate,
)
from jaxalign.rl.algorithms import (
  ALGORITHMS,
  CORRECTIONS,
  SURROGATES,
  LossOutput,
  PolicyBatch,
  PolicyLossConfig,
  algorithm,
  policy_loss,
)
from jaxalign.rl.corrections import (
  masked_is_weights,
  off_policy_mask,
  truncated_is_weights,
)
from jaxalign.rl.covariance import (
  clip_cov_loss,
  kl_cov_loss,
)
from jaxalign.rl.entropy import (
  adaptive_entropy_coefficient,
  entropy_bonus_loss,
  token_entropy,
  top_entropy_mask,
)
from jaxalign.rl.kl_penalty import (
  KL_TERMS,
  kl_in_loss,
  kl_in_reward,
  reward_to_go,
)
from jaxalign.rl.lengths import (
  drop_truncated,
  overlong_reward,
)
from jaxalign.rl.surrogates import (
  LEVELS,
  TokenLoss,
  cispo_loss,
  clip_loss,
  gmpo_loss,
  gspo_token_loss,
  log_ratio,
  reinforce_loss,
  sapo_loss,
  vespo_loss,
)

__all__ = (
  "AGGREGATIONS",
  "ALGORITHMS",
  "BASELINES",
  "CORRECTIONS",
  "KL_TERMS",
  "LEVELS",
  "SCALES",
  "SURROGATES",
  "BatchLoss",
  "LossOutput",
  "PolicyBatch",
  "PolicyLossConfig",
  "TokenLoss",
  "adaptive_entropy_coefficient",
  "aggregate",
  "algorithm",
  "best_of_group_rewards",
  "binary_group_slope",
  "check_rewards",
  "cispo_loss",
  "clip_cov_loss",
  "clip_loss",
  "drop_truncated",
  "entropy_bonus_loss",
  "gdpo_advantages",
  "gmpo_loss",
  "group_advantages",
  "gspo_token_loss",
  "kl_cov_loss",
  "kl_in_loss",
  "kl_in_reward",
  "log_ratio",
  "masked_is_weights",
  "off_policy_mask",
  "opo_advantages",
  "overlong_reward",
  "policy_loss",
  "reinforce_loss",
  "reinforce_pp_advantages",
  "remax_advantages",
  "reward_to_go",
  "sapo_loss",
  "token_entropy",
  "top_entropy_mask",
  "truncated_is_weights",
  "vespo_loss",
)
