# SPDX-License-Identifier: Apache-2.0
"""Self-distillation of a flow policy, and the gap that it closes.

The policy's own actions become data: trained on them by flow matching, the
velocity turns towards `u*(z, t) = E[eps - x | x_t = z]` of the very law that it
samples. For a policy that follows an ordinary differential equation the gap is
`E ||u - u*||^2`, the excess of the flow matching loss over the least one; its
ELBO bounds the law of another sampler.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from experiments.stages.diffusion_control import policies, rollouts
from experiments.stages.diffusion_control.environments import Environment

BATCH, DRAWS, RATE, DECAY = 512, 4, 1e-3, 1e-4
PLACES, NEIGHBOURS, QUERIES = 32, 256, 8


def self_distil(
  env: Environment,
  network: nn.Module,
  params: Any,
  key: jax.Array,
  *,
  episodes: int,
  steps: int,
) -> Any:
  """Trains a copy of a policy on the policy's own actions.

  Args:
    env: where the teacher acts.
    network: of the velocity.
    params: the teacher's; the student starts from them.
    key: consumed.
    episodes: of the teacher.
    steps: of AdamW.
  """
  key_act, key_train = jax.random.split(key)
  found = rollouts.rollout(
    env,
    policies.bind(network, params),
    key_act,
    episodes=episodes,
    chain=False,
  )
  seen = found.seen.reshape(-1, found.seen.shape[-1])
  actions = found.actions.reshape(-1, env.action_size)
  adam = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(optax.cosine_decay_schedule(RATE, steps), weight_decay=DECAY),
  )

  def loss(params, key):
    key_pick, key_t, key_eps = jax.random.split(key, 3)
    pick = jax.random.randint(key_pick, (BATCH,), 0, len(seen))
    t = policies.draw_times(key_t, (BATCH, DRAWS))
    eps = jax.random.normal(key_eps, (BATCH, DRAWS, env.action_size))
    velocity = policies.bind(network, params)
    return jnp.mean(
      policies.matching_loss(velocity, actions[pick], seen[pick], t, eps)
    )

  def step(state, index):
    params, moments = state
    slope = jax.grad(loss)(params, jax.random.fold_in(key_train, index))
    change, moments = adam.update(slope, moments, params)
    return (optax.apply_updates(params, change), moments), None

  start = params, adam.init(params)
  return jax.lax.scan(step, start, jnp.arange(steps))[0][0]


class Gap(NamedTuple):
  """How far a policy's velocity is from that of its own actions.

  Attributes:
    excess: `E ||u - u*||^2`, the excess of the flow matching loss.
    spread: standard deviation of an action's entries at one observation.
  """

  excess: jax.Array
  spread: jax.Array


def conditional_velocity(
  actions: jax.Array, z: jax.Array, t: jax.Array
) -> jax.Array:
  """`E[eps - x | x_t = z]` where x is one of the actions, each as likely.

  `eps - x = (z - x) / t`, averaged with the weights `N(z; (1 - t) x, t^2)`.

  Args:
    actions: `[n, M]`.
    z: `[..., M]`.
    t: `[...]`, above 0.

  Returns:
    `[..., M]`.
  """
  t = t[..., None]
  distance = z[..., None, :] - (1 - t)[..., None] * actions
  weight = jax.nn.softmax(-jnp.sum(distance**2, -1) / (2 * t**2), -1)
  return (z - weight @ actions) / t


def excess_loss(
  velocity: policies.Velocity,
  key: jax.Array,
  seen: jax.Array,
  *,
  size: int,
  chain,
) -> Gap:
  """The gap of a policy; means over observations and the sampler's times.

  u* is that of actions drawn anew for each observation. Two halves of them
  give two estimates with independent errors: the product of the differences
  from u has none of the estimates' variance in its mean, and may be below 0.
  Their bias, of the order of one over the number of actions, stays.

  Args:
    velocity: of the policy.
    key: consumed.
    seen: `[PLACES, N + 1]`, observations.
    size: M.
    chain: bool, whether the chain and not the flow acts.
  """
  key_act, key_eps = jax.random.split(key)
  shape = (NEIGHBOURS + QUERIES, *seen.shape)
  noise = jax.random.normal(
    key_act, (policies.STEPS + 1, *shape[:-1], size), seen.dtype
  )
  actions = policies.sample(
    velocity, noise, jnp.broadcast_to(seen, shape), chain
  )[-1]
  actions = jnp.swapaxes(actions, 0, 1)  # [PLACES, NEIGHBOURS + QUERIES, M]
  x = actions[:, None, NEIGHBOURS:]
  t = jnp.asarray(policies.TIMES)[:, None]
  shape = (len(seen), policies.STEPS, QUERIES)
  eps = jax.random.normal(key_eps, (*shape, size))
  z = (1 - t)[..., None] * x + t[..., None] * eps
  t = jnp.broadcast_to(t, shape)
  beside = jnp.broadcast_to(seen[:, None, None], (*shape, seen.shape[-1]))
  u = velocity(z, t, beside)
  half = NEIGHBOURS // 2
  first, second = (
    u - jax.vmap(conditional_velocity)(y, z, t)
    for y in (actions[:, :half], actions[:, half:NEIGHBOURS])
  )
  return Gap(
    jnp.mean(jnp.sum(first * second, -1)),
    jnp.sqrt(jnp.mean(jnp.var(actions, 1))),
  )
