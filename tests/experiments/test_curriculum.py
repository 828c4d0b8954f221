# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np

from experiments import curriculum as experiment
from experiments.stages.curriculum import learnability, mixing, worlds
from jaxalign.rl import advantages
from jaxalign.rl import curriculum as library
from tests.experiments import conventions


def failed(part, *args, **options):
  """Names of the claims of a part, compiled anew, that do not hold."""
  jax.clear_caches()
  names = conventions.failed(part(*args, **options).claims)
  jax.clear_caches()
  return names


def mixed():
  return failed(mixing.mixing, np.random.default_rng(0), num_seeds=4)


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


def test_printed_values():
  tables = conventions.smoke(experiment).tables
  rows = tables["mean |A| of binary GRPO"]
  conventions.assert_printed(rows[0]["ddof 0"], ".2349")
  table = tables["mean accuracy, by steps"]
  printed = {
    "uniform": (".706", ".836", ".915", ".985"),
    "curriculum": (".776", ".831", ".957", ".994"),
  }
  # Other draws: of 6 runs there and 16 here, which vary by up to .035.
  for row in table:
    found = [row[f"{t}"] for t in mixing.CHECKPOINTS]
    expected = [float(text) for text in printed[row["mixing"]]]
    np.testing.assert_allclose(found, expected, atol=0.035)


def test_another_seed_gives_other_draws():
  first, again, other = (
    worlds.noise(np.random.default_rng(seed), 1) for seed in (0, 0, 1)
  )
  for x, y, z in zip(first, again, other, strict=True):
    np.testing.assert_array_equal(x, y)
    assert not np.array_equal(x, z)


def test_a_step_is_the_policy_gradient_of_what_was_drawn():
  """In NumPy, from the same draws, for a uniform mixture."""
  noise = worlds.noise(np.random.default_rng(2), 1)
  first = jax.tree.map(lambda x: jnp.asarray(x[0, 0]), noise)
  logits = np.random.default_rng(3).normal(size=(6, worlds.NUM_PROBLEMS))
  state = library.learnability_init(6)
  (table, state), found = jax.jit(worlds._step)(
    (jnp.asarray(logits), state), first, jnp.array(False)
  )
  expected, counts = logits.copy(), np.zeros(6, int)
  for p in range(worlds.NUM_PROMPTS):
    source = first.source[p].argmax()
    at = source, first.problem[p]
    chance = 1 / (1 + np.exp(-logits[at]))
    solved = np.asarray(first.answer[p] < chance, float)
    spread = solved.std(ddof=1) + 1e-4
    advantage = (solved - solved.mean()) / spread * (solved.std() > 0)
    expected[at] += np.mean(advantage * (solved - chance))
    counts[source] += worlds.NUM_GENERATIONS
  np.testing.assert_allclose(table, expected, rtol=1e-12)
  np.testing.assert_array_equal(state.counts, counts)
  np.testing.assert_allclose(found["weights"], 1 / 6)


# --- wrong versions ----------------------------------------------------------


def test_advantages_without_their_scale_fail(monkeypatch):
  original = advantages.group_advantages
  monkeypatch.setattr(
    advantages,
    "group_advantages",
    lambda *args, **options: original(*args, **{**options, "scale": "none"}),
  )
  assert failed(learnability.learnability) == {"learnability"}


def test_no_bonus_for_what_is_rare_fails(monkeypatch):
  monkeypatch.setattr(
    library, "ucb_weights", lambda mean, counts: jax.nn.softmax(mean / 0.1)
  )
  assert failed(learnability.learnability) == {"exploration"}


def test_learning_what_teaches_least_fails(monkeypatch):
  monkeypatch.setattr(
    library,
    "ucb_weights",
    lambda mean, counts: jax.nn.softmax(-mean / 0.1),
  )
  assert mixed() == {"gain_750", "gain_1500", "gain_hardest"}
