# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments import elicit, harness
from experiments.stages.align import policy
from experiments.stages.elicit import forward, inversion
from jaxalign import models
from jaxalign.learning import surjectivity
from tests.experiments import conventions

_WIDTH, _LENGTH = 32, 3  # of "nano" and of the smoke preset


def main(*arguments):
  return elicit.main(["elicit", "--preset=smoke", *arguments])


@pytest.fixture(scope="module")
def loaded():
  """The model that the binary takes, loaded once."""
  config = elicit.Config()
  return policy.load(config.key(), config.model, init_from="")


@pytest.fixture(autouse=True)
def _load(loaded):
  original = policy.load

  def load(key, name, *, init_from):
    if name == "nano":
      return loaded
    return original(key, name, init_from=init_from)

  with mock.patch.object(policy, "load", load):
    yield


@pytest.fixture
def nano(loaded):
  return forward.in_float64(*loaded)


def hidden(made, params, embeddings):
  """States after the final norm, of embeddings made the model's vocabulary."""
  size = len(embeddings)
  model = models.Transformer(dataclasses.replace(made, vocab_size=size))
  params = params | {"embed": {"embedding": embeddings}}
  return jax.jit(model.apply)({"params": params}, jnp.arange(size)[None])[0]


def test_claims_reproduce():
  results = conventions.smoke(elicit)
  assert results.holds, results.claims
  assert [claim.name for claim in results.claims] == ["elicited"]
  assert all(isinstance(f, Figure) for f in elicit.plot(results).values())
  config = elicit.Config.from_preset("smoke")
  record = harness.record_of(results, config, "smoke", 0.0)
  json.dumps(record, allow_nan=False)
  assert [row["tokens found"] for row in results.tables["sub-blocks"]] == [3, 3]


def test_states_of_a_file_are_produced(nano, tmp_path):
  """Verified by the model itself, and not by what found it."""
  made, params = nano
  target = np.random.default_rng(1).normal(size=(_LENGTH, _WIDTH))
  path, output = tmp_path / "target.npy", tmp_path / "out"
  np.save(path, target.astype(np.float32))
  assert main(f"--target={path}", f"--output_dir={output}") == 0
  curves = np.load(output / "curves.npz")
  scale = params["final_norm"]["scale"]
  square = np.mean(target**2, -1, keepdims=True)
  expected = target / np.sqrt(square + made.norm_eps) * scale
  found = hidden(made, params, curves["embeddings"])
  # 1e-6: the file is in float32, and so is attention's softmax.
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_states_of_a_prompt_are_produced_after_the_norm(nano, tmp_path):
  made, params = nano
  output = tmp_path / "out"
  flags = ["--prompt=ab", "--state=normed", f"--output_dir={output}"]
  assert main(*flags) == 0
  table = params["embed"]["embedding"]
  expected = hidden(made, params, table[np.array([257, 97, 98])])
  found = hidden(made, params, np.load(output / "curves.npz")["embeddings"])
  np.testing.assert_allclose(found, expected, atol=1e-5)
  rows = json.loads((output / "results.json").read_text())["tables"]
  assert [row["token of the prompt"] for row in rows["embeddings"]] == [
    "''",
    "'a'",
    "'b'",
  ]


def test_sub_blocks_make_up_the_model(nano):
  made, params = nano
  x = np.random.default_rng(2).normal(size=(_LENGTH, _WIDTH))
  states = jax.jit(forward.states, static_argnames=("model", "normed"))
  whole = states(models.Transformer(made), params, x, normed=False)
  single = forward.sub_block_model(made)
  outs = [x]
  for kind in forward.KINDS:
    own = forward.sub_block_params(params, 0, kind)
    outs.append(states(single, own, outs[-1], normed=False))
    assert not np.allclose(outs[-1], outs[-2])
  np.testing.assert_allclose(outs[-1], whole, atol=1e-7)  # softmax in float32
  # One by one, with a cache.
  cache = models.init_cache(single.config, batch_size=1, num_slots=_LENGTH)
  own = forward.sub_block_params(params, 0, "attention")
  extend = jax.jit(forward.extend, static_argnames="model")
  for t in range(_LENGTH):
    row, cache = extend(single, own, x[t], cache)
    np.testing.assert_allclose(row, outs[1][t], atol=1e-7)


