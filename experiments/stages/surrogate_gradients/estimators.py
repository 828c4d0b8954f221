# SPDX-License-Identifier: Apache-2.0
"""Advantage estimators times averages over tokens, against grad J."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness
from experiments.stages import completions
from experiments.stages.completions import EXACT, WHERE, G, T
from jaxalign.exact import sequences
from jaxalign.rl import advantages, aggregation, surrogates

_GROUP = dict(num_generations=G)
# Of rewards [3] and lengths [3] of a group, and the greedy completion's reward.
ESTIMATORS = {
  "reward": lambda r, n, top: r,
  "leave one out": lambda r, n, top: advantages.group_advantages(
    r, baseline="loo", scale="none", **_GROUP
  ),
  "group mean": lambda r, n, top: advantages.group_advantages(
    r, scale="none", **_GROUP
  ),
  "mean and deviation": lambda r, n, top: advantages.group_advantages(
    r, **_GROUP
  ),
  "length-weighted": lambda r, n, top: advantages.opo_advantages(
    r, n, **_GROUP
  ),
  "greedy": lambda r, n, top: advantages.remax_advantages(
    r, top[None], **_GROUP
  ),
  "best of group": lambda r, n, top: advantages.best_of_group_rewards(
    r, **_GROUP
  ),
}
AVERAGES = aggregation.AGGREGATIONS
_NAMES = list(ESTIMATORS)


@jax.jit
def gradients(logits: jax.Array, rewards: jax.Array):
  """Expected gradients of one world.

  Returns:
    `[E, M, 4, 3]` by estimator and average, of what is maximised; then that of
    J and that of the best of a group, `[4, 3]`.
  """
  lengths = jnp.sum(WHERE, -1).astype(rewards.dtype)
  greedy = rewards[jnp.argmax(completions.sequence_log_probs(logits))]

  def loss(logp, group, i, j):
    # Traced once for all: the others are computed and not looked at.
    given = jnp.stack(
      [f(rewards[group], lengths[group], greedy) for f in ESTIMATORS.values()]
    )[i]
    each = surrogates.reinforce_loss(
      jnp.broadcast_to(given[:, None], logp.shape), logp
    )
    averages = [
      aggregation.aggregate(
        each.loss,
        where=WHERE[group],
        mode=mode,
        max_length=T if mode == "constant" else None,
      ).loss
      for mode in AVERAGES
    ]
    return -jnp.stack(averages)[j]

  def gradient(i, j):
    return completions.expected_gradient(
      lambda logp, group: loss(logp, group, i, j), logits
    )

  each_average = jax.vmap(gradient, (None, 0))
  found = jax.vmap(each_average, (0, None))(
    jnp.arange(len(ESTIMATORS)), jnp.arange(len(AVERAGES))
  )
  groups = sequences.enumerate_sequences(len(WHERE), G)

  def best(x):
    log_probs = completions.sequence_log_probs(x)[groups]
    return jnp.exp(jnp.sum(log_probs, -1)) @ jnp.max(rewards[groups], -1)

  return (
    found,
    jax.grad(completions.value)(logits, rewards),
    jax.grad(best)(logits),
  )


def estimators(worlds: completions.Worlds) -> harness.Part:
  """Claims on which are unbiased, and the table of all."""
  found, exact, best = (
    np.asarray(x) for x in jax.vmap(gradients)(worlds.logits, worlds.rewards)
  )
  at = {
    (name, mode): found[:, i, j]
    for i, name in enumerate(_NAMES)
    for j, mode in enumerate(AVERAGES)
  }
  cosines, ratios = completions.compare(found, exact)
  sums, share = "seq_mean_token_sum", (G - 1) / G
  unbiased = {
    "reward": 1.0,
    "leave one out": 1.0,
    "greedy": 1.0,
    "group mean": share,
  }
  claims = [
    harness.all_agree(
      f"sum_{name}".replace(" ", "_"),
      f"{name} as advantage, tokens summed: expected gradient less"
      f" {'(G-1)/G ' if factor < 1 else ''}grad J, largest entry",
      at[name, sums] - factor * exact,
      tolerance=EXACT,
    )
    for name, factor in unbiased.items()
  ]
  claims += [
    harness.all_agree(
      "constant_group_mean",
      "group mean, tokens summed over B T_max: expected gradient less"
      " (G-1)/(G T_max) grad J, largest entry",
      at["group mean", "constant"] - share / T * exact,
      tolerance=EXACT,
    ),
    harness.all_agree(
      "best_of_group",
      "the best's lead as its reward, summed: expected gradient less that of"
      " the expected best of G, largest entry",
      G * at["best of group", sums] - best,
      tolerance=EXACT,
    ),
  ]
  row = cosines[:, _NAMES.index("group mean")]
  for mode in ("seq_mean_token_mean", "token_mean"):
    claims.append(
      harness.Claim(
        name=f"biased_{mode}",
        statement=f"group mean, {mode}: 1 less the cosine with grad J, smallest"
        " over worlds",
        theory=0,
        measured=1 - row[:, AVERAGES.index(mode)].max(),
        tolerance=-1e-6,
        relation=">=",
      )
    )
  scaled = cosines[:, _NAMES.index("mean and deviation"), AVERAGES.index(sums)]
  claims.append(
    harness.Claim(
      name="biased_deviation",
      statement="mean and deviation, tokens summed: 1 less the cosine with"
      " grad J, smallest over worlds",
      theory=0,
      measured=1 - scaled.max(),
      tolerance=-1e-6,
      relation=">=",
    )
  )
  table = [
    {
      "advantage": name,
      **{
        mode: f"{cosines[:, i, j].mean():.4f} x{ratios[:, i, j].mean():.3f}"
        for j, mode in enumerate(AVERAGES)
      },
    }
    for i, name in enumerate(_NAMES)
  ]
  title = "expected gradient against grad J: mean cosine, ratio of norms"
  return harness.Part(claims, {"cosines": cosines}, {title: table})


def draw(axes: Axes, curves) -> None:
  """Angles by estimator and average."""
  angles = np.degrees(np.arccos(np.clip(curves["cosines"], -1, 1))).mean(0)
  image = axes.imshow(angles, cmap="viridis", aspect="auto")
  axes.grid(False)
  axes.set_xticks(range(len(AVERAGES)), AVERAGES, rotation=20, ha="right")
  axes.set_yticks(range(len(_NAMES)), _NAMES)
  for i, j in np.ndindex(angles.shape):
    colour = "white" if angles[i, j] < angles.max() / 2 else "black"
    axes.text(
      j, i, f"{angles[i, j]:.1f}", ha="center", va="center", color=colour
    )
  axes.set_title("angle to the policy gradient, degrees")
  axes.figure.colorbar(image, ax=axes)
