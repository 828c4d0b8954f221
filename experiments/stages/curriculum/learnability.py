# SPDX-License-Identifier: Apache-2.0
"""What the mean |A| says of a problem, and what weights make of it, exactly."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness
from experiments.stages.curriculum import worlds
from jaxalign.rl import advantages, curriculum

EXACT = 1e-12  # sums of 256 terms in float64
SUCCESS = np.linspace(0, 1, 101)
COUNTS = np.array([20, 50, 100])
DDOFS = (0, 1)
TEMPERATURE = 0.1


@jax.jit
def measure() -> dict:
  """Closed forms, what they are of, and weights."""
  size = worlds.NUM_GENERATIONS
  groups = jnp.array(list(itertools.product((0.0, 1.0), repeat=size)))
  right = groups.sum(1)
  p = jnp.asarray(SUCCESS)
  law = p[:, None] ** right * (1 - p[:, None]) ** (size - right)
  advantage = functools.partial(
    advantages.group_advantages, num_generations=size, eps=0.0
  )
  expected = functools.partial(
    curriculum.expected_abs_advantage, num_generations=size
  )
  number = len(worlds.SUCCESS)
  by_count = jax.vmap(
    lambda n: curriculum.ucb_weights(
      jnp.full(number, 0.5), jnp.full(number, COUNTS[-1]).at[-1].set(n)
    )
  )
  return {
    "expected": {d: expected(p, ddof=d) for d in DDOFS},
    "of groups": {
      d: law @ jnp.abs(advantage(groups, ddof=d)).mean(1) for d in DDOFS
    },
    "equal": curriculum.ucb_weights(
      jnp.full(number, 0.5), jnp.full(number, 100)
    ),
    "by count": by_count(jnp.asarray(COUNTS)),
  }


def learnability() -> harness.Part:
  """Claims on learnability and on the weights."""
  found = jax.tree.map(np.asarray, measure())
  expected, number = found["expected"], len(worlds.SUCCESS)
  log_odds = np.log(found["by count"][:, -1] / found["by count"][:, 0])
  total = (number - 1) * COUNTS[-1] + COUNTS
  rarer = 1 / np.sqrt(COUNTS + 1) - 1 / np.sqrt(COUNTS[-1] + 1)
  bonus = np.sqrt(2 * np.log(total + 1)) * rarer / TEMPERATURE
  claims = [
    harness.all_agree(
      "learnability",
      "mean |A| of binary GRPO in closed form is that over all groups: largest"
      " difference over success probabilities",
      [expected[d] - found["of groups"][d] for d in DDOFS],
      tolerance=EXACT,
    ),
    harness.all_agree(
      "learnability_ends",
      "mean |A| vanishes where all are right or all are wrong: largest",
      [expected[d][[0, -1]] for d in DDOFS],
      tolerance=0.0,
    ),
    harness.all_agree(
      "uniform",
      "equal learnability and counts give equal weights: largest difference",
      [found["equal"] - 1 / number],
      tolerance=EXACT,
    ),
    harness.all_agree(
      "exploration",
      "a distribution that has been seen less is preferred by the odds of its"
      " bonus: largest difference of log-odds",
      [log_odds - bonus],
      tolerance=EXACT,
    ),
  ]
  at = [round(100 * p) for p in worlds.SUCCESS]
  tables = {
    "mean |A| of binary GRPO": harness.rows(
      success=SUCCESS[at], **{f"ddof_{d}": expected[d][at] for d in DDOFS}
    )
  }
  curves = {"learnability/success": SUCCESS, "learnability/mean": expected[1]}
  return harness.Part(claims, curves, tables)


def plot(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """The closed form, and where the distributions start."""
  axes.plot(curves["learnability/success"], curves["learnability/mean"], "k")
  for i, p in enumerate(worlds.SUCCESS):
    mean = np.interp(
      p, curves["learnability/success"], curves["learnability/mean"]
    )
    axes.plot(p, mean, "o", color=f"C{i}")
  axes.set(
    xlabel="success probability",
    ylabel="mean |A|",
    title="learnability (dots: at the start)",
  )
