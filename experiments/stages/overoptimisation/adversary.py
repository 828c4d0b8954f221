# SPDX-License-Identifier: Apache-2.0
"""The likelihood term is what an adversary who picks the reward leaves.

`F(pi, R) = eta (E_pi R - mean R(chosen) - beta KL(pi||ref)) + L(R)`, L the
Bradley-Terry loss of the pairs under R. The best policy against R gives the RPO
loss of the policy whose implicit reward is R.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.stages.overoptimisation import descent, random_worlds
from jaxalign import divergences, preference

BETA, ETA = random_worlds.BETA, random_worlds.MAIN


def objective(log_pi, rewards, pairs):
  """F of a log-policy `[K]` and rewards `[K]`; the reference is uniform."""
  log_ref = jnp.full_like(log_pi, -jnp.log(log_pi.size))
  kl = divergences.kl(log_pi, log_ref)
  chosen, rejected = rewards[pairs].T
  gain = jnp.exp(log_pi) @ rewards - jnp.mean(chosen) - BETA * kl
  return ETA * gain - jnp.mean(jax.nn.log_sigmoid(chosen - rejected))


@jax.jit
def gaps(features, pairs, theta):
  """Of a world: what the identity leaves, and the adversary's slope `[d]`.

  Args:
    features: `[K, d]`.
    pairs: int `[M, 2]`.
    theta: `[d]`, where the identity is looked at.
  """
  size = len(features)
  ref = jnp.full(size, -jnp.log(size))
  loss = functools.partial(preference.rpo_loss, beta=BETA, eta=ETA)

  def rpo(theta):
    # RPO leaves out what the reference's likelihood adds.
    value = descent.mean_loss(loss, theta, features, pairs)
    return value - ETA * BETA * jnp.log(size)

  def value(log_pi, theta):
    return objective(log_pi, BETA * features @ theta, pairs)

  kl = divergences.f_divergence("kl")
  best = divergences.regularized_maximizer(
    kl, BETA * features @ theta, ref, BETA
  )
  optimum = preference.minimize_population(
    rpo, jnp.zeros(features.shape[-1]), num_steps=50
  ).x
  log_pi = descent.log_policy(optimum, features)
  return value(best, theta) - rpo(theta), jax.grad(value, 1)(log_pi, optimum)


def adversary(*, seeds: range) -> harness.Part:
  """Claims on the identity and the saddle.

  Args:
    seeds: of the worlds of `random_worlds`.
  """
  features, _, pairs = random_worlds.worlds(seeds)
  theta = np.stack(
    [
      np.random.default_rng([seed, 1]).normal(size=features.shape[-1])
      for seed in seeds
    ]
  )
  identity, slope = map(np.asarray, jax.vmap(gaps)(features, pairs, theta))
  claims = [
    harness.all_agree(
      "adversary",
      "random policies: RPO's loss less the best value against their implicit"
      " reward, of reward over the chosen, KL and the loss of the pairs",
      identity,
      tolerance=1e-12,
    ),
    harness.all_agree(
      "saddle",
      "RPO's optimum: slope of its policy's value in the reward, which is"
      " convex in it: at 0 no reward is worse for the policy",
      slope,
      tolerance=1e-9,
    ),
  ]
  return harness.Part(claims, {}, {})
