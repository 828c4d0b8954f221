# SPDX-License-Identifier: Apache-2.0
"""Every published loss at the old policy: one gradient, or another."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.stages import completions
from experiments.stages.completions import EXACT, WHERE, G, T
from jaxalign.rl import advantages, algorithms

# All but those that hold tokens back by rank or at random.
NAMES = tuple(n for n in algorithms.ALGORITHMS if not n.endswith("_cov"))
# Given the same advantages and the average of GRPO, these are one at the start.
ALIKE = ("grpo", "gspo", "gspo_token", "gmpo", "cispo", "sapo", "vespo")
_GRPO = "seq_mean_token_mean"


def _config(name: str, **changes) -> algorithms.PolicyLossConfig:
  own = algorithms.ALGORITHMS[name].get("aggregation")
  if own == "constant" and not changes:
    changes = {"max_length": T}
  return algorithms.algorithm(name, **changes)


def _group(name: str, **options):
  def given(rewards):
    return advantages.group_advantages(rewards, num_generations=G, **options)

  return name, given


ADVANTAGES = dict(
  [
    _group("leave one out", baseline="loo", scale="none"),
    _group("group mean", scale="none"),
    _group("mean and deviation"),
  ]
)


# Losses that are one where advantages and averages are.
_CONFIGS = {n: _config(n) for n in NAMES}
_ALIKE = {n: _config(n, aggregation=_GRPO) for n in ALIKE}


@jax.jit
def gradients(logits: jax.Array, rewards: jax.Array):
  """By loss, with each advantage, `[A, 4, 3]`; and the gradient of J."""
  old = completions.token_log_probs(logits)

  def of(config, kind):
    def loss(logp, group):
      given = jnp.stack([f(rewards[group]) for f in ADVANTAGES.values()])
      batch = algorithms.PolicyBatch(
        logp, old[group], given[kind], WHERE[group]
      )
      return -algorithms.policy_loss(config, batch).loss

    return completions.expected_gradient(loss, logits)

  # A program for each loss that differs: ppo and bnpo do not.
  configs = dict.fromkeys((*_CONFIGS.values(), *_ALIKE.values()))
  kinds = jnp.arange(len(ADVANTAGES))
  found = [jax.vmap(lambda k, c=c: of(c, k))(kinds) for c in configs]
  return (
    jnp.stack(found),
    jax.grad(completions.value)(logits, rewards),
  )


def losses(worlds: completions.Worlds) -> harness.Part:
  """Claims on losses as published, and the table of all."""
  found, exact = (
    np.asarray(x) for x in jax.vmap(gradients)(worlds.logits, worlds.rewards)
  )
  kinds = list(ADVANTAGES)
  configs = list(dict.fromkeys((*_CONFIGS.values(), *_ALIKE.values())))
  own = found[:, [configs.index(c) for c in _CONFIGS.values()]]
  alike = found[:, [configs.index(c) for c in _ALIKE.values()]]

  def at(name, kind):
    return own[:, NAMES.index(name), kinds.index(kind)]

  share = (G - 1) / G
  claims = [
    harness.all_agree(
      "one_gradient",
      "grpo, gspo, gspo_token, gmpo, cispo, sapo and vespo with one average, at"
      " the old policy: expected gradient less that of grpo, largest entry",
      alike - alike[:, :1],
      tolerance=EXACT,
    ),
    harness.all_agree(
      "rloo",
      "rloo (clipped ratio of sequences, leave one out): expected gradient less"
      " grad J, largest entry",
      at("rloo", "leave one out") - exact,
      tolerance=EXACT,
    ),
    harness.all_agree(
      "luspo",
      "luspo with the group mean: expected gradient less (G-1)/G grad J,"
      " largest entry",
      at("luspo", "group mean") - share * exact,
      tolerance=EXACT,
    ),
    harness.all_agree(
      "dr_grpo",
      "dr_grpo: expected gradient less (G-1)/(G T_max) grad J, largest entry",
      at("dr_grpo", "group mean") - share / T * exact,
      tolerance=EXACT,
    ),
  ]
  cosines, ratios = completions.compare(own, exact)
  table = [
    {
      "loss": name,
      **{
        kind: f"{cosines[:, j, i].mean():.4f} x{ratios[:, j, i].mean():.3f}"
        for i, kind in enumerate(kinds)
      },
    }
    for j, name in enumerate(NAMES)
  ]
  title = "losses at the old policy: mean cosine with grad J, ratio of norms"
  return harness.Part(claims, {}, {title: table})
