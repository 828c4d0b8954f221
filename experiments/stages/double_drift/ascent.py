# SPDX-License-Identifier: Apache-2.0
"""Expected policy gradients through a bound, and how far the bound drifts.

A world says where the policy is evaluated, with which weights (all actions, or
the nodes of a quadrature), and what the bounds are there; an arm says which of
them stands in for the log-likelihood. No sampling anywhere.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from experiments import harness
from jaxalign import diffusion
from jaxalign.exact import masked, sequences

EUBO_POWER = 1.5  # of SPG; no certain bound below the length
BLOWN_UP = 1e3  # nats of gap


class Bounds(NamedTuple):
  """Log-likelihoods `[N]` of actions and what stands in for them."""

  log_pi: jax.Array
  elbo: jax.Array
  upper: jax.Array
  one_step: jax.Array


class World(NamedTuple):
  """A policy's parameters, where it is evaluated, and its bounds.

  Attributes:
    draws: parameters to actions, their weights `[N]` and rewards `[N]`.
    bounds: parameters and actions to `Bounds`.
    distill: parameters to those of a tight bound with the same policy.
    rate: of plain gradient ascent.
  """

  draws: Callable[[Any], tuple[Any, jax.Array, jax.Array]]
  bounds: Callable[[Any, Any], Bounds]
  distill: Callable[[Any], Any]
  rate: float


class Arm(NamedTuple):
  """What ascends: a surrogate and a weight of the ELBO beside it.

  Attributes:
    exact: share of the log-likelihood itself.
    one_step: share of the likelihood of a one-step sampler.
    omega: share of the upper surrogate where the advantage is not positive;
      what remains is the ELBO.
    beta: weight of the ELBO as a regulariser.
  """

  exact: float = 0.0
  one_step: float = 0.0
  omega: float = 0.0
  beta: float = 0.0


class Path(NamedTuple):
  """What happened: `[steps + 1]`, before each update and after the last."""

  reward: jax.Array
  gap: jax.Array
  cosine: jax.Array
  first_gap: jax.Array


def bounds_of_table(table: jax.Array) -> Bounds:
  """Of all sequences `[V**L]`, from a tabular denoiser `[(V + 1)**L, L, V]`."""
  length, vocab_size = table.shape[1:]
  log_probs = masked.subset_log_probs(
    masked.table_denoiser(table),
    sequences.enumerate_sequences(vocab_size, length),
    mask_id=vocab_size,
  )
  return Bounds(
    masked.any_order_log_prob(log_probs),
    masked.any_order_elbo(log_probs),
    masked.masked_eubo(log_probs, power=EUBO_POWER),
    jnp.sum(log_probs[:, 0], -1),
  )


def stack(arms: dict[str, Arm]) -> Arm:
  """Arms side by side, for `jax.vmap`."""
  return jax.tree.map(lambda *x: jnp.array(x), *arms.values())


def _objectives(world: World, arm: Arm, params, actions, weights, advantage):
  """The surrogate, the regulariser and the policy's own log-likelihood."""
  log_pi, elbo, upper, one_step = world.bounds(params, actions)
  bound = elbo + jnp.where(advantage > 0, 0, arm.omega * (upper - elbo))
  rest = 1 - arm.exact - arm.one_step
  base = arm.exact * log_pi + arm.one_step * one_step + rest * bound
  return jnp.stack(
    [
      weights @ (advantage * base),
      weights @ elbo,
      weights @ (advantage * log_pi),
    ]
  )


def gradients(world: World, arm: Arm, params) -> tuple[jax.Array, dict]:
  """Gradients `[3, P]` of the surrogate, the regulariser and the reward.

  Returns:
    The gradients, and the reward, the gap and the gap of the first action.
  """
  actions, weights, rewards = jax.lax.stop_gradient(world.draws(params))
  reward = weights @ rewards
  flat, unravel = jax.flatten_util.ravel_pytree(params)
  slopes = jax.jacrev(
    lambda flat: _objectives(
      world, arm, unravel(flat), actions, weights, rewards - reward
    )
  )(flat)
  found = world.bounds(params, actions)
  gaps = found.log_pi - found.elbo
  return slopes, {
    "reward": reward,
    "gap": weights @ gaps,
    "first_gap": gaps[0],
  }


def ascend(
  world: World, arm: Arm, params, *, steps: int, every: int = 0
) -> Path:
  """Plain gradient ascent with the arm's surrogate and regulariser.

  Args:
    world: the policy and its bounds.
    arm: what ascends.
    params: to start from.
    steps: updates.
    every: updates between self-distillations; 0 for none.
  """
  _, unravel = jax.flatten_util.ravel_pytree(params)

  def step(params, t):
    if every:
      params = jax.lax.cond(
        t % every == 0, world.distill, lambda params: params, params
      )
    (base, elbo, true), found = gradients(world, arm, params)
    update = unravel(world.rate * (base + arm.beta * elbo))
    cosine = diffusion.gradient_cosine(base, true)
    path = Path(cosine=cosine, **found)
    return jax.tree.map(jnp.add, params, update), path

  return jax.lax.scan(step, params, jnp.arange(steps + 1))[1]


def run_arms(
  world: World, start, arms: dict[str, Arm], *, steps: int, every: int
) -> Path:
  """Paths `[arms + 1, steps + 1]` of one problem, interleaved FPO the last."""
  plain = jax.vmap(lambda arm: ascend(world, arm, start, steps=steps))
  often = ascend(world, Arm(), start, steps=steps, every=every)
  return jax.tree.map(
    lambda x, y: jnp.concatenate([x, y[None]]), plain(stack(arms)), often
  )


def by_name(found: Path, names: Sequence[str]) -> dict[str, Path]:
  """The path of each arm, from their stack along the first axis."""
  found = jax.tree.map(np.asarray, found)
  return {
    name: jax.tree.map(lambda x, i=i: x[i], found)
    for i, name in enumerate(names)
  }


def blows_up(gap: np.ndarray) -> float:
  """The first update after which the gap is beyond all use; inf for none."""
  beyond = ~(gap <= BLOWN_UP)  # NaN is
  return float(np.argmax(beyond)) if beyond.any() else np.inf


def falling_gaps(name: str, where: str, gaps: Sequence[float]) -> harness.Claim:
  """Claims that each gap is larger than the next, by the smallest ratio."""
  return harness.Claim(
    name=name,
    statement=f"{where}: smallest ratio of neighbours",
    theory=1.0,
    measured=np.min(np.divide(gaps[:-1], gaps[1:])),
    tolerance=0.0,
    relation=">=",
  )


def rows_of(arms, columns: dict[str, np.ndarray]) -> list[dict]:
  """Rows of a table, one for each arm."""
  return [
    {"arm": name} | {column: float(x[i]) for column, x in columns.items()}
    for i, name in enumerate(arms)
  ]
