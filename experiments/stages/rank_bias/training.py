# SPDX-License-Identifier: Apache-2.0
"""What rank bias costs in training, and what mends it.

GRPO, the unlikeliness reward at three weights, and GRPO with several gradient
steps on each batch, all with the same number of gradient steps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from experiments.stages.rank_bias import learner
from jaxalign.exact import bandit

EVERY = 10  # updates between points of the curves
KEPT, LOST = 0.75, 0.7  # of held-out pass@256, with and without the reward


class Arm(NamedTuple):
  """The weight of the unlikeliness reward, and steps on each batch."""

  beta: float = 0.0
  epochs: int = 1


ARMS = {
  "GRPO": Arm(),
  "beta = .25": Arm(beta=0.25),
  "beta = .5": Arm(beta=0.5),
  "beta = 1": Arm(beta=1.0),
  "GRPO, 2 epochs": Arm(epochs=2),
  "GRPO, 4 epochs": Arm(epochs=4),
}
REPEATED = ("GRPO, 2 epochs", "GRPO, 4 epochs")
UNLIKELY = learner.GROUP // 4  # ranks that count as unlikely
SHOWN = {"train": (1, 4, 16), "held_out": (64, 256)}


class Found(NamedTuple):
  """Of each arm and seed, at every tenth update.

  Attributes:
    train: `[arms, S, T, K]`, exact pass@k of the problems trained on.
    held_out: `[arms, S, T, K]`.
    uplift: `[arms, S, GROUP]`, share of correct samples that rose, by rank.
    unlikely: `[arms, S]`, the same of the least likely quarter.
  """

  train: np.ndarray
  held_out: np.ndarray
  uplift: np.ndarray
  unlikely: np.ndarray


@jax.jit
def run_arms(keys: jax.Array, world: bandit.SharedBandit, arms: Arm) -> Found:
  """Every arm with every key."""

  def run(arm, key):
    path = learner.train(key, world, beta=arm.beta, epochs=arm.epochs)
    train, held_out = jax.vmap(lambda x: learner.success(world, x))(
      path.log_probs[::EVERY]
    )
    rate, count = learner.uplift(path)
    few = jnp.average(rate[:UNLIKELY], weights=count[:UNLIKELY])
    return Found(train, held_out, rate, few)

  return jax.vmap(lambda arm: jax.vmap(lambda key: run(arm, key))(keys))(arms)


def _last(found: Found, which: str, k: int) -> dict[str, np.ndarray]:
  """Pass@k `[S]` at the end of each arm, and of the base."""
  values = getattr(found, which)[..., learner.KS.index(k)]
  ends = dict(zip(ARMS, values[:, :, -1], strict=True))
  return ends | {"base": values[0, :, 0]}


def _mean_claim(name, statement, samples, theory, relation) -> harness.Claim:
  return harness.Claim(
    name=name,
    statement=statement,
    theory=theory,
    measured=np.mean(samples),
    tolerance=0.0,
    relation=relation,
    interval=harness.confidence_interval(samples),
  )


def _claims(found: Found) -> list[harness.Claim]:
  one, sixteen = (_last(found, "train", k) for k in (1, 16))
  many = _last(found, "held_out", 256)
  unlikely = dict(zip(ARMS, found.unlikely, strict=True))
  base = np.mean(one["base"])
  worst = max(REPEATED, key=lambda name: np.mean(many[name]))
  return [
    _mean_claim(
      "grpo_small_n",
      "GRPO: pass@1 on the problems trained on, at least the base's",
      one["GRPO"],
      base,
      ">=",
    ),
    _mean_claim(
      "grpo_large_n",
      "GRPO: pass@16 on the problems trained on, at most the base's",
      sixteen["GRPO"],
      np.mean(sixteen["base"]),
      "<=",
    ),
    _mean_claim(
      "grpo_held_out",
      "GRPO: pass@256 on problems held out, where the base has .952",
      many["GRPO"],
      LOST,
      "<=",
    ),
    _mean_claim(
      "unlikeliness_small_n",
      "unlikeliness reward, beta = .5: pass@1, at least the base's",
      one["beta = .5"],
      base,
      ">=",
    ),
    _mean_claim(
      "unlikeliness_held_out",
      "unlikeliness reward, beta = .5: held-out pass@256",
      many["beta = .5"],
      KEPT,
      ">=",
    ),
    _mean_claim(
      "unlikeliness_too_much",
      "unlikeliness reward, beta = 1: pass@1, at most the base's",
      one["beta = 1"],
      base,
      "<=",
    ),
    _mean_claim(
      "uplift",
      "share of unlikely correct samples (least likely quarter of a group) that"
      " an update makes likelier: beta = .5 less GRPO",
      unlikely["beta = .5"] - unlikely["GRPO"],
      0.0,
      ">=",
    ),
    _mean_claim(
      "epochs_no_remedy",
      "not reproduced: that more steps on each batch (2 or 4, of equal total)"
      " mend it; the better one's held-out pass@256",
      many[worst],
      LOST,
      "<=",
    ),
  ]


def training(*, key: jax.Array, num_seeds: int) -> harness.Part:
  """Claims on pass@k at the ends of the runs."""
  world = bandit.shared_strategies(0)
  arms = jax.tree.map(lambda *x: jnp.array(x), *ARMS.values())
  found = run_arms(jax.random.split(key, num_seeds), world, arms)
  found = jax.tree.map(np.asarray, found)
  curves = {
    "arms": np.array(list(ARMS)),
    "ks": np.array(learner.KS),
    "steps": np.arange(0, learner.STEPS + 1, EVERY),
    "train": found.train,
    "held_out": found.held_out,
    "uplift": found.uplift,
  }
  curves = {f"training/{name}": x for name, x in curves.items()}
  title = (
    f"pass@1, 4, 16 on problems trained on, @64, 256 held out, and share of"
    f" unlikely correct samples that rise: means of {num_seeds} seeds"
  )
  return harness.Part(_claims(found), curves, {title: _rows(found)})


def _rows(found: Found) -> list[dict]:
  rows = {name: {"arm": name} for name in ("base", *ARMS)}
  for which, ks in SHOWN.items():
    for k in ks:
      for name, values in _last(found, which, k).items():
        rows[name][f"@{k}"] = float(np.mean(values).round(4))
  for name, values in _last(found, "held_out", 256).items():
    least, most = values.min(), values.max()
    rows[name]["@256 from"] = float(least.round(4))
    rows[name]["to"] = float(most.round(4))
  for name, values in zip(ARMS, found.unlikely, strict=True):
    rows[name]["rise"] = float(np.mean(values).round(4))
  rows["base"]["rise"] = ""
  return list(rows.values())


def plot(curves: dict[str, np.ndarray]) -> dict[str, Figure]:
  """Pass@k at the ends, and the ways there."""
  arms, ks, steps, train, held_out, uplift = (
    curves[f"training/{name}"]
    for name in ("arms", "ks", "steps", "train", "held_out", "uplift")
  )
  ends, (left, right) = plotting.figure(1, 2, width=3.8, height=3.4)
  ways, axes = plotting.figure(1, 3, width=3.4, height=3.4)
  panels = (
    (left, ks, train[:, :, -1], "trained on", "pass@k"),
    (right, ks, held_out[:, :, -1], "held out", "pass@k"),
    (axes[0], steps, train[..., 0], "trained on", "pass@1"),
    (axes[1], steps, held_out[..., -1], "held out", f"pass@{ks[-1]}"),
    (
      axes[2],
      np.arange(uplift.shape[-1]),
      uplift,
      "correct samples that rise",
      "share",
    ),
  )
  bases = ((left, train[0, 0, 0]), (right, held_out[0, 0, 0]))
  for axis, base in bases:
    axis.plot(ks, base, "k:", label="base")
    plotting.log_scale(axis, "x")
  for axis, x, values, title, label in panels:
    for i, name in enumerate(arms):
      if axis is axes[2] and name in REPEATED:
        continue  # ranks of a stale policy
      plotting.band(axis, x, values[i], name, **plotting.line_style(i))
    axis.set(title=title, ylabel=label, xlabel="gradient step")
  left.set(xlabel="k")
  right.set(xlabel="k")
  axes[2].set(xlabel="rank of likelihood in the group")
  for figure, panel in ((ends, left), (ways, axes[0])):
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
  return {"pass_at_k": ends, "training": ways}
