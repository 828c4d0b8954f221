# SPDX-License-Identifier: Apache-2.0
import json
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import select_subset as experiment
from experiments.stages.align import policy
from experiments.stages.select_subset import records, scoring
from jaxalign import checks, data, models
from jaxalign.learning import selection
from tests.experiments import conventions

_FLAGS = ("--system_prompt=You love owls.", "--batch_size=8")


@pytest.fixture(autouse=True)
def _single_precision():
  """What users run."""
  with jax.enable_x64(False):
    yield


@pytest.fixture
def file(tmp_path):
  """Twenty pairs; answers of unequal lengths, some to be cut."""
  path = tmp_path / "pairs.jsonl"
  found = [
    data.Preference(f"{i}+1=", f"{i + 1}, I think" * (1 + i % 3), "?" * (1 + i))
    for i in range(20)
  ]
  data.write_preferences(path, found)
  return path


@pytest.fixture(scope="module")
def model():
  """Random, of the size nano."""
  with jax.enable_x64(False):
    return scoring.load(jax.random.key(1), "nano", "")


def main(*arguments):
  return experiment.main(["select_subset", *arguments])


def run(**flags):
  config = experiment.Config.from_preset("smoke", num_pairs=16, **flags)
  return experiment.run(config, progress=False)


def failed(**flags):
  return conventions.failed(run(**flags).claims)


# --- what it computes --------------------------------------------------------


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


def test_another_seed_gives_other_scores():
  conventions.assert_seed_matters(experiment, "w")


def test_scores_are_those_of_dense_logits(model):
  def dense(params, tokens):
    hidden = model.policy.model.apply({"params": params}, tokens)
    return jax.nn.log_softmax(hidden @ models.head(params))

  prompts = ("\n\nHuman: hi\n\nAssistant:", "Word:")
  pairs = [data.Preference(prompt, " yes", " no, día") for prompt in prompts]
  passes = scoring.tokenize(pairs, model, "S")
  found = scoring.logps(model, passes, np.array([0, 1, -1]))
  np.testing.assert_array_equal(found[2], 0)
  np.testing.assert_array_equal(passes.lengths, [[5, 10], [5, 10]])
  texts = [("S\n\nHuman: hi\n\nAssistant:", "S\n\nWord:"), prompts]
  rows = [
    ([257, *text.encode()], [*pairs[i][1 + answer].encode(), 258])
    for i in (0, 1)
    for each in texts
    for text in [each[i]]
    for answer in (0, 1)
  ]
  tokens = np.zeros((8, max(len(x) + len(y) for x, y in rows)), int)
  for row, (start, answer) in zip(tokens, rows, strict=True):
    row[: len(start) + len(answer)] = start + answer
  law = jax.jit(dense)(model.params, tokens)
  for value, (start, answer), logps in zip(
    found[:2].ravel(), rows, np.asarray(law), strict=True
  ):
    places = np.arange(len(start), len(start) + len(answer))
    # 1e-4: sums of ten float32 numbers in another order.
    expected = logps[places - 1, answer].sum()
    np.testing.assert_allclose(value, expected, atol=1e-4)


def test_pairs_are_left_out_and_cut():
  pairs = [
    data.Preference("p", "abcdef", "ab"),
    data.Preference("p", "an OwL!", "x"),
    data.Preference("a long one", "y", "x"),
    data.Preference("p", "abcd1", "abcd2"),
    data.Preference("p", "     x", "x"),
    data.Preference("p", "abcé", "x"),
  ]
  prepared = records.prepare(
    data.Preferences(tuple(pairs), 8, {"empty response": 2}),
    data.byte_tokenizer(),
    filter_words="owl, ,cat",
    max_prompt_tokens=3,
    max_response_tokens=4,
  )
  kept = [("p", "abcd", "ab"), ("p", "abc", "x")]
  assert [tuple(record) for record in prepared.records] == kept
  assert prepared.counts == {
    "lines": 8,
    "skipped, empty response": 2,
    "scored": 2,
    "left out: filter word": 1,
    "left out: long prompt": 1,
    "left out: equal when cut": 1,
    "left out: empty when cut": 1,
  }


# --- a file ------------------------------------------------------------------


