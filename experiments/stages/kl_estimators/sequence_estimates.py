# SPDX-License-Identifier: Apache-2.0
"""Estimators of the sequence KL on random tables: bias, variance, gradients.

Against zero bias, against the gradient of the sequence KL and the score of the
prefix, and against one another.
"""

import jax
import numpy as np
from matplotlib.axes import Axes

from experiments import harness, plotting
from experiments.stages.kl_estimators import comparison, enumeration
from experiments.stages.kl_estimators.enumeration import (
  SURROGATES,
  UNBIASED,
  VALUES,
)


def median_interval(x: np.ndarray) -> tuple[float, float]:
  """95 % interval of the median by order statistics (normal approximation)."""
  x, half = np.sort(x), 0.98 * np.sqrt(x.size)
  low = max(int(np.floor(x.size / 2 - half)), 0)
  high = min(int(np.ceil(x.size / 2 + half)), x.size - 1)
  return float(x[low]), float(x[high])


def _below_one(name: str, statement: str, ratio: np.ndarray) -> harness.Claim:
  """Claims that the median of ratios is at most 1."""
  return harness.Claim(
    name=name,
    statement=f"{statement}: median ratio over tables",
    theory=1.0,
    measured=np.median(ratio),
    tolerance=0.0,
    relation="<=",
    interval=median_interval(ratio),
  )


def _value_claims(found: dict[str, np.ndarray]) -> list[harness.Claim]:
  """Estimates of the KL have no bias, and an order of their variances."""
  k1, k3, rao_blackwell, k3_sequence = found["variance"].T
  return [
    comparison.exact_claim(
      "sequence_values_unbiased",
      "all four estimates of the sequence KL have its mean",
      [found["bias"]],
    ),
    _below_one(
      "rao_blackwell_below_k3",
      "variance of the Rao-Blackwell estimate below that of k3",
      rao_blackwell / k3,
    ),
    _below_one(
      "k3_below_k1", "variance of k3 by tokens below that of k1", k3 / k1
    ),
    _below_one(
      "k1_below_sequence_k3",
      "variance of k1 below that of k3 on the sequence's ratio",
      k1 / k3_sequence,
    ),
  ]


def _gradient_claims(found: dict[str, np.ndarray]) -> list[harness.Claim]:
  """Three surrogates are exact, four lack one term; an order of the noises."""
  noise = dict(zip(SURROGATES, found["noise"].T, strict=True))
  truncated = found["error"][:, len(UNBIASED)]
  return [
    comparison.exact_claim(
      "exact_surrogates",
      "k2 of the sequence, reward to go and Rao-Blackwell surrogates have the"
      " gradient of the sequence KL",
      [found["error"][:, : len(UNBIASED)]],
    ),
    comparison.exact_claim(
      "truncated_surrogates_agree",
      "sum of KL_t, of k2_t, of sg(lr_t) log pi_t and token penalties have one"
      " expected gradient",
      [found["disagreement"]],
    ),
    harness.Claim(
      name="truncated_error",
      statement="relative gradient error of the token by token surrogates is"
      " the score of the prefix left out: median over tables",
      theory=np.median(found["left_out"]),
      measured=np.median(truncated),
      tolerance=comparison.EXACT,
      interval=median_interval(truncated),
    ),
    _below_one(
      "rao_blackwell_gradient_noise",
      "variance of the Rao-Blackwell gradient below that of reward to go",
      noise["Rao-Blackwell"] / noise["reward to go"],
    ),
    _below_one(
      "to_go_gradient_noise",
      "variance of the reward to go gradient below that of k2 of the sequence",
      noise["reward to go"] / noise["k2 of the sequence"],
    ),
  ]


def _tables(found: dict[str, np.ndarray]) -> dict[str, list[dict]]:
  """One row an estimate and one row a surrogate."""
  variance = found["variance"]
  return {
    "estimates of the sequence KL": [
      {
        "estimate": name,
        "largest bias": np.abs(found["bias"][:, i]).max(),
        "median variance": np.median(variance[:, i]),
        "below k1, share": np.mean(variance[:, i] < variance[:, 0]),
      }
      for i, name in enumerate(VALUES)
    ],
    "surrogates of the sequence KL": [
      {
        "surrogate": name,
        "median error": np.median(found["error"][:, i]),
        "largest error": found["error"][:, i].max(),
        "median cosine": np.median(found["cosine"][:, i]),
        "median variance": np.median(found["noise"][:, i]),
      }
      for i, name in enumerate(SURROGATES)
    ],
  }


def sequence_estimates(
  key: jax.Array, *, tables: int, vocab: int, length: int
) -> harness.Part:
  """Claims, curves and tables of values and surrogates.

  Args:
    key: of the tables.
    tables: random pairs of autoregressive tables.
    vocab: tokens of the vocabulary.
    length: tokens of a sequence.
  """
  keys = jax.random.split(key, tables)
  found = jax.tree.map(
    np.asarray, enumeration.enumerate_tables(keys, vocab=vocab, length=length)
  )
  curves = {
    "value_variances": found["variance"],
    "gradient_errors": found["error"],
    "gradient_noise": found["noise"],
    "sequence_kls": found["kl"],
  }
  claims = [*_value_claims(found), *_gradient_claims(found)]
  return harness.Part(claims, curves, _tables(found))


def draw(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Errors of the expected gradient, one bar a surrogate."""
  positions = np.arange(len(SURROGATES))
  low, middle, high = np.quantile(
    curves["gradient_errors"], [0.05, 0.5, 0.95], 0
  )
  colors = ["C2"] * len(UNBIASED) + ["C3"] * (len(SURROGATES) - len(UNBIASED))
  axes.barh(
    positions,
    middle,
    xerr=[middle - low, high - middle],
    color=colors,
    error_kw={"elinewidth": 0.8},
  )
  axes.set_yticks(positions, SURROGATES)
  axes.invert_yaxis()
  axes.set_axisbelow(True)
  axes.set(
    xscale="log",
    xlabel="relative error (median, 5 to 95 % of tables)",
    title="sequences: error of the expected gradient",
  )


def plot(curves: dict[str, np.ndarray]):
  """Variances over tables, of values and of gradients."""
  figure, (by_value, by_gradient) = plotting.figure(1, 2, width=5.2)
  for axes, variances, names, title in (
    (
      by_value,
      curves["value_variances"],
      VALUES,
      "values of the sequence KL",
    ),
    (
      by_gradient,
      curves["gradient_noise"][:, : len(UNBIASED)],
      UNBIASED,
      "gradients of the exact surrogates",
    ),
  ):
    for name, x in zip(names, np.sort(variances, 0).T, strict=True):
      axes.plot(x, (np.arange(x.size) + 0.5) / x.size, label=name)
    axes.set(
      xscale="log",
      xlabel="variance of one sequence's estimate",
      ylabel="share of random tables below",
      title=title,
    )
    axes.legend()
  return figure
