# SPDX-License-Identifier: Apache-2.0
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import token_shifts as experiment
from experiments.stages.token_shifts import (
  cross_sampling,
  weighted_advantages,
  worlds,
)
from jaxalign.exact import sequences
from jaxalign.rl import cross_sampling as library
from tests.experiments import conventions


def failed(part):
  """Names of the claims of a part, compiled anew, that do not hold."""
  jax.clear_caches()
  names = conventions.failed(part(worlds.bases(range(1))).claims)
  jax.clear_caches()
  return names


def test_claims_reproduce():
  conventions.assert_reproduces(experiment)


def test_printed_values():
  """The first of the bases, whatever the preset."""
  curves = conventions.smoke(experiment).curves
  conventions.assert_printed(curves["swap/base"][0], ".087")
  conventions.assert_printed(curves["swap/tuned"][0], ".9995")
  printed = (".025", ".039", ".366", ".002", ".007", ".114")
  for found, text in zip(curves["swap/divergence"][0], printed, strict=True):
    conventions.assert_printed(found, text)
  at = cross_sampling.THRESHOLDS.index(cross_sampling.EPS)

  def swap(way, key):
    return curves[f"swap/{way}/{key}"][0, at]

  conventions.assert_printed(swap("forward", "reward"), ".9987")
  conventions.assert_printed(swap("forward", "share"), ".33")
  # The sheet has .297, of some draws; this is their expectation.
  conventions.assert_printed(swap("forward", "random"), ".305")
  conventions.assert_printed(swap("backward", "reward"), ".147")
  conventions.assert_printed(swap("backward", "share"), ".23")


def test_another_seed_gives_other_bases():
  first, other = (np.asarray(worlds.bases(range(i, i + 1))) for i in (0, 1))
  assert not np.array_equal(first, other)
  np.testing.assert_array_equal(first, worlds.bases(range(1)))


def test_the_world_is_what_it_says():
  tokens = np.array(list(itertools.product(range(3), repeat=6)))
  np.testing.assert_array_equal(tokens, worlds.TOKENS)
  np.testing.assert_array_equal(tokens, sequences.enumerate_sequences(3, 6))
  right = [(y[0] + y[1]) % 3 == y[2] and y[5] == y[3] for y in tokens.tolist()]
  np.testing.assert_array_equal(worlds.rewards(), np.array(right, float))
  # Of the key 1 in float64, prefixes level by level.
  (base,) = worlds.bases(range(1))
  drawn = 0.7 * jax.random.normal(jax.random.key(1), (364, 3))
  np.testing.assert_array_equal(base, drawn)


def test_sampling_crosses_as_the_exact_law_does():
  """Token by token, with a choice at every prefix."""
  (base,) = worlds.bases(range(1))

  @jax.jit
  def policies(base):
    tuned = worlds.tuned(base)
    laws = jax.nn.softmax(jnp.stack([base, tuned]))
    return laws, library.token_divergence(base, tuned)

  laws, divergence = map(np.asarray, policies(base))
  rng = np.random.default_rng(0)
  number = 20_000
  row = np.zeros(number, int)
  drawn = []
  for _ in range(worlds.T):
    use = divergence[row] > cross_sampling.EPS
    law = np.where(use[:, None], laws[1][row], laws[0][row])
    token = (rng.random((number, 1)) > law.cumsum(1)).sum(1)
    drawn.append(token)
    row = 3 * row + 1 + token
  tokens = np.stack(drawn, 1)
  reward = np.asarray(worlds.rewards())[tokens @ 3 ** np.arange(6)[::-1]]
  curves = conventions.smoke(experiment).curves
  at = cross_sampling.THRESHOLDS.index(cross_sampling.EPS)
  exact = curves["swap/forward/reward"][0, at]
  error = np.sqrt(exact * (1 - exact) / number)
  assert abs(reward.mean() - exact) < 5 * error


# --- wrong versions ----------------------------------------------------------


def test_a_divergence_turned_round_fails(monkeypatch):
  original = library.token_divergence
  monkeypatch.setattr(
    library,
    "token_divergence",
    lambda p, q, **options: 0.2 - original(p, q, **options),
  )
  assert failed(cross_sampling.cross_samples) >= {
    "decisive_positions",
    "forward",
    "forward_recovers",
    "backward",
  }


def test_a_threshold_that_is_not_looked_at_fails(monkeypatch):
  original = library.cross_sample_log_probs
  monkeypatch.setattr(
    library,
    "cross_sample_log_probs",
    lambda p, q, eps, **options: original(p, q, -1.0, **options),
  )
  assert failed(cross_sampling.cross_samples) == {"ends"}


def test_a_policy_of_another_strength_fails(monkeypatch):
  monkeypatch.setattr(
    worlds,
    "tuned",
    lambda base: sequences.regularized_table(base, worlds.rewards(), 0.11),
  )
  assert failed(cross_sampling.cross_samples) == {"optimum"}


def test_weights_that_are_not_centred_fail(monkeypatch):
  monkeypatch.setattr(
    library,
    "divergence_weights",
    lambda kl, alpha, s: 1 + s * jax.nn.sigmoid(alpha * jnp.asarray(kl)),
  )
  assert failed(weighted_advantages.weighted_advantages) == {
    "weights_bounds",
    "weights_signs",
  }
