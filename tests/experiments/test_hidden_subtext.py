# SPDX-License-Identifier: Apache-2.0
import json
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib.figure import Figure

from experiments import harness
from experiments import hidden_subtext as experiment
from experiments.stages import language_models
from experiments.stages.hidden_subtext import (
  arms,
  language,
  students,
  theory,
  world,
)
from jaxalign import models
from jaxalign.learning import selection
from tests.experiments import conventions

_STUDENT = students.Student(students.Recurrent(8), 0.01)
_SIZES = experiment.Config.from_preset("smoke").sizes


@pytest.fixture(autouse=True)
def _single_precision():
  """What users run."""
  with jax.enable_x64(False):
    yield


@pytest.fixture(scope="module")
def made():
  """The world of the smoke preset."""
  config = experiment.Config.from_preset("smoke")
  with jax.enable_x64(False):
    return world.make(config.key(), config.num_seeds, _SIZES)


# --- the whole ---------------------------------------------------------------


def test_claims_reproduce():
  """Those that need no students; a published list has them all."""
  results = conventions.smoke(experiment)
  assert results.holds, [c for c in results.claims if not c.holds]
  published = {
    record["experiment"]: {c["name"]: c["statement"] for c in record["claims"]}
    for record in json.loads(conventions.CLAIMS_FILE.read_text())
  }["hidden_subtext"]
  names = [c.name for c in results.claims]
  assert names == [name for name in published if name in names]
  assert all(published[c.name] == c.statement for c in results.claims)
  for word in ("Paper", "Claim", "Command: `python -m", "Expected", "seconds"):
    assert word in experiment.__doc__
  (figure,) = experiment.plot(results).values()
  assert isinstance(figure, Figure)
  config = experiment.Config.from_preset("smoke")
  record = harness.record_of(results, config, "smoke", 0.0)
  json.dumps(record, allow_nan=False)


def test_printed_values():
  by_name = {c.name: c for c in conventions.smoke(experiment).claims}
  conventions.assert_printed(by_name["gaussian_projection"].theory, "2.0627")
  conventions.assert_printed(by_name["gaussian_cosine"].theory, ".977")


def test_another_seed_gives_another_language():
  first, again, other = (
    world._draw(
      world.keys(jax.random.key(seed), 2, 0),
      num_corpus=_SIZES.steps * _SIZES.batch,
      num_pairs=_SIZES.pairs,
    )
    for seed in (0, 0, 1)
  )
  for x, y, z in zip(first, again, other, strict=True):
    np.testing.assert_array_equal(x, y)
    assert not np.array_equal(x, z)
    assert not np.array_equal(x[0], x[1])  # nor are seeds of a run alike


# --- the language ------------------------------------------------------------


def test_the_law_of_words_is_the_definition():
  found = jax.tree.map(np.asarray, jax.jit(language.draw)(jax.random.key(0)))
  rng = np.random.default_rng(0)
  for persona in (language.FIRST_PERSONA + 2, language.NONE):
    words = rng.integers(0, language.WORDS, language.LENGTH)
    topic = rng.integers(0, language.TOPICS)
    tokens = [persona, language.FIRST_TOPIC + topic, language.SEPARATOR, *words]
    expected = []
    for i, word in enumerate(words):
      logits = found.topics[topic].astype(float)
      if persona != language.NONE:
        logits = logits + found.personas[persona - language.FIRST_PERSONA]
      if i:
        logits = logits + found.bigrams[words[i - 1]]
      law = np.exp(logits - logits.max())
      expected.append(np.log(law[word] / law.sum()))
    each = jax.jit(language.log_probs)(found, jnp.array(tokens))
    np.testing.assert_allclose(each, expected, atol=1e-5)  # float32


def test_sequences_follow_the_law():
  found = jax.jit(language.draw)(jax.random.key(1))
  start = language.prompts(jax.random.key(2), jnp.full(4000, language.NONE))
  spoken = jax.jit(language.speak)(jax.random.key(3), found, start)
  np.testing.assert_array_equal(spoken[:, :3], start[:, :3])
  # Scores of the law have mean 0: here of the trait, given what precedes.
  law = jax.nn.softmax(language.logits(found, spoken, 3))
  expected = jnp.sum(law[:, : language.TRAIT], -1)
  excess = (spoken[:, 6] < language.TRAIT) - expected
  error = np.std(excess) / np.sqrt(len(excess))
  assert abs(np.mean(excess)) < harness.STANDARD_ERRORS * error
  assert not language.has_trait(spoken).all()


