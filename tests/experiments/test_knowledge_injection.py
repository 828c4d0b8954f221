# SPDX-License-Identifier: Apache-2.0
import collections
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import knowledge_injection as experiment
from experiments.stages import language_models
from experiments.stages.knowledge_injection import (
  export,
  formats,
  lessons,
  mixes,
)
from jaxalign import checks, models
from jaxalign.learning import knowledge
from tests.experiments import conventions

SIZES = experiment.Config.from_preset("smoke").sizes()
WORDS = SIZES.vocab.words
FORMATS = formats.formats(SIZES)
ROWS = SIZES.new_rows + SIZES.replay_rows


@functools.cache
def world():
  return list(mixes.draw_world(jax.random.key(0), SIZES).values())


@functools.cache
def batch_of():
  base, new = world()
  return jax.jit(
    lambda uniform, how: (
      mixes.finetuning_batch(uniform, SIZES, base, new, how),
      mixes.exposures(uniform, SIZES, how),
    )
  )


def finetuning(name):
  uniform = mixes.uniforms(jax.random.key(1), SIZES, ROWS)
  return jax.tree.map(np.asarray, batch_of()(uniform, FORMATS[name]))


def texts(rows):
  """Rows that count, as words."""
  counts = rows.where.any(-1)
  return [[WORDS[i] for i in tokens] for tokens in rows.tokens[counts]]


def names(entities):
  return {
    tuple(f"{k}{i}" for k, i in zip(("first", "last"), pair, strict=True))
    for pair in np.asarray(entities.names).tolist()
  }


def subjects(row):
  return {
    (a, b)
    for a, b in itertools.pairwise(row)
    if a.startswith("first") and b.startswith("last")
  }


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


def test_another_seed_gives_another_world():
  first, again, other = (
    experiment.Config.from_preset("smoke", seed=seed).key()
    for seed in (0, 0, 1)
  )
  draw = functools.partial(mixes.uniforms, sizes=SIZES, rows=ROWS)
  np.testing.assert_array_equal(draw(first), draw(again))
  assert not np.array_equal(draw(first), draw(other))


@pytest.mark.parametrize("name", FORMATS)
def test_finetuning_rows_are_of_their_format(name):
  batch, exposures = finetuning(name)
  base, new = map(names, world())
  how, told = FORMATS[name], np.zeros_like(exposures)
  order = [tuple(x) for x in np.asarray(world()[1].names).tolist()]
  rows = [row for row in texts(batch.long) if subjects(row) <= new]
  assert len(rows) == how.rows
  for row in rows:
    assert (row[0] == "DOC") == how.documents
    assert how.documents or row[0] in ("Q0", "Q1")[: how.num_templates]
    asked = [int(w[-1]) for w in row if w.startswith("attribute")]
    if how.documents and not how.shuffled:
      assert asked == sorted(asked)
    ((first, last),) = subjects(row)
    told[order.index((int(first[5:]), int(last[4:])))][asked] += 1
  np.testing.assert_array_equal(exposures, told)
  replayed = texts(batch.short) + texts(batch.long)[SIZES.new_rows :]
  assert replayed and all(subjects(row) <= base for row in texts(batch.short))


def test_answers_are_those_of_greedy_decoding():
  model = lessons._model(SIZES)
  params = jax.jit(lambda key: language_models.init(key, model))(
    jax.random.key(2)
  )
  rng = np.random.default_rng(3)
  tokens = rng.integers(1, SIZES.vocab.vocab_size - 1, (4, 9))

  @jax.jit
  def best(tokens):
    hidden = model.apply({"params": params}, tokens)
    return jnp.argmax(hidden @ models.head(params), -1)

  for t in range(5, 8):
    tokens[:, t] = best(tokens)[:, t - 1]
  tokens[1, 6] += 1  # a wrong token of the answer
  tokens[2, 8] += 1  # beside the answer
  where = np.zeros((4, 9), bool)
  where[:, 5:8] = True
  rows = knowledge.TokenRows(jnp.asarray(tokens), jnp.asarray(where))
  found = jax.jit(lessons._answered, static_argnums=0)(SIZES, params, rows)
  np.testing.assert_array_equal(found, [True, False, True, True])


def test_a_world_can_be_written(tmp_path):
  path = tmp_path / "rows.jsonl"
  export.write(str(path), jax.random.key(0), SIZES)
  records = [json.loads(line) for line in path.read_text().splitlines()]
  _, new = world()
  of_new = [x for x in records if x["entities"] == "new"]
  kinds = collections.Counter(x["format"] for x in of_new)
  size, numbers = len(new.names), np.asarray(new.numbers)
  different = (numbers[:, None] != numbers[None]).sum()
  assert kinds == {
    "question": size * SIZES.vocab.num_attributes * knowledge.NUM_TEMPLATES,
    "document": size,
    "document, reversed": size,
    "comparison": different,
  }
  assert len(records) > len(of_new) > 0
  for x in of_new:
    whole = [*x["prompt"].split(), *x["completion"].split()]
    assert subjects(whole) <= names(new) and whole[-1] == "EOS"
    assert x["prompt"].endswith("DOC" if x["format"][0] == "d" else " A")
  assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]
  with pytest.raises(checks.InputError, match="cannot write .*: No such file"):
    export.write(str(tmp_path / "no" / "rows"), jax.random.key(0), SIZES)


# --- wrong versions ----------------------------------------------------------


def failed(monkeypatch, change):
  """Names of the claims that fail on a changed table."""
  curves = conventions.smoke(experiment).curves
  known = {}
  for key in curves:
    name = key.split("/")[0]
    known[name] = {
      kind: curves[f"{name}/{kind}"] for kind in lessons.Known._fields
    }
  exposures = {name: np.ones(2) for name in known if name != "base"}
  change(known, exposures)
  found = {name: lessons.Known(**x) for name, x in known.items()}
  monkeypatch.setattr(formats, "measure", lambda *_, **__: (found, exposures))
  part = formats.table(jax.random.key(0), SIZES, num_seeds=2, guess=0.08)
  return conventions.failed(part.claims)


def test_documents_as_good_as_questions_fail(monkeypatch):
  def change(known, _):
    known[formats.FIXED] = known[formats.BEST]

  assert failed(monkeypatch, change) == {
    "questions_categorical",
    "questions_numerical",
  }


def test_numbers_known_better_fail(monkeypatch):
  def change(known, _):
    row = known["QA, template 0 only"]
    row["numerical"] = row["categorical"] + 0.1

  assert failed(monkeypatch, change) == {"numerical_below"}


def test_comparisons_that_are_known_fail(monkeypatch):
  def change(known, _):
    known["fixed order, matched"]["comparison"] = np.array([0.6, 0.7])

  assert failed(monkeypatch, change) == {"no_comparison"}


def test_equal_rows_instead_of_exposures_fail(monkeypatch):
  def change(_, exposures):
    exposures["shuffled order, matched"] *= SIZES.vocab.num_attributes

  assert failed(monkeypatch, change) == {"matched"}


def test_bad_configurations():
  with pytest.raises(ValueError, match="at most num_base 16, was 17"):
    experiment.Config.from_preset("smoke", num_new=17)
  with pytest.raises(ValueError, match="at most the 9 names together, were 24"):
    experiment.Config.from_preset("smoke", num_names=3)
  with pytest.raises(ValueError, match="multiple of the 3 facts of a document"):
    experiment.Config.from_preset("smoke", new_rows=13)
  with pytest.raises(ValueError, match="width must be a multiple of 4, was 6"):
    experiment.Config.from_preset("smoke", width=6)
