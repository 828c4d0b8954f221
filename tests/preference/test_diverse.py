# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import preference
from tests import helpers
from tests.preference import golden

RNG = np.random.default_rng(0)


def deviations(x):
  """Of one group `[N, D]`, by a loop, before and after stretching."""
  n = len(x)
  raw = np.zeros(n)
  for i in range(n):
    for j in range(n):
      if i != j:
        norms = np.linalg.norm(x[i]) * np.linalg.norm(x[j])
        raw[i] += (1 - x[i] @ x[j] / norms) / (n - 1)
  return (raw - raw.min()) / (raw.max() - raw.min())


def test_deviation_weights_of_a_loop():
  meaning, style = RNG.normal(size=(2, 5, 3)), RNG.normal(size=(2, 5, 7))
  both = preference.deviation_weights(meaning, style)
  one = preference.deviation_weights(meaning)
  for i in range(2):
    d = deviations(meaning[i])
    helpers.assert_close(one[i], d / d.mean())
    d = np.sqrt(d * deviations(style[i]))
    helpers.assert_close(both[i], d / d.mean())
  helpers.assert_close(np.mean(both, -1), np.ones(2))
  assert np.all(np.min(one, -1) == 0)
  # Only directions count.
  scaled = meaning * RNG.uniform(1, 9, size=(2, 5, 1))
  helpers.assert_close(preference.deviation_weights(scaled), one)


def test_equal_deviations_weigh_alike():
  """Rounding between equal deviations is not stretched."""
  angles = 2 * np.pi * np.arange(7) / 7 + 0.1
  circle = np.stack([np.cos(angles), np.sin(angles)], -1)
  for group in (circle, RNG.normal(size=(2, 3)), np.ones((1, 3)), 0 * circle):
    for dtype in (np.float32, np.float64):
      weights = preference.deviation_weights(group.astype(dtype))
      np.testing.assert_array_equal(weights, np.ones(len(group)))
      assert weights.dtype == dtype


def test_ddpo_by_hand_and_without_weight():
  weights = np.array([2.5, 0.0])
  out = preference.ddpo_loss(golden.PAIRS, weights)
  dpo = preference.dpo_loss(golden.PAIRS)
  helpers.assert_close(out.loss, weights * dpo.loss)
  helpers.assert_close(out.chosen_reward[0], dpo.chosen_reward[0])

  def total(policy):
    pairs = golden.PAIRS._replace(policy_chosen=policy)
    return preference.ddpo_loss(pairs, weights).loss.sum()

  for value in (np.nan, -np.inf):
    policy = np.array([-12.0, value])
    value, gradient = jax.value_and_grad(total)(policy)
    helpers.assert_close(value, 2.5 * dpo.loss[0])
    assert np.isfinite(gradient[0]) and gradient[1] == 0


def test_ddpo_learns_weighted_rewards():
  n, beta = 5, 0.7
  rewards, log_ref = RNG.normal(size=n), np.log(RNG.dirichlet(np.ones(n)))
  sampling, weights = RNG.dirichlet(np.ones(n)), RNG.uniform(0.1, 3, size=n)
  drawn = preference.pair_weights(rewards, sampling)
  of_chosen = np.broadcast_to(weights[:, None], (n, n))

  def loss(logps):
    return preference.ddpo_loss(logps, of_chosen, beta=beta)

  found = preference.minimize_population(
    lambda x: preference.population_loss(
      loss, jax.nn.log_softmax(x), log_ref, drawn
    ),
    np.zeros(n),
  )
  expected = jax.nn.softmax(log_ref + (rewards + np.log(weights)) / beta)
  helpers.assert_close(jax.nn.softmax(found.x), expected, rtol=0, atol=1e-13)


# --- DivPO -------------------------------------------------------------------


def select_by_loop(rewards, diversity, size):
  order = sorted(range(len(rewards)), key=lambda i: -rewards[i])
  good, bad = order[:size], order[-size:]
  return (
    max(good, key=lambda i: diversity[i]),
    min(bad, key=lambda i: diversity[i]),
  )


@pytest.mark.parametrize(
  ("share", "size"), [(0.01, 1), (0.3, 3), (0.39, 3), (0.5, 5)]
)
def test_divpo_selects_from_both_ends(share, size):
  rewards, diversity = RNG.normal(size=(2, 20, 10))
  found = preference.divpo_select(rewards, diversity, share=share)
  for i in range(20):
    expected = select_by_loop(rewards[i], diversity[i], size)
    assert (found.chosen[i], found.rejected[i]) == expected


def test_divpo_of_equal_diversity_is_best_against_worst():
  rewards = RNG.normal(size=(20, 6))
  found = preference.divpo_select(rewards, np.zeros((20, 6)), share=0.5)
  np.testing.assert_array_equal(found.chosen, rewards.argmax(-1))
  np.testing.assert_array_equal(found.rejected, rewards.argmin(-1))
  # All equal: still two completions.
  for n in (2, 5):
    chosen, rejected = preference.divpo_select(np.zeros(n), np.zeros(n))
    assert chosen == 0 and rejected == n - 1


def test_gradients_and_transforms():
  args = [np.stack([x, x[::-1]]) for x in golden.PAIRS[:4]]
  weights, x = np.array([[1.5, 0.0], [0.2, 2.0]]), RNG.normal(size=(2, 2, 4, 3))
  rewards = RNG.normal(size=(2, 4))

  def everything(logps, weights, x, rewards):
    return (
      preference.ddpo_loss(preference.PairLogps(*logps), weights),
      preference.deviation_weights(x[0], x[1]),
      preference.divpo_select(rewards, -rewards, share=0.5),
    )

  helpers.assert_transforms(everything, np.stack(args, 1), weights, x, rewards)

  def loss(chosen, rejected):
    pairs = golden.PAIRS._replace(
      policy_chosen=chosen, policy_rejected=rejected
    )
    return preference.ddpo_loss(pairs, np.array([1.5, 0.5])).loss.sum()

  helpers.assert_gradient(loss, *golden.PAIRS[:2])
  constant = jax.grad(lambda x: preference.deviation_weights(x)[0])(x[0, 0])
  assert not np.any(constant)


def test_bad_input():
  with pytest.raises(ValueError, match="at least one embedding"):
    preference.deviation_weights()
  with pytest.raises(AssertionError, match=r"embeddings\[1\]"):
    preference.deviation_weights(np.zeros((3, 2)), np.zeros((4, 2)))
  with pytest.raises(AssertionError, match=r"weights \(1,\)"):
    preference.ddpo_loss(golden.PAIRS, np.ones(1))
  with pytest.raises(ValueError, match="ddpo|dpo needs"):
    preference.ddpo_loss(preference.PairLogps(*golden.PAIRS[:2]), np.ones(2))
  with pytest.raises(ValueError, match=r"share must be in \(0, 0.5\], was 0.6"):
    preference.divpo_select(np.zeros(4), np.zeros(4), share=0.6)
  with pytest.raises(ValueError, match="at least two completions, was 1"):
    preference.divpo_select(np.zeros(1), np.zeros(1))
  with pytest.raises(AssertionError, match=r"diversity \(3,\)"):
    preference.divpo_select(np.zeros(4), np.zeros(3))
  with pytest.raises(AssertionError, match="need floats"):
    preference.divpo_select(jnp.arange(4), jnp.arange(4))
