# SPDX-License-Identifier: Apache-2.0
"""GRPO with a divergence to the base, from stored samples of the base.

Gradient descent on samples for a fixed number of steps, far from any optimum.
All divergences then help alike: near the base they are one quadratic, and their
weights trade success for variety along one line.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness, plotting
from experiments.stages.diversity import penalties
from experiments.stages.rank_bias import learner
from jaxalign.exact import bandit
from jaxalign.rl import f_regularization

PENALTIES = {
  name: penalties.PENALTIES[name] for name in ("reverse KL", "JS", "forward KL")
}
STORED, EPS_HIGH = 512, 0.28
STRENGTHS = (0.05, 0.1, 0.2, 0.4)  # weight times f''(1)


def arms() -> np.ndarray:
  """Weights `[1 + P E, P]` of the penalties; none in the first row."""
  unit = [1 / penalties.curvatures()[name] for name in PENALTIES]
  rows = np.einsum("pq,e->peq", np.diag(unit), STRENGTHS)
  return np.concatenate([np.zeros((1, len(unit))), rows.reshape(-1, len(unit))])


@functools.partial(jax.jit, static_argnames="num_seeds")
def run_arms(
  key: jax.Array, weights: jax.Array, *, num_seeds: int
) -> tuple[jax.Array, jax.Array]:
  """Train pass@1 and held-out pass@256 `[arms, S]` after the last step."""
  world = bandit.shared_strategies(0)
  base = world.base_log_probs

  def run(weights, key):
    first, second = jax.random.split(key)
    stored = jax.random.choice(first, base.size, (STORED,), p=jnp.exp(base))
    # The mean over stored samples, gathered by strategy.
    share = jnp.zeros_like(base).at[stored].add(1 / STORED)

    def penalty(log_probs):
      means = [
        share @ f_regularization.base_sample_f_terms(log_probs, base, div=div)
        for div in PENALTIES.values()
      ]
      return weights @ jnp.stack(means)

    path = learner.train(second, world, penalty=penalty, eps_high=EPS_HIGH)
    train, held_out = learner.success(world, path.log_probs[-1])
    return train[0], held_out[learner.KS.index(256)]

  keys = jax.random.split(key, num_seeds)
  return jax.vmap(lambda w: jax.vmap(lambda k: run(w, k))(keys))(weights)


def sampled(
  *, key: jax.Array, num_seeds: int, target: float, exact_spread: float
) -> harness.Part:
  """Claims that any divergence helps, and that they lie on one frontier.

  Args:
    key: of all runs.
    num_seeds: runs of each arm.
    target: train pass@1 at which the divergences are compared.
    exact_spread: of held-out pass@256 among exact optima there.
  """
  train, held_out = (
    np.asarray(x) for x in run_arms(key, arms(), num_seeds=num_seeds)
  )
  size = (len(PENALTIES), len(STRENGTHS))
  train, held_out = train.mean(-1), held_out.mean(-1)
  trains, manys = train[1:].reshape(size), held_out[1:].reshape(size)
  # Success falls with the strength, and `interp` wants it to rise.
  there = [
    np.interp(target, x[::-1], y[::-1], left=np.nan, right=np.nan)
    for x, y in zip(trains, manys, strict=True)
  ]
  claims = [
    harness.Claim(
      name="sampled_any",
      statement="sampled GRPO: held-out pass@256 with any divergence, at any"
      " weight, less that without: smallest",
      theory=0.0,
      measured=manys.min() - held_out[0],
      tolerance=0.0,
      relation=">=",
    ),
    harness.Claim(
      name="sampled_frontier",
      statement="sampled GRPO: the divergences lie on one frontier: spread of"
      " held-out pass@256 at train pass@1 = .5, at most half of the exact"
      " optima's",
      theory=exact_spread / 2,
      measured=max(there) - min(there),
      tolerance=0.0,
      relation="<=",
    ),
  ]
  curves = {
    "sampled/names": np.array(list(PENALTIES)),
    "sampled/train": np.insert(trains, 0, train[0], 1),
    "sampled/held_out": np.insert(manys, 0, held_out[0], 1),
  }
  return harness.Part(claims, curves, {_title(num_seeds): _rows(curves, there)})


def _title(num_seeds: int) -> str:
  return (
    f"sampled, means of {num_seeds} seeds: train pass@1 / held-out pass@256 at"
    " strengths (weight times f''(1))"
  )


def _rows(curves: dict[str, np.ndarray], there: list[float]) -> list[dict]:
  rows = []
  for i, name in enumerate(curves["sampled/names"]):
    pairs = zip(
      curves["sampled/train"][i], curves["sampled/held_out"][i], strict=True
    )
    texts = [f"{a:.3f} / {b:.3f}" for a, b in pairs]
    columns = dict(zip(("0", *map(str, STRENGTHS)), texts, strict=True))
    rows.append(
      {"divergence": str(name)} | columns | {"@256 at .5": round(there[i], 4)}
    )
  return rows


def plot(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Both kinds of success, a point for each weight."""
  colours = list(penalties.PENALTIES)
  for i, name in enumerate(curves["sampled/names"]):
    axes.plot(
      curves["sampled/train"][i],
      curves["sampled/held_out"][i],
      marker="o",
      markersize=3,
      **plotting.line_style(colours.index(name)),
    )
  axes.set(
    xlabel="train pass@1",
    ylabel="held-out pass@256",
    title="Sampled, 300 steps, all weights",
  )
