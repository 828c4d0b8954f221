# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from jaxalign import numerics
from jaxalign.divergences import categorical
from jaxalign.rl import em
from tests import helpers

EPS, EPS_ALPHA = 0.3, 0.05
S = 6
mpo = jax.jit(functools.partial(em.mpo_weights_and_dual, epsilon=EPS))
vmpo = jax.jit(functools.partial(em.vmpo_weights_and_dual, epsilon=EPS))
m_step = jax.jit(functools.partial(em.mpo_loss, epsilon=EPS_ALPHA))


def draws():
  """Values, log-probabilities `[2, S]`, KLs and temperatures `[2]`."""
  rng = np.random.default_rng(0)
  arrays = (
    3 * rng.standard_normal((2, S)),
    -rng.exponential(size=(2, S)),
    rng.exponential(size=2),
    rng.uniform(0.5, 2, 2),
  )
  return tuple(map(jnp.asarray, arrays))


# --- exact -------------------------------------------------------------------


def test_parity_with_rlax_mpo():
  """Loss and gradients in what the policy, the dual and the bound train."""
  q, log_probs, kl, _ = draws()

  def theirs(log_probs, kl, eta, alpha):
    loss, _ = rlax.mpo_loss(
      log_probs,
      q,
      rlax.LagrangePenalty(eta, jnp.asarray(EPS)),
      [(kl, rlax.LagrangePenalty(alpha, jnp.asarray(EPS_ALPHA)))],
      sample_axis=-1,
    )
    return loss

  def ours(log_probs, kl, eta, alpha):
    weights, dual = mpo(q, eta)
    return dual + m_step(log_probs, weights, kl, alpha)

  args = log_probs, kl, jnp.array(0.7), jnp.array(1.3)
  helpers.assert_close(jax.jit(ours)(*args), jax.jit(theirs)(*args))
  slopes = [
    jax.jit(
      jax.grad(lambda fn, *x: jnp.sum(fn(*x)), (1, 2, 3, 4)), static_argnums=0
    )(fn, *args)
    for fn in (ours, theirs)
  ]
  helpers.assert_close(*slopes)


def test_parity_with_rlax_vmpo():
  """Theirs is a loss per sample, whose mean is ours."""
  (a, _), (log_probs, _), _, _ = draws()
  kls = jnp.abs(log_probs[::-1])

  def theirs(log_probs, kls, eta, alpha):
    loss, found = rlax.vmpo_loss(
      log_probs,
      a,
      rlax.LagrangePenalty(eta, jnp.asarray(EPS)),
      [(kls, rlax.LagrangePenalty(alpha, jnp.asarray(EPS_ALPHA)))],
    )
    return jnp.mean(loss), found.normalized_weights

  def ours(log_probs, kls, eta, alpha):
    weights, dual = vmpo(a, eta)
    return dual + m_step(log_probs, weights, jnp.mean(kls), alpha), weights

  args = log_probs, kls, jnp.array(0.7), jnp.array(1.3)
  found = [
    jax.jit(jax.value_and_grad(fn, (0, 1, 2, 3), has_aux=True))(*args)
    for fn in (ours, theirs)
  ]
  # They add 1e-10 to two sums.
  helpers.assert_close(*found, rtol=1e-8, atol=1e-8)
  assert np.sum(np.asarray(found[0][0][1]) > 0) == S // 2


def test_at_the_duals_optimum_the_kl_is_epsilon():
  q, _, _, _ = draws()
  slope = jax.grad(lambda eta: jnp.sum(mpo(q, eta).dual))

  @jax.jit
  def solve():
    return numerics.bisect(slope, jnp.full(2, 0.01), jnp.full(2, 100.0))

  weights, dual = mpo(q, solve())
  uniform = jnp.zeros_like(q)
  kl = categorical.kl(jnp.log(weights), uniform)
  helpers.assert_close(kl, jnp.full(2, EPS), rtol=1e-8)
  # And the dual is then the best value in the ball: no gap.
  helpers.assert_close(jnp.sum(weights * q, -1), dual, rtol=1e-8)
  with pytest.raises(AssertionError):
    helpers.assert_close(
      categorical.kl(jnp.log(mpo(q, 1.0).weights), uniform), jnp.full(2, EPS)
    )


def test_the_better_half():
  a = jnp.array([3.0, -1.0, 2.0, 2.0, 0.0, jnp.nan])
  where = jnp.array([True] * 5 + [False])
  weights, dual = vmpo(a, 2.0, where=where)
  # floor(5 / 2) = 2 are the best; a tie with the second counts as well.
  best = np.exp(np.array([3.0, 2.0, 2.0]) / 2)
  expected = np.zeros(6)
  expected[[0, 2, 3]] = best / best.sum()
  helpers.assert_close(weights, expected)
  helpers.assert_close(dual, 2 * (EPS + np.log(best.mean())))
  few = em.vmpo_weights_and_dual(
    jnp.array([1.0, 0.0]), 1.0, epsilon=EPS, fraction=0.01
  )
  helpers.assert_close(few.weights, np.array([1.0, 0.0]))
  whole = em.vmpo_weights_and_dual(a[:5], 1.0, epsilon=EPS, fraction=1.0)
  helpers.assert_close(whole, mpo(a[:5], 1.0))


