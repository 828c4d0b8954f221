# SPDX-License-Identifier: Apache-2.0
"""GRPO in a world where one policy serves many problems.

Plain gradient descent on 64 logits with the clipped surrogate: groups of
samples for a few problems, standardised rewards.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import evaluation
from jaxalign.exact import bandit
from jaxalign.rl import clip_loss, group_advantages, unlikeliness

PROBLEMS, GROUP = 8, 32  # in a batch
STEPS, RATE, EPS = 300, 0.3, 1e-6
KS = (1, 4, 16, 64, 256)

Penalty = Callable[[jax.Array], jax.Array]


class Batch(NamedTuple):
  """Samples `[PROBLEMS * GROUP]`, those of one problem side by side."""

  strategies: jax.Array
  scores: jax.Array  # log-probabilities under the policy that drew them
  correct: jax.Array
  advantages: jax.Array


class Path(NamedTuple):
  """What happened in one run.

  Attributes:
    log_probs: `[STEPS + 1, V]`, before each update and after the last.
    batches: of each update, `[STEPS, PROBLEMS * GROUP]`.
  """

  log_probs: jax.Array
  batches: Batch


def draw(
  uniforms: jax.Array,
  world: bandit.SharedBandit,
  logits: jax.Array,
  beta: jax.Array | float,
) -> Batch:
  """Samples of the policy, with the unlikely ones favoured by beta.

  Args:
    uniforms: `[PROBLEMS, 1 + GROUP]`: for a problem and for its samples.
    world: the problems.
    logits: `[V]`.
    beta: of the unlikeliness reward.
  """
  num_problems, num_strategies = world.train.shape
  problems = (uniforms[:, :1] * num_problems).astype(int)
  log_probs = jax.nn.log_softmax(logits)
  strategies = jnp.searchsorted(
    jnp.cumsum(jnp.exp(log_probs)), uniforms[:, 1:], side="right"
  )
  # The sum of all probabilities may be below 1 by rounding.
  strategies = jnp.minimum(strategies, num_strategies - 1)
  correct = world.train[problems, strategies].ravel()
  strategies = strategies.ravel()
  scores = log_probs[strategies]
  rewards = correct.astype(scores.dtype)
  shaped = unlikeliness.unlikeliness_rewards(
    rewards, scores, num_generations=GROUP, beta=beta
  )
  advantages = group_advantages(shaped, num_generations=GROUP, eps=EPS)
  informative = unlikeliness.informative_groups(rewards, num_generations=GROUP)
  advantages = jnp.where(informative, advantages, 0)
  return Batch(strategies, scores, correct, advantages)


def train(
  key: jax.Array,
  world: bandit.SharedBandit,
  *,
  beta: jax.Array | float = 0.0,
  epochs: jax.Array | int = 1,
  penalty: Penalty | None = None,
  eps_high: float = 0.2,
) -> Path:
  """`STEPS` gradient steps from the base.

  Args:
    key: of the run.
    world: the problems.
    beta: of the unlikeliness reward; 0 is GRPO.
    epochs: gradient steps on each batch; their total is the same for all.
    penalty: log-probabilities `[V]` to what is added to the loss.
    eps_high: of the clip.
  """

  def loss(logits, batch):
    log_probs = jax.nn.log_softmax(logits)
    log_ratio = log_probs[batch.strategies] - batch.scores
    found = clip_loss(log_ratio, batch.advantages, eps_high=eps_high)
    extra = 0.0 if penalty is None else penalty(log_probs)
    return jnp.mean(found.loss) + extra

  def step(state, inputs):
    (logits, old), (t, uniforms) = state, inputs
    new = draw(uniforms, world, logits, beta)
    batch = jax.tree.map(
      lambda x, y: jnp.where(t % epochs == 0, x, y), new, old
    )
    updated = logits - RATE * jax.grad(loss)(logits, batch)
    return (updated, batch), (jax.nn.log_softmax(logits), batch)

  logits = world.base_log_probs
  uniforms = jax.random.uniform(key, (STEPS, PROBLEMS, 1 + GROUP))
  # Of a batch before the first, which is never used, the shapes alone.
  batch = jax.eval_shape(draw, uniforms[0], world, logits, beta)
  batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch)
  (logits, _), (log_probs, batches) = jax.lax.scan(
    step, (logits, batch), (jnp.arange(STEPS), uniforms)
  )
  last = jax.nn.log_softmax(logits)[None]
  return Path(jnp.concatenate([log_probs, last]), batches)


def uplift(path: Path) -> evaluation.UpliftRate:
  """Over all updates, by the rank under the policy that drew the samples."""
  strategies = path.batches.strategies
  after = jnp.take_along_axis(path.log_probs[1:], strategies, -1)
  groups = (path.batches.correct, path.batches.scores, after)
  return evaluation.uplift_rate(*(x.reshape(-1, GROUP) for x in groups))


def success(
  world: bandit.SharedBandit, log_probs: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Exact pass@k `[len(KS)]` of a policy `[V]`: trained on, and held out."""
  both = jnp.stack([world.train, world.held_out])
  rates = jax.vmap(bandit.solve_rates, (None, 0))(log_probs, both)
  found = [jnp.mean(evaluation.success_at_k(rates, k=k), -1) for k in KS]
  return tuple(jnp.stack(found, -1))
