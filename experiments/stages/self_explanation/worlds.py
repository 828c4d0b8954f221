# SPDX-License-Identifier: Apache-2.0
"""A question with 32 rationales and 16 answers, of which one is right.

All tables are random; the right answer's logits are shifted alike until the
policy's success is `SUCCESS`. The first rationale is an expert's: it leads to
the right answer, and it is one that the policy would hardly write itself.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxalign.rl import self_explanation

NUM_RATIONALES, NUM_ANSWERS, RIGHT, EXPERT = 32, 16, 0, 0
SUCCESS, EXPERT_SUCCESS = 7.5e-4, 0.9
SPREADS = 1.0, 3.0  # of the logits of rationales and of answers


class Policy(NamedTuple):
  """Two tables of logits.

  Attributes:
    rationales: `[C]`.
    answers: `[C, A]`, given the rationale.
  """

  rationales: jax.Array
  answers: jax.Array


class Laws(NamedTuple):
  """Log-probabilities of a policy.

  Attributes:
    rationales: `[C]`.
    answers: `[C, A]`, given the rationale.
    right: `[C]`, of the right answer given the rationale.
    posterior: `[C]`, of the rationales given the right answer.
    success: scalar, of the right answer.
  """

  rationales: jax.Array
  answers: jax.Array
  right: jax.Array
  posterior: jax.Array
  success: jax.Array


def laws(policy: Policy) -> Laws:
  """All that is asked of a policy."""
  rationales = jax.nn.log_softmax(policy.rationales)
  answers = jax.nn.log_softmax(policy.answers)
  right = answers[:, RIGHT]
  return Laws(
    rationales,
    answers,
    right,
    self_explanation.rationale_posterior(rationales, right),
    jax.nn.logsumexp(rationales + right),
  )


def _expit(x: np.ndarray) -> np.ndarray:
  return 1 / (1 + np.exp(-x))


def questions(
  rng: np.random.Generator, number: int, gaps: Sequence[float]
) -> Policy:
  """Policies at their start, on the host; the tables have axes `[S, gaps]`.

  Args:
    rng: the source of all tables.
    number: S, of questions.
    gaps: nats by which the expert's rationale is below the mean logit.
  """
  shape = number, len(gaps)
  rationales = SPREADS[0] * rng.normal(size=(number, 1, NUM_RATIONALES))
  answers = SPREADS[1] * rng.normal(
    size=(number, 1, NUM_RATIONALES, NUM_ANSWERS)
  )
  rationales = np.broadcast_to(rationales, (*shape, NUM_RATIONALES)).copy()
  answers = np.broadcast_to(
    answers, (*shape, NUM_RATIONALES, NUM_ANSWERS)
  ).copy()
  rationales[..., EXPERT] = -np.array(gaps)
  prior = np.exp(rationales)
  prior /= prior.sum(-1, keepdims=True)
  others = np.log(np.exp(answers[..., RIGHT + 1 :]).sum(-1))
  odds = answers[..., RIGHT] - others
  low, high = np.full(shape, -60.0), np.full(shape, 60.0)
  for _ in range(100):
    middle = (low + high) / 2
    chance = _expit(odds + middle[..., None])
    chance[..., EXPERT] = EXPERT_SUCCESS
    above = (prior * chance).sum(-1) > SUCCESS
    low, high = np.where(above, low, middle), np.where(above, middle, high)
  answers[..., RIGHT] += low[..., None]
  answers[..., EXPERT, RIGHT] = others[..., EXPERT] + np.log(
    EXPERT_SUCCESS / (1 - EXPERT_SUCCESS)
  )
  return Policy(rationales, answers)
