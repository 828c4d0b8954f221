# SPDX-License-Identifier: Apache-2.0
"""Training with advantages weighted by how far each token's law has moved.

The clipped loss in expectation over all sequences, several updates a round from
the law at its start: without any sampling, and off policy enough for the
divergence that the weights look at. Weights of high divergence are at least 1,
which alone makes steps larger: one arm gives all tokens their mean.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from experiments.stages.token_shifts import worlds
from jaxalign import divergences
from jaxalign.exact import sequences
from jaxalign.rl import cross_sampling, surrogates

UPDATES, RATE = 4, 3.0
ALPHA, STRENGTH = 100.0, 1.0
SHOWN = (5, 10, 15, 20)


class Arm(NamedTuple):
  """How tokens are weighted.

  Attributes:
    alpha: of the divergence.
    s: strength of the weights.
    on: whether there are weights at all.
    flat: whether every token has the mean weight of all.
  """

  alpha: float = 0.0
  s: float = 0.0
  on: bool = True
  flat: bool = False


ARMS = {
  "no weights": Arm(on=False),
  "strength 0": Arm(ALPHA, 0.0),
  "high divergence": Arm(ALPHA, STRENGTH),
  "low divergence": Arm(-ALPHA, STRENGTH),
  "both signs turned": Arm(-ALPHA, -STRENGTH),
  "mean weight of high": Arm(ALPHA, STRENGTH, flat=True),
}
SHOWN_ARMS = (
  "no weights",
  "high divergence",
  "low divergence",
  "mean weight of high",
)


def _weights(old: jax.Array, table: jax.Array, arm: Arm) -> jax.Array:
  """Of the tokens of all sequences, `[N, T]`."""
  rows = sequences.prefix_index(jnp.asarray(worlds.TOKENS), worlds.V)
  moved = divergences.kl(old, table)[rows]
  found = cross_sampling.divergence_weights(moved, arm.alpha, arm.s)
  mean = jnp.mean(sequences.expectation(old, found))
  found = jnp.where(arm.flat, mean, found)
  return jnp.where(arm.on, found, 1)


def _round(table: jax.Array, arm: Arm) -> tuple[jax.Array, dict]:
  """A few updates with the samples' law of the start of the round."""
  tokens = jnp.asarray(worlds.TOKENS)
  old, old_logp = table, sequences.token_log_probs(table, tokens)
  advantages = worlds.rewards() - worlds.mean_reward(old)

  def loss(table):
    ratio = sequences.token_log_probs(table, tokens) - old_logp
    weighted = advantages[:, None] * _weights(old, table, arm)
    each = surrogates.clip_loss(ratio, weighted).loss
    return jnp.sum(sequences.expectation(old, each))

  def update(table, _):
    return table - RATE * jax.grad(loss)(table), None

  table, _ = jax.lax.scan(update, table, length=UPDATES)
  weights = _weights(old, table, arm)
  return table, {
    "reward": worlds.mean_reward(table),
    "least": jnp.min(weights),
    "most": jnp.max(weights),
  }


@functools.partial(jax.jit, static_argnames="rounds")
def train(bases: jax.Array, arms: Arm, *, rounds: int) -> dict:
  """Paths `[arms, S, rounds]` from base policies `[S, rows, V]`."""

  def run(arm, base):
    return jax.lax.scan(
      lambda table, _: _round(table, arm), base, length=rounds
    )[1]

  return jax.vmap(jax.vmap(run, (None, 0)), (0, None))(arms, bases)


def weighted_advantages(bases: jax.Array) -> harness.Part:
  """Claims on the weights; the rewards of every arm.

  Args:
    bases: `[S, rows, V]`.
  """
  arms = jax.tree.map(lambda *x: jnp.array(x), *ARMS.values())
  found = jax.tree.map(np.asarray, train(bases, arms, rounds=SHOWN[-1]))
  reward = dict(zip(ARMS, found["reward"], strict=True))
  half = STRENGTH / 2
  claims = [
    harness.all_agree(
      "weights_off",
      "with strength 0 advantages are as without weights: largest difference"
      " of rewards",
      [reward["strength 0"] - reward["no weights"]],
      tolerance=0.0,
    ),
    harness.none_exceeds(
      "weights_bounds",
      "weights of strength s are in 1 -+ s/2: largest excess",
      [found["most"] - 1 - half, 1 - half - found["least"]],
      tolerance=1e-15,  # the rounding of a number around 1
    ),
    harness.all_agree(
      "weights_signs",
      "turning the signs of both alpha and s changes nothing: largest"
      " difference of rewards",
      [reward["both signs turned"] - reward["high divergence"]],
      # One rounding error of 1e-16 an update, and how 80 of them grow.
      tolerance=1e-10,
    ),
  ]
  shown = [reward[name] for name in SHOWN_ARMS]
  columns = {f"round {t}": [x[:, t - 1].mean() for x in shown] for t in SHOWN}
  title = "reward with weighted advantages, mean over bases"
  return harness.Part(
    claims,
    {"weights/arms": np.array(SHOWN_ARMS), "weights/reward": np.array(shown)},
    {title: harness.rows(arm=np.array(SHOWN_ARMS), **columns)},
  )


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """Reward by round, and by how much the arms differ."""
  figure, (left, right) = plotting.figure(1, 2)
  rewards = curves["weights/reward"].mean(1)
  rounds = np.arange(1, rewards.shape[1] + 1)
  for i, name in enumerate(curves["weights/arms"]):
    style = {"label": name, "linestyle": "--" if "mean" in name else "-"}
    left.plot(rounds, rewards[i], **style)
    right.plot(rounds, rewards[i] - rewards[0], **style)
  axis = {"xlabel": "round of four updates", "xticks": (1, *SHOWN)}
  left.set(
    ylabel="reward, mean over bases",
    title="divergence-weighted advantages",
    **axis,
  )
  right.set(ylabel="reward less that without weights", **axis)
  left.legend()
  return figure
