# SPDX-License-Identifier: Apache-2.0
"""The maps, and the action gaps of a chain whose only reward is at its end."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments import harness, plotting
from jaxalign.exact import mdp as tables
from jaxalign.rl import value_mapping

STATES, SCALE = 30, 0.5
DISCOUNTS = (0.6, 0.96)
# As published: what a reward of 1 is worth after 100 steps.
FLOORS = tuple(g**100 for g in DISCOUNTS)
LOGS = tuple(value_mapping.log_map(scale=SCALE, floor=d) for d in FLOORS)


def chain(discount: float) -> tables.TabularMDP:
  """Left or right along a line; leaving it on the right gives 1 and ends."""
  transitions = np.zeros((STATES + 1, 2, STATES + 1))
  for s in range(STATES):
    transitions[s, 0, max(s - 1, 0)] = 1
    transitions[s, 1, s + 1] = 1
  transitions[STATES, :, STATES] = 1
  rewards = np.zeros((STATES + 1, 2))
  rewards[STATES - 1, 1] = 1
  return tables.TabularMDP(transitions, rewards, discount)


@jax.jit
def _measure(
  x: jax.Array, chains: tables.TabularMDP
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Both maps' `f^-1(f(x))`; Q* of the chains, plain and mapped `[2, S, 2]`."""
  log_linear = value_mapping.log_linear_map(scale=SCALE, floor=FLOORS[1])
  inverted = [f.inverse(f.forward(x)) for f in (LOGS[1], log_linear)]
  best = jax.vmap(
    lambda mdp: tables.action_values(mdp, tables.optimal_values(mdp))
  )(chains)
  mapped = [log.forward(q) for log, q in zip(LOGS, best, strict=True)]
  return jnp.stack(inverted), best, jnp.stack(mapped)


def maps() -> harness.Part:
  """Claims on inverses and on gaps."""
  x = np.geomspace(FLOORS[1], 50, 300)
  chains = jax.tree.map(lambda *x: np.stack(x), *map(chain, DISCOUNTS))
  inverted, best, mapped = map(np.asarray, _measure(x, chains))
  # Left of the first state is the first state, and the goal has no gap.
  plain, gaps = (q[:, 1:STATES, 1] - q[:, 1:STATES, 0] for q in (best, mapped))
  theory = 2 * SCALE * np.log(1 / np.array(DISCOUNTS))[:, None]
  claims = [
    harness.all_agree(
      "maps_inverse",
      "both maps: f^-1(f(x))/x - 1 for x from the floor to 50",
      [inverted / x - 1],
      # f^-1 multiplies the rounding of f by its size, 4.
      tolerance=1e-13,
    ),
    harness.all_agree(
      "maps_gaps",
      "chain: mapped action gap over 2 c log(1/g), less 1, in every state",
      [gaps / theory - 1],
      tolerance=1e-11,
    ),
  ]
  curves = {
    "maps/discounts": np.array(DISCOUNTS),
    "maps/distance": np.arange(STATES - 1, 0, -1),
    "maps/linear": plain,
    "maps/log": gaps,
  }
  return harness.Part(claims, curves, {})


def plot(curves: dict[str, np.ndarray]) -> Figure:
  """The gaps over the distance from the goal."""
  figure, (axes,) = plotting.figure()
  for i, discount in enumerate(curves["maps/discounts"]):
    for name, line in (("linear", "-"), ("log", "--")):
      gaps = curves[f"maps/{name}"][i]
      axes.plot(
        curves["maps/distance"],
        gaps,
        f"C{i}{line}",
        label=f"{name}, g = {discount:g}",
      )
  plotting.log_scale(axes, "y")
  axes.set(
    xlabel="steps to the goal", ylabel="gap between the actions",
    title="chain with one reward",
  )  # fmt: skip
  axes.legend()
  return figure
