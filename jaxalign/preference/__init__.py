# SPDX-License-Identifier: Apache-2.0
"""Preference optimisation: losses of log-probabilities, and their optima.

Of pairs, by name: `pair_loss`. What serves elsewhere too lives there: Nash-MD
is `social_choice.nash_md_pg_loss`, DPH-RL's terms are `rl.base_sample_f_terms`,
SALSA's reference is `rl.model_soup`, the optimum under a divergence is
`divergences.regularized_maximizer`.
"""

from jaxalign.preference.aligndistil import (
  aligndistil_loss,
)
from jaxalign.preference.aot import (
  aot_loss,
)
from jaxalign.preference.brain import (
  brain_loss,
)
from jaxalign.preference.diffusion import (
  DenoisingErrors,
  diffusion_dpo_loss,
  diffusion_npo_loss,
  mapo_loss,
  negative_guidance,
  negative_params,
)
from jaxalign.preference.distribution_matching import (
  GDCTarget,
  MatchingLoss,
  Partition,
  fdpg_surrogate,
  gdc_target,
  partition_init,
  partition_update,
)
from jaxalign.preference.diverse import (
  DivPOPair,
  ddpo_loss,
  deviation_weights,
  divpo_select,
)
from jaxalign.preference.dpkd import (
  dpkd_loss,
)
from jaxalign.preference.f_dpo import (
  f_dpo_loss,
)
from jaxalign.preference.f_sft import (
  fsft_loss,
)
from jaxalign.preference.losses import (
  PAIR_LOSSES,
  pair_loss,
)
from jaxalign.preference.multi_sample import (
  mdpo_loss,
  mipo_loss,
)
from jaxalign.preference.online import (
  order_pairs,
  xpo_loss,
)
from jaxalign.preference.pairs import (
  PairLogps,
  PairLoss,
  sequence_logps,
)
from jaxalign.preference.pairwise import (
  discopop_loss,
  dpo_loss,
  exo_pair_loss,
  hdpo_loss,
  hinge_loss,
  ipo_loss,
  robust_dpo_loss,
  sigmoid_norm_loss,
)
from jaxalign.preference.pointwise import (
  apo_down_loss,
  apo_zero_loss,
  bco_pair_loss,
  nca_pair_loss,
  sppo_hard_loss,
)
from jaxalign.preference.ranking import (
  d2o_loss,
  mc_negative,
  ranking_nce_loss,
)
from jaxalign.preference.reference_free import (
  alphapo_loss,
  cpo_loss,
  dorpo_loss,
  log_odds,
  orpo_loss,
  simpo_loss,
)
from jaxalign.preference.regularized import (
  dpop_loss,
  rpo_loss,
)
from jaxalign.preference.rocm import (
  ROCM_REGULARIZERS,
  rocm_regularizer,
)
from jaxalign.preference.tabular import (
  PopulationMinimum,
  minimize_population,
  pair_weights,
  population_loss,
)
from jaxalign.preference.tdpo import (
  sequential_cvar,
  sequential_entropic_risk,
  sequential_kl,
  tdpo_loss,
)
from jaxalign.preference.token_level import (
  TokenLogps,
  ld_logps,
  sampo_logratio,
  wpo_weights,
)
from jaxalign.preference.unlearning import (
  flat_loss,
  ga_loss,
  grad_diff_loss,
  mean_token_probability,
  npo_loss,
  simnpo_loss,
)
from jaxalign.preference.unpaired import (
  BCODelta,
  KLDOLoss,
  UnpairedLoss,
  bco_delta_init,
  bco_delta_update,
  bco_loss,
  kldo_loss,
  kto_loss,
  kto_reference_point,
)

__all__ = (
  "PAIR_LOSSES",
  "ROCM_REGULARIZERS",
  "BCODelta",
  "DenoisingErrors",
  "DivPOPair",
  "GDCTarget",
  "KLDOLoss",
  "MatchingLoss",
  "PairLogps",
  "PairLoss",
  "Partition",
  "PopulationMinimum",
  "TokenLogps",
  "UnpairedLoss",
  "aligndistil_loss",
  "alphapo_loss",
  "aot_loss",
  "apo_down_loss",
  "apo_zero_loss",
  "bco_delta_init",
  "bco_delta_update",
  "bco_loss",
  "bco_pair_loss",
  "brain_loss",
  "cpo_loss",
  "d2o_loss",
  "ddpo_loss",
  "deviation_weights",
  "diffusion_dpo_loss",
  "diffusion_npo_loss",
  "discopop_loss",
  "divpo_select",
  "dorpo_loss",
  "dpkd_loss",
  "dpo_loss",
  "dpop_loss",
  "exo_pair_loss",
  "f_dpo_loss",
  "fdpg_surrogate",
  "flat_loss",
  "fsft_loss",
  "ga_loss",
  "gdc_target",
  "grad_diff_loss",
  "hdpo_loss",
  "hinge_loss",
  "ipo_loss",
  "kldo_loss",
  "kto_loss",
  "kto_reference_point",
  "ld_logps",
  "log_odds",
  "mapo_loss",
  "mc_negative",
  "mdpo_loss",
  "mean_token_probability",
  "minimize_population",
  "mipo_loss",
  "nca_pair_loss",
  "negative_guidance",
  "negative_params",
  "npo_loss",
  "order_pairs",
  "orpo_loss",
  "pair_loss",
  "pair_weights",
  "partition_init",
  "partition_update",
  "population_loss",
  "ranking_nce_loss",
  "robust_dpo_loss",
  "rocm_regularizer",
  "rpo_loss",
  "sampo_logratio",
  "sequence_logps",
  "sequential_cvar",
  "sequential_entropic_risk",
  "sequential_kl",
  "sigmoid_norm_loss",
  "simnpo_loss",
  "simpo_loss",
  "sppo_hard_loss",
  "tdpo_loss",
  "wpo_weights",
  "xpo_loss",
)
