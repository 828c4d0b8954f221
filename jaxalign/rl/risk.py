# SPDX-License-Identifier: Apache-2.0
"""Exponential utility: certainty equivalents and losses that learn them.

The level a > 0 is the aversion to risk; a random return G is worth the sure
`CE_a(G) = -(1/a) log E exp(-a G)`, at most its mean.
"""

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.divergences import generators
from jaxalign.exact import mdp as processes

__all__ = (
  "certainty_equivalent",
  "exponential_action_values",
  "exponential_mse_loss",
  "exponential_optimal_values",
  "exponential_policy_values",
  "itakura_saito_loss",
)

Scalar = float | jax.Array


def _prediction(
  values: jax.Array, targets: jax.Array, level: Scalar
) -> tuple[jax.Array, jax.Array]:
  checks.check_same_shape(values=values, targets=targets)
  checks.check_float(values=values, targets=targets)
  checks.check_positive(level=level)
  targets = jax.lax.stop_gradient(targets)
  return numerics.as_float(values), numerics.as_float(targets)


def itakura_saito_loss(
  values: jax.Array,
  targets: jax.Array,
  *,
  level: Scalar,
  max_exponent: float = 20.0,
) -> jax.Array:
  """Loss whose mean is least at the certainty equivalent of the targets.

  `(e^x - 1 - x) / a^2` with `x = a (V - target)`: the Itakura-Saito distance of
  `e^(-a target)` from `e^(-a V)` over `a^2`, half the squared error as a -> 0.
  It depends on V - target alone. Where x exceeds `max_exponent` the loss goes
  on along its tangent there: the gradient stays that of the limit, neither
  overflowing nor 0, as it would be were x itself clipped.

  Args:
    values: `[...]`, V at the level a.
    targets: `[...]`, the shape of `values`: `r + g V'`, with V' at the level
      `a g`. No gradient flows into them.
    level: a above 0, the aversion to risk.
    max_exponent: largest x that is exponentiated; below 88 in float32.

  Returns:
    `[...]`, at least 0; nothing is averaged.

  Raises:
    AssertionError: shapes differ, or no floats.
    ValueError: the level or the largest exponent is not above 0.

  >>> zero = jnp.zeros(())
  >>> print(f"{itakura_saito_loss(jnp.ones(()), zero, level=1.):.4f}")
  0.7183
  >>> print(f"{itakura_saito_loss(jnp.ones(()), zero, level=1e-3):.4f}")
  0.5002

  Reference:
    Risk-averse learning with the Itakura-Saito loss (2505.16925); the scale
    `1/a^2` is ours, and so is the tangent beyond the limit.
  """
  checks.check_positive(max_exponent=max_exponent)
  values, targets = _prediction(values, targets, level)
  x = level * (values - targets)
  near = jnp.minimum(x, max_exponent)
  # The share of an outcome in KL(Q||P), free of cancellation near x = 0.
  share = generators.f_divergence("reverse_kl").term(near, jnp.zeros_like(x))
  slope = jnp.expm1(jnp.asarray(max_exponent, x.dtype))
  return (share + slope * jnp.maximum(x - max_exponent, 0)) / level**2


def exponential_mse_loss(
  values: jax.Array, targets: jax.Array, *, level: Scalar
) -> jax.Array:
  """Half the squared error of exponential utilities, scaled by the level.

  `(e^(-a V) - e^(-a target))^2 / (2 a^2)`. Its mean has the minimiser of
  `itakura_saito_loss`, but its gradient is `e^(-2 a V)` times that one's:
  explosive where V is low and vanishing where it is high.

  Args:
    values: `[...]`, V at the level a.
    targets: `[...]`, the shape of `values`. No gradient flows into them.
    level: a above 0, the aversion to risk.

  Returns:
    `[...]`, at least 0; +inf where an exponential overflows.

  Raises:
    AssertionError: shapes differ, or no floats.
    ValueError: the level is not above 0.

  >>> v, target = jnp.array(-3.), jnp.array(-2.5)
  >>> slope = lambda loss: jax.grad(loss)(v, target, level=.7)
  >>> ratio = slope(exponential_mse_loss) / slope(itakura_saito_loss)
  >>> print(f"{ratio:.2f}")
  66.69

  Reference:
    Risk-averse learning with the Itakura-Saito loss (2505.16925), the loss it
    is compared with.
  """
  values, targets = _prediction(values, targets, level)
  gap = numerics.exp_diff(-level * values, -level * targets)
  return gap**2 / (2 * level**2)


def certainty_equivalent(
  returns: jax.Array, weights: jax.Array | None = None, *, level: Scalar
) -> jax.Array:
  """The sure return that exponential utility values like a random one.

  `CE_a(G) = -(1/a) log E exp(-a G)`. Discounting scales the level too:
  `CE_a(r + g G') = r + g CE_{a g}(G')`.

  Args:
    returns: `[..., n]`, equally likely or of the given weights.
    weights: `[..., n]`, the shape of `returns`: at least 0, divided by their
      sum. A return of weight 0 does not count, whatever it is.
    level: a above 0, the aversion to risk.

  Returns:
    `[...]`; nan where no weight is above 0.

  Raises:
    AssertionError: shapes differ, or no floats.
    ValueError: the level is not above 0.

  >>> print(f"{certainty_equivalent(jnp.array([0., 2.]), level=1.):.4f}")
  0.5662

  Reference:
    Howard and Matheson, Risk-sensitive Markov decision processes (1972).
  """
  checks.check_positive(level=level)
  checks.check_float(returns=returns)
  weights = jnp.ones_like(returns) if weights is None else weights
  checks.check_same_shape(returns=returns, weights=weights)
  live = weights > 0
  log_weights = jnp.log(jnp.where(live, numerics.as_float(weights), 1))
  # A hidden return may be NaN: it is replaced before it meets anything.
  utilities = -level * jnp.where(live, numerics.as_float(returns), 0)
  total = numerics.masked_logsumexp(utilities + log_weights, live, -1)
  return -(total - numerics.masked_logsumexp(log_weights, live, -1)) / level


