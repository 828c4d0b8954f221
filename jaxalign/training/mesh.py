# SPDX-License-Identifier: Apache-2.0
"""Meshes of devices, and which part of what lies where.

A mesh has up to two axes. `data`: rows of the batch are split over it, and
matrices too (FSDP). `model`: matrices are split over it (tensor parallel). What
is computed does not depend on the mesh; XLA inserts the communication.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxalign import checks

__all__ = (
  "batch_sharding",
  "initialize_distributed",
  "make_mesh",
  "param_shardings",
  "parse_mesh",
  "shard_batch",
  "shard_tree",
)

_AXES = ("data", "model")

Rules = Sequence[tuple[str, PartitionSpec]]


def parse_mesh(text: str) -> dict[str, int]:
  """Parses the flag `--mesh=data:4,model:2`.

  Args:
    text: axes with their sizes; `data`, `model` or both.

  Returns:
    Sizes by name, in the order given.

  Raises:
    InputError: another form, an unknown or repeated axis, a size below 1.

  >>> parse_mesh("data:4,model:2")
  {'data': 4, 'model': 2}

  Reference:
    The format is the project's own.
  """
  shape: dict[str, int] = {}
  for part in text.split(","):
    match = re.fullmatch(r"\s*(\w+):([1-9]\d*)\s*", part)
    if not match or match[1] not in _AXES or match[1] in shape:
      raise checks.InputError(
        f"mesh {text!r}: expected axes {' and '.join(_AXES)} with their sizes,"
        f" as in data:4,model:2; cannot use {part!r}"
      )
    shape[match[1]] = int(match[2])
  return shape


def make_mesh(
  shape: Mapping[str, int], *, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Arranges devices as a mesh whose axes XLA shards over by itself.

  Args:
    shape: sizes by name, as `parse_mesh` returns them.
    devices: which to use, all by default (those of every process).

  Returns:
    The mesh, with axes of type Auto.

  Raises:
    InputError: the sizes' product is not the number of devices.

  >>> dict(make_mesh({"data": 1}, devices=jax.devices()[:1]).shape)
  {'data': 1}

  Reference:
    JAX documentation, Distributed arrays and automatic parallelization.
  """
  devices = jax.devices() if devices is None else devices
  if math.prod(shape.values()) != len(devices):
    given = ",".join(f"{name}:{size}" for name, size in shape.items())
    raise checks.InputError(
      f"mesh {given} needs {math.prod(shape.values())} devices, there are"
      f" {len(devices)}: choose sizes whose product is {len(devices)}"
    )
  return jax.make_mesh(
    tuple(shape.values()),
    tuple(shape),
    # Axes are Explicit by default, and then ordinary programs are refused.
    axis_types=(AxisType.Auto,) * len(shape),
    devices=devices,
  )


def _automatic(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
  """Splits the largest axis that divides, for each axis of the mesh.

  Vectors (biases, gains) stay whole: to gather them costs more than they take.
  """
  spec: list[str | None] = [None] * len(shape)
  if len(shape) >= 2:
    for name in ("model", "data"):
      size = mesh.shape.get(name, 1)
      fits = [i for i, n in enumerate(shape) if not spec[i] and n % size == 0]
      if size > 1 and fits:
        spec[max(fits, key=lambda i: shape[i])] = name
  return PartitionSpec(*spec)


def _shortest(spec: PartitionSpec) -> PartitionSpec:
  """Without the last Nones, as XLA has it: another form is another program."""
  entries = list(spec)
  while entries and entries[-1] is None:
    entries.pop()
  return PartitionSpec(*entries)


def _check_divides(
  path: str, shape: tuple[int, ...], spec: PartitionSpec, mesh: Mesh
) -> None:
  for size, names in zip(shape, spec, strict=False):
    names = names if isinstance(names, tuple) else (names,)
    for name in names:
      if name is not None and name not in mesh.shape:
        raise checks.InputError(
          f"{path}: its rule {spec} names {name!r}, the mesh has"
          f" {', '.join(mesh.shape)}"
        )
    parts = math.prod(mesh.shape[name] for name in names if name is not None)
    if size % parts:
      raise checks.InputError(
        f"{path} {list(shape)}: {size} does not divide into {parts} parts, as"
        f" its rule {spec} wants"
      )


def param_shardings(
  tree: chex.ArrayTree, mesh: Mesh, *, rules: Rules = ()
) -> Any:
  """Where each array of parameters, or of a whole `TrainState`, lies.

  The first rule whose pattern is found in an array's path decides. Without one,
  matrices are split: their largest axis that divides over `model`, then the
  largest one left over `data`; everything else is whole on every device. The
  optimiser's moments end in their parameter's path and so lie beside it.

  Args:
    tree: arrays or their shapes (`jax.eval_shape`), of any shapes.
    mesh: from `make_mesh`.
    rules: pairs of a regular expression, searched in paths such as
      `layers/query/kernel`, and a `PartitionSpec`. A spec with more entries
      than the array has axes does not apply to it.

  Returns:
    A tree of `NamedSharding`, for `out_shardings`, say.

  Raises:
    InputError: a rule whose axes are not in the mesh or do not divide.

  >>> mesh = make_mesh({"data": 1}, devices=jax.devices()[:1])
  >>> params, rules = {"w": np.ones((4, 2))}, [("w$", PartitionSpec("data"))]
  >>> tuple(param_shardings(params, mesh, rules=rules)["w"].spec)
  ('data',)

  Reference:
    GSPMD: General and Scalable Parallelization (2105.04663), section 3.
  """

  def sharding(path, x):
    shape = np.shape(x)
    text = jax.tree_util.keystr(path, simple=True, separator="/")
    for pattern, spec in rules:
      if re.search(pattern, text) and len(spec) <= len(shape):
        _check_divides(text, shape, spec, mesh)
        return NamedSharding(mesh, _shortest(spec))
    return NamedSharding(mesh, _shortest(_automatic(shape, mesh)))

  return jax.tree_util.tree_map_with_path(sharding, tree)


def _check_concrete(tree: chex.ArrayTree) -> None:
  if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(tree)):
    raise TypeError("arrays are put on a mesh outside of jit, not within")


