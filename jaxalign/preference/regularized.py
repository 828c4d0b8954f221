# SPDX-License-Identifier: Apache-2.0
"""Pairwise losses that also hold the chosen completion's likelihood up."""

import jax

from jaxalign import checks
from jaxalign.preference import pairs

__all__ = ("dpop_loss", "rpo_loss")


def dpop_loss(
  logps: pairs.PairLogps, *, beta: float = 0.1, lam: float = 50.0
) -> pairs.PairLoss:
  """DPO-Positive: a chosen completion below the reference costs more.

  `-log sigmoid(beta (d - lam max(0, log ref_w - log pi_w)))`; at the reference,
  where the maximum has a kink, the gradient is that of `dpo_loss`.

  Args:
    logps: `PairLogps`, arrays `[...]`.
    beta: above 0, nats of reward per nat of log-ratio.
    lam: above 0, weight of what the chosen completion lost.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `beta h`, without the penalty.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: beta or lam not above 0, or no reference.

  >>> one = jax.numpy.ones(1)
  >>> data = pairs.PairLogps(-2 * one, -3 * one, -one, -one)
  >>> print(f"{dpop_loss(data, beta=1., lam=2.).loss[0]:.4f}")
  1.3133

  Reference:
    Smaug: Fixing Failure Modes of Preference Optimisation with DPO-Positive
    (2402.13228).
  """
  checks.check_positive(beta=beta, lam=lam)
  chosen, rejected = pairs.log_ratios("dpop", logps)
  # Not `jnp.maximum`, whose gradient is half of the penalty's where training
  # starts.
  margin = chosen - rejected - lam * jax.nn.relu(-chosen)
  loss = -jax.nn.log_sigmoid(beta * margin)
  return pairs.output(loss, beta * chosen, beta * rejected)


def rpo_loss(
  logps: pairs.PairLogps,
  *,
  beta: float = 0.1,
  eta: float = 0.005,
  average: bool = False,
) -> pairs.PairLoss:
  """Regularised preference optimisation: DPO and the chosen's likelihood.

  `-log sigmoid(beta d) - eta beta log pi_w`; averaged, `-log sigmoid(beta d) -
  eta log pi_w / len_w`. The second term is what an adversarial reward does to
  the objective: it stops mass from going where there are no data. The authors
  use beta .01 and eta .005 of sums (chat), beta .5 and eta .2 of averages
  (reasoning). Iterative RPO (2404.19733) is the average with eta 1.

  Args:
    logps: `PairLogps`, arrays `[...]`.
    beta: above 0, nats of reward per nat of log-ratio.
    eta: above 0, weight of the chosen completion's log-likelihood.
    average: over tokens, and not times beta; a pair with an empty completion
      then has only the first term.

  Returns:
    `PairLoss`, arrays `[...]`; rewards are `beta h`.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.
    ValueError: beta or eta not above 0, or no reference or lengths.

  >>> one = jax.numpy.ones(1)
  >>> data = pairs.PairLogps(-one, -one, -one, -one)
  >>> print(f"{rpo_loss(data, eta=2.).loss[0]:.4f}")  # log 2 + .2
  0.8931

  Reference:
    Provably Mitigating Overoptimization in RLHF (2405.16436).
  """
  checks.check_positive(beta=beta, eta=eta)
  chosen, rejected = pairs.log_ratios("rpo", logps)
  loss = -jax.nn.log_sigmoid(beta * (chosen - rejected))
  if average:
    likelihood, *_ = pairs.per_token("rpo", logps)
  else:
    likelihood = beta * pairs.read("rpo", logps)[0]
  return pairs.output(loss - eta * likelihood, beta * chosen, beta * rejected)
