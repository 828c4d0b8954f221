# SPDX-License-Identifier: Apache-2.0
import jax
import numpy as np

from experiments import self_explanation as experiment
from experiments.stages.self_explanation import identities, training, worlds
from jaxalign.rl import self_explanation as library
from tests.experiments import conventions


def failed(part, *args):
  """Names of the claims of a part, compiled anew, that do not hold."""
  jax.clear_caches()
  names = conventions.failed(part(*args).claims)
  jax.clear_caches()
  return names


def questions(number=4):
  return worlds.questions(np.random.default_rng(1), number, training.GAPS)


def identified():
  first = jax.tree.map(lambda x: x[:, 0], questions())
  return failed(identities.identities, first)


def trained():
  return failed(training.training, np.random.default_rng(2), questions())


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


def test_success_is_about_what_is_printed():
  """Of other questions: the sheet does not say how its own were made."""
  table = conventions.smoke(experiment).tables["mean success, by steps"]
  rows = {row["arm"]: row for row in table}
  for arm in ("GRPO", "expert, 40 nats"):
    conventions.assert_printed(rows[arm]["50"], ".001")
  for t, printed in (("100", ".986"), ("400", ".997")):
    assert abs(rows["ExPO"][t] - float(printed)) < 5e-3
  # An expert is as slow as its rationale is unlikely.
  steps = [
    rows[f"expert, {gap:g} nats"]["median step of 1/2"] for gap in training.GAPS
  ]
  assert np.all(np.diff(steps) > 0)
  assert rows["ExPO"]["median step of 1/2"] < steps[0]


def test_another_seed_gives_other_questions_and_draws():
  def draw(seed):
    rng = np.random.default_rng(seed)
    return *worlds.questions(rng, 2, (10.0,)), *training.noise(rng, 2)

  for x, y, z in zip(draw(0), draw(0), draw(1), strict=True):
    np.testing.assert_array_equal(x, y)
    assert not np.array_equal(x, z)


def test_questions_differ_by_the_experts_rationale_alone():
  policies = questions(2)
  law = jax.jit(jax.vmap(jax.vmap(worlds.laws)))(policies)
  np.testing.assert_allclose(np.exp(law.success), 7.5e-4, rtol=1e-12)
  np.testing.assert_allclose(np.exp(law.right[..., worlds.EXPERT]), 0.9)
  np.testing.assert_array_equal(
    policies.rationales[..., 0], [[-10, -20, -40]] * 2
  )
  rest = policies.rationales[..., 1:]
  np.testing.assert_array_equal(rest[:, 0], rest[:, 2])


# --- wrong versions ----------------------------------------------------------


def test_explanations_without_the_answer_fail(monkeypatch):
  monkeypatch.setattr(
    library, "rationale_posterior", lambda log_prior, log_answer: log_prior
  )
  assert identified() == {"explained_success", "explained_gradient"}


def test_likelihoods_of_another_size_fail(monkeypatch):
  original = library.exp_sft_loss
  monkeypatch.setattr(
    library, "exp_sft_loss", lambda logp, beta: original(logp, beta) / 2
  )
  assert identified() == {"explained_gradient"}


def test_no_explanations_fail(monkeypatch):
  original = library.exp_sft_loss
  monkeypatch.setattr(
    library, "exp_sft_loss", lambda logp, beta: original(logp, 0 * beta)
  )
  # All arms are then GRPO: none is better than another.
  assert trained() == {"expo_100"}


def test_an_expert_that_is_not_unlikely_fails(monkeypatch):
  monkeypatch.setattr(training, "GAPS", (10.0, 20.0, 1.0))
  arms = {
    name: arm._replace(gap=1.0 if arm.gap == 40 else arm.gap)
    for name, arm in training.ARMS.items()
  }
  monkeypatch.setattr(training, "ARMS", arms)
  assert "expert_100" in trained()
