# SPDX-License-Identifier: Apache-2.0
"""What holds of the ELBO's gradient and of self-distillation, exactly.

On random tables over the 27 sequences: on the policy's own samples the ELBO's
gradient only closes the gap; self-distillation closes it wholly and leaves the
policy what it was.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.stages.double_drift import any_order
from jaxalign import diffusion
from jaxalign.exact import masked

EXACT = 1e-12  # sums of 27 terms of order 10 in float64
BETA = 0.05
SUM = {"normalize": "sequence"}


@jax.jit
def measure(tables: jax.Array, rewards: jax.Array) -> dict[str, jax.Array]:
  """Errors of the identities on tables `[N, 64, 3, 3]`."""

  def one(table, reward):
    world = any_order.world(reward)
    x, weights, rewards = jax.lax.stop_gradient(world.draws(table))
    old = jax.lax.stop_gradient(world.bounds(table, x).elbo)
    advantages = rewards - weights @ rewards

    def means(table):
      found = world.bounds(table, x)
      return jnp.stack(
        [weights @ found.elbo, weights @ (found.log_pi - found.elbo)]
      )

    def losses(table):
      elbo = world.bounds(table, x).elbo
      plain = diffusion.fpo_loss(elbo, old, advantages, **SUM)
      regularised = diffusion.with_dipod(plain, elbo, beta=BETA, **SUM)
      shifted = diffusion.fpo_loss(elbo, old, advantages + BETA, **SUM)
      return weights @ (regularised.loss - shifted.loss)

    of_elbo, of_gap = jax.jacrev(means)(table)
    before = world.bounds(table, x)
    after = world.bounds(masked.self_distill(table), x)
    law, kept = jnp.exp(before.log_pi), jnp.exp(after.log_pi)
    return {
      "gradient": of_elbo + of_gap,
      "shift": jax.grad(losses)(table),
      "gap": kept @ (after.log_pi - after.elbo),
      "total variation": jnp.sum(jnp.abs(law - kept)) / 2,
      "reward": law @ reward - kept @ reward,
    }

  return jax.vmap(one)(tables, rewards)


def identities(*, seeds: range) -> harness.Part:
  """Claims that the identities hold to rounding."""
  found = measure(*any_order.problems(seeds, 2.0))
  found = jax.tree.map(np.asarray, found)
  statements = {
    "gradient": "on the policy's samples the mean gradient of the ELBO is that"
    " of minus the gap: largest difference",
    "shift": "the regulariser's gradient is that of advantages with its weight"
    " added: largest difference",
    "gap": "self-distillation: largest gap it leaves",
    "total variation": "self-distillation: largest change of the policy, total"
    " variation",
    "reward": "self-distillation: largest change of the reward",
  }
  claims = [
    harness.all_agree(
      f"identity_{name.replace(' ', '_')}", text, [found[name]], tolerance=EXACT
    )
    for name, text in statements.items()
  ]
  return harness.Part(claims, {}, {})
