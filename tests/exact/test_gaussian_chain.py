# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxalign.exact import gaussian_chain
from jaxalign.exact.gaussian_chain import GaussianChain
from tests import helpers

STEPS = 5
BAR = gaussian_chain.cosine_alpha_bar(STEPS)
X = jnp.array([-1.0, 0.3, 2.5])
# A point of a batch of losses: their sums have a gradient to check.
log_prob, elbo = gaussian_chain.chain_log_prob, gaussian_chain.chain_elbo


def loose(seed=0, batch=()):
  rng = np.random.default_rng(seed)
  return GaussianChain(
    *jnp.asarray(rng.uniform(-1, 1, (2, *batch, STEPS))),
    jnp.asarray(rng.uniform(0.3, 1, (*batch, STEPS))),
  )


def joint_of_noise(x):
  """Mean and covariance of x_1..x_T given the action, under the noise."""
  mean, cov = np.zeros(STEPS), np.zeros((STEPS, STEPS))
  alpha = BAR[1:] / BAR[:-1]
  last_mean, last_cov = x, np.zeros(STEPS)
  for t in range(STEPS):
    mean[t] = np.sqrt(alpha[t]) * last_mean
    cov[t] = np.sqrt(alpha[t]) * last_cov
    cov[:, t] = cov[t]
    variance = cov[t, t - 1] * np.sqrt(alpha[t]) if t else 0.0
    cov[t, t] = variance + 1 - alpha[t]
    last_mean, last_cov = mean[t], cov[t]
  return mean, cov


def elbo_by_moments(chain, x):
  """Expected log-densities under the joint law of the noise; its entropy."""
  mean, cov = joint_of_noise(x)
  alpha = BAR[1:] / BAR[:-1]
  total = -0.5 * (mean[-1] ** 2 + cov[-1, -1] + np.log(2 * np.pi))
  total += 0.5 * np.sum(1 + np.log(2 * np.pi * (1 - alpha)))
  for t, (a, b, s) in enumerate(zip(*map(np.asarray, chain), strict=True)):
    weights = np.zeros(STEPS)
    weights[t] = -a
    if t:
      weights[t - 1] = 1.0
    residual = weights @ mean - b + (x if t == 0 else 0.0)
    square = residual**2 + weights @ cov @ weights
    total -= 0.5 * (square / s**2 + np.log(2 * np.pi * s**2))
  return total


def test_elbo_by_moments():
  for seed in range(3):
    expected = [elbo_by_moments(loose(seed), float(x)) for x in X]
    helpers.assert_close(elbo(loose(seed), X, BAR), np.array(expected))


def test_marginal_and_density():
  chain = loose(1)
  mean, var = 0.0, 1.0
  for a, b, s in list(zip(*map(np.asarray, chain), strict=True))[::-1]:
    mean, var = a * mean + b, a**2 * var + s**2
  helpers.assert_close(gaussian_chain.chain_marginal(chain), (mean, var))
  expected = scipy.stats.norm.logpdf(X, mean, np.sqrt(var))
  helpers.assert_close(log_prob(chain, X), expected)


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_tight_chains_have_no_gap(steps):
  bar = gaussian_chain.cosine_alpha_bar(steps)
  assert bar[0] == 1 and bar[-1] == 0 and np.all(np.diff(bar) < 0)
  mean, var = jnp.array(1.3), jnp.array(0.4)
  chain = gaussian_chain.tight_chain(mean, var, bar)
  helpers.assert_close(gaussian_chain.chain_marginal(chain), (mean, var))
  helpers.assert_close(elbo(chain, X, bar), log_prob(chain, X))


def test_loose_chains_have_a_gap():
  for seed in range(5):
    assert np.all(elbo(loose(seed), X, BAR) < log_prob(loose(seed), X) - 1e-3)


def test_on_a_tight_chain_the_gradients_agree():
  chain = gaussian_chain.tight_chain(jnp.array(0.5), jnp.array(0.7), BAR)
  gradients = [
    jax.grad(lambda c, fn=fn: jnp.sum(fn(c)))(chain)
    for fn in (lambda c: elbo(c, X, BAR), lambda c: log_prob(c, X))
  ]
  helpers.assert_close(*gradients, rtol=1e-9, atol=1e-11)
  # Away from it they do not.
  gradients = [
    jax.grad(lambda c, fn=fn: jnp.sum(fn(c)))(loose())
    for fn in (lambda c: elbo(c, X, BAR), lambda c: log_prob(c, X))
  ]
  assert np.max(np.abs(gradients[0].slope - gradients[1].slope)) > 0.1


def test_gradients_and_transforms():
  @jax.jit
  def total(a, b, s, x):
    chain = GaussianChain(a, b, s)
    return jnp.sum(elbo(chain, x, BAR) + 2 * log_prob(chain, x))

  helpers.assert_gradient(total, *loose(), X)

  def everything(a, b, s, x):
    chain = GaussianChain(a, b, s)
    return elbo(chain, x, BAR), log_prob(chain, x)

  batch = loose(0, (2,))
  helpers.assert_transforms(everything, *batch, jnp.stack([X, X + 1]))
  # A batch of chains in front, without vmap.
  helpers.assert_close(
    elbo(batch, jnp.stack([X, X]), BAR)[1],
    elbo(GaussianChain(*(y[1] for y in batch)), X, BAR),
  )
  tight = lambda m, v: gaussian_chain.tight_chain(m, v, BAR)
  helpers.assert_transforms(tight, np.array([0.1, 2.0]), np.array([0.5, 3.0]))
  helpers.assert_gradient(
    jax.jit(lambda m, v: sum(jnp.sum(y) for y in tight(m, v))),
    jnp.array(0.4),
    jnp.array(0.6),
  )


def test_bad_arguments():
  with pytest.raises(ValueError, match="num_steps must be at least 1, was 0"):
    gaussian_chain.cosine_alpha_bar(0)
  with pytest.raises(ValueError, match=r"alpha_bar must be \[T \+ 1\].* T = 5"):
    elbo(loose(), X, BAR[1:])
  with pytest.raises(AssertionError, match="shift .4,."):
    gaussian_chain.chain_marginal(loose()._replace(shift=jnp.zeros(4)))
  with pytest.raises(AssertionError, match="var .2,."):
    gaussian_chain.tight_chain(jnp.zeros(()), jnp.ones(2), BAR)
