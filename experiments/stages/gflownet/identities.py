# SPDX-License-Identifier: Apache-2.0
"""What holds of the losses exactly, on sequences of any length up to two.

Three tokens, of which one ends the sequence: seven sequences, random rewards,
random policies, every expectation a sum.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from jaxalign.exact import sequences
from jaxalign.rl import gflownet

V, T = 3, 2
EXACT = 1e-12  # sums of nine terms of order 10 in float64
FAR = 1e9  # what stands for an infinite lam
NEAR = 1e-7  # errors of order 1 / FAR, times losses of order 10
GROUP = 2


def exact_flows(rewards: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Table and log-flows `[4]` of `R / Z`; rewards `[9]` of full rows.

  Rows of one sequence that has ended are one sequence, and have one reward.
  """
  leaves = rewards.reshape(V, V)
  inner = jnp.append(leaves[0, :1], jnp.sum(leaves[1:], 1))
  table = jnp.log(jnp.concatenate([inner[None], leaves]))
  return table, jnp.log(jnp.append(jnp.sum(inner), inner))


@jax.jit
def measure(rewards: jax.Array, tables: jax.Array, log_z: jax.Array) -> dict:
  """Errors of the identities, for rewards `[S, 9]`, tables `[S, 4, 3]`."""
  tokens = sequences.enumerate_sequences(V, T)
  where = sequences.until_eos(tokens)
  rows = sequences.prefix_index(tokens, V)
  groups = sequences.enumerate_sequences(len(tokens), GROUP)

  def arguments(table, flows, log_rewards):
    return flows[rows], sequences.token_log_probs(table, tokens), log_rewards

  def tb(flows, *args):
    return gflownet.tb_loss(flows[..., 0], *args, where=where)

  def expected(table, log_rewards, log_z):
    """TB, VarGrad in groups, and KL(pi||R/Z) but for a constant."""
    flows = jnp.full(len(table), log_z)
    _, log_pf, _ = args = arguments(table, flows, log_rewards)
    log_pi = jnp.sum(jnp.where(where, log_pf, 0), -1)
    law = jax.lax.stop_gradient(table)
    probs = jnp.exp(sequences.sequence_log_probs(law, tokens))
    vargrad = gflownet.vargrad_loss(
      log_pf[groups], log_rewards[groups], where=where[groups]
    )
    return jnp.stack(
      [
        probs @ tb(*args),
        jnp.prod(probs[groups], -1) @ jnp.mean(vargrad, -1),
        sequences.expectation(table, log_pi - log_rewards),
      ]
    )

  def one(rewards, table, log_z):
    log_rewards = jnp.log(rewards)
    best, flows = exact_flows(rewards)
    exact = arguments(best, flows, log_rewards)
    # Of one policy and the flows of another.
    args = arguments(table, flows, log_rewards)
    slopes = jax.jacrev(expected)(table, log_rewards, log_z)
    share = (GROUP - 1) / GROUP
    return {
      "flows": jnp.stack(
        [
          tb(*exact),
          gflownet.db_loss(*exact, where=where),
          gflownet.subtb_loss(*exact, where=where),
          gflownet.vargrad_loss(*exact[1:], where=where),
        ]
      ),
      "small": gflownet.subtb_loss(*args, lam=1 / FAR, where=where)
      - gflownet.db_loss(*args, where=where),
      "large": gflownet.subtb_loss(*args, lam=FAR, where=where) - tb(*args),
      "tb": slopes[0] - 2 * slopes[2],
      "vargrad": slopes[1] - 2 * share * slopes[2],
    }

  return jax.vmap(one)(rewards, tables, log_z)


def problems(seeds: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Rewards `[S, 9]`, tables `[S, 4, 3]`, wrong normalisers `[S]`."""
  found = []
  for seed in seeds:
    rng = np.random.default_rng(seed)
    rewards = rng.exponential(size=V**T)
    rewards[:V] = rewards[0]  # the sequence that has ended at once
    found.append((rewards, rng.standard_normal((4, V)), rng.standard_normal()))
  return tuple(map(np.array, zip(*found, strict=True)))


STATEMENTS = {
  "flows": (
    EXACT,
    "at the exact flows, TB, DB, SubTB and VarGrad: largest loss of a sequence",
  ),
  "small": (
    NEAR,
    "SubTB for lam to 0 is the mean DB of a sequence: largest difference",
  ),
  "large": (NEAR, "SubTB for lam to infinity is TB: largest difference"),
  "tb": (
    EXACT,
    "on policy, any Z: the gradient of TB is twice that of KL(pi||R/Z), the"
    " entropy-regularised reward: largest difference",
  ),
  "vargrad": (
    EXACT,
    "on policy, groups of G: the gradient of VarGrad is 2 (G-1)/G times that of"
    " KL(pi||R/Z): largest difference",
  ),
}


def identities(*, seeds: range) -> harness.Part:
  """Claims that the identities hold to rounding."""
  found = jax.tree.map(np.asarray, measure(*problems(seeds)))
  claims = [
    harness.all_agree(f"identity_{name}", text, [found[name]], tolerance=exact)
    for name, (exact, text) in STATEMENTS.items()
  ]
  return harness.Part(claims, {}, {})
