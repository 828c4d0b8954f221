# SPDX-License-Identifier: Apache-2.0
"""The model's programs: plans on a grid, and simulated users."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.learning import engagement

ROUNDS, SETTLED = 250, 50  # .9^250 = 4e-12 of the revenue is cut off


class Model(NamedTuple):
  """What content earns, and how users come back.

  Attributes:
    base: c, what an arm earns that leaves satisfaction as it is.
    price: b, what a unit of satisfaction costs.
    discount: g, of a round.
    friction: phi, of those who stayed away.
  """

  base: float
  price: float
  discount: float
  friction: float


class Kept(NamedTuple):
  """Users at the best satisfaction, for each of F frictions.

  Attributes:
    target: `[F]`, that satisfaction.
    value: `[F]`, of a user at satisfaction 0.
    participation: `[F]`, f there.
    engagement: `[F]`, their share of rounds in the long run.
  """

  target: np.ndarray
  value: np.ndarray
  participation: np.ndarray
  engagement: np.ndarray


LOGISTIC = Model(base=1.0, price=0.08, discount=0.9, friction=0.3)
GRID = np.arange(-160, 161) / 20  # from -8 to 8


def logistic(y: np.ndarray) -> np.ndarray:
  """A demand without levels."""
  return 1 / (1 + np.exp(-y))


def _closed(y, demand, model: Model) -> dict:
  best = engagement.optimal_target(y, demand, **model._asdict())
  options = dict(friction=model.friction)
  return {
    "best": best,
    "discounts": engagement.effective_discount(
      demand, discount=model.discount, **options
    ),
    "engagement": engagement.stationary_engagement(demand, **options),
  }


@jax.jit
def _by_friction(y, demand, frictions, model: Model) -> Kept:
  def one(friction):
    found = _closed(y, demand, model._replace(friction=friction))
    at = jnp.argmax(y == found["best"].y)
    return Kept(*found["best"], demand[at], found["engagement"][at])

  return jax.vmap(one)(frictions)


def by_friction(
  y: np.ndarray, demand: np.ndarray, frictions: np.ndarray, model: Model
) -> Kept:
  """The best of satisfactions `[N]`, in closed form, by friction `[F]`."""
  args = jnp.asarray(y), jnp.asarray(demand), jnp.asarray(frictions)
  model = Model(*map(float, model))
  return jax.tree.map(np.asarray, _by_friction(*args, model))


@jax.jit
def _plan(y, demand, max_step, model: Model) -> dict:
  found = _closed(y, demand, model)
  rewards = engagement.linear_rewards(
    y, base=model.base, price=model.price, max_step=max_step
  )
  plan = engagement.value_iteration(rewards, found["discounts"])
  return found | plan._asdict() | {"rewards": rewards}


def plan(
  y: np.ndarray, demand: np.ndarray, model: Model, max_step: float = np.inf
) -> dict:
  """Closed form and dynamic program on satisfactions `[N]`.

  Returns:
    `best` (the closed form), and `[N]`: `discounts`, `values`, `targets` of the
    program, `engagement`; `rewards` `[N, N]`.
  """
  model = Model(*map(float, model))
  found = _plan(jnp.asarray(y), jnp.asarray(demand), float(max_step), model)
  return jax.tree.map(np.asarray, found)


@functools.partial(jax.jit, static_argnames="num_users")
def _simulate(key, found, demand, start, model: Model, num_users: int) -> dict:
  def step(carry, t):
    at, took_part, revenue, rounds = carry
    chance = demand[at] * jnp.where(took_part, 1, 1 - model.friction)
    draw = jax.random.uniform(jax.random.fold_in(key, t), (num_users,))
    # Revenue counts from a round in which the user takes part.
    part = (draw < chance) | (t == 0)
    to = found["targets"][at]
    earned = jnp.where(part, found["rewards"][at, to], 0)
    revenue += model.discount**t * earned
    rounds += part & (t >= SETTLED)
    return (jnp.where(part, to, at), part, revenue, rounds), None

  carry = (
    jnp.full(num_users, start),
    jnp.ones(num_users, bool),
    jnp.zeros(num_users),
    jnp.zeros(num_users, int),
  )
  (_, _, revenue, rounds), _ = jax.lax.scan(step, carry, jnp.arange(ROUNDS))
  return {"revenue": revenue, "share": rounds / (ROUNDS - SETTLED)}


def simulate(
  key: jax.Array,
  found: dict,
  demand: np.ndarray,
  model: Model,
  *,
  start: int,
  num_users: int,
) -> dict:
  """Users who are shown what `plan` found.

  Args:
    key: of their draws.
    found: by `plan`.
    demand: `[N]`.
    model: as in `plan`.
    start: where they are when they first take part, an index.
    num_users: how many.

  Returns:
    `revenue` `[num_users]`, discounted, and `share`, that of the late rounds in
    which each took part.
  """
  kept = {name: found[name] for name in ("targets", "rewards")}
  model = Model(*map(float, model))
  args = kept, jnp.asarray(demand), start, model
  return jax.tree.map(np.asarray, _simulate(key, *args, num_users=num_users))
