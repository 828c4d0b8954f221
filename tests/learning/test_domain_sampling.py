# SPDX-License-Identifier: Apache-2.0
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import divergences
from jaxalign.learning import domain_sampling
from tests import helpers

N = np.array([900.0, 90.0, 10.0])


def shares(n, tau):
  return np.asarray(domain_sampling.temperature_weights(jnp.asarray(n), tau))


def test_weights_are_the_formula():
  for tau in (0.5, 1.0, 5.0):
    expected = N ** (1 / tau) / np.sum(N ** (1 / tau))
    np.testing.assert_allclose(shares(N, tau), expected, rtol=1e-13)
  np.testing.assert_allclose(shares(N, np.inf), 1 / 3, rtol=1e-15)
  np.testing.assert_array_equal(shares([4, 0, 4], 5.0), [0.5, 0, 0.5])
  np.testing.assert_array_equal(shares([4, 0, 4], np.inf), [0.5, 0, 0.5])


def test_weights_have_their_gradient_and_transform():
  def entry(n, tau):
    return domain_sampling.temperature_weights(n, tau)[0]

  helpers.assert_gradient(entry, jnp.asarray(N), jnp.array(2.0), rtol=1e-5)
  rows = np.stack([N, N[::-1]])
  helpers.assert_transforms(
    lambda n: domain_sampling.temperature_weights(n, 5.0), rows
  )


@pytest.mark.parametrize("total", [10, 70, 1500])
def test_cooldown_changes_after_its_share(total):
  tau = domain_sampling.cooldown_tau(jnp.arange(total), total)
  assert int(np.sum(tau == 5.0)) == 3 * total // 10
  np.testing.assert_array_equal(tau[3 * total // 10 :], 1.0)
  tau = domain_sampling.cooldown_tau(jnp.arange(4), 4, hi=3.0, lo=2.0, frac=0.0)
  np.testing.assert_array_equal(tau, 2.0)


def gradients(seed, scale=(1.0, 1.0, 1.0)):
  """Of every example of three domains, `[n_i, 4]`."""
  rng = np.random.default_rng(seed)
  return [
    s * (rng.normal(size=4) + rng.normal(size=(int(n), 4)))
    for n, s in zip(N, scale, strict=True)
  ]


def variance(domains, p, w):
  """Of the gradient of an example, over all of them."""
  mass = np.concatenate(
    [np.full(len(g), q / len(g)) for g, q in zip(domains, p, strict=True)]
  )
  drawn = np.concatenate([v * g for g, v in zip(domains, w, strict=True)])
  mean = mass @ drawn
  return mass @ np.sum(drawn**2, 1) - mean @ mean, mean


@pytest.mark.parametrize("scale", [(1.0, 1.0, 1.0), (1.0, 1.0, 0.05)])
def test_variance_gap_is_that_over_all_examples(scale):
  p1, p = shares(N, 1.0), shares(N, 5.0)
  domains = gradients(1, scale)
  scalarised, mean = variance(domains, p1, p / p1)
  sampled, same = variance(domains, p, np.ones(3))
  np.testing.assert_allclose(mean, same, rtol=1e-13)
  moments = np.array([np.mean(np.sum(g**2, 1)) for g in domains])
  found = domain_sampling.gradient_variance_gap(p1, p / p1, moments)
  np.testing.assert_allclose(found, scalarised - sampled, rtol=1e-12)


def test_variance_gap_of_equal_moments_is_chi_square_and_can_be_negative():
  p1, p = shares(N, 1.0), shares(N, 5.0)
  found = domain_sampling.gradient_variance_gap(p1, p / p1, np.full(3, 2.0))
  chi2 = divergences.pearson_chi2(np.log(p), np.log(p1))
  np.testing.assert_allclose(found, 2 * chi2, rtol=1e-12)
  # What is raised has no gradients at all.
  gap = domain_sampling.gradient_variance_gap(
    p1, p / p1, np.array([1.0, 0.0, 0.0])
  )
  assert gap < -0.2


def test_variance_gap_transforms_and_has_its_gradient():
  arrays = np.random.default_rng(0).random((3, 2, 3))
  helpers.assert_transforms(domain_sampling.gradient_variance_gap, *arrays)
  helpers.assert_gradient(
    domain_sampling.gradient_variance_gap, *jnp.asarray(arrays[:, 0])
  )


def test_bad_input():
  with pytest.raises(ValueError, match="tau must be above 0, was 0"):
    domain_sampling.temperature_weights(jnp.ones(2), 0.0)
  with pytest.raises(ValueError, match="hi must be above 0"):
    domain_sampling.cooldown_tau(0, 10, hi=0.0)
  with pytest.raises(ValueError, match=r"frac must be in \[0, 1\], was 2"):
    domain_sampling.cooldown_tau(0, 10, frac=2)
  with pytest.raises(AssertionError, match=r"w \(3,\)"):
    domain_sampling.gradient_variance_gap(jnp.ones(2), jnp.ones(3), jnp.ones(2))
