# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.rl import telescoping
from tests import helpers


def test_gains_telescope():
  rng = np.random.default_rng(0)
  # Dyadic numbers: sums and differences are exact.
  rewards = jnp.asarray(rng.integers(-64, 64, (3, 7)) / 8)
  gains = telescoping.iterated_rewards(rewards)
  assert gains.shape == (3, 6)
  np.testing.assert_array_equal(gains[:, 2], rewards[:, 3] - rewards[:, 2])
  np.testing.assert_array_equal(gains.sum(-1), rewards[:, -1] - rewards[:, 0])


def test_one_answer_has_no_gains():
  assert telescoping.iterated_rewards(jnp.ones((2, 1))).shape == (2, 0)


def test_rewards_are_constants():
  slope = jax.grad(lambda r: telescoping.iterated_rewards(r)[0])
  np.testing.assert_array_equal(slope(jnp.array([1.0, 3.0])), 0)


def test_transforms():
  rewards = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5)))
  helpers.assert_transforms(telescoping.iterated_rewards, rewards)


def test_bad_input():
  with pytest.raises(ValueError, match="were a scalar"):
    telescoping.iterated_rewards(jnp.zeros(()))
  with pytest.raises(AssertionError, match="need floats: rewards"):
    telescoping.iterated_rewards(jnp.zeros(3, int))
