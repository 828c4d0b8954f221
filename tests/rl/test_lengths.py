# SPDX-License-Identifier: Apache-2.0
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.rl import lengths
from tests import helpers


def test_overlong_reward():
  tokens = jnp.array([0, 80, 90, 100, 101, 5000])
  reward = lengths.overlong_reward(tokens, max_length=100, buffer=20)
  helpers.assert_close(reward, jnp.array([0, 0, -0.5, -1, -1, -1]), rtol=1e-6)
  # The paper's setting.
  reward = lengths.overlong_reward(
    jnp.array([16384.0, 18432.0, 20480.0]), max_length=20480, buffer=4096
  )
  helpers.assert_close(reward, jnp.array([0, -0.5, -1]), rtol=1e-6)


def test_truncated_completions_are_dropped():
  where = jnp.array([[True, True], [True, False], [True, True]])
  kept = lengths.drop_truncated(where, jnp.array([True, True, False]))
  np.testing.assert_array_equal(
    kept, [[True, True], [True, False], [False, False]]
  )


def test_transforms():
  tokens = jnp.array([[10.0, 90.0], [95.0, 200.0]])
  helpers.assert_transforms(
    lambda n: (
      lengths.overlong_reward(n, max_length=100, buffer=20),
      lengths.drop_truncated(jnp.ones((2, 3), bool), n < 100),
    ),
    tokens,
  )
  helpers.assert_gradient(
    lambda n: jnp.sum(lengths.overlong_reward(n, max_length=100, buffer=20)),
    jnp.array([10.0, 90.0, 200.0]),
  )


def test_bad_input():
  with pytest.raises(ValueError, match=r"buffer must be in \(0, max_length\]"):
    lengths.overlong_reward(jnp.zeros(1), max_length=10, buffer=11)
  with pytest.raises(AssertionError, match="need one shape"):
    lengths.drop_truncated(jnp.ones((2, 3), bool), jnp.ones(3, bool))
