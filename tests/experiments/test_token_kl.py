# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import token_kl
from experiments.stages.token_kl import distillation, training
from jaxalign import preference
from tests.experiments import conventions

pytestmark = pytest.mark.usefixtures("optimised")


def test_claims_reproduce():
  conventions.assert_reproduces(token_kl)


def test_another_seed_gives_other_worlds():
  conventions.assert_seed_matters(token_kl, "kl", "accuracy", "forgone")


def test_arms_minimise_the_losses_that_they_name():
  """Each differentiated on its own, away from the start."""
  problem = jax.tree.map(lambda x: x[0], training.problems(range(1)))
  rng = np.random.default_rng(1)
  logits = problem.ref_logits + rng.standard_normal((21, 4))
  log_ratio, (kl, entropic, _) = training._read(logits, problem.ref_logits)
  i, j = problem.chosen, problem.rejected
  margin = log_ratio[i] - log_ratio[j]
  for name, expected in {
    "DPO": margin,
    "TDPO1": margin - kl[j] + kl[i],
    "TDPO2": margin - 0.5 * (kl[j] - kl[i]),
    "Ra-DPO2, entropic 1": margin - 0.5 * (entropic[j] - entropic[i]),
  }.items():
    loss = training._loss(logits, problem, training.ARMS[name])
    mean = np.mean(np.log1p(np.exp(-0.3 * np.asarray(expected))))
    np.testing.assert_allclose(loss, mean, rtol=1e-13)


def test_a_cvar_of_everything_is_tdpo(monkeypatch):
  monkeypatch.setattr(training, "MASS", 1.0)
  jax.clear_caches()
  part, _ = training.training(range(2), steps=100)
  jax.clear_caches()
  assert conventions.failed(part.claims) == {"cvar_below_tdpo2"}


def test_prefixes_without_values_fail(monkeypatch):
  """As if every token's optimum were the sequence's."""
  problem = training.problems(range(2))
  ref = jnp.asarray(problem.ref_logits)
  dpo = ref + 2 * np.random.default_rng(9).standard_normal(ref.shape)
  assert not conventions.failed(distillation.distillation(dpo, ref).claims)
  monkeypatch.setattr(
    distillation, "_log_partition", lambda dpo, ref, c: jnp.zeros(len(dpo))
  )
  jax.clear_caches()
  failed = conventions.failed(distillation.distillation(dpo, ref).claims)
  jax.clear_caches()
  assert failed == {"forgone_is_divergence"}


def test_the_teacher_is_that_of_the_library(monkeypatch):
  problem = training.problems(range(1))
  ref = jnp.asarray(problem.ref_logits)
  dpo = ref + 2 * np.random.default_rng(9).standard_normal(ref.shape)
  loss = preference.aligndistil_loss
  monkeypatch.setattr(
    preference,
    "aligndistil_loss",
    lambda *x, beta2, **k: loss(*x, beta2=2 * beta2, **k),
  )
  jax.clear_caches()
  failed = conventions.failed(distillation.distillation(dpo, ref).claims)
  jax.clear_caches()
  assert failed == {"teacher_is_least"}
