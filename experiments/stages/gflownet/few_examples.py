# SPDX-License-Identifier: Apache-2.0
"""Fifteen problems to learn from, others to be solved: what is kept of variety.

A sequence is a strategy, and one policy serves all problems; a strategy solves
a problem or not. Four of the 64 are better than the others. The reward is the
share of the fifteen that a strategy solves, with one success and one failure
added, to the power of four.
"""

import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from experiments.stages.gflownet import training
from jaxalign.exact import bandit

NUM_PROBLEMS, NUM_EXAMPLES = 96, 15
SHARPNESS = 4
SAMPLES = np.array([1, 2, 4, 8, 16, 32, 64])
SHOWN = 16


def problems() -> tuple[np.ndarray, np.ndarray]:
  """Which strategy solves which problem: bool `[96, 64]`, twice.

  The first as described; in the second each problem has but two solutions.
  """
  world = bandit.shared_strategies(0)
  return np.asarray(world.train), np.asarray(world.held_out)


def worlds(seeds: range) -> tuple[np.ndarray, np.ndarray]:
  """Log-rewards `[S, 64]`, and the problems not learned from `[S, 81, 64]`."""
  common, _ = problems()
  rewards, unseen = [], []
  for seed in seeds:
    order = np.random.default_rng(seed).permutation(NUM_PROBLEMS)
    solved = common[order[:NUM_EXAMPLES]].sum(0)
    rewards.append((solved + 1) / (NUM_EXAMPLES + 2))
    unseen.append(common[order[NUM_EXAMPLES:]])
  return SHARPNESS * np.log(rewards), np.stack(unseen)


def pass_at(law: np.ndarray, solved: np.ndarray) -> np.ndarray:
  """Mean of `1 - (1 - p)^k` over problems, p the mass of their solutions.

  Args:
    law: `[..., S, 64]`.
    solved: bool `[S, problems, 64]`.

  Returns:
    `[..., S, len(SAMPLES)]`.
  """
  chance = np.einsum("...sy,sjy->...sj", law, solved)
  missed = np.clip(1 - chance, 0, 1)[..., None] ** SAMPLES
  return 1 - missed.mean(-2)


def distinct(law: np.ndarray, solved: np.ndarray) -> np.ndarray:
  """Expected number of different solutions among k samples, as `pass_at`."""
  drawn = 1 - (1 - law[..., None]) ** SAMPLES
  return np.einsum("...syk,sjy->...sk", drawn, solved) / solved.shape[1]


def few_examples(law: np.ndarray, unseen: np.ndarray) -> harness.Part:
  """Claims on problems that were not learned from.

  Args:
    law: `[arms, S, 64]`, at the end.
    unseen: bool `[S, 81, 64]`.
  """
  start = np.full_like(law[:1], 1 / training.NUM_SEQUENCES)
  names = [*training.ARMS, "start"]
  laws = np.concatenate([law, start])
  _, rare = problems()
  rare = np.broadcast_to(rare, (law.shape[1], *rare.shape))
  figures = {
    "pass": pass_at(laws, unseen),
    "distinct": distinct(laws, unseen),
    "rare": pass_at(laws, rare),
  }
  at = {key: dict(zip(names, x, strict=True)) for key, x in figures.items()}
  shown = list(SAMPLES).index(SHOWN)
  gain = at["pass"]["VarGrad"][:, 0] / at["pass"]["start"][:, 0]
  variety = {name: x[:, shown] for name, x in at["distinct"].items()}
  more = {name: x[:, shown] - x[:, 0] for name, x in at["pass"].items()}
  claims = [
    harness.Claim(
      name="examples_accuracy",
      statement="15 examples, VarGrad: pass@1 on unseen problems over that of"
      " the start, mean of all seeds",
      theory=1.0,
      measured=gain.mean(),
      tolerance=0.0,
      relation=">=",
      interval=harness.confidence_interval(gain),
    ),
    harness.Claim(
      name="examples_variety",
      statement="15 examples: different solutions among 16 samples on unseen"
      " problems, VarGrad's over REINFORCE's, smallest of all seeds",
      theory=1.0,
      measured=np.min(variety["VarGrad"] / variety["REINFORCE"]),
      tolerance=0.0,
      relation=">=",
    ),
    harness.Claim(
      name="examples_pass",
      statement="15 examples: pass@16 on unseen problems, VarGrad's over"
      " REINFORCE's, smallest of all seeds",
      theory=1.0,
      measured=np.min(
        at["pass"]["VarGrad"][:, shown] / at["pass"]["REINFORCE"][:, shown]
      ),
      tolerance=0.0,
      relation=">=",
    ),
    harness.Claim(
      name="examples_gain",
      statement="15 examples: what 16 samples solve beyond one on unseen"
      " problems, VarGrad's over REINFORCE's, smallest of all seeds",
      theory=1.0,
      measured=np.min(more["VarGrad"] / more["REINFORCE"]),
      tolerance=0.0,
      relation=">=",
    ),
  ]
  columns = {
    "pass@1": figures["pass"][..., 0],
    "pass@16": figures["pass"][..., shown],
    "distinct@16": figures["distinct"][..., shown],
    "rare pass@16": figures["rare"][..., shown],
    "rare pass@64": figures["rare"][..., -1],
  }
  rows = harness.rows(
    arm=names, **{name: x.mean(1) for name, x in columns.items()}
  )
  curves = {f"examples/{key}": x for key, x in figures.items()}
  curves |= {"examples/arms": np.array(names), "examples/samples": SAMPLES}
  return harness.Part(claims, curves, {"15 examples, unseen problems": rows})


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """Pass@k and different solutions, with 95 % intervals over seeds."""
  figure, axes = plotting.figure(1, 3, width=3.6, height=3.0)
  labels = {
    "pass": "pass@k, unseen problems",
    "distinct": "different solutions among k",
    "rare": "pass@k, two solutions of 64",
  }
  for panel, (key, label) in zip(axes, labels.items(), strict=True):
    for i, name in enumerate(curves["examples/arms"]):
      if name in ("SubTB", "DB", "TB"):  # the policy of VarGrad
        continue
      plotting.band(
        panel,
        curves["examples/samples"],
        curves[f"examples/{key}"][i],
        label=name,
        **plotting.line_style(i),
      )
    plotting.log_scale(panel, "x")
    panel.set(xlabel="samples k", ylabel=label)
  axes[0].set_title("learned from 15 problems")
  axes[1].legend()
  return figure
