# SPDX-License-Identifier: Apache-2.0
"""Hugging Face checkpoints of Llama, Qwen2 and Qwen3, read and written.

A checkpoint is a directory with `config.json` and the tensors: one file
`model.safetensors`, or several with `model.safetensors.index.json`, which says
what is in which.
"""

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxalign import checks
from jaxalign.models import hf_config, transformer

__all__ = ("load_hf", "save_hf")

_NAMES = {
  "embed/embedding": "model.embed_tokens.weight",
  "final_norm/scale": "model.norm.weight",
  "head": "lm_head.weight",
}
_LAYER_NAMES = {
  "attention_norm/scale": "input_layernorm.weight",
  "attention/query/kernel": "self_attn.q_proj.weight",
  "attention/query/bias": "self_attn.q_proj.bias",
  "attention/key/kernel": "self_attn.k_proj.weight",
  "attention/key/bias": "self_attn.k_proj.bias",
  "attention/value/kernel": "self_attn.v_proj.weight",
  "attention/value/bias": "self_attn.v_proj.bias",
  "attention/out/kernel": "self_attn.o_proj.weight",
  "attention/query_norm/scale": "self_attn.q_norm.weight",
  "attention/key_norm/scale": "self_attn.k_norm.weight",
  "mlp_norm/scale": "post_attention_layernorm.weight",
  "mlp/gate/kernel": "mlp.gate_proj.weight",
  "mlp/up/kernel": "mlp.up_proj.weight",
  "mlp/down/kernel": "mlp.down_proj.weight",
}


# --- names and shapes --------------------------------------------------------


class _Tensor(NamedTuple):
  """A tensor of a checkpoint, and where it belongs among parameters.

  Attributes:
    path: of the parameter, such as `layers/mlp/up/kernel`.
    layer: its index in the parameter; `None` if the parameter is not stacked.
    shape: of the tensor.
  """

  path: str
  layer: int | None
  shape: tuple[int, ...]

  def turn(self, array: np.ndarray) -> np.ndarray:
    """From the layout of parameters to that of tensors, or back."""
    transposed = self.path == "head" or self.path.endswith("kernel")
    return array.T if transposed else array


def _shapes(config: transformer.TransformerConfig) -> dict[str, tuple]:
  """Shapes of the parameters by path."""
  model = transformer.Transformer(config)
  tree = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32)
  )
  flat: dict[str, Any] = traverse_util.flatten_dict(tree["params"], sep="/")
  return {path: leaf.shape for path, leaf in flat.items()}


def _tensors(config: transformer.TransformerConfig) -> dict[str, _Tensor]:
  """All tensors by name, layer by layer."""
  tensors = {}
  for path, shape in _shapes(config).items():
    if path in _NAMES:
      turned = shape[::-1] if path == "head" else shape
      tensors[_NAMES[path]] = _Tensor(path, None, turned)
      continue
    name = _LAYER_NAMES[path.removeprefix("layers/")]
    turned = shape[:0:-1] if path.endswith("kernel") else shape[1:]
    for layer in range(config.num_layers):
      tensors[f"model.layers.{layer}.{name}"] = _Tensor(path, layer, turned)
  order = sorted(tensors, key=lambda n: (tensors[n].layer or 0, n))
  return {name: tensors[name] for name in order}


def _some(names: Sequence[str]) -> str:
  shown = ", ".join(names[:3])
  return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _check_shapes(
  what: str, expected: Mapping[str, tuple], found: Mapping[str, tuple]
) -> None:
  """Raises unless both have the same names with the same shapes."""
  problems = []
  if missing := [name for name in expected if name not in found]:
    problems.append(f"missing {_some(missing)}")
  if extra := [name for name in found if name not in expected]:
    problems.append(f"unknown {_some(extra)}")
  wrong = [
    f"{name} {list(found[name])} instead of {list(shape)}"
    for name, shape in expected.items()
    if name in found and tuple(found[name]) != tuple(shape)
  ]
  if wrong:
    problems.append(f"misshapen {_some(wrong)}")
  if problems:
    raise checks.InputError(f"{what}: {'; '.join(problems)}")


# --- reading -----------------------------------------------------------------


def _library():
  try:
    import safetensors
    import safetensors.numpy
  except ImportError as error:
    raise ImportError(
      "Hugging Face checkpoints need `pip install jaxalign[hf]`"
    ) from error
  return safetensors


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    found = json.loads(path.read_text())
  except FileNotFoundError:
    raise checks.InputError(f"{path}: no such file") from None
  except ValueError as error:
    raise checks.InputError(f"{path}: not JSON: {error}") from None
  if not isinstance(found, dict):
    raise checks.InputError(f"{path}: expected a JSON object")
  return found


def _files(directory: pathlib.Path) -> list[pathlib.Path]:
  single = directory / "model.safetensors"
  if single.exists():
    return [single]
  index = directory / "model.safetensors.index.json"
  if not index.exists():
    raise checks.InputError(
      f"{directory}: neither {single.name} nor {index.name} is there"
    )
  names = _read_json(index).get("weight_map")
  if not isinstance(names, dict):
    raise checks.InputError(f"{index}: no entry 'weight_map'")
  return [directory / name for name in sorted(set(names.values()))]


@contextlib.contextmanager
def _readers(directory: pathlib.Path) -> Iterator[dict[str, Any]]:
  """For each name of a tensor the open file that has it."""
  library = _library()
  with contextlib.ExitStack() as stack:
    readers = {}
    for path in _files(directory):
      if not path.exists():
        raise checks.InputError(f"{path}: no such file")
      try:
        reader = stack.enter_context(library.safe_open(path, framework="numpy"))
      except library.SafetensorError as error:
        raise checks.InputError(f"{path}: {error}") from None
      readers |= dict.fromkeys(reader.keys(), reader)
    yield readers


