# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the state, the position in the data and the configuration.

Orbax writes them in the background and shows each only once it is whole. On
top of that: those of another run are refused, and one that cannot be read, or
reads as something else than was saved, is passed over for the one before it.
"""

import json
import os
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from absl import logging

from jaxalign import checks
from jaxalign.training.state import TrainState

__all__ = ("Checkpointer", "Restored")


class Restored(NamedTuple):
  """What a checkpoint holds.

  Attributes:
    state: `TrainState`, placed like the one that was given.
    data: the position in the data, as it was saved.
  """

  state: TrainState
  data: Any


@jax.jit
def _digest(tree: chex.ArrayTree) -> jax.Array:
  """A number that changes with any bit of a tree, whatever its sharding.

  The sum of all words modulo 2^32: its order does not matter.
  """
  total = jnp.zeros((), jnp.uint32)
  for x in jax.tree.leaves(tree):
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      x = jax.random.key_data(x)
    if x.dtype == jnp.bool_:
      x = x.astype(jnp.uint8)
    word = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    words = jax.lax.bitcast_convert_type(x, word)
    total += jnp.sum(words.astype(jnp.uint32), dtype=jnp.uint32)
  return total


def _digest_json(*values: Any) -> int:
  """The same of what JSON holds."""
  return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def _one_line(error: Exception) -> str:
  lines = str(error).strip().splitlines() or [""]
  return f"{type(error).__name__}: {lines[0][:120]}"


def _check_config(where: str, saved: Any, given: Any) -> None:
  """Raises unless both are equal, naming the first entry that differs."""
  for name in sorted({*saved, *given}):
    if saved.get(name) != given.get(name):
      raise checks.InputError(
        f"{where} is of another run: {name} was {saved.get(name)!r}, is"
        f" {given.get(name)!r}; choose its configuration or another directory"
      )


class Checkpointer:
  """Saves and restores `TrainState`, data position and configuration.

  Use it as a context, or `close` it: what is being written is then finished.
  With several processes all of them make the same calls, and the position in
  the data is that of process 0.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    *,
    config: Mapping[str, Any],
    resume: bool = False,
    max_to_keep: int = 3,
  ):
    """Opens a directory, and makes it if need be.

    Args:
      directory: of the checkpoints alone.
      config: whatever makes the run this run, as JSON can hold it.
      resume: whether the directory may hold checkpoints already.
      max_to_keep: how many of the newest are kept; at least 2, or nothing could
        be fallen back to.

    Raises:
      InputError: it holds checkpoints and `resume` is false.
    """
    import orbax.checkpoint as ocp  # its import takes over a second

    if max_to_keep < 2:
      raise ValueError(f"max_to_keep must be at least 2, was {max_to_keep}")
    self._ocp = ocp
    self._config = json.loads(json.dumps(dict(config)))
    directory = str(directory)
    if "://" not in directory:
      directory = os.path.abspath(directory)
    self._manager = ocp.CheckpointManager(
      directory,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=max_to_keep, cleanup_tmp_directories=True
      ),
      item_names=("state", "data", "config", "digest"),
    )
    if not resume and self.steps():
      newest = self.steps()[-1]
      self.close()
      raise checks.InputError(
        f"{directory} holds checkpoints up to step {newest}: resume, or choose"
        " another directory"
      )

  def steps(self) -> list[int]:
    """The steps of all checkpoints, in order."""
    return sorted(self._manager.all_steps())

  def save(self, state: TrainState, data: Any) -> None:
    """Begins to save; the state may be donated as soon as this returns.

    Args:
      state: whose step names the checkpoint.
      data: the position in the data, as JSON can hold it.
    """
    args = self._ocp.args
    self._manager.save(
      int(state.step),
      args=args.Composite(
        state=args.StandardSave(state),
        data=args.JsonSave({"position": data}),
        config=args.JsonSave(self._config),
        # Orbax does not notice a flipped bit.
        digest=args.JsonSave(
          {
            "state": int(_digest(state)),
            "json": _digest_json(data, self._config),
          }
        ),
      ),
      force=True,
    )

  def _read(self, step: int, target: TrainState) -> Restored:
    args = self._ocp.args
    where = f"checkpoint {step} in {self._manager.directory}"
    read = self._manager.restore(
      step,
      args=args.Composite(
        data=args.JsonRestore(),
        config=args.JsonRestore(),
        digest=args.JsonRestore(),
      ),
    )
    data, config = read["data"]["position"], read["config"]
    if _digest_json(data, config) != read["digest"]["json"]:
      raise OSError("configuration or data position are not what was saved")
    # Before the state: that of another model would only fail to fit.
    _check_config(where, config, self._config)
    state = self._manager.restore(
      step, args=args.Composite(state=args.StandardRestore(target))
    )["state"]
    if int(_digest(state)) != read["digest"]["state"]:
      raise OSError("the state is not what was saved")
    return Restored(state, data)

  def restore(self, state: TrainState) -> Restored | None:
    """Restores the newest checkpoint that is whole.

    Those after it, which are not, are reported and deleted; if none is, all are
    left as they are.

    Args:
      state: of the shapes, types and places that are wanted today; its values
        do not matter.

    Returns:
      `Restored`, or None where nothing was saved.

    Raises:
      InputError: the checkpoints are of another run, or none can be read.
    """
    target = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      state,
    )
    broken: dict[int, str] = {}
    for step in reversed(self.steps()):
      try:
        restored = self._read(step, target)
      except checks.InputError:
        raise
      except Exception as error:  # which one, no part of orbax promises
        broken[step] = _one_line(error)
        continue
      for bad, reason in broken.items():
        logging.warning(
          "checkpoint %d cannot be read (%s): deleted; resuming from step %d",
          bad,
          reason,
          step,
        )
        self._manager.delete(bad)
      return restored
    if broken:
      reasons = "; ".join(f"step {k}, {text}" for k, text in broken.items())
      raise checks.InputError(
        f"{self._manager.directory}: no checkpoint can be read: {reasons}"
      )
    return None

  def wait(self) -> None:
    """Returns once what is being written is whole on the disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits and lets the directory go."""
    self._manager.close()

  def __enter__(self) -> "Checkpointer":
    return self

  def __exit__(self, *unused: Any) -> None:
    self.close()
