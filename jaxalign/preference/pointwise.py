# SPDX-License-Identifier: Apache-2.0
"""Losses of each completion's own log-ratio, not of their difference.

With `h = log(pi/ref)`: they say where each of the two shall go, hence none is
invariant to a constant added to the policy's two scores. "Winner" and "loser
marginals" w and l are how often an outcome is the chosen and the rejected one.
"""

import jax

from jaxalign import checks
from jaxalign.preference import pairs

__all__ = (
  "apo_down_loss",
  "apo_zero_loss",
  "bco_pair_loss",
  "nca_pair_loss",
  "sppo_hard_loss",
)


def nca_pair_loss(
  logps: pairs.PairLogps, *, beta: float = 0.1
) -> pairs.PairLoss:
  """Noise contrastive alignment of pairs.

  `-log sigmoid(x_w) - (log sigmoid(-x_w) + log sigmoid(-x_l)) / 2`, `x = beta
  h`, whose minimiser over free x is `log(2 w / (w + l))`.

  Args:
    logps: `PairLogps`, arrays `[...]`.
    beta: above 0, nats of reward per nat of log-ratio.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `beta h`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: beta not above 0, or no reference.

  >>> one = jax.numpy.ones(1)
  >>> out = nca_pair_loss(pairs.PairLogps(one, one, one, one))
  >>> print(f"{out.loss[0]:.4f}")  # 2 log 2
  1.3863

  Reference:
    Noise Contrastive Alignment of Language Models (2402.05369).
  """
  checks.check_positive(beta=beta)
  chosen, rejected = (beta * h for h in pairs.log_ratios("nca_pair", logps))
  # log sigmoid x = x + log sigmoid -x: one evaluation less.
  below, other = jax.nn.log_sigmoid(-chosen), jax.nn.log_sigmoid(-rejected)
  loss = -chosen - 1.5 * below - 0.5 * other
  return pairs.output(loss, chosen, rejected)


def bco_pair_loss(
  logps: pairs.PairLogps, *, beta: float = 0.1
) -> pairs.PairLoss:
  """Binary classification of pairs, without a shift.

  `-log sigmoid(beta h_w) - log sigmoid(-beta h_l)`, whose minimiser over free
  rewards is `log(w / l)`.

  Args:
    logps: `PairLogps`, arrays `[...]`.
    beta: above 0, nats of reward per nat of log-ratio.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `beta h`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: beta not above 0, or no reference.

  >>> one = jax.numpy.ones(1)
  >>> out = bco_pair_loss(pairs.PairLogps(one, one, one, one))
  >>> print(f"{out.loss[0]:.4f}")  # 2 log 2
  1.3863

  Reference:
    Binary Classifier Optimization (2404.04656), with shift 0.
  """
  checks.check_positive(beta=beta)
  chosen, rejected = (beta * h for h in pairs.log_ratios("bco_pair", logps))
  loss = -jax.nn.log_sigmoid(chosen) - jax.nn.log_sigmoid(-rejected)
  return pairs.output(loss, chosen, rejected)


def sppo_hard_loss(
  logps: pairs.PairLogps, *, beta: float = 0.1
) -> pairs.PairLoss:
  """Self-play preference optimisation with hard labels.

  `(h_w - 1/(2 beta))^2 + (h_l + 1/(2 beta))^2`, whose minimiser over free
  log-ratios is `h = (w - l) / (w + l) / (2 beta)`: (P(win) - 1/2) / beta.

  Args:
    logps: `PairLogps`, arrays `[...]`.
    beta: above 0, nats of reward per nat of log-ratio.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `beta h`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: beta not above 0, or no reference.

  >>> one = jax.numpy.ones(1)
  >>> print(sppo_hard_loss(pairs.PairLogps(one, one, one, one), beta=.5).loss)
  [2.]

  Reference:
    Self-Play Preference Optimization (2405.00675).
  """
  checks.check_positive(beta=beta)
  chosen, rejected = pairs.log_ratios("sppo_hard", logps)
  loss = (chosen - 0.5 / beta) ** 2 + (rejected + 0.5 / beta) ** 2
  return pairs.output(loss, beta * chosen, beta * rejected)


def apo_zero_loss(
  logps: pairs.PairLogps, *, beta: float = 0.1
) -> pairs.PairLoss:
  """Anchored preference optimisation for winners better than the policy.

  `1 - sigmoid(beta h_w) + sigmoid(beta h_l)`: the likelihood of the chosen
  completion rises, that of the rejected one falls.

  Args:
    logps: `PairLogps`, arrays `[...]`.
    beta: above 0, nats of reward per nat of log-ratio.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `beta h`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: beta not above 0, or no reference.

  >>> one = jax.numpy.ones(1)
  >>> print(apo_zero_loss(pairs.PairLogps(one, one, one, one)).loss)
  [1.]

  Reference:
    Anchored Preference Optimization (2408.06266).
  """
  checks.check_positive(beta=beta)
  chosen, rejected = (beta * h for h in pairs.log_ratios("apo_zero", logps))
  loss = jax.nn.sigmoid(-chosen) + jax.nn.sigmoid(rejected)
  return pairs.output(loss, chosen, rejected)


def apo_down_loss(
  logps: pairs.PairLogps, *, beta: float = 0.1
) -> pairs.PairLoss:
  """Anchored preference optimisation for winners worse than the policy.

  `sigmoid(beta h_w) + 1 - sigmoid(beta (h_w - h_l))`: at the reference only the
  rejected completion falls, and both do once their difference is above |h_w|.

  Args:
    logps: `PairLogps`, arrays `[...]`.
    beta: above 0, nats of reward per nat of log-ratio.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `beta h`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: beta not above 0, or no reference.

  >>> one = jax.numpy.ones(1)
  >>> print(apo_down_loss(pairs.PairLogps(one, one, one, one)).loss)
  [1.]

  Reference:
    Anchored Preference Optimization (2408.06266).
  """
  checks.check_positive(beta=beta)
  chosen, rejected = (beta * h for h in pairs.log_ratios("apo_down", logps))
  loss = jax.nn.sigmoid(chosen) + jax.nn.sigmoid(rejected - chosen)
  return pairs.output(loss, chosen, rejected)
