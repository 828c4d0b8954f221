# SPDX-License-Identifier: Apache-2.0
"""Two rewards combined: a sum of log-sigmoids against the plain sum.

Measures both mean rewards under the best policy for either score at equal KLs,
and the distance of the maximiser of log-sigmoids less KL from the base given
that all is good, which the theory says is 0.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness, plotting
from experiments.stages.best_of_n import bases, bounds
from experiments.stages.best_of_n.bounds import EXACT
from jaxalign.divergences import generators, regularized
from jaxalign.inference import reward_transforms

BOTH_P = (0.2, 0.2, 0.6)
BOTH_R = ((10.0, 2.0, 0.0), (-5.0, 2.0, 0.0))  # of two properties, reference 0
GAMMAS = (0.5, 1.0, 2.0)
RANDOM_BASES = 100


@jax.jit
def closed_form_errors(logits: jax.Array, rewards: jax.Array) -> jax.Array:
  """Conjunction against the maximiser of log-sigmoids less KL, `[G, B]`.

  Args:
    logits: of bases, `[B, V]`.
    rewards: of two properties, `[B, 2, V]`.
  """
  r_ref = jnp.mean(rewards, -1)
  utility = reward_transforms.lsc_combine(
    rewards, jnp.broadcast_to(r_ref[..., None], rewards.shape), axis=1
  )
  div = generators.f_divergence("kl")

  def error(gamma):
    closed = reward_transforms.conjunction_log_policy(
      logits, rewards, r_ref, gamma=gamma
    )
    found = regularized.regularized_maximizer(div, utility, logits, gamma)
    return jnp.max(jnp.abs(jnp.exp(closed) - jnp.exp(found)), -1)

  return jax.vmap(error)(jnp.array(GAMMAS))


def combined_rewards(key: jax.Array, *, vocab: int) -> harness.Part:
  """Two rewards under either score, and on random bases of `vocab` outcomes."""
  # Up to the KL at which only the best outcome is left.
  kls = np.linspace(0.02, -np.log(BOTH_P[0]), 40)
  numbers = 6 * bases.uniform(key, (3, RANDOM_BASES, vocab)) - 3
  errors = closed_form_errors(numbers[0], numbers[1:].swapaxes(0, 1))
  rewards = np.array(BOTH_R)
  combine = jax.jit(functools.partial(reward_transforms.lsc_combine, axis=0))
  scores = np.stack([rewards.sum(0), combine(rewards, np.zeros_like(rewards))])
  means = np.asarray(bounds.highest_means(np.log(BOTH_P), scores, rewards, kls))
  plain, both = means.min(-1)
  claims = [
    harness.all_agree(
      "conjunction_is_optimal",
      "the base given that all is good maximises the sum of log-sigmoids less"
      " KL: largest difference",
      [np.asarray(errors)],
      tolerance=1e-9,  # the maximiser is found by bisection
    ),
    harness.Claim(
      name="log_sigmoids_raise_the_minimum",
      statement="smaller one of two mean rewards, sum of log-sigmoids less"
      " plain sum at equal KL: least over KLs",
      theory=0.0,
      measured=np.min(both - plain),
      tolerance=EXACT,
      relation=">=",
    ),
  ]
  few = slice(3, None, 9)
  rows = harness.rows(
    KL=kls[few],
    first_of_plain_sum=means[0, few, 0],
    second_of_plain_sum=means[0, few, 1],
    first_of_log_sigmoids=means[1, few, 0],
    second_of_log_sigmoids=means[1, few, 1],
  )
  curves = {"both_kl": kls, "both_means": means}
  return harness.Part(claims, curves, {"mean rewards at equal KL": rows})


def plot(curves: dict[str, np.ndarray]):
  """Both mean rewards under either score, against the KL."""
  figure, (axes,) = plotting.figure(width=7)
  for means, name, color in zip(
    curves["both_means"],
    ("plain sum", "sum of log-sigmoids"),
    ("C0", "C1"),
    strict=True,
  ):
    for mean, which, style in zip(
      means.T, ("first", "second"), ("-", "--"), strict=True
    ):
      axes.plot(
        curves["both_kl"],
        mean,
        style,
        color=color,
        label=f"{name}, {which} reward",
      )
  axes.set(
    xlabel="KL from the base, nats",
    ylabel="mean reward",
    title="two rewards at equal KL",
  )
  axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
  return figure
