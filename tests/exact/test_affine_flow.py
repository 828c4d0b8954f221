# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import diffusion, exact
from tests import helpers

K = 6


@pytest.fixture
def policy():
  rng = np.random.default_rng(0)
  return exact.AffineFlow(*jnp.asarray(rng.standard_normal((2, K))))


def test_marginals_are_those_of_simulated_steps(policy, key):
  """A hundred thousand chains of each sampler, in standard errors."""
  n = 100_000
  start_key, noise_key = jax.random.split(key)
  x = jax.random.normal(start_key, (n,))
  noise = jax.random.normal(noise_key, (K, n))
  euler = ancestral = x
  for k in range(K):
    a, b = policy.slope[k], policy.shift[k]
    t, s = 1 - k / K, 1 - (k + 1) / K
    euler = euler - (a * euler + b) / K
    action = ancestral - t * (a * ancestral + b)
    # The law of x_s given x_t and the action, by conditioning the Gaussian
    # (x_s, x_t): x_s = (1-s) x + s e, x_t = r x_s + w, independent e and w.
    r = (1 - t) / (1 - s) if s < 1 else 0.0
    prior, w = s**2, t**2 - (r * s) ** 2
    gain = prior * r / (r**2 * prior + w)
    mean = (1 - s) * action
    mean += gain * (ancestral - r * mean)
    ancestral = mean + np.sqrt(prior * (1 - gain * r)) * noise[k]
  for sample, (mean, var) in (
    (euler, exact.euler_marginal(policy)),
    (ancestral, exact.ancestral_marginal(policy)),
  ):
    assert abs(sample.mean() - mean) < 5 * np.sqrt(var / n)
    assert abs(sample.var() - var) < 5 * var * np.sqrt(2 / n)


def test_exact_velocity_has_the_printed_spread_under_euler():
  for steps, printed in ((10, ".879"), (50, ".975"), (1000, ".9987")):
    policy = exact.tight_flow(jnp.zeros(()), jnp.ones(()), num_steps=steps)
    _, var = exact.euler_marginal(policy)
    assert f"{var**0.5:.{len(printed) - 1}f}" == "0" + printed


def test_the_tight_flow_is_the_velocity_of_gaussian_data():
  mean, var, z = 0.7, 2.3, jnp.array([0.4])
  policy = exact.tight_flow(jnp.array(mean), jnp.array(var), num_steps=K)
  velocity = diffusion.affine_velocity(jnp.array([mean]), jnp.array([var]))
  for k, t in enumerate(exact.flow_times(K)):
    found = policy.slope[k] * z + policy.shift[k]
    helpers.assert_close(found, velocity(z, t), atol=1e-14)


def test_losses_are_those_of_flow_matching(policy):
  nodes, weights = np.polynomial.hermite_e.hermegauss(8)
  weights /= weights.sum()
  x = jnp.array([-0.5, 1.3])
  for weight in diffusion.WEIGHTS:
    expected = np.zeros(2)
    for k, t in enumerate(exact.flow_times(K)):

      def velocity(z, _, k=k):
        return policy.slope[k] * z + policy.shift[k]

      shape = (2, len(nodes))
      loss = diffusion.flow_matching_loss(
        velocity,
        jnp.broadcast_to(x[:, None], shape)[..., None],
        jnp.full(shape, t),
        jnp.broadcast_to(nodes, shape)[..., None],
        weight=weight,
      )
      expected += loss @ weights / K
    helpers.assert_close(exact.flow_losses(policy, x, weight=weight), expected)


def test_excess_is_what_the_loss_exceeds_its_minimum_by(policy):
  mean, var = jnp.array(0.3), jnp.array(0.6)
  nodes, weights = np.polynomial.hermite_e.hermegauss(8)
  weights /= weights.sum()
  x = mean + jnp.sqrt(var) * nodes

  def loss(policy):
    return weights @ exact.flow_losses(policy, x, weight="uniform")

  best = exact.tight_flow(mean, var, num_steps=K)
  helpers.assert_close(
    exact.flow_excess(policy, mean, var), loss(policy) - loss(best)
  )
  slopes = jax.grad(loss)(best)
  helpers.assert_close(slopes, jax.tree.map(jnp.zeros_like, slopes))


def everything(slope, shift, x):
  policy = exact.AffineFlow(slope, shift)
  return (
    exact.ancestral_marginal(policy),
    exact.euler_marginal(policy),
    exact.flow_excess(policy, x[0], x[1] ** 2 + 1),
    exact.flow_losses(policy, x, weight="elbo"),
  )


def test_transforms_and_gradients():
  rng = np.random.default_rng(1)
  args = [jnp.asarray(rng.standard_normal((2, n))) for n in (K, K, 3)]
  helpers.assert_transforms(everything, *args)
  total = jax.jit(
    lambda *a: sum(jnp.sum(x) for x in jax.tree.leaves(everything(*a)))
  )
  helpers.assert_gradient(total, *(x[0] for x in args))


def test_bad_input():
  with pytest.raises(ValueError, match="num_steps must be at least 1, was 0"):
    exact.flow_times(0)
  with pytest.raises(AssertionError, match="slope .*shift"):
    exact.euler_marginal(exact.AffineFlow(jnp.zeros(2), jnp.zeros(3)))
  with pytest.raises(ValueError, match="unknown weight"):
    exact.flow_losses(
      exact.AffineFlow(jnp.zeros(2), jnp.zeros(2)), jnp.zeros(1), weight="x"
    )
