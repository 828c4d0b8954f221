# SPDX-License-Identifier: Apache-2.0
"""One iteration written in three ways: the paths side by side."""

import math

import jax
import jax.numpy as jnp

from experiments import harness
from experiments.stages.mirror_descent import worlds
from jaxalign.exact import mdp as tables
from jaxalign.rl import mirror_descent

KL_WEIGHT, ENTROPY_WEIGHT, STEPS = 0.35, 0.15, 60


def _munchausen(mdp: tables.TabularMDP) -> jax.Array:
  """`Q - alpha tau log pi` less the explicit values, largest of all steps."""
  tau = KL_WEIGHT + ENTROPY_WEIGHT
  uniform = jnp.full_like(mdp.rewards, -math.log(worlds.ACTIONS))

  def iterate(states, _):
    values, explicit = states
    log_pi = jax.nn.log_softmax(values / tau)
    values = mirror_descent.munchausen_step(
      mdp, values, tau=tau, alpha=KL_WEIGHT / tau, floor=None
    )
    explicit = mirror_descent.mirror_descent_step(
      mdp, explicit, kl_weight=KL_WEIGHT, entropy_weight=ENTROPY_WEIGHT
    )
    hidden = values - KL_WEIGHT * log_pi
    return (values, explicit), jnp.max(jnp.abs(hidden - explicit.values))

  start = mirror_descent.RegularizedState(-KL_WEIGHT * uniform, uniform)
  states = jnp.zeros_like(mdp.rewards), start
  return jnp.max(jax.lax.scan(iterate, states, None, length=STEPS)[1])


def _mdvi(mdp: tables.TabularMDP) -> jax.Array:
  """The softmax of the scores less the explicit policy, likewise."""
  tau = KL_WEIGHT + ENTROPY_WEIGHT
  start = mirror_descent.mdvi_init(mdp, beta=1 / tau)

  def iterate(states, _):
    state, explicit = states
    state = mirror_descent.mdvi_step(
      None, mdp, state, num_samples=None, alpha=KL_WEIGHT / tau, beta=1 / tau
    )
    explicit = mirror_descent.mirror_descent_step(
      mdp, explicit, kl_weight=KL_WEIGHT, entropy_weight=ENTROPY_WEIGHT
    )
    gap = jax.nn.softmax(state.scores / tau) - jnp.exp(explicit.log_policy)
    return (state, explicit), jnp.max(jnp.abs(gap))

  values = tables.action_values(mdp, start.values)
  uniform = jnp.full_like(values, -math.log(worlds.ACTIONS))
  states = start, mirror_descent.RegularizedState(values, uniform)
  return jnp.max(jax.lax.scan(iterate, states, None, length=STEPS)[1])


def explicit(*, seeds: range) -> harness.Part:
  """Claims that the disguises are disguises.

  Args:
    seeds: of random processes.
  """
  mdps = worlds.draw_several(seeds)
  both = jax.jit(jax.vmap(lambda mdp: (_munchausen(mdp), _mdvi(mdp))))
  munchausen, mdvi = both(mdps)
  claims = [
    harness.all_agree(
      "munchausen_explicit",
      "Munchausen values less alpha tau log pi follow the explicit KL and"
      " entropy iteration for 60 iterations: largest difference",
      [munchausen],
      # Values of size 10: some 20 roundings of 2e-15.
      tolerance=4e-14,
    ),
    harness.all_agree(
      "mdvi_explicit",
      "MDVI with a soft maximum follows it as well: largest difference of"
      " policies",
      [mdvi],
      # Scores of size 30, over tau.
      tolerance=1e-13,
    ),
  ]
  return harness.Part(claims, {}, {})
