# SPDX-License-Identifier: Apache-2.0
"""Pairwise losses without a reference, most of them of means over tokens.

`a` is the mean log-probability of a completion's tokens. A pair with an empty
completion contributes no comparison, and no likelihood of its own.
"""

import jax
import jax.numpy as jnp

from jaxalign import checks, numerics
from jaxalign.preference import pairs

__all__ = (
  "alphapo_loss",
  "cpo_loss",
  "dorpo_loss",
  "log_odds",
  "orpo_loss",
  "simpo_loss",
)


def log_odds(logp: jax.Array) -> jax.Array:
  """`log(p / (1 - p))` from log p; its derivative is `1 / (1 - p)`.

  Args:
    logp: `[...]`, at most 0; -inf allowed.

  Returns:
    `[...]`; -inf at -inf, +inf without gradient at 0.

  Raises:
    AssertionError: not floating point.

  >>> print(f"{log_odds(jnp.log(jnp.float32(.8))):.4f}")  # log 4
  1.3863

  Reference:
    ORPO (2403.07691), equation 4.
  """
  checks.check_float(logp=logp)
  logp = numerics.as_float(logp)
  certain = logp == 0  # whose slope, infinite, would meet a loss of slope 0
  safe = jnp.where(certain, -1, logp)
  # 1 - p is accurate where p is close to 1; where it is not, log p dominates.
  odds = safe - jnp.log(-jnp.expm1(safe))
  return jnp.where(certain, jnp.inf, odds)


def _read_odds(
  name: str, logps: pairs.PairLogps, nll: jax.Array | None
) -> tuple[jax.Array, ...]:
  """Means, the likelihood's loss, the log-odds ratio and who has one."""
  chosen, rejected, valid = pairs.per_token(name, logps)
  ratio = log_odds(jnp.where(valid, chosen, -1)) - log_odds(
    jnp.where(valid, rejected, -1)
  )
  return chosen, rejected, _nll(chosen, nll), ratio, valid


def _nll(chosen: jax.Array, nll: jax.Array | None) -> jax.Array:
  """What is minimised beside the comparison, `[...]` like the mean."""
  if nll is None:
    return -chosen
  checks.check_same_shape(policy_chosen=chosen, nll=nll)
  checks.check_float(nll=nll)
  return jnp.asarray(nll, chosen.dtype)


def orpo_loss(
  logps: pairs.PairLogps, nll: jax.Array | None = None, *, lam: float = 0.1
) -> pairs.PairLoss:
  """Odds ratio preference optimisation, likelihood and comparison in one.

  `NLL - lam log sigmoid(log_odds(a_w) - log_odds(a_l))`.

  Args:
    logps: `PairLogps` with lengths, arrays `[...]`.
    nll: `[...]`, negative log-likelihood of the chosen example, nats;
      differentiated. `-a_w` by default; some trainers take the mean over the
      tokens of prompt and completion.
    lam: above 0, weight of the comparison.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `lam a`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: lam not above 0, or no lengths.

  >>> a = jnp.log(jnp.array([.5]))
  >>> data = pairs.PairLogps(a, a, None, None, jnp.ones(1), jnp.ones(1))
  >>> print(f"{orpo_loss(data, lam=1.).loss[0]:.4f}")  # 2 log 2
  1.3863

  Reference:
    ORPO (2403.07691), equations 6 and 7.
  """
  checks.check_positive(lam=lam)
  chosen, rejected, nll, ratio, valid = _read_odds("orpo", logps, nll)
  compared = jnp.where(valid, -jax.nn.log_sigmoid(ratio), 0)
  return pairs.output(nll + lam * compared, lam * chosen, lam * rejected)


def dorpo_loss(
  logps: pairs.PairLogps,
  weights: jax.Array,
  nll: jax.Array | None = None,
  *,
  lam: float = 0.1,
  inside: bool = True,
) -> pairs.PairLoss:
  """Odds ratio preference optimisation weighted by the chosen's deviation.

  `w NLL - lam log sigmoid(w x)` with x the difference of log-odds of
  `orpo_loss`, as the authors' code has it; not inside, `w (NLL - lam log
  sigmoid x)`.

  Args:
    logps: `PairLogps` with lengths, arrays `[...]`.
    weights: `[...]`, w of the chosen completion, at least 0; constants.
    nll: `[...]`, as in `orpo_loss`.
    lam: above 0, weight of the comparison.
    inside: whether w stands inside the sigmoid.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `lam a`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: lam not above 0, or no lengths.

  >>> a = jnp.log(jnp.array([.5]))
  >>> data = pairs.PairLogps(a, a, None, None, jnp.ones(1), jnp.ones(1))
  >>> loss = dorpo_loss(data, jnp.zeros(1), lam=1.).loss
  >>> print(f"{loss[0]:.4f}")  # log 2, without gradient
  0.6931

  Reference:
    Modifying Large Language Model Post-Training for Diverse Creative Writing
    (2503.17126).
  """
  checks.check_positive(lam=lam)
  chosen, rejected, nll, ratio, valid = _read_odds("dorpo", logps, nll)
  checks.check_same_shape(policy_chosen=chosen, weights=weights)
  checks.check_float(weights=weights)
  weights = jax.lax.stop_gradient(jnp.asarray(weights, chosen.dtype))
  some = weights != 0  # no 0 * inf

  def weighted(x):
    return jnp.where(some, weights * x, 0)

  if inside:
    compared = -jax.nn.log_sigmoid(weighted(ratio))
  else:
    compared = weighted(-jax.nn.log_sigmoid(ratio))
  loss = weighted(nll) + lam * jnp.where(valid, compared, 0)
  return pairs.output(loss, lam * chosen, lam * rejected)


