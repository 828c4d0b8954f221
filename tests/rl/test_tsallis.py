# SPDX-License-Identifier: Apache-2.0
"""Deformed logarithms and greedy policies against direct optimisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxalign import divergences
from jaxalign.rl import tsallis
from tests import helpers

ORDERS = (0.6, 1.0, 1.5, 2.0, 3.0)
VALUES = np.array([0.7, -0.4, 1.5, 1.2, -1.1])
REF = np.array([0.15, 0.3, 0.05, 0.4, 0.1])
TAU = 0.8

greedy = jax.jit(tsallis.tsallis_greedy, static_argnames="q")
kl_greedy = jax.jit(tsallis.tsallis_kl_greedy, static_argnames="q")


def _ln(x, q):
  return np.log(x) if q == 1 else (x ** (q - 1) - 1) / (q - 1)


def _direct(objective, start):
  """A maximiser over the simplex."""
  result = scipy.optimize.minimize(
    lambda pi: -objective(np.maximum(pi, 1e-15)),
    start,
    method="SLSQP",
    bounds=[(0, 1)] * len(start),
    constraints={"type": "eq", "fun": lambda pi: pi.sum() - 1},
    options={"ftol": 1e-16, "maxiter": 500},
  )
  return result.x


def _assert_constant(x):
  helpers.assert_close(x, np.full_like(x, x[0]), rtol=1e-9)


@pytest.mark.parametrize("q", ORDERS)
def test_logarithm_and_exponential(q):
  x = np.array([0.05, 0.4, 1.0, 2.5])
  helpers.assert_close(tsallis.ln_q(x, q=q), _ln(x, q))
  helpers.assert_close(tsallis.exp_q(tsallis.ln_q(x, q=q), q=q), x)
  # exp_q(x) exp_q(y) = exp_q(x + y + (q-1) x y), inside the bracket.
  x, y = np.array([0.3, -0.2, 0.5]), np.array([0.1, 0.4, -0.6])
  helpers.assert_close(
    tsallis.exp_q(x, q=q) * tsallis.exp_q(y, q=q),
    tsallis.exp_q(x + y + (q - 1) * x * y, q=q),
  )
  # ln_q(x y) = ln_q x + ln_q y + (q-1) ln_q x ln_q y.
  x, y = np.array([0.3, 2.0]), np.array([0.1, 5.0])
  a, b = tsallis.ln_q(x, q=q), tsallis.ln_q(y, q=q)
  helpers.assert_close(tsallis.ln_q(x * y, q=q), a + b + (q - 1) * a * b)


def test_an_order_near_one_is_nearly_the_logarithm():
  x = np.array([1e-3, 0.3, 1.0, 20.0])
  for q in (1 - 1e-9, 1 + 1e-9):
    # ln_q x - log x = (q-1) (log x)^2 / 2: no digit is lost to cancellation.
    np.testing.assert_allclose(tsallis.ln_q(x, q=q), np.log(x), atol=5e-8)
    np.testing.assert_allclose(tsallis.exp_q(x, q=q), np.exp(x), rtol=3e-7)


def test_ends_of_the_domains():
  """Also under the debugger of NaN, in value and gradient."""
  with jax.debug_nans(True):
    assert tsallis.exp_q(-1.0, q=2.0) == 0 and tsallis.exp_q(-9.0, q=2.0) == 0
    assert tsallis.exp_q(3.0, q=0.5) == np.inf
    assert tsallis.ln_q(0.0, q=2.0) == -1 and tsallis.ln_q(0.0, q=3.0) == -0.5
    assert tsallis.ln_q(0.0, q=1.0) == tsallis.ln_q(0.0, q=0.5) == -np.inf
    for q in ORDERS:
      assert jax.grad(lambda x, q=q: tsallis.ln_q(x, q=q))(0.0) == 0
    for q, x in ((2.0, -9.0), (0.5, 3.0)):
      assert jax.grad(lambda x, q=q: tsallis.exp_q(x, q=q))(x) == 0
  assert np.isnan(tsallis.ln_q(-1.0, q=1.5))


@pytest.mark.parametrize("q", ORDERS)
def test_entropy(q):
  entropy = tsallis.tsallis_entropy(np.log(REF), q=q)
  helpers.assert_close(entropy, -REF @ _ln(REF, q))
  if q == 1:
    helpers.assert_close(entropy, -np.sum(REF * np.log(REF)))
  # T_q(p || uniform) = (A^{q-1} sum p^q - 1)/(q-1), from `divergences`.
  size = len(REF)
  from_uniform = divergences.tsallis(np.log(REF), np.zeros(size), q=q)
  expected = -_ln(1 / size, q) - size ** (1 - q) * from_uniform
  helpers.assert_close(entropy, expected)
  # An outcome without mass is no outcome; a mask takes one away.
  run = jax.jit(
    jax.value_and_grad(lambda x, w: tsallis.tsallis_entropy(x, q=q, where=w))
  )
  keep = np.arange(size + 1) < size
  for beyond, where in ((-np.inf, keep | True), (np.nan, keep)):
    value, slopes = run(np.append(np.log(REF), beyond), where)
    helpers.assert_close(value, entropy)
    assert slopes[-1] == 0 and np.all(np.isfinite(slopes))
  assert run(np.append(np.log(REF), np.nan), keep & False)[0] == 0


@pytest.mark.parametrize("q", ORDERS)
def test_greedy_policies_are_the_maximisers(q):
  pi = np.exp(greedy(VALUES, TAU, q=q))
  uniform = np.full(len(VALUES), 1 / len(VALUES))
  direct = _direct(
    lambda p: p @ VALUES - TAU / q * np.sum(p * _ln(p, q)), uniform
  )
  # Differences of the objective see a policy to the root of 1e-16.
  helpers.assert_close(pi, direct, rtol=0, atol=3e-7)
  helpers.assert_close(pi.sum(), 1.0, rtol=1e-14)
  kept = pi > 0
  # exp_q(Q/tau - psi) with one psi for all.
  psi = VALUES[kept] / TAU - _ln(pi[kept], q)
  _assert_constant(psi)
  helpers.assert_close(
    pi, tsallis.exp_q(VALUES / TAU - psi[0], q=q), rtol=1e-9, atol=1e-15
  )
  assert kept.all() == (q <= 1)  # at this temperature

  log_pi = kl_greedy(VALUES, np.log(REF), TAU, q=q)
  pi = np.exp(log_pi)

  def divergence(p):
    if q == 1:
      return np.sum(p * np.log(p / REF))
    return (np.sum(p**q * REF ** (1 - q)) - 1) / (q - 1)

  direct = _direct(lambda p: p @ VALUES - TAU * divergence(p), REF)
  helpers.assert_close(pi, direct, rtol=0, atol=3e-7)
  # The sheet's formula: mu [((q-1)/q)(Q - psi)/tau]_+^{1/(q-1)}.
  kept = pi > 0
  if q != 1:
    power = (pi[kept] / REF[kept]) ** (q - 1)
    psi = VALUES[kept] - power * TAU * q / (q - 1)
    _assert_constant(psi)
    left_out = VALUES[~kept]
    assert q > 1 or kept.all()
    assert np.all(left_out <= psi[0] + 1e-12)
  paid = divergences.tsallis(log_pi, np.log(REF), q=q)
  helpers.assert_close(paid, divergence(np.maximum(pi, 1e-300)), rtol=1e-9)


def test_closed_forms():
  helpers.assert_close(
    greedy(VALUES, TAU, q=1.0), jax.nn.log_softmax(VALUES / TAU)
  )
  helpers.assert_close(
    kl_greedy(VALUES, np.log(REF), TAU, q=1.0),
    jax.nn.log_softmax(VALUES / TAU + np.log(REF)),
  )
  # Sparsemax: the projection of Q/tau onto the simplex, by sorting.
  z = np.sort(VALUES / TAU)[::-1]
  size = np.max(np.nonzero(1 + np.arange(1, 6) * z > np.cumsum(z))) + 1
  threshold = (z[:size].sum() - 1) / size
  helpers.assert_close(
    np.exp(greedy(VALUES, TAU, q=2.0)),
    np.maximum(VALUES / TAU - threshold, 0),
    atol=1e-15,
  )
  # One action alone from a gap of tau/(q-1) on.
  for q in (1.5, 2.0, 3.0):
    gap = TAU / (q - 1)
    for share, support in ((0.99, 2), (1.01, 1)):
      pi = np.exp(greedy(np.array([0.0, share * gap]), TAU, q=q))
      assert np.sum(pi > 0) == support


@pytest.mark.parametrize("q", ORDERS)
def test_gradients(q):
  weights = np.array([1.0, -2.0, 0.5, 3.0, 0.7])

  # The policy has kinks where an action leaves the support: none is near.
  def scalar(values, ref_logits, tau):
    first = jnp.exp(tsallis.tsallis_greedy(values, tau, q=q))
    second = jnp.exp(tsallis.tsallis_kl_greedy(values, ref_logits, tau, q=q))
    third = tsallis.tsallis_entropy(ref_logits, q=q)
    x = jnp.exp(ref_logits)
    fourth = tsallis.ln_q(x, q=q) + tsallis.exp_q(0.3 * x, q=q)
    return weights @ (first + second + fourth) + third

  helpers.assert_gradient(scalar, VALUES, np.log(REF), np.array(TAU))


@pytest.mark.parametrize("q", [1.0, 2.0])
def test_masks_are_slices(q):
  keep = np.array([True, True, False, True, False])

  def both(values, ref_logits, where):
    first = tsallis.tsallis_greedy(values, 0.5, q=q, where=where)
    second = tsallis.tsallis_kl_greedy(
      values, ref_logits, 0.5, q=q, where=where
    )
    total = jnp.exp(first + second) @ jnp.arange(len(values))
    return total, (first, second)

  run = jax.jit(jax.value_and_grad(both, (0, 1), has_aux=True))
  args = VALUES, np.log(REF)
  (_, found), slopes = run(*(np.where(keep, x, np.nan) for x in args), keep)
  expected = jax.jit(both)(*(x[keep] for x in args), None)[1]
  for x, part, slope in zip(found, expected, slopes, strict=True):
    helpers.assert_close(x[keep], part)
    assert np.all(x[~keep] == -np.inf)
    assert np.all(np.isfinite(slope)) and np.all(slope[~keep] == 0)


def test_transforms():
  def all_of_it(values, ref_logits):
    keep = jnp.arange(5) != 1
    return (
      tsallis.tsallis_greedy(values, TAU, q=2.0, where=keep),
      tsallis.tsallis_kl_greedy(values, ref_logits, TAU, q=1.5),
      tsallis.tsallis_entropy(ref_logits, q=2.0),
      tsallis.exp_q(tsallis.ln_q(jnp.exp(values), q=0.6), q=2.0),
    )

  helpers.assert_transforms(
    all_of_it,
    np.stack([VALUES, 2 * VALUES]),
    np.stack([np.log(REF), VALUES]),
  )
  order = np.array([3, 0, 4, 1, 2])
  helpers.assert_close(
    greedy(VALUES[order], TAU, q=2.0), greedy(VALUES, TAU, q=2.0)[order]
  )


def test_bad_input():
  for fn in (tsallis.exp_q, tsallis.ln_q, tsallis.tsallis_entropy):
    with pytest.raises(ValueError, match="q must be above 0, was 0"):
      fn(np.ones(3), q=0.0)
  with pytest.raises(ValueError, match="tau must be above 0, was -1"):
    tsallis.tsallis_greedy(VALUES, -1.0, q=2.0)
  with pytest.raises(ValueError, match="q must be above 0"):
    tsallis.tsallis_kl_greedy(VALUES, np.log(REF), TAU, q=-1.0)
  with pytest.raises(AssertionError, match="need floats"):
    tsallis.tsallis_greedy(np.arange(3), TAU, q=1.0)
  for q in (1.0, 2.0):
    with pytest.raises(AssertionError, match="ref_logits"):
      tsallis.tsallis_kl_greedy(VALUES, np.zeros(4), TAU, q=q)
  with pytest.raises(AssertionError, match="where"):
    tsallis.tsallis_greedy(VALUES, TAU, q=2.0, where=np.ones(4, bool))
  with pytest.raises(AssertionError, match="where"):
    tsallis.tsallis_entropy(VALUES, q=2.0, where=np.ones(4, bool))
