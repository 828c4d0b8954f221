# SPDX-License-Identifier: Apache-2.0
"""Softmax bandits: values, gradients and success at k without any sampling.

One state and V actions. With one policy for many problems, of which each is
solved by other actions, it is the smallest world in which diversity is worth
something: what raises the mean reward may leave a problem without a solution.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import checks, numerics

__all__ = (
  "SharedBandit",
  "bandit_advantages",
  "bandit_gradient",
  "bandit_value",
  "log_prob_change",
  "shared_strategies",
  "solve_rates",
)

_STRATEGIES, _PROBLEMS = 64, 96
# The base prefers the first strategies, which also solve more of the problems.
_FREQUENT, _FREQUENT_RATE, _RATE, _HELD_OUT_SOLUTIONS = 4, 0.5, 0.3, 2


class SharedBandit(NamedTuple):
  """V strategies for J problems, of which each is solved by some of them.

  Attributes:
    train: bool `[J, V]`, which strategies solve a problem trained on.
    held_out: bool `[J, V]`, the same for problems that are not trained on.
    base_log_probs: `[V]`, of the policy to start from, nats.
  """

  train: jax.Array
  held_out: jax.Array
  base_log_probs: jax.Array


def _policy(logits: jax.Array, rewards: jax.Array) -> tuple:
  """Checks; returns probabilities and advantages `[..., V]`."""
  checks.check_same_shape(logits=logits, rewards=rewards)
  checks.check_float(logits=logits, rewards=rewards)
  probs = jnp.exp(numerics.masked_log_softmax(logits))
  value = jnp.sum(probs * rewards, -1, keepdims=True)
  return probs, rewards - value


def bandit_value(logits: jax.Array, rewards: jax.Array) -> jax.Array:
  """The expected reward of a softmax policy, `J = sum_a pi_a r_a`.

  Differentiable in both. The most that a KL to a reference leaves of it,
  `max J - beta KL(pi||ref) = beta log sum ref e^(r/beta)`, is reached by
  `divergences.regularized_maximizer`.

  Args:
    logits: `[..., V]`; -inf for actions that are never taken.
    rewards: `[..., V]`, finite.

  Returns:
    `[...]`, in units of the reward.

  Raises:
    AssertionError: shapes differ, or a type is not floating point.

  >>> print(bandit_value(jnp.zeros(2), jnp.array([0., 1.])))
  0.5

  Reference:
    Sutton and Barto, Reinforcement Learning (2018), section 2.8.
  """
  probs, _ = _policy(logits, rewards)
  return jnp.sum(probs * rewards, -1)


def bandit_advantages(logits: jax.Array, rewards: jax.Array) -> jax.Array:
  """What each action is worth beyond the policy's value, `A_a = r_a - J`.

  Also the change of `log pi`, less a constant, that a step of the natural
  gradient makes: there no action is left behind for being unlikely.

  Args:
    logits: `[..., V]`; -inf for actions that are never taken.
    rewards: `[..., V]`, finite.

  Returns:
    `[..., V]`, of mean 0 under the policy.

  Raises:
    AssertionError: shapes differ, or a type is not floating point.

  >>> print(bandit_advantages(jnp.zeros(2), jnp.array([0., 1.])))
  [-0.5  0.5]

  Reference:
    Kakade, A Natural Policy Gradient (2001).
  """
  return _policy(logits, rewards)[1]


def bandit_gradient(logits: jax.Array, rewards: jax.Array) -> jax.Array:
  """The gradient of `bandit_value` in the logits, `pi_a (r_a - J)`.

  Args:
    logits: `[..., V]`; -inf for actions that are never taken.
    rewards: `[..., V]`, finite.

  Returns:
    `[..., V]`, of sum 0.

  Raises:
    AssertionError: shapes differ, or a type is not floating point.

  >>> print(bandit_gradient(jnp.zeros(2), jnp.array([0., 1.])))
  [-0.25  0.25]

  Reference:
    Sutton and Barto, Reinforcement Learning (2018), section 2.8.
  """
  probs, advantages = _policy(logits, rewards)
  return probs * advantages


def log_prob_change(logits: jax.Array, rewards: jax.Array) -> jax.Array:
  """Change of `log pi` for a small step along the exact gradient: rank bias.

  `d log pi_a / d rate = pi_a A_a - sum_b pi_b^2 A_b`, `A = r - J`. The first
  term is an action's own, and small where the action is unlikely; the second is
  what all others take from it. A correct answer loses mass where
  `pi_a (1 - J) < sum_b pi_b^2 (r_b - J)`: training on success makes unlikely
  successes rarer.

  Args:
    logits: `[..., V]`; -inf for actions that are never taken.
    rewards: `[..., V]`, finite.

  Returns:
    `[..., V]`, nats for a rate of 1; of mean 0 under the policy.

  Raises:
    AssertionError: shapes differ, or a type is not floating point.

  >>> pi = jnp.array([.7, .2, .1])
  >>> print(log_prob_change(jnp.log(pi), jnp.array([1., 0., 1.])).round(4))
  [ 0.072 -0.228 -0.048]

  Reference:
    Rewarding the Unlikely (2506.02355), section 3, for the bias in samples.
  """
  gradient = bandit_gradient(logits, rewards)
  probs = jnp.exp(numerics.masked_log_softmax(logits))
  return gradient - jnp.sum(probs * gradient, -1, keepdims=True)


def shared_strategies(seed: int) -> SharedBandit:
  """Draws 64 strategies for 96 problems to train on and 96 others.

  The base takes strategy i with probability `1/(i + 1) / Z`. A problem trained
  on is solved by each of the first four with probability .5 and by each of the
  others with .3; one held out by two strategies only, drawn without regard to
  how likely they are. Host side only.

  Args:
    seed: of `numpy.random.RandomState`; 0 is the world of the experiments.

  Returns:
    `SharedBandit`.

  >>> world = shared_strategies(0)
  >>> print(world.train.shape, world.held_out.sum(), world.base_log_probs.shape)
  (96, 64) 192 (64,)

  Reference:
    None: a world of this library's.
  """
  state = np.random.RandomState(seed)
  strategy = np.arange(_STRATEGIES)
  rate = np.where(strategy < _FREQUENT, _FREQUENT_RATE, _RATE)
  train = state.rand(_PROBLEMS, _STRATEGIES) < rate
  held_out = np.zeros_like(train)
  for problem in held_out:
    problem[state.choice(_STRATEGIES, _HELD_OUT_SOLUTIONS, replace=False)] = 1
  base = 1 / (strategy + 1)
  return SharedBandit(
    jnp.asarray(train),
    jnp.asarray(held_out),
    jnp.asarray(np.log(base / base.sum())),
  )


def solve_rates(logits: jax.Array, correct: jax.Array) -> jax.Array:
  """How often one sample of the policy solves each problem.

  `p_j = sum_{a in C_j} pi_a`. `evaluation.success_at_k` of it is the exact
  pass@k, whose mean over problems is what benchmarks report.

  Args:
    logits: `[..., V]`; -inf for strategies that are never taken.
    correct: bool `[..., J, V]`, which strategies solve a problem.

  Returns:
    `[..., J]`, in [0, 1].

  Raises:
    AssertionError: shapes do not fit, or the logits are not floating point.

  >>> correct = jnp.array([[True, True, False], [False, False, True]])
  >>> print(solve_rates(jnp.log(jnp.array([.5, .25, .25])), correct))
  [0.75 0.25]

  Reference:
    Evaluating Large Language Models Trained on Code (2107.03374), section 2.1.
  """
  checks.check_same_shape(logits=logits, correct_of_one=correct[..., 0, :])
  checks.check_float(logits=logits)
  probs = jnp.exp(numerics.masked_log_softmax(logits))
  total = numerics.masked_sum(probs[..., None, :], correct, -1)
  # A sum of probabilities may exceed 1 by rounding.
  return jnp.minimum(total, 1)
