# SPDX-License-Identifier: Apache-2.0
import json
import os
import signal
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments import align, harness
from experiments.stages.align import objectives, pairs, policy, words
from jaxalign import data, exact, models, preference
from tests.experiments import conventions

# Enough of each that a stage has something to do.
_FEW = (
  "--batch_size=8",
  "--steps=4",
  "--warmup=1",
  "--held_out=.4",
  "--model=nano",
)


@pytest.fixture(autouse=True)
def _single_precision():
  """What users run."""
  with jax.enable_x64(False):
    yield


@pytest.fixture
def file(tmp_path):
  """Twenty pairs; longer and shorter prompts, answers of unequal lengths."""
  path = tmp_path / "pairs.jsonl"
  records = [
    data.Preference(
      f"{'again ' * (i % 3)}{i}+1=", str(i + 1), "?" * (1 + i % 4)
    )
    for i in range(20)
  ]
  data.write_preferences(path, records)
  return path


def main(*arguments):
  return align.main(["align", *arguments])


def records_of(directory):
  return json.loads((directory / "results.json").read_text())


# --- the generated words -----------------------------------------------------


def test_claims_reproduce():
  results = conventions.smoke(align)
  names = ["training_improves", "optimal_reward", "optimal_kl"]
  assert [claim.name for claim in results.claims] == names
  assert results.holds, results.claims
  figures = align.plot(results)
  assert set(figures) == {"learning", "margins", "words"}
  assert all(isinstance(figure, Figure) for figure in figures.values())
  config = align.Config.from_preset("smoke")
  record = harness.record_of(results, config, "smoke", 0.0)
  json.dumps(record, allow_nan=False)
  table = results.tables["preferences"]
  assert [row["accuracy"] for row in table if row["model"] == "start"] == [
    0.5,
    0.5,
  ]


def test_law_of_preferred_answers_is_that_of_the_definition():
  world = data.word_world(2)
  tokens = exact.enumerate_sequences(4, 2)
  q = np.exp(data.word_log_probs(world, tokens))
  r = np.asarray(data.word_rewards(world, tokens))
  expected = np.zeros(16)
  for x in range(16):
    for y in range(16):
      if x != y:
        expected[x] += q[x] * q[y] / (1 + np.exp(r[y] - r[x]))
  found = np.exp(words.preferred_law(world))
  # 1e-6: float32.
  np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-6)


# --- objectives --------------------------------------------------------------


@pytest.fixture
def batch():
  """Two pairs, the second shorter, and a row in which nothing exists."""
  records = [data.Preference("ab", "cde", "f"), data.Preference("g", "hi", "j")]
  tokens = data.tokenize_pairs(records, data.byte_tokenizer(), max_length=7)
  return data.pair_batch(tokens, np.array([0, 1, -1]))


def test_answers_are_rolled_to_the_next_prompt(batch):
  tokens, where, completion = objectives.roll_answers(
    jax.tree.map(lambda x: x[:2], batch)
  )
  tokenizer = data.byte_tokenizer()
  texts = [
    tokenizer.decode(row[mask].tolist())
    for row, mask in zip(np.asarray(tokens), np.asarray(where), strict=True)
  ]
  assert texts == ["abhi", "gcde"]
  assert np.asarray(completion).sum(1).tolist() == [3, 4]  # with EOS
  empty = objectives.roll_answers(batch)
  assert not np.asarray(empty[1])[2].any() and not np.asarray(empty[2])[0].any()


class _Table:
  """In the place of a model: the log-probabilities are what is trained."""

  def merged(self, trained, start):
    return trained["weights"]

  def logps(self, params, tokens, where, completion):
    return jnp.where(jnp.any(completion, -1), params[: len(tokens)], 0)


_OPTIONS = {"hdpo": "alpha=.5", "alphapo": "alpha=.5"}


def test_every_loss_trains(batch):
  """All of them in one program."""
  objective_of = {}
  for name in (*preference.PAIR_LOSSES, "kto"):
    divergence = "jensen_shannon" if name == "f_dpo" else ""
    loss = objectives.resolve(
      name, _OPTIONS.get(name, ""), divergence, num_microbatches=1
    )
    objective_of[name] = objectives.preferences(_Table(), loss)
  rows = jax.tree.map(lambda x: x[:2], batch)
  logps = jnp.array([-3.0, -2.0, -5.0, -1.0])
  ref = np.array([[-4.0, -2.0], [-4.0, -2.0]], np.float32)

  def total(weights, objective):
    sums = objectives.loss_fn(objective)
    out = sums({"weights": weights}, pairs.Batch(rows, ref), None, -logps)
    return out.loss_sum, out

  @jax.jit
  def run(weights):
    grad = jax.grad(total, has_aux=True)
    return {name: grad(weights, f) for name, f in objective_of.items()}

  for name, (slope, out) in run(logps).items():
    assert out.weight == 2 and out.metrics["accuracy"][1] == 2, name
    assert np.isfinite(out.loss_sum) and np.isfinite(slope).all(), name
    # The first pair's answers become more and less likely.
    assert slope[0] < 0 < slope[1], name


