# SPDX-License-Identifier: Apache-2.0
"""Distilling best-of-2 of a moving anchor, round by round.

Measures the anchors of the exact recursion and those of gradient descent on the
Jeffreys objective; against best-of-2^k of the base, which k rounds should give.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import harness, plotting
from experiments.stages.best_of_n import bases, bounds
from experiments.stages.best_of_n.bounds import EXACT
from jaxalign.divergences import categorical
from jaxalign.inference import bond

ROUNDS, STEPS, LEARNING_RATE = 5, 500, 0.2
WEIGHTS = (0.0, 0.5, 1.0)  # of the backward KL


def _descend(anchor, target, weight) -> tuple[jax.Array, jax.Array]:
  """The policy `[V]` after descent from an anchor, and its losses `[STEPS]`."""
  optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, STEPS))
  gradient = jax.value_and_grad(bond.jeffreys_objective)

  def step(carry, _):
    logits, state = carry
    loss, slope = gradient(logits, target, weight=weight)
    updates, state = optimizer.update(slope, state)
    return (optax.apply_updates(logits, updates), state), loss

  start = anchor, optimizer.init(anchor)
  (logits, _), losses = jax.lax.scan(step, start, length=STEPS)
  return jax.nn.log_softmax(logits), losses


@jax.jit
def distil(anchors, log_p, rewards, n) -> dict[str, jax.Array]:
  """One round of best-of-2 of each anchor, beside best-of-n of the base.

  Args:
    anchors: `[1 + W, V]`, of the exact recursion and of a descent per weight.
    log_p: `[V]`, the base.
    rewards: `[V]`.
    n: what the anchors will have reached after this round.

  Returns:
    The next anchors; the losses `[W, STEPS]`; errors and positions.
  """
  of_two = jnp.full((len(anchors),), 2.0)
  targets = jax.vmap(bond.bond_log_pmf, (0, None, 0))(
    jnp.concatenate([anchors, log_p[None]]), rewards, jnp.append(of_two, n)
  )
  exact, direct = targets[0], targets[-1]
  policies, losses = jax.vmap(_descend)(
    anchors[1:], targets[1:-1], jnp.array(WEIGHTS)
  )
  anchors = jnp.concatenate([exact[None], policies])
  direct_rows, base_rows = (
    jnp.broadcast_to(x, anchors.shape) for x in (direct, log_p)
  )
  return {
    "anchors": anchors,
    "losses": losses,
    "composition": jnp.max(jnp.abs(jnp.exp(exact) - jnp.exp(direct))),
    "distance": categorical.kl(direct_rows, anchors)[1:],
    "kl": categorical.kl(anchors, base_rows),
    "reward": jnp.exp(anchors) @ rewards,
  }


def distillation(
  key: jax.Array, *, vocab: int, progress: bool = True
) -> harness.Part:
  """Rounds of best-of-2, from a random base of so many outcomes with ties."""
  log_p, rewards = (x[1] for x in bases.random_bases(key, vocab))
  n = 2.0 ** np.arange(1, ROUNDS + 1)
  anchors = np.tile(log_p, (1 + len(WEIGHTS), 1))
  rounds = []
  for x in harness.track(n, "distillation", progress=progress):
    rounds.append(distil(anchors, log_p, rewards, x))
    anchors = rounds[-1]["anchors"]
  found = {k: np.stack([np.asarray(x[k]) for x in rounds]) for k in rounds[0]}
  bound = bounds.kl_bound(n)
  claims = [
    harness.all_agree(
      "bond_composition",
      "best-of-2 of a moving anchor, k times, is best-of-2^k: largest"
      " difference",
      [found["composition"]],
      tolerance=EXACT,
    ),
    harness.none_exceeds(
      "bond_kl_bound",
      "KL after k rounds at most log 2^k - 1 + 2^-k: largest excess over"
      " rounds",
      [found["kl"][:, 0] - bound],
      tolerance=EXACT,
    ),
    harness.all_agree(
      "bond_distilled",
      "descent on the Jeffreys objective, five rounds of best-of-2: KL of"
      " best-of-2^k from the policy, over weights and rounds: largest"
      " difference",
      [found["distance"]],
      # Adam with a step that falls to 0 stops at about 1e-5.
      tolerance=1e-4,
    ),
  ]
  rows = harness.rows(
    rounds=np.arange(1, ROUNDS + 1),
    n=n.astype(int),
    reward=found["reward"][:, 0],
    KL=found["kl"][:, 0],
    bound=bound,
    **{
      f"distance at b = {weight:g}": found["distance"][:, w]
      for w, weight in enumerate(WEIGHTS)
    },
  )
  start = np.exp(log_p) @ rewards
  from_start = (1, 0), (0, 0)  # the base as round 0
  curves = {
    "bond_losses": np.concatenate(found["losses"], 1),
    "bond_kl": np.pad(found["kl"], from_start),
    "bond_reward": np.pad(found["reward"], from_start, constant_values=start),
  }
  return harness.Part(claims, curves, {"best-of-2 of a moving anchor": rows})


def plot(curves: dict[str, np.ndarray]):
  """Losses of all rounds, and the policies' rewards against their KLs."""
  figure, (losses, frontier) = plotting.figure(1, 2)
  kl, reward = curves["bond_kl"].T, curves["bond_reward"].T
  frontier.plot(kl[0], reward[0], "k-", label="best of 2^k")
  for weight, loss, x, y, mark in zip(
    WEIGHTS, curves["bond_losses"], kl[1:], reward[1:], "ox+", strict=True
  ):
    label = f"b = {weight:g}"
    losses.plot(np.maximum(loss, 1e-16), lw=1, label=label)
    frontier.plot(x, y, mark, ms=7, mfc="none", label=label)
  losses.set(
    xlabel=f"step (a new anchor every {STEPS})",
    ylabel="Jeffreys objective",
    yscale="log",
    title="descent",
  )
  frontier.set(
    xlabel="KL from the base, nats",
    ylabel="expected reward",
    title="iterated distillation of best-of-2",
  )
  for axes in (losses, frontier):
    axes.legend()
  return figure
