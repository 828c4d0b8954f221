# SPDX-License-Identifier: Apache-2.0
"""One prediction for many losses and groups: panprediction and its bound.

A loss is a table `loss[a, y]` over A actions and outcomes 0 and 1. Whoever has
that loss acts on the prediction alone, `k_l(p)`, and competes in every group
with every hypothesis. Omniprediction is the case of one group that is
everybody, multi-group learning that of one loss.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import checks
from jaxalign.learning import step_calibration

__all__ = (
  "PanpredictionGap",
  "best_response_action",
  "panprediction_gap",
  "step_calibration_factor",
)


class PanpredictionGap(NamedTuple):
  """What acting on predictions loses, and the most that it can.

  Attributes:
    gap: `[L, K, J]`, `E[g l(k_l(p), y)] - E[g l(h, y)]` of loss, group and
      hypothesis; divided by `E[g]` it is a conditional regret. Its maximum is
      the panprediction error.
    bound: `[L]`, the factor of the loss times the step calibration error.
  """

  gap: jax.Array
  bound: jax.Array


def best_response_action(loss: jax.Array, p: jax.Array) -> jax.Array:
  """The action that is best if the outcome is 1 with probability p.

  `k_l(p) = argmin_a (1 - p) l(a, 0) + p l(a, 1)`, of equals the first. The
  difference `l(k_l(p), 1) - l(k_l(p), 0)` does not increase in p: it is the
  slope of the concave Bayes risk.

  Args:
    loss: `[A, 2]`, of action and outcome.
    p: `[...]`, in [0, 1].

  Returns:
    Integers `[...]` in [0, A).

  Raises:
    AssertionError: the loss is not of rank 2.
    ValueError: the loss has not two columns.
    InputError: p leaves [0, 1].

  >>> squared = jnp.array([[0., 1.], [.25, .25], [1., 0.]])
  >>> best_response_action(squared, jnp.array([.1, .4, .9]))
  Array([0, 1, 2], dtype=int32)

  Reference:
    Panprediction (2510.27638), post-processing.
  """
  checks.check_rank(2, loss=loss)
  if loss.shape[1] != 2:
    raise ValueError(f"loss must be [actions, 2], was {loss.shape}")
  step_calibration.check_unit("p", p)
  p = jnp.asarray(p)[..., None]
  return jnp.argmin((1 - p) * loss[:, 0] + p * loss[:, 1], -1)


def step_calibration_factor(loss: jax.Array, actions: jax.Array) -> jax.Array:
  """How many times the step calibration error a gap of this loss can be.

  With `D(a) = l(a, 1) - l(a, 0)` and `phi(p) = D(k_l(p))`,
  `|phi(1)| + TV(phi) + |D(a_max)| + TV(D)`: what phi and D are as sums of
  steps. The first two are at most 3 for a loss in [0, 1].

  Args:
    loss: `[A, 2]`, of action and outcome.
    actions: `[A]`, the values of the actions, by which D is ordered.

  Returns:
    Scalar.

  Raises:
    AssertionError: ranks.
    ValueError: the loss has not two columns.

  >>> zero_one = jnp.array([[0., 1.], [1., 0.]])
  >>> print(step_calibration_factor(zero_one, jnp.array([0., 1.])))
  6.0

  Reference:
    Panprediction (2510.27638), the reduction; the constants are ours.
  """
  checks.check_rank(1, actions=actions)
  margin = loss[:, 1] - loss[:, 0]
  # Monotone: its variation is the difference of its ends.
  low, high = margin[best_response_action(loss, jnp.array([0.0, 1.0]))]
  margin = margin[jnp.argsort(actions)]
  steps = jnp.sum(jnp.abs(jnp.diff(margin)))
  return jnp.abs(high) + low - high + jnp.abs(margin[-1]) + steps


def panprediction_gap(
  p: jax.Array,
  f: jax.Array,
  w: jax.Array,
  G: jax.Array,
  H: jax.Array,
  actions: jax.Array,
  losses: jax.Array,
) -> PanpredictionGap:
  """What predictions lose to hypotheses, and the bound by step calibration.

  `gap(l, g, h) <= (|phi(1)| + TV(phi) + |D(a_max)| + TV(D)) SCE(p)`: under the
  outcomes that p predicts, k_l(p) is no worse than h, and the rest,
  `E[g (y - p) (phi(p) - D(h))]`, is a sum of step tests.

  Args:
    p: `[N]`, predictions in [0, 1].
    f: `[N]`, `E[y|x]`, or outcomes.
    w: `[N]`, probabilities of the points.
    G: `[K, N]`, weights of groups in [0, 1]; `[1, N]` ones for omniprediction.
    H: `[J, N]`, values of hypotheses, each among the actions; a gap is nan
      where one is not.
    actions: `[A]`, values of the actions, all different.
    losses: `[L, A, 2]`, of action and outcome; L is 1 for multi-group learning.

  Returns:
    `PanpredictionGap`.

  Raises:
    AssertionError: rank, shape or type.
    ValueError: columns of G or H are not N, losses are not `[L, A, 2]`.
    InputError: w is no distribution, or p, f or G leave [0, 1].

  >>> p, f, w = jnp.array([.9, .9]), jnp.array([0., 1.]), jnp.array([.5, .5])
  >>> zero_one = jnp.array([[[0., 1.], [1., 0.]]])
  >>> found = panprediction_gap(
  ...   p, f, w, jnp.ones((1, 2)), jnp.array([[0., 1.]]), jnp.array([0., 1.]),
  ...   zero_one)
  >>> print(f"{found.gap[0, 0, 0]:.4f} {found.bound[0]:.4f}")
  0.5000 2.7000

  Reference:
    Panprediction (2510.27638), the reduction; the constants are ours.
  """
  checks.check_rank(3, losses=losses)
  if losses.shape[1:] != (actions.shape[0], 2):
    raise ValueError(
      f"losses must be [losses, {actions.shape[0]} actions, 2], was"
      f" {losses.shape}"
    )
  error = step_calibration.step_calibration_error(p, f, w, G, H, actions)
  # Of every action at every point, under the true outcomes.
  risk = losses[..., 0, None] * (1 - f) + losses[..., 1, None] * f
  respond = jax.vmap(best_response_action, (0, None))(losses, p)
  own = jnp.take_along_axis(risk, respond[:, None], 1)[:, 0]
  same = H[:, None] == actions[:, None]
  known = jnp.any(same, 1)
  chosen = jnp.where(known, jnp.argmax(same, 1), 0)
  rival = jax.vmap(lambda r: jnp.take_along_axis(r, chosen, 0))(risk)
  rival = jnp.where(known, rival, jnp.nan)
  gap = jnp.einsum("kn,ljn->lkj", G * w, own[:, None] - rival)
  factor = jax.vmap(step_calibration_factor, (0, None))(losses, actions)
  return PanpredictionGap(gap, factor * error)
