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
from jaxalign.rl.covariance import (
  clip_cov_loss,
  kl_cov_loss,
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
  "BASELINES",
  "LEVELS",
  "SCALES",
  "TokenLoss",
  "best_of_group_rewards",
  "binary_group_slope",
  "check_rewards",
  "cispo_loss",
  "clip_cov_loss",
  "clip_loss",
  "gdpo_advantages",
  "gmpo_loss",
  "group_advantages",
  "gspo_token_loss",
  "kl_cov_loss",
  "log_ratio",
  "opo_advantages",
  "reinforce_loss",
  "reinforce_pp_advantages",
  "remax_advantages",
  "sapo_loss",
  "vespo_loss",
)