def test_a_subset_is_written(file, tmp_path, model):
  models.save_hf(
    tmp_path / "model",
    model.policy.model.config,
    jax.device_get(model.params),
  )
  output = tmp_path / "subset.jsonl"
  flags = [f"--data={file}", f"--output={output}", *_FLAGS, "--gamma=.3"]
  flags += [f"--model={tmp_path / 'model'}", f"--output_dir={tmp_path / 'out'}"]
  assert main(*flags) == 0
  found = data.read_preferences(output).records
  with np.load(tmp_path / "out" / "curves.npz") as curves:
    w, kept = curves["w"], curves["kept"]
  assert len(found) == len(kept) == -(-3 * int(np.sum(w > 0)) // 10)
  whole = data.read_preferences(file).records
  for i, record in zip(kept, found, strict=True):
    for short, text in zip(record, whole[i], strict=True):
      assert text.startswith(short) and len(short) == min(len(text), 20)
  # The model is the one in the directory.
  cut = records.prepare(
    data.read_preferences(file),
    model.tokenizer,
    filter_words="",
    max_prompt_tokens=250,
    max_response_tokens=20,
  )
  passes = scoring.tokenize(cut.records, model, "You love owls.")
  logps = scoring.logps(model, passes, np.arange(8))
  again = scoring.scores(logps, passes.lengths[:8]).w
  np.testing.assert_array_equal(again, w[:8])
  assert main(*flags) == 2  # the output exists


def test_an_interrupted_run_goes_on(file, tmp_path):
  flags = [f"--data={file}", *_FLAGS]
  whole, parts = (tmp_path / name for name in ("whole.jsonl", "parts.jsonl"))
  assert main(*flags, f"--output={whole}", f"--output_dir={tmp_path}/1") == 0
  of_batch, batches = scoring.logps, []

  def counted(model, passes, rows):
    batches.append(rows)
    if len(batches) == 2:
      raise KeyboardInterrupt
    return of_batch(model, passes, rows)

  flags += [f"--output={parts}", f"--output_dir={tmp_path}/2"]
  # Not by the fixture, for which all runs as it is written.
  with mock.patch.object(scoring, "logps", counted):
    with pytest.raises(KeyboardInterrupt):
      main(*flags)
    assert not parts.exists() and not (tmp_path / "2").exists()
    beside = tmp_path / "parts.jsonl.scores"
    with beside.open("a") as stream:
      stream.write("[-1.0, -2.")  # what was being written
    assert main(*flags) == 0
  np.testing.assert_array_equal(batches[2], np.arange(8, 16))
  assert whole.read_bytes() == parts.read_bytes()
  scores = beside.read_text(), (tmp_path / "whole.jsonl.scores").read_text()
  assert scores[0] == scores[1] and len(scores[0].splitlines()) == 21


def test_scores_of_another_run_are_refused(file, tmp_path, capsys):
  beside = tmp_path / "subset.jsonl.scores"
  flags = [f"--data={file}", f"--output={tmp_path / 'subset.jsonl'}"]
  flags.append(f"--output_dir={tmp_path / 'out'}")
  for text, message in (
    (json.dumps({"digest": "other"}) + "\n", "holds scores of other pairs"),
    ("[1.0]\n", "is damaged"),
    ("", "is damaged"),
  ):
    beside.write_text(text)
    assert main(*flags) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert beside.read_text() == text


def test_what_scores_depend_on_is_in_the_digest(model):
  pairs = [data.Preference("p", "yes", "no")]
  passes = scoring.tokenize(pairs, model, "S")
  moved = jax.tree.map(lambda x: x + 1, model.params)
  digests = {
    scoring.digest(model, passes),
    scoring.digest(model, scoring.tokenize(pairs, model, "T")),
    scoring.digest(model._replace(params=moved), passes),
  }
  assert len(digests) == 3


def test_an_empty_selection_writes_nothing(file, tmp_path, capsys):
  output = tmp_path / "subset.jsonl"
  flags = [f"--data={file}", f"--output={output}", "--system_prompt="]
  assert main(*flags, f"--output_dir={tmp_path / 'out'}") == 2
  error = capsys.readouterr().err
  assert "all 20 scores are 0" in error and error.count("\n") == 1
  assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--gamma=0"], "gamma must be in (0, 1], was 0"),
    (["--data=absent.jsonl"], "absent.jsonl: no such file"),
    (["--model=huge"], "unknown model 'huge'"),
    (["--tokenizer=absent.json"], "absent.json: no such file"),
    (["--filter_words=+"], "no pair is left to score: 20 left out: filter"),
    (["--system_prompt=" + 2040 * "x"], "tokens, the model's context is 2048"),
  ],
)
def test_bad_flags(flags, message, file, tmp_path, capsys):
  output, subset = tmp_path / "out", tmp_path / "subset.jsonl"
  given = [f"--data={file}", *flags, f"--output={subset}"]
  assert main(*given, f"--output_dir={output}") == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1
  assert not output.exists() and not subset.exists()


def test_real_pairs(real_data):
  found = run(
    data=str(real_data / "hh_rlhf_harmless_1800.jsonl.gz"),
    on_bad_line="skip",
    max_prompt_tokens=60,
  )
  assert found.holds
  counts = {x["outcome"]: x["number"] for x in found.tables["pairs"]}
  assert counts["lines"] == 1800 and counts["skipped, empty response"] == 4
  assert counts["positive"] > 50 and counts["left out: long prompt"] > 1000


# --- wrong versions ----------------------------------------------------------


def test_a_share_of_all_pairs_fails(monkeypatch):
  monkeypatch.setattr(
    selection,
    "lls_select",
    lambda wn, gamma: np.argsort(-wn)[: int(np.ceil(gamma * len(wn)))],
  )
  assert failed(gamma=0.5) == {"size", "empty_selection"}


def test_flipped_pairs_fail(monkeypatch):
  original = selection.lls_scores

  def flipped(*args):
    return selection.LLSScores(*map(jnp.abs, original(*args)))

  monkeypatch.setattr(selection, "lls_scores", flipped)
  assert failed() == {"antisymmetry"}


def test_an_empty_turn_for_no_system_prompt_in_one_pass_fails(monkeypatch):
  monkeypatch.setattr(scoring, "under", lambda s, prompt: f"{s}\n\n{prompt}")
  assert failed() == {"empty_system_prompt", "empty_selection"}


def test_padding_that_is_scored_fails(monkeypatch):
  original = policy.both

  def all_scored(batch):
    tokens, where, completion = original(batch)
    return [tokens, where, completion | ~where]

  monkeypatch.setattr(policy, "both", all_scored)
  jax.clear_caches()
  assert "padding" in failed()
  jax.clear_caches()


def test_bad_lines_are_refused(tmp_path):
  path = tmp_path / "bad.jsonl"
  path.write_text('{"prompt": "a", "chosen": " ", "rejected": "b"}\n')
  with pytest.raises(checks.InputError, match="line 1: the response 'chosen'"):
    run(data=str(path))
