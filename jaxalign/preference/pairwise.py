# SPDX-License-Identifier: Apache-2.0
"""Losses of the difference of a pair's two log-ratios.

With `h = log(pi/ref)` of a completion, `d = h_w - h_l` of the chosen and the
rejected one: every loss here is a function of d, or of nearly so. Those of
summed log-probabilities are invariant to a constant added to the policy's two
scores; those of means over tokens are where lengths are equal.
"""

import math

import jax
import jax.numpy as jnp

from jaxalign import checks
from jaxalign.preference import pairs

__all__ = (
  "discopop_loss",
  "dpo_loss",
  "exo_pair_loss",
  "hdpo_loss",
  "hinge_loss",
  "ipo_loss",
  "robust_dpo_loss",
  "sigmoid_norm_loss",
)


def check_share(name: str, value: float) -> None:
  if not 0 <= value < 0.5:
    raise ValueError(f"{name} must be in [0, 0.5), was {value}")


def smoothed(x: jax.Array, eps: float) -> jax.Array:
  """`-(1 - eps) log sigmoid(x) - eps log sigmoid(-x)`, `[...]` like x."""
  loss = -jax.nn.log_sigmoid(x)
  if eps == 0:  # no 0 * inf
    return loss
  return (1 - eps) * loss - eps * jax.nn.log_sigmoid(-x)


