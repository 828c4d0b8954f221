# SPDX-License-Identifier: Apache-2.0
"""One pair, four actions: descent on DPO ends in an action without data.

The gradient of DPO is along the difference of the pair's features, so theta
stays on that ray, and the policy ends in the action that is farthest along it.
Descent on RPO leaves the ray.
"""

import functools

import jax
import numpy as np
from matplotlib.axes import Axes

from experiments import harness, plotting
from experiments.stages.overoptimisation import descent
from jaxalign import preference

ACTIONS = ("chosen", "rejected", "unseen", "other unseen")
FEATURES = np.array([[1.0, 0.0], [0.8, 0.3], [2.0, -2.0], [-1.0, -1.0]])
PAIR = np.array([[0, 1]])
BETA, ETA, RATE, UPDATES = 0.1, 0.2, 0.5, 4000
LATER = 40_000  # updates
# Where the chosen action is farthest, and before the rejected one.
AWAY = np.array([1.0, 0.6])
LOSSES = {
  "DPO": functools.partial(preference.dpo_loss, beta=BETA),
  f"RPO, eta {ETA}": functools.partial(preference.rpo_loss, beta=BETA, eta=ETA),
}


@jax.jit
def paths() -> jax.Array:
  """Parameters `[losses, LATER + 1, 2]`."""
  run = functools.partial(
    descent.descend, features=FEATURES, pairs=PAIR, rate=RATE, updates=LATER
  )
  return jax.numpy.stack([run(loss) for loss in LOSSES.values()])


def one_pair() -> harness.Part:
  """Claims on where both losses lead."""
  theta = np.asarray(paths())
  scores = theta @ FEATURES.T
  probs = np.exp(scores - np.logaddexp.reduce(scores, -1)[..., None])
  dpo, rpo = probs[:, UPDATES]
  ray = FEATURES[0] - FEATURES[1]
  farthest = int(np.argmax(FEATURES @ ray))
  across = theta[0] @ np.array([-ray[1], ray[0]]) / np.linalg.norm(ray)
  far = 1e4 * AWAY
  least = [
    descent.mean_loss(loss, far, FEATURES, PAIR) for loss in LOSSES.values()
  ]

  def bound(name, statement, theory, measured, relation, tolerance=0.0):
    return harness.Claim(
      name, statement, theory, measured, tolerance, relation=relation
    )

  claims = [
    harness.all_agree(
      "ray",
      "one pair, DPO: part of the parameters across the difference of the"
      " pair's features, largest over updates",
      across,
      tolerance=1e-10,
    ),
    bound(
      "dpo_unseen",
      "one pair, DPO: after 4000 updates, probability of the action that is"
      " farthest along that difference, which is in no pair",
      1.0,
      dpo[farthest],
      ">=",
      1e-3,
    ),
    bound(
      "dpo_chosen",
      "one pair, DPO: after 4000 updates, probability of the chosen action",
      0.0,
      dpo[0],
      "<=",
      1e-3,
    ),
    bound(
      "rpo_chosen",
      "one pair, RPO: after 4000 updates, probability of the chosen action"
      " against the reference's",
      1 / len(ACTIONS),
      rpo[0],
      ">=",
    ),
    bound(
      "rpo_unseen",
      "one pair, RPO: from 4000 to 40000 updates, growth of the unseen action's"
      " probability",
      0.0,
      probs[1, -1, farthest] - rpo[farthest],
      "<=",
    ),
    harness.all_agree(
      "same_infimum",
      "one pair: both losses where the chosen action has all the mass, far"
      " away: 0, hence descent chooses, not the loss",
      least,
      tolerance=1e-6,
    ),
  ]
  table = [
    {"loss": name, "updates": t}
    | dict(zip(ACTIONS, probs[i, t].tolist(), strict=True))
    for i, name in enumerate(LOSSES)
    for t in (UPDATES, LATER)
  ]
  shown = np.unique(np.geomspace(1, LATER, 200).astype(int))
  curves = {
    "one_pair/losses": np.array(list(LOSSES)),
    "one_pair/updates": shown,
    "one_pair/probs": probs[:, shown],
  }
  return harness.Part(claims, curves, {"one pair: probabilities": table})


def plot(axes: Axes, curves: dict[str, np.ndarray], loss: int) -> None:
  """Probabilities along the way of one loss."""
  for i, name in enumerate(ACTIONS):
    probs = curves["one_pair/probs"][loss, :, i]
    axes.plot(curves["one_pair/updates"], probs, label=name)
  axes.axvline(UPDATES, color="0.6", linewidth=0.8, linestyle=":")
  axes.set(
    xlabel="update",
    ylabel="probability",
    title=f"One pair, {curves['one_pair/losses'][loss]}",
    ylim=(-0.03, 1.03),
  )
  plotting.log_scale(axes, "x")
