# SPDX-License-Identifier: Apache-2.0
"""Eight good sequences among 64: who finds all of them, who keeps one."""

import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from experiments.stages.gflownet import training

NUM_MODES, FLOOR = 8, 0.01
TARGET_LOSS = 1e-6
# A loss bounds the squared residual of the whole trajectory: DB, a mean of n
# squares whose sum it is, n^2 times; SubTB by the weight of the longest pair.
_WEIGHTS = 0.9 ** np.array([1, 1, 1, 2, 2, 3])
FACTORS = {
  "TB": 1.0,
  "VarGrad": 1.0,
  "SubTB": _WEIGHTS.sum() / _WEIGHTS[-1],
  "DB": float(training.T**2),
}


def worlds(seeds: range) -> tuple[np.ndarray, np.ndarray]:
  """Log-rewards `[S, 64]`: .5 to 1 for the modes `[S, 8]`, .01 elsewhere.

  The modes are anywhere, their rewards evenly apart: the best is no tie.
  """
  rewards, modes = [], []
  for seed in seeds:
    rng = np.random.default_rng(seed)
    best = rng.choice(training.NUM_SEQUENCES, NUM_MODES, replace=False)
    reward = np.full(training.NUM_SEQUENCES, FLOOR)
    reward[best] = np.linspace(0.5, 1, NUM_MODES)
    rewards.append(reward)
    modes.append(best)
  return np.log(rewards), np.stack(modes)


def measure(
  law: np.ndarray, log_rewards: np.ndarray, modes: np.ndarray
) -> dict[str, np.ndarray]:
  """Exact figures of policies `[arms, S, records, 64]`.

  Returns:
    `[arms, S, records]`: the distance to R/Z in total variation, the modes that
    have at least half of their share, the probability of the policy's favourite
    sequence, and whether that is the best one. And `least`, the distance of a
    policy that knows but the best.
  """
  target = np.exp(log_rewards)
  target = (target / target.sum(-1, keepdims=True))[None, :, None]
  at = modes[None, :, None]
  shares = np.take_along_axis(law, at, -1) / np.take_along_axis(target, at, -1)
  return {
    "distance": np.abs(law - target).sum(-1) / 2,
    "found": (shares >= 0.5).sum(-1),
    "favourite": law.max(-1),
    "best": law.argmax(-1) == target.argmax(-1),
    "least": 1 - target.max(),
  }


