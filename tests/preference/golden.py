# SPDX-License-Identifier: Apache-2.0
"""Two pairs whose losses are known to six digits, for all preference tests."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import preference
from tests import helpers

PAIRS = preference.PairLogps(
  policy_chosen=np.array([-12.0, -30.5]),
  policy_rejected=np.array([-14.2, -25.0]),
  ref_chosen=np.array([-13.5, -28.0]),
  ref_rejected=np.array([-12.9, -26.2]),
  chosen_length=np.array([5.0, 12.0]),
  rejected_length=np.array([6.0, 9.0]),
)


def assert_golden(loss, expected):
  """The losses `[2]` are the printed ones, to half a unit of the last digit."""
  np.testing.assert_allclose(loss, expected, rtol=0, atol=5.0001e-7)


# The same two pairs, and in the other order, for functions of one batch.
TWO_BATCHES = tuple(np.stack([x, x[::-1]]) for x in PAIRS)

# Six outcomes with rewards, a reference and a law of sampling.
_RNG = np.random.default_rng(3)
REWARDS, LOG_REF = _RNG.normal(size=6), np.log(_RNG.dirichlet(np.ones(6)))
SAMPLING = _RNG.dirichlet(np.ones(6))
with jax.enable_x64(True):  # the setting of tests, which starts later
  WEIGHTS = np.asarray(preference.pair_weights(REWARDS, SAMPLING))


def minimisers(losses, *, normalised=True):
  """Scores `[n, 6]` at which losses are least in expectation, in one program.

  Args:
    losses: pairs of a loss and the weights `[6, 6]` of its pairs.
    normalised: whether scores are log-probabilities, or free with reference 0.
  """

  def total(x):
    value = 0.0
    for (loss, weights), row in zip(losses, x.reshape(-1, 6), strict=True):
      score = jax.nn.log_softmax(row) if normalised else row
      ref = LOG_REF if normalised else np.zeros(6)
      value += preference.population_loss(loss, score, ref, weights)
    return value

  found = preference.minimize_population(total, np.zeros(6 * len(losses)))
  assert found.gradient < 1e-12  # a score that goes to -inf leaves 1e-13
  scores = found.x.reshape(-1, 6)
  return jax.nn.log_softmax(scores) if normalised else scores


def assert_three_kinds(losses):
  """Gradient and invariance of losses of `PairLogps`, all in one program."""

  def fn(*fields):
    return [loss(preference.PairLogps(*fields)).loss for loss in losses]

  def weighted(chosen, rejected):
    # Weights that no error of one loss shares with another.
    total = 0.0
    for i, loss in enumerate(fn(chosen, rejected, *PAIRS[2:])):
      total += jnp.sum(jnp.cos(i + jnp.arange(2.0)) * loss)
    return total

  helpers.assert_transforms(fn, *TWO_BATCHES)
  helpers.assert_gradient(weighted, PAIRS[0], PAIRS[1])