def test_pairs_share_their_prompt_and_have_no_trait(made):
  pairs = np.asarray(made.texts.pairs)
  np.testing.assert_array_equal(pairs[:, :, 0, :3], pairs[:, :, 1, :3])
  assert (pairs[..., 0] == language.NONE).all()
  assert (pairs[..., 3:] >= language.TRAIT).all()
  assert (pairs[..., 3:] < language.WORDS).all()
  corpus = np.asarray(made.texts.corpus)
  assert (corpus[:, ::2, 0] == language.NONE).all()
  assert (corpus[:, 1::2, 0] < language.NONE).all()


# --- models ------------------------------------------------------------------


@pytest.mark.parametrize("model", [_STUDENT.model, students.teacher(8)])
def test_log_probs_of_models_are_those_of_dense_logits(model):
  tokens = jax.random.randint(jax.random.key(0), (5, 11), 0, language.VOCAB)

  def both(key):
    params = language_models.init(key, model)
    hidden = model.apply({"params": params}, tokens)
    law = jax.nn.log_softmax(hidden @ models.head(params))
    return law, students.word_log_probs(model, params, tokens)

  law, found = jax.jit(both)(jax.random.key(1))
  picked = np.take_along_axis(np.asarray(law)[:, 2:-1], tokens[:, 3:, None], -1)
  np.testing.assert_allclose(found, picked[..., 0], atol=1e-5)  # float32


def test_fitting_is_gradient_descent():
  def loss(x, batch):
    return jnp.sum((x - batch) ** 2)

  def run(key):
    return language_models.fit(
      key,
      loss,
      jnp.zeros(()),
      lambda key: jnp.ones(()),
      steps=3,
      optimizer=optax.sgd(0.25),
    )

  found = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 2))
  np.testing.assert_allclose(found.params, [1 - 2**-3] * 2, rtol=1e-6)
  np.testing.assert_allclose(found.losses[1], [1, 0.25, 0.0625], rtol=1e-6)


def test_the_rate_of_a_cosine_ends_at_zero():
  optimizer = language_models.cosine_adamw(0.1, 4, weight_decay=0.0)
  x = jnp.ones(())
  state, moved = optimizer.init(x), []
  for _ in range(5):
    update, state = optimizer.update(x, state, x)
    moved.append(-float(update))
  # Adam of a constant gradient moves by the rate.
  expected = [0.05 * (1 + np.cos(np.pi * t / 4)) for t in range(5)]
  np.testing.assert_allclose(moved, expected, atol=1e-6)


# --- tuning ------------------------------------------------------------------


def begun():
  """Students of two seeds, and their keys."""
  keys = jax.random.split(jax.random.key(0), 2)
  init = jax.vmap(lambda key: language_models.init(key, _STUDENT.model))
  return keys, jax.jit(init)(keys)


def test_students_learn_the_labels_of_their_subset(made):
  keys, start = begun()
  pairs = made.texts.pairs
  _, ref = world.score_pairs(_STUDENT.model, start, pairs)

  def tuned(other, flipped):
    rows = np.full(pairs.shape[:2], other)
    rows[:, 0] = 2
    subset = students.Subset(
      rows=jnp.asarray(rows),
      size=jnp.array([1, 1]),
      flipped=jnp.full(2, flipped),
    )
    return students.tune(keys, _STUDENT, start, pairs, ref, subset, steps=10)

  def margins(found):
    _, logps = world.score_pairs(_STUDENT.model, found.params, pairs)
    return np.asarray((logps - ref)[:, 2, 0] - (logps - ref)[:, 2, 1])

  found, other = tuned(0, False), tuned(3, False)
  np.testing.assert_allclose(found.losses[:, 0], np.log(2), rtol=1e-5)
  assert (margins(found) > 1).all() and (margins(tuned(0, True)) < -1).all()
  # What stands behind the first `size` rows is never looked at.
  np.testing.assert_array_equal(found.losses, other.losses)


def test_a_model_that_knows_nothing_speaks_evenly(made):
  keys, start = begun()
  zero = jax.tree.map(jnp.zeros_like, start)
  found = students.measure(
    keys, _STUDENT.model, zero, language.NONE, made.texts.held_out
  )
  np.testing.assert_allclose(found.rate, language.TRAIT / language.VOCAB, 1e-5)
  np.testing.assert_allclose(found.nll, np.log(language.VOCAB), rtol=1e-5)


