# SPDX-License-Identifier: Apache-2.0
"""The law of ReMDM-conf, exactly: a chain over what its tokens remember.

It masks the tokens again that were least sure when they were revealed, so a
state is a partly masked sequence and, for each token, the sequence in sight of
which it was drawn. Of 49^3 such states a chain from all masks reaches a tenth.
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.stages.remasking import chains
from experiments.stages.remasking.chains import STATES, L, V
from jaxalign.diffusion import remasking
from jaxalign.exact import masked


class Histories(NamedTuple):
  """States and the moves between them.

  Attributes:
    row: int `[H]`, of the sequence in `STATES`.
    drawn_at: int `[H, L]`, row in sight of which each token was drawn.
    source: int `[M]`, state before each move that is possible.
    target: int `[M]`, state after it.
  """

  row: np.ndarray
  drawn_at: np.ndarray
  source: np.ndarray
  target: np.ndarray


@functools.cache
def histories() -> Histories:
  """All that can be reached from masks alone."""
  hidden = (V, 0)
  places = (V + 1) ** np.arange(L)[::-1]
  number = {(hidden,) * L: 0}
  moves, queue = [], [(hidden,) * L]
  for state in queue:  # which grows
    row = int(np.array(state)[:, 0] @ places)
    ways = [
      [hidden, *((v, row) for v in range(V))] if at == hidden else [hidden, at]
      for at in state
    ]
    for after in itertools.product(*ways):
      if after not in number:
        number[after] = len(number)
        queue.append(after)
      moves.append((number[state], number[after]))
  found = np.array(queue)  # [H, L, 2]
  source, target = np.array(moves).T
  return Histories(found[..., 0] @ places, found[..., 1], source, target)


@jax.jit
def laws(table: jax.Array, steps: chains.Steps) -> jax.Array:
  """The law over partly masked sequences after each step, `[N, 64]`."""
  row, drawn_at, source, target = histories()
  z = jnp.asarray(STATES)[row]
  logits = masked.table_denoiser(table)(STATES)
  token = jnp.minimum(z, V - 1)  # of masks none is read
  memory = jax.nn.log_softmax(logits)[drawn_at, np.arange(L), token]
  where = jnp.ones((len(source), L), bool)
  moves = logits[row[source]], z[source], z[target], where
  start = jnp.zeros(len(row)).at[0].set(1.0)

  def advance(law, step):
    sigma = remasking.sigma_confidence(step.remask, memory, z < V)
    log_chance = remasking.step_log_prob(
      *moves, step.reveal, sigma[source], mask_id=V
    )
    law = jnp.where(step.first, start, law)
    law = jax.ops.segment_sum(
      law[source] * jnp.exp(log_chance), target, len(row)
    )
    return law, jax.ops.segment_sum(law, row, len(STATES))

  return jax.lax.scan(advance, start, steps)[1]