def _ratios_per_token(
  name: str, logps: pairs.PairLogps
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Log-ratios over lengths, `[...]`, and which pairs have tokens."""
  chosen, rejected = pairs.log_ratios(name, logps)
  ratios = logps._replace(policy_chosen=chosen, policy_rejected=rejected)
  return pairs.per_token(name, ratios)


def dpo_loss(
  logps: pairs.PairLogps, *, beta: float = 0.1, label_smoothing: float = 0.0
) -> pairs.PairLoss:
  """Direct preference optimisation.

  `-(1 - eps) log sigmoid(beta d) - eps log sigmoid(-beta d)`. With eps = 0 and
  Bradley-Terry labels of rewards r, the minimiser is `ref e^(r/beta)` whatever
  the sampling of pairs; eps > 0 (cDPO) assumes that labels are wrong at that
  rate, and keeps d finite where they never are.

  Args:
    logps: `PairLogps`, arrays `[...]`.
    beta: above 0, nats of reward per nat of log-ratio.
    label_smoothing: eps, in [0, 0.5).

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `beta h`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: an option outside its range, or no reference.

  >>> one = jnp.ones(1)
  >>> out = dpo_loss(pairs.PairLogps(-one, -2 * one, -one, -one), beta=1.)
  >>> print(f"{out.loss[0]:.4f} {out.rejected_reward[0]:.1f}")
  0.3133 -1.0

  Reference:
    Direct Preference Optimization (2305.18290), equation 7; cDPO: Mitchell, A
    Note on DPO with Noisy Preferences (2023).
  """
  checks.check_positive(beta=beta)
  check_share("label_smoothing", label_smoothing)
  chosen, rejected = pairs.log_ratios("dpo", logps)
  loss = smoothed(beta * (chosen - rejected), label_smoothing)
  return pairs.output(loss, beta * chosen, beta * rejected)


def hinge_loss(logps: pairs.PairLogps, *, beta: float = 0.1) -> pairs.PairLoss:
  """The hinge loss of SLiC and RSO, `max(0, 1 - beta d)`.

  Its minimiser in expectation is not unique.

  Args:
    logps: `PairLogps`, arrays `[...]`.
    beta: above 0, the inverse of the margin in nats of log-ratio.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `beta h`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: beta not above 0, or no reference.

  >>> one = jnp.ones(1)
  >>> out = hinge_loss(pairs.PairLogps(-one, -3 * one, -one, -one), beta=.25)
  >>> print(out.loss)
  [0.5]

  Reference:
    SLiC-HF (2305.10425), equation 1; RSO (2309.06657), equation 9.
  """
  checks.check_positive(beta=beta)
  chosen, rejected = pairs.log_ratios("hinge", logps)
  loss = jnp.maximum(0, 1 - beta * (chosen - rejected))
  return pairs.output(loss, beta * chosen, beta * rejected)


def hdpo_loss(
  logps: pairs.PairLogps, *, alpha: float, beta: float = 0.1
) -> pairs.PairLoss:
  """Direct preference optimisation with the entropy's own weight.

  `-log sigmoid(alpha beta (log pi_w - log pi_l) - beta (log ref_w - log
  ref_l))`, whose minimiser is `ref^(1/alpha) e^(r/(alpha beta))`: the maximiser
  of `E r - beta (alpha E log pi - E log ref)`. Alpha = 1 is `dpo_loss`; below 1
  the policy is sharper.

  Args:
    logps: `PairLogps`, arrays `[...]`.
    alpha: above 0, the weight of the policy's entropy.
    beta: above 0, nats of reward per nat of log-ratio.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `beta (alpha log pi - log ref)`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: alpha or beta not above 0, or no reference.

  >>> one = jnp.ones(1)
  >>> data = pairs.PairLogps(-one, -2 * one, -one, -one)
  >>> print(f"{hdpo_loss(data, alpha=.5, beta=2.).loss[0]:.4f}")
  0.3133

  Reference:
    Entropy Controllable Direct Preference Optimization (2411.07595).
  """
  checks.check_positive(alpha=alpha, beta=beta)
  chosen, rejected, ref_chosen, ref_rejected = pairs.read(
    "hdpo", logps, "ref_chosen", "ref_rejected"
  )
  chosen = beta * (alpha * chosen - ref_chosen)
  rejected = beta * (alpha * rejected - ref_rejected)
  return pairs.output(-jax.nn.log_sigmoid(chosen - rejected), chosen, rejected)


def ipo_loss(
  logps: pairs.PairLogps, *, tau: float = 0.1, average_log_prob: bool = False
) -> pairs.PairLoss:
  """Identity preference optimisation, `(d - 1/(2 tau))^2`.

  The minimiser, over pairs of outcomes drawn from mu with labels of
  probability p, is `ref exp(E_(j~mu) p(i > j) / tau)`: it needs no
  Bradley-Terry model and stays finite for deterministic preferences.

  Args:
    logps: `PairLogps`, arrays `[...]`.
    tau: above 0, strength of the pull towards the reference.
    average_log_prob: divides the log-ratios by their lengths first, as some
      implementations do; pairs with an empty completion then have loss 0.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `tau h`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: tau not above 0, or no reference or lengths.

  >>> one = jnp.ones(1)
  >>> print(ipo_loss(pairs.PairLogps(one, one, one, one), tau=.25).loss)
  [4.]

  Reference:
    A General Theoretical Paradigm to Understand Learning from Human
    Preferences (2310.12036), equation 17.
  """
  checks.check_positive(tau=tau)
  if average_log_prob:
    chosen, rejected, valid = _ratios_per_token("ipo", logps)
  else:
    chosen, rejected = pairs.log_ratios("ipo", logps)
    valid = True
  loss = (chosen - rejected - 0.5 / tau) ** 2
  return pairs.output(jnp.where(valid, loss, 0), tau * chosen, tau * rejected)


def robust_dpo_loss(
  logps: pairs.PairLogps, *, beta: float = 0.1, eps: float = 0.1
) -> pairs.PairLoss:
  """Direct preference optimisation unbiased under flipped labels.

  `[-(1 - eps) log sigmoid(beta d) + eps log sigmoid(-beta d)] / (1 - 2 eps)`,
  which is `-log sigmoid(beta d) - eps beta d / (1 - 2 eps)`. Its expectation
  over flips of rate eps is the loss of the clean label, for each example.
  Unbounded below for eps > 0.

  Args:
    logps: `PairLogps`, arrays `[...]`.
    beta: above 0, nats of reward per nat of log-ratio.
    eps: in [0, 0.5), the rate at which labels are flipped.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `beta h`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: an option outside its range, or no reference.

  >>> one = jnp.ones(1)
  >>> data = pairs.PairLogps(-one, -2 * one, -one, -one)
  >>> print(f"{robust_dpo_loss(data, beta=1., eps=.25).loss[0]:.4f}")
  -0.1867

  Reference:
    Provably Robust DPO (2403.00409).
  """
  checks.check_positive(beta=beta)
  check_share("eps", eps)
  chosen, rejected = pairs.log_ratios("robust", logps)
  x = beta * (chosen - rejected)
  loss = -jax.nn.log_sigmoid(x)
  if eps:  # no 0 * inf
    loss = loss - eps / (1 - 2 * eps) * x
  return pairs.output(loss, beta * chosen, beta * rejected)


def exo_pair_loss(
  logps: pairs.PairLogps, *, beta: float = 0.1, eps: float = 1e-3
) -> pairs.PairLoss:
  """Efficient exact optimisation: KL of the policy's label to the given one.

  `s log(s / (1 - eps)) + (1 - s) log((1 - s) / eps)`, `s = sigmoid(beta d)`:
  at least 0, and 0 at `beta d = log(1/eps - 1)`.

  Args:
    logps: `PairLogps`, arrays `[...]`.
    beta: above 0, nats of reward per nat of log-ratio.
    eps: in (0, 0.5), what the label leaves to the rejected completion; at 0 the
      divergence would be infinite.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `beta h`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: an option outside its range, or no reference.

  >>> one = jnp.ones(1)
  >>> out = exo_pair_loss(pairs.PairLogps(one, one, one, one), eps=.1)
  >>> print(f"{out.loss[0]:.4f}")  # KL(1/2 || .9)
  0.5108

  Reference:
    Towards Efficient Exact Optimization of Language Model Alignment
    (2402.00856).
  """
  checks.check_positive(beta=beta, eps=eps)
  check_share("eps", eps)
  chosen, rejected = pairs.log_ratios("exo_pair", logps)
  x = beta * (chosen - rejected)
  label = jax.nn.sigmoid(x) * math.log1p(-eps)
  label += jax.nn.sigmoid(-x) * math.log(eps)
  # Minus the entropy of s, from |x|: nothing large is subtracted.
  size = jnp.where(jnp.isinf(x), 0, jnp.abs(x))
  small = jnp.where(jnp.isinf(x), 0, jnp.exp(-size))
  entropy = jnp.log1p(small) + size * small / (1 + small)
  loss = -entropy - label
  return pairs.output(loss, beta * chosen, beta * rejected)


def discopop_loss(
  logps: pairs.PairLogps, *, beta: float = 0.1, tau: float = 0.05
) -> pairs.PairLoss:
  """The log-ratio modulated loss that a search of loss functions discovered.

  `(1 - m) (-log sigmoid x) + m e^-x` with `x = beta d`, `m = sigmoid(x/tau)`:
  the logistic loss of wrongly, the exponential one of rightly ordered pairs.
  Not monotone just below 0.

  Args:
    logps: `PairLogps`, arrays `[...]`.
    beta: above 0, nats of reward per nat of log-ratio.
    tau: above 0, width of the passage between the two.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `beta h`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: beta or tau not above 0, or no reference.

  >>> one = jnp.ones(1)
  >>> loss = discopop_loss(pairs.PairLogps(one, one, one, one)).loss
  >>> print(f"{loss[0]:.4f}")  # (log 2 + 1) / 2
  0.8466

  Reference:
    Discovering Preference Optimization Algorithms with and for Large Language
    Models (2406.08414).
  """
  checks.check_positive(beta=beta, tau=tau)
  chosen, rejected = pairs.log_ratios("discopop", logps)
  x = beta * (chosen - rejected)
  live = x > -jnp.inf
  safe = jnp.where(live, x, 0)
  logistic = -jax.nn.sigmoid(-safe / tau) * jax.nn.log_sigmoid(safe)
  # In one exponent, m e^-x does not overflow on the way to 0 at x << 0.
  exponential = jnp.exp(jax.nn.log_sigmoid(safe / tau) - safe)
  loss = jnp.where(live, logistic + exponential, jnp.where(x < 0, jnp.inf, x))
  return pairs.output(loss, beta * chosen, beta * rejected)


def sigmoid_norm_loss(
  logps: pairs.PairLogps, *, beta: float = 0.1
) -> pairs.PairLoss:
  """Direct preference optimisation of mean log-ratios.

  `-log sigmoid(beta (h_w/len_w - h_l/len_l))`.

  Args:
    logps: `PairLogps` with lengths, arrays `[...]`; pairs with an empty
      completion have loss 0.
    beta: above 0, nats of reward per nat of log-ratio of a token.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `beta h/len`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: beta not above 0, or no reference or lengths.

  >>> one = jnp.ones(1)
  >>> data = pairs.PairLogps(-one, -4 * one, -one, -one, one, 3 * one)
  >>> print(f"{sigmoid_norm_loss(data, beta=1.).loss[0]:.4f}")
  0.3133

  Reference:
    Direct Preference Optimization (2305.18290), equation 7, of means over
    tokens, as trainers offer it.
  """
  checks.check_positive(beta=beta)
  chosen, rejected, valid = _ratios_per_token("sigmoid_norm", logps)
  loss = -jax.nn.log_sigmoid(beta * (chosen - rejected))
  return pairs.output(jnp.where(valid, loss, 0), beta * chosen, beta * rejected)
