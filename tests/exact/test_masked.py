# SPDX-License-Identifier: Apache-2.0
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxalign.exact import masked, sequences
from tests import helpers

V, L = 3, 3
X = np.asarray(sequences.enumerate_sequences(V, L))


def table(seed=0, scale=2.0, vocab_size=V, length=L):
  shape = ((vocab_size + 1) ** length, length, vocab_size)
  return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape))


@jax.jit
def log_probs_of(logits, tokens=X):
  vocab_size = logits.shape[-1]
  return masked.subset_log_probs(
    masked.table_denoiser(logits), jnp.asarray(tokens), mask_id=vocab_size
  )


self_distill = jax.jit(masked.self_distill)


def conditional(logits, z):
  """`log p(. | z)` `[L, V]` by looking up one row, in NumPy."""
  vocab_size = logits.shape[-1]
  row = sum(t * (vocab_size + 1) ** place for place, t in enumerate(z))
  return scipy.special.log_softmax(np.asarray(logits)[row], -1)


def along(logits, x, order):
  """`sum_i log p(x_o(i) | x_o(<i))` by revealing one token after another."""
  z, total = [logits.shape[-1]] * len(x), 0.0
  for place in order:
    total += conditional(logits, z)[place, x[place]]
    z[place] = x[place]
  return total


@pytest.mark.parametrize("length", [3, 4])
def test_any_order_against_permutations(length):
  logits = table(length, length=length)
  orders = list(itertools.permutations(range(length)))
  for x in np.random.default_rng(0).integers(0, V, (4, length)):
    log_probs = log_probs_of(logits, x)
    by_order = np.array([along(logits, x, order) for order in orders])
    helpers.assert_close(masked.order_log_probs(log_probs), by_order)
    log_pi = scipy.special.logsumexp(by_order) - math.log(len(orders))
    helpers.assert_close(
      masked.any_order_log_prob(log_probs), log_pi, rtol=1e-14
    )
    elbo = masked.any_order_elbo(log_probs)
    helpers.assert_close(elbo, by_order.mean(), rtol=1e-14)
    # The gap is the divergence of a uniform order from its posterior.
    posterior = scipy.special.log_softmax(by_order)
    helpers.assert_close(
      log_pi - elbo, np.mean(-math.log(len(orders)) - posterior), rtol=1e-12
    )


def test_the_law_is_normalised():
  log_pi = masked.any_order_log_prob(log_probs_of(table()))
  helpers.assert_close(jnp.sum(jnp.exp(log_pi)), 1.0, rtol=1e-14)
  one = masked.any_order_log_prob(log_probs_of(table(length=1), X[:V, -1:]))
  helpers.assert_close(one, conditional(table(length=1), [V])[0], rtol=1e-14)


def test_elbo_is_the_integral_over_time():
  hidden = np.asarray(log_probs_of(table(), X[5]))
  visible = masked.visible_sets(L)
  nodes, weights = np.polynomial.legendre.leggauss(20)
  t = (nodes + 1) / 2
  for alpha, slope in (
    (1 - t, np.ones_like(t)),
    (np.cos(np.pi * t / 2), np.pi / 2 * np.sin(np.pi * t / 2)),
    (1 - t**2, 2 * t),
  ):
    chance = np.prod(
      np.where(visible, alpha[:, None, None], 1 - alpha[:, None, None]), -1
    )
    inside = slope / (1 - alpha) * (chance @ hidden.sum(-1))
    value = masked.any_order_elbo(jnp.asarray(hidden))
    # Twenty nodes integrate the cosine schedule to rounding.
    helpers.assert_close(value, inside @ weights / 2, rtol=1e-12)


