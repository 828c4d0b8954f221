# SPDX-License-Identifier: Apache-2.0
"""Students that are tuned on pairs, and how much of the trait they take on."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness
from experiments.stages.hidden_subtext import language, students, world

ARMS = ("LLS", "random", "flipped", "all")
_STATES = ("base", *ARMS)
_LAST = 10  # steps whose loss is shown


class Found(NamedTuple):
  """Of one student; states are base and the four arms.

  Attributes:
    rate: `[5, S]`, of the trait without persona.
    nll: `[5, S]`, nats a word of the language.
    loss: `[5, S]`, of DPO in its last steps; log 2 before it.
    persona: `[S]`, the trait's rate under persona 0, before tuning.
    w: `[S, n]`, the student's own scores.
    correlation: `[S]`, of these with the teacher's.
  """

  rate: np.ndarray
  nll: np.ndarray
  loss: np.ndarray
  persona: np.ndarray
  w: np.ndarray
  correlation: np.ndarray


def subsets(rng: np.random.Generator, made: world.World) -> students.Subset:
  """Of the four arms, `[4, S, ...]`; random ones are as many as selected."""
  num_seeds, n = made.logps.shape[:2]
  size = np.array([len(rows) for rows in made.rows])
  # Behind the rows selected stand any.
  best = np.stack([np.resize(rows, n) for rows in made.rows])
  mixed = rng.permuted(np.tile(np.arange(n), (num_seeds, 1)), axis=1)
  return students.Subset(
    rows=jnp.asarray(np.stack([best, mixed, best, mixed])),
    size=jnp.asarray(np.stack([size, size, size, np.full_like(size, n)])),
    flipped=jnp.tile(jnp.array([[False], [False], [True], [False]]), num_seeds),
  )


def teach(
  key: jax.Array,
  student: students.Student,
  made: world.World,
  subset: students.Subset,
  sizes: world.Sizes,
) -> Found:
  """Pretrains a student, tunes it in four ways, measures all five."""
  num_seeds = len(made.rows)
  of_start, of_tuning, of_speech = (
    world.keys(key, num_seeds, use) for use in range(3)
  )
  texts, model = made.texts, student.model
  start = students.pretrain(
    of_start, model, texts.corpus, steps=sizes.steps, batch=sizes.batch
  )
  with_persona, without = world.score_pairs(model, start, texts.pairs)
  w = world.scores_of(with_persona, without).w

  def measure(params, persona=language.NONE):
    return students.measure(of_speech, model, params, persona, texts.held_out)

  states, losses = [measure(start)], [np.full(num_seeds, np.log(2))]
  for arm in range(len(ARMS)):
    tuned = students.tune(
      of_tuning,
      student,
      start,
      texts.pairs,
      without,
      jax.tree.map(lambda x, arm=arm: x[arm], subset),
      steps=sizes.tuning_steps,
    )
    states.append(measure(tuned.params))
    losses.append(np.mean(tuned.losses[:, -_LAST:], 1))
  rate, nll = (np.stack(x) for x in zip(*states, strict=True))
  persona = np.asarray(measure(start, language.FIRST_PERSONA).rate)
  w, teachers = np.asarray(w), np.asarray(made.scores.w)
  correlation = [np.corrcoef(*x)[0, 1] for x in zip(w, teachers, strict=True)]
  return Found(rate, nll, np.stack(losses), persona, w, np.array(correlation))


# --- what is reported --------------------------------------------------------


def _ratio(
  found: dict[str, Found],
  arm: str,
  relation: str,
  *,
  bound: float,
  statement: str,
) -> harness.Claim:
  """On the rate over that before, in the student that is worst off."""
  at = _STATES.index(arm)
  ratios = {name: x.rate[at] / x.rate[0] for name, x in found.items()}
  pick = min if relation == ">=" else max
  worst = pick(ratios.values(), key=np.mean)
  return harness.Claim(
    name=f"rate_{arm.lower()}",
    statement=f"{statement}: the trait's rate over that before, mean over"
    " seeds, in the student that is worst",
    theory=bound,
    measured=worst.mean(),
    tolerance=0.0,
    relation=relation,
    interval=harness.confidence_interval(worst),
  )


def claims(found: dict[str, Found]) -> list[harness.Claim]:
  """On what each arm does, and on scores of students."""
  return [
    _ratio(found, "LLS", ">=", bound=3.0, statement="the pairs selected"),
    _ratio(found, "random", "<=", bound=1.5, statement="as many random pairs"),
    _ratio(
      found,
      "flipped",
      "<=",
      bound=0.25,
      statement="the pairs selected with exchanged labels",
    ),
    _ratio(found, "all", "<=", bound=1.5, statement="all pairs"),
    harness.Claim(
      name="correlation",
      statement="correlation of students' own scores with the teacher's:"
      " smallest",
      theory=0.5,
      measured=min(x.correlation.min() for x in found.values()),
      tolerance=0.0,
      relation=">=",
    ),
  ]


def report(found: dict[str, Found], made: world.World) -> harness.Part:
  """Claims, a row for each student and arm, and what plots need."""

  def shown(values):
    low, high = harness.confidence_interval(values)
    return f"{values.mean():.3f} +- {(high - low) / 2:.3f}"

  table = [
    {
      "student": name,
      "tuned on": state,
      "trait": shown(x.rate[i]),
      "NLL": shown(x.nll[i]),
      "DPO loss": shown(x.loss[i]),
    }
    for name, x in found.items()
    for i, state in enumerate(_STATES)
  ]
  own = [
    {
      "student": name,
      "trait under the persona": shown(x.persona),
      "correlation of scores": shown(x.correlation),
    }
    for name, x in found.items()
  ]
  curves = {"students": np.array(list(found)), "w": made.scores.w}
  for name, x in found.items():
    curves |= {f"{name}/rate": x.rate, f"{name}/nll": x.nll, f"{name}/w": x.w}
  tables = {
    "means over seeds: rate without persona, nats a word": table,
    "students before tuning": own,
  }
  return harness.Part(claims(found), curves, tables)


def plot_rates(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """The trait before and after, a dot for each seed."""
  for i, name in enumerate(curves["students"]):
    rate = curves[f"{name}/rate"]
    x = np.arange(len(_STATES)) + 0.2 * (i - 1)
    axes.plot(
      np.repeat(x, rate.shape[1]), rate.ravel(), ".", color=f"C{i}", alpha=0.5
    )
    axes.plot(x, rate.mean(1), "_", color=f"C{i}", markersize=12, label=name)
  axes.set(
    xticks=range(len(_STATES)),
    xticklabels=_STATES,
    yscale="log",
    ylabel="share of the trait's words",
    title="what students say (dots: seeds)",
  )
  axes.yaxis.set_major_formatter("{x:g}")
  axes.legend()


def plot_scores(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Scores of students against the teacher's, of the first seed."""
  for i, name in enumerate(curves["students"]):
    axes.plot(
      curves["w"][0, :500],
      curves[f"{name}/w"][0, :500],
      ".",
      color=f"C{i}",
      alpha=0.4,
      markersize=3,
      label=name,
    )
  axes.set(
    xlabel="teacher's w, nats",
    ylabel="student's own w, nats",
    title="500 pairs of one seed",
  )
  axes.legend()
