# SPDX-License-Identifier: Apache-2.0
"""LazyHedge on concave functions whose coordinates must be found one by one."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness, plotting
from jaxalign.learning import on_demand_sampling

REGIONS = ("box", "ellipsoid")
GROWTH = 2.0
MOST_COST = 4.3  # the largest seen up to k = 1024: the lemma says O~(1)
FOLLOWED = 16  # distributions, of the run that is followed step by step


def steps_of(k: int, steps: int) -> int:
  """Fewer steps where k is large."""
  return steps if k < 1024 else steps * 2 // 5


def _solve(instance, k: int, steps: int):
  """LazyHedge with both regions: rounds, cost and value reached, `[2]`."""
  value = functools.partial(on_demand_sampling.oods_value, instance)
  found = [
    on_demand_sampling.lazy_hedge(
      jax.grad(value), k, steps=steps, growth=GROWTH, region=region
    )
    for region in REGIONS
  ]
  return jax.tree.map(
    lambda *x: jnp.stack(x),
    *[(f.rounds, f.cost, value(f.average)) for f in found],
  )


def _follow(instance, steps: int):
  """Caps of every step `[2, T, k]`, and whether each region holds the weights.

  Returns:
    Caps by region; and, by region that lets the caps grow and region that is
    asked, `[2, 2, T]`.
  """
  slope = jax.grad(functools.partial(on_demand_sampling.oods_value, instance))
  eta = on_demand_sampling.hedge_step_size(FOLLOWED, steps)

  def run(region):
    def step(state, _):
      state = on_demand_sampling.lazy_hedge_expand(
        state, growth=GROWTH, region=region
      )
      weights = jnp.exp(state.log_weights)
      inside = jnp.stack(
        [
          on_demand_sampling.in_region(weights, state.caps, region=r)
          for r in REGIONS
        ]
      )
      after = on_demand_sampling.lazy_hedge_update(
        state, slope(weights), eta=eta
      )
      return after, (state.caps, inside)

    start = on_demand_sampling.lazy_hedge_init(FOLLOWED, growth=GROWTH)
    caps, inside = jax.lax.scan(step, start, length=steps)[1]
    return caps, inside.T

  caps, inside = zip(*(run(region) for region in REGIONS), strict=True)
  return jnp.stack(caps), jnp.stack(inside)


def _solve_all(key, distributions, steps):
  """Rounds, cost and gap to the maximum, `[3, k, region]`, and its bound."""
  found, bounds = [], []
  for i, k in enumerate(distributions):
    num = steps_of(k, steps)
    instance = on_demand_sampling.oods_hard_instance(
      jax.random.fold_in(key, i), k, math.isqrt(k)
    )
    solve = jax.jit(functools.partial(_solve, k=k, steps=num))
    rounds, cost, value = solve(instance)
    found.append((rounds, cost, instance.maximum - value))
    bounds.append(2 * math.sqrt(math.log(k) / num))
  return np.moveaxis(found, 1, 0), np.array(bounds)


def _path_claims(key, steps: int) -> list[harness.Claim]:
  """Claims on every step of a small run."""
  small = on_demand_sampling.oods_hard_instance(
    key, FOLLOWED, math.isqrt(FOLLOWED)
  )
  follow = jax.jit(functools.partial(_follow, steps=steps))
  caps, inside = map(np.asarray, follow(small))
  return [
    harness.none_exceeds(
      "caps_grow",
      "caps never decrease: largest decrease in a step",
      [-np.diff(caps, axis=1)],
      tolerance=0.0,
    ),
    harness.all_agree(
      "covered",
      "weights for which data are asked lie in the region of the caps, those in"
      " the box in the ellipsoid too: exceptions",
      [~inside[np.arange(2), np.arange(2)], inside[:, 0] & ~inside[:, 1]],
      tolerance=0.0,
    ),
  ]


def _claims(k, rounds, cost, gap, bounds) -> list[harness.Claim]:
  return [
    harness.all_agree(
      "box_rounds",
      "rounds of LazyHedge with the box on the hard function of k"
      " distributions: furthest from sqrt k + 2",
      [rounds[:, 0] - (np.sqrt(k) + 2)],
      tolerance=1.0,  # about that many, and they are whole
    ),
    harness.none_exceeds(
      "box_bound",
      "rounds of LazyHedge with the box: largest excess over k log_2 k + 1",
      [rounds[:, 0] - (k * np.log2(k) + 1)],
      tolerance=0.0,
    ),
    harness.none_exceeds(
      "ellipsoid_rounds",
      "rounds of LazyHedge with the ellipsoid: largest excess over half of"
      " those with the box",
      [rounds[:, 1] - rounds[:, 0] / 2],
      tolerance=0.0,
    ),
    harness.none_exceeds(
      "cost",
      "sum of the caps in the end, which is O~(1): largest excess over 4.3",
      [cost - MOST_COST],
      tolerance=0.0,
    ),
    harness.none_exceeds(
      "near_maximum",
      "distance of the averaged weights from the maximum: largest excess over"
      " 2 sqrt(ln k/T)",
      [gap - bounds[:, None]],
      tolerance=0.0,
    ),
  ]


def hedge(
  key: jax.Array, distributions: tuple[int, ...], steps: int
) -> harness.Part:
  """Claims on rounds, cost and the value reached.

  Args:
    key: of the coordinates that matter; nothing measured depends on which.
    distributions: k of each function.
    steps: T of LazyHedge.
  """
  k = np.array(distributions)
  (rounds, cost, gap), bounds = _solve_all(key, distributions, steps)
  claims = _claims(k, rounds, cost, gap, bounds)
  claims += _path_claims(key, steps // 10)
  tables = {
    "LazyHedge on hard functions": harness.rows(
      k=k,
      steps=np.array([steps_of(n, steps) for n in distributions]),
      **{f"{r}_rounds": rounds[:, i] for i, r in enumerate(REGIONS)},
      **{f"{r}_cost": cost[:, i] for i, r in enumerate(REGIONS)},
      gap=gap.max(1),
      bound=bounds,
    )
  }
  curves = {"hedge/k": k, "hedge/rounds": rounds, "hedge/cost": cost}
  return harness.Part(claims, curves, tables)


def plot(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """Rounds by the number of distributions."""
  k = curves["hedge/k"]
  for i, region in enumerate(REGIONS):
    axes.plot(k, curves["hedge/rounds"][:, i], "o-", label=region)
  axes.plot(k, np.sqrt(k) + 2, "k:", label="sqrt k + 2")
  plotting.log_scale(axes, "x", "y")
  axes.set(
    xlabel="distributions k",
    ylabel="rounds of sampling",
    xticks=k,
    yticks=(2, 4, 8, 16, 32),
    title="LazyHedge on hard functions",
  )
  axes.legend()
