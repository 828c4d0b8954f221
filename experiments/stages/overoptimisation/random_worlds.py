# SPDX-License-Identifier: Apache-2.0
"""Random features, rewards and pairs: what the likelihood term buys and costs.

Rewards are linear in the features, labels are Bradley-Terry's, six of sixteen
actions are ever compared. The unseen ones are as good as the seen.
"""

import functools

import jax
import numpy as np
from matplotlib.axes import Axes

from experiments import harness, plotting
from experiments.stages.overoptimisation import descent
from jaxalign import preference

ACTIONS, SEEN, FEATURES, PAIRS = 16, 6, 4, 20
BETA, RATE, UPDATES = 0.1, 2.0, 3000
ETAS = (0.05, 0.2, 1.0)
MAIN = 0.2  # of the claims
LOSSES = {"DPO": functools.partial(preference.dpo_loss, beta=BETA)} | {
  f"RPO, eta {eta}": functools.partial(preference.rpo_loss, beta=BETA, eta=eta)
  for eta in ETAS
}
SHOWN = np.unique(np.geomspace(1, UPDATES, 100).astype(int))


def worlds(seeds: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Features `[S, K, d]`, rewards `[S, K]`, pairs int `[S, M, 2]`."""
  found = []
  for seed in seeds:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(ACTIONS, FEATURES))
    rewards = features @ rng.normal(size=FEATURES)
    first = rng.integers(0, SEEN, PAIRS)
    second = (first + rng.integers(1, SEEN, PAIRS)) % SEEN
    gap = rewards[first] - rewards[second]
    wins = rng.uniform(size=PAIRS) < 1 / (1 + np.exp(-gap))
    pairs = np.stack([first, second], -1)
    found.append(
      (features, rewards, np.where(wins[:, None], pairs, pairs[:, ::-1]))
    )
  return tuple(np.stack(x) for x in zip(*found, strict=True))


@jax.jit
def run(features: jax.Array, pairs: jax.Array) -> jax.Array:
  """Log-policies `[losses, S, len(SHOWN), K]`."""

  def one(loss, features, pairs):
    path = descent.descend(loss, features, pairs, rate=RATE, updates=UPDATES)
    policies = jax.vmap(descent.log_policy, (0, None))
    return policies(path[SHOWN], features)

  return jax.numpy.stack(
    [
      jax.vmap(functools.partial(one, loss))(features, pairs)
      for loss in LOSSES.values()
    ]
  )


def random_worlds(*, seeds: range) -> harness.Part:
  """Claims on mass and reward, means over worlds.

  Args:
    seeds: of the worlds.
  """
  features, rewards, pairs = worlds(seeds)
  probs = np.exp(np.asarray(run(features, pairs)))
  reward = np.einsum("fstk,sk->fst", probs, rewards)
  unseen = probs[..., SEEN:].sum(-1)
  chosen = np.stack(
    [probs[:, i][..., pairs[i, :, 0]].mean(-1) for i in range(len(pairs))], 1
  )
  main = list(LOSSES).index(f"RPO, eta {MAIN}")

  def change(name, statement, values, relation):
    difference = values[main, :, -1] - values[0, :, -1]
    return harness.Claim(
      name=name,
      statement=f"random worlds, RPO with eta .2 less DPO at the end, mean:"
      f" {statement}",
      theory=0.0,
      measured=difference.mean(),
      tolerance=0.0,
      relation=relation,
      interval=harness.confidence_interval(difference),
    )

  claims = [
    change("unseen_mass", "probability of actions in no pair", unseen, "<="),
    change("chosen_mass", "probability of chosen actions", chosen, ">="),
    change(
      "reward_price",
      "reward, where actions in no pair are as good as the others: it falls",
      reward,
      "<=",
    ),
  ]
  last = [x[..., -1].mean(1) for x in (reward, unseen, chosen)]
  # Were the unseen worse by a penalty that their features do not show, it would
  # cost a policy the mass that it has there: from here on RPO is better.
  gain = last[1][0] - last[1]
  with np.errstate(invalid="ignore"):
    even = (last[0][0] - last[0]) / np.where(gain > 0, gain, np.nan)
  table = harness.rows(
    loss=list(LOSSES),
    reward=last[0],
    highest_on_the_way=reward.mean(1).max(-1),
    unseen=last[1],
    chosen=last[2],
    penalty_to_break_even=even,
  )
  curves = {
    "random/losses": np.array(list(LOSSES)),
    "random/updates": SHOWN,
    "random/reward": reward,
    "random/unseen": unseen,
    "random/chosen": chosen,
  }
  return harness.Part(claims, curves, {"random worlds, at the end": table})


def plot(axes: Axes, curves: dict[str, np.ndarray], which: str) -> None:
  """One quantity along the way, with 95 % intervals over worlds."""
  for i, name in enumerate(curves["random/losses"]):
    samples = curves[f"random/{which}"][i]
    style = plotting.line_style(i)
    plotting.band(axes, curves["random/updates"], samples, name, **style)
  names = {
    "reward": "reward",
    "unseen": "probability of actions in no pair",
    "chosen": "probability of a chosen action",
  }
  axes.set(xlabel="update", ylabel=names[which], title="Random worlds")
  plotting.log_scale(axes, "x")
