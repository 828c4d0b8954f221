# SPDX-License-Identifier: Apache-2.0
"""Six distributions of problems, from easy to hopeless.

Every problem has a logit of its own for being solved; GRPO raises those of the
problems that a step draws.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import numerics
from jaxalign.rl import advantages, curriculum, surrogates

SUCCESS = (0.95, 0.6, 0.3, 0.1, 0.03, 0.01)
NUM_PROBLEMS, NUM_GENERATIONS, NUM_PROMPTS = 20, 8, 8
STEPS, RATE = 1500, 1.0


def _loss(
  table: jax.Array, at: tuple[jax.Array, jax.Array], solved: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """GRPO's, summed over P prompts, and its advantages `[P, G]`.

  Args:
    table: `[D, problems]`, logits of being solved.
    at: each prompt's distribution and problem.
    solved: bool `[P, G]`, of each sample.
  """
  found = advantages.group_advantages(
    solved.astype(table.dtype).ravel(), num_generations=NUM_GENERATIONS
  ).reshape(solved.shape)
  logits = table[at][:, None]
  logp = jax.nn.log_sigmoid(jnp.where(solved, logits, -logits))
  ratio = numerics.gradient_only(logp)  # on policy
  loss = surrogates.clip_loss(ratio, found).loss
  return jnp.sum(jnp.mean(loss, -1)), found


class Noise(NamedTuple):
  """What steps draw from; axes `[S, STEPS]` stand in front.

  Attributes:
    source: `[P, D]`, Gumbel.
    problem: integers `[P]`.
    answer: `[P, G]`, uniform.
  """

  source: jax.typing.ArrayLike
  problem: jax.typing.ArrayLike
  answer: jax.typing.ArrayLike


def noise(rng: np.random.Generator, num_seeds: int) -> Noise:
  """Drawn on the host: a generator in the program takes longer to compile."""
  prompts = num_seeds, STEPS, NUM_PROMPTS
  return Noise(
    rng.gumbel(size=(*prompts, len(SUCCESS))),
    rng.integers(NUM_PROBLEMS, size=prompts),
    rng.random((*prompts, NUM_GENERATIONS)),
  )


def _step(carry, noise: Noise, adaptive: jax.Array):
  table, state = carry
  weights = curriculum.ucb_weights(curriculum.learnability(state), state.counts)
  weights = jnp.where(adaptive, weights, 1 / len(SUCCESS))
  source = jnp.argmax(jnp.log(weights) + noise.source, -1)
  at = source, noise.problem
  solved = noise.answer < jax.nn.sigmoid(table[at])[:, None]
  slope, found = jax.grad(_loss, has_aux=True)(table, at, solved)
  table = table - RATE * slope
  state = curriculum.learnability_step(
    state, found.ravel(), jnp.repeat(source, NUM_GENERATIONS)
  )
  return (table, state), {
    "accuracy": jnp.mean(jax.nn.sigmoid(table), -1),
    "weights": weights,
  }


@jax.jit
def train(noise: Noise) -> dict:
  """Paths `[2, S, STEPS, D]`: uniform weights, then those of the curriculum."""
  success = jnp.array(SUCCESS)
  logits = jnp.log(success) - jnp.log1p(-success)
  table = jnp.tile(logits[:, None], NUM_PROBLEMS)
  start = table, curriculum.learnability_init(len(SUCCESS))

  def run(adaptive, noise):
    step = functools.partial(_step, adaptive=adaptive)
    return jax.lax.scan(step, start, noise)[1]

  each = jax.vmap(jax.vmap(run, (None, 0)), (0, None))
  return each(jnp.array([False, True]), noise)
