# SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.rl import group_advantages
from jaxalign.rl.pass_at_k import pass_at_k_advantages
from tests import helpers

compiled = jax.jit(
  pass_at_k_advantages, static_argnames=("num_generations", "k")
)
LOGITS, CORRECT = np.array([0.4, -0.3, 0.9]), np.array([1.0, 0.0, 1.0])
GROUP = 4


@pytest.mark.parametrize("k", [1, 2, 3])
def test_sum_over_the_group_is_the_gradient_of_pass_at_k(k):
  """Over all 81 groups of four samples."""
  groups = np.array(list(itertools.product(range(3), repeat=GROUP)))
  flat = groups.reshape(-1)
  found = compiled(CORRECT[flat], num_generations=GROUP, k=k)

  def objective(logits):
    log_pi = jax.nn.log_softmax(logits)
    law = jax.lax.stop_gradient(jnp.exp(log_pi[groups].sum(-1)))
    return law @ (found.reshape(groups.shape) * log_pi[groups]).sum(-1)

  def success(logits):
    return 1 - (1 - jax.nn.softmax(logits) @ CORRECT) ** k

  gradients = jax.jit(lambda x: (jax.grad(objective)(x), jax.grad(success)(x)))
  helpers.assert_close(*gradients(LOGITS))


def test_one_attempt_is_leave_one_out():
  correct = np.array([1.0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0])
  found = compiled(correct, num_generations=GROUP, k=1)
  loo = group_advantages(
    correct, num_generations=GROUP, baseline="loo", scale="none"
  )
  helpers.assert_close(GROUP * found, loo)


def test_signs_and_zeros():
  groups = np.array(list(itertools.product((0, 1), repeat=GROUP)))
  found = compiled(
    groups.reshape(-1).astype(bool), num_generations=GROUP, k=2
  ).reshape(groups.shape)
  # Single precision: up to rounding.
  assert np.all(found[groups == 1] > -1e-6)
  assert np.all(found[groups == 0] < 1e-6)
  idle = (groups.sum(-1) == 0) | (groups.sum(-1) > GROUP - 2)
  np.testing.assert_allclose(found[idle], 0, atol=1e-6)
  assert np.all(np.abs(found[~idle]).max(-1) > 0.1)


def test_results_are_constants_and_transform():
  fn = lambda r: pass_at_k_advantages(r, num_generations=2, k=1)
  rewards = np.array([[1.0, 0, 1, 1], [0.0, 0, 0, 1]])
  helpers.assert_transforms(fn, rewards)
  assert np.all(jax.grad(lambda r: fn(r).sum())(jnp.asarray(rewards[0])) == 0)


def test_bad_input():
  with pytest.raises(ValueError, match="num_generations must divide"):
    pass_at_k_advantages(np.zeros(5), num_generations=2, k=1)
  for k in (0, 4):
    with pytest.raises(ValueError, match=r"k must be in \[1,"):
      pass_at_k_advantages(np.zeros(4), num_generations=4, k=k)