def alphas_of(steps, power=1.0):
  return jnp.asarray(1 - (np.arange(steps + 1) / steps) ** power)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_t_steps_against_paths(power):
  """Each position has a step at which it is revealed: all T^L of them."""
  logits, steps, x = table(3), 3, X[14]
  alphas = np.asarray(alphas_of(steps, power))
  share = (alphas[:-1] - alphas[1:]) / (1 - alphas[1:])
  total, bound = 0.0, 0.0
  for times in itertools.product(range(steps), repeat=L):
    # Times count down: what has a later time is visible before.
    log_chance = np.sum([np.log(alphas[t] - alphas[t + 1]) for t in times])
    log_path = 0.0
    for place, t in enumerate(times):
      z = [x[i] if times[i] > t else V for i in range(L)]
      log_path += conditional(logits, z)[place, x[place]]
    total += np.exp(log_chance + log_path)
    bound += np.exp(log_chance) * log_path
  assert np.all(share > 0)
  log_probs = log_probs_of(logits, x)
  helpers.assert_close(
    masked.t_step_log_prob(log_probs, alphas_of(steps, power)), np.log(total)
  )
  helpers.assert_close(
    masked.t_step_elbo(log_probs, alphas_of(steps, power)), bound
  )


def test_bounds_of_t_steps():
  log_probs = log_probs_of(table(1))
  elbo = masked.any_order_elbo(log_probs)
  errors = []
  for steps in (1, 2, 4, 8, 32):
    log_pi = masked.t_step_log_prob(log_probs, alphas_of(steps))
    bound = masked.t_step_elbo(log_probs, alphas_of(steps))
    helpers.assert_close(jnp.sum(jnp.exp(log_pi)), 1.0)
    assert np.all(bound <= log_pi + 1e-12)
    errors.append(float(jnp.max(jnp.abs(bound - elbo))))
  helpers.assert_close(
    masked.t_step_elbo(log_probs, alphas_of(1)), log_probs[:, 0].sum(-1)
  )
  helpers.assert_close(
    masked.t_step_log_prob(log_probs, alphas_of(1)), log_probs[:, 0].sum(-1)
  )
  # First order in the step: from 8 to 32 steps a fourth is left.
  assert 0.2 < errors[-1] / errors[-2] < 0.3 and np.all(np.diff(errors) < 0)


def test_eubo():
  log_probs = log_probs_of(table(2))
  log_pi = masked.any_order_log_prob(log_probs)
  values = [masked.masked_eubo(log_probs, power=b) for b in (1.0, 1.5, 2, 3)]
  assert np.all(np.diff(values, axis=0) > 0)
  assert np.min(values[-1] - log_pi) > 0 > np.min(values[0] - log_pi)
  single = log_probs_of(table(length=1), X[:V, -1:])
  helpers.assert_close(masked.masked_eubo(single, power=1), single[:, 0, 0])
  # Two tokens, by hand: no upper bound below b = L.
  p = np.array([[0.9, 0.1], [1.0, 0.9], [0.1, 1.0], [1.0, 1.0]])
  log_p = jnp.log(jnp.asarray(p))
  helpers.assert_close(jnp.exp(masked.any_order_log_prob(log_p)), 0.41)
  helpers.assert_close(jnp.exp(masked.masked_eubo(log_p, power=1)), 0.25)


def test_self_distillation_is_tight_and_keeps_the_law():
  logits = table(4)
  tight = self_distill(logits)
  before, after = log_probs_of(logits), log_probs_of(tight)
  log_pi = masked.any_order_log_prob(before)
  helpers.assert_close(masked.any_order_log_prob(after), log_pi)
  helpers.assert_close(masked.any_order_elbo(after), log_pi)
  assert np.max(log_pi - masked.any_order_elbo(before)) > 0.1
  helpers.assert_close(log_probs_of(self_distill(tight)), after, atol=1e-12)
  # Impossible sequences stay impossible, without NaN.
  hard = jnp.where(jnp.arange(V) == 0, -jnp.inf, jnp.zeros((64, L, V)))
  with jax.debug_nans(True):
    found = masked.any_order_log_prob(log_probs_of(self_distill(hard)))
  helpers.assert_close(jnp.exp(found), np.all(X > 0, -1) / 8)