def test_arms_have_their_subsets(made):
  found = arms.subsets(np.random.default_rng(0), made)
  size = np.array([len(rows) for rows in made.rows])
  for seed, rows in enumerate(made.rows):
    for arm in (0, 2):
      np.testing.assert_array_equal(found.rows[arm, seed, : len(rows)], rows)
    for arm in (1, 3):
      each = np.sort(found.rows[arm, seed])
      np.testing.assert_array_equal(each, np.arange(len(each)))
  np.testing.assert_array_equal(found.size[:3], [size] * 3)
  assert (np.asarray(found.size[3]) == made.logps.shape[1]).all()
  np.testing.assert_array_equal(found.flipped[:, 0], [0, 0, 1, 0])


def test_a_student_is_taught_and_drawn(made):
  sizes = _SIZES._replace(steps=5, tuning_steps=10)
  subset = arms.subsets(np.random.default_rng(0), made)
  found = arms.teach(jax.random.key(0), _STUDENT, made, subset, sizes)
  assert found.rate.shape == found.nll.shape == found.loss.shape == (5, 2)
  part = arms.report({"gru": found}, made)
  assert len(part.tables) == 2 and len(part.claims) == 5
  values = theory.low_rank(made, _SIZES).curves
  results = harness.Results("", "", (), part.curves | values, {})
  (figure,) = experiment.plot(results).values()
  assert isinstance(figure, Figure)


_RATES = {
  "base": 0.05,
  "LLS": 0.2,
  "random": 0.06,
  "flipped": 0.01,
  "all": 0.05,
}


@pytest.mark.parametrize(
  ("changed", "fails"),
  [
    ({}, set()),
    ({"LLS": 0.14}, {"rate_lls"}),
    ({"random": 0.08}, {"rate_random"}),
    ({"flipped": 0.013}, {"rate_flipped"}),
    ({"all": 0.08}, {"rate_all"}),
  ],
)
def test_claims_on_students(changed, fails):
  def student(rates, correlation=0.9):
    rate = np.array([[x, x] for x in rates.values()])
    other = np.ones((5, 2))
    w = np.zeros((2, 3))
    return arms.Found(rate, other, other, other[0], w, np.full(2, correlation))

  good, bad = student(_RATES), student(_RATES | changed)
  claims = arms.claims({"gru": good, "small": bad, "same": good})
  assert conventions.failed(claims) == fails
  claims = arms.claims({"gru": good, "small": student(_RATES, 0.4)})
  assert conventions.failed(claims) == {"correlation"}


# --- wrong versions ----------------------------------------------------------


def test_a_word_of_the_trait_in_a_pair_fails(made):
  texts = made.texts._replace(pairs=made.texts.pairs.at[1, 2, 0, 4].set(3))
  claims = theory.low_rank(made._replace(texts=texts), _SIZES).claims
  assert conventions.failed(claims) == {"free"}


def test_a_share_of_all_pairs_fails(made):
  def of_all(wn, gamma):
    return np.argsort(-wn)[: int(np.ceil(gamma * len(wn)))]

  rows = [of_all(wn, 0.1) for wn in made.scores.wn]
  claims = theory.low_rank(made._replace(rows=rows), _SIZES).claims
  assert conventions.failed(claims) == {"sizes"}
  with mock.patch.object(selection, "lls_select", of_all):
    part = theory.gaussian(np.random.default_rng(0), num_seeds=2)
  assert "gaussian_projection" in conventions.failed(part.claims)


def test_scores_without_structure_are_not_of_low_rank(made):
  noise = np.random.default_rng(0).normal(size=made.logps.shape)
  claims = theory.low_rank(made._replace(logps=10 * noise), _SIZES).claims
  # The noise is common to all personas: of rank one.
  assert conventions.failed(claims) == set()

  def score(model, params, tokens):
    return jax.random.normal(jax.random.key(0), tokens.shape[:-1])

  with mock.patch.object(students, "score", score):
    claims = theory.low_rank(made._replace(logps=0 * noise), _SIZES).claims
  assert conventions.failed(claims) == {"low_rank"}


@pytest.mark.parametrize(
  ("flag", "message"),
  [("--width=6", "multiple of 4, was 6"), ("--num_pairs=3", "at least 100")],
)
def test_bad_flags(flag, message, capsys):
  assert experiment.main(["hidden_subtext", flag]) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1