def modes(
  path: training.Path, log_rewards: np.ndarray, which: np.ndarray
) -> harness.Part:
  """Claims on what each arm has learned at the end.

  Args:
    path: `[arms, S, records, ...]`.
    log_rewards: `[S, 64]`.
    which: `[S, 8]`, the modes.
  """
  found = measure(path.law, log_rewards, which)
  last = {
    key: dict(zip(training.ARMS, found[key][..., -1], strict=True))
    for key in ("distance", "found", "favourite")
  }
  loss = dict(zip(training.ARMS, path.loss[..., -1], strict=True))
  excess = [
    last["distance"][name] - np.sqrt(factor * loss[name])
    for name, factor in FACTORS.items()
  ]
  claims = [
    harness.Claim(
      name=f"modes_loss_{name.lower()}",
      statement=f"{name}: expected loss at the end, largest of all seeds",
      theory=TARGET_LOSS,
      measured=loss[name].max(),
      tolerance=0.0,
      relation="<=",
    )
    for name in training.GFLOWNETS
  ]
  claims += [
    harness.none_exceeds(
      "modes_distance_bound",
      "distance to R/Z of TB, VarGrad, SubTB and DB beyond the root of the"
      " squared residual that the loss allows: largest excess",
      excess,
      # What the bound leaves out is of the order of the squared residual.
      tolerance=max(FACTORS.values()) * TARGET_LOSS,
    ),
    harness.all_agree(
      "modes_distance",
      "distance to R/Z of TB, VarGrad, SubTB and DB in total variation, largest"
      " of all seeds",
      [last["distance"][name] for name in training.GFLOWNETS],
      # What the bound allows where the losses are what they should be.
      tolerance=np.sqrt(max(FACTORS.values()) * TARGET_LOSS),
    ),
    harness.Claim(
      name="modes_found",
      statement="modes with at least half of their share, of eight: the fewest"
      " of TB, VarGrad, SubTB and DB in any seed",
      theory=NUM_MODES,
      measured=min(last["found"][name].min() for name in training.GFLOWNETS),
      tolerance=0,
    ),
    harness.Claim(
      name="modes_reinforce_found",
      statement="REINFORCE: modes with at least half of their share, the most"
      " in any seed",
      theory=1,
      measured=last["found"]["REINFORCE"].max(),
      tolerance=0,
    ),
    harness.Claim(
      name="modes_reinforce_favourite",
      statement="REINFORCE: probability of its favourite sequence at the end,"
      " the smallest of all seeds",
      theory=1.0,
      measured=last["favourite"]["REINFORCE"].min(),
      tolerance=0.05,  # it gets there as 1 / t, and its rate falls to 0
      relation=">=",
    ),
    harness.Claim(
      name="modes_reinforce_distance",
      statement="REINFORCE: distance to R/Z over that of a policy that knows"
      " but the best sequence, the smallest of all seeds",
      theory=1.0,
      measured=last["distance"]["REINFORCE"].min() / found["least"],
      tolerance=0.05,  # as above
      relation=">=",
    ),
  ]
  rows = harness.rows(
    arm=list(training.ARMS),
    loss=path.loss[..., -1].max(1),
    total_variation=found["distance"][..., -1].mean(1),
    modes=found["found"][..., -1].mean(1),
    favourite=found["favourite"][..., -1].mean(1),
    favourite_is_best=found["best"][..., -1].mean(1),
  )
  target = np.exp(log_rewards)
  curves = {
    "modes/arms": np.array(list(training.ARMS)),
    "modes/loss": path.loss,
    "modes/distance": found["distance"],
    "modes/found": found["found"],
    "modes/law": path.law[:, 0, -1],
    "modes/target": target[0] / target[0].sum(),
  }
  return harness.Part(claims, curves, {"modes, at the end": rows})


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """Loss, distance and modes over the updates; the policies of one seed."""
  figure, axes = plotting.figure(2, 2, height=2.9)
  loss, distance, found, law = axes
  for i, name in enumerate(curves["modes/arms"]):
    style = plotting.line_style(i)
    for panel, key in (
      (loss, "loss"),
      (distance, "distance"),
      (found, "found"),
    ):
      values = curves[f"modes/{key}"][i]
      if key == "loss" and name not in training.GFLOWNETS:
        continue  # not what it minimises
      if key == "found":
        values = values.mean(0)
      else:  # geometric means; nothing below is but rounding
        values = np.exp(np.log(np.maximum(values, 1e-30)).mean(0))
      panel.plot(curves["updates"], values, label=name, **style)
  order = np.argsort(-curves["modes/target"])[:16]
  place = np.arange(len(order))
  law.bar(place, curves["modes/target"][order], color="0.8", label="R / Z")
  for name in ("TB", "REINFORCE"):
    i = list(curves["modes/arms"]).index(name)
    style = plotting.line_style(i) | {"linestyle": "none"}
    law.plot(
      place, curves["modes/law"][i][order], "o", ms=4, label=name, **style
    )
  loss.set(ylabel="own loss, expected", yscale="log", title="eight modes of 64")
  distance.set(ylabel="total variation to R / Z", yscale="log")
  found.set(ylabel="modes found, mean over seeds", ylim=(0, NUM_MODES + 0.5))
  law.set(xlabel="sequences, best first", ylabel="probability, one seed")
  law.set(yscale="log", ylim=(1e-4, 1.5))
  law.legend(loc="upper right")
  for panel in (loss, distance, found):
    panel.set_xlabel("update")
  distance.legend(loc="lower left")
  return figure
