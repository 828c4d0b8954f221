# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json
import pathlib
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as tensor_files

from jaxalign import checks
from jaxalign.models import hf_config, rotary, safetensors, transformer

FOLDER = pathlib.Path(__file__).parents[1] / "fixtures" / "hf"
FAMILIES = ("llama", "qwen2", "qwen3")
ENTRIES = {
  "model_type": "llama",
  "vocab_size": 7,
  "hidden_size": 8,
  "num_hidden_layers": 1,
  "num_attention_heads": 2,
  "intermediate_size": 12,
}


def read(directory):
  """All tensors of a checkpoint, by name."""
  tensors = {}
  for path in sorted(directory.glob("*.safetensors")):
    tensors |= tensor_files.load_file(path)
  return tensors


def assert_same(found, expected):
  """Equal trees or dictionaries of arrays, to the last bit and the type."""
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for a, b in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    assert a.dtype == b.dtype and np.array_equal(a, b)


# --- parity ------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_reference(family):
  config, params = safetensors.load_hf(FOLDER / family)
  expected = np.load(FOLDER / "logits.npz")
  config = dataclasses.replace(config, dtype="float32")
  model = transformer.Transformer(config)
  hidden = jax.jit(model.apply)({"params": params}, expected["tokens"])
  logits = hidden @ transformer.head(params).astype(np.float32)
  assert np.abs(expected[family]).max() > 1
  np.testing.assert_allclose(logits, expected[family], rtol=0, atol=1e-4)


def test_fixtures_are_what_they_should_be():
  configs = {f: safetensors.load_hf(FOLDER / f)[0] for f in FAMILIES}
  assert configs["llama"].rope_scaling.factor == 8 and not configs["llama"].tied
  assert configs["qwen2"].qkv_bias and configs["qwen2"].tied
  assert configs["qwen3"].qk_norm and configs["qwen3"].dtype == "bfloat16"
  assert len(list((FOLDER / "qwen2").glob("*.safetensors"))) > 1
  sizes = [path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()]
  assert sum(sizes) < 1_000_000


# --- round trips -------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shard_bytes", [10**9, 10**4])
def test_round_trip_is_exact(tmp_path, family, shard_bytes):
  config, params = safetensors.load_hf(FOLDER / family)
  there = tmp_path / "there"
  safetensors.save_hf(there, config, params, shard_bytes=shard_bytes)
  assert_same(read(there), read(FOLDER / family))
  again = safetensors.load_hf(there)
  assert again[0] == config
  assert_same(again[1], params)
  files = list(there.glob("*.safetensors"))
  index = there / "model.safetensors.index.json"
  assert index.exists() == (len(files) > 1) == (shard_bytes < 10**5)
  if index.exists():
    assert all(path.stat().st_size < 2 * shard_bytes for path in files)
    total = sum(x.nbytes for x in read(there).values())
    assert json.loads(index.read_text())["metadata"]["total_size"] == total
  assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_model_of_ours_survives(tmp_path):
  config = transformer.TransformerConfig(
    5, 2, 4, 2, 1, 2, 6, tied=False, remat="full", scan_layers=False
  )
  model = transformer.Transformer(config)
  tokens = np.zeros((1, 2), int)
  params = jax.jit(model.init)(jax.random.key(0), tokens)["params"]
  like = tmp_path / "like"
  like.mkdir()
  entries = {"eos_token_id": 3, "vocab_size": 99, "dtype": "bfloat16"}
  entries["rope_parameters"] = {"rope_theta": 7.0}
  (like / "config.json").write_text(json.dumps(entries))
  (tmp_path / "out").mkdir()  # empty, which is no obstacle
  safetensors.save_hf(tmp_path / "out", config, params, like=like)
  written = json.loads((tmp_path / "out" / "config.json").read_text())
  assert written["eos_token_id"] == 3 and written["vocab_size"] == 5
  found, loaded = safetensors.load_hf(tmp_path / "out")
  # How layers run is no part of a model.
  assert found == dataclasses.replace(config, remat="none", scan_layers=True)
  assert_same(loaded, jax.tree.map(np.asarray, params))


def test_types_are_those_of_the_parameters(tmp_path):
  config, params = safetensors.load_hf(FOLDER / "llama")
  half = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), params)
  safetensors.save_hf(tmp_path / "half", config, half)
  found, loaded = safetensors.load_hf(tmp_path / "half")
  assert found.dtype == found.param_dtype == "bfloat16"
  assert_same(loaded, half)


# --- config.json -------------------------------------------------------------


