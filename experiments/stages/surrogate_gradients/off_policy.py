# SPDX-License-Identifier: Apache-2.0
"""Samples of another policy: which weights make the gradient right again."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.stages import completions
from experiments.stages.completions import EXACT, WHERE
from jaxalign.rl import corrections

MISMATCH = 0.3  # of the sampler's logits
CAPS = (1.1, 1.5, 2.0, 3.0, math.inf)
LEVELS = ("token", "sequence")
KINDS = {
  "truncate": corrections.truncated_is_weights,
  "mask": corrections.masked_is_weights,
}
CASES = [(k, level, cap) for k in KINDS for level in LEVELS for cap in CAPS]


@jax.jit
def gradients(logits, other, rewards):
  """By case `[K, 4, 3]`, without any weight, and the gradient of J."""
  sampler = logits + MISMATCH * other
  old, drawn = (completions.token_log_probs(x) for x in (logits, sampler))

  def weights(kind, level, cap):
    return KINDS[kind](old, drawn, where=WHERE, level=level, max_weight=cap)

  all_weights = jnp.stack(
    [jnp.ones(WHERE.shape), *(weights(*case) for case in CASES)]
  )

  def gradient(weights):
    return completions.expected_gradient(
      lambda logp, group: rewards[group[0]] * jnp.sum(weights[group] * logp),
      logits,
      num_generations=1,
      sampler=sampler,
    )

  found = jax.vmap(gradient)(all_weights)
  return found, jax.grad(completions.value)(logits, rewards)


def off_policy(worlds: completions.Worlds) -> harness.Part:
  """Claims on importance weights, and the table of truncations."""
  found, exact = (
    np.asarray(x)
    for x in jax.vmap(gradients)(
      worlds.logits, worlds.ref_logits, worlds.rewards
    )
  )
  errors = np.linalg.norm(found - exact[:, None], axis=(-2, -1))
  errors /= np.linalg.norm(exact, axis=(-2, -1))[:, None]
  at = {case: errors[:, 1 + i] for i, case in enumerate(CASES)}
  claims = [
    harness.all_agree(
      "sequence_weights",
      "weights of sequences, not truncated: relative error of the expected"
      " gradient, largest over worlds",
      [at[kind, "sequence", math.inf] for kind in KINDS],
      tolerance=EXACT,
    ),
    harness.Claim(
      name="token_weights",
      statement="weights of tokens, not truncated: relative error of the"
      " expected gradient, smallest over worlds",
      theory=0,
      measured=at["truncate", "token", math.inf].min(),
      tolerance=-1e-3,
      relation=">=",
    ),
  ]
  table = harness.rows(
    correction=["none"] + [k for k, _, _ in CASES],
    level=["-"] + [level for _, level, _ in CASES],
    largest_weight=[math.inf] + [cap for _, _, cap in CASES],
    relative_error=errors.mean(0),
  )
  title = "samples of another policy: mean relative error of the gradient"
  return harness.Part(claims, {}, {title: table})