# --- tabular processes -------------------------------------------------------


def exponential_action_values(
  mdp: processes.TabularMDP, values: jax.Array, *, level: Scalar
) -> jax.Array:
  """One step of the exponential Bellman recursion.

  `Q_a(s, a') = CE_a(R + g V(s')) = R(s, a') + g CE_{a g}(V(s'))`, the action
  being a'. With a discount the values that follow must be those of the level
  `a g`: with a constant level the recursion is not that of any return.

  Args:
    mdp: the process, of discount above 0.
    values: `[S]`, V at the level `a g`.
    level: a above 0, the aversion to risk now.

  Returns:
    `[S, A]`.

  Raises:
    AssertionError: no floats.
    ValueError: `values` is not `[S]`; the level or the discount is not above 0.

  >>> coin = processes.TabularMDP(
  ...   jnp.full((2, 1, 2), .5), jnp.zeros((2, 1)), 1.)
  >>> print(exponential_action_values(coin, jnp.array([0., 2.]), level=1.))
  [[0.5662...] [0.5662...]]

  Reference:
    Risk-averse learning with the Itakura-Saito loss (2505.16925); the level
    under a discount follows from the definition.
  """
  checks.check_positive(level=level, discount=mdp.discount)
  after = jnp.broadcast_to(values, mdp.transitions.shape)
  equivalent = certainty_equivalent(
    after, mdp.transitions, level=level * mdp.discount
  )
  return mdp.rewards + mdp.discount * equivalent


def _levels(
  mdp: processes.TabularMDP, level: Scalar, horizon: int
) -> jax.Array:
  """`a g^t` at the times `t = H-1, ..., 0`."""
  checks.check_positive(level=level, horizon=horizon)
  dtype = mdp.rewards.dtype
  discount = jnp.asarray(mdp.discount, dtype)
  return level * discount ** jnp.arange(horizon - 1, -1, -1, dtype=dtype)


def exponential_policy_values(
  mdp: processes.TabularMDP, policy: jax.Array, *, level: Scalar, horizon: int
) -> jax.Array:
  """Certainty equivalents of a policy's discounted returns, at every time.

  `V_H = 0` and `V_t(s) = CE(Q_t(s, .))` over the policy's actions, at the level
  `a g^t`: `V_t(s) = CE_{a g^t}(sum_{k >= t} g^(k - t) r_k | s_t = s)`.

  Args:
    mdp: the process, of discount above 0.
    policy: `[S, A]`, probabilities.
    level: a above 0, the aversion to risk at time 0.
    horizon: H, at least 1.

  Returns:
    `[H + 1, S]`, by time; the last row is 0.

  Raises:
    AssertionError: shapes differ, or no floats.
    ValueError: the level, the discount or the horizon is not above 0.

  >>> coin = processes.TabularMDP(
  ...   jnp.full((2, 1, 2), .5), jnp.array([[0.], [2.]]), 1.)
  >>> values = exponential_policy_values(
  ...   coin, jnp.ones((2, 1)), level=1., horizon=2)
  >>> print(f"{values[0, 0]:.4f} {values[0, 1]:.4f}")
  0.5662 2.5662

  Reference:
    Risk-averse learning with the Itakura-Saito loss (2505.16925), the
    exponential Bellman equation.
  """
  checks.check_same_shape(rewards=mdp.rewards, policy=policy)

  def step(values, level):
    q = exponential_action_values(mdp, values, level=level)
    new = certainty_equivalent(q, policy, level=level)
    return new, new

  return _scan_back(step, _levels(mdp, level, horizon), mdp.rewards)


def exponential_optimal_values(
  mdp: processes.TabularMDP, *, level: Scalar, horizon: int
) -> jax.Array:
  """The largest certainty equivalents that any policy reaches, by time.

  `V_t(s) = max_a' Q_t(s, a')` at the level `a g^t`. No policy does better, not
  even one that remembers the past: exponential utility of what has been earned
  is a factor.

  Args:
    mdp: the process, of discount above 0.
    level: a above 0, the aversion to risk at time 0.
    horizon: H, at least 1.

  Returns:
    `[H + 1, S]`, by time; the last row is 0.

  Raises:
    AssertionError: transitions are of no floats.
    ValueError: the level, the discount or the horizon is not above 0.

  >>> mdp = processes.TabularMDP(jnp.ones((1, 2, 1)), jnp.array([[0., 1.]]), 1.)
  >>> print(exponential_optimal_values(mdp, level=1., horizon=2).ravel())
  [2. 1. 0.]

  Reference:
    Howard and Matheson, Risk-sensitive Markov decision processes (1972).
  """

  def step(values, level):
    q = exponential_action_values(mdp, values, level=level)
    new = jnp.max(q, -1)
    return new, new

  return _scan_back(step, _levels(mdp, level, horizon), mdp.rewards)


def _scan_back(step, levels: jax.Array, rewards: jax.Array) -> jax.Array:
  last = jnp.zeros_like(rewards[:, 0])
  values = jax.lax.scan(step, last, levels)[1]
  return jnp.concatenate([values[::-1], last[None]])