def test_kto_of_the_reference_itself(batch):
  config, start = policy.load(jax.random.key(0), "nano", init_from="")
  model = policy.Policy(models.Transformer(config), lora=False)
  loss = objectives.resolve("kto", "", "", num_microbatches=1)
  objective = objectives.preferences(model, loss)

  @jax.jit
  def run(start):
    ref = model.logps(start, *policy.both(batch)).reshape(-1, 2)
    own = pairs.Batch(batch, ref)
    sums = objectives.loss_fn(objective)({"weights": start}, own, None, start)
    return objective({"weights": start}, start, own), sums

  out, sums = run(start)
  # Log-ratios are 0, hence each answer's loss is sigmoid(0).
  np.testing.assert_allclose(out.loss[:2], 0.5, atol=1e-6)
  assert sums.weight == 2 and abs(sums.loss_sum - 1) < 1e-6


# --- stages ------------------------------------------------------------------


def test_stages_follow_each_other(file, tmp_path, capsys):
  sft, tuned = tmp_path / "sft", tmp_path / "tuned"
  flags = [*_FEW, f"--data={file}", "--loss_options=beta=.2", "--loss=kto"]
  assert (
    main("--stage=sft", *_FEW, f"--data={file}", f"--output_dir={sft}") == 0
  )
  arguments = [
    *flags,
    f"--init_from={sft}",
    "--lora_rank=2",
    f"--output_dir={tuned}",
  ]
  assert main(*arguments) in (0, 1)  # four steps may improve nothing
  tables = records_of(tuned)["tables"]
  assert {"records", "preferences", "held-out samples", "samples"} == set(
    tables
  )
  (row,) = tables["held-out samples"]
  assert row["KL to the reference per token"] > 0
  before, after = (models.load_hf(path / "model")[1] for path in (sft, tuned))
  same = jax.tree.map(np.array_equal, before, after)
  # Adapters are of kernels alone.
  assert same["embed"]["embedding"] and same["final_norm"]["scale"]
  assert not same["layers"]["mlp"]["up"]["kernel"]
  # The same run again is refused, as is another model.
  assert main(*arguments) == 2
  assert "resume, or choose" in capsys.readouterr().err
  assert main(*flags, f"--init_from={sft}", "--model=tiny") == 2
  error = capsys.readouterr().err
  assert "is of another model" in error and error.count("\n") == 1


def test_reward_on_a_mesh(file, tmp_path):
  """Eight devices give what one gives."""
  margins = []
  for name, mesh in (("one", ""), ("eight", "data:4,model:2")):
    output = tmp_path / name
    flags = [*_FEW, f"--data={file}", "--stage=reward", f"--mesh={mesh}"]
    assert main(*flags, f"--output_dir={output}") in (0, 1)
    rows = records_of(output)["tables"]["preferences"]
    margins.append([row["margin"] for row in rows])
    assert (output / "model" / "score.npy").exists()
  # 1e-5: sums of float32 in another order, after four steps.
  np.testing.assert_allclose(margins[0], margins[1], atol=1e-5)


def test_interrupted_and_resumed(file, tmp_path, capsys):
  flags = [*_FEW, f"--data={file}", "--loss=ipo"]
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  assert main(*flags, f"--output_dir={whole}") in (0, 1)
  shuffled = data.shuffled_batches
  taken = []

  def interrupted(take, *arguments, **options):
    def broken(rows):
      taken.append(1)
      if len(taken) == 2:
        os.kill(os.getpid(), signal.SIGTERM)
      return take(rows)

    return shuffled(broken, *arguments, **options)

  # Not by the fixture, for which all runs as it is written.
  with mock.patch.object(data, "shuffled_batches", interrupted):
    assert main(*flags, f"--output_dir={parts}") == 0
  assert "after step 2" in capsys.readouterr().out
  assert not (parts / "results.json").exists()
  assert main(*flags, f"--output_dir={parts}", "--resume") in (0, 1)
  for name in ("metrics.jsonl", "model/model.safetensors"):
    assert (whole / name).read_bytes() == (parts / name).read_bytes(), name


