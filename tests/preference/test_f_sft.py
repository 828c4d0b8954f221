# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import divergences, preference
from tests import helpers

RNG = np.random.default_rng(0)
N, BETA = 5, 0.3
LOG_REF, LOG_EXPERT = np.log(RNG.dirichlet(np.full(N, 3.0), 2))
# Largest difference of the two problems' policies.
TOLERANCES = {"pearson_chi2": 6e-11, "squared_hellinger": 8e-17, "kl": 2e-11}


def dual(div, x):
  """Expected loss of demonstrations; V is the last parameter."""
  h = jax.nn.log_softmax(x[:-1]) - LOG_REF
  losses = preference.fsft_loss(div, h, jnp.full(N, x[-1]), beta=BETA)
  return jnp.exp(LOG_EXPERT) @ losses


def primal(div, logits):
  log_policy = jax.nn.log_softmax(logits)
  imitation = divergences.categorical_f_divergence(div, logits, LOG_EXPERT)
  return imitation + BETA * divergences.kl(log_policy, LOG_REF)


@pytest.mark.parametrize("name", TOLERANCES)
def test_the_dual_has_the_policy_and_the_value_of_the_primal(name):
  div = divergences.f_divergence(name)
  start = np.append(LOG_REF, 0.0)
  found, wanted = (
    preference.minimize_population(functools.partial(f, div), x, num_steps=40)
    for f, x in ((dual, start), (primal, LOG_REF))
  )
  np.testing.assert_allclose(-found.loss, wanted.loss, rtol=0, atol=4e-16)
  policies = [jax.nn.softmax(x) for x in (found.x[:-1], wanted.x)]
  # Half a dozen roundings of a probability are the least that can be asked.
  tolerance = max(TOLERANCES[name], 1e-15)
  np.testing.assert_allclose(*policies, rtol=0, atol=tolerance)
  assert np.abs(policies[0] - np.exp(LOG_EXPERT)).max() > 1e-2


def test_a_linear_conjugate_is_maximum_likelihood():
  div = divergences.f_divergence("total_variation")
  h, value = RNG.uniform(-0.4, 0.4, (2, 4))  # inside the domain
  loss = functools.partial(preference.fsft_loss, div, beta=0.2)
  np.testing.assert_allclose(loss(h, value), -0.2 * h, rtol=1e-14)
  slope = jax.grad(lambda v: jnp.sum(loss(h, v)))(value)
  np.testing.assert_array_equal(slope, 0)


def test_outside_the_domain_it_is_infinite():
  div = divergences.f_divergence("squared_hellinger")
  t = np.array([0.49, 0.5, 0.51, 2.0, np.inf])
  found = preference.fsft_loss(div, -t, np.zeros(5), beta=1.0)
  np.testing.assert_allclose(found[0], 0.49 / 0.02, rtol=1e-13)
  # The formula itself gives -25.5 and less beyond the pole.
  np.testing.assert_array_equal(found[1:], np.inf)


def test_gradient_and_transforms():
  h, value = RNG.uniform(-1, 1, (2, 2, 3))

  def losses(h, value):
    return tuple(
      preference.fsft_loss(divergences.f_divergence(name), h, value, beta=0.2)
      for name in ("kl", "pearson_chi2", "squared_hellinger")
    )

  helpers.assert_transforms(losses, h, value)
  helpers.assert_gradient(lambda *x: sum(map(jnp.sum, losses(*x))), h, value)


def test_wrong_arguments_raise():
  div = divergences.f_divergence("kl")
  with pytest.raises(ValueError, match="beta must be above 0, was 0"):
    preference.fsft_loss(div, np.zeros(2), np.zeros(2), beta=0)
  with pytest.raises(AssertionError, match=r"value \(3,\)"):
    preference.fsft_loss(div, np.zeros(2), np.zeros(3))