def cpo_loss(
  logps: pairs.PairLogps,
  nll: jax.Array | None = None,
  *,
  beta: float = 0.1,
  alpha: float = 1.0,
) -> pairs.PairLoss:
  """Contrastive preference optimisation: a flat reference and a likelihood.

  `-log sigmoid(beta (log pi_w - log pi_l)) + alpha NLL`.

  Args:
    logps: `PairLogps`, with lengths where the default NLL is used.
    nll: `[...]`, negative log-likelihood of the chosen example, nats;
      differentiated. `-a_w` by default.
    beta: above 0, nats of reward per nat of log-probability.
    alpha: at least 0, weight of the NLL; 0 does without it.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `beta log pi`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: an option outside its range, or no lengths.

  >>> one = jnp.ones(1)
  >>> loss = cpo_loss(pairs.PairLogps(-one, -2 * one), beta=1., alpha=0.).loss
  >>> print(f"{loss[0]:.4f}")
  0.3133

  Reference:
    Contrastive Preference Optimization (2401.08417), equation 5.
  """
  checks.check_positive(beta=beta)
  if not alpha >= 0:
    raise ValueError(f"alpha must be at least 0, was {alpha}")
  chosen, rejected = pairs.read("cpo", logps)
  loss = -jax.nn.log_sigmoid(beta * (chosen - rejected))
  if alpha:
    mean = chosen if nll is not None else pairs.per_token("cpo", logps)[0]
    loss = loss + alpha * _nll(mean, nll)
  return pairs.output(loss, beta * chosen, beta * rejected)


def _power(logp: jax.Array, alpha: float) -> jax.Array:
  """`(1 - p^-alpha) / alpha` from log p: log p at 0. Without gradient at -inf.

  It is -inf where the power overflows.
  """
  if alpha == 0:
    return logp
  fits = jnp.isfinite(jnp.expm1(-alpha * logp)) & (logp > -jnp.inf)
  lowest = -jnp.inf if alpha > 0 else 1 / alpha
  safe = jnp.where(fits, logp, 0)
  power = -jnp.expm1(-alpha * safe) / alpha
  return jnp.where(fits, power, jnp.where(jnp.isnan(logp), logp, lowest))


def _shaped(
  name: str,
  logps: pairs.PairLogps,
  alpha: float,
  beta: float,
  gamma: float,
) -> pairs.PairLoss:
  checks.check_positive(beta=beta)
  if not gamma >= 0:
    raise ValueError(f"gamma must be at least 0, was {gamma}")
  chosen, rejected, valid = pairs.per_token(name, logps)
  chosen, rejected = (beta * _power(a, alpha) for a in (chosen, rejected))
  loss = -jax.nn.log_sigmoid(chosen - rejected - gamma)
  return pairs.output(jnp.where(valid, loss, 0), chosen, rejected)


def alphapo_loss(
  logps: pairs.PairLogps,
  *,
  alpha: float,
  beta: float = 0.1,
  gamma: float = 0.5,
) -> pairs.PairLoss:
  """SimPO with another reward shape, `r(a) = (1 - e^(-alpha a)) / alpha`.

  `-log sigmoid(beta (r(a_w) - r(a_l)) - gamma)`; alpha = 0 is `simpo_loss`.
  Above 0 the reward falls faster than the log-probability: where e^(-alpha a)
  overflows it is -inf, without gradient.

  Args:
    logps: `PairLogps` with lengths, arrays `[...]`; pairs with an empty
      completion have loss 0.
    alpha: any number.
    beta: above 0, nats of reward per nat of log-probability of a token.
    gamma: at least 0, the margin, nats of reward; not in units of beta.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `beta r(a)`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: beta not above 0, gamma below 0, or no lengths.

  >>> one = jnp.ones(1)
  >>> data = pairs.PairLogps(0 * one, -one, None, None, one, one)
  >>> loss = alphapo_loss(data, alpha=1., beta=1., gamma=0.).loss
  >>> print(f"{loss[0]:.4f}")  # softplus(1 - e)
  0.1650

  Reference:
    AlphaPO: Reward Shape Matters for LLM Alignment (2501.03884).
  """
  return _shaped("alphapo", logps, alpha, beta, gamma)


def simpo_loss(
  logps: pairs.PairLogps, *, beta: float = 0.1, gamma: float = 0.5
) -> pairs.PairLoss:
  """Simple preference optimisation of mean log-probabilities, with a margin.

  `-log sigmoid(beta (a_w - a_l) - gamma)`.

  Args:
    logps: `PairLogps` with lengths, arrays `[...]`; pairs with an empty
      completion have loss 0.
    beta: above 0, nats of reward per nat of log-probability of a token.
    gamma: at least 0, the margin, nats of reward; not in units of beta.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `beta a`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: beta not above 0, gamma below 0, or no lengths.

  >>> one = jnp.ones(1)
  >>> data = pairs.PairLogps(-one, -4 * one, None, None, one, 2 * one)
  >>> print(f"{simpo_loss(data, beta=1., gamma=0.).loss[0]:.4f}")
  0.3133

  Reference:
    SimPO: Simple Preference Optimization with a Reference-Free Reward
    (2405.14734), equation 6.
  """
  return _shaped("simpo", logps, 0.0, beta, gamma)