def test_entries_of_old_and_new_files():
  config = hf_config.config_from_hf(ENTRIES)
  assert (config.num_kv_heads, config.head_dim, config.tied) == (2, 4, False)
  assert config.rope_theta == 10_000 and config.dtype == "float32"
  rope = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
  }
  old = {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **rope}}
  new = {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **rope}}
  old, new = (hf_config.config_from_hf({**ENTRIES, **x}) for x in (old, new))
  assert old == new and old.rope_theta == 5e5
  assert old.rope_scaling == rotary.RopeScaling(8.0, 1.0, 4.0, 64)
  assert hf_config.config_from_hf(hf_config.config_to_hf(old)) == old
  for old, new in (("torch_dtype", "dtype"), ("dtype", "torch_dtype")):
    found = hf_config.config_from_hf({**ENTRIES, old: "float16", new: None})
    assert found.param_dtype == "float16"


@pytest.mark.parametrize(
  ("entries", "message"),
  [
    (
      {"model_type": "gpt2"},
      "model_type is 'gpt2': choose one of llama, qwen2",
    ),
    ({"hidden_size": None}, "hidden_size"),
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu': only 'silu' is supported"),
    ({"attention_bias": True}, "attention_bias is True: only False"),
    ({"rope_scaling": {"type": "yarn"}}, "rope_type is 'yarn': only 'default'"),
    ({"torch_dtype": "float8"}, "dtype is 'float8': choose one of bfloat16"),
    ({"rope_scaling": {"rope_type": "llama3"}}, "no entry 'factor'"),
    ({"num_key_value_heads": 3}, "num_kv_heads must divide num_heads"),
  ],
  ids=str,
)
def test_config_that_is_none_of_ours(tmp_path, entries, message):
  entries = {k: v for k, v in {**ENTRIES, **entries}.items() if v is not None}
  path = tmp_path / "config.json"
  path.write_text(json.dumps(entries))
  with pytest.raises(checks.InputError, match=message) as error:
    safetensors.load_hf(tmp_path)
  assert str(error.value).startswith(f"{path}: ")


def test_models_that_no_family_has():
  for changes in ({"causal": False}, {"qk_norm": True, "qkv_bias": True}):
    config = transformer.TransformerConfig.named("tiny", **changes)
    with pytest.raises(ValueError, match="have a Hugging Face layout"):
      hf_config.config_to_hf(config)


# --- damaged checkpoints -----------------------------------------------------


def rewrite(directory, change):
  tensors = read(directory)
  change(tensors)
  tensor_files.save_file(tensors, directory / "model.safetensors")


@pytest.fixture
def checkpoint(tmp_path):
  shutil.copytree(FOLDER / "llama", tmp_path / "llama")
  return tmp_path / "llama"


def test_tensors_are_named_in_one_line(checkpoint):
  def change(tensors):
    del tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["surplus"] = np.zeros(2)
    tensors["model.norm.weight"] = np.zeros(33)
    # Some files have it, though it follows from the configuration.
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(4)

  rewrite(checkpoint, change)
  with pytest.raises(checks.InputError) as error:
    safetensors.load_hf(checkpoint)
  assert str(error.value) == (
    f"{checkpoint}: missing model.layers.1.mlp.up_proj.weight; unknown surplus;"
    " misshapen model.norm.weight [33] instead of [32]"
  )


def test_a_tied_model_may_come_with_its_head(tmp_path):
  config, params = safetensors.load_hf(FOLDER / "qwen3")
  there = tmp_path / "there"
  safetensors.save_hf(there, config, params)
  rewrite(there, lambda x: x.update({"lm_head.weight": np.zeros((64, 32))}))
  assert_same(safetensors.load_hf(there)[1], params)


def test_files_that_are_missing_or_damaged(checkpoint, tmp_path):
  def fails(message):
    with pytest.raises(checks.InputError, match=message) as error:
      safetensors.load_hf(checkpoint)
    assert "\n" not in str(error.value)

  file = checkpoint / "model.safetensors"
  whole = file.read_bytes()
  file.write_bytes(whole[:-100])
  fails("model.safetensors: ")
  file.unlink()
  fails("neither model.safetensors nor model.safetensors.index.json is there")
  index = checkpoint / "model.safetensors.index.json"
  index.write_text("{}")
  fails("no entry 'weight_map'")
  index.write_text('{"weight_map": {"a": "b.safetensors"}}')
  fails("b.safetensors: no such file")
  (checkpoint / "config.json").write_text("{")
  fails("config.json: not JSON: ")
  (checkpoint / "config.json").write_text("[]")
  fails("config.json: expected a JSON object")


def test_nothing_is_written_when_something_is_wrong(tmp_path):
  config, params = safetensors.load_hf(FOLDER / "llama")
  there = tmp_path / "there"

  def fails(message, params=params):
    with pytest.raises(checks.InputError, match=message):
      safetensors.save_hf(there, config, params)

  fails("params: missing head", {k: params[k] for k in params if k != "head"})
  fails("params: unknown x", {**params, "x": np.zeros(1)})
  fails(r"params: misshapen head \[1\] instead of", {**params, "head": [1.0]})
  assert not any(tmp_path.iterdir())
  there.mkdir()
  (there / "file").touch()
  fails("there is not empty: choose another")