def test_files_have_defaults_of_their_own():
  generated, real = (
    align.Config.from_preset("quick", data=data) for data in ("", "file")
  )
  assert (generated.model, real.model) == ("nano", "tiny")
  assert generated.batch_size > real.batch_size
  chosen = align.Config.from_preset("quick", data="file", batch_size=4)
  assert (chosen.batch_size, chosen.model) == (4, "tiny")


# --- bad input ---------------------------------------------------------------

_LINE = '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--loss=dop"], "unknown loss 'dop': choose one of"),
    (["--loss_options=tau=1"], "'dpo' takes no option 'tau'"),
    (["--loss_options=beta"], "expected NAME=NUMBER"),
    (["--loss_options=beta=-1"], "beta must be"),
    (["--loss=kto", "--loss_options=tau=1"], "'kto' takes no option 'tau'"),
    (["--loss=f_dpo"], "f_dpo needs --divergence"),
    (["--loss=f_dpo", "--divergence=lk"], "unknown divergence 'lk'"),
    (["--stage=sft", "--divergence=kl"], "are of stage preference"),
    (["--loss=aot", "--num_microbatches=2"], "num_microbatches must be 1"),
    (["--num_microbatches=3"], "must divide batch_size 8"),
    (["--mesh=data:3"], "mesh data:3 needs 3 devices, there are 8"),
    (["--mesh=rows:8"], "expected axes data and model"),
    (["--batch_size=12", "--mesh=data:8"], "does not divide into"),
    (["--batch_size=64"], "is more than the"),
    (["--warmup=4"], "warmup must be below steps 4"),
    (["--held_out=1"], "held_out must be between 0 and 1"),
    (["--data=absent.jsonl"], "absent.jsonl: no such file"),
    (["--max_length=4"], "the context 4: raise max_length"),
    (["--model=huge"], "unknown model 'huge'"),
    (["--init_from=."], "no finished stage"),
    (["--lora_rank=99"], "rank must be at most 32"),
    (["--tokenizer=absent.json"], "absent.json: no such file"),
    (["--resume"], "holds no checkpoints to resume from"),
    (["--coordinator=here"], "expected host:port"),
  ],
)
def test_bad_flags(flags, message, file, tmp_path, capsys):
  output = tmp_path / "out"
  given = [f"--data={file}", *_FEW, *flags, f"--output_dir={output}"]
  assert main(*given) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1
  assert not output.exists()


@pytest.mark.parametrize(
  ("line", "message"),
  [
    ('{"prompt": "a", "chosen"}\n', "line 2, column 25: malformed JSON"),
    ('{"prompt": "a", "chosen": "b"}\n', "expected a key 'rejected'"),
    (_LINE.replace('"b"', '" "'), "the response 'chosen' is empty"),
    (_LINE.replace('"b"', "1"), "expected a string in 'chosen'"),
    (_LINE.replace("b", "c"), "the two responses are equal"),
  ],
)
def test_bad_lines(line, message, tmp_path, capsys):
  path, output = tmp_path / "bad.jsonl", tmp_path / "out"
  path.write_text(_LINE + line)
  assert main(f"--data={path}", f"--output_dir={output}") == 2
  error = capsys.readouterr().err
  assert str(path) in error and message in error and error.count("\n") == 1
  assert not output.exists()


def test_a_tokenizer_that_is_too_large(file, tmp_path, capsys):
  tokenizers = pytest.importorskip("tokenizers")
  names = [f"<{i}>" for i in range(300)] + ["?" * i for i in range(1, 5)]
  vocab = {name: i for i, name in enumerate(names)}
  path = tmp_path / "tokenizer.json"
  tokenizers.Tokenizer(
    tokenizers.models.WordLevel(vocab, unk_token="<0>")
  ).save(str(path))
  (tmp_path / "tokenizer_config.json").write_text(
    '{"eos_token": "<1>", "bos_token": "<2>"}'
  )
  flags = [f"--tokenizer={path}", "--on_bad_line=skip", *_FEW]
  assert main(f"--data={file}", *flags, f"--output_dir={tmp_path / 'out'}") == 2
  assert "has 304 tokens, the model 264" in capsys.readouterr().err


def test_what_is_not_finite_ends_the_run(file, tmp_path, capsys):
  output = tmp_path / "out"
  flags = [*_FEW, "--learning_rate=1e30", "--stage=sft", f"--data={file}"]
  assert main(*flags, f"--output_dir={output}") == 2
  error = capsys.readouterr().err
  assert "is not finite" in error.splitlines()[-1]
  assert not (output / "results.json").exists()
