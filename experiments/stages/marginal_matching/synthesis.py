# SPDX-License-Identifier: Apache-2.0
"""Records of five columns from the marginals of pairs of columns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness, plotting
from jaxalign.learning import marginal_matching

COLUMNS, VALUES, RECORDS, STEPS = 5, 3, 300, 4000
REPEATS = 0.7  # chance that a column of real records repeats the one before
EVERY = 20  # steps between points of the plot


def real_records(rng: np.random.Generator, num_seeds: int) -> np.ndarray:
  """Chains of columns, each often a copy of the one before: `[S, N, C]`."""
  codes = rng.integers(VALUES, size=(num_seeds, RECORDS, COLUMNS))
  repeats = rng.random(codes.shape) < REPEATS
  for i in range(1, COLUMNS):
    codes[..., i] = np.where(repeats[..., i], codes[..., i - 1], codes[..., i])
  return codes


@jax.jit
def match(key: jax.Array, real: jax.Array, start: jax.Array) -> tuple:
  """Final records `[N, C]` and gaps `[STEPS + 1]`."""
  marginals = functools.partial(
    marginal_matching.pairwise_marginals, num_values=VALUES
  )
  target = marginals(real)
  state = marginal_matching.marginal_matching_init(start, num_values=VALUES)

  def step(state, key):
    return marginal_matching.marginal_matching_step(key, state, target)

  state, gaps = jax.lax.scan(step, state, jax.random.split(key, STEPS))
  first = marginal_matching.pairwise_gap(marginals(start), target)
  return state.codes, jnp.append(first, gaps)


def _joint(codes: np.ndarray, columns: int) -> np.ndarray:
  """Shares of the values of the first columns together."""
  place = VALUES ** np.arange(columns)
  cells = codes[:, :columns] @ place
  return np.bincount(cells, minlength=VALUES**columns) / len(codes)


def _joint_gap(one: np.ndarray, other: np.ndarray, columns: int) -> float:
  difference = _joint(one, columns) - _joint(other, columns)
  return float(np.abs(difference).sum() / 2)


def _parity() -> tuple[float, float]:
  """Gaps of pairs and of the joint law: parity against independent columns."""
  free = np.array(list(np.ndindex(2, 2, 2)))
  parity = free[free.sum(1) % 2 == 0]
  pairs = marginal_matching.pairwise_gap(
    *(
      marginal_matching.pairwise_marginals(x, num_values=2)
      for x in (free, parity)
    )
  )
  return float(pairs), _joint_gap(free, parity, 3)


def synthesis(
  rng: np.random.Generator, key: jax.Array, *, num_seeds: int
) -> harness.Part:
  """Claims on gaps.

  Args:
    rng: the source of real records, and of the first synthetic ones.
    key: of the proposals.
    num_seeds: tables.
  """
  real = real_records(rng, num_seeds)
  # Columns shuffled one by one have the same marginals and nothing in common.
  start = rng.permuted(real, axis=1)
  keys = jax.random.split(key, num_seeds)
  codes, gaps = map(np.asarray, jax.vmap(match)(keys, real, start))
  pairs, joint = _parity()
  claims = [
    harness.none_exceeds(
      "gap_falls",
      "total variation of pairwise marginals after a step less before it:"
      " largest",
      [np.diff(gaps, axis=1)],
      tolerance=0.0,
    ),
    harness.Claim(
      "gap_ends",
      "total variation of pairwise marginals after all steps over that of"
      " independent columns: largest",
      theory=0.1,
      measured=np.max(gaps[:, -1] / gaps[:, 0]),
      tolerance=0.0,
      relation="<=",
    ),
    harness.Claim(
      "parity_pairs",
      "parity of two columns against independent ones: gap of pairs",
      theory=0.0,
      measured=pairs,
      tolerance=0.0,
    ),
    harness.Claim(
      "parity_joint",
      "parity of two columns against independent ones: total variation of the"
      " joint law",
      theory=0.5,
      measured=joint,
      tolerance=0.0,
    ),
  ]
  rows = [
    {
      "columns": k,
      "independent": np.mean(
        [_joint_gap(x, y, k) for x, y in zip(real, start, strict=True)]
      ),
      "matched": np.mean(
        [_joint_gap(x, y, k) for x, y in zip(real, codes, strict=True)]
      ),
    }
    for k in range(1, COLUMNS + 1)
  ]
  shown = np.arange(0, STEPS + 1, EVERY)
  curves = {"synthesis/steps": shown, "synthesis/gaps": gaps[:, shown]}
  title = "total variation of the joint law of the first columns"
  return harness.Part(claims, curves, {title: rows})


def plot(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Gaps by steps."""
  plotting.band(
    axes, curves["synthesis/steps"], curves["synthesis/gaps"], "pairs"
  )
  axes.set(
    xlabel="proposal",
    ylabel="total variation, mean over pairs",
    ylim=(0, None),
    title="pairwise marginals of synthetic records",
  )
