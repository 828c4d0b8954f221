# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import preference
from tests import helpers
from tests.preference import golden

TEACHER = np.array([0.5, 0.2, 0.2, 0.1])
STUDENT = np.array([0.1, 0.3, 0.2, 0.4])
BETA = 0.8
LOSS = functools.partial(preference.dpkd_loss, beta=BETA)


def population(logits, rejected):
  log_policy = jax.nn.log_softmax(logits)
  weights = TEACHER[:, None] * rejected
  return preference.population_loss(LOSS, log_policy, np.log(TEACHER), weights)


def test_golden_values():
  out = preference.dpkd_loss(golden.PAIRS)
  golden.assert_golden(out.loss, [0.667647, 0.710376])
  np.testing.assert_allclose(out.chosen_reward, [0.03, -2.5 / 120])


def test_students_drawn_once_lead_beyond_the_teacher():
  found = preference.minimize_population(
    lambda x: population(x, STUDENT), np.zeros(4)
  )
  expected = TEACHER * (TEACHER / STUDENT) ** (1 / BETA)
  policy = jax.nn.softmax(found.x)
  helpers.assert_close(policy, expected / expected.sum(), rtol=0, atol=1e-13)


def test_students_drawn_anew_lead_to_the_teacher():
  @jax.jit
  def slope(logits):
    drawn = jax.lax.stop_gradient(jax.nn.softmax(logits))
    return jax.grad(population)(logits, drawn)

  assert np.all(np.abs(slope(np.log(TEACHER))) < 1e-16)
  _, path = jax.lax.scan(
    lambda x, _: (x - 3 * slope(x), slope(x)), np.log(STUDENT), length=500
  )
  assert np.max(np.abs(path[0])) > 0.01 and np.max(np.abs(path[-1])) < 1e-12


def test_an_empty_completion_has_no_loss():
  pairs = golden.PAIRS._replace(chosen_length=np.array([5.0, 0.0]))

  def total(policy):
    return preference.dpkd_loss(pairs._replace(policy_chosen=policy)).loss

  loss = total(golden.PAIRS.policy_chosen)
  golden.assert_golden(loss, [0.667647, 0.0])
  gradient = jax.grad(lambda x: total(x).sum())(np.array([-12.0, np.nan]))
  assert np.isfinite(gradient[0]) and gradient[1] == 0


def test_gradients_and_transforms():
  args = [np.stack([x, x[::-1]]) for x in golden.PAIRS]

  def loss(*arrays):
    return preference.dpkd_loss(preference.PairLogps(*arrays))

  helpers.assert_transforms(loss, *args)

  def of_policy(chosen, rejected):
    return loss(chosen, rejected, *golden.PAIRS[2:]).loss @ jnp.array([1.0, 2])

  helpers.assert_gradient(of_policy, *golden.PAIRS[:2])


def test_bad_input():
  with pytest.raises(ValueError, match="sigmoid_norm needs .* of PairLogps"):
    preference.dpkd_loss(preference.PairLogps(*golden.PAIRS[:2]))
  with pytest.raises(ValueError, match="sigmoid_norm needs chosen_length"):
    preference.dpkd_loss(golden.PAIRS._replace(chosen_length=None))
  with pytest.raises(ValueError, match="beta must be above 0, was 0"):
    preference.dpkd_loss(golden.PAIRS, beta=0.0)