def test_the_fixed_point_of_the_m_step():
  """Enumerated actions: a free policy becomes the weights."""
  q, _, _, eta = draws()
  weights, _ = mpo(q, eta)

  def loss(logits):
    log_pi = jax.nn.log_softmax(logits)
    return jnp.sum(m_step(log_pi, weights, jnp.zeros(2), 1.0))

  slope = jax.jit(jax.grad(loss))
  helpers.assert_close(slope(q / eta[:, None]), jnp.zeros((2, S)))
  assert np.abs(slope(q)).max() > 0.01


# --- masks, gradients, invariance --------------------------------------------


@pytest.mark.parametrize("step", [mpo, vmpo])
def test_masks_are_slices(step):
  q, _, _, eta = draws()
  where = jnp.broadcast_to(jnp.arange(S) % 3 > 0, q.shape)
  expected = step(q[where].reshape(2, -1), eta)
  with jax.debug_nans(False):
    weights, dual = step(jnp.where(where, q, jnp.nan), eta, where=where)
  helpers.assert_close(dual, expected.dual)
  helpers.assert_close(weights[where].reshape(2, -1), expected.weights)
  assert np.all(weights[~where] == 0)
  nothing = step(q, eta, where=where & False)
  assert np.all(nothing.weights == 0) and np.all(nothing.dual == 0)
  slope = jax.grad(lambda eta: jnp.sum(step(q, eta, where=where & False).dual))
  assert np.all(slope(eta) == 0)


def test_what_has_no_weight_may_be_anything():
  log_probs, weights = jnp.array([-jnp.inf, -1.0]), jnp.array([0.0, 1.0])
  value, slope = jax.value_and_grad(m_step)(log_probs, weights, 0.0 * EPS, 1.0)
  helpers.assert_close((value, slope), (1 + EPS_ALPHA, np.array([0.0, -1.0])))


@pytest.mark.parametrize("step", [mpo, vmpo])
def test_the_dual_moves_the_temperature_alone(step):
  q, _, _, eta = draws()
  helpers.assert_gradient(lambda eta: jnp.sum(step(q, eta).dual), eta)
  slope = jax.grad(lambda q: jnp.sum(step(q, eta).dual))
  weights = jax.grad(lambda eta: step(q, eta).weights[0, 0])
  assert np.all(slope(q) == 0) and np.all(weights(eta) == 0)


def test_gradients_of_the_m_step():
  q, log_probs, kl, eta = draws()
  weights = jax.nn.softmax(q)
  total = lambda logp: jnp.sum(m_step(logp, weights, kl, 2.0))
  helpers.assert_gradient(total, log_probs)
  slopes = jax.grad(lambda *x: jnp.sum(m_step(log_probs, *x)), (0, 1, 2))(
    weights, kl, eta
  )
  helpers.assert_close(slopes, (0 * weights, eta, EPS_ALPHA - kl))


def test_transforms():
  q, log_probs, kl, eta = draws()

  def everything(q, log_probs, kl, eta):
    first = em.mpo_weights_and_dual(q, eta, epsilon=EPS)
    second = em.vmpo_weights_and_dual(q, eta, epsilon=EPS)
    loss = em.mpo_loss(log_probs, first.weights, kl, eta, epsilon=EPS_ALPHA)
    return first, second, loss

  helpers.assert_transforms(everything, q, log_probs, kl, eta)


def test_bad_input():
  q, log_probs, kl, eta = draws()
  for step in (em.mpo_weights_and_dual, em.vmpo_weights_and_dual):
    with pytest.raises(AssertionError, match="temperature"):
      step(q, eta[:1], epsilon=EPS)
    with pytest.raises(AssertionError, match="where"):
      step(q, eta, epsilon=EPS, where=jnp.ones(S, bool))
    with pytest.raises(AssertionError, match="int"):
      step(q.astype(int), eta, epsilon=EPS)
    with pytest.raises(ValueError, match="epsilon must be above 0"):
      step(q, eta, epsilon=0.0)
    with pytest.raises(ValueError, match="temperature must be above 0"):
      step(q, -1.0, epsilon=EPS)
  with pytest.raises(ValueError, match=r"fraction must be in \(0, 1\]"):
    em.vmpo_weights_and_dual(q, eta, epsilon=EPS, fraction=0.0)
  with pytest.raises(AssertionError, match="weights"):
    em.mpo_loss(log_probs, q[:, :2], kl, 1.0, epsilon=EPS)
  with pytest.raises(AssertionError, match="kl"):
    em.mpo_loss(log_probs, q, kl[:1], 1.0, epsilon=EPS)
  with pytest.raises(AssertionError, match="multiplier"):
    em.mpo_loss(log_probs, q, kl, eta[:1], epsilon=EPS)
  with pytest.raises(ValueError, match="multiplier must be above 0"):
    em.mpo_loss(log_probs, q, kl, 0.0, epsilon=EPS)
