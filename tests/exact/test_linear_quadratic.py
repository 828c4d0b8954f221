# SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.exact import linear_quadratic
from jaxalign.exact.linear_quadratic import LinearPolicy, LinearQuadratic
from tests import helpers

N, M, T = 3, 2, 4


def problem(seed=0):
  rng = np.random.default_rng(seed)
  square = lambda k: (lambda y: jnp.asarray(y @ y.T))(rng.normal(size=(k, k)))
  return LinearQuadratic(
    jnp.asarray(rng.normal(size=(N, N)) / 2),
    jnp.asarray(rng.normal(size=(N, M))),
    square(N),
    square(M) + jnp.eye(M),
    square(N) / 4,
  )


def policy(seed=1):
  rng = np.random.default_rng(seed)
  root = rng.normal(size=(T, M, M)) / 3
  return LinearPolicy(
    jnp.asarray(rng.normal(size=(T, M, N)) / 3),
    jnp.asarray(root @ root.transpose(0, 2, 1)),
  )


def episodes(world, x, us, ws):
  """States `[T + 1, N]` and the reward, by the definition."""
  states, reward = [np.asarray(x)], 0.0
  f, g, q, r, _ = map(np.asarray, world)
  for u, w in zip(us, ws, strict=True):
    x = states[-1]
    reward -= x @ q @ x + u @ r @ u
    states.append(f @ x + g @ u + w)
  return np.array(states), reward


def root_of(covariance):
  return np.linalg.cholesky(np.asarray(covariance))


@jax.jit
def solve(world):
  return linear_quadratic.optimal_linear_policy(world, horizon=T)


def test_the_best_actions_minimise_the_whole_quadratic():
  """Without noise the cost is a quadratic in all actions: solved at once."""
  world, x = problem(), jnp.array([1.0, -0.5, 2.0])
  still = np.zeros((T, N))

  def cost(flat):
    return -episodes(world, x, flat.reshape(T, M), still)[1]

  # A quadratic is found from its values at sums of unit vectors.
  size = T * M
  units = np.eye(size)
  c = cost(np.zeros(size))
  hessian = np.array(
    [[cost(a + b) - cost(a) - cost(b) + c for a in units] for b in units]
  )
  slope = np.array([cost(a) - c for a in units]) - np.diag(hessian) / 2
  best = np.linalg.solve(hessian, -slope)
  least = c + slope @ best / 2
  found, value = solve(world._replace(noise=jnp.zeros((N, N))))
  helpers.assert_close(linear_quadratic.quadratic_value(value, x), -least)
  states, _ = episodes(world, x, best.reshape(T, M), still)
  actions = np.einsum("tij,tj->ti", found.gains, states[:-1])
  helpers.assert_close(actions, best.reshape(T, M))


def test_bellmans_equation_at_random_states_and_actions():
  """V(x) = max_u r + E V(x'), where E is enumerated: V is a quadratic."""
  world = problem()
  best, value = solve(world)
  rng = np.random.default_rng(3)
  # Noise at plus and minus sqrt(N) times the columns of a root, each as
  # likely: its first two moments are those of N(0, W).
  root = np.sqrt(N) * root_of(world.noise).T
  noises = np.concatenate([root, -root])
  for t in range(T):
    x, u = rng.normal(size=N), rng.normal(size=M)
    nxt = world.dynamics @ x + world.control @ u + noises
    later = linear_quadratic.quadratic_value(value, nxt, time=t + 1).mean()
    now = later - x @ world.state_cost @ x - u @ world.action_cost @ u
    off = u - best.gains[t] @ x
    lost = off @ value.curvatures[t] @ off
    found = linear_quadratic.quadratic_value(value, jnp.asarray(x), time=t)
    helpers.assert_close(found - lost, now)


def test_value_of_a_policy_by_enumeration():
  """Noise of actions and dynamics at points with their two first moments.

  The return is a quadratic in all noises, so that its mean over the product of
  symmetric two-point laws is that under the Gaussians.
  """
  one = LinearQuadratic(*(y[:1, :1] for y in problem()))
  gains = jnp.array([[[0.3]], [[-0.7]], [[0.2]]])
  spread = jnp.array([[[0.5]], [[0.2]], [[1.5]]])
  law = LinearPolicy(gains, spread)
  total, x0 = 0.0, 0.7
  signs = list(itertools.product((-1, 1), repeat=6))
  for sign in signs:
    x = x0
    for t in range(3):
      u = gains[t, 0, 0] * x + sign[t] * np.sqrt(spread[t, 0, 0])
      total -= one.state_cost[0, 0] * x**2 + one.action_cost[0, 0] * u**2
      x = one.dynamics[0, 0] * x + one.control[0, 0] * u
      x += sign[3 + t] * np.sqrt(one.noise[0, 0])
  value = linear_quadratic.linear_policy_value(one, law)
  found = linear_quadratic.quadratic_value(value, jnp.array([x0]))
  helpers.assert_close(found, total / len(signs))


def test_the_best_policy_has_the_best_value():
  world = problem()
  best, value = solve(world)
  # Riccati's difference cancels where the value of the policy adds.
  helpers.assert_close(
    linear_quadratic.linear_policy_value(world, best), value, rtol=1e-9
  )
  other = linear_quadratic.linear_policy_value(world, policy())
  gap = np.linalg.eigvalsh(other.matrices[0] - value.matrices[0])
  assert np.all(gap > 0) and other.constants[0] > value.constants[0]


