# SPDX-License-Identifier: Apache-2.0
from experiments.stages.best_of_n import distillation
from tests.experiments import conventions


def test_too_few_steps_fail(monkeypatch, key):
  monkeypatch.setattr(distillation, "STEPS", 20)
  distillation.distil.clear_cache()
  part = distillation.distillation(key, vocab=10, progress=False)
  distillation.distil.clear_cache()
  assert conventions.failed(part.claims) == {"bond_distilled"}
