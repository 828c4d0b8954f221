# SPDX-License-Identifier: Apache-2.0
"""Which data to train on next: mixtures of distributions by learnability.

Prompts come from D distributions (sources, or degrees of difficulty). Where a
policy is always right or always wrong the advantages of a group are 0 and
nothing is learned; the mean of |A| therefore says how much a distribution still
has to teach. A window keeps the latest |A| of each distribution, and those
that have been seen less get a bonus.

Only advantages of training samples belong here. The released code of DUMP feeds
rewards of validation in as well, as if they were advantages.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = (
  "LearnabilityState",
  "expected_abs_advantage",
  "learnability",
  "learnability_init",
  "learnability_step",
  "ucb_weights",
)


class LearnabilityState(NamedTuple):
  """The latest advantages of D distributions, W of each.

  Attributes:
    window: `[D, W]`, |A|, a ring: sample n of a distribution is in column
      `n mod W`.
    counts: int32 `[D]`, samples seen since the start.
  """

  window: jax.Array
  counts: jax.Array


def learnability_init(
  num_distributions: int, *, window_size: int = 300
) -> LearnabilityState:
  """A state that has seen nothing.

  Args:
    num_distributions: D, at least 1.
    window_size: W, samples kept of each distribution, at least 1.

  Returns:
    `LearnabilityState`, of the default floating-point type.

  Raises:
    ValueError: D or W is below 1.

  >>> learnability_init(2, window_size=3).counts
  Array([0, 0], dtype=int32)

  Reference:
    DUMP (2504.09710), algorithm 1; window 300 as released.
  """
  checks.check_positive(
    num_distributions=num_distributions, window_size=window_size
  )
  return LearnabilityState(
    window=jnp.zeros((num_distributions, window_size)),
    counts=jnp.zeros(num_distributions, jnp.int32),
  )


def learnability_step(
  state: LearnabilityState, advantages: jax.Array, distributions: jax.Array
) -> LearnabilityState:
  """Takes in the advantages of a batch of samples, in their order.

  Each |A| replaces the oldest of its distribution's window.

  Args:
    state: the windows so far.
    advantages: `[B]`, A of each sample (each completion, not each prompt).
    distributions: integers `[B]` in `[0, D)`, where each sample comes from.

  Returns:
    The next state. No gradient passes.

  Raises:
    AssertionError: rank, shape or type.

  >>> state = learnability_init(2, window_size=3)
  >>> state = learnability_step(
  ...   state, jnp.array([-1., .5, 2.]), jnp.array([0, 1, 0]))
  >>> print(state.window, state.counts)
  [[1.  2.  0. ]
   [0.5 0.  0. ]] [2 1]

  Reference:
    DUMP (2504.09710), algorithm 1.
  """
  checks.check_rank(1, advantages=advantages, distributions=distributions)
  checks.check_same_shape(advantages=advantages, distributions=distributions)
  checks.check_float(advantages=advantages)
  chex.assert_type(distributions, int)
  num_distributions, window_size = state.window.shape
  found = jax.lax.stop_gradient(jnp.abs(advantages))
  member = distributions[:, None] == jnp.arange(num_distributions)
  total = jnp.sum(member, 0, dtype=jnp.int32)
  # How many samples of its distribution stand before each one in the batch.
  before = jnp.cumsum(member, 0, dtype=jnp.int32) - member
  before = jnp.take_along_axis(before, distributions[:, None], 1)[:, 0]
  column = (state.counts[distributions] + before) % window_size
  # Of more than W samples the last W stay: the others would share columns.
  stays = before >= total[distributions] - window_size
  column = jnp.where(stays, column, window_size)  # out of range: dropped
  window = state.window.at[distributions, column].set(
    found.astype(state.window.dtype), mode="drop"
  )
  return LearnabilityState(window, state.counts + total)


def learnability(state: LearnabilityState) -> jax.Array:
  """The mean |A| in each distribution's window; 0 before the first sample.

  Args:
    state: the windows so far.

  Returns:
    `[D]`, at least 0.

  >>> state = learnability_init(2, window_size=3)
  >>> state = learnability_step(
  ...   state, jnp.array([-1., .5, 2.]), jnp.array([0, 1, 0]))
  >>> print(learnability(state))
  [1.5 0.5]

  Reference:
    DUMP (2504.09710), section 3.
  """
  columns = jnp.arange(state.window.shape[-1])
  filled = columns < state.counts[:, None]
  return numerics.masked_mean(state.window, filled, -1)


def ucb_weights(
  mean_abs_adv: jax.Array,
  counts: jax.Array,
  *,
  temperature: float | jax.Array = 0.1,
) -> jax.Array:
  """The share of each distribution in what is sampled next.

  `softmax(score / temperature)` with the upper confidence bound
  `score_d = mu_d + sqrt(2 log(N + 1) / (n_d + 1))`, `N = sum_d n_d`. Of use
  where |A| is scaled by the spread of its group, and so of order 1.

  Args:
    mean_abs_adv: `[..., D]`, mu, as `learnability` gives it.
    counts: `[..., D]`, n, samples seen, integers or floats.
    temperature: scalar above 0.

  Returns:
    `[..., D]`, summing to 1; uniform before the first sample.

  Raises:
    AssertionError: shapes differ, or mean_abs_adv is not floating point.
    ValueError: the temperature is not above 0.

  >>> weights = ucb_weights(jnp.array([.9, .7]), jnp.array([50, 50]))
  >>> print(f"{weights[0]:.4f} {weights[1]:.4f}")  # softmax of 2 and 0
  0.8808 0.1192

  Reference:
    DUMP (2504.09710), section 3; temperature .1 as released.
  """
  checks.check_same_shape(mean_abs_adv=mean_abs_adv, counts=counts)
  checks.check_float(mean_abs_adv=mean_abs_adv)
  checks.check_positive(temperature=temperature)
  mean_abs_adv = numerics.as_float(mean_abs_adv)
  counts = jnp.asarray(counts, mean_abs_adv.dtype)
  total = jnp.sum(counts, -1, keepdims=True)
  bonus = jnp.sqrt(2 * jnp.log1p(total) / (counts + 1))
  return jax.nn.softmax((mean_abs_adv + bonus) / temperature, -1)


def expected_abs_advantage(
  success_prob: jax.Array, *, num_generations: int, ddof: int = 1
) -> jax.Array:
  """What |A| of GRPO averages where the reward is 0 or 1.

  `E_K[2 sqrt(K/G (1 - K/G) (G - ddof)/G)]`, K of G samples right, binomial: A
  is centred by the mean and divided by the standard deviation of the group,
  without an epsilon, and 0 where all are right or all wrong.

  Args:
    success_prob: `[...]`, in [0, 1].
    num_generations: G, at least 1.
    ddof: of the standard deviation, 0 or 1.

  Returns:
    `[...]`, in [0, 1]; differentiable, also at 0 and 1.

  Raises:
    ValueError: G is below 1, or ddof is neither 0 nor 1.

  >>> p = jnp.array(.05)
  >>> print(f"{expected_abs_advantage(p, num_generations=8, ddof=0):.4f}")
  0.2349

  Reference:
    DUMP (2504.09710), theorem 3.1, for the mean of |A| as learnability.
  """
  checks.check_positive(num_generations=num_generations)
  if ddof not in (0, 1):
    raise ValueError(f"ddof must be 0 or 1, was {ddof}")
  p = numerics.as_float(success_prob)[..., None]
  share = jnp.arange(num_generations + 1, dtype=p.dtype) / num_generations
  scale = (1 - ddof / num_generations) ** 0.5
  values = 2 * scale * jnp.sqrt(share * (1 - share))

  # A binomial mean is a Bernstein polynomial: averages of neighbours, G times,
  # leave it in the first place, without a power or a binomial coefficient.
  def average(_, values):
    return (1 - p) * values + p * jnp.roll(values, -1, -1)

  values = jnp.broadcast_to(values, (*p.shape[:-1], num_generations + 1))
  return jax.lax.fori_loop(0, num_generations, average, values)[..., 0]
