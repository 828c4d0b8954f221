# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxalign.rl import group_advantages
from jaxalign.rl.unlikeliness import informative_groups, unlikeliness_rewards
from tests import helpers

GROUP, BETA = 5, 0.4
REWARDS = np.array([1.0, 0, 1, 1, 0, 0, 1, 0, 1, 1])
SCORES = np.array([-3.0, -1, -1, -2, -5, -1, -1, -1, -4, -0.5])


def shaped(rewards=REWARDS, scores=SCORES, beta=BETA):
  return unlikeliness_rewards(rewards, scores, num_generations=GROUP, beta=beta)


def test_rewards_fall_with_the_average_rank():
  found = shaped()
  ranks = scipy.stats.rankdata(SCORES.reshape(-1, GROUP), axis=-1) - 1
  helpers.assert_close(found, REWARDS * (1 - BETA * ranks.ravel() / GROUP))
  assert np.all(found[REWARDS == 0] == 0)
  helpers.assert_close(shaped(beta=0.0), REWARDS)
  default = unlikeliness_rewards(REWARDS, SCORES, num_generations=GROUP)
  helpers.assert_close(default, shaped(beta=0.25))


def test_unlikely_successes_have_the_larger_advantages():
  scores = np.array([-3.0, -1, -2, -7, -5])
  rewards = np.array([1.0, 1, 1, 0, 1])
  found = group_advantages(
    shaped(rewards, scores), num_generations=GROUP, eps=1e-6
  )
  by_likelihood = found[np.argsort(scores)][1:]  # the first has failed
  assert np.all(np.diff(by_likelihood) < 0) and by_likelihood[-1] > found[3]


def test_order_and_scale_of_scores():
  order = np.array([3, 0, 4, 1, 2])
  both = np.concatenate([order, GROUP + order])
  helpers.assert_close(shaped(REWARDS[both], SCORES[both]), shaped()[both])
  helpers.assert_close(shaped(scores=np.exp(3 * SCORES)), shaped())


def test_raw_rewards_say_which_groups_inform():
  """Ranks alone give a group of successes advantages: it is left out."""
  rewards = np.array([1.0, 1, 1, 1, 1, 1, 0, 1, 0, 1])
  found = group_advantages(shaped(rewards), num_generations=GROUP, eps=1e-6)
  assert np.abs(found[:GROUP]).max() > 1
  informed = informative_groups(rewards, num_generations=GROUP)
  np.testing.assert_array_equal(informed, np.arange(10) >= GROUP)
  failures = informative_groups(0 * rewards, num_generations=GROUP)
  assert not np.any(failures)


def test_constants_and_transforms():
  def both(rewards, scores):
    options = dict(num_generations=GROUP)
    return (
      unlikeliness_rewards(rewards, scores, **options, beta=BETA),
      informative_groups(rewards, **options),
    )

  two = lambda x: np.stack([x, x[::-1]])
  helpers.assert_transforms(both, two(REWARDS), two(SCORES))
  gradients = jax.grad(lambda r, s: shaped(r, s).sum(), (0, 1))(
    jnp.asarray(REWARDS), jnp.asarray(SCORES)
  )
  helpers.assert_close(gradients, (0 * REWARDS, 0 * SCORES))
  # The weight may be traced, to compare several in one program.
  swept = jax.vmap(lambda beta: shaped(beta=beta))(jnp.array([0.0, BETA]))
  helpers.assert_close(swept[1], shaped())


def test_bad_input():
  with pytest.raises(ValueError, match="at least 0, were down to -1"):
    shaped(REWARDS - 1)
  with pytest.raises(ValueError, match=r"beta must be in \[0, 1\]"):
    shaped(beta=1.5)
  with pytest.raises(ValueError, match="num_generations must divide"):
    shaped(REWARDS[:4], SCORES[:4])
  with pytest.raises(AssertionError, match="scores"):
    shaped(scores=SCORES[:5])
