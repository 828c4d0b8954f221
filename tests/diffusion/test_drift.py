# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import diffusion
from jaxalign.exact import gaussian_chain
from tests import helpers


def test_gaps_and_their_zeros():
  log_prob = jnp.array([-1.0, -jnp.inf, -2.0])
  elbo = jnp.array([-1.5, -jnp.inf, -jnp.inf])
  with jax.debug_nans(True):
    gap = diffusion.elbo_gap(log_prob, elbo)
  assert gap.tolist() == [0.5, 0.0, np.inf]


def test_cosine_and_bias_of_trees():
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(2, 6))
  a, b = ({"w": x[:4].reshape(2, 2), "b": x[4:]} for x in rows)
  flat_a, flat_b = (np.concatenate([t["b"], t["w"].ravel()]) for t in (a, b))
  norms = np.linalg.norm(flat_a) * np.linalg.norm(flat_b)
  helpers.assert_close(diffusion.gradient_cosine(a, b), flat_a @ flat_b / norms)
  helpers.assert_close(
    diffusion.gradient_bias_norm(a, b), np.linalg.norm(flat_a - flat_b)
  )
  huge = jax.tree.map(lambda x: 1e200 * x, a)
  helpers.assert_close(diffusion.gradient_cosine(huge, huge), 1.0, rtol=1e-14)
  assert np.isnan(diffusion.gradient_cosine(a, jax.tree.map(np.zeros_like, a)))


def report(weights, rewards, log_prob, gap, gradient):
  return diffusion.drift_report(
    weights,
    rewards,
    log_prob,
    log_prob - gap,
    surrogate_gradient=gradient,
    reward_gradient=gradient + 1,
  )


def test_report():
  rng = np.random.default_rng(0)
  weights = rng.dirichlet(np.ones(5), 2)
  rewards, gap, gradient = rng.uniform(size=(3, 2, 5))
  args = [
    jnp.asarray(x) for x in (weights, rewards, np.log(weights), gap, gradient)
  ]
  found = jax.vmap(report)(*args)
  helpers.assert_close(found.reward, (weights * rewards).sum(-1))
  helpers.assert_close(found.gap, (weights * gap).sum(-1))
  helpers.assert_close(found.bias_norm, np.full(2, np.sqrt(5)))
  helpers.assert_close(
    found.entropy, -(weights * np.log(weights)).sum(-1), rtol=1e-12
  )
  assert np.all(found.cosine < 1)
  helpers.assert_transforms(report, *args)
  # An outcome without probability counts nothing.
  added = (0, 9, -np.inf, 0, 0)
  more = [np.append(x[0], y) for x, y in zip(args, added, strict=True)]
  with jax.debug_nans(True):
    helpers.assert_close(report(*more).gap, found.gap[0])
  helpers.assert_gradient(
    lambda log_prob: diffusion.elbo_gap(log_prob, args[3][0]).sum(), args[2][0]
  )


def test_concavity_threshold_of_the_bandit():
  """The printed thresholds of four denoising steps at the start."""
  bar = gaussian_chain.cosine_alpha_bar(10)
  nodes, weights = np.polynomial.hermite_e.hermegauss(64)
  weights /= weights.sum()
  rewards = np.exp(-(((nodes - 2) / 0.5) ** 2) / 2)
  for t, printed in ((1, 0.0849), (3, 0.0803), (5, 0.0699), (8, 0.0377)):
    first = np.sqrt(bar[t]) * nodes  # of x_t given the action
    second = first**2 + 1 - bar[t]
    moments = np.stack([second, first, first, np.ones(64)], -1)
    found = diffusion.concavity_threshold(
      rewards - weights @ rewards, weights, moments.reshape(64, 2, 2)
    )
    assert abs(found - printed) <= 5.1e-5


def test_concavity_threshold_is_where_the_hessian_changes_sign():
  rng = np.random.default_rng(0)
  features, weights = rng.normal(size=(7, 3)), rng.dirichlet(np.ones(7))
  advantages = rng.normal(size=7)
  least = diffusion.concavity_threshold(advantages, weights, features)

  def surrogate(w, beta):  # the bound is minus a squared error
    return weights @ ((advantages + beta) * -((features @ w - 1) ** 2))

  for shift, concave in ((1e-6, True), (-1e-6, False)):
    hessian = jax.hessian(surrogate)(jnp.zeros(3), least + shift)
    assert (np.linalg.eigvalsh(hessian).max() < 0) == concave
  centred = advantages - weights @ advantages
  constant = np.concatenate([features, np.ones((7, 1))], -1)
  assert diffusion.concavity_threshold(centred, weights, constant) > 0
  helpers.assert_transforms(
    diffusion.concavity_threshold,
    *(jnp.asarray(np.stack([x, x])) for x in (advantages, weights, features)),
  )


def test_interleaved_distils_first_and_then_every_so_often():
  seen = []
  step = diffusion.interleaved(
    lambda x: x + 1, lambda x: jnp.floor(x / 10) * 10, every=3
  )
  x = jnp.array(7.0)
  for i in range(7):
    x = step(x, i)
    seen.append(float(x))
  assert seen == [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0]


def test_bad_input():
  with pytest.raises(ValueError, match="every must be at least 1, was 0"):
    diffusion.interleaved(lambda x: x, lambda x: x, every=0)
  with pytest.raises(AssertionError):
    diffusion.gradient_cosine({"a": np.ones(2)}, {"b": np.ones(2)})
  with pytest.raises(AssertionError, match="log_prob .*elbo"):
    diffusion.elbo_gap(jnp.zeros(2), jnp.zeros(3))
  with pytest.raises(ValueError, match="features must be"):
    diffusion.concavity_threshold(jnp.ones(2), jnp.ones(2), jnp.ones(2))
