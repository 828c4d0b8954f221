# SPDX-License-Identifier: Apache-2.0
"""Control with linear dynamics and quadratic costs, in closed form.

`x_{t+1} = F x_t + G u_t + w_t`, `w_t ~ N(0, W)`, reward
`-(x_t' Q x_t + u_t' R u_t)` for t = 0 to T - 1, and no cost of the last state.
The best policy is linear in the state, and by how much any policy falls short
of it is a sum of quadratics over the states it visits, without the noise of the
dynamics. Values are at t = 0 to T, with time in front: `[T + 1, ...]`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = (
  "LinearPolicy",
  "LinearQuadratic",
  "QuadraticValue",
  "action_regret",
  "linear_policy_value",
  "optimal_linear_policy",
  "point_mass",
  "quadratic_value",
)


class LinearQuadratic(NamedTuple):
  """A problem with N numbers in a state and M in an action.

  Attributes:
    dynamics: `[N, N]`, F.
    control: `[N, M]`, G.
    state_cost: `[N, N]`, Q, symmetric and positive semidefinite.
    action_cost: `[M, M]`, R, symmetric and positive definite.
    noise: `[N, N]`, W, the covariance of the dynamics' noise.
  """

  dynamics: jax.Array
  control: jax.Array
  state_cost: jax.Array
  action_cost: jax.Array
  noise: jax.Array


class LinearPolicy(NamedTuple):
  """`u_t ~ N(K_t x_t, C_t)`.

  Attributes:
    gains: `[T, M, N]`, K.
    covariances: `[T, M, M]`, C.
  """

  gains: jax.Array
  covariances: jax.Array


class QuadraticValue(NamedTuple):
  """The expected reward from a time on, `-(x' P_t x + c_t)`.

  Attributes:
    matrices: `[T + 1, N, N]`, P; 0 at T.
    constants: `[T + 1]`, c; 0 at T.
    curvatures: `[T, M, M]`, `R + G' P_{t+1} G`, of the value in the action.
  """

  matrices: jax.Array
  constants: jax.Array
  curvatures: jax.Array


def point_mass(
  *,
  dims: int = 2,
  dt: float = 0.1,
  action_cost: float = 1.0,
  velocity_cost: float = 0.1,
  noise: float = 0.05,
) -> LinearQuadratic:
  """A mass that a force shall bring to rest at the origin.

  The state is position and velocity, `q <- q + dt v`, `v <- v + dt u + w`, the
  cost `dt (|q|^2 + c_v |v|^2 + c_u |u|^2)`.

  Args:
    dims: of the space; a state has twice as many numbers.
    dt: time of a step, above 0.
    action_cost: c_u, above 0.
    velocity_cost: c_v, at least 0.
    noise: standard deviation of w.

  Returns:
    `LinearQuadratic` with N = 2 dims and M = dims.

  Raises:
    ValueError: a number outside its range.

  >>> point_mass(dims=1).dynamics.round(1).tolist()
  [[1.0, 0.10000000149011612], [0.0, 1.0]]

  Reference:
    The double integrator of control textbooks.
  """
  checks.check_positive(dims=dims, dt=dt, action_cost=action_cost)
  for name, value in (("velocity_cost", velocity_cost), ("noise", noise)):
    if value < 0:
      raise ValueError(f"{name} must be at least 0, was {value}")
  one, none = jnp.eye(dims), jnp.zeros((dims, dims))
  return LinearQuadratic(
    dynamics=jnp.block([[one, dt * one], [none, one]]),
    control=jnp.concatenate([none, dt * one]),
    state_cost=dt * jnp.block([[one, none], [none, velocity_cost * one]]),
    action_cost=dt * action_cost * one,
    noise=jnp.block([[none, none], [none, noise**2 * one]]),
  )


def _check_problem(problem: LinearQuadratic) -> LinearQuadratic:
  """Raises unless the shapes fit; the matrices as floats."""
  shapes = {name: jnp.shape(x) for name, x in problem._asdict().items()}
  if len(shapes["control"]) != 2:
    raise ValueError(f"control must be [N, M], was {shapes['control']}")
  n, m = shapes["control"]
  for name in ("dynamics", "state_cost", "noise"):
    if shapes[name] != (n, n):
      raise ValueError(f"{name} must be {(n, n)}, was {shapes[name]}")
  if shapes["action_cost"] != (m, m):
    raise ValueError(
      f"action_cost must be {(m, m)}, was {shapes['action_cost']}"
    )
  return LinearQuadratic(*(numerics.as_float(x) for x in problem))


def _check_horizon(horizon: int) -> None:
  if horizon < 1:
    raise ValueError(f"horizon must be at least 1, was {horizon}")


def optimal_linear_policy(
  problem: LinearQuadratic, *, horizon: int
) -> tuple[LinearPolicy, QuadraticValue]:
  """The best policy and its value, by Riccati's recursion.

  `S = R + G' P_{t+1} G`, `K_t = -S^{-1} G' P_{t+1} F`,
  `P_t = Q + F' P_{t+1} F - K_t' S K_t`, `c_t = c_{t+1} + tr(P_{t+1} W)`, from
  `P_T = 0`.

  Args:
    problem: what to solve.
    horizon: T, at least 1.

  Returns:
    `LinearPolicy` without noise, and `QuadraticValue`.

  Raises:
    ValueError: shapes do not fit, or T is below 1.

  >>> policy, value = optimal_linear_policy(point_mass(), horizon=50)
  >>> print(policy.gains.shape, f"{quadratic_value(value, jnp.ones(4)):.3f}")
  (50, 2, 4) -10.742

  Reference:
    Anderson and Moore, Optimal Control (1990), chapter 2.
  """
  _check_horizon(horizon)
  f, g, q, r, noise = _check_problem(problem)

  def step(later, _):
    matrix, constant = later
    curvature = r + g.T @ matrix @ g
    gain = -jnp.linalg.solve(curvature, g.T @ matrix @ f)
    before = q + f.T @ matrix @ f - gain.T @ curvature @ gain
    constant += jnp.sum(matrix * noise)
    return (before, constant), (gain, curvature, before, constant)

  end = jnp.zeros_like(q), jnp.zeros((), q.dtype)
  _, found = jax.lax.scan(step, end, length=horizon, reverse=True)
  gains, curvatures, matrices, constants = found
  policy = LinearPolicy(gains, jnp.zeros_like(curvatures))
  return policy, QuadraticValue(
    jnp.concatenate([matrices, end[0][None]]),
    jnp.concatenate([constants, end[1][None]]),
    curvatures,
  )


def linear_policy_value(
  problem: LinearQuadratic, policy: LinearPolicy
) -> QuadraticValue:
  """The value of any linear policy with Gaussian noise.

  `P_t = Q + K' R K + (F + G K)' P_{t+1} (F + G K)`,
  `c_t = c_{t+1} + tr(P_{t+1} W) + tr((R + G' P_{t+1} G) C_t)`.

  Args:
    problem: what is controlled.
    policy: `u_t ~ N(K_t x_t, C_t)`.

  Returns:
    `QuadraticValue`.

  Raises:
    ValueError: shapes do not fit.

  >>> still = LinearPolicy(jnp.zeros((50, 2, 4)), jnp.zeros((50, 2, 2)))
  >>> value = linear_policy_value(point_mass(), still)
  >>> print(f"{quadratic_value(value, jnp.ones(4)):.2f}")
  -143.31

  Reference:
    The linear case of Bellman's equation.
  """
  f, g, q, r, noise = _check_problem(problem)
  (n, m), times = g.shape, jnp.shape(policy.gains)[:1]
  for name, shape in (("gains", (m, n)), ("covariances", (m, m))):
    given = jnp.shape(getattr(policy, name))
    if not times or given != (*times, *shape):
      raise ValueError(
        f"{name} must be [T, {shape[0]}, {shape[1]}], was {given}"
      )

  def step(later, now):
    (matrix, constant), (gain, covariance) = later, now
    curvature = r + g.T @ matrix @ g
    closed = f + g @ gain
    before = q + gain.T @ r @ gain + closed.T @ matrix @ closed
    constant += jnp.sum(matrix * noise) + jnp.sum(curvature * covariance)
    return (before, constant), (curvature, before, constant)

  end = jnp.zeros_like(q), jnp.zeros((), q.dtype)
  _, found = jax.lax.scan(step, end, policy, reverse=True)
  curvatures, matrices, constants = found
  return QuadraticValue(
    jnp.concatenate([matrices, end[0][None]]),
    jnp.concatenate([constants, end[1][None]]),
    curvatures,
  )


def quadratic_value(
  value: QuadraticValue, x: jax.Array, *, time: int = 0
) -> jax.Array:
  """The expected reward from a state on, `-(x' P_t x + c_t)`.

  Args:
    value: of a policy.
    x: `[..., N]`.
    time: t, from 0 to T.

  Returns:
    `[...]`.

  Raises:
    ValueError: x does not end in N numbers.

  >>> _, value = optimal_linear_policy(point_mass(noise=0.), horizon=9)
  >>> print(quadratic_value(value, jnp.zeros((2, 4))))
  [-0. -0.]

  Reference:
    Anderson and Moore, Optimal Control (1990), chapter 2.
  """
  matrix = value.matrices[time]
  if jnp.shape(x)[-1:] != matrix.shape[:1]:
    raise ValueError(f"x must be [..., {len(matrix)}], was {jnp.shape(x)}")
  return -(
    jnp.einsum("...i,ij,...j->...", x, matrix, x) + value.constants[time]
  )


def action_regret(
  policy: LinearPolicy,
  value: QuadraticValue,
  x: jax.Array,
  u: jax.Array,
) -> jax.Array:
  """What each action costs against the best one, exactly.

  `(u_t - K_t x_t)' S_t (u_t - K_t x_t)`, by which `Q*(x, u)` is below `V*(x)`.
  Of any policy, linear or not, the expected sum over the states and actions of
  its own episodes is `V*(x_0) - V^pi(x_0)` (the performance difference): a
  measure of regret in which the noise of the dynamics enters only through the
  states visited.

  Args:
    policy: `optimal_linear_policy`'s.
    value: `optimal_linear_policy`'s.
    x: `[..., T, N]`, states.
    u: `[..., T, M]`, actions in them.

  Returns:
    `[..., T]`, at least 0.

  Raises:
    ValueError: shapes do not fit.

  >>> best = optimal_linear_policy(point_mass(), horizon=2)
  >>> print(action_regret(*best, jnp.zeros((2, 4)), jnp.ones((2, 2))))
  [0.2002 0.2   ]

  Reference:
    Kakade and Langford, Approximately Optimal Approximate Reinforcement
    Learning (2002), lemma 6.1.
  """
  times, m, n = jnp.shape(policy.gains)
  for name, array, size in (("x", x, n), ("u", u, m)):
    if jnp.shape(array)[-2:] != (times, size):
      raise ValueError(
        f"{name} must be [..., {times}, {size}], was {jnp.shape(array)}"
      )
  off = u - jnp.einsum("tij,...tj->...ti", policy.gains, x)
  return jnp.einsum("...ti,tij,...tj->...t", off, value.curvatures, off)
