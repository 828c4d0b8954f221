# SPDX-License-Identifier: Apache-2.0
"""Which format of finetuning makes which facts known."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness
from experiments.stages.knowledge_injection import lessons, mixes

BEFORE = "before"
BEST, FIXED = "QA, templates 0+1", "documents, fixed order"
KINDS = ("categorical", "numerical")


def formats(sizes: mixes.Sizes) -> dict[str, mixes.Format]:
  """The four of the paper's comparison, and documents matched to questions.

  Matched, a fact is stated as often in documents as in questions: each document
  states all of an entity's.
  """
  rows = sizes.new_rows
  fewer = rows // sizes.vocab.num_attributes
  return {
    BEST: mixes.Format(False, 2, False, rows),
    "QA, template 0 only": mixes.Format(False, 1, False, rows),
    "documents, shuffled order": mixes.Format(True, 1, True, rows),
    FIXED: mixes.Format(True, 1, False, rows),
    "shuffled order, matched": mixes.Format(True, 1, True, fewer),
    "fixed order, matched": mixes.Format(True, 1, False, fewer),
  }


def measure(
  key: jax.Array, sizes: mixes.Sizes, *, num_seeds: int
) -> tuple[dict, dict]:
  """Pretrains, and finetunes each format from there.

  Returns:
    `Known` of arrays `[S]`, of the base and by format of the new entities; and
    mean exposures of a fact `[S]` by format.
  """
  training, finetuning, exam = (
    jax.random.split(k, num_seeds) for k in jax.random.split(key, 3)
  )
  start = lessons.pretrain(training, sizes)
  # As many as there are new ones: one program examines both.
  base = jax.tree.map(lambda x: x[:, : sizes.num_new], start.base)
  kinds = formats(sizes)
  stacked = jax.tree.map(lambda *x: jnp.array(x), *kinds.values())
  found = lessons.finetune(finetuning, sizes, start, stacked)
  known = {
    "base": lessons.examine(exam, sizes, start.params, base),
    BEFORE: lessons.examine(exam, sizes, start.params, start.new),
  }
  exposures = {BEFORE: np.zeros(num_seeds)}
  for i, name in enumerate(kinds):
    known[name] = lessons.Known(*(x[i] for x in found.known))
    exposures[name] = np.asarray(found.exposures[i]).mean((1, 2))
  return {
    # Not by a map over the dictionary, which would sort it.
    name: lessons.Known(*(np.asarray(x, np.float64) for x in shares))
    for name, shares in known.items()
  }, exposures


def _claims(
  known: dict[str, lessons.Known], matched: list[np.ndarray], guess: float
) -> list[harness.Claim]:
  """Of shares by format, and of mean exposures that shall be equal."""
  new = {name: x for name, x in known.items() if name != "base"}
  after = {name: x for name, x in new.items() if name != BEFORE}
  gains = {
    kind: getattr(new[BEST], kind) - getattr(new[FIXED], kind) for kind in KINDS
  }
  return [
    *(
      harness.bounded_mean(
        f"questions_{kind}",
        f"share of {kind} facts known after questions, less that after"
        " documents in fixed order: at least",
        gains[kind],
        least,
        ">=",
      )
      for kind, least in zip(KINDS, (0.1, 0.2), strict=True)
    ),
    harness.none_exceeds(
      "numerical_below",
      "in every format fewer numerical facts are known than categorical ones:"
      " largest difference",
      [(x.numerical - x.categorical).mean() for x in new.values()],
      tolerance=0.0,
    ),
    harness.all_agree(
      "no_comparison",
      "which of two new entities has the larger number stays a guess in every"
      " format: share of right answers, largest distance from 1/2",
      [x.comparison.mean() - 0.5 for x in after.values()],
      tolerance=guess,
    ),
    harness.Claim(
      name="matched",
      statement="matched documents state a fact as often as questions do:"
      " ratio",
      theory=1.0,
      measured=matched[0].mean() / matched[1].mean(),
      tolerance=1e-12,
    ),
  ]


def table(
  key: jax.Array, sizes: mixes.Sizes, *, num_seeds: int, guess: float
) -> harness.Part:
  """Claims on the table of formats and kinds of facts.

  Args:
    key: of all draws.
    sizes: of world and model.
    num_seeds: worlds, each with a model of its own.
    guess: how far from 1/2 a share of right comparisons may be.
  """
  known, exposures = measure(key, sizes, num_seeds=num_seeds)
  matched = [exposures["shuffled order, matched"], exposures[BEST]]
  curves = {
    f"{name}/{kind}": share
    for name, shares in known.items()
    for kind, share in shares._asdict().items()
  }
  rows = []
  for name in exposures:
    row = {"format": name, "exposures": exposures[name].mean()}
    for kind, x in known[name]._asdict().items():
      row[kind] = x.mean()
      row[f"+- {kind[:3]}."] = np.ptp(harness.confidence_interval(x)) / 2
    rows.append(row)
  base = {kind: x.mean() for kind, x in known["base"]._asdict().items()}
  tables = {
    "known of the entities of pretraining, before": [base],
    # Intervals are of 95 %.
    "known of new entities, by format and exposures of a fact": rows,
  }
  return harness.Part(_claims(known, matched, guess), curves, tables)


def plot(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Bars by format, with intervals."""
  names = [key.split("/")[0] for key in curves if key.endswith("/numerical")]
  names = [name for name in names if name != "base"]
  for i, kind in enumerate((*KINDS, "comparison")):
    shares = [curves[f"{name}/{kind}"] for name in names]
    half = [np.ptp(harness.confidence_interval(x)) / 2 for x in shares]
    axes.bar(
      np.arange(len(names)) + 0.27 * (i - 1),
      [x.mean() for x in shares],
      width=0.25,
      yerr=half,
      label=kind,
    )
  axes.axhline(0.5, color="k", linestyle=":", linewidth=1)
  axes.set_xticks(
    range(len(names)), [name.replace(", ", ",\n") for name in names]
  )
  axes.set(ylabel="share of right answers", ylim=(0, 1.15))
  axes.set_title("what is known of new entities (dotted: guessing comparisons)")
  axes.legend(ncols=3, loc="upper right")