def _place(x: Any, sharding: NamedSharding) -> jax.Array:
  """Puts what every process has whole on devices of all of them."""
  if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    data = _place(jax.random.key_data(x), sharding)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
  host = np.asarray(x)
  return jax.make_array_from_callback(
    host.shape, sharding, lambda index: host[index]
  )


def shard_tree(
  tree: chex.ArrayTree, mesh: Mesh, *, rules: Rules = ()
) -> chex.ArrayTree:
  """Puts parameters, or a whole `TrainState`, where `param_shardings` says.

  With several processes each has the whole tree. What no host can hold is made
  in place instead: `jax.jit(init, out_shardings=param_shardings(...))`.

  Args:
    tree: arrays of any shapes.
    mesh: from `make_mesh`.
    rules: see `param_shardings`.

  Returns:
    The same tree, on the mesh.

  Raises:
    InputError: a rule whose axes are not in the mesh or do not divide.

  >>> mesh = make_mesh({"data": 1}, devices=jax.devices()[:1])
  >>> shard_tree({"w": np.ones((4, 2))}, mesh)["w"].shape
  (4, 2)

  Reference:
    JAX documentation, Distributed data loading.
  """
  _check_concrete(tree)
  shardings = param_shardings(tree, mesh, rules=rules)
  if jax.process_count() == 1:
    return jax.device_put(tree, shardings)
  return jax.tree.map(_place, tree, shardings)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Rows of a batch are split over `data`; without that axis they are not.

  Args:
    mesh: from `make_mesh`.

  Returns:
    The sharding of every array of a batch.

  >>> mesh = make_mesh({"data": 1}, devices=jax.devices()[:1])
  >>> tuple(batch_sharding(mesh).spec)
  ('data',)

  Reference:
    GSPMD: General and Scalable Parallelization (2105.04663), section 3.
  """
  spec = ("data",) if "data" in mesh.shape else ()
  return NamedSharding(mesh, PartitionSpec(*spec))


def shard_batch(
  batch: chex.ArrayTree, mesh: Mesh, *, num_microbatches: int = 1
) -> chex.ArrayTree:
  """Puts a batch on the mesh, its rows split over `data`.

  With several processes each gives its own rows, as many as every other one.

  Args:
    batch: host arrays `[B, ...]`, B this process's rows.
    mesh: from `make_mesh`.
    num_microbatches: how many parts a step will work through.

  Returns:
    The same tree of arrays `[B * processes, ...]`.

  Raises:
    InputError: the rows of a microbatch do not divide into the parts of `data`.

  >>> mesh = make_mesh({"data": 1}, devices=jax.devices()[:1])
  >>> shard_batch({"x": np.ones((4, 2))}, mesh)["x"].shape
  (4, 2)

  Reference:
    JAX documentation, Distributed data loading.
  """
  _check_concrete(batch)
  parts = mesh.shape.get("data", 1)
  sharding = batch_sharding(mesh)
  for x in jax.tree.leaves(batch):
    rows = len(x) * jax.process_count()
    if rows % (parts * num_microbatches):
      raise checks.InputError(
        f"a batch of {rows} rows does not divide into {num_microbatches}"
        f" microbatches on data:{parts}: choose a multiple of"
        f" {parts * num_microbatches}"
      )
  if jax.process_count() == 1:
    return jax.device_put(batch, sharding)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)),
    batch,
  )


def initialize_distributed(
  coordinator: str | None = None,
  *,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> bool:
  """Joins the processes of one run; for the `main` of a binary.

  Args:
    coordinator: `host:port` of process 0, the flag `--coordinator`; None to
      join only if JAX detects a cluster (Slurm, Open MPI, Kubernetes, TPU).
    num_processes: how many there are, an integer; None where a cluster tells.
    process_id: which this is, from 0; None where a cluster tells.

  Returns:
    Whether this process is one of a distributed run.

  Raises:
    InputError: a coordinator without port, or numbers that are missing.
    RuntimeError: JAX has computed something already.

  >>> initialize_distributed("localhost")
  Traceback (most recent call last):
  ...
  jaxalign.checks.InputError: coordinator 'localhost': expected host:port

  Reference:
    JAX documentation, Introduction to multi-controller JAX.
  """
  if jax.distributed.is_initialized():
    return True
  if coordinator is not None and not re.fullmatch(r".+:\d+", coordinator):
    raise checks.InputError(f"coordinator {coordinator!r}: expected host:port")
  try:
    jax.distributed.initialize(coordinator, num_processes, process_id)
  except ValueError as error:
    # JAX has no other public way to ask whether there is a cluster.
    if coordinator is None and "coordinator_address" in str(error):
      return False
    raise checks.InputError(
      f"coordinator {coordinator}: give num_processes and process_id too,"
      f" where no cluster tells them ({error})"
    ) from error
  return True
