# SPDX-License-Identifier: Apache-2.0
"""A model of two dense layers, its data, and a binary that trains it."""

import argparse
import functools
import os
import pathlib
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxalign import training

ROWS, WIDTH, HIDDEN = 16, 4, 8
CONFIG = {"rows": ROWS}
OPTIMIZER = optax.adam(0.05)


def init_params(key, dtype=jnp.float32):
  first, second = jax.random.split(key)
  return {
    "first": {
      "kernel": jax.random.normal(first, (WIDTH, HIDDEN), dtype) / 2,
      "bias": jnp.zeros(HIDDEN, dtype),
    },
    "second": {"kernel": jax.random.normal(second, (HIDDEN, 2), dtype) / 3},
  }


def init(dtype=jnp.float32):
  key = jax.random.key(7)
  return training.init_state(key, init_params(key, dtype), OPTIMIZER)


def loss_fn(params, batch, key, *, noise=0.0):
  """Squared errors of the rows that exist, half of them in some parts."""
  x = batch["x"] + noise * jax.random.normal(key, batch["x"].shape)
  hidden = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"])
  error = jnp.sum((hidden @ params["second"]["kernel"] - batch["y"]) ** 2, -1)
  where = batch["where"]
  total = jnp.sum(jnp.where(where, error, 0))
  right = jnp.sum(jnp.where(where, error < 1, 0))
  weight = jnp.sum(where)
  return training.BatchLoss(total, weight, {"right": (right, weight)})


class Batches:
  """Endless batches, each made from its number."""

  def __init__(self, dtype=np.float32, part=slice(None), on_batch=None):
    self._position, self._dtype, self._part = 0, dtype, part
    self._on_batch = on_batch

  def __next__(self):
    self._position += 1
    if self._on_batch:
      self._on_batch(self._position)
    rng = np.random.default_rng(self._position)
    x = rng.normal(size=(ROWS, WIDTH)).astype(self._dtype)
    batch = {
      "x": x,
      "y": np.sin(x[:, :2] + x[:, 2:]),
      "where": rng.random(ROWS) < np.linspace(0.2, 1, ROWS),
    }
    return jax.tree.map(lambda a: a[self._part], batch)

  def get_state(self):
    return {"position": self._position}

  def set_state(self, state):
    self._position = state["position"]


def main(argv):
  parser = argparse.ArgumentParser()
  parser.add_argument("--directory", type=pathlib.Path)
  parser.add_argument("--signal_at", type=int, default=0)
  parser.add_argument("--signal", default="SIGTERM")
  parser.add_argument("--coordinator")
  parser.add_argument("--process_id", type=int)
  args = parser.parse_args(argv)

  mesh, part = None, slice(None)
  if args.coordinator:
    assert training.initialize_distributed(
      args.coordinator, num_processes=2, process_id=args.process_id
    )
    mesh = training.make_mesh({"data": 2, "model": 2})
    part = slice(args.process_id, None, 2)
  state = init()
  if mesh is not None:
    state = training.shard_tree(state, mesh)

  def on_batch(position):
    if position == args.signal_at:
      os.kill(os.getpid(), getattr(signal, args.signal))

  with training.Checkpointer(
    args.directory / "checkpoints", config=CONFIG, resume=True
  ) as checkpointer:
    writers = [training.JsonlWriter(args.directory / "metrics.jsonl")]
    state, interrupted = training.fit(
      state,
      training.make_train_step(
        functools.partial(loss_fn, noise=0.0 if mesh else 0.1),
        OPTIMIZER,
        mesh=mesh,
      ),
      Batches(part=part, on_batch=on_batch),
      num_steps=20,
      checkpointer=checkpointer,
      writers=writers if jax.process_index() == 0 else [],
      log_every=3,
      save_every=4,
    )
  sys.stdout.write(f"{'interrupted' if interrupted else 'done'}\n")


if __name__ == "__main__":
  main(sys.argv[1:])