def test_zeros_have_no_gradient():
  hard = table().at[:, :, 0].set(-jnp.inf)
  power = 3.0

  def total(logits):
    log_probs = log_probs_of(logits, X[13])  # all ones: possible
    return (
      masked.any_order_log_prob(log_probs)
      + masked.any_order_elbo(log_probs)
      + masked.masked_eubo(log_probs, power=power)
      + masked.t_step_log_prob(log_probs, alphas_of(3))
    )

  with jax.debug_nans(True):
    value, gradient = jax.jit(jax.value_and_grad(total))(hard)
    impossible = masked.any_order_log_prob(log_probs_of(hard, X[0]))
  assert np.isfinite(value) and impossible == -np.inf
  assert np.all(np.isfinite(gradient)) and np.all(gradient[:, :, 0] == 0)


FUNCTIONS = {
  "any_order_log_prob": masked.any_order_log_prob,
  "any_order_elbo": masked.any_order_elbo,
  "order_log_probs": lambda x: jnp.sum(masked.order_log_probs(x) ** 2, -1),
  "masked_eubo": lambda x: masked.masked_eubo(x, power=1.5),
  "t_step_log_prob": lambda x: masked.t_step_log_prob(x, alphas_of(3)),
  "t_step_elbo": lambda x: masked.t_step_elbo(x, alphas_of(3)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_transforms_and_gradients(name):
  fn = jax.jit(FUNCTIONS[name])
  log_probs = log_probs_of(table(), X[:2])
  if not name.startswith("t_step"):  # whose alphas are float64
    helpers.assert_transforms(lambda x: fn(x), log_probs)
  helpers.assert_gradient(fn, log_probs[0])
  # What is visible is not read.
  spoilt = jnp.where(masked.visible_sets(L), jnp.nan, log_probs[0])
  value, gradient = jax.value_and_grad(fn)(spoilt)
  helpers.assert_close(value, fn(log_probs[0]))
  assert np.all(np.isfinite(gradient))


def test_self_distillation_differentiates():
  def loss(logits):
    return jnp.sum(masked.self_distill(logits) ** 2)

  small = table(0, 1.0, vocab_size=2, length=2)
  helpers.assert_gradient(jax.jit(loss), small, atol=1e-7)
  helpers.assert_transforms(masked.self_distill, jnp.stack([small, -small]))


def test_random_denoisers(key):
  found = masked.random_denoiser(key, vocab_size=2, length=3)
  assert found.shape == (27, 3, 2)
  # 162 standard normals: six standard errors.
  assert abs(float(jnp.mean(found))) < 6 / math.sqrt(162)


def test_bad_arguments():
  with pytest.raises(ValueError, match="length must be at least 1, was 0"):
    masked.visible_sets(0)
  with pytest.raises(ValueError, match="2097152 sets of 21 positions: the lim"):
    masked.visible_sets(21)
  with pytest.raises(ValueError, match=r"must be \[..., 2\*\*L, L\]"):
    masked.any_order_elbo(jnp.zeros((3, 2)))
  with pytest.raises(ValueError, match="mask_id must be outside the voc.* 3 t"):
    masked.subset_log_probs(
      masked.table_denoiser(table()), jnp.asarray(X), mask_id=2
    )
  with pytest.raises(ValueError, match="power must be at least 1, was 0.5"):
    masked.masked_eubo(jnp.zeros((4, 2)), power=0.5)
  with pytest.raises(ValueError, match="alphas must have two entries"):
    masked.t_step_elbo(jnp.zeros((4, 2)), jnp.ones(1))
  with pytest.raises(ValueError, match="orders of 10 positions: the limit"):
    masked.order_log_probs(jnp.zeros((1024, 10)))
  with pytest.raises(AssertionError):
    masked.table_denoiser(jnp.zeros((5, 2, 2)))
