# SPDX-License-Identifier: Apache-2.0
"""Values read by integrating a velocity: critics trained by flow matching.

`z_t = (1 - t) z_0 + t y` goes from noise z_0 at t = 0 to the target y at t = 1.
A velocity is a function `(z, t) -> dz/dt` of two arrays of one shape; what it
depends on besides, such as a state and an action, is in its closure. A critic's
value is the mean of the end points of several noises, which are the last axis.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.diffusion import flow

__all__ = (
  "SourceInterval",
  "discrete_velocity",
  "flow_critic_loss",
  "flow_critic_targets",
  "flow_critic_values",
  "flow_endpoints",
  "hl_gauss_embedding",
  "source_interval",
)

Velocity = Callable[[jax.Array, jax.Array], jax.Array]


class SourceInterval(NamedTuple):
  """Where the noise of a flow critic is uniform.

  Attributes:
    low: scalar, in units of the return.
    high: scalar, in units of the return.
  """

  low: float
  high: float


def source_interval(
  reward_min: float, reward_max: float, *, discount: float, scale: float = 0.1
) -> SourceInterval:
  """The interval of the noise: a tenth of the range of returns.

  `[l, u] = c [r_min, r_max] / (1 - g)`.

  Args:
    reward_min: the smallest reward.
    reward_max: the largest.
    discount: g, in `[0, 1)`.
    scale: c, above 0.

  Returns:
    `SourceInterval`; draw `z_0` uniformly from it.

  Raises:
    ValueError: discount outside `[0, 1)`, or the scale is not positive.

  >>> source_interval(-1., 3., discount=.75)
  SourceInterval(low=-0.4, high=1.2...)

  Reference:
    floq: Training Critics via Flow-Matching (2509.06863).
  """
  if not 0 <= discount < 1:
    raise ValueError(f"discount must be in [0, 1), was {discount}")
  checks.check_positive(scale=scale)
  factor = scale / (1 - discount)
  return SourceInterval(factor * reward_min, factor * reward_max)


def flow_critic_loss(
  velocity: Velocity, targets: jax.Array, t: jax.Array, z0: jax.Array
) -> jax.Array:
  """The squared error of a critic's velocity.

  `(v(z_t, t) - (y - z_0))^2` at `z_t = (1 - t) z_0 + t y`, with t uniform. The
  best velocity is `E[y - z_0 | z_t]`. No gradient flows into the targets.

  Args:
    velocity: `(z [...], t [...]) -> [...]`.
    targets: `[...]`, y, as of `flow_critic_targets`.
    t: `[...]`, times in [0, 1].
    z0: `[...]`, noise.

  Returns:
    `[...]`, one per example.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.

  >>> still = lambda z, t: jnp.zeros_like(z)
  >>> y, t, z0 = jnp.array([2., 2.]), jnp.array([0., 1.]), jnp.array([1., -1.])
  >>> print(flow_critic_loss(still, y, t, z0))
  [1. 9.]

  Reference:
    floq: Training Critics via Flow-Matching (2509.06863); What Does
    Flow-Matching Bring to TD-Learning? (2603.04333).
  """
  checks.check_same_shape(targets=targets, t=t, z0=z0)
  checks.check_float(targets=targets)
  # Flow matching's time runs from data to noise: here from noise to the target.
  return flow.flow_matching_loss(
    lambda z, t: velocity(z[..., 0], t)[..., None],
    z0[..., None],
    t,
    jax.lax.stop_gradient(targets)[..., None],
  )


def flow_endpoints(
  velocity: Velocity, z0: jax.Array, *, num_steps: int = 8
) -> jax.Array:
  """Where the noise is carried, by K Euler steps.

  `z <- z + v(z, i/K)/K` at `i = 0, ..., K - 1`. The velocity is never evaluated
  at t = 1, where that of a deterministic target, `(y - z)/(1 - t)`, has no
  value; with it the last step alone leads to y, from anywhere.

  Args:
    velocity: `(z [...], t [...]) -> [...]`.
    z0: `[...]`, noise.
    num_steps: K, at least 1.

  Returns:
    `[...]`, in units of the return.

  Raises:
    AssertionError: the velocity's shape is not that of z, or the noise is not
      floating point.
    ValueError: num_steps is below 1.

  >>> to_three = lambda z, t: (3. - z) / (1 - t)
  >>> print(flow_endpoints(to_three, jnp.array([-1., 0., 7.]), num_steps=4))
  [3. 3. 3.]

  Reference:
    floq: Training Critics via Flow-Matching (2509.06863).
  """
  if num_steps < 1:
    raise ValueError(f"num_steps must be at least 1, was {num_steps}")
  checks.check_float(z0=z0)
  z0 = numerics.as_float(z0)

  def advance(z, i):
    slope = velocity(z, jnp.full_like(z, i / num_steps))
    checks.check_same_shape(velocity=slope, z0=z)
    return z + (slope / num_steps).astype(z.dtype), None

  return jax.lax.scan(advance, z0, jnp.arange(num_steps))[0]


def flow_critic_values(
  velocity: Velocity, z0: jax.Array, *, num_steps: int = 8
) -> jax.Array:
  """The critic's values: end points, averaged over noises.

  `Q = mean_n z_1(z_0^n)`. Exact for any K where the target is deterministic.
  Where it is random, the mean of the end points is the target's only for K = 1
  and for K to infinity: with little noise the trajectories choose a side too
  late for few steps, and Q is biased by much (see `discrete_velocity`).

  Args:
    velocity: `(z [..., N], t [..., N]) -> [..., N]`.
    z0: `[..., N]`, noise.
    num_steps: K, at least 1.

  Returns:
    `[...]`, in units of the return.

  Raises:
    AssertionError: as for `flow_endpoints`.
    ValueError: num_steps is below 1, or the noise has no axis or no draw.

  >>> to_three = lambda z, t: (3. - z) / (1 - t)
  >>> print(flow_critic_values(to_three, jnp.zeros((1, 8))))
  [3.]

  Reference:
    floq: Training Critics via Flow-Matching (2509.06863).
  """
  if jnp.ndim(z0) < 1 or not jnp.shape(z0)[-1]:
    raise ValueError(f"z0 must be [..., N], N >= 1, was {jnp.shape(z0)}")
  return jnp.mean(flow_endpoints(velocity, z0, num_steps=num_steps), -1)


def flow_critic_targets(
  velocity: Velocity,
  rewards: jax.Array,
  discounts: jax.Array,
  z0: jax.Array,
  *,
  num_steps: int = 8,
) -> jax.Array:
  """Temporal-difference targets of a flow critic.

  `y = r + g Q(s', a')`, Q being read from the target velocity at the next state
  and action. A constant: no gradient flows into anything.

  Args:
    velocity: `(z [..., N], t [..., N]) -> [..., N]`, the target network's.
    rewards: `[...]`, r.
    discounts: `[...]`, g, and 0 where the episode ended.
    z0: `[..., N]`, noise; N = 8 in the paper.
    num_steps: K, at least 1.

  Returns:
    `[...]`.

  Raises:
    AssertionError: shapes do not fit, or an array is not floating point.
    ValueError: as for `flow_critic_values`.

  >>> to_three = lambda z, t: (3. - z) / (1 - t)
  >>> r, g = jnp.array([1., 1.]), jnp.array([.5, 0.])
  >>> print(flow_critic_targets(to_three, r, g, jnp.zeros((2, 8))))
  [2.5 1. ]

  Reference:
    floq: Training Critics via Flow-Matching (2509.06863).
  """
  checks.check_float(rewards=rewards, discounts=discounts)
  values = flow_critic_values(velocity, z0, num_steps=num_steps)
  checks.check_same_shape(
    **{"rewards": rewards, "discounts": discounts, "z0[..., 0]": values}
  )
  rewards, discounts = map(numerics.as_float, (rewards, discounts))
  return jax.lax.stop_gradient(rewards + discounts * values)


def discrete_velocity(
  targets: jax.Array, probs: jax.Array, *, source_std: float
) -> Velocity:
  """The best velocity for a random target of few values, exactly.

  `E[y - z_0 | z_t = z] = (E[y | z] - z)/(1 - t)`, `z_0 ~ N(0, sigma^2)`, with
  `P(y | z)` in proportion to `P(y) exp(-((z - t y)/((1 - t) sigma))^2 / 2)`.
  With one value it carries anything to it; with several and a narrow source it
  shows how the values of few Euler steps are biased.

  Args:
    targets: `[M]`, values of y.
    probs: `[M]`, their probabilities.
    source_std: sigma, above 0.

  Returns:
    A function of `z [...]` and `t [...]`, below 1, to `[...]`.

  Raises:
    AssertionError: shapes differ, not of rank 1, or not floating point.
    ValueError: the deviation is not positive.

  >>> y, p = jnp.array([-1., 2.]), jnp.array([.3, .7])  # of mean 1.1
  >>> velocity = discrete_velocity(y, p, source_std=.1)
  >>> ranks = (jnp.arange(1000) + .5) / 1000
  >>> z0 = .1 * jax.scipy.special.ndtri(ranks)
  >>> for k in (1, 8, 64):
  ...   print(f"{flow_critic_values(velocity, z0, num_steps=k):.2f}")
  1.10
  1.55
  1.14

  Reference:
    Flow Matching (2210.02747), for its target; Bayes' theorem.
  """
  checks.check_rank(1, targets=targets)
  checks.check_same_shape(targets=targets, probs=probs)
  checks.check_float(targets=targets, probs=probs)
  checks.check_positive(source_std=source_std)
  targets = numerics.as_float(targets)
  log_probs = jnp.log(numerics.as_float(probs))

  def velocity(z: jax.Array, t: jax.Array) -> jax.Array:
    left = (1 - t)[..., None]
    noise = (z[..., None] - t[..., None] * targets) / (left * source_std)
    posterior = jax.nn.softmax(log_probs - noise**2 / 2, -1)
    return (posterior @ targets - z) / (1 - t)

  return velocity


def hl_gauss_embedding(
  z: jax.Array,
  low: float,
  high: float,
  *,
  num_bins: int = 51,
  sigma: float = 16.0,
) -> jax.Array:
  """A scalar as the histogram of a Gaussian around it.

  The probabilities of B equal bins of `[low, high]` under `N(z, (sigma w)^2)`,
  w being a bin's width, given that the draw falls between low and high. Sigma
  is in units of that width, so that a change of the unit of reward changes
  nothing; that the paper's sigma of 16 is meant so is not confirmed.

  Args:
    z: `[...]`; beyond the ends the nearest bins have the mass.
    low: of the first bin.
    high: of the last bin, above low.
    num_bins: B, at least 1.
    sigma: in bins, above 0.

  Returns:
    `[..., B]`, probabilities.

  Raises:
    AssertionError: z is not floating point.
    ValueError: no bin, an empty range, or sigma is not positive.

  >>> print(hl_gauss_embedding(jnp.zeros(()), -1., 1., num_bins=2))
  [0.5 0.5]
  >>> rough = hl_gauss_embedding(jnp.ones(()), 0., 3., num_bins=3, sigma=.5)
  >>> print(f"{rough[0]:.3f} {rough[1]:.3f} {rough[2]:.3f}")
  0.488 0.488 0.023

  Reference:
    floq (2509.06863), for its use as an input; Stop Regressing (2403.03950).
  """
  if num_bins < 1:
    raise ValueError(f"num_bins must be at least 1, was {num_bins}")
  if not low < high:
    raise ValueError(f"low must be below high, were {low} and {high}")
  checks.check_positive(sigma=sigma)
  checks.check_float(z=z)
  z = numerics.as_float(z)
  edges = jnp.linspace(low, high, num_bins + 1, dtype=z.dtype)
  width = (high - low) / num_bins
  from_z = (edges - z[..., None]) / (sigma * width)
  left, right = from_z[..., :-1], from_z[..., 1:]
  # Bins beyond z are reflected to below it, where the logarithm of the
  # distribution function keeps what underflows.
  beyond = left + right > 0
  left, right = (
    jnp.where(beyond, -right, left),
    jnp.where(beyond, -left, right),
  )
  above = jax.scipy.special.log_ndtr(right)
  below = jax.scipy.special.log_ndtr(left)
  return jax.nn.softmax(above + numerics.log1mexp(below - above), -1)
