# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of tokens against the formula that forms every logit.

Of hidden states, a head and ids, with the gradients of both: the memory that
the compiled program takes beside its arguments and results, and its time.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.stages.benchmark import timing
from jaxalign import models

# Tokens, width, vocabulary: 128 MiB of logits.
TOKENS, WIDTH, VOCAB = 1024, 256, 32768
MEMORY, SLOWER = 1 / 5, 1.05
NOTHING = 1e-30  # of the entropy: its cost, without changing the sum


def dense(hidden: jax.Array, head: jax.Array, ids: jax.Array) -> jax.Array:
  """The logit of each token minus the logarithm of its normaliser."""
  logits = hidden @ head
  label = jnp.take_along_axis(logits, ids[:, None], -1)[:, 0]
  return label - jax.nn.logsumexp(logits, -1)


def log_softmax(
  hidden: jax.Array, head: jax.Array, ids: jax.Array
) -> jax.Array:
  """The same from all log-probabilities."""
  logps = jax.nn.log_softmax(hidden @ head)
  return jnp.take_along_axis(logps, ids[:, None], -1)[:, 0]


def _ours(hidden, head, ids):
  return models.token_logprobs(hidden, head, ids).logps


def _ours_with_entropy(hidden, head, ids):
  out = models.token_logprobs(hidden, head, ids, return_entropy=True)
  return out.logps + NOTHING * out.entropy


def _program(logps: Callable, arrays: tuple) -> Callable:
  """Compiled: the weighted sum with its gradients in states and head."""

  def loss(hidden, head, ids, weights):
    return -jnp.sum(weights * logps(hidden, head, ids))

  return jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*arrays).compile()


def _error(ours, dense) -> float:
  """Largest difference of a value or gradient, over its largest entry."""
  return harness.largest(
    float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b)))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(dense), strict=True)
  )


def token_logprobs_part(*, turns: int) -> harness.Part:
  """Claims on memory and time, and the table of ways to the same numbers.

  Args:
    turns: paired timings.
  """
  rng = np.random.default_rng(0)
  arrays = (
    jnp.asarray(rng.normal(0, 1, (TOKENS, WIDTH)), jnp.float32),
    jnp.asarray(rng.normal(0, WIDTH**-0.5, (WIDTH, VOCAB)), jnp.float32),
    jnp.asarray(rng.integers(0, VOCAB, TOKENS), jnp.int32),
    jnp.asarray(rng.normal(0, 1, TOKENS), jnp.float32),
  )
  peer = _program(dense, arrays)
  ways = {
    "token_logprobs": _ours,
    "token_logprobs with entropy": _ours_with_entropy,
    "log_softmax and gather": log_softmax,
  }

  def memory(program):
    return program.memory_analysis().temp_size_in_bytes / 2**20

  rows = []
  for name, logps in ways.items():
    program = _program(logps, arrays)
    error = _error(program(*arrays), peer(*arrays))
    seconds, ratio = timing.paired_ratio(program, peer, arrays, turns)
    rows.append(
      {
        "way": name,
        "temporary memory, MiB": memory(program),
        "memory over dense": memory(program) / memory(peer),
        "ms": 1e3 * seconds,
        "time over dense": ratio,
        "error": error,
      }
    )
  ours = rows[0]
  size = f"{TOKENS} tokens of width {WIDTH}, {VOCAB} outcomes, with gradients"
  claims = [
    harness.Claim(
      "token log-probabilities, memory",
      f"temporary memory over that of gather minus logsumexp: {size}",
      MEMORY,
      ours["memory over dense"],
      0.0,
      relation="<=",
    ),
    harness.Claim(
      "token log-probabilities, time",
      f"time over that of gather minus logsumexp: {size}",
      SLOWER,
      ours["time over dense"],
      0.0,
      relation="<=",
    ),
  ]
  return harness.Part(claims, {}, {"token log-probabilities": rows})
