# SPDX-License-Identifier: Apache-2.0
"""What explanations of the right answer are worth, by enumeration."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.stages.self_explanation import worlds
from jaxalign.rl import self_explanation

EXACT = 1e-12  # sums of 512 terms of order 1 in float64


@jax.jit
def measure(policies: worlds.Policy) -> dict:
  """Of policies `[S]`."""

  def one(policy):
    law = worlds.laws(policy)
    prior, posterior = jnp.exp(law.rationales), jnp.exp(law.posterior)
    right = jnp.exp(law.right)
    mean = prior @ right
    variance = prior @ (right - mean) ** 2

    def logs(policy):
      found = worlds.laws(policy)
      tokens = jnp.stack([found.rationales, found.right], -1)
      explained = posterior @ -self_explanation.exp_sft_loss(tokens, 1.0)
      return jnp.stack([explained, found.success, jnp.exp(found.success)])

    slopes = jax.tree.leaves(jax.jacrev(logs)(policy))
    return {
      "success": mean,
      "explained": posterior @ right,
      "by variance": mean + variance / mean,
      "gradient": [x[0] - x[1] for x in slopes],
      "shrunk": [x[2] - mean * x[1] for x in slopes],
    }

  return jax.vmap(one)(policies)


def identities(policies: worlds.Policy) -> harness.Part:
  """Claims that the identities hold to rounding.

  Args:
    policies: `[S]`.
  """
  found = jax.tree.map(np.asarray, measure(policies))
  claims = [
    harness.all_agree(
      "start",
      "the policy's success at the start is 7.5e-4: largest difference",
      [found["success"] - worlds.SUCCESS],
      tolerance=EXACT,
    ),
    harness.all_agree(
      "explained_success",
      "given the right answer, rationales lead to it with E X + Var X / E X:"
      " largest difference",
      [found["explained"] - found["by variance"]],
      tolerance=EXACT,
    ),
    harness.all_agree(
      "explained_gradient",
      "the expected gradient of explanations is that of the log of success:"
      " largest difference",
      found["gradient"],
      tolerance=EXACT,
    ),
    harness.all_agree(
      "attenuated_gradient",
      "the policy gradient is success times that: largest difference",
      found["shrunk"],
      tolerance=EXACT,
    ),
  ]
  kinds = {"their own": found["success"], "explanations": found["explained"]}
  summary = {
    name: [fn(x) for x in kinds.values()]
    for name, fn in (("least", np.min), ("mean", np.mean), ("most", np.max))
  }
  title = "how often rationales lead to the right answer, over questions"
  tables = {title: harness.rows(rationales=np.array(list(kinds)), **summary)}
  return harness.Part(claims, {}, tables)
