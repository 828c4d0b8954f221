# SPDX-License-Identifier: Apache-2.0
"""The policy gradient of pass@k."""

import jax

from jaxalign.evaluation.pass_at_k import pass_at_k
from jaxalign.rl import advantages

__all__ = ("pass_at_k_advantages",)


def pass_at_k_advantages(
  correct: jax.Array, *, num_generations: int, k: int
) -> jax.Array:
  """Advantages whose policy gradient is that of pass@k.

  `A_i = rho(n, c, k) - rho(n - 1, c - r_i, k)`, rho the unbiased estimate
  `evaluation.pass_at_k`: what sample i adds to the estimate of its group of n.
  The SUM `sum_i A_i grad log pi(y_i)` over a group, not its mean, is an
  unbiased estimate of `grad [1 - (1 - p)^k]`. At k = 1 it is 1/n of
  leave-one-out.

  Args:
    correct: `[..., B]`, bool, or 0 and 1: whether each sample succeeds; groups
      one after the other.
    num_generations: n, samples of each prompt; must divide B.
    k: at most n - 1.

  Returns:
    `[..., B]`: at least 0 for successes, at most 0 for failures; 0 in a group
    without successes or with fewer than k failures.

  Raises:
    ValueError: n does not divide B, k below 1 or above n - 1.

  >>> correct = jax.numpy.array([1., 0., 0.])
  >>> A = pass_at_k_advantages(correct, num_generations=3, k=2)
  >>> print(f"{A[0]:.4f} {A[1]:.4f} {A[2]:.4f}")
  0.6667 -0.3333 -0.3333

  Reference:
    Derived here; Pass@K Policy Optimization (2505.15201) for the problem.
  """
  if not 1 <= k <= num_generations - 1:
    raise ValueError(
      f"k must be in [1, num_generations - 1 = {num_generations - 1}], was {k}"
    )
  groups = advantages.split_groups(correct, num_generations)
  successes = groups.sum(-1, keepdims=True)
  with_it = pass_at_k(num_generations, successes, k)
  without = pass_at_k(num_generations - 1, successes - groups, k)
  return (with_it - without).reshape(correct.shape)
