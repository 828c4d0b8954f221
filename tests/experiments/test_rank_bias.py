# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np

from experiments import rank_bias
from experiments.stages.rank_bias import identity, learner, training
from jaxalign.exact import bandit
from tests.experiments import conventions


def found(**changes):
  """Curves of the smoke run, as the claims see them."""
  curves = conventions.smoke(rank_bias).curves
  fields = ("train", "held_out", "uplift")
  values = {name: curves[f"training/{name}"] for name in fields}
  values["unlikely"] = values["uplift"][..., : training.UNLIKELY].mean(-1)
  return training.Found(**values | changes)


def test_claims_reproduce():
  conventions.assert_reproduces(rank_bias)


def test_the_step_has_the_printed_values():
  rows, _ = conventions.smoke(rank_bias).tables.values()
  values = {row["pi"]: row["exact gradient"] for row in rows}
  for pi, text in ((0.05, "-.0057"), (0.02, "-.0168"), (0.01, "-.0205")):
    conventions.assert_printed(values[pi], text)
  for row in rows:  # the natural gradient: A = r - J
    conventions.assert_printed(
      row["natural gradient"], ".37" if row["correct"] else "-.63"
    )


def test_training_has_the_printed_values():
  """Means of four seeds, beside the ranges of ten that the sheet prints."""
  _, rows = conventions.smoke(rank_bias).tables.values()
  rows = {row["arm"]: row for row in rows}
  for k, text in ((1, ".399"), (4, ".826"), (16, ".993")):
    conventions.assert_printed(rows["base"][f"@{k}"], text)
  for k, text in ((64, ".649"), (256, ".952")):
    # Rounded twice.
    np.testing.assert_allclose(rows["base"][f"@{k}"], float(text), atol=6e-4)
  assert 0.24 < rows["GRPO"]["@256"] < 0.62
  assert 0.82 < rows["beta = .5"]["@256"] < 0.92
  conventions.assert_printed(round(rows["beta = 1"]["@1"], 3), ".344")
  assert rows["GRPO"]["@1"] > rows["beta = .5"]["@1"] > rows["base"]["@1"]


def test_one_epoch_is_what_many_are_at_first():
  """All arms see the same problems; the clip does nothing on fresh samples."""
  train = found().train[..., 0]
  names = list(training.ARMS)
  one, two = names.index("GRPO"), names.index("GRPO, 2 epochs")
  np.testing.assert_array_equal(train[one, :, 0], train[two, :, 0])
  assert np.all(train[one, :, 1] != train[two, :, 1])


def test_a_draw_has_the_law_of_the_policy_and_leaves_out_what_is_known():
  world = bandit.shared_strategies(0)
  # All strategies solve all problems: nothing is left to learn.
  solved = world._replace(train=jnp.ones_like(world.train))
  uniforms = jax.random.uniform(
    jax.random.key(1), (400, learner.PROBLEMS, 1 + learner.GROUP)
  )

  @jax.jit
  def draw(uniforms):
    one = lambda x: (
      learner.draw(x, world, world.base_log_probs, 0.5),
      learner.draw(x, solved, world.base_log_probs, 0.5).advantages,
    )
    return jax.vmap(one)(uniforms)

  batch, known = draw(uniforms)
  assert np.all(known == 0) and np.any(batch.advantages != 0)
  base = np.exp(world.base_log_probs)
  counts = np.bincount(np.ravel(batch.strategies), minlength=64)
  size = counts.sum()
  error = np.sqrt(base * (1 - base) / size)
  assert np.all(np.abs(counts / size - base) < 5 * error)
  success = np.mean(batch.correct)
  # Samples share problems: a wider error than the binomial one.
  np.testing.assert_allclose(success, 0.3986, atol=0.02)


def test_without_an_effect_the_claims_fail():
  """Each claim on ends of runs that break it."""
  here = found()

  def ended(which, change):
    values = getattr(here, which).copy()
    values[:, :, -1] = values[:, :, 0] + change
    return {which: values}

  broken = {
    ("grpo_held_out", "epochs_no_remedy"): ended("held_out", 0.0),
    ("unlikeliness_held_out",): ended("held_out", -0.3),
    ("grpo_small_n", "unlikeliness_small_n"): ended("train", -0.1),
    ("grpo_large_n", "unlikeliness_too_much"): ended("train", 0.1),
    ("uplift",): {"unlikely": -here.unlikely},
  }
  assert not conventions.failed(training._claims(here))
  for names, changes in broken.items():
    assert conventions.failed(training._claims(found(**changes))) == set(names)


def test_a_change_without_its_second_term_fails(monkeypatch):
  monkeypatch.setattr(
    identity.bandit,
    "log_prob_change",
    lambda logits, rewards: bandit.bandit_gradient(logits, rewards),
  )
  jax.clear_caches()
  failed = conventions.failed(identity.identity(seed=0).claims)
  jax.clear_caches()
  assert failed == {"identity"}


def test_runs_differ_with_their_keys():
  train = found().train[0, ..., 0]
  assert len(np.unique(train[:, -1])) == len(train) == 4
