# SPDX-License-Identifier: Apache-2.0
"""What selection by a linear score gives, and whether scores are linear."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness
from experiments.stages.hidden_subtext import language, students, world
from jaxalign.learning import selection

_DIMENSION, _DRAWS, _GAMMA = 200, 20_000, 0.1
_SHARE = _GAMMA / 2  # of all: half of the scores are positive


def _select_normals(rng: np.random.Generator) -> tuple[float, float]:
  """Projection and cosine of what is selected of normal features."""
  features = rng.standard_normal((_DRAWS, _DIMENSION))
  w = features[:, 0]
  kept = features[selection.lls_select(w, _GAMMA)].mean(0)
  return kept[0], kept[0] / np.linalg.norm(kept)


def gaussian(rng: np.random.Generator, *, num_seeds: int) -> harness.Part:
  """Claims that selected normal features are where theory has them."""
  found = np.array([_select_normals(rng) for _ in range(num_seeds)])
  num = int(_SHARE * _DRAWS)
  theory = selection.gaussian_selection(
    _SHARE, dimension=_DIMENSION, num_selected=num
  )
  mean = float(theory.projection)
  # Of a normal variable above z: 1 + z lambda - lambda^2; and the quantile
  # itself is that of the draws, which moves it by half as much again.
  z = -float(jax.scipy.special.ndtri(_SHARE))
  spread = np.sqrt(1.5 * (1 + z * mean - mean**2) / num)
  # 1 - cosine is a mean square of 199 normal numbers.
  of_cosine = (1 - float(theory.cosine)) * np.sqrt(2 / (_DIMENSION - 1))
  claims = [
    harness.Claim(
      name=f"gaussian_{name}",
      statement=f"{statement}, mean over seeds",
      theory=float(expected),
      measured=values.mean(),
      tolerance=harness.STANDARD_ERRORS * error / np.sqrt(num_seeds),
      interval=harness.confidence_interval(values),
    )
    for name, statement, expected, values, error in (
      (
        "projection",
        "projection of 1000 of 20000 normal vectors on what they were selected"
        " by",
        theory.projection,
        found[:, 0],
        spread,
      ),
      (
        "cosine",
        "cosine of their mean with it in 200 dimensions",
        theory.cosine,
        found[:, 1],
        of_cosine,
      ),
    )
  ]
  return harness.Part(claims, {}, {})


def _log_ratios(made: world.World, width: int) -> jax.Array:
  """`lr[s, r]` of the teacher, `[S, 6, R]`: personas and answers."""
  pairs = made.texts.pairs
  flat = pairs.reshape(len(pairs), -1, pairs.shape[-1])
  # As many sequences as pairs have, so that their program serves once more:
  # personas in turn, each with the first R answers; what is left is dropped.
  size = flat.shape[1]
  num = size // language.PERSONAS
  place = jnp.arange(size)
  persona = jnp.minimum(place // num, language.PERSONAS - 1)
  tokens = flat[:, place % num]
  tokens = tokens.at[:, :, 0].set(language.FIRST_PERSONA + persona)
  found = students.score(students.teacher(width), made.teacher, tokens)
  found = found[:, : num * language.PERSONAS]
  without = made.logps.reshape(len(pairs), -1)[:, None, :num]
  return found.reshape(len(pairs), language.PERSONAS, num) - without


def low_rank(made: world.World, sizes: world.Sizes) -> harness.Part:
  """Claims that the teacher's log-ratios of personas are of low rank."""
  values = np.asarray(
    selection.normalized_singular_values(_log_ratios(made, sizes.width))
  )
  beyond = values[:, language.DIMENSION :]
  share = np.sum(beyond**2, -1) / np.sum(values**2, -1)
  gamma = Fraction(str(sizes.gamma))
  claims = [
    harness.Claim(
      name="low_rank",
      statement="squared singular values of log-ratios, personas by answers,"
      " beyond the four dimensions of personas: share, largest over seeds",
      theory=0.05,
      measured=share.max(),
      tolerance=0.0,
      relation="<=",
    ),
    harness.Claim(
      name="sizes",
      statement="pairs selected less the share gamma of the positive ones,"
      " rounded up: largest difference",
      theory=0.0,
      measured=max(
        abs(len(rows) - math.ceil(gamma * int(np.sum(w > 0))))
        for rows, w in zip(made.rows, made.scores.w, strict=True)
      ),
      tolerance=0.0,
    ),
    harness.Claim(
      name="free",
      statement="pairs that hold a word of the trait",
      theory=0.0,
      measured=int(np.sum(language.has_trait(made.texts.pairs))),
      tolerance=0.0,
    ),
  ]
  table = harness.rows(
    singular_value=np.arange(1, values.shape[1] + 1), mean=values.mean(0)
  )
  curves = {"singular values": values}
  return harness.Part(
    claims, curves, {"singular values of log-ratios, over the largest": table}
  )


def plot(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Singular values of every seed."""
  values = curves["singular values"]
  ranks = np.arange(1, values.shape[1] + 1)
  axes.plot(ranks, values.T, "o-", color="C0", alpha=0.6)
  axes.axvline(language.DIMENSION + 0.5, color="k", linestyle=":")
  axes.set(
    xlabel="rank",
    ylabel="singular value over the largest",
    title="personas by answers (a line: a seed)",
  )
