# SPDX-License-Identifier: Apache-2.0
"""Choosing content for users who may stay away.

A user has a satisfaction x and takes part in a round or not: with probability
f(x) after a round with them, with `(1 - phi) f(x)` after one without. f is the
demand, phi the friction. Who takes part is shown an arm (r, s): it earns r and
moves x to x + s. Rounds are discounted by g. The timing of the model and its
exact dynamic program are ours.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics

__all__ = (
  "ContentPlan",
  "ContentTarget",
  "HedgeRun",
  "competitive_rate",
  "effective_discount",
  "hedge_competitive",
  "hedge_guarantee",
  "linear_rewards",
  "optimal_target",
  "stationary_engagement",
  "value_iteration",
)

Scalar = float | jax.Array

_MAX_STEPS = 100_000


class ContentTarget(NamedTuple):
  """The satisfaction that a user is best kept at.

  Attributes:
    y: `[...]`, the satisfaction.
    value: `[...]`, the value of a user at satisfaction 0 who takes part now;
      at satisfaction x it is b x more.
  """

  y: jax.Array
  value: jax.Array


class ContentPlan(NamedTuple):
  """The optimal content for each satisfaction on a grid.

  Attributes:
    values: `[N]`, V, of a user who takes part now.
    targets: int32 `[N]`, the index of the satisfaction to move to.
  """

  values: jax.Array
  targets: jax.Array


class HedgeRun(NamedTuple):
  """What Hedge played and earned.

  Attributes:
    weights: `[T, N]`, the distribution over policies at each round.
    gain: `[]`, ALG, the expected total gain.
    best: `[]`, OPT, the total gain of the best single policy.
  """

  weights: jax.Array
  gain: jax.Array
  best: jax.Array


def _in_unit(**values: Scalar) -> None:
  """Raises where a known number is outside [0, 1]."""
  for name, value in values.items():
    if isinstance(value, jax.core.Tracer):
      continue
    if not np.all((np.asarray(value) >= 0) & (np.asarray(value) <= 1)):
      raise ValueError(f"{name} must be in [0, 1], was {value}")


def effective_discount(
  demand: jax.Array, *, discount: Scalar, friction: Scalar
) -> jax.Array:
  """The discount until a user takes part again.

  `f~ = E[g^rounds] = g f + (1 - f) g^2 b / (1 - g (1 - b))` with the rate of
  return `b = (1 - phi) f`: rounds count from the one after an arm was shown.

  Args:
    demand: `[...]`, f in [0, 1], at the satisfaction after the arm.
    discount: g in (0, 1), of one round.
    friction: phi in [0, 1].

  Returns:
    `[...]`, at most g. Without friction it is `g f / (1 - g (1 - f))`, with
    friction 1, when nobody returns, `g f`.

  Raises:
    AssertionError: no floats.
    ValueError: an argument is out of its range.

  >>> away = effective_discount(jnp.array(.6), discount=.8, friction=1.)
  >>> print(f"{away:.2f}")
  0.48

  Reference:
    Algorithmic Content Selection and the Impact of User Disengagement
    (2410.13108); this form, with its timing, is ours.
  """
  checks.check_float(demand=demand)
  checks.check_positive(discount=discount)
  _in_unit(demand=demand, discount=discount, friction=friction)
  f = numerics.as_float(demand)
  back = (1 - friction) * f
  away = discount * back / (1 - discount * (1 - back))
  return discount * (f + (1 - f) * away)


def stationary_engagement(demand: jax.Array, *, friction: Scalar) -> jax.Array:
  """The share of rounds in which a user of constant satisfaction takes part.

  `(1 - phi) f / (1 - f + (1 - phi) f)`, in the long run.

  Args:
    demand: `[...]`, f in [0, 1].
    friction: phi in [0, 1].

  Returns:
    `[...]` in [0, 1]; 1 where nobody ever stays away, `f = 1`.

  Raises:
    AssertionError: no floats.
    ValueError: an argument is outside [0, 1].

  >>> print(f"{stationary_engagement(jnp.array(.95), friction=.9):.4f}")
  0.6552

  Reference:
    Algorithmic Content Selection and the Impact of User Disengagement
    (2410.13108); this model of friction is ours.
  """
  checks.check_float(demand=demand)
  _in_unit(demand=demand, friction=friction)
  f = numerics.as_float(demand)
  back = (1 - friction) * f
  always = f == 1
  return jnp.where(always, 1, back / jnp.where(always, 1, 1 - f + back))


def optimal_target(
  y_grid: jax.Array,
  demand: jax.Array,
  *,
  base: Scalar,
  price: Scalar,
  discount: Scalar,
  friction: Scalar,
) -> ContentTarget:
  """Where to keep a user if satisfaction costs linearly, in closed form.

  An arm that raises satisfaction by s earns `c - b s`, and every satisfaction
  is one arm away: `V(x) = b x + max_y [c / (1 - f~(y)) - b y]`. It is optimal
  to go to y at once and to stay. Of a demand with k levels only the k
  satisfactions at which they start are candidates: pass these, the first being
  the lowest that can be reached.

  Args:
    y_grid: `[..., N]`, satisfactions that can be reached.
    demand: `[..., N]`, f there, in [0, 1].
    base: c, what an arm earns that leaves satisfaction as it is.
    price: b above 0, what a unit of satisfaction costs.
    discount: g in (0, 1).
    friction: phi in [0, 1].

  Returns:
    `ContentTarget`; the first of equally good satisfactions.

  Raises:
    AssertionError: shapes differ, or no floats.
    ValueError: an argument is out of its range.

  >>> best = optimal_target(
  ...   jnp.array([0., 1.]), jnp.array([.5, .95]), base=1., price=5.,
  ...   discount=.9, friction=0.)
  >>> print(f"{best.y:.1f} {best.value:.4f}")
  0.0 5.5000

  Reference:
    Algorithmic Content Selection and the Impact of User Disengagement
    (2410.13108), its k-level demand; this closed form is ours.
  """
  checks.check_same_shape(y_grid=y_grid, demand=demand)
  checks.check_float(y_grid=y_grid, demand=demand)
  checks.check_positive(price=price)
  f = effective_discount(demand, discount=discount, friction=friction)
  value = base / (1 - f) - price * y_grid
  best = jnp.argmax(value, -1, keepdims=True)
  return ContentTarget(
    jnp.take_along_axis(y_grid, best, -1)[..., 0], jnp.max(value, -1)
  )


def linear_rewards(
  y_grid: jax.Array,
  *,
  base: Scalar,
  price: Scalar,
  max_step: Scalar = math.inf,
) -> jax.Array:
  """What arms earn that move satisfaction on a grid, at a linear price.

  `c - b (y_j - y_i)`, and -inf for moves by more than `max_step`.

  Args:
    y_grid: `[N]`, satisfactions.
    base: c, what an arm earns that leaves satisfaction as it is.
    price: b above 0, what a unit of satisfaction costs.
    max_step: the largest move, at least 0.

  Returns:
    `[N, N]`, from the first axis to the second.

  Raises:
    AssertionError: no vector of floats.
    ValueError: the price is not above 0.

  >>> print(linear_rewards(jnp.array([0., 1., 2.]), base=1., price=.5,
  ...                      max_step=1.))
  [[ 1.   0.5 -inf] [ 1.5  1.   0.5] [-inf  1.5  1. ]]

  Reference:
    Algorithmic Content Selection and the Impact of User Disengagement
    (2410.13108).
  """
  checks.check_rank(1, y_grid=y_grid)
  checks.check_float(y_grid=y_grid)
  checks.check_positive(price=price)
  y = numerics.as_float(y_grid)
  move = y - y[:, None]
  # Steps of a grid are rounded: its own spacing must count as one step.
  reach = max_step + 8 * jnp.finfo(y.dtype).eps * jnp.max(jnp.abs(y))
  return jnp.where(jnp.abs(move) <= reach, base - price * move, -jnp.inf)


def value_iteration(rewards: jax.Array, discounts: jax.Array) -> ContentPlan:
  """The optimal content for every satisfaction on a grid.

  `V_i = max_j R_ij + f~_j V_j`, iterated until the largest effective discount
  has shrunk what it started from to a rounding. Any menu of arms is a matrix R.

  Args:
    rewards: `[N, N]`, R: what the arm earns that moves i to j, or -inf.
    discounts: `[N]`, `effective_discount` at each satisfaction, below 1.

  Returns:
    `ContentPlan`; -inf where no arm can be shown.

  Raises:
    AssertionError: shapes differ, or no floats.
    ValueError: a discount is below 0, or not below 1.

  >>> y = jnp.array([0., 1.])
  >>> f = effective_discount(jnp.array([.5, .95]), discount=.9, friction=.9)
  >>> plan = value_iteration(linear_rewards(y, base=1., price=5.), f)
  >>> print(f"{plan.values[0]:.4f}", plan.targets)
  3.0477 [1 1]

  Reference:
    Algorithmic Content Selection and the Impact of User Disengagement
    (2410.13108); the exact dynamic program is ours.
  """
  checks.check_rank(1, discounts=discounts)
  checks.check_same_shape(
    discounts=discounts, rewards_from_one=rewards[0], rewards_to=rewards[:, 0]
  )
  checks.check_float(rewards=rewards, discounts=discounts)
  _in_unit(discounts=discounts)
  if not isinstance(discounts, jax.core.Tracer):
    checks.check_positive(one_less_discounts=1 - discounts)
  rewards, discounts = map(numerics.as_float, (rewards, discounts))
  digits = math.log(float(jnp.finfo(rewards.dtype).eps) / 8)
  needed = digits / jnp.log(jnp.max(discounts))
  num_steps = jnp.clip(jnp.ceil(needed), 1, _MAX_STEPS).astype(int)

  def returns(values):
    # Who never takes part again earns 0, even where no arm could be shown.
    return rewards + jnp.where(discounts == 0, 0, discounts * values)

  values = jax.lax.fori_loop(
    0, num_steps, lambda _, v: jnp.max(returns(v), 1), jnp.zeros_like(discounts)
  )
  targets = jnp.argmax(returns(values), 1).astype(jnp.int32)
  return ContentPlan(values, targets)


# --- users who come one after the other --------------------------------------


def competitive_rate() -> float:
  """The rate at which Hedge earns half of the best policy's gain.

  Returns:
    eta with `eta / (e^eta - 1) = 1/2`.

  >>> print(f"{competitive_rate():.7f}")
  1.2564312

  Reference:
    Algorithmic Content Selection and the Impact of User Disengagement
    (2410.13108), version 1, has a variant of Hedge that is 1/2-competitive;
    whether it is this one we could not confirm.
  """
  # e^eta = 1 + 2 eta: Newton's method from the right of its positive root.
  eta = 2.0
  for _ in range(8):
    eta -= (math.exp(eta) - 1 - 2 * eta) / (math.exp(eta) - 2)
  return eta


def hedge_guarantee(
  best: jax.Array, num_policies: int, *, eta: Scalar
) -> jax.Array:
  """What Hedge earns at least, whatever the gains and however many rounds.

  `(eta OPT - ln N) / (e^eta - 1)`. At `competitive_rate()` it is `OPT / 2 -
  .398 ln N`.

  Args:
    best: `[...]`, OPT, the best policy's total gain.
    num_policies: N, at least 1.
    eta: the rate, above 0.

  Returns:
    `[...]`, a lower bound of the expected total gain.

  Raises:
    ValueError: the number or the rate is not above 0.

  >>> bound = hedge_guarantee(jnp.array(100.), 10, eta=competitive_rate())
  >>> print(f"{bound:.3f}")
  49.084

  Reference:
    Freund and Schapire, A decision-theoretic generalization of on-line learning
    (1997), lemma 1 for gains.
  """
  checks.check_positive(num_policies=num_policies, eta=eta)
  return (eta * best - math.log(num_policies)) / jnp.expm1(eta)


def hedge_competitive(
  gains: jax.Array, *, eta: Scalar | None = None
) -> HedgeRun:
  """Hedge over content policies, for users who come one after the other.

  `w_t` in proportion to `exp(eta G_{t-1})` with the total gains so far. It
  earns at least `hedge_guarantee`; with `eta = sqrt(8 ln N / T)` instead also
  at least `OPT - sqrt(T ln(N) / 2)`.

  Args:
    gains: `[T, N]` in [0, 1], what each policy would have earned from each
      user, scaled.
    eta: the rate, above 0; `competitive_rate()` by default.

  Returns:
    `HedgeRun`.

  Raises:
    AssertionError: no matrix of floats.
    ValueError: gains are outside [0, 1], or the rate is not above 0.

  >>> run = hedge_competitive(jnp.array([[1., 0.]] * 20))
  >>> print(f"{run.gain:.2f} of {run.best:.0f}")
  19.17 of 20

  Reference:
    Algorithmic Content Selection and the Impact of User Disengagement
    (2410.13108), version 1; that its variant of Hedge is this one is
    unconfirmed.
  """
  checks.check_rank(2, gains=gains)
  checks.check_float(gains=gains)
  _in_unit(gains=gains)
  eta = competitive_rate() if eta is None else eta
  checks.check_positive(eta=eta)
  gains = numerics.as_float(gains)
  after = jnp.cumsum(gains, 0)
  before = jnp.concatenate([jnp.zeros_like(after[:1]), after[:-1]])
  weights = jax.nn.softmax(eta * before, -1)
  return HedgeRun(weights, jnp.sum(weights * gains), jnp.max(after[-1]))
