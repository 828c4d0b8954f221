# SPDX-License-Identifier: Apache-2.0
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxalign.rl import cross_sampling
from tests import helpers

V = 5
# Compiled: one program for each shape, not one for each operation.
divergence = jax.jit(cross_sampling.token_divergence, static_argnames="top_p")
sample = jax.jit(cross_sampling.cross_sample_log_probs, static_argnames="top_p")


def logits(seed, scale=1.0):
  """Two policies at two prefixes, `[2, V]` each."""
  rng = np.random.default_rng(seed)
  return jnp.asarray(scale * rng.normal(size=(2, 2, V)))


def softmax(x):
  x = np.exp(x - np.max(x, -1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def js(p, q):
  m = (p + q) / 2

  def kl(a):
    return np.sum(scipy.special.rel_entr(a, m), -1)

  return (kl(p) + kl(q)) / 2


def nucleus(p, top_p):
  """Tokens in order of their mass until it reaches top_p, normalised."""
  kept, mass = np.zeros_like(p), 0.0
  for i in np.argsort(-p):
    if mass >= top_p:
      break
    kept[i], mass = p[i], mass + p[i]
  return kept / kept.sum()


def test_divergence_is_jensen_shannon():
  p, q = logits(0)
  found = divergence(p, q)
  np.testing.assert_allclose(found, js(softmax(p), softmax(q)), rtol=1e-12)


@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9, 1.0])
def test_truncation_keeps_each_laws_likeliest(top_p):
  p, q = (softmax(x) for x in logits(1, 2.0))
  expected = [
    js(nucleus(a, top_p), nucleus(b, top_p)) for a, b in zip(p, q, strict=True)
  ]
  found = divergence(jnp.log(p), jnp.log(q) + 3, top_p=top_p)
  np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_divergence_stays_below_its_bound():
  """For the comparison with log 2, whatever rounding adds."""
  big = logits(2, 300.0).astype(jnp.float32)
  p = jnp.where(jnp.arange(V) < 2, big[0], -jnp.inf)
  q = jnp.where(jnp.arange(V) < 2, -jnp.inf, big[1])
  with jax.debug_nans(True):
    found = divergence(p, q)
  assert np.all(found <= math.log(2)) and found.dtype == jnp.float32
  np.testing.assert_allclose(found, math.log(2), rtol=1e-6)
  replaced = sample(p, q, math.log(2)).replaced
  assert not np.any(replaced)


def test_ends_are_the_policies_exactly():
  p, q = logits(3, 3.0)
  for eps, expected in (
    (math.log(2), p),
    (1.0, p),
    (-1e-9, q),
    (-1.0, q),
  ):
    found = sample(p, q, eps)
    np.testing.assert_array_equal(
      found.log_probs, jax.nn.log_softmax(expected, -1)
    )
    assert np.all(found.replaced == (eps < 0))
  # Equal laws are not above 0.
  assert not np.any(sample(p, p, 0.0).replaced)


def test_tokens_are_replaced_where_laws_diverge():
  p, q = logits(4)
  values = np.asarray(divergence(p, q))
  eps = values.mean()
  found = sample(p, q, eps)
  np.testing.assert_array_equal(found.replaced, values > eps)
  assert 0 < np.sum(found.replaced) < 2
  expected = np.where((values > eps)[:, None], softmax(q), softmax(p))
  np.testing.assert_allclose(np.exp(found.log_probs), expected, rtol=1e-12)


def test_truncation_decides_alone():
  """The likeliest tokens agree: truncated to them nothing diverges."""
  p = jnp.log(jnp.array([0.9, 0.1, 0.0]))
  q = jnp.log(jnp.array([0.55, 0.0, 0.45]))
  full = sample(p, q, 0.1)
  cut = sample(p, q, 0.1, top_p=0.5)
  assert full.replaced and not cut.replaced
  np.testing.assert_allclose(np.exp(cut.log_probs), [0.9, 0.1, 0], atol=1e-15)


def test_weights_have_their_bounds_and_symmetries():
  weights = jax.jit(cross_sampling.divergence_weights)
  kl = jnp.array([0.0, 0.1, 2.0, 1e6, jnp.inf, -3.0])
  np.testing.assert_array_equal(weights(kl, 2.0, 0.0), 1)
  for alpha, s in ((1.5, 0.6), (-1.5, 0.6), (1.5, -0.6)):
    found = weights(kl, alpha, s)
    assert np.all((found >= 1 - 0.3) & (found <= 1 + 0.3))
    assert found[0] == 1
    rises = np.sign(alpha * s)
    assert np.all(rises * np.diff(found[:3]) > 0)
    np.testing.assert_allclose(found, weights(kl, -alpha, -s), rtol=1e-15)
  expected = 1 + 0.6 * (1 / (1 + math.exp(-3.0)) - 0.5)
  np.testing.assert_allclose(weights(kl, 1.5, 0.6)[2], expected, rtol=1e-15)


def test_weights_are_constants():
  slope = jax.grad(
    lambda kl: cross_sampling.divergence_weights(kl, 2.0, 0.5).sum()
  )(jnp.ones(3))
  np.testing.assert_array_equal(slope, 0)


def test_transforms_and_gradient():
  p, q = logits(5)

  def both(p, q):
    found = cross_sampling.cross_sample_log_probs(p, q, 0.05, top_p=0.9)
    weights = cross_sampling.divergence_weights(q, 1.0, 0.5)
    return found, weights

  helpers.assert_transforms(both, p, q)
  helpers.assert_gradient(
    lambda p, q: cross_sampling.token_divergence(p, q, top_p=0.9),
    p[0],
    q[0],
  )


def test_bad_input():
  with pytest.raises(AssertionError, match=r"q_logits \(3,\)"):
    cross_sampling.token_divergence(jnp.zeros(2), jnp.zeros(3))
  with pytest.raises(ValueError, match=r"top_p must be in \(0, 1\], was 0"):
    cross_sampling.token_divergence(jnp.zeros(2), jnp.zeros(2), top_p=0.0)
  with pytest.raises(AssertionError, match="need floats: kl"):
    cross_sampling.divergence_weights(jnp.zeros(2, int), 1.0, 1.0)
