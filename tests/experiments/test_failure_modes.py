# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import failure_modes as experiment
from experiments.stages.failure_modes import labels, learners, worlds
from jaxalign.learning import games
from tests.experiments import conventions


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


def test_known_play_has_its_labels():
  rows = conventions.smoke(experiment).tables["known play"]
  found = {(row["game"], row["play"]): row["label"] for row in rows}
  assert found["stag hunt", "hare, hare"] == "miscoordination"
  assert found["prisoner's dilemma", "defect, defect"] == "conflict"
  assert found["Bertrand, patient", "grim trigger"] == "collusion"


def test_another_seed_gives_other_starts():
  first = conventions.smoke(experiment).curves["learners/start"]
  rng = np.random.default_rng(1)
  edge = learners.EDGE
  other = rng.uniform(edge, 1 - edge, first.shape)
  assert not np.array_equal(first, other)
  rng = np.random.default_rng(0)
  again = rng.uniform(edge, 1 - edge, first.shape)
  np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("discount", [0.4, 0.9])
def test_repeated_play_is_that_of_many_rounds(discount):
  found = worlds.grim_trigger(discount)
  for pair in np.ndindex(2, 2):
    expected, nobody, weight = np.zeros((2, 2)), True, 1 - discount
    for _ in range(600):
      asked = tuple(1 if s == 1 or not nobody else 0 for s in pair)
      expected[asked] += weight
      nobody, weight = nobody and asked == (0, 0), weight * discount
    np.testing.assert_allclose(found[pair], expected, atol=1e-12)


@pytest.mark.parametrize("learner", learners.LEARNERS)
def test_borders_keep_their_potential(learner):
  """An orbit of the learners' flow, by small steps, keeps F(x) - F(y)."""
  payoffs = worlds.STAG_HUNT
  power = 1 if learner == "Hedge" else 2
  x, y = 0.3, 0.9

  def level(x, y):
    return float(
      learners._potential(jnp.array(x), payoffs, learner)
      - learners._potential(jnp.array(y), payoffs, learner)
    )

  before = level(x, y)
  for _ in range(2000):
    gain = [3 * other - 2 for other in (y, x)]
    x, y = (
      z + 4e-3 * (z * (1 - z)) ** power * g
      for z, g in zip((x, y), gain, strict=True)
    )
  np.testing.assert_allclose(level(x, y), before, rtol=0.02)  # of the steps
  assert abs(x - 0.3) > 0.1
  grid = jnp.linspace(0.1, 0.9, 9)
  at = learners.border(grid, payoffs, learner)
  np.testing.assert_allclose(
    learners._potential(at, payoffs, learner),
    learners._potential(grid, payoffs, learner),
    rtol=1e-9,
  )
  assert np.all(np.diff(at) < 0)


def test_a_step_of_each_learner_is_its_formula():
  logits = np.array([[0.3, -0.2], [0.1, 0.4]])
  noise = np.array([0.99, 0.01])  # the second action, the first
  policy = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  payoffs = worlds.DILEMMA
  gains = np.stack([payoffs[0] @ policy[1], policy[0] @ payoffs[1]])
  paid = payoffs[:, 1, 0]
  score = np.array([[0, 1], [1, 0]]) - policy
  value = (policy * gains).sum(1, keepdims=True)
  expected = {
    ("Hedge", "expected"): 0.1 * gains,
    ("Hedge", "sampled"): 0.1 * np.stack([payoffs[0][:, 0], payoffs[1][1]]),
    ("policy gradient", "expected"): 0.5 * policy * (gains - value),
    ("policy gradient", "sampled"): 0.5 * paid[:, None] * score,
  }
  for names in learners.ARMS:
    found = learners._step(jnp.asarray(logits), noise, payoffs, *names)
    np.testing.assert_allclose(found - logits, expected[names], rtol=1e-12)


# --- wrong versions ----------------------------------------------------------


def labelled():
  jax.clear_caches()
  found = conventions.failed(labels.labels(worlds.worlds()).claims)
  jax.clear_caches()
  return found


def test_a_label_that_asks_for_affine_interest_fails(monkeypatch):
  monkeypatch.setattr(games, "shared_optimum", games.affine_common_interest)
  assert labelled() == {"labels"}


def test_a_trigger_that_never_punishes_fails(monkeypatch):
  asked = np.eye(4).reshape(2, 2, 2, 2)
  monkeypatch.setattr(worlds, "grim_trigger", lambda discount: asked)
  assert labelled() == {"critical_discount"}


def learned(starts=128):
  jax.clear_caches()
  part = learners.learners(
    np.random.default_rng(0), worlds.worlds(), starts=starts
  )
  jax.clear_caches()
  return conventions.failed(part.claims)


def test_learners_that_minimise_fail(monkeypatch):
  monkeypatch.setattr(learners, "STEPS", 300)
  monkeypatch.setattr(
    learners, "RATES", {name: -rate for name, rate in learners.RATES.items()}
  )
  found = learned()
  assert {"dilemma", "harmless", "collusion_hedge"} <= found
