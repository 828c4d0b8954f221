# SPDX-License-Identifier: Apache-2.0
"""The pairwise losses end on the frontier: they cannot be lower than there.

The expectation of `-log sigmoid` over labels that an outcome wins with
probability p is at least the labels' entropy, and equal to it only where the
sigmoid is p. A policy that attains this bound for all pairs is the minimiser.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.stages.reward_divergence_frontier import frontier
from jaxalign import numerics, preference

BETA, ALPHA = 0.5, 0.8  # ALPHA is the entropy's weight in H-DPO


def optima(rewards, log_refs) -> np.ndarray:
  """The maximisers `[losses, S, n]` of the regularised rewards."""
  log_weights = np.full((len(rewards), len(frontier.SHARES)), np.log(BETA))
  found = [
    # The program that the frontier has compiled, at one weight.
    frontier.optimum(div, rewards, log_refs, log_weights)[0][0][:, 0]
    for div in frontier.DIVERGENCES.values()
  ]
  hdpo = jax.nn.log_softmax((log_refs + rewards / BETA) / ALPHA)
  return np.stack([*found, hdpo])


@jax.jit
def excess_losses(log_policies, rewards, log_ref, sampling):
  """Expected losses of policies, less the labels' entropy `[losses]`."""
  weights = preference.pair_weights(rewards, sampling)
  drawn = weights > 0
  win = weights / jnp.where(drawn, weights + weights.T, 1)
  log_win = jnp.log(jnp.where(drawn, win, 1))
  entropy = -numerics.masked_sum(weights * log_win, drawn)
  losses = [
    functools.partial(preference.f_dpo_loss, div=div, beta=BETA)
    for div in frontier.DIVERGENCES.values()
  ]
  losses.append(functools.partial(preference.hdpo_loss, alpha=ALPHA, beta=BETA))
  values = [
    preference.population_loss(loss, log_pi, log_ref, weights)
    for loss, log_pi in zip(losses, log_policies, strict=True)
  ]
  return jnp.stack(values) - entropy


def minimisers(*, seeds: range) -> harness.Part:
  """Claims on the policy that each loss learns from infinitely many pairs.

  Args:
    seeds: of the worlds, and of how their outcomes are sampled.
  """
  rewards, log_refs = frontier.worlds(seeds)
  sampling = np.stack(
    [
      np.random.default_rng([seed, 1]).dirichlet(np.ones(frontier.OUTCOMES))
      for seed in seeds
    ]
  )
  found = jax.vmap(excess_losses, (1, 0, 0, 0))(
    optima(rewards, log_refs), rewards, log_refs, sampling
  )
  excess = np.abs(np.asarray(found)).max(0)
  names = [*(f"f-DPO, {name}" for name in frontier.DIVERGENCES), "H-DPO"]
  claim = harness.all_agree(
    "minimisers",
    "f-DPO of each divergence, and H-DPO: expected loss of the maximiser of the"
    " regularised reward, less the labels' entropy, which no policy is below",
    excess,
    tolerance=1e-12,
  )
  table = harness.rows(loss=names, largest_excess=excess)
  return harness.Part([claim], {}, {"pairwise losses at the optima": table})
