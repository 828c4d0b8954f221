# SPDX-License-Identifier: Apache-2.0
"""Policy gradients of a diffusion policy, every surrogate in one program.

Each update: episodes of the current policy, advantages against a small critic,
then some passes of Adam over them in minibatches. The draws (t, eps) of the
bounds are stored beside the actions, so that old and new losses share them.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from experiments.stages.diffusion_control import policies, rollouts
from experiments.stages.diffusion_control.environments import Environment
from jaxalign import diffusion

SURROGATES = ("fpo", "fpo++", "rwr", "awr", "ddpo", "dppo")
OF_STEPS = SURROGATES.index("ddpo")  # from here on, of the chain's steps
DRAWS = 4
CLIP = 0.05
# DDPO's own 1e-4 is for a mean over the many dimensions of an image, and hardly
# lets two move.
DDPO_CLIP = 0.01
DPPO_CLIP = diffusion.dppo_clip_range(policies.STEPS, least=0.01, most=0.1)
RATE, GRADIENT_NORM = 3e-3, 1.0


@dataclasses.dataclass(frozen=True)
class Setting:
  """How long and how much; equal for all arms.

  Attributes:
    updates: of the policy.
    episodes: of each update.
    passes: over the episodes of an update.
    minibatches: of a pass.
    width: of the networks.
  """

  updates: int
  episodes: int
  passes: int = 4
  minibatches: int = 8
  width: int = 32


class Arm(NamedTuple):
  """What learns.

  Attributes:
    surrogate: index of `SURROGATES`.
    distilled: bool, one stage of self-distillation before the first update.
    beta: weight of DiPOD's regulariser.
  """

  surrogate: int
  distilled: bool = False
  beta: float = 0.0


class Critic(nn.Module):
  """The expected return from an observation on."""

  width: int

  @nn.compact
  def __call__(self, seen: jax.Array) -> jax.Array:
    """Values `[...]` of `[..., N + 1]`."""
    h = seen
    for _ in range(2):
      h = nn.tanh(nn.Dense(self.width)(h))
    return nn.Dense(1)(h)[..., 0]


class Batch(NamedTuple):
  """Steps of episodes, B of them, and what the old policy said of them.

  Attributes:
    seen: `[B, N + 1]`.
    path: `[B, STEPS + 1, M]`.
    times: `[B, DRAWS]`.
    noise: `[B, DRAWS, M]`.
    bounds: `[B, DRAWS]`, of the old policy.
    log_probs: `[B, STEPS]`, of the old policy; 0 where the flow acts.
    advantages: `[B]`, standardised.
    returns: `[B]`, discounted, standardised.
    targets: `[B]`, of the critic.
  """

  seen: jax.Array
  path: jax.Array
  times: jax.Array
  noise: jax.Array
  bounds: jax.Array
  log_probs: jax.Array
  advantages: jax.Array
  returns: jax.Array
  targets: jax.Array


def _bounds(velocity: policies.Velocity, batch: Batch) -> jax.Array:
  action = batch.path[..., -1, :]
  return -policies.matching_loss(
    velocity, action, batch.seen, batch.times, batch.noise
  )


def _steps(velocity: policies.Velocity, batch: Batch) -> jax.Array:
  return policies.step_log_probs(velocity, batch.path, batch.seen)


def surrogate(
  index, velocity: policies.Velocity, batch: Batch, beta
) -> diffusion.Surrogate:
  """The surrogate of an index of `SURROGATES`, plus DiPOD's regulariser.

  Args:
    index: may be traced.
    velocity: of the current policy.
    batch: with what the old policy said.
    beta: weight of the regulariser, for surrogates of bounds.
  """
  return jax.lax.cond(
    index < OF_STEPS,
    lambda: _of_bounds(index, _bounds(velocity, batch), batch, beta),
    lambda: _of_steps(index - OF_STEPS, _steps(velocity, batch), batch),
  )


def _of_bounds(index, draws, batch: Batch, beta) -> diffusion.Surrogate:
  size = batch.path.shape[-1]
  # Released code: means over dimensions; FPO++ the sum over their root.
  mean, root = ({"normalize": "token", "length": x} for x in (size, size**0.5))
  elbo, old = jnp.mean(draws, -1), jnp.mean(batch.bounds, -1)
  branches = {
    "fpo": lambda: diffusion.fpo_loss(
      elbo, old, batch.advantages, clip=CLIP, **mean
    ),
    "fpo++": lambda: diffusion.fpo_plus_plus_loss(
      draws, batch.bounds, batch.advantages, clip=CLIP, **root
    ),
    "rwr": lambda: diffusion.rwr_loss(elbo, batch.returns, **mean),
    "awr": lambda: diffusion.awr_loss(elbo, batch.advantages, **mean),
  }
  found = jax.lax.switch(index, [branches[x] for x in SURROGATES[:OF_STEPS]])
  return diffusion.with_dipod(found, elbo, beta=beta, **mean)


def _of_steps(index, log_probs, batch: Batch) -> diffusion.Surrogate:
  scores = log_probs, batch.log_probs, batch.advantages
  branches = {
    "ddpo": lambda: diffusion.ddpo_loss(
      *scores, normalize="sequence", clip=DDPO_CLIP
    ),
    "dppo": lambda: diffusion.dppo_loss(
      *scores, normalize="sequence", clip=DPPO_CLIP
    ),
  }
  return jax.lax.switch(index, [branches[x] for x in SURROGATES[OF_STEPS:]])


def _standardised(x: jax.Array) -> jax.Array:
  return (x - jnp.mean(x)) / (jnp.std(x) + 1e-8)


class Learner(NamedTuple):
  """What an update changes.

  Attributes:
    params: of "actor" and "critic".
    moments: the optimiser's.
    scale: what rewards are divided by for the critic.
  """

  params: dict[str, Any]
  moments: Any
  scale: jax.Array


class Trainer(NamedTuple):
  """What an update needs besides."""

  env: Environment
  setting: Setting

  @property
  def actor(self) -> policies.VelocityNetwork:
    """The velocity's network."""
    return policies.VelocityNetwork(self.env.action_size, self.setting.width)

  @property
  def critic(self) -> Critic:
    """The critic's network."""
    return Critic(self.setting.width)

  @property
  def optimiser(self) -> optax.GradientTransformation:
    """Adam with its own clip for each network."""

    def one():
      return optax.chain(
        optax.clip_by_global_norm(GRADIENT_NORM), optax.adam(RATE)
      )

    names = {"actor": "actor", "critic": "critic"}
    return optax.partition({name: one() for name in names}, names)

  def velocity(self, params: dict[str, Any]) -> policies.Velocity:
    """The policy's velocity."""
    return policies.bind(self.actor, params["actor"])

  def init(self, key: jax.Array) -> dict[str, Any]:
    """Random parameters."""
    key_actor, key_critic = jax.random.split(key)
    seen = jnp.zeros(self.env.observation_size + 1)
    action = jnp.zeros(self.env.action_size)
    return {
      "actor": self.actor.init(key_actor, action, jnp.zeros(()), seen),
      "critic": self.critic.init(key_critic, seen),
    }

  def prepare(
    self, learner: Learner, episodes: rollouts.Episodes, key, chain
  ) -> Batch:
    """Steps of episodes with draws, old scores and advantages."""
    rewards = episodes.rewards / learner.scale
    values = self.critic.apply(learner.params["critic"], episodes.seen)
    gained = rollouts.advantages(rewards, values)
    returns = rollouts.discounted_returns(rewards)
    key_t, key_eps = jax.random.split(key)
    shape = (rewards.size, DRAWS)
    batch = Batch(
      seen=episodes.seen.reshape(rewards.size, -1),
      path=episodes.paths.reshape(rewards.size, *episodes.paths.shape[2:]),
      times=policies.draw_times(key_t, shape),
      noise=jax.random.normal(key_eps, (*shape, self.env.action_size)),
      bounds=jnp.zeros(shape),
      log_probs=jnp.zeros((rewards.size, policies.STEPS)),
      advantages=_standardised(gained).ravel(),
      returns=_standardised(returns).ravel(),
      targets=(gained + values).ravel(),
    )
    velocity = self.velocity(learner.params)
    return jax.lax.cond(
      chain,
      lambda: batch._replace(log_probs=_steps(velocity, batch)),
      lambda: batch._replace(bounds=_bounds(velocity, batch)),
    )

  def improve(
    self, arm: Arm, learner: Learner, batch: Batch, key: jax.Array
  ) -> tuple[Learner, jax.Array]:
    """Passes over a batch; also the mean share of clipped ratios."""
    passes, parts = self.setting.passes, self.setting.minibatches
    optimiser = self.optimiser

    def loss(params, part):
      found = surrogate(arm.surrogate, self.velocity(params), part, arm.beta)
      error = self.critic.apply(params["critic"], part.seen) - part.targets
      total = diffusion.batch_loss(found) + jnp.mean(error**2)
      return total, jnp.mean(found.clipped)

    def step(state, pick):
      params, moments = state
      part = jax.tree.map(lambda x: x[pick], batch)
      slope, clipped = jax.grad(loss, has_aux=True)(params, part)
      change, moments = optimiser.update(slope, moments, params)
      return (optax.apply_updates(params, change), moments), clipped

    size = batch.advantages.size
    order = jax.vmap(lambda k: jax.random.permutation(k, size))(
      jax.random.split(key, passes)
    )
    picks = order[:, : size // parts * parts].reshape(passes * parts, -1)
    (params, moments), clipped = jax.lax.scan(
      step, (learner.params, learner.moments), picks
    )
    return learner._replace(params=params, moments=moments), clipped.mean()


class Curve(NamedTuple):
  """What was seen in the episodes of each update, `[updates]`.

  Attributes:
    returns: mean return of the policy before the update.
    regret: its mean regret.
    clipped: share of ratios without gradient, mean over the update.
  """

  returns: jax.Array
  regret: jax.Array
  clipped: jax.Array


def train(
  trainer: Trainer, arm: Arm, params: dict[str, Any], key: jax.Array
) -> tuple[dict[str, Any], Curve]:
  """All updates of an arm from given parameters."""
  chain = arm.surrogate >= OF_STEPS
  env, setting = trainer.env, trainer.setting

  def act(params, key):
    return rollouts.rollout(
      env,
      trainer.velocity(params),
      key,
      episodes=setting.episodes,
      chain=chain,
    )

  def update(learner, index):
    keys = jax.random.split(jax.random.fold_in(key, index), 3)
    episodes = act(learner.params, keys[0])
    found = rollouts.score(env, episodes)
    # Rewards in units of the spread of the first returns.
    spread = jnp.std(rollouts.discounted_returns(episodes.rewards))
    scale = jnp.where(index == 0, spread, learner.scale)
    learner = learner._replace(scale=scale)
    batch = trainer.prepare(learner, episodes, keys[1], chain)
    learner, clipped = trainer.improve(arm, learner, batch, keys[2])
    return learner, Curve(*found, clipped)

  start = Learner(params, trainer.optimiser.init(params), jnp.ones(()))
  learner, curve = jax.lax.scan(update, start, jnp.arange(setting.updates))
  return learner.params, curve