def test_strong_weights_are_inverted(nano):
  """Paths with folds, where smaller steps in t alone would not do."""
  made, params = nano
  layers = jax.tree_util.tree_map_with_path(
    lambda path, w: 3 * w if "kernel" in str(path) else w, params["layers"]
  )
  params = params | {"layers": layers}
  target = 3 * np.random.default_rng(3).normal(size=(_LENGTH, _WIDTH))
  model = models.Transformer(made)
  found = inversion.invert(
    model, params, target, max_steps=2000, progress=False
  )
  assert found.ok.all() and found.folds.max() >= 2
  np.testing.assert_array_equal(found.states[-1], target)
  states = jax.jit(forward.states, static_argnames=("model", "normed"))
  hidden = states(model, params, found.states[0], normed=False)
  # 3e-5: what float32 rounds off in attention, enlarged by the MLP.
  np.testing.assert_allclose(hidden, target, atol=3e-5)


def test_what_is_not_found_is_not_made_up(tmp_path, capsys):
  def nothing(model, params, y, options):
    none = np.zeros(len(y), int)
    return surjectivity.CausalInverse(
      np.full(y.shape, np.nan), none, none, none > 0, np.ones(len(y))
    )

  output = tmp_path / "out"
  with mock.patch.object(inversion, "_invert", nothing):
    assert main(f"--output_dir={output}") == 1
  assert "FAILED" in capsys.readouterr().out
  curves = np.load(output / "curves.npz")
  assert np.isnan(curves["embeddings"]).all()
  tables = json.loads((output / "results.json").read_text())["tables"]
  found = [row["tokens found"] for row in tables["sub-blocks"]]
  assert found == [0, 0]


# --- bad input ---------------------------------------------------------------


@pytest.mark.parametrize(
  ("array", "message"),
  [
    (np.zeros((2, 5)), r"expected hidden states [T, 32] of this model, was [2"),
    (np.zeros((0, _WIDTH)), "expected hidden states [T, 32]"),
    (np.full((1, _WIDTH), np.nan), "32 of 32 entries are not, first nan at"),
    (np.zeros((1, _WIDTH), int), "expected an array of floats"),
    (None, "target.npy: no such file"),
  ],
)
def test_bad_targets(array, message, tmp_path, capsys):
  path, output = tmp_path / "target.npy", tmp_path / "out"
  if array is not None:
    np.save(path, array)
  assert main(f"--target={path}", f"--output_dir={output}") == 2
  error = capsys.readouterr().err
  assert message in error and str(path) in error and error.count("\n") == 1
  assert not output.exists()


def test_a_file_of_something_else(tmp_path, capsys):
  path = tmp_path / "target.npy"
  path.write_text("0, 1, 2")
  assert main(f"--target={path}", f"--output_dir={tmp_path / 'out'}") == 2
  error = capsys.readouterr().err
  assert "not a .npy file" in error and error.count("\n") == 1


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--state=normed"], "target is out of reach: at token 0"),
    (["--model=huge"], "unknown model 'huge'"),
    (["--prompt=a", "--target=b.npy"], "target and prompt exclude each other"),
    (["--length=0"], "length must be at least 1, was 0"),
    (["--length=3000"], "the target has 3000 tokens, the model's context is"),
    (["--tokenizer=absent.json"], "absent.json: no such file"),
  ],
)
def test_bad_flags(flags, message, tmp_path, capsys):
  output = tmp_path / "out"
  assert main(*flags, f"--output_dir={output}") == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1
  assert not output.exists()
