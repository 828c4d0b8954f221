# SPDX-License-Identifier: Apache-2.0
"""Certainty equivalents: identities of losses, and the level in recursions.

Expectations are sums over samples, over all trajectories or closed forms.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import harness
from experiments.stages.risk import worlds
from jaxalign.exact import mdp as processes
from jaxalign.rl import risk

LEVEL, LOW = 0.7, -3.0
HORIZON = 3
DISCOUNTS = (0.9, 1.0)
SMALL_LEVEL = 1e-3
# Rewards 1 or -1, twice, independently.
COIN_LEVEL, COIN_DISCOUNT = 1.0, 0.8


def slopes(values: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
  """Gradients `[n]` of both losses in each value."""

  def slope(loss):
    return jax.grad(lambda v: loss(v, targets, level=LEVEL).sum())(values)

  return {
    "ours": slope(risk.itakura_saito_loss),
    "utility": slope(risk.exponential_mse_loss),
  }


def _by_trajectories(mdp, policy) -> jax.Array:
  """Certainty equivalents of returns from each state `[S]`, by definition."""
  num_states = len(mdp.rewards)
  paths = processes.enumerate_trajectories(
    mdp, policy, jnp.ones(num_states), HORIZON
  )
  returns = paths.rewards @ mdp.discount ** jnp.arange(float(HORIZON))
  utilities = paths.probs * jnp.exp(-LEVEL * returns)
  # Trajectories are listed by their first state, as many for each.
  return -jnp.log(utilities.reshape(num_states, -1).sum(-1)) / LEVEL


def worth_of_coin(level: float) -> float:
  """CE of a reward 1 or -1 at even chances, times the level."""
  return -float(np.log(np.cosh(level)))


def coin_by_definition() -> float:
  """Two coins: the certainty equivalent of the four returns."""
  coins = np.array([1.0, -1.0])
  returns = coins[:, None] + COIN_DISCOUNT * coins
  return -float(np.log(np.mean(np.exp(-COIN_LEVEL * returns)))) / COIN_LEVEL


def coin_by_recursion(level_next: jax.Array) -> jax.Array:
  """Two coins: `CE(r + g CE(r'))`, each equivalent at its level."""
  coin = jnp.array([1.0, -1.0])
  later = risk.certainty_equivalent(coin, level=level_next)
  return risk.certainty_equivalent(
    coin + COIN_DISCOUNT * later, level=COIN_LEVEL
  )


def _bellman_errors(mdp: processes.TabularMDP) -> jax.Array:
  """Recursion minus trajectories, for every first state `[S]`."""
  # Any policy serves: its weights depend on the state.
  policy = jax.nn.softmax(mdp.rewards)
  recursion = risk.exponential_policy_values(
    mdp, policy, level=LEVEL, horizon=HORIZON
  )
  return recursion[0] - _by_trajectories(mdp, policy)


@jax.jit
def _measure(
  values: jax.Array, targets: jax.Array, mdps: processes.TabularMDP
) -> dict[str, jax.Array]:
  best = risk.certainty_equivalent(targets, level=LEVEL)
  at_best = slopes(jnp.full_like(targets, best), targets)
  small = risk.itakura_saito_loss(values, targets, level=SMALL_LEVEL)
  levels = COIN_LEVEL * jnp.array([COIN_DISCOUNT, 1.0])
  return {
    "at_best": at_best["ours"].mean(),
    "small_gap": jnp.abs(small - (values - targets) ** 2 / 2),
    "slopes": slopes(values, targets),
    "bellman": jax.vmap(_bellman_errors)(mdps),
    "recursions": jax.vmap(coin_by_recursion)(levels),
  }


def _claims(
  found: dict, values: np.ndarray, targets: np.ndarray
) -> list[harness.Claim]:
  distance = np.abs(values - targets)
  near = SMALL_LEVEL * distance
  ratios = found["slopes"]["utility"] / found["slopes"]["ours"]
  now, later = COIN_LEVEL, COIN_LEVEL * COIN_DISCOUNT
  return [
    harness.all_agree(
      "minimiser",
      "the mean Itakura-Saito loss has gradient 0 at the certainty equivalent"
      " of its targets",
      [found["at_best"]],
      tolerance=1e-12,
    ),
    harness.none_exceeds(
      "small_level",
      "at a level a of .001 the loss is half the squared error up to"
      " a d^3 exp(a d)/6: largest excess",
      [found["small_gap"] - near * distance**2 * np.exp(near) / 6],
      tolerance=1e-12,
    ),
    harness.Claim(
      name="gradient_ratio",
      statement="gradient of the exponential squared error over the"
      " Itakura-Saito loss's at V = -3, level .7: exp(4.2)",
      theory=np.exp(-2 * LEVEL * LOW),
      measured=ratios[0],
      tolerance=1e-9,
    ),
    harness.all_agree(
      "gradient_ratios",
      "gradient of the exponential squared error is exp(-2 a V) times the"
      " Itakura-Saito loss's at 100 random values and targets: relative error",
      [ratios / np.exp(-2 * LEVEL * values) - 1],
      tolerance=1e-9,
    ),
    harness.all_agree(
      "bellman",
      "exponential Bellman recursion, levels a g^t, against all trajectories"
      " of three steps, discounts .9 and 1",
      [found["bellman"]],
      tolerance=1e-12,
    ),
    harness.Claim(
      name="level_discounted",
      statement="two coins, discount .8: the recursion with the level a g next"
      " gives the certainty equivalent of the return, -log cosh 1"
      " - log cosh .8",
      theory=(worth_of_coin(now) + worth_of_coin(later)) / COIN_LEVEL,
      measured=found["recursions"][0],
      tolerance=1e-12,
    ),
    harness.Claim(
      name="level_constant",
      statement="two coins, discount .8: with a constant level the recursion"
      " is off the return's certainty equivalent by"
      " log cosh .8 - .8 log cosh 1",
      theory=(COIN_DISCOUNT * worth_of_coin(now) - worth_of_coin(later))
      / COIN_LEVEL,
      measured=found["recursions"][1] - coin_by_definition(),
      tolerance=1e-12,
    ),
  ]


def equivalents(*, seeds: range) -> harness.Part:
  """Claims on losses and recursions.

  Args:
    seeds: of the processes; the first one also of values and targets.
  """
  rng = np.random.default_rng(seeds[0])
  values, targets = 2 * rng.standard_normal((2, 100))
  values[0] = LOW
  mdps = worlds.stack(
    [m for g in DISCOUNTS for m in worlds.random_processes(seeds, discount=g)]
  )
  found = jax.tree.map(np.asarray, _measure(values, targets, mdps))
  discounts = np.linspace(0.02, 1, 50)
  off = [g * worth_of_coin(1) - worth_of_coin(g) for g in discounts]
  return harness.Part(
    _claims(found, values, targets),
    {"coins/discount": discounts, "coins/excess": np.array(off)},
    {
      "two coins, discount .8: certainty equivalents": harness.rows(
        of_the_return=coin_by_definition(),
        next_level_a_g=found["recursions"][0],
        constant_level=found["recursions"][1],
      )
    },
  )


def plot(axes: Axes, curves: dict[str, np.ndarray]) -> None:
  """What a constant level adds to the aversion."""
  axes.plot(curves["coins/discount"], curves["coins/excess"])
  axes.set(
    xlabel="discount",
    ylabel="constant level minus the return's",
    title="Two coins: certainty equivalent by recursion",
  )
