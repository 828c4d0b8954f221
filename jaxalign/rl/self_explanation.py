# SPDX-License-Identifier: Apache-2.0
"""Positive samples where a policy has none: rationales given the answer.

A policy answers a question q in two stages, a rationale c and then the answer:
`pi(c|q) pi(a|q, c)`. Where every sample fails, a group has no advantages. ExPO
shows the policy the right answer a* and asks for an explanation c~, whose ideal
law is the posterior `pi(c|q, a*)`. Under it

  E[pi(a*|q, c~)] = E_prior X + Var_prior X / E_prior X,  X = pi(a*|q, c),
  E[grad log pi(c~, a*|q)] = grad log pi(a*|q),

so that explanations raise the chance of the answer and the expected gradient is
that of the log of success, which does not vanish with success itself. A model
that is prompted with the answer draws from the posterior only approximately.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxalign import checks, numerics

__all__ = (
  "ExpDpoPairs",
  "exp_dpo_pairs",
  "exp_sft_loss",
  "rationale_posterior",
)


class ExpDpoPairs(NamedTuple):
  """Who is preferred to whom among the B samples of a question.

  Attributes:
    preferred: bool `[..., B]`.
    rejected: bool `[..., B]`.
    where: bool `[..., B, B]`, whether row i is preferred to column j.
  """

  preferred: jax.Array
  rejected: jax.Array
  where: jax.Array


def rationale_posterior(
  log_prior: jax.Array, log_answer: jax.Array
) -> jax.Array:
  """The law of rationales given the answer.

  `pi(c|q, a*) = pi(c|q) pi(a*|q, c) / sum_c' pi(c'|q) pi(a*|q, c')`.

  Args:
    log_prior: `[..., C]`, `log pi(c|q)`; -inf for no mass.
    log_answer: `[..., C]`, `log pi(a*|q, c)`; -inf where c excludes a*.

  Returns:
    `[..., C]`, log-probabilities; all -inf where no rationale leads to a*.

  Raises:
    AssertionError: shapes differ, or an array is not floating point.

  >>> prior, answer = jnp.array([.5, .5]), jnp.array([.2, .6])
  >>> posterior = rationale_posterior(jnp.log(prior), jnp.log(answer))
  >>> print(jnp.exp(posterior).round(2))
  [0.25 0.75]

  Reference:
    ExPO (2507.02834), self-explanations as samples given the answer; Bayes.
  """
  checks.check_same_shape(log_prior=log_prior, log_answer=log_answer)
  checks.check_float(log_prior=log_prior, log_answer=log_answer)
  joint = numerics.as_float(log_prior) + numerics.as_float(log_answer)
  return numerics.masked_log_softmax(joint, joint > -jnp.inf)


def exp_sft_loss(
  logp: jax.Array,
  beta: float | jax.Array,
  *,
  where: jax.Array | None = None,
) -> jax.Array:
  """The term of ExP-GRPO: likelihood of an explanation and the right answer.

  `-beta log pi(c~, a*|q) = -beta sum_t log pi(y_t)`, added to any loss of the
  policy's own samples. Its weight is annealed: pass a schedule's value at the
  step, such as `optax.linear_schedule(.1, 0., n)(step)`.

  Args:
    logp: `[..., T]`, log-probabilities of the tokens of c~ and a*, given the
      question alone (the prompt that showed the answer is not there).
    beta: scalar, at least 0.
    where: bool `[..., T]`, tokens to keep; all by default. A question that
      needs no help has none.

  Returns:
    `[...]`, nats, one per explanation.

  Raises:
    AssertionError: shapes differ, or logp is not floating point.

  >>> logp = jnp.log(jnp.array([[.5, .25, .9], [.5, .5, .5]]))
  >>> where = jnp.array([[True, True, False], [False, False, False]])
  >>> print(jnp.abs(exp_sft_loss(logp, .1, where=where).round(3)))
  [0.208 0.   ]

  Reference:
    ExPO (2507.02834), ExP-GRPO and its ExP-SFT term.
  """
  checks.check_float(logp=logp)
  logp = numerics.as_float(logp)
  if where is None:
    total = jnp.sum(logp, -1)
  else:
    checks.check_same_shape(logp=logp, where=where)
    total = numerics.masked_sum(logp, where, -1)
  return -jnp.asarray(beta, logp.dtype) * total


def exp_dpo_pairs(explained: jax.Array, correct: jax.Array) -> ExpDpoPairs:
  """Pairs of ExP-DPO: explanations against the policy's own failures.

  `where_ij = explained_i and correct_i and not explained_j and not correct_j`.
  The pairing is known from summaries of the paper, its exact form is not
  confirmed. Here an explanation must end in the right answer, which it does
  where the answer is appended, and the policy's own successes are in no pair.

  Args:
    explained: bool `[..., B]`, whether a sample was given the answer.
    correct: bool `[..., B]`, whether its answer is right.

  Returns:
    `ExpDpoPairs`; none are preferred or rejected where the other is missing.

  Raises:
    AssertionError: shapes differ, or an array is not bool.

  >>> pairs = exp_dpo_pairs(jnp.array([True, False, False]),
  ...   jnp.array([True, False, True]))
  >>> print(pairs.preferred, pairs.rejected)
  [ True False False] [False  True False]

  Reference:
    ExPO (2507.02834), ExP-DPO.
  """
  checks.check_same_shape(explained=explained, correct=correct)
  chex.assert_type((explained, correct), bool)
  good, bad = explained & correct, ~explained & ~correct
  where = good[..., :, None] & bad[..., None, :]
  return ExpDpoPairs(jnp.any(where, -1), jnp.any(where, -2), where)