def _is_surplus(name: str, config: transformer.TransformerConfig) -> bool:
  """Whether some checkpoints have it though it follows from the others."""
  tied = config.tied and name == _NAMES["head"]
  return tied or name.endswith("rotary_emb.inv_freq")


def load_hf(
  directory: str | os.PathLike,
) -> tuple[transformer.TransformerConfig, dict[str, Any]]:
  """Reads a checkpoint of Llama, Qwen2 or Qwen3.

  Args:
    directory: with `config.json` and one or several files of tensors.

  Returns:
    The configuration, and the parameters as NumPy arrays of the files' types:
    it is for the caller to put them on devices.

  Raises:
    InputError: in one line: a file that is missing or damaged, a model that is
      none of ours, tensors that are missing, unknown or misshapen.

  >>> load_hf("absent")
  Traceback (most recent call last):
  ...
  jaxalign.checks.InputError: absent/config.json: no such file

  Reference:
    safetensors, the file format; transformers, sharded checkpoints.
  """
  directory = pathlib.Path(directory)
  path = directory / "config.json"
  entries = _read_json(path)
  try:
    config = hf_config.config_from_hf(entries)
  except ValueError as error:
    raise checks.InputError(f"{path}: {error}") from None
  tensors = _tensors(config)
  with _readers(directory) as readers:
    found = {
      name: tuple(reader.get_slice(name).get_shape())
      for name, reader in readers.items()
      if not _is_surplus(name, config)
    }
    expected = {name: tensor.shape for name, tensor in tensors.items()}
    _check_shapes(str(directory), expected, found)
    flat = {}
    for name, tensor in tensors.items():
      array = tensor.turn(readers[name].get_tensor(name))
      if tensor.layer is None:
        flat[tensor.path] = np.ascontiguousarray(array)
        continue
      if tensor.path not in flat:
        shape = config.num_layers, *array.shape
        flat[tensor.path] = np.empty(shape, array.dtype)
      flat[tensor.path][tensor.layer] = array
  return config, traverse_util.unflatten_dict(flat, sep="/")


# --- writing -----------------------------------------------------------------


def _shards(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
  """Names in order, in as few groups as hold `limit` bytes each."""
  shards, filled = [[]], 0
  for name, size in sizes.items():
    if shards[-1] and filled + size > limit:
      shards.append([])
      filled = 0
    shards[-1].append(name)
    filled += size
  return shards


def _write(
  directory: pathlib.Path,
  tensors: Mapping[str, _Tensor],
  flat: Mapping[str, np.ndarray],
  shard_bytes: int,
) -> None:
  """Writes the tensors, and an index if there are several files."""

  def read(tensor):
    array = flat[tensor.path]
    array = array if tensor.layer is None else array[tensor.layer]
    # The library writes memory as it lies.
    return np.ascontiguousarray(tensor.turn(array))

  sizes = {
    name: int(np.prod(tensor.shape)) * flat[tensor.path].itemsize
    for name, tensor in tensors.items()
  }
  shards = _shards(sizes, shard_bytes)
  weight_map = {}
  for i, names in enumerate(shards):
    file = "model.safetensors"
    if len(shards) > 1:
      file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
    _library().numpy.save_file(
      {name: read(tensors[name]) for name in names},
      directory / file,
      metadata={"format": "pt"},  # which transformers insists on
    )
    weight_map |= dict.fromkeys(names, file)
  if len(shards) > 1:
    total = {"total_size": sum(sizes.values())}
    index = {"metadata": total, "weight_map": weight_map}
    path = directory / "model.safetensors.index.json"
    path.write_text(json.dumps(index, indent=2))


def save_hf(
  directory: str | os.PathLike,
  config: transformer.TransformerConfig,
  params: Mapping[str, Any],
  *,
  like: str | os.PathLike | None = None,
  shard_bytes: int = 5_000_000_000,
) -> None:
  """Writes a checkpoint that transformers reads.

  The directory appears when all is written.

  Args:
    directory: is made; it may exist if it is empty.
    config: of the model.
    params: of the model; their types are kept, and that of the embedding is
      the one that `config.json` states.
    like: directory of a checkpoint whose `config.json` has what no model
      decides, such as the ids of special tokens; `None` for none.
    shard_bytes: of a file at most, unless a single tensor is larger.

  Returns:
    Nothing.

  Raises:
    InputError: the directory is not empty, or parameters are missing, unknown
      or misshapen.
    ValueError: neither Llama, Qwen2 nor Qwen3.

  >>> save_hf("absent", transformer.SIZES["tiny"], {})
  Traceback (most recent call last):
  ...
  jaxalign.checks.InputError: params: missing embed/embedding, ... and 8 more

  Reference:
    safetensors, the file format; transformers, sharded checkpoints.
  """
  directory = pathlib.Path(directory)
  entries = _read_json(pathlib.Path(like) / "config.json") if like else {}
  for newer in ("rope_parameters", "dtype"):  # names of what we write
    entries.pop(newer, None)
  entries |= hf_config.config_to_hf(config)
  flat: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
  found = {path: np.shape(leaf) for path, leaf in flat.items()}
  _check_shapes("params", _shapes(config), found)
  if directory.exists() and any(directory.iterdir()):
    raise checks.InputError(f"{directory} is not empty: choose another")
  flat = {path: np.asarray(leaf) for path, leaf in flat.items()}
  entries["torch_dtype"] = str(flat["embed/embedding"].dtype)
  partial = directory.with_name(f".{directory.name}.partial")
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  (partial / "config.json").write_text(json.dumps(entries, indent=2))
  _write(partial, _tensors(config), flat, shard_bytes)
  partial.replace(directory)