def test_regret_is_the_sum_over_visited_states():
  """In expectation, from the second moments of the states under the policy."""
  world, law = problem(), policy()
  best, value = solve(world)
  x0 = np.array([1.0, -0.5, 2.0])
  second, total = np.outer(x0, x0), 0.0
  for t in range(T):
    gain, spread = np.asarray(law.gains[t]), np.asarray(law.covariances[t])
    off = gain - best.gains[t]
    total += np.sum(value.curvatures[t] * (off @ second @ off.T + spread))
    closed = world.dynamics + world.control @ gain
    second = closed @ second @ closed.T + world.noise
    second = second + world.control @ spread @ world.control.T
  other = linear_quadratic.linear_policy_value(world, law)
  x0 = jnp.asarray(x0)
  difference = linear_quadratic.quadratic_value(
    value, x0
  ) - linear_quadratic.quadratic_value(other, x0)
  helpers.assert_close(total, difference)


def test_on_every_path_the_regret_misses_the_return_by_the_noise_alone():
  """No expectation: what is left is the value's surprise at each noise."""
  world = problem()
  best, value = solve(world)
  rng = np.random.default_rng(5)
  root = root_of(world.noise)
  us, ws = rng.normal(size=(T, M)), rng.normal(size=(T, N)) @ root.T
  states, reward = episodes(world, rng.normal(size=N), us, ws)
  surprise = 0.0
  for t in range(T):
    after, mean = states[t + 1], states[t + 1] - ws[t]
    p = value.matrices[t + 1]
    surprise += after @ p @ after - mean @ p @ mean - np.sum(p * world.noise)
  lost = linear_quadratic.action_regret(best, value, states[:-1], us).sum()
  start = linear_quadratic.quadratic_value(value, states[0])
  helpers.assert_close(start - reward, lost + surprise)


def test_point_mass():
  world = linear_quadratic.point_mass(dims=2, dt=0.5, noise=0.3)
  x, u = np.array([1.0, 2.0, 3.0, 4.0]), np.array([5.0, 6.0])
  moved = world.dynamics @ x + world.control @ u
  np.testing.assert_allclose(moved, [2.5, 4.0, 5.5, 7.0], rtol=1e-6)
  cost = x @ world.state_cost @ x + u @ world.action_cost @ u
  np.testing.assert_allclose(cost, 0.5 * (5 + 0.1 * 25 + 61), rtol=1e-6)
  np.testing.assert_allclose(
    np.diag(world.noise), [0, 0, 0.09, 0.09], rtol=1e-6
  )


def test_gradients_and_transforms():
  rng = np.random.default_rng(7)
  x, u = rng.normal(size=(2, T, N)), rng.normal(size=(2, T, M))
  worlds = jax.tree.map(lambda *y: jnp.stack(y), problem(0), problem(1))
  laws = jax.tree.map(lambda *y: jnp.stack(y), policy(0), policy(1))

  def everything(f, g, q, r, w, gains, spread, x, u):
    world = LinearQuadratic(f, g, q, r, w)
    best, value = linear_quadratic.optimal_linear_policy(world, horizon=T)
    other = linear_quadratic.linear_policy_value(
      world, LinearPolicy(gains, spread)
    )
    return (
      linear_quadratic.quadratic_value(value, x),
      linear_quadratic.quadratic_value(other, x, time=1),
      linear_quadratic.action_regret(best, value, x, u),
    )

  arrays = (*worlds, *laws, x, u)
  helpers.assert_transforms(everything, *arrays, rtol=1e-9)
  first = tuple(y[0] for y in arrays)
  helpers.assert_gradient(
    jax.jit(lambda *y: sum(jnp.sum(z) for z in everything(*y))),
    *first,
    rtol=1e-5,  # central differences of values of order 1e3
    atol=1e-5,
  )


def test_bad_arguments():
  world, law = problem(), policy()
  best, value = solve(world)
  with pytest.raises(ValueError, match="horizon must be at least 1, was 0"):
    linear_quadratic.optimal_linear_policy(world, horizon=0)
  with pytest.raises(ValueError, match=r"control must be \[N, M\], was \(3,\)"):
    solve(world._replace(control=jnp.ones(3)))
  with pytest.raises(ValueError, match=r"noise must be \(3, 3\), was \(2, 2\)"):
    solve(world._replace(noise=jnp.ones((2, 2))))
  with pytest.raises(ValueError, match=r"action_cost must be \(2, 2\)"):
    solve(world._replace(action_cost=jnp.ones((3, 3))))
  with pytest.raises(ValueError, match=r"covariances must be \[T, 2, 2\]"):
    linear_quadratic.linear_policy_value(
      world, law._replace(covariances=jnp.ones((T, 3, 3)))
    )
  with pytest.raises(ValueError, match=r"x must be \[..., 3\], was \(4,\)"):
    linear_quadratic.quadratic_value(value, jnp.ones(4))
  with pytest.raises(ValueError, match=r"u must be \[..., 4, 2\]"):
    linear_quadratic.action_regret(
      best, value, jnp.ones((T, N)), jnp.ones((T, N))
    )
  with pytest.raises(ValueError, match="action_cost must be above 0, was 0"):
    linear_quadratic.point_mass(action_cost=0.0)
  with pytest.raises(ValueError, match="noise must be at least 0, was -1"):
    linear_quadratic.point_mass(noise=-1.0)
