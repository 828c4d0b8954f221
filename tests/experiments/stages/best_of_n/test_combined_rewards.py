# SPDX-License-Identifier: Apache-2.0
from experiments.stages.best_of_n import combined_rewards
from jaxalign.inference import reward_transforms
from tests.experiments import conventions


def test_swapped_scores_lower_the_minimum(monkeypatch, key):
  combine = reward_transforms.lsc_combine
  monkeypatch.setattr(
    reward_transforms,
    "lsc_combine",
    lambda rewards, r_ref, *, axis: -combine(rewards, r_ref, axis=axis),
  )
  combined_rewards.closed_form_errors.clear_cache()
  part = combined_rewards.combined_rewards(key, vocab=10)
  combined_rewards.closed_form_errors.clear_cache()
  assert "log_sigmoids_raise_the_minimum" in conventions.failed(part.claims)
